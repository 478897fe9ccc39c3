"""L-BFGS after the last epoch: many small steps on samples that stay the same.

The sum of the losses is minimized, with the weights that the balancer gives to them at the start, or equal ones if it gives
none; a balancer that found new ones in between would change what the curvature was estimated for. Arithmetic is in float64,
without which the line search soon finds nothing better (not on mps, which has none). The model is in eval mode, so that
dropout does not disturb it.
Nothing of this is in a checkpoint: ``last.pt`` is that of the last epoch, and a run that is stopped here, or resumed later,
repeats it whole, with the same result.
"""

from __future__ import annotations

import copy
import time

import torch
from torch import Tensor

from engine.data import present_losses, training_batches
from engine.device import synchronize
from engine.interrupts import StopRequest
from engine.run import Run
from tasks import Batch

_CHUNK = 20  # iterations between two looks at a request to stop
_HISTORY = 50


def finish(run: Run, stop: StopRequest) -> bool:
    """Take ``trainer.lbfgs_steps`` iterations; False without any, or after a request to stop.

    The losses become those of the next epoch.
    """
    steps, phase = run.config.trainer.lbfgs_steps, run.phases[0]
    if steps is None or stop.agreed():
        return False
    clock = time.perf_counter()
    run.model.eval()
    batch = _fixed_batch(run)
    weights = _weights(run, batch)
    exact = torch.float32 if run.device.type == "mps" else torch.float64
    run.model.to(exact)
    batch = Batch(tuple(_cast(x, exact) for x in batch.inputs), {k: _cast(y, exact) for k, y in batch.targets.items()})
    optimizer = torch.optim.LBFGS(
        phase.parameters,
        max_iter=_CHUNK,
        max_eval=2 * _CHUNK,
        tolerance_grad=0.0,
        tolerance_change=0.0,
        history_size=_HISTORY,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        phase.zero_grad()
        total = sum(weight * loss for weight, loss in zip(weights, _losses(run, batch), strict=True))
        assert isinstance(total, Tensor)
        total.backward()
        return total.detach()

    best, done = float("inf"), 0
    while done < steps and not stop.agreed():
        before = copy.deepcopy(run.model.state_dict())
        optimizer.param_groups[0]["max_iter"] = min(_CHUNK, steps - done)
        optimizer.step(closure)
        value = float(closure())
        if not value < best:  # no better point along the line, or a number that is not finite
            run.model.load_state_dict(before)
            break
        best, done = value, int(optimizer.state[phase.parameters[0]]["n_iter"])
    phase.zero_grad()
    losses = torch.stack([loss.detach() for loss in _losses(run, batch)]).float()
    run.model.to(torch.float32)
    run.state.sums, run.state.counts, run.state.absences = {phase.phase.name: losses}, {phase.phase.name: 1}, {}
    synchronize(run.device)
    run.state.seconds += time.perf_counter() - clock
    return not stop.agreed()


def _fixed_batch(run: Run) -> Batch:
    """Samples of the epoch that would come next."""
    trainer, split = run.config.trainer, run.splits.train
    size = min(trainer.lbfgs_samples, len(split))  # type: ignore[arg-type]
    seed, epoch = run.config.seed, run.state.epoch
    return next(training_batches(split, size, seed, epoch, 0, run.device, trainer.num_workers))


def _losses(run: Run, batch: Batch) -> list[Tensor]:
    """Those of the objectives that have labels here."""
    phase = run.phases[0].phase
    values, _ = run.task.losses(run.model, batch, phase.name)
    present = present_losses(run.task, batch, values, run.sparse, run.processes)
    return [present[name] if present[name] is not None else values[name].detach() * 0 for name in phase.objectives]  # type: ignore[misc]


def _weights(run: Run, batch: Batch) -> list[float]:
    """The balancer's weights at this point; its state stays as it is."""
    phase = run.phases[0]
    phase.zero_grad()
    values, features = run.task.losses(run.model, batch, phase.phase.name)
    losses = present_losses(run.task, batch, values, run.sparse, run.processes)
    report = phase.balancer.backward(losses, shared=phase.shared, features=features, groups=phase.groups, advance=False)
    if report.weights is None or report.skipped:
        return [1.0] * len(phase.phase.objectives)
    return report.weights.nan_to_num(0.0).tolist()


def _cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.to(dtype) if tensor.is_floating_point() else tensor
