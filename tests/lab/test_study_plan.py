"""Which runs a study asks for, and what it chooses, with results that follow from a formula."""

import math

import pytest

from lab.studies import STUDIES, Study, static, values
from lab.study_plan import FINALISTS, Plan

STUDY = Study(
    "tiny",
    (),
    ("cut", "price"),
    {"cut accuracy": ("test/cut/accuracy", 4), "price error, USD": ("test/price/mae_usd", 1)},
    prior={"cut": 2.0, "price": 1e6},
    rates=(0.01, 0.1, 1.0),
    seeds=(0, 1),
    methods=("sum", "mgda"),
)
BEST_RATE = {"sum": 0.1, "mgda": 10.0, "only cut": 0.1, "only price": 0.001}


def errors(best_ratio, absent=lambda trial: False, diverged=(), plain=0.1):
    """Rows whose error grows with the distances from the best ratio of weights and from the best rate, in decades.

    That of ``sum`` is larger by ``plain``.
    """

    def row(trial):
        if absent(trial):
            return None
        if trial.label in diverged:
            return {"val cut accuracy": "nan", "val price error, USD": "nan", "val score": "nan"}
        error = 100 + abs(math.log10(trial.rate / BEST_RATE.get(trial.label, 0.1))) + 0.01 * trial.seed
        error += plain * (trial.label == "sum")
        if trial.label.startswith("static "):
            one, other = values(trial.label)
            error += abs(math.log10(one / other) - best_ratio)
        return {"val cut accuracy": "0.5", "val price error, USD": str(error), "val score": str(error)}

    return row


@pytest.fixture(autouse=True)
def study(monkeypatch):
    monkeypatch.setitem(STUDIES, "tiny", STUDY)


def tried(plan, label):
    return [trial.rate for trial in plan.needed if trial.label == label and trial.seed == 0]


def test_grids_of_rates_grow_until_the_best_is_inside_or_the_limit_is_reached():
    plan = Plan("tiny", STUDY, errors(0.0))
    assert not plan.missing
    assert tried(plan, "sum") == [0.01, 0.1, 1.0]
    assert tried(plan, "mgda") == [0.01, 0.1, 1.0, 10.0, 100.0]
    assert tried(plan, "only price") == [0.01, 0.1, 1.0, 0.001, 0.0001]
    assert {label: plan.rates[label] for label in BEST_RATE} == BEST_RATE
    assert all(plan.rate_is_inside(label) for label in BEST_RATE)
    assert plan.budget("sum") == 3 + 1
    assert plan.budget("mgda") == 5 + 1


def test_a_best_point_inside_needs_no_extension():
    plan = Plan("tiny", STUDY, errors(0.5))
    assert math.log10(values(plan.tuned)[0] / values(plan.tuned)[1]) == pytest.approx(0.5, abs=1e-3)
    assert plan.inside
    assert len(plan.points) == 9
    assert len(plan.finalists) == FINALISTS
    assert tried(plan, static((0.0198, 1.98))) == [0.1]  # not among the best
    assert plan.budget(plan.tuned) == 9 + FINALISTS * (2 + 1)  # of which the middle is one


def test_the_plain_sum_is_the_rival_where_validation_finds_it_better():
    worse, better = (Plan("tiny", STUDY, errors(0.5, plain=plain)) for plain in (0.1, -0.1))
    assert worse.tuned == better.tuned == worse.rival
    assert better.rival == "sum"
    assert Plan("tiny", STUDY, errors(0.5, absent=lambda trial: trial.label == "sum" and trial.seed)).rival is None
    assert Plan("tiny", Study(**{**vars(STUDY), "swept": False}), errors(0.0)).rival == "sum"


def test_a_best_point_at_an_end_extends_the_grid():
    plan = Plan("tiny", STUDY, errors(3.0))
    assert math.log10(values(plan.tuned)[0] / values(plan.tuned)[1]) == pytest.approx(3.0, abs=1e-2)
    assert plan.inside
    assert len(plan.points) == 12  # 2.5, 3 and 3.5 decades


def test_an_added_point_is_judged_with_all_rates_and_seeds():
    """Beyond the end it may need another rate than the middle one."""
    edge = static((1.98, 0.0198))
    beyond = Plan("tiny", STUDY, errors(2.0))
    (added,) = [label for label in beyond.points if label not in Plan("tiny", STUDY, errors(0.0)).points]
    assert beyond.tuned == edge
    assert sorted(tried(beyond, added)) == [0.01, 0.1, 1.0]
    assert {trial.seed for trial in beyond.needed if trial.label == added} == {0, 1}


def test_extension_ends_at_its_limit():
    plan = Plan("tiny", STUDY, errors(-7.0))
    assert not plan.inside
    assert len(plan.points) == 13
    assert math.log10(values(plan.tuned)[0] / values(plan.tuned)[1]) == pytest.approx(-4.0, abs=1e-2)


def test_runs_are_asked_for_stage_by_stage():
    nothing = Plan("tiny", STUDY, lambda trial: None)
    assert {trial.seed for trial in nothing.missing} == {0}
    assert {trial.rate for trial in nothing.missing} == {0.01, 0.1, 1.0}
    assert len(nothing.missing) == len(set(nothing.missing)) == 4 * 3 + 9 + 2
    first = Plan("tiny", STUDY, errors(0.0, absent=lambda trial: trial.seed > 0))
    assert {trial.seed for trial in first.missing} == {1}
    assert not nothing.rates
    done = set()
    rows = errors(3.0, absent=lambda trial: trial not in done)
    while missing := Plan("tiny", STUDY, rows).missing:
        assert not done & set(missing)
        done |= set(missing)
    assert done == set(Plan("tiny", STUDY, errors(3.0)).needed)


def test_a_setting_that_diverges_gets_slower_rates_up_to_the_limit():
    plan = Plan("tiny", STUDY, errors(0.0, diverged=("mgda",)))
    assert not plan.missing
    assert tried(plan, "mgda") == [0.01, 0.1, 1.0, 0.001, 0.0001, 1e-05]


def test_a_rate_at_which_another_seed_diverges_gives_way():
    stable = errors(0.0)
    unstable = {("sum", 0.1), ("mgda", 10.0), ("mgda", 1.0), (static((1.0, 1.0)), 0.1)}

    def rows(trial):
        found = stable(trial)
        if (trial.label, trial.rate) in unstable and trial.seed == 1:
            return dict.fromkeys(found, "nan")
        return found

    plan = Plan("tiny", STUDY, rows)
    assert not plan.missing
    assert plan.rates["sum"] == 0.01  # the first of two that are equally far
    assert tried(plan, "sum") == [0.01, 0.1, 1.0, 0.001]
    assert plan.rates["mgda"] == 100.0
    assert plan.rates[static((1.0, 1.0))] == 0.01
    assert plan.tuned == static((0.4805, 1.519))  # half a decade off is less than a decade of the rate
    assert plan.budget("sum") == 4 + 2


def test_a_recorded_row_without_a_score_has_not_diverged():
    complete = errors(0.0)

    def rows(trial):
        found = complete(trial)
        return {**found, "val score": ""} if trial.seed == 1 else found

    assert Plan("tiny", STUDY, rows).rates == Plan("tiny", STUDY, complete).rates


def test_a_study_without_sweep_has_no_points():
    plan = Plan("tiny", Study(**{**vars(STUDY), "swept": False}), errors(0.0))
    assert plan.tuned is None
    assert not [trial for trial in plan.needed if trial.label.startswith("static ")]
