"""Names that can be chosen, with what was measured; a glob chooses some of them.

mozoo list models                     # parameters, operations, results on the default task
mozoo list balancers                  # time of a step, and how often a method was better than tuned static weights
mozoo list balancers '*grad*'         # some
mozoo list models 'dense*' json=true  # for a program
mozoo list tasks | optimizers | schedulers
mozoo list models 'imports=[own]'     # with those of a module of yours, own.py in this folder

Operations are multiply-accumulates for one sample. The time of a step is relative to one of the plain sum, for a small
convolutional network with two losses. Results are means over seeds of the command that json=true shows.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from fnmatch import fnmatch
from typing import Any

from rich.console import Console
from rich.table import Table

from mozoo.arguments import ConfigError, did_you_mean
from mozoo.command_line import reporting
from mozoo.commands.entries import KINDS, Row, with_imports
from mozoo.program import words_or_usage

#: Columns that JSON alone shows.
_JSON_ALONE = {"command", "weights", "models"}
#: Column -> what its numbers are.
_LEGEND = {
    "operations": "multiply-accumulates for one sample",
    "results": "of the test split, means over seeds",
    "time": "of a step, relative to one of the plain sum",
    "studies": "against tuned static weights",
}
#: Column -> width from which its text can be read, line by line.
_WRAPPED = {"description": 24, "results": 24, "studies": 20}
_LESS = ("operations", "results", "parameters")  # columns to leave out of a narrow terminal, the first one first


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and print a table, or JSON."""
    words = words_or_usage("list", __doc__, arguments)
    if not words:
        return
    with reporting():
        words = with_imports(words)
        as_json = bool({"json=true", "--json"} & {*words})
        kind, *rest = [word for word in words if word not in ("json=true", "json=false", "--json")] or [""]
        if kind not in KINDS:
            raise ConfigError(f"mozoo list has no {kind!r}; {did_you_mean(kind, KINDS)}")
        if len(rest) > 1 or any("=" in word or word.startswith("-") for word in rest):
            raise ConfigError(f"mozoo list {kind} takes one name with * in it, and json=true; got {' '.join(rest)}")
        rows = KINDS[kind]()
        chosen = [row for row in rows if fnmatch(row["name"], rest[0])] if rest else rows
        if not chosen:
            raise ConfigError(
                f"there are no {kind} {rest[0]!r}; {did_you_mean(rest[0], [row['name'] for row in rows])}"
            )
        if as_json:
            print(json.dumps(chosen, indent=2))
        else:
            show(kind, chosen)


def show(kind: str, rows: Sequence[Row]) -> None:
    """Print the rows as a table as wide as the terminal, or wide enough for a file."""
    terminal = Console()
    console = terminal if terminal.is_terminal else Console(width=160)
    shown, left_out = columns(rows, console.width)
    table = Table()
    for heading in shown:
        number = heading in ("parameters", "operations", "time")
        table.add_column(heading, justify="right" if number else "left", overflow="fold", no_wrap=heading == "name")
    for row in rows:
        table.add_row(*(_cell(key, row[key]) for key in shown))
    console.print(table)
    if legend := [f"{key}: {_LEGEND[key]}" for key in shown if key in _LEGEND]:
        console.print("; ".join(legend) + ".")
    if left_out:
        console.print(f"A wider terminal, or json=true, also shows {', '.join(left_out)}.")


def columns(rows: Sequence[Row], width: int) -> tuple[list[str], list[str]]:
    """Columns that fit a terminal of this width with whole words, and those that do not."""
    shown = [key for key in rows[0] if key not in _JSON_ALONE]
    widths = {key: max(len(key), *(len(_cell(key, row[key])) for row in rows)) for key in shown}
    least = {key: min(widths[key], _WRAPPED.get(key, widths[key])) for key in shown}
    left_out = []
    for key in _LESS:
        if sum(3 + least[each] for each in shown) < width:
            break
        if key in shown:
            shown.remove(key)
            left_out.append(key)
    return shown, left_out


def _cell(key: str, value: Any) -> str:
    if not value:
        return ""
    if key == "results":
        return ", ".join(f"{name} {number:g}" for name, number in list(value.items())[:3])
    if key == "studies":
        return f"better in {value['better']}, worse in {value['worse']} of {sum(value.values())}"
    if key == "operations":
        return f"{value / 1e6:,.1f} M" if value >= 1e5 else f"{value / 1e3:,.1f} k"
    return f"{value:,}" if isinstance(value, int) else f"{value}"
