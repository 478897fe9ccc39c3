"""L-BFGS after the last epoch: rounds of many small steps on samples that stay the same.

The sum of the losses is minimized, with the weights that the balancer gives to them at the start, or equal ones if it gives
none; a balancer that found new ones in between would change what the curvature was estimated for. Arithmetic is in float64,
without which the line search soon finds nothing better (not on mps, which has none). The model is in eval mode, so that
dropout does not disturb it.
A round has 250 iterations at most and begins anew, with the samples of another epoch: one set of points alone is fitted where
the points are, and not between them.
Nothing of this is in a checkpoint: ``last.pt`` is that of the last epoch, and a run that is stopped here, or resumed later,
repeats it whole, with the same result.
"""

from __future__ import annotations

import copy
import time

import torch
from torch import Tensor

from mozoo.data import present_losses, training_batches
from mozoo.device import synchronize
from mozoo.interrupts import StopRequest
from mozoo.run import Run
from tasks import Batch

_ROUND = 250  # iterations with the same samples
_CHUNK = 25  # iterations between two looks at a request to stop
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
    batch = _samples(run, 0)
    weights = _weights(run, batch)
    exact = torch.float32 if run.device.type == "mps" else torch.float64
    run.model.to(exact)
    done, number = 0, 0
    while done < steps and not stop.agreed():
        batch = _cast(_samples(run, number), exact)
        done += _minimize(run, batch, weights, min(_ROUND, steps - done), stop) or steps
        number += 1
    phase.zero_grad()
    losses = torch.stack([loss.detach() for loss in _losses(run, batch)]).float()
    run.model.to(torch.float32)
    run.state.sums, run.state.counts, run.state.absences = {phase.phase.name: losses}, {phase.phase.name: 1}, {}
    synchronize(run.device)
    run.state.seconds += time.perf_counter() - clock
    return not stop.agreed()


def _minimize(run: Run, batch: Batch, weights: list[float], steps: int, stop: StopRequest) -> int:
    """Up to ``steps`` iterations on these samples; how many there were.

    They end where there is no better point along the line, or a number that is not finite.
    """
    phase = run.phases[0]
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

    best, done = float(closure()), 0
    while done < steps and not stop.agreed():
        before = copy.deepcopy(run.model.state_dict())
        optimizer.param_groups[0]["max_iter"] = min(_CHUNK, steps - done)
        optimizer.step(closure)
        value = float(closure())
        if not value < best:
            run.model.load_state_dict(before)
            break
        best, done = value, int(optimizer.state[phase.parameters[0]]["n_iter"])
    return done


def _samples(run: Run, number: int) -> Batch:
    """Samples for round ``number``: those of the epochs that would come next."""
    trainer, split = run.config.trainer, run.splits.train
    size = min(trainer.lbfgs_samples, len(split))  # type: ignore[arg-type]
    seed, epoch = run.config.seed, run.state.epoch + number
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


def _cast(batch: Batch, dtype: torch.dtype) -> Batch:
    def cast(tensor: Tensor) -> Tensor:
        return tensor.to(dtype) if tensor.is_floating_point() else tensor

    return Batch(tuple(map(cast, batch.inputs)), {name: cast(labels) for name, labels in batch.targets.items()})
