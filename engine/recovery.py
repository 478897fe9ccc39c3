"""Losses or gradients that are not finite: a message with the place, or a return."""

from __future__ import annotations

from pathlib import Path

import torch

from balancing import BalancingError, NonFiniteError
from engine.checkpoint import load_checkpoint
from engine.data import batch_indices
from engine.run import Run, open_tracker, restore
from engine.tracking import Tracker

_TRIES = 5


class Diverged(BalancingError):
    """Training met a number that is not finite."""


def locate(run: Run, error: Exception) -> BalancingError:
    """The same error with its step and, if numbers are not finite, samples and advice."""
    state = run.state
    if not isinstance(error, (NonFiniteError, FloatingPointError)):
        return BalancingError(f"step {state.step + 1}: {error}")
    split, size = run.splits.train, run.config.trainer.batch_size
    step = state.step - (isinstance(error, NonFiniteError) and error.late)
    epoch, number = divmod(step, run.steps_per_epoch)
    indices = batch_indices(split, size, run.config.seed, epoch, number).tolist()
    shown = ", ".join(map(str, indices[:8])) + (", ..." if len(indices) > 8 else "")
    hint = "; a lower optimizer.lr or trainer.max_grad_norm=1 often helps, trainer.on_nonfinite=rollback goes back by itself"
    hint = "" if run.config.trainer.on_nonfinite == "rollback" else hint
    return Diverged(f"step {step + 1}, training samples {shown}: {error}{hint}")


def roll_back(run: Run, folder: Path, tracker: Tracker | None, error: Diverged) -> Tracker | None:
    """Return to the last checkpoint, with half the learning rate. Raises ``error`` after 5.

    Returns a new tracker; the old one is closed.
    """
    if run.config.trainer.on_nonfinite != "rollback" or run.state.rollbacks == _TRIES:
        raise error
    done = run.state.rollbacks + 1
    restore(run, load_checkpoint(folder / "last.pt"))
    run.state.rollbacks = done
    torch.manual_seed(run.config.seed + done)  # other noise, in case that it was the noise
    if tracker is not None:
        tracker.close()
    return open_tracker(run, folder, resumed=True)
