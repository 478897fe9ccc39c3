"""DualProj: known values, closed form and torchjd."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.balancing.formulas import CONFLICT, check_projection_of_torchjd, gramian_weights, two_rows


def test_known_values():
    assert gramian_weights("dualproj", CONFLICT).tolist() == pytest.approx([11 / 18, 0.5], abs=1.2e-6)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.floats(-5, 5))
def test_two_objectives_have_closed_forms(seed, exponent):
    j, aa, ab, bb = two_rows(seed, exponent)
    first, second = max(-ab / aa, 0.0), max(-ab / bb, 0.0)
    projected = [max(first / 2, 0.5), max(second / 2, 0.5)]
    if ab < 0:  # at most one of the two is short enough to be overruled
        assert gramian_weights("dualproj", j).tolist() == pytest.approx(projected, rel=1e-9)


def test_agreement_with_torchjd():
    check_projection_of_torchjd("dualproj", "DualProj")
