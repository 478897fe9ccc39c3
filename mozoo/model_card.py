"""Model card of the best weights: ``best/README.md``, in the format of the Hugging Face hub.

Front matter (YAML: library, licence, tags, metrics, results), then how good it is, how to install and load it, what goes in and
comes out, what it is for and what not, and how to repeat the run. With it the folder can be uploaded as it is: ``hf upload <user>/<name> <run>/best``.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData
from torch import nn

from mozoo.checkpoint import write_text
from mozoo.environment import differences
from tasks import Objective, Task
from tasks.gan_task import GanTask
from tasks.physics import PhysicsTask
from tasks.results import ResultKey
from zoo import model_info

_HERE = "path/to/this/folder"
_INSTALL = "git clone https://github.com/mozoo/mozoo && pip install -e ./mozoo"


def write_model_card(
    folder: Path, summary: Mapping[str, Any], model: nn.Module, task: Task, weights: str | None = None
) -> Path:
    """Write ``README.md`` beside the weights in ``folder``, from the run's ``summary.json``.

    With the name of ``weights`` of the zoo, the card says how to load them by it.
    """
    objectives: Any = model.objectives
    sections = [
        f"---\n{_front_matter(summary, weights)}\n---",
        f"# {summary['model']} on {summary['task']}",
        f"{model_info(summary['model']).summary}. Trained by mozoo on the task `{summary['task']}` with several losses at once "
        f"({', '.join(f'`{name}`' for name in objectives)}), balanced by `{summary['balancer']}`.",
        f"## Results\n\n{_results(summary)}",
        f"## Use\n\n{_usage(summary, model, task, weights)}",
        f"## Data\n\n{_data(summary, task)}",
        f"## Intended use\n\n{_intended(summary, objectives, task)}",
        f"## Repeat\n\n{_origin(summary)}",
        f"## Licence\n\n{_licence(task, weights)}",
    ]
    write_text(folder / "README.md", "\n\n".join(sections) + "\n")
    return folder / "README.md"


def _front_matter(summary: Mapping[str, Any], weights: str | None) -> str:
    names = summary["model"], summary["task"], summary["balancer"]
    data_set = {"dataset_type": summary["task"], "dataset_name": summary["task"], "dataset_split": "test"}
    results = [
        EvalResult("other", metric_type=metric, metric_name=f"{objective} {metric}", metric_value=value, **data_set)
        for objective, metric, value in _metrics(summary)
        if metric != "loss" and math.isfinite(value)
    ]
    data = ModelCardData(
        library_name="mozoo",
        license=None if weights is None else "mit",
        tags=["pytorch", "multi-task-learning", "model_hub_mixin", "pytorch_model_hub_mixin", *names],
        metrics=list(dict.fromkeys(result.metric_type for result in results)),
        model_name="-".join(names) if results else None,
        eval_results=results or None,
    )
    return data.to_yaml()


def _metrics(summary: Mapping[str, Any]) -> Iterator[tuple[str, str, float]]:
    for key, value in summary["metrics"].items():
        name = ResultKey.parse(key)
        yield name.objective, name.metric, math.nan if value is None else value


def _results(summary: Mapping[str, Any]) -> str:
    rows = "\n".join(
        f"| {objective} | {metric} | {f'{value:.4g}' if math.isfinite(value) else 'not finite'} |"
        for objective, metric, value in _metrics(summary)
    )
    return f"On the test split, evaluated {summary['tested']}:\n\n| objective | metric | value |\n|---|---|---|\n{rows}"


def _usage(summary: Mapping[str, Any], model: Any, task: Task, weights: str | None) -> str:
    imports = "import mozoo"
    words, outputs = "input=<picture, folder or table>", ""
    if isinstance(task, GanTask):
        labels = f", torch.arange(64) % {model.classes}" if model.classes else ""
        imports = f"import torch\n\n{imports}" if labels else imports
        call, words = f"samples = model.generate(model.noise(64){labels})", "samples=64"
    else:
        given = inspect.signature(type(model).forward).parameters.items()
        every = bool(getattr(model, "categories", ()))  # of numbers alone, no codes have to be given
        names = [name for name, p in given if name != "self" and (every or p.default is p.empty)]
        call = f"outputs = model({', '.join(names)})  # {model_info(summary['model']).inputs}"
        meanings = {o.name: _meaning(o) for o in task.objectives}
        if isinstance(task, PhysicsTask):  # whose losses are about outputs, and have none of their own
            meanings = dict.fromkeys(task.fields, f"a field over {' and '.join(task.coordinates)}")
        rows = "\n".join(f"| `{name}` | {meaning} |" for name, meaning in meanings.items())
        outputs = f"\n\n| output | meaning |\n|---|---|\n{rows}"
    return (
        f"```bash\n{_INSTALL}\n```\n\n"
        f'```python\n{imports}\n\nmodel = mozoo.load("{weights or _HERE}")\n{call}\n```{outputs}\n\n'
        "The model takes inputs that are prepared as in training. This command prepares them, and answers in words and in the "
        f"units of the data:\n\n```bash\nmozoo predict run={weights or _HERE} {words}\n```"
    )


def _data(summary: Mapping[str, Any], task: Task) -> str:
    source = f"The data are {task.data_source}." if task.data_source else "The data are files of those who trained it."
    return (
        f"{source} Weights are from the training split, the epoch was chosen by `trainer.monitor={summary['select']}`, and the "
        "results above are of the test split."
    )


def _intended(summary: Mapping[str, Any], objectives: Iterable[str], task: Task) -> str:
    """What the model is for, and for what nothing was measured."""
    what = (
        "samples like those of the data" if isinstance(task, GanTask) else f"predictions of {' and '.join(objectives)}"
    )
    if isinstance(task, PhysicsTask):
        what = f"values of {', '.join(task.fields)} inside of the domain of `{task.name}`"
    return (
        f"For {what}, for comparisons with other ways of balancing losses on the task `{summary['task']}`, and as the start of "
        "another training (`init=`).\n\n"
        "Out of scope: data from another source or of another kind, for which the results above say nothing, and decisions about "
        "people or safety. Calibration, robustness and fairness were not measured."
    )


def _licence(task: Task, weights: str | None) -> str:
    if weights is not None:
        return f"Model and weights are MIT. The data are {task.data_source}."
    return (
        "The code of the model is MIT. The weights are for those who trained them to license; the licence of the data may "
        "restrict what can be done with them."
    )


def _meaning(objective: Objective) -> str:
    criterion: Any = objective.criterion
    if {"classes", "ordered", "tags"} & {*getattr(criterion, "fits", ())}:
        names = criterion.classes if len(criterion.classes) <= 20 else [*criterion.classes[:19], "..."]
        what = "tags" if "tags" in criterion.fits else "classes"
        if criterion.outputs == len(criterion.classes):
            return f"logits of {len(criterion.classes)} {what}: {', '.join(names)}"
        steps = "the second of two" if "classes" in criterion.fits else "going on from each to the next of"
        return f"logits of {steps} classes: {', '.join(names)}"
    return getattr(criterion, "unit", "") or "directions"


def _origin(summary: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in summary["versions"].items())
    return (
        f"```bash\n{summary['command']}\n```\n\nCommit {summary['git'] or 'unknown'}, seed {summary['seed']}, {summary['epochs']} epochs, "
        f"{summary['steps']:,} steps, {summary['seconds']:,.0f} s of training on {summary['device']} in {summary['precision']}, "
        f"{summary['world_size']} process{'es' if summary['world_size'] > 1 else ''}. {versions}.{_changes(summary)}"
    )


def _changes(summary: Mapping[str, Any]) -> str:
    """What was different before the run was resumed, in words."""
    sentences = []
    for before, after in pairwise(summary.get("environments", [])):
        changes = differences(before, after).items()
        shown = ", ".join(f"{name} {old} before and {new} after" for name, (old, new) in changes)
        sentences.append(f" It was resumed after step {after['step']:,} with {shown}.")
    return "".join(sentences)
