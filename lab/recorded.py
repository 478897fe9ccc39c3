"""mozoo/commands/recorded.json, which `mozoo list` shows, from results/ and the models.

python lab/recorded.py            # all of it: two minutes, rooms are rendered and data are read
python lab/recorded.py --collect  # keep the sizes of models, take the rest from results/ again

A model is as its default task asks for it. Operations are multiply-accumulates for one sample. A model whose data or packages
are not here keeps its line.
"""

from __future__ import annotations

import json
import re
import shlex
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import mozoo
import zoo
from lab import benchmark_balancers, command, method_tables, ours, results, which
from mozoo import tools
from mozoo.commands.recorded import FILE
from mozoo.data import evaluation_batches
from mozoo.tracking import read_rows
from tasks import DataError

#: Number of words, table and words -> its rows.
Runs = dict[tuple[int, str], list[dict[str, str]]]
#: Default task -> words that make its data small, with samples of the same size.
SMALL = {"rooms": ("task.train=1", "task.val=1", "task.test=1"), "multi_fashion": ("task.copies=1",)}
#: Words that a recorded run may have besides its model.
_PLAIN = re.compile(r"(model|task|seed|trainer\.(max_steps|epochs|monitor|channels_last))=")


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the file."""
    parser = command.parser(__doc__)
    parser.add_argument("--collect", action="store_true", help="build no model")
    options = parser.parse_args(arguments)
    known = json.loads(FILE.read_text(encoding="utf-8")) if FILE.is_file() else {"models": {}}
    sizes = known["models"] if options.collect else known["models"] | measured()
    tools.write_text(FILE, json.dumps(content(sizes), indent=1) + "\n")


def content(sizes: dict[str, Any]) -> dict[str, Any]:
    """Everything, with the sizes of models that were measured before."""
    rows = [(file.name, row) for file in sorted(results.RESULTS.glob("*.csv")) for row in read_rows(file)]
    runs = plain_runs(rows)
    models = {}
    for name in ours.models():
        size = sizes.get(name, {})
        models[name] = {key: size.get(key) for key in ("parameters", "operations")} | means(runs.get(name, {}))
    return {"models": models, "balancers": costs()}


def measured() -> dict[str, dict[str, int]]:
    """Parameters and operations of every model that can be built here."""
    sizes = {}
    for name in ours.models():
        try:
            sizes[name] = size_of(name)
        except (DataError, ValueError) as error:
            print(f"{name} keeps its line: {error}", file=sys.stderr)
    return sizes


def size_of(name: str) -> dict[str, int]:
    """Parameters, and multiply-accumulates for one sample of the default task."""
    config = mozoo.compose([f"model={name}", *SMALL.get(zoo.model_info(name).default_task, ())])
    task = tools.make_task(config, {})
    splits = task.splits(config.data_dir)
    _, arguments = tools.resolve_arguments("model", config.model, task, splits)
    model: Any = zoo.create_model(name, **arguments).eval()
    task = task.restrict(model.objectives)
    batch = next(iter(evaluation_batches(splits.truncate(1).test, 1, torch.device("cpu"), workers=0)))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        task.outputs(model, batch)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return {"parameters": parameters, "operations": counter.get_total_flops() // 2}


def plain_runs(rows: Sequence[tuple[str, dict[str, str]]]) -> dict[str, Runs]:
    """Model -> the recorded runs that name nothing but it, a task and a length."""
    found: dict[str, Runs] = {}
    for file, row in rows:
        words = shlex.split(row.get("command") or "")[2:]
        models = [word.removeprefix("model=") for word in words if word.startswith("model=")] or ["shared_trunk"]
        if words and len(models) == 1 and all(map(_PLAIN.match, words)) and "epochs" in row:
            rest = [word for word in words if not word.startswith("seed=")]
            found.setdefault(models[0], {}).setdefault((len(rest), f"{file} {' '.join(rest)}"), []).append(row)
    return found


def means(runs: Runs) -> dict[str, Any]:
    """Mean results over the seeds of the runs with the fewest words, and their command."""
    if not runs:
        return {"results": {}, "command": None}
    rows = runs[min(runs)]
    columns = list(rows[0])
    headings = columns[columns.index("seed") + 1 : columns.index("epochs")]
    values = {
        each: float(f"{statistics.fmean(float(row[each]) for row in rows):.4g}")
        for each in headings
        if each not in ("seconds", "steps")
    }
    return {"results": values, "command": re.sub(r" seed=\d+$", "", rows[0]["command"])}


def costs() -> dict[str, dict[str, Any]]:
    """Balancer -> time of a step relative to a plain one, and how the studies that count ended."""
    rows = benchmark_balancers.read("lenet")
    time = {row["variant"]: float(row["to_plain"]) for row in rows if row["objectives"] == "2"}
    groups = [outcome.groups() for outcome in method_tables.counted(which.outcomes()) if outcome.plan.tuned]
    found: dict[str, dict[str, Any]] = {}
    for name in ours.balancers():
        counts = [sum(name in group[place] for group in groups) for place in range(3)]
        tried = dict(zip(("better", "same", "worse"), counts, strict=True)) if any(counts) else None
        found[name] = {"time": time.get(name), "studies": tried}
    return found


if __name__ == "__main__":
    main()
