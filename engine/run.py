"""What a run is made of, where it stands, and what it remembers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from omegaconf import OmegaConf
from timm.utils import ModelEmaV3
from torch import Tensor

from balancing import BalanceReport, NonFiniteError
from engine.arguments import ConfigError
from engine.checkpoint import write_text
from engine.config import Config
from engine.data import training_batches
from engine.device import describe_device
from engine.distributed import Processes, average_buffers
from engine.environment import git_commit, versions
from engine.optimization import PhaseOptimizer
from engine.precision import Precision
from engine.seeding import load_rng_state, rng_state
from engine.tracking import Tracker
from tasks import Batch, Task

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "Run",
    "State",
    "checkpoint_state",
    "complete_folder",
    "epoch_batches",
    "evaluation_size",
    "mean_losses",
    "open_tracker",
    "restore",
    "average_batchnorm_buffers",
    "summarize",
    "sample_pictures",
]

_HOPELESS = 50


@dataclass
class State:
    """Where a run is. Steps of the current epoch follow from the total; ``epoch`` counts finished, evaluated epochs."""

    step: int = 0
    epoch: int = 0
    best: float = float("inf")
    best_epoch: int = 0
    seconds: float = 0.0
    rollbacks: int = 0
    seen: list[dict[str, float]] = field(default_factory=list)  # validation results that selection goes back to
    command: str = ""  # that repeats it from the start, also if it was resumed since
    sums: dict[str, Tensor] = field(default_factory=dict)  # phase -> (K,) sum of the training losses of this epoch
    counts: dict[str, int] = field(default_factory=dict)  # phase -> how many steps are in that sum
    skips: dict[str, int] = field(default_factory=dict)  # phase -> steps in a row that were skipped, until now

    def add(self, phase: str, report: BalanceReport) -> None:
        """Count the losses of one step, unless it was skipped. Raises NonFiniteError if nothing else ever happens."""
        self.skips[phase] = self.skips.get(phase, 0) + 1 if report.skipped else 0
        if self.skips[phase] >= _HOPELESS:
            raise NonFiniteError(
                f"step {self.step}: {_HOPELESS} steps in a row were skipped; the weights are beyond help"
            )
        if not report.skipped:
            self.sums[phase] = self.sums[phase] + report.losses if phase in self.sums else report.losses
            self.counts[phase] = self.counts.get(phase, 0) + 1


@dataclass
class Run:
    """Everything a run is made of."""

    config: Config
    task: Task
    model: Any  # an nn.Module that keeps the contract of balancing.MultiObjectiveModel
    arguments: dict[str, Any]
    phases: list[PhaseOptimizer]
    precision: Precision
    device: torch.device
    steps_per_epoch: int
    total_steps: int
    state: State
    processes: Processes
    ema: ModelEmaV3 | None

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The configuration in plain containers, as every checkpoint holds it."""
        return asdict(self.config)

    @property
    def trained(self) -> Any:
        """What is evaluated and kept: the running mean of the weights if there is one, else the model."""
        return self.model if self.ema is None else self.ema.module


def epoch_batches(run: Run, epoch: int, start: int = 0) -> Iterator[Batch]:
    """This process's parts of the training batches of ``epoch``, from batch number ``start`` on."""
    trainer, seed = run.config.trainer, run.config.seed
    split = run.task.splits(run.config.data_dir).train
    return training_batches(
        split, trainer.batch_size, seed, epoch, start, run.device, trainer.num_workers, run.processes
    )


def mean_losses(run: Run) -> dict[str, float]:
    """Training losses of the current epoch so far."""
    return {
        name: value / run.state.counts[phase]
        for phase, names in ((optimizer.phase.name, optimizer.phase.objectives) for optimizer in run.phases)
        if phase in run.state.sums
        for name, value in zip(names, run.state.sums[phase].tolist(), strict=True)
    }


def evaluation_size(config: Config) -> int:
    """Without gradients, four times the training batch fits wherever training does."""
    return config.trainer.eval_batch_size or 4 * config.trainer.batch_size // config.trainer.grad_accum_steps


def average_batchnorm_buffers(run: Run) -> None:
    """Make one set of BatchNorm statistics of those that the processes collected, if they are to be averaged."""
    if run.processes.size > 1 and run.config.trainer.batchnorm == "averaged":
        average_buffers(run.model)
        if run.ema is not None:
            average_buffers(run.ema.module)


