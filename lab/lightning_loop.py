"""Part of ``lab/benchmark_train.py``: train.py's loop beside Lightning's Trainer.

Needs Lightning, which the extra ``loops`` installs.
"""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn

from balancing import create_balancer
from lab.timing import Seconds
from tasks import Batch

Losses = Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], Sequence[Tensor]]


class ManualLoop:
    """A model in Lightning's Trainer, without progress bar, checkpoints and validation.

    Args:
        model: Maps the inputs of a batch to outputs by name.
        losses: Of outputs and targets, in the order of ``objectives``.
        objectives: Names of the losses.
        method: Of the balancer; with ``sum``, ``manual_backward`` of the sum instead.
        optimizer: Of the model.
        schedule: Of the optimizer, by steps.
        batches: Iterated once per epoch.
        log_every: Steps between rows of ``metrics.csv``.
        sparing: Whether ``log_dict`` is called for these steps alone; Lightning's examples call it in every step, and leave it to
            the trainer to choose.
        device: Where the model is.
        folder: For ``metrics.csv``.
    """

    def __init__(
        self,
        model: nn.Module,
        losses: Losses,
        objectives: Sequence[str],
        method: str,
        optimizer: torch.optim.Optimizer,
        schedule: Any,
        batches: Iterable[Batch],
        log_every: int,
        sparing: bool,
        device: torch.device,
        folder: Path,
    ) -> None:
        self.model = _Module(model, losses, objectives, method, (optimizer, schedule), log_every if sparing else 1)
        self.batches = batches
        for name in ("lightning.pytorch", "lightning.fabric"):
            logging.getLogger(name).setLevel(logging.ERROR)
        self.trainer = lightning.Trainer(
            accelerator=device.type,
            devices=1,
            max_epochs=0,
            logger=CSVLogger(folder),
            log_every_n_steps=log_every,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            limit_val_batches=0,
        )

    def train_epoch(self) -> Seconds:
        """All batches once. Returns the seconds of Lightning's epoch, without its set-up."""
        self.trainer.fit_loop.max_epochs = self.trainer.current_epoch + 1
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about workers, which batches in memory do not need
            self.trainer.fit(self.model, self.batches)
        return self.model.seconds


def _by_name(objectives: Sequence[str], losses: Sequence[Tensor]) -> dict[str, Any]:
    return {f"loss/{name}": loss.detach() for name, loss in zip(objectives, losses, strict=True)}


class _Module(lightning.LightningModule):
    def __init__(
        self,
        model: nn.Module,
        losses: Losses,
        objectives: Sequence[str],
        method: str,
        optimization: tuple[torch.optim.Optimizer, Any],
        log_every: int,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.model, self.losses, self.objectives, self.log_every = model, losses, tuple(objectives), log_every
        self.balancer = None if method == "sum" else create_balancer(method, self.objectives)
        self.optimization, self.seconds = optimization, (0.0, 0.0)

    def configure_optimizers(self) -> Any:
        optimizer, schedule = self.optimization
        return [optimizer], [schedule]

    def on_train_epoch_start(self) -> None:
        self.started = time.perf_counter(), time.process_time()

    def on_train_epoch_end(self) -> None:
        wall, processor = self.started
        self.seconds = time.perf_counter() - wall, time.process_time() - processor

    def training_step(self, batch: Batch, index: int) -> None:
        optimizer, schedule = self.optimizers(), self.lr_schedulers()
        assert not isinstance(optimizer, list)
        assert isinstance(schedule, torch.optim.lr_scheduler.LRScheduler)
        losses = self.losses(self.model(*batch.inputs), batch.targets)
        optimizer.zero_grad()
        if self.balancer is None:
            self.manual_backward(torch.stack(list(losses)).sum())
            numbers: Callable[[], Mapping[str, Any]] = partial(_by_name, self.objectives, losses)
        else:
            numbers = self.balancer.backward(dict(zip(self.objectives, losses, strict=True))).as_dict
        optimizer.step()
        schedule.step()
        if self.trainer.global_step % self.log_every == 0:
            self.log_dict(numbers())
