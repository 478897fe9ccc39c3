"""Which method to use: blocks of docs/which.md and docs/results.md, from results/ alone.

python lab/collect.py    # writes them
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache

from balancing import balancer_class
from lab import documents, method_tables, studies
from lab.figures import cost
from lab.method_tables import Results, called, counted, finished
from lab.studies import AUTOSCALE, STUDIES, runs_file

MIDDLE = "static weights, v = 1"
CHOSEN = "static weights, chosen"
CHEAP = 1.1  # time of a step relative to `sum` that counts as none
WIDE = 50.0  # points of delta-m: half an interval beyond which nothing is known of a difference


def advice(outcome: Results) -> str:
    """What to use in a study.

    The best and the cheapest setting that beat the rival; without one, the best and the cheap ones that take no search, of those
    whose interval of the difference reaches 0.
    """
    if outcome.unsolved:
        return f"no setting solves it: {outcome.unsolved}"
    better, same, _ = outcome.groups()
    rival = "`sum`" if outcome.rival == "sum" else "the chosen static weights"
    if better:
        best = min(better, key=lambda label: outcome.delta(label).mean)
        cheapest = min(better, key=lambda label: time_of(outcome, label))
        chosen = dict.fromkeys((best, cheapest))
        return " or ".join(f"{called(outcome, label)} ({gain(outcome, label)})" for label in chosen)
    found = {label: outcome.difference(label).mean for label in same if label != outcome.plan.tuned}
    # a correction for many comparisons makes none of them as good
    near = [label for label, each in found.items() if each.mean <= (each.half or 0.0) <= WIDE]
    near.sort(key=lambda label: found[label].mean)
    named = [label for label in near if label == near[0] or time_of(outcome, label) <= CHEAP]
    free = ", ".join(f"{called(outcome, label)} ({found[label].text(1)})" for label in named)
    return f"nothing beats {rival} here; without a search, not significantly worse: {free or 'none'}"


def gain(outcome: Results, label: str) -> str:
    """Difference to the rival, corrected p and time."""
    difference, p = outcome.difference(label).mean, outcome.adjusted()[label]
    return f"delta-m {difference.text(1)} points to the rival, p {p:.2g}, a step takes {time_of(outcome, label):.2f}"


def time_of(outcome: Results, label: str) -> float:
    """Of a step relative to ``sum``."""
    return 1.0 if label.startswith("static ") else outcome.cost[label][0]


def situation(outcome: Results) -> list[str]:
    """Study, number of objectives, scales, optimizer and steps."""
    study = outcome.study
    prior = list((study.prior or {}).values())
    ratio = f"{max(prior) / min(prior):,.2g}" if prior else "not known"
    optimizer = next((each.partition("=")[2] for each in study.common if each.startswith("optimizer=")), "AdamW")
    row = studies.recorded(runs_file(outcome.name))["sum", outcome.plan.rates["sum"], study.seeds[0]]
    optimizer = "Adam" if outcome.name.startswith(("pinn", "fashion_gan")) else optimizer
    return [f"[{outcome.name}](results.md#{outcome.name})", str(len(study.objectives)), ratio, optimizer, row["steps"]]


def by_study() -> str:
    """A line per finished study: what to use in its situation."""
    head = ("study", "objectives", "largest to smallest prior loss", "optimizer", "steps", "use")
    lines = [[*situation(outcome), advice(outcome)] for outcome in outcomes()]
    return documents.table(head, lines) + method_tables.unfinished()


@dataclass
class Tally:
    """Studies in which a setting was better than the rival, like it, or worse; times of steps."""

    groups: tuple[list[str], list[str], list[str]] = field(default_factory=lambda: ([], [], []))
    times: list[float] = field(default_factory=list)

    @property
    def kept(self) -> str:
        """In how many studies it was not worse."""
        better, same, worse = map(len, self.groups)
        return f"{better + same} of {better + same + worse}"


def tallies() -> dict[str, Tally]:
    """Setting -> its tally over the studies that count; those that won most often come first."""
    found: dict[str, Tally] = {}
    for outcome in counted(outcomes()):
        for place, group in enumerate(outcome.groups()):
            for label in group:
                name = (
                    MIDDLE if label == outcome.study.middle else CHOSEN if label == outcome.plan.tuned else f"`{label}`"
                )
                tally = found.setdefault(name, Tally())
                tally.groups[place].append(outcome.name)
                tally.times.append(time_of(outcome, label))

    def order(name: str) -> tuple[int, int, float]:
        better, _, worse = map(len, found[name].groups)
        return worse - better, worse, max(found[name].times)

    return {name: found[name] for name in sorted(found, key=order)}


def by_method() -> str:
    """A line per setting: in which studies it is better than the rival, like it, or worse."""
    head = ("setting", "better", "no significant difference", "worse", "time of a step")
    lines = []
    for name, tally in tallies().items():
        low, high = f"{min(tally.times):.2f}", f"{max(tally.times):.2f}"
        lines.append([name, *map(", ".join, tally.groups), low if low == high else f"{low} to {high}"])
    return documents.table(head, lines)


def takes_one_backward(label: str) -> bool:
    """Whether a step takes one backward pass; ``autoscale`` takes more in its first phase."""
    return label == MIDDLE or (label != AUTOSCALE and cost(balancer_class(label)).startswith("1 backward"))


def by_budget() -> str:
    """What each budget buys, over the studies that count."""
    lines = []
    found = {name: tally for name, tally in tallies().items() if name != CHOSEN}
    for budget, one in {
        "one run per learning rate, and one backward pass per step": True,
        "one run per learning rate, and a backward pass per objective": False,
    }.items():
        known = {name: tally for name, tally in found.items() if takes_one_backward(name.strip("`")) == one}
        text = "; ".join(f"{name}: {tally.kept}" for name, tally in known.items())
        lines.append([budget, f"not significantly worse than the rival in: {text or 'no study'}"])
    plans = [(outcome.plan.tuned, outcome) for outcome in counted(outcomes())]
    swept = [(outcome.plan.budget(tuned), outcome.rival == "sum") for tuned, outcome in plans if tuned]
    if swept:
        budgets, beaten = [runs for runs, _ in swept], sum(plain for _, plain in swept)
        spent = " to ".join(dict.fromkeys((str(min(budgets)), str(max(budgets)))))
        note = f", which validation finds worse than `sum` in {beaten} of {len(swept)} studies" if beaten else ""
        lines.append([f"a search, here of {spent} runs", f"the chosen static weights{note}"])
    return documents.table(("budget", "what it buys, in how many of the studies that count"), lines)


def in_short() -> str:
    """The claims of docs/results.md."""
    lines = []
    for outcome in outcomes():
        if outcome.unsolved:
            lines.append(f"- **{outcome.name}**: {advice(outcome)}.")
            continue
        better, same, worse = (len(group) for group in outcome.groups())
        count = better + same + worse
        lines.append(
            f"- **{outcome.name}**: of {count} settings {better} better than the rival, {worse} worse, {same} without a "
            f"significant difference. Use: {advice(outcome)}."
        )
    valid = counted(outcomes())
    total = [sum(len(outcome.groups()[place]) for outcome in valid) for place in range(3)]
    lines.append(
        f"- **Studies that count: {len(valid)}**. {total[0]} of {sum(total)} comparisons better, {total[2]} worse, {total[1]} without "
        "a significant difference."
    )
    return "\n".join(_wrapped(line) for line in lines) + "\n" + method_tables.unfinished()


def _wrapped(line: str, width: int = 128) -> str:
    words, lines = line.split(" "), [""]
    for word in words:
        if lines[-1] and len(lines[-1]) + 1 + len(word) > width:
            lines.append("  " + word)
        else:
            lines[-1] += (" " if lines[-1] else "") + word
    return "\n".join(lines)


def outcomes() -> Sequence[Results]:
    """The finished studies."""
    return _outcomes(tuple(runs_file(name).stat().st_mtime_ns if runs_file(name).is_file() else 0 for name in STUDIES))


@cache
def _outcomes(_: tuple[int, ...]) -> Sequence[Results]:
    return [Results(name) for name in STUDIES if finished(name)]


BLOCKS: documents.Blocks = {
    "docs/results.md": {"in_short": in_short},
    "docs/which.md": {"by_study": by_study, "by_method": by_method, "by_budget": by_budget},
}
