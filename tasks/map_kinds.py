"""Kinds of maps, each with its criterion, its metrics and its mark of unknown pixels.

kind        sample                   unknown     output of the model
classes     (H, W) int16             -1          (B, classes, H, W) logits
binary      (H, W) float32, 0 or 1   NaN         (B, 1, H, W) logit
share       (H, W) float32, 0 to 1   NaN         (B, 1, H, W) logit
depth       (H, W) float32, > 0      0           (B, 1, H, W)
disparity   (H, W) float32, > 0      0           (B, 1, H, W), larger where things are closer
normals     (3, H, W) float32        (0, 0, 0)   (B, 3, H, W) unit vectors
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from balancing.registry import suggestion
from tasks.criteria import CrossEntropy, NamedCriterion, choose_criterion
from tasks.dense_criteria import Segmentation
from tasks.task import MetricSpec, Objective

Kind = Literal["classes", "binary", "share", "depth", "disparity", "normals"]
KINDS: tuple[Kind, ...] = get_args(Kind)
Protocol = Literal["pooled", "mtan"]
_CRITERIA: Mapping[Kind, tuple[str, tuple[str, ...]]] = {  # the usual one, and errors that can be named instead
    "classes": ("cross_entropy", ()),
    "binary": ("binary_map", ()),
    "share": ("share_error", ("l1", "l2", "cross_entropy")),
    "depth": ("depth_error", ("l1", "l2", "log_l1", "huber")),
    "disparity": ("depth_error", ("l1", "l2", "log_l1", "huber")),
    "normals": ("cosine", ()),
}


@dataclass(frozen=True)
class MapKind:
    """Kind of a map, the names of its classes, and the unit of its depths."""

    kind: Kind
    classes: Sequence[str] = ()
    unit: str = "m"

    def criterion(self, key: str = "task.criteria", chosen: Any = None) -> NamedCriterion:
        """The loss that a configuration chooses: a name, or a name with options.

        ``None`` is the usual one. Raises ValueError, whose message begins with ``key``, for one that is not for this kind.
        """
        usual, short = _CRITERIA[self.kind]
        section = {"name": chosen} if isinstance(chosen, str) else dict(chosen or {"name": usual})
        named = short or ("binary_cross_entropy",) * (self.kind == "binary")
        if named and (name := section.get("name")) not in (usual, *named):
            near = suggestion(str(name), named, "choose from {}")
            raise ValueError(f"{key}: {name} is no criterion for {self.kind}; {near}")
        if section.get("name") in short:  # another spelling of an option
            section = {**section, "name": usual, "error": section["name"]}
        if self.kind == "binary" and section.get("name") == "binary_cross_entropy":
            section["name"] = usual
        facts = {"unit": self.unit} if self.kind in ("depth", "disparity") else {"classes": tuple(self.classes)}
        criterion: Any = choose_criterion(key, section).build(self.kind, **facts)
        if isinstance(criterion, CrossEntropy):  # as it is for maps
            return Segmentation(criterion.classes, weights=criterion.weights, label_smoothing=criterion.label_smoothing)
        return criterion

    def metrics(self, protocol: Protocol) -> dict[str, MetricSpec]:
        """Metrics over the pixels that are known."""
        from tasks import dense_metrics  # torchmetrics takes a while to import

        if self.kind == "classes":
            return dense_metrics.segmentation_metrics(len(self.classes), protocol)
        if self.kind in ("depth", "disparity"):
            return dense_metrics.depth_metrics(protocol)
        if self.kind == "normals":
            return dense_metrics.normal_metrics(protocol)
        return dense_metrics.binary_metrics() if self.kind == "binary" else dense_metrics.share_metrics()

    def objective(self, name: str, protocol: Protocol, criterion: Any = None) -> Objective:
        """The objective that predicts this map, with the criterion that a configuration chooses."""
        return Objective(name, self.criterion(f"task.criteria.{name}", criterion), self.metrics(protocol))

    def unknown(self, height: int, width: int) -> np.ndarray:
        """A map of which no pixel is known."""
        if self.kind == "classes":
            return np.full((height, width), -1, np.int16)
        if self.kind == "normals":
            return np.zeros((3, height, width), np.float32)
        return np.full((height, width), np.nan if self.kind in ("binary", "share") else 0, np.float32)

    def known(self, values: np.ndarray) -> np.ndarray:
        """(H, W), whether each pixel of a map of a sample is known."""
        if self.kind == "classes":
            return values >= 0
        if self.kind == "normals":
            return np.asarray(values.any(axis=0))
        return ~np.isnan(values) if self.kind in ("binary", "share") else values > 0

    def head(self) -> dict[str, str | int]:
        """What a model has to know of it, an entry of ``model.maps``."""
        return {"kind": self.kind, **({"classes": len(self.classes)} if self.kind == "classes" else {})}


def model_info(maps: Mapping[str, MapKind]) -> dict[str, Any]:
    """Values of ``auto`` for models; names alone if these are the three that models know."""
    known = {"segmentation": "classes", "normals": "normals"}
    standard = all(
        o.kind in ("depth", "disparity") if n == "depth" else known.get(n) == o.kind for n, o in maps.items()
    )
    classes = len(maps["segmentation"].classes) if standard and "segmentation" in maps else None
    named = tuple(maps) if standard else {name: kind.head() for name, kind in maps.items()}
    return {"in_channels": 3, "segmentation_classes": classes, "maps": named}
