"""UPGrad: known values, closed form, linearity and torchjd."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.balancing.formulas import CONFLICT, check_projection_of_torchjd, gramian_weights, random_rows, two_rows


def test_known_values():
    assert gramian_weights("upgrad", CONFLICT).tolist() == pytest.approx([10 / 9, 15 / 19], abs=1.2e-6)


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 8), st.integers(0, 10_000), st.floats(-4, 4))
def test_upgrad_is_linear_in_the_length_of_each_gradient(size, seed, exponent):
    j = random_rows(size, seed, shift=0.0)
    unit = torch.eye(size, dtype=torch.float64)
    scale = torch.ones(size, dtype=torch.float64)
    scale[0] = 10**exponent
    base, first = (
        gramian_weights("upgrad", j) @ j,
        gramian_weights("upgrad", (1e-8 * (1 - unit[0]) + unit[0])[:, None] * j),
    )
    first = first @ ((1e-8 * (1 - unit[0]) + unit[0])[:, None] * j)  # what g_0 contributes, nearly alone
    changed = gramian_weights("upgrad", scale[:, None] * j) @ (scale[:, None] * j)
    error = changed - base - (scale[0] - 1) * first
    assert error.norm() <= 1e-6 * (1 + scale[0]) * j.norm()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.floats(-5, 5))
def test_two_objectives_have_closed_forms(seed, exponent):
    j, aa, ab, bb = two_rows(seed, exponent)
    first, second = max(-ab / aa, 0.0), max(-ab / bb, 0.0)
    assert gramian_weights("upgrad", j).tolist() == pytest.approx([(1 + first) / 2, (1 + second) / 2], rel=1e-9)


def test_agreement_with_torchjd():
    check_projection_of_torchjd("upgrad", "UPGrad")
