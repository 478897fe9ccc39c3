"""Impressions: which are clicked, and which clicks become conversions?

Users see items at positions of a page. A click depends on how well the item suits the user, on its appeal and on the position;
a conversion, which needs a click, on how well it suits the user, on its quality, which goes with its appeal, and on its price.
So what is clicked converts more often than what is not: a conversion rate that is learned from clicks alone is asked about
impressions that are unlike them. The rates are the generator's, so predictions are compared with the true conversion rate of
every impression, clicked or not.

Inputs: position and price, standardized, and codes of user, item and kind of item. Objectives: ``click`` and ``conversion``, a logit
each. With ``labels=all`` the conversion of an impression that is not clicked is "no", and the rate after a click is the quotient
of both predictions; with ``labels=clicked`` it is absent, and the logit is that of the rate after a click. Evaluations add ``cvr``,
that rate over all impressions of a split. No loss and no choice of an epoch looks at it.
Setting: X. Ma et al., "Entire Space Multi-Task Model", SIGIR 2018 (arXiv:1804.07931), whose data have no true rates.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tasks.criteria import BinaryCrossEntropy, SquaredError
from tasks.metrics import MetricSpec, absolute_error, metric
from tasks.registry import register_task
from tasks.task import Batch, Objective, Splits, Task, TensorData

_RATE = "cvr"
_TASTES, _POSITIONS = 4, 10
_CORRELATION = 0.8  # of appeal and quality


@register_task("impressions")
class Impressions(Task):
    """Clicks and conversions of generated impressions, with the true conversion rate of each.

    Args:
        samples: Impressions to train on; a fifth as many are for validation and as many for the test.
        users: Number of users, each with a taste.
        items: Number of items, some of which are shown much more often than others.
        click_rate: Mean rate of clicks.
        conversion_rate: Mean rate of conversions after a click, over all impressions.
        labels: Which impressions have a label of conversion: ``all``, or ``clicked`` ones.
        data_seed: Of the users, items and impressions.

    Raises:
        ValueError: A count below 10, or a rate outside (0, 1).
    """

    def __init__(
        self,
        samples: int = 100_000,
        users: int = 4_000,
        items: int = 1_000,
        click_rate: float = 0.05,
        conversion_rate: float = 0.05,
        labels: Literal["all", "clicked"] = "all",
        data_seed: int = 0,
    ) -> None:
        if min(samples, users, items) < 10:
            raise ValueError(
                f"impressions: samples, users and items must be at least 10, got {samples}, {users} and {items}"
            )
        for name, rate in (("click_rate", click_rate), ("conversion_rate", conversion_rate)):
            if not 0 < rate < 1:
                raise ValueError(f"impressions: {name} must be in (0, 1), got {rate}")
        self.samples, self.users, self.items = samples, users, items
        self.click_rate, self.conversion_rate = click_rate, conversion_rate
        self.labels, self.data_seed = labels, data_seed
        names = ("click", "conversion")
        self.info = {"in_features": 2, "classifiers": dict.fromkeys(names, 1), "regressors": {}}
        self.info |= {
            "categories": (users + 1, items + 1, 2 * _TASTES + 1)
        }  # code 0 is for what is not seen in training
        if labels == "all":
            self.info |= {"stages": names}
        auroc = {"auroc": metric("classification.BinaryAUROC")}
        metrics = {"bias": _own_metric("RateBias"), "auc": _own_metric("RateAUC", True), "mae": absolute_error()}
        self.objectives = (
            *(Objective(name, BinaryCrossEntropy(("no", "yes")), auroc) for name in names),
            Objective(_RATE, SquaredError("conversion rate", complete=True), metrics),
        )

    def restrict(self, names: Collection[str]) -> Self:
        """The same task with fewer objectives; the rate stays where it follows from them."""
        needed = {"conversion"} if self.labels == "clicked" else {"click", "conversion"}
        return super().restrict({*names, _RATE} if needed <= set(names) else names)

    def load(self, data_dir: Path) -> Splits:
        """Draw the impressions; no file is read."""
        random = np.random.RandomState(self.data_seed)  # unlike Generator, it draws the same in every NumPy version
        tastes = random.standard_normal((self.users, _TASTES))
        contents = random.standard_normal((self.items, _TASTES))
        appeal, other = random.standard_normal((2, self.items))
        quality = _CORRELATION * appeal + (1 - _CORRELATION**2) ** 0.5 * other
        strongest = np.abs(contents).argmax(1)
        kinds = 2 * strongest + (contents[np.arange(self.items), strongest] > 0)
        shown = 1 / (10.0 + np.arange(self.items))
        sizes = [self.samples, self.samples // 5, self.samples // 5]
        count = sum(sizes)
        user = random.randint(self.users, size=count)
        item = random.choice(self.items, size=count, p=shown / shown.sum())
        position, price = random.randint(_POSITIONS, size=count), random.standard_normal(count)
        suits = (tastes[user] * contents[item]).sum(1) / _TASTES**0.5
        rates = {
            "click": rates_of_mean(suits + appeal[item] - 0.1 * position, self.click_rate),
            "conversion": rates_of_mean(suits + quality[item] - 0.5 * price, self.conversion_rate),
        }
        click, conversion = (torch.from_numpy(random.random_sample(count) < rate) for rate in rates.values())
        unseen = 0 if self.labels == "all" else -1
        targets = {
            "click": click.long(),
            "conversion": torch.where(click, conversion.long(), unseen),
            _RATE: torch.tensor(rates["conversion"], dtype=torch.float32)[:, None],
        }
        place = (position - (_POSITIONS - 1) / 2) / ((_POSITIONS**2 - 1) / 12) ** 0.5
        x = torch.tensor(np.stack([place, price], axis=1), dtype=torch.float32)
        codes = torch.from_numpy(1 + np.stack([user, item, kinds[item]], axis=1))

        def part(rows: Tensor) -> TensorData:
            return TensorData((x[rows], codes[rows]), {name: labels[rows] for name, labels in targets.items()})

        return Splits(*map(part, torch.arange(count).split(sizes)))

    def initial_losses(self, splits: Splits) -> dict[str, float]:
        """Those of what is trained."""
        return self._trained(super().initial_losses(splits))

    def prior_losses(self, splits: Splits) -> dict[str, float]:
        """Those of what is trained, so that no choice of an epoch looks at the true rates."""
        return self._trained(super().prior_losses(splits))

    def criteria(self, outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Cross-entropies of click and conversion."""
        trained = (o for o in self.objectives if o.name != _RATE)
        return {o.name: o.criterion(outputs[o.name], targets[o.name]) for o in trained}

    def outputs(self, model: Any, batch: Batch) -> Mapping[str, Tensor]:
        """Logits, and the rate of conversions after a click."""
        outputs = dict(model(*batch.inputs))
        if any(o.name == _RATE for o in self.objectives):
            log = F.logsigmoid(outputs["conversion"].float())
            if self.labels == "all":  # a quotient in log space; that of two unrelated predictions may exceed 1
                log = (log - F.logsigmoid(outputs["click"].float())).clamp(max=0.0)
            outputs[_RATE] = log.exp()
        return outputs

    def _trained(self, values: Mapping[str, float]) -> dict[str, float]:
        return {name: value for name, value in values.items() if name != _RATE}


def rates_of_mean(logits: np.ndarray, mean: float) -> np.ndarray:
    """Sigmoids of the logits plus a constant, found by bisection, for which they have this mean."""
    low, high = -50.0, 50.0
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if _sigmoid(logits + middle).mean() < mean else (low, middle)
    return _sigmoid(logits + low)


def _sigmoid(values: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-values))


def _own_metric(name: str, higher: bool = False) -> MetricSpec:
    return MetricSpec(partial(_make, name), higher_is_better=higher)


def _make(name: str) -> Any:
    from tasks import rate_metrics  # torchmetrics takes seconds to import

    return getattr(rate_metrics, name)()
