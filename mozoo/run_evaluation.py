"""Evaluation of the best weights of a run folder, on any split and in any protocol."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mozoo.arguments import ConfigError
from mozoo.checkpoint import saving, write_json
from mozoo.config import Config, read_yaml, saved_config, validate
from mozoo.device import describe_device
from mozoo.distributed import Processes
from mozoo.environment import command, git_commit, versions
from mozoo.evaluation import Evaluation, evaluate
from mozoo.prediction import best_folder, load_best, written_folder
from mozoo.preferences import parse_preference
from mozoo.progress import Display
from mozoo.run import Run, evaluation_size, make_task, saved_state
from mozoo.trust import check_files, check_modules, check_plain
from tasks import Task, task_arguments
from tasks.results import with_split
from zoo.pretrained import run_folder


def evaluate_run(
    build: Callable[[Config, Processes, Task], Run],
    run: str,
    split: str = "test",
    protocol: str | None = None,
    batch_size: int | None = None,
    data_dir: str | None = None,
    device: str | None = None,
    task_csv: str | None = None,
    trust: bool = False,
    preference: str | None = None,
) -> None:
    """Evaluate what ``build`` makes, print a table, write ``<run>/evaluation-<split>.json``.

    With another labelled table as ``task_csv``, all of its rows are evaluated, prepared as in training, and the file has the name
    of the table instead of a split. With a ``preference``, for a model that reads one, its numbers end the name.

    Raises ConfigError or DataError for what the user can mend.
    """
    chosen = parse_preference(preference)
    changes = {"trainer.device": device, "trainer.eval_batch_size": batch_size, "data_dir": data_dir}
    job, evaluation = evaluate_best(build, run_folder(run), split, changes, protocol, task_csv, trust, chosen)
    folder, size = written_folder(run), evaluation_size(job.config)
    shown = f", protocol {protocol}" if protocol else ""
    shown += f", preference {preference}" if chosen else ""
    title = split if task_csv is None else f"{task_csv}, {len(job.splits.test):,} rows"  # type: ignore[arg-type]
    Display(0).results(f"{title}{shown}, best weights of {Path(run)}", evaluation.values)
    result = {
        "run": str(Path(run)),
        "split": split,
        "table": task_csv,
        "notes": list(job.splits.notes) if task_csv is not None else [],
        "protocol": protocol,
        "preference": chosen,
        "batch_size": size,
        "metrics": with_split(evaluation.values, split),
        "device": describe_device(job.device),
        "precision": job.precision.name,
        "versions": versions(),
        "git": git_commit(),
        "command": command(),
    }
    name = split if task_csv is None else Path(task_csv).stem
    with saving(folder):
        folder.mkdir(parents=True, exist_ok=True)
    numbers = "_".join(f"{key}{value:g}" for key, value in (chosen or {}).items())
    path = folder / f"{'-'.join(filter(None, ('evaluation', name, protocol, numbers)))}.json"
    write_json(path, result)
    for note in job.splits.notes if task_csv is not None else ():
        print(note)
    print(f"written to {path}")


def evaluate_best(
    build: Callable[[Config, Processes, Task], Run],
    folder: Path,
    split: str = "test",
    changes: Mapping[str, Any] = MappingProxyType({}),
    protocol: str | None = None,
    task_csv: str | None = None,
    trust: bool = False,
    preference: Mapping[str, float] | None = None,
) -> tuple[Run, Evaluation]:
    """What ``build`` makes of a run folder, with the best weights, and their results on a split.

    Raises ConfigError or DataError for what the user can mend.
    """
    if split not in ("train", "val", "test"):
        raise ConfigError(f"split must be train, val or test, got {split!r}")
    check_files(folder)
    best = best_folder(folder)
    config = evaluation_config(folder, changes, protocol, trust)
    task = make_task(config, saved_state(folder, {}))
    if task_csv is not None:
        task.use_labelled(Path(task_csv), config.data_dir)
        config.trainer.overfit = None
    job = build(config, Processes(), task)
    load_best(best, job.trained)
    size, workers = evaluation_size(config), config.trainer.num_workers
    evaluation = evaluate(
        job.trained, job.task, job.splits, size, job.precision, workers, name=split, preference=preference
    )
    assert evaluation is not None  # there is no request to stop
    return job, evaluation


def evaluation_config(
    folder: Path, changes: Mapping[str, Any], protocol: str | None = None, trust: bool = False
) -> Config:
    """The configuration of a run, with ``changes`` that are not ``None``.

    Raises ConfigError, also if it names modules to import without ``trust``.
    """
    path = folder / "config.yaml"
    if not path.is_file():
        raise ConfigError(f"run: there is no {path}; an evaluation needs the whole run folder, not only best/")
    try:
        content: Any = read_yaml(path)
        check_plain(folder, content)
        content |= {"init": None, "trust": trust}  # weights are in best/, and a folder cannot trust itself
        saved: Any = saved_config(content)
        check_modules(folder, content.get("imports", []), trust)
        if protocol is not None:
            if "protocol" not in task_arguments(saved.task.name):
                raise ConfigError(f"protocol: task {saved.task.name} has no choice of protocols; leave it out")
            saved.task.protocol = protocol
        saved.model.pop("pretrained", None)  # weights that would be fetched, only to be replaced
    except (OmegaConfBaseException, AttributeError, TypeError, RecursionError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"run: {path} is damaged ({str(error).splitlines()[0]})") from None
    saved.trainer.compile = False
    for key, value in changes.items():
        if value is not None:
            OmegaConf.update(saved, key, value)
    return validate(saved)
