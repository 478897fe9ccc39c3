"""The gate lets no auxiliary gradient harm the primary objective."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from balancing import create_balancer
from tests.balancing.formulas import CONFLICT, gramian_weights, random_rows, rows


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 8), st.integers(0, 10_000), st.sampled_from(["cosine", "sign"]))
def test_the_gate_equals_its_formula_and_harms_no_primary_objective(size, seed, form):
    j = random_rows(size, seed, shift=0.0)
    w = gramian_weights("cosine_gate", j, form=form)
    cosines = torch.nn.functional.cosine_similarity(j, j[:1]).clamp(min=0)
    torch.testing.assert_close(w[1:], (cosines if form == "cosine" else (cosines > 0).double())[1:])
    assert w[0] == 1
    assert (w @ j) @ j[0] >= (1 - 1e-12) * j[0].square().sum()


def test_any_objective_can_be_the_primary_one():
    assert gramian_weights("cosine_gate", CONFLICT).tolist() == [1, 0]
    assert gramian_weights("cosine_gate", CONFLICT, primary="1").tolist() == [0, 1]


@pytest.mark.parametrize("primary", ["1", "0"])
def test_a_zero_gradient_opens_no_gate(primary):
    j = rows("zero_row", 3)  # the second is zero
    w = gramian_weights("cosine_gate", j, primary=primary, form="sign")
    assert w[1] == (1 if primary == "1" else 0)
    assert w[0] == (0 if primary == "1" else 1)


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="cosine_gate: unknown objective 'c'"):
        create_balancer("cosine_gate", ("a", "b"), primary="c")
