"""GradDrop equals its formula, coordinate by coordinate."""

import pytest
import torch

from balancing import create_balancer
from tests.balancing.formulas import CONFLICT, names, next_update, ones, rows


def test_known_case_of_graddrop():
    assert next_update(create_balancer("graddrop", ("a", "b")), ones(2), CONFLICT).tolist() == [-4, 2, 2]


def test_graddrop_equals_the_formula():
    j = rows("random", 4)
    j[:, 3] = 0
    leak = torch.tensor([0.0, 0.3, 1, 0], dtype=torch.float64)
    balancer = create_balancer("graddrop", names(4), leak={"1": 0.3, "2": 1.0}, seed=3)
    draw = torch.rand(j.shape[1], generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    purity = 0.5 * (1 + j.sum(0) / j.abs().sum(0))
    masks = (purity > draw) * (j > 0) + (purity < draw) * (j < 0)
    wanted = ((leak[:, None] + (1 - leak[:, None]) * masks) * j).sum(0)
    update = next_update(balancer, ones(4), j)
    torch.testing.assert_close(update, wanted)
    assert update[3] == 0


def test_graddrop_keeps_the_sum_where_signs_agree_and_its_mean_elsewhere():
    j = torch.cat([rows("random", 3).abs(), rows("random", 3)], dim=1)
    balancer = create_balancer("graddrop", ("a", "b", "c"))
    updates = torch.stack([next_update(balancer, ones(3), j) for _ in range(4000)])
    torch.testing.assert_close(updates[:, :9], j.sum(0)[:9].expand(4000, 9))
    positive, negative = j.clamp(min=0).sum(0), -j.clamp(max=0).sum(0)
    wanted = (positive**2 - negative**2) / (positive + negative)
    torch.testing.assert_close(updates.mean(0), wanted, rtol=0, atol=0.15)


@pytest.mark.parametrize("seed", range(3))
def test_agreement_with_torchjd(seed):
    aggregation = pytest.importorskip("torchjd").aggregation
    j = rows("random", 5, seed).float()
    torch.manual_seed(seed)
    leak = {"1": 0.3, "4": 1.0}
    wanted = aggregation.GradDrop(leak=torch.tensor([0, 0.3, 0, 0, 1.0]))(j)
    balancer = create_balancer("graddrop", names(5), seed=seed, leak=leak)
    torch.testing.assert_close(next_update(balancer, ones(5), j), wanted)


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="graddrop: leak must be between 0 and 1"):
        create_balancer("graddrop", ("a", "b"), leak={"a": 1.5})
