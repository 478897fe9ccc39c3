"""Test the best weights of a run again: the numbers of its summary.json, or those of another split or protocol.

python scripts/evaluate.py run=outputs/<run>                                # the test split
python scripts/evaluate.py run=outputs/<run> split=val
python scripts/evaluate.py run=outputs/<run> protocol=mtan batch_size=2     # averages over batches, as public code
python scripts/evaluate.py run=outputs/<run> data_dir=/data device=cpu

Prints a table and writes <run>/evaluation-<split>.json, or evaluation-<split>-<protocol>.json.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import engine
import tasks
import train
from engine.command_line import read_options
from engine.environment import command, git_commit, versions
from engine.prediction import best_folder, load_best


@dataclass
class Options:
    run: str = MISSING
    split: str = "test"
    protocol: str | None = None
    batch_size: int | None = None
    data_dir: str | None = None
    device: str | None = None


def main(arguments: Sequence[str] | None = None) -> None:
    """Evaluate, print, write."""
    with engine.reporting():
        options = read_options(Options, sys.argv[1:] if arguments is None else arguments, __doc__ or "")
        evaluate(options)


def evaluate(options: Options) -> None:
    """Raises ConfigError or DataError for what the user can mend."""
    folder = Path(options.run)
    if options.split not in ("train", "val", "test"):
        raise engine.ConfigError(f"split must be train, val or test, got {options.split!r}")
    best = best_folder(folder)
    config = configuration(folder, options)
    job = train.build(config)
    load_best(best, job.trained)
    split = getattr(job.task.splits(config.data_dir), options.split)
    size, workers = engine.evaluation_size(config), config.trainer.num_workers
    found = engine.evaluate(job.trained, job.task, split, size, job.precision, workers, name=options.split)
    assert found is not None  # nobody asks to stop
    protocol = f", protocol {options.protocol}" if options.protocol else ""
    engine.Display(0).results(f"{options.split}{protocol}, best weights of {folder}", found.values)
    name = "-".join(part for part in ("evaluation", options.split, options.protocol) if part)
    result = {
        "run": str(folder),
        "split": options.split,
        "protocol": options.protocol,
        "batch_size": size,
        # JSON has no NaN
        "metrics": {
            f"{options.split}/{key}": value if math.isfinite(value) else None for key, value in found.values.items()
        },
        "device": engine.describe_device(job.device),
        "precision": job.precision.name,
        "versions": versions(),
        "git": git_commit(),
        "command": command(),
    }
    engine.write_text(folder / f"{name}.json", json.dumps(result, indent=2) + "\n")
    print(f"written to {folder / f'{name}.json'}")


def configuration(folder: Path, options: Options) -> engine.Config:
    """That of the run, with what is evaluated differently. Raises ConfigError."""
    path = folder / "config.yaml"
    if not path.is_file():
        raise engine.ConfigError(f"run: there is no {path}; an evaluation needs the whole run folder, not only best/")
    try:
        saved: Any = engine.saved_config(OmegaConf.to_container(OmegaConf.load(path)))  # type: ignore[arg-type]
        if options.protocol is not None:
            if "protocol" not in tasks.task_arguments(saved.task.name):
                raise engine.ConfigError(f"protocol: task {saved.task.name} has no choice of protocols; leave it out")
            saved.task.protocol = options.protocol
        if "pretrained" in saved.model:
            saved.model.pretrained = False  # weights that would be fetched, only to be replaced
    except (OmegaConfBaseException, YAMLError, AttributeError, TypeError) as error:
        raise engine.ConfigError(f"run: {path} is damaged ({str(error).splitlines()[0]})") from None
    saved.trainer.compile = False
    for key, value in (("device", options.device), ("eval_batch_size", options.batch_size)):
        if value is not None:
            saved.trainer[key] = value
    if options.data_dir is not None:
        saved.data_dir = options.data_dir
    return engine.validate(saved)


if __name__ == "__main__":
    main()
