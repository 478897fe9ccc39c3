"""GradDrop equals its formula, coordinate by coordinate."""

import pytest
import torch

from balancing import GradDrop, create_balancer
from tests.balancing.formulas import CONFLICT, names, next_update, ones, rows


def test_known_case_of_graddrop():
    assert next_update(create_balancer("graddrop", ("a", "b")), ones(2), CONFLICT).tolist() == [6, 2, 2]


def uniform(size, seed):
    """The numbers between 0 and 1 that GradDrop compares with its probabilities, from the 64-bit numbers that it draws."""
    generator = torch.Generator().manual_seed(seed)
    bits = torch.empty((size + 3) // 4, dtype=torch.int64).random_(-(2**63), None, generator=generator)
    return ((bits.view(torch.int16)[:size].double() / 2).floor() * 2 + 1) / 2**16 + 0.5


def test_graddrop_equals_the_formula():
    j = rows("random", 4)
    j[:, 3] = 0
    leak = torch.tensor([0.0, 0.3, 1, 0], dtype=torch.float64)
    balancer = create_balancer("graddrop", names(4), leak={"1": 0.3, "2": 1.0}, seed=3)
    draw = uniform(j.shape[1], seed=3)
    purity = 0.5 * (1 + j.sum(0) / j.abs().sum(0))
    masks = (purity > draw) * (j > 0) + (purity < draw) * (j < 0)
    wanted = ((leak[:, None] + (1 - leak[:, None]) * masks) * j).sum(0)
    update = next_update(balancer, ones(4), j)
    torch.testing.assert_close(update, wanted)
    assert update[3] == 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_probabilities_are_right_to_a_sixteenth_bit(dtype, monkeypatch):
    """Every possible draw once: the share of those that keep the positive gradient is its probability."""
    draws = torch.arange(-(2**15) + 1, 2**15, 2)
    monkeypatch.setattr(GradDrop, "_draws", lambda self, size: draws)
    for positive, negative in (
        (1.0, 3.0),
        (2.0, 1.0),
        (1.0, 1e-30),
        (1e-4, 1.0),
        (1.0, 0.0),
        (0.0, 1.0),
        (1e-20, 1e-19),
    ):
        j = torch.tensor([[positive], [-negative]], dtype=torch.float64).to(dtype)
        update = next_update(create_balancer("graddrop", ("a", "b")), ones(2), j.expand(2, len(draws)))
        positive, negative = j[0].double(), -j[1].double()
        assert abs((update > 0).double().mean() - positive / (positive + negative)) <= 2**-16
        kept = torch.where(update > 0, positive, -negative)
        assert torch.equal(update.double(), kept)  # not a rounded sum
        if negative == 0 or positive == 0:
            assert torch.equal(update.double(), (positive - negative).expand(len(draws)))


def test_draws_are_equally_likely_and_independent_of_the_pieces(monkeypatch):
    bits = create_balancer("graddrop", ("a", "b"))._draws(1 << 18).float()
    assert int(bits.abs().max()) == 2**15 - 1
    assert bool((bits % 2).all())
    counts = torch.bincount(((bits + 2**15) // 2**11).long(), minlength=32).double()
    assert float(((counts - 2**13).square() / 2**13).sum()) < 70  # 31 degrees of freedom: 1 in 10,000
    leaves = [torch.zeros(shape, requires_grad=True) for shape in ((7,), (5, 3), (2,), (301,))]

    def step():
        for leaf in leaves:
            leaf.grad = None
        values = torch.cat([leaf.view(-1) for leaf in leaves])
        generator = torch.Generator().manual_seed(1)
        losses = {name: values @ torch.randn(len(values), generator=generator) for name in "ab"}
        create_balancer("graddrop", ("a", "b"), seed=5).backward(losses)
        return torch.cat([leaf.grad.view(-1) for leaf in leaves])

    whole = step()
    for piece in (4, 8, 64):
        monkeypatch.setattr("balancing.measuring.pieces.PIECE", piece)
        assert torch.equal(step(), whole)


def test_graddrop_keeps_the_sum_where_signs_agree_and_its_mean_elsewhere():
    j = torch.cat([rows("random", 3).abs(), rows("random", 3)], dim=1)
    balancer = create_balancer("graddrop", ("a", "b", "c"))
    updates = torch.stack([next_update(balancer, ones(3), j) for _ in range(4000)])
    torch.testing.assert_close(updates[:, :9], j.sum(0)[:9].expand(4000, 9))
    positive, negative = j.clamp(min=0).sum(0), -j.clamp(max=0).sum(0)
    wanted = (positive**2 - negative**2) / (positive + negative)
    torch.testing.assert_close(updates.mean(0), wanted, rtol=0, atol=0.15)


@pytest.mark.parametrize("seed", range(3))
def test_agreement_with_torchjd(seed, monkeypatch):
    aggregation = pytest.importorskip("torchjd").aggregation
    j = rows("random", 5, seed).float()
    monkeypatch.setattr(torch, "rand", lambda *_, **__: uniform(j.shape[1], seed).float())
    leak = {"1": 0.3, "4": 1.0}
    wanted = aggregation.GradDrop(leak=torch.tensor([0, 0.3, 0, 0, 1.0]))(j)
    balancer = create_balancer("graddrop", names(5), seed=seed, leak=leak)
    torch.testing.assert_close(next_update(balancer, ones(5), j), wanted)


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="graddrop: leak must be between 0 and 1"):
        create_balancer("graddrop", ("a", "b"), leak={"a": 1.5})
