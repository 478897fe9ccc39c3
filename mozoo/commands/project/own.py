"""A task and a model of your own, registered when mozoo imports this file."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torchmetrics import MeanAbsoluteError
from torchmetrics.classification import MulticlassAccuracy

from tasks import CrossEntropy, DataError, MetricSpec, Objective, Splits, SquaredError, Task, TensorData, register_task
from zoo import ModelInfo, TrunkModel, register_model

INPUTS, KINDS = 4, ("low", "middle", "high")


@register_task("own")
class Own(Task):
    """Four numbers -> ``kind`` (3 classes) and ``amount`` (a number).

    Args:
        samples: Rows that are made up; half as many are for validation, and as many for the test.
    """

    def __init__(self, samples: int = 2000) -> None:
        self.samples = samples
        self.info = {"in_features": INPUTS, "classifiers": {"kind": len(KINDS)}, "regressors": {"amount": 1}}
        accuracy = MetricSpec(lambda: MulticlassAccuracy(len(KINDS), average="micro"))
        self.objectives = (
            Objective("kind", CrossEntropy(KINDS), {"accuracy": accuracy}),
            Objective("amount", SquaredError("amount"), {"mae": MetricSpec(MeanAbsoluteError)}),
        )

    def load(self, data_dir: Path) -> Splits:
        """Three splits; here of made-up rows, in a project of data below ``data_dir``."""
        random = np.random.default_rng(0)
        return Splits(*(self._rows(random, count) for count in (self.samples, self.samples // 2, self.samples // 2)))

    def _rows(self, random: np.random.Generator, count: int) -> TensorData:
        x = random.standard_normal((count, INPUTS))
        amount = x[:, :1] * x[:, 1:2] + 0.1 * random.standard_normal((count, 1))
        kind = np.digitize(x.sum(1), [-1.0, 1.0])
        targets = {"kind": torch.tensor(kind), "amount": torch.tensor(amount, dtype=torch.float32)}
        return TensorData((torch.tensor(x, dtype=torch.float32),), targets)

    def preprocess(self, path: Path) -> TensorData:
        """Rows of a CSV file without a header, for ``mozoo predict``."""
        try:
            x = np.loadtxt(path, delimiter=",", ndmin=2, dtype=np.float32)
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: {error}") from None
        if x.shape[1] != INPUTS:
            raise DataError(f"{path} has {x.shape[1]} columns instead of {INPUTS}")
        return TensorData((torch.from_numpy(x),), {})


@register_model(
    "own_net",
    ModelInfo(
        summary="A trunk of two layers with a linear head per objective",
        inputs="x (B, in_features)",
        objectives="any number of classifiers and regressors",
        default_task="own",
        origin="ours",
    ),
)
class OwnNet(TrunkModel):
    """(B, in_features) -> logits (B, classes) per classifier, values (B, dims) per regressor."""

    def __init__(
        self, in_features: int, classifiers: Mapping[str, int], regressors: Mapping[str, int], width: int = 64
    ) -> None:
        layers = (nn.Linear(in_features, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        head = {name: nn.Linear(width, size) for name, size in {**classifiers, **regressors}.items()}
        super().__init__(nn.Sequential(*layers), head)
