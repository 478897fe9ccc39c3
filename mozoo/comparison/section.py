"""Run sets of one task side by side: delta-m, mean rank, Pareto front, hypervolume, cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from mozoo.comparison.estimates import Estimate, estimate
from mozoo.comparison.run_sets import RunSet
from mozoo.comparison.runs import ComparisonError, directions
from mozoo.figures import front
from mozoo.program import program
from tasks.results import ResultKey, objectives_of
from tasks.scores import delta_m, hypervolume, mean_rank

_NOTHING = Estimate(math.nan, None)


@dataclass
class Section:
    """The comparison of the sets of one task."""

    title: str  # task, with its options if there are several of it
    sets: list[RunSet]
    higher: dict[str, bool]  # test results -> whether higher is better
    scored: list[str]  # results that delta-m and mean rank are computed from
    main: list[str]  # the first of them for each objective, for the Pareto front
    baseline: str | None = None  # label of the set that most others are relative to
    columns: dict[str, list[Estimate]] = field(default_factory=dict)  # heading -> a value per set; test results first
    front: set[str] = field(default_factory=set)  # labels of the sets that no other beats
    notes: list[str] = field(default_factory=list)  # lines below the table


@dataclass(frozen=True)
class Reference:
    """Results and seconds per step that a set is relative to, with a line about them."""

    results: dict[str, float]
    seconds: float
    note: str = ""


@dataclass(frozen=True)
class Choices:
    """What runs are compared with, and by which results.

    Attributes:
        baseline: Label of a set; or a balancer, for its set of the same model and options. By default ``sum``, where there are
            runs of it and of others.
        single_task: The baseline of an objective are the runs of ``balancer=single`` that trained it.
        metrics: Results to score; by default all but losses, and losses of objectives that have no other result.
    """

    baseline: str | None = None
    single_task: bool = False
    metrics: Sequence[str] | None = None


def compare(title: str, sets: list[RunSet], choices: Choices) -> Section:
    """The section of the sets of one task. Raises ComparisonError for unknown choices."""
    baseline, single_task, metrics = choices.baseline, choices.single_task, choices.metrics
    higher = directions([run for each in sets for run in each.runs])
    keys = {name: ResultKey.parse(name) for name in higher}
    scored = [name for name, key in keys.items() if not key.is_loss]
    judged = objectives_of(scored)
    scored += [name for name, key in keys.items() if key.objective not in judged]
    if metrics:
        unknown = [name for name in metrics if name not in higher]
        if unknown:
            raise ComparisonError(f"{title} has no result {', '.join(unknown)}; choose from {', '.join(higher)}")
        scored = list(metrics)
    first = {keys[name].objective: name for name in reversed(scored)}
    part = Section(title, sets, higher, scored, [name for name in scored if name in first.values()])
    for name in sorted(higher, key=lambda name: keys[name].is_loss):
        part.columns[name] = [estimate([run.result(name) for run in each.runs]) for each in sets]
    balancers = {each.balancer for each in sets}
    if baseline is None and not single_task and "sum" in balancers and len(balancers) > 1:
        baseline = "sum"
    asked = choices.baseline is not None
    references = [_reference(part, each, baseline, single_task, asked) for each in sets]
    part.notes[:] = dict.fromkeys(part.notes)
    part.notes += [reference.note for reference in references if reference is not None and reference.note]
    against = "one model per objective" if single_task else f"{baseline}"
    part.baseline = next((each.label for each in sets if baseline in (each.label, each.balancer)), None)
    if any(references):
        part.columns["delta-m, %"] = [_delta(part, *pair) for pair in zip(sets, references, strict=True)]
        note = f"mean relative loss of quality against {against}, over {', '.join(scored)}; negative is better."
        part.notes.append(f"delta-m: {note}")
        part.notes += _without_baseline(part, references, baseline)
        part.notes += _changed_signs(part, references)
    elif len(sets) == 1:
        part.notes.append(
            "One setting alone, so there is nothing to compare: train another, such as balancer=pcgrad, and give both."
        )
    else:
        part.notes.append("No delta-m without a baseline: choose one with --baseline, or use --single-task.")
    _rank(part)
    _cost(part, references, against)
    repeated = {each.label: len(each.repeated) for each in sets if each.repeated}
    part.notes += [f"{label}: older runs of the same seeds were left out ({n})." for label, n in repeated.items()]
    return part


def _reference(part: Section, each: RunSet, baseline: str | None, single_task: bool, asked: bool) -> Reference | None:
    """The baseline of a set; ``None`` if its model has none, or several that nobody asked for."""
    if single_task:
        return None if each.balancer == "single" else _one_by_one(part, each)
    if baseline is None:
        return None
    named = [other for other in part.sets if baseline in (other.balancer, other.label)]
    if not named:
        known = ", ".join(other.label for other in part.sets)
        raise ComparisonError(f"--baseline: {part.title} has no runs of {baseline!r}; choose from {known}")
    exact = [other for other in named if other.label == baseline]
    named = exact or [other for other in named if other.model == each.model]
    fitting = _fitting(named, each)
    chosen = fitting or named
    if len(chosen) > 1:
        labels = ", ".join(repr(other.label) for other in chosen)
        if not asked:
            part.notes.append(f"No delta-m where several sets could be the baseline: {labels}. Choose with --baseline.")
            return None
        raise ComparisonError(f"--baseline: {part.title} has several sets of {baseline!r}; choose one of {labels}")
    if not chosen:
        return None
    other = chosen[0]
    note = f"{each.label}: relative to {other.label}, although other options differ; there is no other {baseline}."
    return Reference(other.means(part.scored), other.seconds, "" if fitting or (exact and asked) else note)


def _without_baseline(part: Section, references: Sequence[Reference | None], baseline: str | None) -> list[str]:
    """Why models have no delta-m: nothing was trained with the balancer of the baseline."""
    lacking = dict.fromkeys(each.model for each, found in zip(part.sets, references, strict=True) if found is None)
    trained = {each.model for each in part.sets if baseline in (each.balancer, each.label)}
    models = [model for model in lacking if model not in trained]
    return [f"No delta-m for {', '.join(models)}: no run of that model has {baseline}."] if baseline and models else []


def _fitting(candidates: Sequence[RunSet], each: RunSet) -> list[RunSet]:
    """Candidates with the options of a set, but for those of its balancer."""
    own = {key: value for key, value in each.options.items() if not key.startswith("balancer.")}
    return [other for other in candidates if own.items() <= other.options.items()]


def _one_by_one(part: Section, each: RunSet) -> Reference:
    """Results of each objective trained alone, and the time of all those trainings."""
    results: dict[str, float] = {}
    seconds = 0.0
    singles: dict[str, list[RunSet]] = {}
    for other in part.sets:
        if other.balancer == "single" and other.model == each.model:
            alone = other.runs[0].config.get("balancer.objective") or objectives_of(part.higher)[0]
            singles.setdefault(alone, []).append(other)
    for alone, others in singles.items():
        chosen = _fitting(others, each) or others
        if len(chosen) > 1:
            labels = ", ".join(repr(other.label) for other in chosen)
            raise ComparisonError(
                f"--single-task: {part.title} has several sets that train {alone} alone: {labels}; leave out all but one"
            )
        results |= chosen[0].means([name for name in part.scored if ResultKey.parse(name).objective == alone])
        seconds += chosen[0].seconds
    missing = objectives_of(name for name in part.scored if name not in results)
    trained = {key.objective for key in map(ResultKey.parse, part.higher) if key.is_loss}
    if untrained := [name for name in missing if name not in trained]:
        raise ComparisonError(
            f"--single-task: {part.title} has results of {', '.join(untrained)}, which no objective alone trains; "
            "compare with --baseline instead"
        )
    if missing:
        raise ComparisonError(
            f"--single-task: no finished run of {each.model} trains {', '.join(missing)} alone; make one with: "
            f"{program('train')} model={each.model} balancer=single balancer.objective={missing[0]}"
        )
    return Reference(results, seconds)


def _delta(part: Section, each: RunSet, reference: Reference | None) -> Estimate:
    """delta-m over the seeds of a set."""
    if reference is None or any(value == 0 or math.isnan(value) for value in reference.results.values()):
        return _NOTHING
    values = [{name: run.result(name) for name in part.scored} for run in each.runs]
    return estimate([delta_m(results, reference.results, part.higher) for results in values])


def _changed_signs(part: Section, references: Sequence[Reference | None]) -> list[str]:
    """A line about results whose sign is not the baseline's, where relative change says little."""
    names = dict.fromkeys(
        name
        for i, reference in enumerate(references)
        if reference is not None
        for name, value in reference.results.items()
        if value * part.columns[name][i].mean < 0
    )
    if not names:
        return []
    shown = ", ".join(names)
    return [
        f"delta-m takes changes relative to the size of the baseline. Of {shown}, some set and its baseline differ in sign, so that "
        "this change says more about how near to 0 the baseline is than about quality; --metrics leaves such a result out."
    ]


