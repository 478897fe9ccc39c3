"""Which runs a study needs next, and what validation chooses among those that are finished.

1. Every setting is trained with the first grid of learning rates at the first seed. Where the best rate lies at an end of its
   grid, the next one is tried, up to a limit (lab/grids.py).
2. Every point of the sweep is trained with the middle rate at the first seed. The best three get rates as in 1, and then all
   seeds; the one with the best mean is chosen. Where it lies at an edge of the sweep, points beyond it are added and judged
   alike, up to a limit.
3. Every other setting is trained with all seeds at its best rate.
4. A rate at which a run of another seed diverges gives way to the next best of the setting; so it is in the sweep.
5. The rival of all others is the chosen point, or ``sum`` if its mean is lower: equal weights are static, too.

"Best" is the lowest delta-m on the validation split; of an objective alone the score by which its epoch is chosen.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from lab import studies
from lab.grids import ROUNDS, further_points, further_rate, weight_grid
from lab.studies import Outcome, Study, Trial, static, values

FINALISTS = 3  # points of a sweep that are trained with all seeds
Rows = Callable[[Trial], Mapping[str, Any] | None]


@dataclass
class Plan:
    """A study as far as its runs are finished.

    Args:
        name: Of the study.
        study: Its declaration.
        rows: Trial -> its row, or None if it has yet to be run.

    Attributes:
        needed: Trials that the study is made of so far, in the order of settings.
        missing: Those of them that have yet to be run; the study is finished if there are none.
        rates: Setting -> its best learning rate, if it is known.
        points: Labels of the sweep.
        finalists: Labels of points with all seeds.
        tuned: The chosen one; None before it is known, or without a sweep.
        rival: What the others are compared with: the chosen one or ``sum``; None before it is known.
        inside: Whether it has no edge next to it.
        reference: Heading -> validation result that delta-m is relative to.
    """

    name: str
    study: Study
    rows: Rows
    needed: dict[Trial, None] = field(default_factory=dict)
    missing: list[Trial] = field(default_factory=list)
    rates: dict[str, float] = field(default_factory=dict)
    points: list[str] = field(default_factory=list)
    finalists: dict[str, None] = field(default_factory=dict)
    tuned: str | None = None
    rival: str | None = None
    inside: bool = True
    reference: dict[str, float] = field(default_factory=dict)
    _grids: dict[str, list[float]] = field(default_factory=dict)  # setting -> learning rates

    def __post_init__(self) -> None:
        self._find_reference()
        labels = [label for label in self.study.settings() if not label.startswith("static ")]
        labels += [self.study.middle] if self.study.middle else []
        for label in labels:
            self._tune(label)
        if self.study.swept:
            self.points = [static(point) for point in weight_grid(len(self.study.objectives))]
            self._sweep()
        for label in labels:
            self._settle(label)
        self.rival = self._rival()

    def _ask(self, trials: Iterable[Trial]) -> list[Mapping[str, Any]]:
        """Rows of the trials, which are needed; those that are not there are missing."""
        rows = []
        for trial in trials:
            self.needed[trial] = None
            row = self.rows(trial)
            if row is None:
                self.missing += [] if trial in self.missing else [trial]
            else:
                rows.append(row)
        return rows

    def _outcome(self, row: Mapping[str, Any]) -> Outcome:
        return studies.outcome(row, self.study, self.reference)

    def _find_reference(self) -> None:
        """Validation results of the objectives alone, or of ``sum``, with the first seed.

        They have the best rate of the first grid, the first of equal ones, as of runs that keep their last weights. Rates
        that are added play no part, so that earlier rows stay comparable.
        """
        best = {}
        for label in self.study.references:
            rows = self._ask(Trial(self.name, label, rate, self.study.seeds[0]) for rate in self.study.rates)
            if len(rows) == len(self.study.rates):
                best[label] = min(rows, key=lambda row: self._outcome(row).score)
        if len(best) == len(self.study.references):
            self.reference = studies.baseline(self.study, lambda label: studies.validation(best[label], self.study))

    def _settle(self, label: str) -> list[Mapping[str, Any]]:
        """Rows of all seeds at the best rate without a run that diverges, as far as they are there.

        Where some run diverges at each rate, those of the best at the first seed.
        """
        unstable: set[float] = set()
        while True:
            self._tune(label, unstable)
            if label not in self.rates:
                return []
            rate = self.rates[label]
            rows = self._ask(Trial(self.name, label, rate, seed) for seed in self.study.seeds)
            if rate in unstable or not any(studies.diverged(row, self.study) for row in rows):
                return rows
            unstable.add(rate)

    def _worth(self, label: str, row: Mapping[str, Any]) -> float:
        """What a rate is chosen by; the lower the better."""
        found = self._outcome(row)
        return found.score if label.startswith("only ") else found.delta

    def _tune(self, label: str, unstable: Collection[float] = ()) -> None:
        """Choose the learning rate of a setting, or ask for what that takes.

        It is one of the stable ones if there are any.
        """
        rates = self._grids.setdefault(label, list(self.study.rates))
        while True:
            trials = [Trial(self.name, label, rate, self.study.seeds[0]) for rate in rates]
            rows = self._ask(trials)
            if len(rows) < len(trials) or not self.reference:
                return
            worth = {rate: self._worth(label, row) for rate, row in zip(rates, rows, strict=True)}
            stable = [rate for rate in rates if rate not in unstable and math.isfinite(worth[rate])]
            best = min(stable or rates, key=lambda rate: worth[rate])
            further = further_rate(rates, best if stable else min(rates), len(self.study.rates))
            if further is None:
                self.rates[label] = best
                return
            rates.append(further)

    def _sweep(self) -> None:
        """Choose the point of the sweep, or ask for what that takes."""
        middle = self.study.rates[len(self.study.rates) // 2]
        for extension in range(ROUNDS + 1):
            rows = self._ask(Trial(self.name, label, middle, self.study.seeds[0]) for label in self.points)
            if len(rows) < len(self.points) or not self.reference:
                return
            first = dict(zip(self.points, (self._outcome(row).delta for row in rows), strict=True))
            self.finalists |= dict.fromkeys(sorted(self.points, key=lambda label: first[label])[:FINALISTS])
            means = {label: self._mean(label) for label in self.finalists}
            known = {label: mean for label, mean in means.items() if mean is not None}
            if len(known) < len(means):
                return
            self.tuned = min(known, key=lambda label: known[label])
            grid = [values(label) for label in self.points]
            added = [static(point) for point in further_points(grid, values(self.tuned))]
            self.inside = not added
            if not added:
                return
            if extension < ROUNDS:
                self.points += added
                self.finalists |= dict.fromkeys(added)  # to be judged as the chosen one is

    def _rival(self) -> str | None:
        if not self.study.swept:
            return "sum"
        chosen, plain = None if self.tuned is None else self._mean(self.tuned), self._mean("sum")
        if chosen is None or plain is None:
            return None
        return "sum" if plain < chosen else self.tuned

    def _mean(self, label: str) -> float | None:
        """Mean delta-m over seeds at the best rate, or None if runs are missing."""
        rows = self._settle(label)
        return (
            statistics.fmean(self._outcome(row).delta for row in rows) if len(rows) == len(self.study.seeds) else None
        )

    @property
    def chosen(self) -> set[Trial]:
        """Trials at the best rate of their setting."""
        return {trial for trial in self.needed if trial.rate == self.rates.get(trial.label)}

    def budget(self, label: str) -> int:
        """Runs that a row of the table took; of the chosen point, all of the sweep."""
        labels = self.points if label == self.tuned else [label]
        return sum(trial.label in labels for trial in self.needed)

    def rate_is_inside(self, label: str) -> bool:
        """Whether rates on both sides of the best were tried."""
        tried = [t.rate for t in self.needed if t.label == label and t.seed == self.study.seeds[0]]
        return min(tried) < self.rates[label] < max(tried)
