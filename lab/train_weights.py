"""Trained weights of the zoo: train what is missing, fill zoo/weights, write the page.

python lab/train_weights.py                         # everything (about ten minutes on one core)
python lab/train_weights.py shared_trunk.diamonds   # some of it
python lab/train_weights.py --collect               # train nothing; take finished runs, and write the page
python lab/train_weights.py --cards                 # only write the model cards again

Another entry is a line of lab/train_weights.yaml. Runs are kept in outputs/weights/, and an interrupted command goes on where it
stopped. Weights that zoo/weights has from the same command are not trained again; delete their folder for that. They are stored
in half precision if that changes no test result by more than a thousandth, else with their small tensors as they are, else all so.
"""

from __future__ import annotations

import json
import math
import shutil
import sys
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import mozoo
import train
from lab import command, documents, results
from lab.jobs import Training, run_missing
from mozoo import tools
from mozoo.checkpoint import write_json
from mozoo.prediction import load_predictor
from mozoo.run_evaluation import evaluate_best, evaluation_config
from tasks import create_task
from tasks.results import ResultKey, with_split
from zoo import pretrained

CONTENT: Mapping[str, Any] = results.read_yaml(Path(__file__).with_suffix(".yaml"))
#: <model>.<weights> -> overrides of ``train.py``.
WEIGHTS: Mapping[str, Sequence[str]] = CONTENT["weights"]
#: Model -> why it has no weights.
LEFT_OUT: Mapping[str, str] = CONTENT["left_out"]
LARGEST = 6_000_000  # bytes of a file
#: Size from which on a tensor is stored in half precision; they are tried in turn.
HALVED_FROM = (0, 20_000, math.inf)
TOLERANCE = 1e-3  # relative change of a test result by half precision


def main(arguments: Sequence[str] | None = None) -> None:
    """Train what is missing, pack it, write the page."""
    parser = command.parser(__doc__)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--cards", action="store_true", help="only write the model cards again")
    options = command.parse(parser, arguments, "weights", WEIGHTS)
    if options.cards:
        for name in set(options.names) & {*pretrained.list_weights()}:
            write_card(pretrained.FOLDER / name, name)
        return
    missing = {name: job(name) for name in options.names if not is_packed(name)}
    if silent := [name for name in missing if not data_of(name)]:
        sys.exit(
            f"error: {', '.join(silent)}: the task does not say its data and their licence; set data_source in its class"
        )
    failures = {} if options.collect else run_missing(missing.values(), options.processes)
    problems = [f"{name}: {problem}" for name, problem in failures.items()]
    for name, run in missing.items():
        if run.finished:
            try:
                pack(name, run)
            except ValueError as error:
                problems.append(str(error))
    documents.write("train_weights", BLOCKS)
    if problems:
        sys.exit(f"error: {'; '.join(problems)}; the same command goes on with what is missing")


def job(name: str) -> Training:
    """The run that makes the weights."""
    return Training(results.OUTPUTS / "weights" / name, tuple(WEIGHTS[name]), resume=True)


def is_packed(name: str) -> bool:
    """Whether ``zoo/weights`` has them from the command that the YAML gives."""
    return name in pretrained.list_weights() and record(name)["command"] == job(name).command


def record(name: str) -> dict[str, Any]:
    """The content of their ``summary.json``."""
    content: dict[str, Any] = json.loads((pretrained.FOLDER / name / "summary.json").read_text(encoding="utf-8"))
    return content


def data_of(name: str) -> str:
    """The data of their task, and the licence."""
    return create_task(**mozoo.compose(WEIGHTS[name]).task).data_source


def pack(name: str, run: Training) -> None:
    """Put the best weights of a finished run into ``zoo/weights``, with their results.

    Raises ValueError if they are too large.
    """
    summary = run.summary()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, name)
        shutil.copytree(run.folder / "best", folder / "best")
        config = asdict(evaluation_config(run.folder, {})) | {"run_dir": None, "resume": None}
        tools.write_text(folder / "config.yaml", OmegaConf.to_yaml(config))
        weights = load_file(folder / "best" / "model.safetensors")
        for least in HALVED_FROM:
            stored = halved(weights, least)
            if (values := store(folder, stored, summary["metrics"])) is not None:
                break
        else:
            raise ValueError(f"{name}: an evaluation of {run.folder} gives other results than its summary.json")
        size = (folder / "best" / "model.safetensors").stat().st_size
        if size > LARGEST:
            raise ValueError(
                f"{name}: {size / 1e6:.1f} MB are more than a file may have; say so in left_out, in its place"
            )
        summary |= {"metrics": values, "command": run.command, "data": data_of(name)}
        kinds = {str(tensor.dtype).removeprefix("torch.") for tensor in stored.values() if tensor.is_floating_point()}
        summary["dtype"] = " and ".join(sorted(kinds))
        summary["parameters"] = sum(tensor.numel() for tensor in weights.values())
        project = tomllib.loads((results.ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        summary["versions"] |= {"mozoo": project["version"]}
        write_json(folder / "summary.json", summary)
        write_card(folder, name)
        shutil.rmtree(pretrained.FOLDER / name, ignore_errors=True)
        shutil.copytree(folder, pretrained.FOLDER / name)


def write_card(folder: Path, name: str) -> None:
    """Write the model card of weights from the ``summary.json`` beside them."""
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    predictor = load_predictor(folder, "cpu")
    tools.write_model_card(folder / "best", summary, predictor.model, predictor.task, name)


def halved(weights: Mapping[str, Tensor], least: float) -> dict[str, Tensor]:
    """Tensors of at least so many numbers in half precision."""
    return {k: t.half() if t.is_floating_point() and t.numel() >= least else t for k, t in weights.items()}


def store(folder: Path, weights: Mapping[str, Tensor], recorded: Mapping[str, Any]) -> dict[str, float] | None:
    """Write weights into a run folder; their test results, or ``None`` if others are recorded."""
    file = folder / "best" / "model.safetensors"
    save_file(dict(weights), file)
    file.chmod(0o644)  # safetensors gives no one else the right to read it
    values = with_split(evaluate_best(train.build, folder)[1].values, "test")
    return values if all(agree(recorded[key], value) for key, value in values.items()) else None


def agree(recorded: float | None, value: float) -> bool:
    """Whether a result is the recorded one but for rounding; null stands for what is not finite."""
    return not math.isfinite(value) if recorded is None else math.isclose(recorded, value, rel_tol=TOLERANCE)


def table() -> str:
    """Names, data, test results and sizes in Markdown."""
    rows = []
    for name in [each for each in WEIGHTS if each in pretrained.list_weights()]:
        summary = record(name)
        first: dict[str, str] = {}  # objective -> its first metric
        for key, value in summary["metrics"].items():
            result = ResultKey.parse(key)
            if result.metric != "loss" and value is not None:
                first.setdefault(result.objective, f"{result.objective} {result.metric} {value:.4g}")
        size = (pretrained.FOLDER / name / "best" / "model.safetensors").stat().st_size
        cells = (
            f"`{name}`",
            summary["data"],
            ", ".join(first.values()),
            f"{summary['seconds']:.0f}",
            f"{size / 1e6:.2f}",
        )
        rows.append(cells)
    return documents.table(["weights", "trained on", "on the test split", "seconds of training", "MB"], rows)


def left_out() -> str:
    """Models without weights, and why."""
    return documents.table(["model", "why it has none"], [[f"`{name}`", why] for name, why in LEFT_OUT.items()])


BLOCKS: documents.Blocks = {"docs/weights.md": {"weights": table, "left_out": left_out}}


if __name__ == "__main__":
    main()
