"""Losses and metrics over a whole split, and which epoch is best by them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from mozoo.arguments import ConfigError, did_you_mean
from mozoo.data import Split, evaluation_batches
from mozoo.distributed import Processes
from mozoo.interrupts import StopRequest
from mozoo.precision import Precision
from mozoo.preferences import set_preference
from tasks import Batch, Splits, Task
from tasks.results import ResultKey
from tasks.scores import delta_m


@dataclass
class Evaluation:
    """Results of a split."""

    values: dict[str, float]  # by ``<objective>/<metric>``; the loss is a metric
    predictions: dict[str, tuple[Tensor, Tensor]]  # objective -> (predictions, labels)


@torch.no_grad()
def evaluate(
    model: nn.Module,
    task: Task,
    splits: Splits,
    batch_size: int,
    precision: Precision,
    workers: int = 0,
    stop: StopRequest | None = None,
    name: str = "val",
    processes: Processes = Processes(),  # noqa: B008  it never changes
    preference: Mapping[str, float] | None = None,
) -> Evaluation | None:
    """Losses and metrics of the split ``name`` in eval mode; ``None`` after a request to stop.

    A model that reads a preference keeps ``preference``, by default an equal one.

    Losses are means over the labels that are present, whatever the batch size. Several processes share the batches, and
    all get the results of the whole split; a task that evaluates as a whole does so in every process.
    """
    device, split = precision.device, getattr(splits, name)
    metrics = {o.name: {key: spec.make().to(device) for key, spec in o.metrics.items()} for o in task.objectives}
    sums: dict[str, Any] = {o.name: 0.0 for o in task.objectives}
    counts: dict[str, Any] = {o.name: 0 for o in task.objectives}
    kept: dict[str, list[tuple[Tensor, Tensor]]] = {o.name: [] for o in task.objectives}
    set_preference(model, preference)
    was_training = model.training
    model.eval()
    try:
        with precision.autocast():
            own = task.evaluate(model, splits, name, _batches(split, batch_size, device, workers, stop, Processes()))
        if own is not None:
            return Evaluation(own, {})
        for batch in _batches(split, batch_size, device, workers, stop, processes):
            with precision.autocast():
                outputs = task.outputs(model, batch)
            for o in task.objectives:
                output, target = outputs[o.name].float(), batch.targets[o.name]
                count = o.criterion.num_labels(target)
                sums[o.name] += o.criterion(output, target) * count
                counts[o.name] += count
                prediction, label = o.criterion.labelled_pairs(output, target)
                if len(label) == 0:
                    continue
                for key, spec in o.metrics.items():
                    metrics[o.name][key].update(spec.transform(prediction), spec.transform(label))
                # maps have pictures of their own
                if output.dim() <= 2 and sum(len(p) for p, _ in kept[o.name]) < 10_000:
                    kept[o.name].append((prediction.cpu(), label.cpu()))
    except _Stopped:
        return None
    finally:
        model.train(was_training)
    sums_and_counts = torch.tensor([[sums[o.name], counts[o.name]] for o in task.objectives], device=device)
    totals = processes.all_reduce_sum(sums_and_counts)
    values: dict[str, float] = {}
    for o, (total, count) in zip(task.objectives, totals.tolist(), strict=True):
        known = count > 0
        own = {"loss": total / count if known else math.nan}
        # torchmetrics puts together what the processes saw
        own |= {key: float(m.compute()) if known else math.nan for key, m in metrics[o.name].items()}
        values |= {str(ResultKey(o.name, metric)): value for metric, value in own.items()}
    parts = processes.gather(kept)
    pairs = {o.name: [*zip(*(pair for part in parts for pair in part[o.name]), strict=True)] for o in task.objectives}
    return Evaluation(values, {key: (torch.cat(pair[0]), torch.cat(pair[1])) for key, pair in pairs.items() if pair})


@torch.no_grad()
def expert_shares(
    model: Any, task: Task, split: Split, batch_size: int, device: torch.device
) -> dict[str, dict[str, float]]:
    """Shares of the first batch of a split, from ``model.sharing``: row -> expert -> share.

    Nothing of a model that does not mix towers or experts.
    """
    if not hasattr(model, "sharing"):
        return {}
    given: list[tuple[Tensor, ...]] = []
    hook = model.register_forward_pre_hook(lambda _, inputs: given.append(inputs))
    was_training = model.training
    model.eval()
    try:
        task.outputs(model, next(evaluation_batches(split, batch_size, device, workers=0)))
        shares: dict[str, dict[str, float]] = model.sharing(*given[0])
        return shares
    finally:
        hook.remove()
        model.train(was_training)


class _Stopped(Exception):
    """A request to stop arrived."""


def _batches(
    split: Split, batch_size: int, device: torch.device, workers: int, stop: StopRequest | None, processes: Processes
) -> Iterator[Batch]:
    batches = evaluation_batches(split, batch_size, device, workers, processes)
    count = -(-len(split) // batch_size)  # type: ignore[arg-type]
    for _ in range(-(-count // processes.size)):  # as often in every process, though the last may lack a batch
        if stop is not None and stop.agreed():
            raise _Stopped
        yield from itertools.islice(batches, 1)


class Selector:
    """Rule for the best epoch by its validation results; lower scores are better.

    Args:
        rule: ``loss``: mean over objectives of the loss relative to the best constant prediction, which gives every
            objective the same weight whatever its unit. ``last``: the latest epoch. ``val/<objective>/<metric>``, or
            ``val/*/<metric>`` for the mean over objectives. Two that are published: ``gain``, mean over objectives of how much
            better the metrics are, relatively, than after the first epoch; and ``last10``, the latest epoch, and means over
            the last ten as results, for tasks whose validation split is their test split.
        task: Defines the metrics and their directions.
        splits: Its data.

    Raises:
        ConfigError: A rule that the task does not have.
    """

    def __init__(self, rule: str, task: Task, splits: Splits) -> None:
        directions = {ResultKey.parse(name): better for name, better in task.results().items()}
        self.higher = {str(key): better for key, better in directions.items() if not key.is_loss}
        chosen: dict[str, list[str]] = {}
        for key in directions:
            for objective in (key.objective, "*"):
                chosen.setdefault(str(ResultKey(objective, key.metric, "val")), []).append(str(key))
        known = {"loss", "last", "gain", "last10", *chosen}
        if type(task).evaluate is not Task.evaluate:  # it has losses while it trains only
            known = {name for name in known if not name.endswith("loss")}
        if rule not in known:
            raise ConfigError(f"trainer.monitor: task {task.name} has no rule {rule!r}; {did_you_mean(rule, known)}")
        if rule == "last10" and splits.val is not splits.test:
            raise ConfigError(
                "trainer.monitor: last10 reports validation results, so it needs a task that validates on its test split; "
                "use task.validation=0, or another rule"
            )
        self.rule = rule
        self.priors = task.prior_losses(splits) if rule == "loss" else {}
        self.chosen = chosen.get(rule, [])

    def remember(self, history: list[dict[str, float]], values: dict[str, float]) -> list[dict[str, float]]:
        """Validation results, up to this epoch, that later scores or results need."""
        if self.rule == "last10":
            return [*history, values][-10:]
        return (history or [values]) if self.rule == "gain" else []

    def score(self, values: dict[str, float], epoch: int, history: Sequence[dict[str, float]] = ()) -> float:
        """Score of an epoch's validation results; infinity for NaN."""
        if self.rule in ("last", "last10"):
            return -float(epoch)
        if self.rule == "loss":
            # labels that are all the same leave nothing to be relative to
            score = fmean(values[str(ResultKey(name, "loss"))] / (prior or 1.0) for name, prior in self.priors.items())
        elif self.rule == "gain":
            score = -self._gain(values, history[0] if history else values)
        else:
            score = fmean(-values[name] if self.higher.get(name, False) else values[name] for name in self.chosen)
        return score if not math.isnan(score) else math.inf

    def results(self, tested: dict[str, float], history: Sequence[dict[str, float]]) -> dict[str, float]:
        """Reported results: those of the best weights, or means over the history for ``last10``."""
        return {name: fmean(each[name] for each in history) for name in tested} if self.rule == "last10" else tested

    def _gain(self, values: dict[str, float], first: dict[str, float]) -> float:
        kept = [name for name in self.higher if first[name]]  # nothing is relative to zero
        then, now = ({name: each[name] for name in kept} for each in (first, values))
        return -delta_m(now, then, self.higher, "objectives") / 100 if kept else math.nan