def open_tracker(run: Run, folder: Path, resumed: bool) -> Tracker | None:
    """Tables for the run; ``None`` in a process that does not write. A resumed run keeps the rows that are behind it."""
    if not run.processes.main:
        return None
    objectives = [objective for optimizer in run.phases for objective in optimizer.phase.objectives]
    done = (run.state.epoch, run.state.step) if resumed else None
    return Tracker(folder, list(run.task.results()), objectives, run.config.logger, done)


@torch.no_grad()
def sample_pictures(run: Run) -> dict[str, Figure]:
    """What the task shows of the test split, caption -> figure."""
    return run.task.pictures(run.trained.eval(), run.task.splits(run.config.data_dir).test)


def checkpoint_state(run: Run) -> dict[str, Any]:
    """Everything that the next step depends on, in plain containers."""
    return {
        "config": run.settings,
        "model": run.model.state_dict(),
        "ema": None if run.ema is None else run.ema.module.state_dict(),
        "turns": {optimizer.phase.name: optimizer.state_dict() for optimizer in run.phases},
        "scaler": run.precision.scaler.state_dict() if run.precision.scaler else None,
        "rng": rng_state(),
        "state": dict(vars(run.state)),
    }


def restore(run: Run, saved: Mapping[str, Any]) -> None:
    """Inverse of :func:`checkpoint_state`. Raises ConfigError if it is one of another model, balancer or version."""
    try:
        run.model.load_state_dict(saved["model"])
        if run.ema is not None:
            run.ema.module.load_state_dict(saved["ema"])
        for optimizer in run.phases:
            optimizer.load_state_dict(saved["turns"][optimizer.phase.name])
        if run.precision.scaler:
            run.precision.scaler.load_state_dict(saved["scaler"])
        run.state = State(**saved["state"])
        run.state.sums = {phase: total.to(run.device) for phase, total in run.state.sums.items()}
        load_rng_state(saved["rng"])
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(line.strip() for line in str(error).splitlines()[:2])  # torch names the tensor in the second
        raise ConfigError(f"resume: the checkpoint does not fit what its configuration describes ({reason})") from error


def complete_folder(run: Run, folder: Path) -> None:
    """See to what a resumed run needs besides ``last.pt``. Raises ConfigError if its best weights are gone."""
    if run.state.best_epoch > 0 and not (folder / "best" / "model.safetensors").is_file():
        raise ConfigError(
            f"resume: there is no {folder / 'best'}, the weights of epoch {run.state.best_epoch}; restore it"
        )
    if run.processes.main and not (folder / "config.yaml").is_file():
        write_text(folder / "config.yaml", OmegaConf.to_yaml({**run.settings, "resume": None}))


def _tested(run: Run) -> str:
    """How often the test split was looked at, and what for."""
    parts, epoch = run.task.splits(run.config.data_dir), f"{run.state.best_epoch} of {run.state.epoch}"
    if run.config.trainer.monitor == "last10":
        return "after every epoch; values are means over the last ten"
    if parts.val is parts.test:
        return f"after every epoch, to choose the weights of epoch {epoch}"
    return f"once, with the weights of epoch {epoch}"


def summarize(job: Run, tested: Mapping[str, float]) -> dict[str, Any]:
    """The content of ``summary.json``."""
    config, state = job.config, job.state
    samples = min(config.trainer.batch_size, len(job.task.splits(config.data_dir).train))  # type: ignore[arg-type]
    return {
        "model": config.model["name"],
        "task": config.task["name"],
        "balancer": config.balancer["name"],
        "seed": config.seed,
        "status": "finished" if tested else "stopped",
        "metrics": {f"test/{name}": value for name, value in tested.items()},
        "epochs": state.epoch,
        "select": config.trainer.monitor,
        "tested": _tested(job),
        "best_epoch": state.best_epoch,
        "score": state.best,
        "steps": state.step,
        "seconds": round(state.seconds, 3),
        "samples_per_second": round(state.step * samples / max(state.seconds, 1e-9), 1),
        "device": describe_device(job.device),
        "precision": job.precision.name,
        "world_size": job.processes.size,
        "versions": versions(),
        "git": git_commit(),
        "command": state.command,
    }
