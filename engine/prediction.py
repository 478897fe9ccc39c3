"""Predictions of the best weights of a run, for files of a user, in units of the data.

    best/config.json -> task, with its preprocessing state, and model
    picture or CSV -> task.preprocess -> model -> task.decode -> Prediction; a GAN: noise -> task.sample

The training data are not needed.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from engine.arguments import ConfigError, did_you_mean
from engine.checkpoint import load_weights
from engine.data import evaluation_batches
from engine.device import resolve_device
from engine.run import Run
from engine.words import shell_word
from tasks import Prediction, Task, create_task
from tasks.gan_task import GanTask
from zoo import create_model, list_models, model_arguments
from zoo.pretrained import run_folder


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
        if (folder / "model.safetensors").is_file() and (folder / "config.json").is_file():
            return folder
    if not run.is_dir():
        named = f", or a name of weights of the zoo; {did_you_mean(str(run), list_models(pretrained=True))}"
        raise ConfigError(f"run: there is no folder {run}; it is the one that train.py said it was writing to{named}")
    if (run / "config.yaml").is_file():
        raise ConfigError(
            f"run: {run} has no weights in best/ yet, as no epoch is finished; go on with: python train.py {shell_word('resume', run)}"
        )
    inside = sorted(str(path.parent) for path in run.glob("**/best"))
    hint = f"; did you mean {', '.join(inside[-3:])}?" if inside else ", which has a config.yaml and a folder best/"
    raise ConfigError(f"run: {run} is no run folder{hint}")


def written_folder(run: str) -> Path:
    """Folder for files about a run: its own, or ``outputs/<name>`` for weights of the zoo."""
    return Path(run) if Path(run).exists() else Path("outputs", run)


@dataclass
class Predictor:
    """A trained model with its task."""

    task: Task
    model: Any  # an nn.Module that keeps the contract of balancing.MultiObjectiveModel
    device: torch.device

    @torch.no_grad()
    def predict(self, path: Any, batch_size: int = 256) -> Prediction:
        """Prediction for what ``task.preprocess`` reads. Raises DataError if it cannot be read."""
        data = self.task.preprocess(path)
        parts = []
        for batch in evaluation_batches(data.to(self.device), batch_size, self.device, workers=0):
            outputs = self.task.outputs(self.model, batch)
            parts.append(self.task.decode({name: values.float().cpu() for name, values in outputs.items()}))
        first = parts[0]
        whole = Prediction(
            {name: [cell for part in parts for cell in part.cells[name]] for name in first.cells},
            {name: np.concatenate([part.maps[name] for part in parts]) for name in first.maps},
            {name: np.concatenate([part.pictures[name] for part in parts]) for name in first.pictures},
            first.legends,
        )
        return self.task.annotate(data, whole)

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


def load_predictor(run: str | Path, device: str = "auto") -> Predictor:
    """The best model of a run or of the zoo, in eval mode. Raises ConfigError if there is none."""
    folder = best_folder(Path(run))
    with _loading(folder):
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        for module in config["imports"]:
            importlib.import_module(module)
        task = create_task(**config["task"])
        known = model_arguments(config["model"])
        # pretrained weights would be fetched, only to be replaced
        arguments = {key: value for key, value in config.items() if key in known and key != "pretrained"}
        model: Any = create_model(config["model"], **arguments)
        if config["learnt"]:
            task.load_state_dict(config["learnt"])
        task = task.restrict(model.objectives)
    load_best(folder, model)
    place = resolve_device(device)
    return Predictor(task, model.to(place).eval(), place)


@contextmanager
def _loading(folder: Path) -> Iterator[None]:
    """Turn every error of a damaged or foreign file into a ConfigError."""
    try:
        yield
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(f"run: {folder} cannot be loaded ({type(error).__name__}: {reason})") from error
