"""Which method to use: blocks of docs/which.md and docs/results.md, from results/ alone.

python lab/collect.py    # writes them
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from lab import documents, method_tables, studies
from lab.method_tables import Results, called, finished
from lab.studies import STUDIES, runs_file

CHEAP = 1.1  # time of a step relative to `sum` that counts as none


def advice(outcome: Results) -> str:
    """What to use in a study.

    The best and the cheapest setting that beat the rival; without one, what is as good and takes no search.
    """
    better, same, _ = outcome.groups()
    rival = "the chosen static weights" if outcome.plan.tuned else "`sum`"
    if better:
        best = min(better, key=lambda label: outcome.delta(label).mean)
        cheapest = min(better, key=lambda label: time_of(outcome, label))
        chosen = dict.fromkeys((best, cheapest))
        return " or ".join(f"{called(outcome, label)} ({gain(outcome, label)})" for label in chosen)
    cheap = [label for label in same if time_of(outcome, label) <= CHEAP]
    cheap.sort(key=lambda label: outcome.delta(label).mean)
    nothing = f"nothing beats {rival} here"
    return f"{nothing}; without a search, no worse: {', '.join(called(outcome, label) for label in cheap) or 'none'}"


def gain(outcome: Results, label: str) -> str:
    """Difference to the rival, corrected p and time."""
    difference, p = outcome.difference(label).mean, outcome.adjusted()[label]
    return f"delta-m {difference.text(1)} points to the rival, p {p:.2g}, a step takes {time_of(outcome, label):.2f}"


def time_of(outcome: Results, label: str) -> float:
    """Of a step relative to ``sum``."""
    return outcome.cost.get(label, (1.0, 1.0))[0]


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


def by_method() -> str:
    """A line per setting: in which studies it is better than the rival, like it, or worse."""
    head = ("setting", "better", "no significant difference", "worse", "time of a step")
    found: dict[str, tuple[list[str], list[str], list[str], list[float]]] = {}
    for outcome in outcomes():
        for place, group in enumerate(outcome.groups()):
            for label in group:
                name = MIDDLE if label.startswith("static ") else f"`{label}`"
                entry = found.setdefault(name, ([], [], [], []))
                entry[place].append(outcome.name)
                entry[3].append(time_of(outcome, label))
    ordered = sorted(found.items(), key=lambda item: (len(item[1][2]) - len(item[1][0]), len(item[1][2])))
    lines = []
    for name, (*groups, times) in ordered:
        span = (
            f"{min(times):.2f}"
            if f"{min(times):.2f}" == f"{max(times):.2f}"
            else f"{min(times):.2f} to {max(times):.2f}"
        )
        lines.append([name, *(", ".join(group) for group in groups), span])
    return documents.table(head, lines)


MIDDLE = "static weights, v = 1"


def by_budget() -> str:
    """What each budget buys, over the finished studies."""
    lines, counts = [], {}
    for outcome in outcomes():
        better, same, worse = outcome.groups()
        for label in (*better, *same, *worse):
            name = MIDDLE if label.startswith("static ") else f"`{label}`"
            kept = counts.setdefault(name, [0, 0, 0.0, outcome])
            kept[0] += label not in worse
            kept[1] += 1
            kept[2] = max(kept[2], time_of(outcome, label))
    searches = [str(outcome.plan.budget(outcome.plan.tuned)) for outcome in outcomes() if outcome.plan.tuned]
    names = {
        "one run per learning rate, one backward pass": [n for n, c in counts.items() if c[2] <= CHEAP],
        "one run per learning rate, some time for measuring or a second forward pass": [
            n for n, c in counts.items() if c[2] > CHEAP
        ],
    }
    for budget, known in names.items():
        kept = sorted(known, key=lambda name: -counts[name][0] / counts[name][1])
        text = ", ".join(f"{name} {counts[name][0]} of {counts[name][1]}" for name in kept)
        lines.append([budget, f"not worse than the chosen static weights in so many studies: {text or 'none'}"])
    if searches:
        spent = " to ".join(dict.fromkeys((min(searches, key=int), max(searches, key=int))))
        lines.append([f"a search, here of {spent} runs", "static weights on the grid of docs/results.md"])
    return documents.table(("budget", "what it buys"), lines)


def in_short() -> str:
    """The claims of docs/results.md."""
    lines = []
    for outcome in outcomes():
        better, same, worse = (len(group) for group in outcome.groups())
        count = better + same + worse
        lines.append(
            f"- **{outcome.name}**: of {count} settings {better} better than the rival, {worse} worse, {same} without a "
            f"significant difference. Use: {advice(outcome)}."
        )
    total = [sum(len(outcome.groups()[place]) for outcome in outcomes()) for place in range(3)]
    lines.append(
        f"- **Over {len(outcomes())} studies**: {total[0]} of {sum(total)} comparisons better, {total[2]} worse, {total[1]} without "
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