def _rank(part: Section) -> None:
    """Mean rank, front and hypervolume of the sets that train every objective to finite results."""
    rows = {each.label: each.means(part.scored) for each in part.sets if each.balancer != "single"}
    rows = {label: row for label, row in rows.items() if all(map(math.isfinite, row.values()))}
    if len(rows) < 2:
        return
    ranks = mean_rank(rows, {name: part.higher[name] for name in part.scored})
    part.columns["mean rank"] = [Estimate(ranks.get(each.label, math.nan), None) for each in part.sets]
    signs = np.array([-1.0 if part.higher[name] else 1.0 for name in part.main])
    points = signs * np.array([[row[name] for name in part.main] for row in rows.values()])
    part.front = {label for label, best in zip(rows, front(points), strict=True) if best}
    main = ", ".join(part.main)
    part.notes.append(f"★ Pareto front: no other set is better in one of {main} and as good in the rest.")
    low, high = points.min(0), points.max(0)
    methods = {each.label: f"{each.model}, {each.balancer}" for each in part.sets}
    several = 1 < len({methods[label] for label in rows}) < len(rows)
    if len(part.main) > 4 or (low == high).any() or not several:
        return  # slow, without a scale, or nothing that the front does not say
    scaled = dict(zip(rows, (points - low) / (high - low), strict=True))
    volumes = {
        method: hypervolume([scaled[label] for label in rows if methods[label] == method], [1.1] * len(low))
        for method in methods.values()
    }
    known = [volumes[methods[each.label]] if each.label in rows else math.nan for each in part.sets]
    part.columns["hypervolume"] = [Estimate(volume, None) for volume in known]
    note = (
        "of all settings of a balancer together; each result goes from 0 (best mean) to 1 (worst), the corner is 1.1."
    )
    part.notes.append(f"hypervolume: {note}")


def _cost(part: Section, references: Sequence[Reference | None], against: str) -> None:
    """Time of a step relative to the baseline, or else the fastest set, and samples per second."""
    speeds = [[run.summary["samples_per_second"] for run in each.runs] for each in part.sets]
    if len(part.sets) == 1:
        part.columns["samples/s"] = [estimate(speeds[0])]
        return
    fastest = min(each.seconds for each in part.sets)
    relative = any(references)
    units = [each.seconds if each else math.nan for each in references] if relative else [fastest] * len(references)
    part.columns["cost"] = [
        estimate([run.seconds_per_step / unit for run in each.runs])
        for each, unit in zip(part.sets, units, strict=True)
    ]
    part.columns["samples/s"] = [estimate(each) for each in speeds]
    part.notes.append(f"cost: seconds per training step, relative to {against if relative else 'the fastest set'}.")
    devices = sorted({run.summary["device"] for each in part.sets for run in each.runs})
    if len(devices) > 1:
        part.notes.append(f"Costs of different devices cannot be compared: {', '.join(devices)}.")
