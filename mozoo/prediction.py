"""Predictions of the best weights of a run, for files of a user, in units of the data.

    best/config.json -> task, with its preprocessing state, and model
    picture or CSV -> task.preprocess -> model -> task.decode -> Prediction; a GAN: noise -> task.sample

The training data are not needed.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from mozoo.arguments import ConfigError, did_you_mean
from mozoo.checkpoint import load_weights
from mozoo.data import evaluation_batches
from mozoo.device import resolve_device
from mozoo.preferences import set_preference
from mozoo.program import program
from mozoo.run import Run
from mozoo.transfer import stored_task
from mozoo.trust import check_files, check_modules
from mozoo.words import shell_word
from tasks import Prediction, Task, TensorData
from tasks.dense_windows import Windows
from tasks.gan_task import GanTask
from tasks.table import Table
from zoo import BaseModel, create_model, list_models, model_arguments
from zoo.pretrained import run_folder

Size = Literal["picture", "model"]


def model_config(run: Run) -> dict[str, Any]:
    """The content of ``best/config.json``, for building the model and preparing its inputs.

    Holds the arguments of ``create_model``, those of the class for its ``from_pretrained``, and the task.
    """
    return {
        "model": run.config.model["name"],
        **run.arguments,
        **(getattr(run.model, "_hub_mixin_config", None) or {}),
        "task": run.config.task,
        "learnt": run.task.state_dict(),
        "imports": run.config.imports,
    }


def best_folder(run: Path) -> Path:
    """Folder of the best weights of a run, or ``run`` if it holds some. Raises ConfigError.

    Weights of the zoo have the name of the weights in place of a folder.
    """
    run = run_folder(run)
    for folder in (run / "best", run):
        if holds_weights(folder):
            return folder
    if not run.is_dir():
        named = f", or a name of weights of the zoo; {did_you_mean(str(run), list_models(pretrained=True))}"
        raise ConfigError(f"run: there is no folder {run}; give the folder that a training has written{named}")
    if (run / "config.yaml").is_file():
        raise ConfigError(
            f"run: {run} has no weights in best/ yet, as no epoch is finished; "
            f"go on with: {program('train')} {shell_word('resume', run)}"
        )
    inside = sorted(str(path.parent) for path in run.glob("**/best"))
    hint = f"; did you mean {', '.join(inside[-3:])}?" if inside else ", which has a config.yaml and a folder best/"
    raise ConfigError(f"run: {run} is no run folder{hint}")


def holds_weights(folder: Path) -> bool:
    """Whether there are weights in ``folder``, with what describes them."""
    return (folder / "model.safetensors").is_file() and (folder / "config.json").is_file()


def written_folder(run: str) -> Path:
    """Folder for files about a run: its own, or ``outputs/<name>`` for weights of the zoo."""
    return Path(run) if Path(run).exists() else Path("outputs", run)


@dataclass
class Predictor:
    """A trained model with its task."""

    task: Task
    model: Any  # an nn.Module that keeps the contract of balancing.MultiObjectiveModel
    device: torch.device

    def predict(self, path: Any, batch_size: int = 256, size: Size = "picture") -> Prediction:
        """Prediction for what ``task.preprocess`` reads. Raises DataError if it cannot be read.

        Args:
            path: The file, or a data frame.
            batch_size: Samples that go through the model at once.
            size: Of maps: that of the ``picture``, or that at which the ``model`` was trained, of the middle of the picture where
                training samples were cut.
        """
        data: Any = self.task.preprocess(Path(path) if isinstance(path, str) else path)
        if isinstance(data, Windows):
            if size == "picture" and data.scaled:
                outputs = list(self._outputs(data, min(batch_size, 8)))
                task: Any = self.task
                return task.decode_windows(
                    data, {key: torch.cat([part[key] for part in outputs]) for key in outputs[0]}
                )
            data = data.middle()
        parts = list(map(self.task.decode, self._outputs(data, batch_size)))
        first = parts[0]
        whole = Prediction(
            {name: [cell for part in parts for cell in part.cells[name]] for name in first.cells},
            {name: np.concatenate([part.maps[name] for part in parts]) for name in first.maps},
            {name: np.concatenate([part.pictures[name] for part in parts]) for name in first.pictures},
            first.legends,
        )
        return self.task.annotate(data, whole)

    @torch.no_grad()
    def _outputs(self, data: TensorData, batch_size: int) -> Iterator[dict[str, Tensor]]:
        """Outputs of each batch, on the CPU."""
        for batch in evaluation_batches(data.to(self.device), batch_size, self.device, workers=0):
            outputs = self.task.outputs(self.model, batch)
            yield {name: values.float().cpu() for name, values in outputs.items()}

    def sample(self, count: int, seed: int = 0) -> tuple[Tensor, list[str]]:
        """Samples of a GAN, and their classes. Raises ConfigError for any other model."""
        if not isinstance(self.task, GanTask):
            raise ConfigError(
                f"input must be given, as task {self.task.name} does not generate samples: input=picture, folder or CSV"
            )
        if count < 1 or not 0 <= seed < 2**63:
            raise ConfigError(f"samples must be at least 1 and seed at least 0, got {count} and {seed}")
        return self.task.sample(self.model, count, seed)


def load_best(folder: Path, model: nn.Module) -> None:
    """Read the weights in ``folder``. Raises ConfigError for damaged ones or another model."""
    with _loading(folder):
        load_weights(folder, model)


def load(source: str | Path, trust: bool = False) -> nn.Module:
    """The trained model of a run, a folder or a name of the zoo, on the CPU and in eval mode.

    Args:
        source: A run folder or its ``best/``, a folder of ``save_pretrained``, or a name such as ``shared_trunk.diamonds``.
        trust: Whether the modules that the folder names may be imported.

    Raises ConfigError if there are no weights, damaged ones, or modules to import without ``trust``. Inputs must be prepared as
    in training; what :func:`load_predictor` returns prepares them.
    """
    folder = best_folder(Path(source))
    with _loading(folder):
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        for module in check_modules(folder, config.get("imports", []), trust):
            importlib.import_module(module)
        model = _untrained(config)
    load_best(folder, model)
    return model.eval()


def _untrained(config: Mapping[str, Any]) -> nn.Module:
    """The model that ``config.json`` names, or whose class ``save_pretrained`` stored."""
    # pretrained weights would be fetched, only to be replaced
    given = {key: value for key, value in config.items() if key != "pretrained"}
    if "model" in config:
        known = model_arguments(config["model"])
        return create_model(config["model"], **{key: value for key, value in given.items() if key in known})
    kinds = [kind for kind in _subclasses(BaseModel) if kind.__name__ == config.get("class")]
    if len(kinds) != 1:
        raise ConfigError(
            "config.json does not say which model it is; load it by its class, as in SharedTrunk.from_pretrained(folder)"
        )
    return kinds[0](**{key: value for key, value in given.items() if key != "class"})


def _subclasses(kind: Any) -> Iterator[Any]:
    for each in kind.__subclasses__():
        yield each
        yield from _subclasses(each)


def load_predictor(
    run: str | Path, device: str = "auto", preference: Mapping[str, float] | None = None, trust: bool = False
) -> Predictor:
    """The best model of a run or of the zoo, in eval mode, for a preference if it reads one.

    With ``trust`` the modules are imported that the folder names. Raises ConfigError if it names any without, if the model is
    missing or damaged, or for a preference that it does not read.
    """
    check_files(Path(run))
    folder = best_folder(Path(run))
    with _loading(folder):
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if isinstance(config, dict) and "task" not in config:
            raise ConfigError(
                f"run: {folder} holds a network without its task, as save_pretrained writes it; mozoo.load reads it, and "
                "predictions need best/ of a run"
            )
        task = stored_task(folder, trust)
        if isinstance(task, Table):
            _check_inputs(task.for_model(model_arguments(config["model"])), config)
        model: Any = _untrained(config)
        task = task.restrict(model.objectives)
    load_best(folder, model)
    set_preference(model, preference)
    place = resolve_device(device)
    return Predictor(task, model.to(place).eval(), place)


def _check_inputs(task: Table, arguments: Mapping[str, Any]) -> None:
    """Raise ValueError if the model was made for other inputs than the task prepares."""
    for key in ("in_features", "categories"):
        prepared, read = task.info.get(key), arguments.get(key)
        if prepared is not None and read is not None and prepared != (tuple(read) if key == "categories" else read):
            raise ValueError(f"the model has {key}={read}, and the inputs are prepared for {prepared}")


@contextmanager
def _loading(folder: Path) -> Iterator[None]:
    """Turn every error of a damaged or foreign file into a ConfigError."""
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(f"run: {folder} cannot be loaded ({type(error).__name__}: {reason})") from error
