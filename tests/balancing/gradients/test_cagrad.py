"""CAGrad stays in its ball and improves the worst progress."""

import pytest
import torch

from balancing import create_balancer
from tests.balancing.formulas import CONFLICT, gramian_weights, names, random_rows


@pytest.mark.parametrize(
    ("options", "wanted"), [({"rescale": "none"}, [0.663299, 0.5]), ({"rescale": "none", "c": 0.5}, [0.704124, 0.5])]
)
def test_known_values(options, wanted):
    assert gramian_weights("cagrad", CONFLICT, **options).tolist() == pytest.approx(wanted, abs=1.2e-6)


def test_cagrad_stays_in_its_ball_and_never_does_worse_than_the_mean():
    for seed in range(20):
        j = random_rows(5, seed, shift=0.0)
        d, mean = gramian_weights("cagrad", j, rescale="none") @ j, j.mean(0)
        assert (d - mean).norm() <= 0.4 * mean.norm() * (1 + 1e-9)
        assert (j @ d).min() >= (j @ mean).min() - 1e-12


def test_cagrad_rescales_by_name():
    plain = gramian_weights("cagrad", CONFLICT, rescale="none")
    torch.testing.assert_close(gramian_weights("cagrad", CONFLICT), plain / 1.16)
    torch.testing.assert_close(gramian_weights("cagrad", CONFLICT, rescale="linear"), plain / 1.4)
    assert gramian_weights("cagrad", CONFLICT, c=0.0).tolist() == pytest.approx([0.5, 0.5])


def test_cagrad_with_gradients_in_balance_goes_on_where_it_can():
    j = torch.tensor([[1.0, 0], [-1, 0], [0, 3]], dtype=torch.float64)
    torch.testing.assert_close(
        gramian_weights("cagrad", j, rescale="none") @ j, torch.tensor([0.0, 1.0], dtype=torch.float64)
    )


def test_cagrad_agrees_with_torchjd_as_far_as_its_solver_goes():
    aggregation = pytest.importorskip("torchjd.aggregation")
    try:
        theirs = aggregation.CAGrad(c=0.4)
    except ImportError:
        pytest.skip("torchjd's CAGrad has no solver here")
    for size in (2, 3, 5, 10):
        for seed in range(3):
            j = random_rows(size, seed, shift=0.0)
            d, wanted = gramian_weights("cagrad", j, rescale="none") @ j, theirs(j)
            assert (d - wanted).norm() <= 1e-3 * d.norm()
            assert (j @ d).min() >= (j @ wanted).min() - 1e-9 * d.norm() * j.norm()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"c": -0.1}, "cagrad: c must not be negative"),
        ({"rescale": "sum"}, "cagrad: rescale must be square, linear or none"),
    ],
)
def test_wrong_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        create_balancer("cagrad", names(2), **options)
