"""Evaluation of the best weights of a run folder, on any split and in any protocol."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from engine.arguments import ConfigError
from engine.checkpoint import write_text
from engine.config import Config, validate
from engine.device import describe_device
from engine.environment import command, git_commit, versions
from engine.evaluation import evaluate
from engine.prediction import best_folder, load_best
from engine.progress import Display
from engine.run import Run, evaluation_size
from tasks import task_arguments
from tasks.results import with_split

__all__ = ["EvaluateOptions", "evaluate_run", "evaluation_config"]


@dataclass
class EvaluateOptions:
    run: str = MISSING
    split: str = "test"
    protocol: str | None = None
    batch_size: int | None = None
    data_dir: str | None = None
    device: str | None = None


def evaluate_run(options: EvaluateOptions, build: Callable[[Config], Run]) -> None:
    """Evaluate what ``build`` makes, print a table, write ``<run>/evaluation-<split>.json``.

    Raises ConfigError or DataError for what the user can mend.
    """
    folder, split = Path(options.run), options.split
    if split not in ("train", "val", "test"):
        raise ConfigError(f"split must be train, val or test, got {split!r}")
    best = best_folder(folder)
    config = evaluation_config(folder, options)
    run = build(config)
    load_best(best, run.trained)
    data = getattr(run.task.splits(config.data_dir), split)
    size, workers = evaluation_size(config), config.trainer.num_workers
    evaluation = evaluate(run.trained, run.task, data, size, run.precision, workers, name=split)
    assert evaluation is not None  # there is no request to stop
    protocol = f", protocol {options.protocol}" if options.protocol else ""
    Display(0).results(f"{split}{protocol}, best weights of {folder}", evaluation.values)
    # JSON has no NaN
    values = {name: value if math.isfinite(value) else None for name, value in evaluation.values.items()}
    result = {
        "run": str(folder),
        "split": split,
        "protocol": options.protocol,
        "batch_size": size,
        "metrics": with_split(values, split),
        "device": describe_device(run.device),
        "precision": run.precision.name,
        "versions": versions(),
        "git": git_commit(),
        "command": command(),
    }
    path = folder / f"{'-'.join(filter(None, ('evaluation', split, options.protocol)))}.json"
    write_text(path, json.dumps(result, indent=2) + "\n")
    print(f"written to {path}")


def evaluation_config(folder: Path, options: EvaluateOptions) -> Config:
    """The configuration of the run with the options in place. Raises ConfigError."""
    path = folder / "config.yaml"
    if not path.is_file():
        raise ConfigError(f"run: there is no {path}; an evaluation needs the whole run folder, not only best/")
    try:
        saved: Any = OmegaConf.load(path)
        if options.protocol is not None:
            if "protocol" not in task_arguments(saved.task.name):
                raise ConfigError(f"protocol: task {saved.task.name} has no choice of protocols; leave it out")
            saved.task.protocol = options.protocol
        if "pretrained" in saved.model:
            saved.model.pretrained = False  # weights that would be fetched, only to be replaced
    except (OmegaConfBaseException, YAMLError, AttributeError, TypeError) as error:
        raise ConfigError(f"run: {path} is damaged ({str(error).splitlines()[0]})") from None
    saved.trainer.compile = False
    for key, value in (("device", options.device), ("eval_batch_size", options.batch_size)):
        if value is not None:
            saved.trainer[key] = value
    if options.data_dir is not None:
        saved.data_dir = options.data_dir
    return validate(saved)
