"""Names, units and directions of results, as pages show them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tasks import Task
from tasks.results import ResultKey, objectives_of

#: Metric -> title, and unit; ``*`` is the unit of the objective.
_METRICS: Mapping[str, tuple[str, str]] = {
    "loss": ("loss", ""),
    "accuracy": ("accuracy", ""),
    "macro_f1": ("F1, mean of classes", ""),
    "f1": ("F1", ""),
    "auroc": ("area under the ROC curve", ""),
    "kappa": ("Cohen's kappa", ""),
    "distance": ("mean distance", "classes"),
    "all_right": ("samples without an error", ""),
    "r2": ("R²", ""),
    "r2_usd": ("R² in USD", ""),
    "mae": ("mean absolute error", "*"),
    "mae_usd": ("mean absolute error", "USD"),
    "deviance": ("mean deviance", ""),
    "abs_err": ("mean absolute error", "*"),
    "rel_err": ("mean relative error", ""),
    "rmse": ("root mean square error", "*"),
    "delta1": ("within a factor of 1.25", ""),
    "delta2": ("within a factor of 1.25²", ""),
    "delta3": ("within a factor of 1.25³", ""),
    "miou": ("mean IoU", ""),
    "iou": ("IoU", ""),
    "pixel_accuracy": ("pixel accuracy", ""),
    "mean": ("mean angle", "°"),
    "median": ("median angle", "°"),
    "within_11_25": ("within 11.25°", ""),
    "within_22_5": ("within 22.5°", ""),
    "within_30": ("within 30°", ""),
    "psnr": ("PSNR", "dB"),
    "relative_l2": ("relative L2 error", ""),
    "frechet": ("Fréchet distance", ""),
    "frechet_share": ("Fréchet distance, relative", ""),
    "smallest_class": ("share of the rarest class", ""),
    "largest_class": ("share of the most frequent class", ""),
    "class_accuracy": ("class accuracy", ""),
    "modes": ("modes found", ""),
    "high_quality": ("share near a mode", ""),
    "reverse_kl": ("reverse KL divergence", "nats"),
    "auc": ("area under the ROC curve", ""),
    "bias": ("relative bias of the mean", ""),
}
#: Whether higher is better -> an arrow, with a space before.
ARROWS = {True: " ↑", False: " ↓", None: ""}


def titled(name: str) -> str:
    """``price: mean absolute error, USD`` for ``price/mae_usd``, without knowing its task."""
    key = ResultKey.parse(name)
    title, unit = _METRICS.get(key.metric, (key.metric.replace("_", " "), ""))
    return f"{key.objective}: {title}" + (f", {unit}" if unit.strip("*") else "")


class Titles:
    """Titles of the results of a task: objectives in its order, units that a user knows."""

    def __init__(self, task: Task) -> None:
        self.higher = task.results()
        self._order = [o.name for o in task.objectives]
        self._units = {o.name: _user_unit(o.unit or getattr(o.criterion, "unit", "")) for o in task.objectives}
        self._losses = {o.name: _kind(o.criterion) for o in task.objectives}

    def metric(self, metric: str) -> str:
        """Such as ``mean absolute error``, without a unit."""
        return _METRICS.get(metric, (metric.replace("_", " "), ""))[0]

    def unit(self, key: ResultKey) -> str:
        """Unit of a result; empty where it has none."""
        unit = _METRICS.get(key.metric, ("", ""))[1]
        return self._units.get(key.objective, "") if unit == "*" else unit

    def arrow(self, key: ResultKey) -> str:
        """Which direction is better, with a space before; empty if nobody said."""
        return ARROWS[self.higher.get(key.name)]

    def full(self, key: ResultKey) -> str:
        """Such as ``price: mean absolute error, USD``."""
        unit = self.unit(key)
        return f"{key.objective}: {self.metric(key.metric)}" + (f", {unit}" if unit else "")

    def comparable(self, keys: Sequence[ResultKey]) -> bool:
        """Whether a mean of these results of one metric has a meaning: same unit, same loss."""
        if keys[0].is_loss:
            return len({self._losses.get(key.objective, "") for key in keys}) == 1
        return len({self.unit(key) for key in keys}) == 1

    def sorted(self, keys: Sequence[ResultKey]) -> list[ResultKey]:
        """By objective, in the order of the task; the loss after other results."""
        objectives = objectives_of(map(str, keys))
        places = {name: i for i, name in enumerate(dict.fromkeys([*self._order, *objectives]))}
        return sorted(keys, key=lambda key: (places[key.objective], key.is_loss))


def _user_unit(unit: str) -> str:
    """Nothing for standardized numbers, in which no result is told."""
    return "" if unit.endswith("standardised") else unit


def _kind(criterion: Any) -> str:
    return f"{type(criterion).__name__} {getattr(criterion, 'unit', '')}"
