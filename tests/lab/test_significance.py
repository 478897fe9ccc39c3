"""Pairs, their p-values, and Holm's correction, against values by hand and from tables."""

import math
import statistics

import pytest

from lab.significance import against, holm, paired, threshold
from mozoo.comparison.estimates import student_share, student_t


@pytest.mark.parametrize(
    ("t", "freedom", "share"), [(12.7062, 1, 0.95), (2.7764, 4, 0.95), (4.6041, 4, 0.99), (2.2622, 9, 0.95)]
)
def test_shares_of_students_distribution_are_those_of_tables(t, freedom, share):
    assert student_share(t, freedom) == pytest.approx(share, abs=1e-5)
    assert student_t(freedom, share) == pytest.approx(t, rel=1e-4)


def test_differences_are_paired_by_seed():
    # both spread over tens, and differ by 1, 2 and 3: mean 2, deviation 1, t = 2 sqrt(3) with two degrees of freedom
    found = paired([11.0, 32.0, 53.0], [10.0, 30.0, 50.0])
    assert found.mean.mean == pytest.approx(2.0)
    assert found.mean.half == pytest.approx(4.3027 / math.sqrt(3), rel=1e-4)
    t = 2 * math.sqrt(3)
    assert found.p == pytest.approx(1 - t / math.sqrt(2 + t * t), rel=1e-9)  # closed form for two degrees of freedom
    assert paired([10.0, 30.0, 50.0], [11.0, 32.0, 53.0]).p == pytest.approx(found.p)


def test_pairs_without_spread_and_wrong_ones():
    assert paired([1.0, 2.0], [1.0, 2.0]).p == 1.0
    assert paired([2.0, 3.0], [1.0, 2.0]).p == 0.0
    for one, other in (([1.0], [1.0]), ([1.0, 2.0], [1.0, 2.0, 3.0])):
        with pytest.raises(ValueError, match="same two or more seeds"):
            paired(one, other)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_side_with_a_diverged_run_is_the_larger_one(bad):
    fine, broken, other = [1.0, 2.0], [bad, 1.5], [1.5, bad]
    assert (paired(broken, fine).mean.mean, paired(broken, fine).p) == (math.inf, 0.0)
    assert (paired(fine, broken).mean.mean, paired(fine, broken).p) == (-math.inf, 0.0)
    assert paired(broken, other).p == 1.0
    assert against(broken, {"fine": fine, "other": other}) == (["fine"], ["other"], [])


def test_holm_multiplies_the_smallest_most():
    # 4 * 0.01, 3 * 0.02, 2 * 0.03 and 1 * 0.04 raised to the one before
    adjusted = holm({"d": 0.04, "b": 0.02, "a": 0.01, "c": 0.03})
    assert adjusted == pytest.approx({"d": 0.06, "b": 0.06, "a": 0.04, "c": 0.06})
    assert list(adjusted) == ["d", "b", "a", "c"]
    assert holm({"a": 0.6, "b": 0.4}) == pytest.approx({"a": 0.8, "b": 0.8})
    assert holm({"a": 0.9, "b": 0.9}) == {"a": 1.0, "b": 1.0}
    assert holm({}) == {}


def test_groups_follow_from_corrected_differences():
    rival = [10.0, 20.0, 30.0]
    groups = against(
        rival,
        {
            "better": [9.0, 19.001, 28.999],
            "maybe": [9.7, 18.5, 29.6],  # p = 0.17
            "worse": [15.0, 25.01, 35.02],
            "diverged": [math.nan, 1.0, 1.0],
        },
    )
    assert groups == (["better"], ["maybe"], ["worse", "diverged"])
    close = {"one": [9.0, 18.9, 28.7]}  # mean -1.13, p = 0.006: significant alone, not among twenty
    assert against(rival, close)[0] == ["one"]
    assert against(rival, close | {f"same {i}": list(rival) for i in range(19)})[0] == []


@pytest.mark.parametrize(("seeds", "comparisons"), [(3, 16), (5, 16), (5, 1)])
def test_the_clearest_difference_is_significant_just_above_the_threshold(seeds, comparisons):
    deviations = [float(k) for k in range(seeds)]
    center, error = statistics.fmean(deviations), statistics.stdev(deviations) / math.sqrt(seeds)

    def groups(errors):
        clearest = [value - center + errors * error for value in deviations]
        unclear = {f"unclear {k}": [value - center for value in deviations] for k in range(comparisons - 1)}
        return against([0.0] * seeds, {"clearest": clearest, **unclear})

    needed = threshold(seeds, comparisons)
    assert groups(1.001 * needed)[2] == ["clearest"]
    assert groups(-1.001 * needed)[0] == ["clearest"]
    assert groups(0.999 * needed) == ([], ["clearest", *(f"unclear {k}" for k in range(comparisons - 1))], [])
