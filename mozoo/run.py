"""A run: its parts, progress, checkpoint and summary, and its return from divergence."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from balancing import BalanceReport, BalancingError, BilevelBalancer, NonFiniteError
from mozoo.arguments import ConfigError, constructing
from mozoo.checkpoint import load_checkpoint, write_text
from mozoo.config import Config
from mozoo.conflicts import Conflicts, layers_of
from mozoo.data import WorkerError, batch_indices, sparse_objectives, training_batches
from mozoo.device import describe_device
from mozoo.distributed import Processes, average_buffers
from mozoo.environment import command, differences, environment, git_commit, versions
from mozoo.fine_tuning import frozen_modules
from mozoo.optimization import PhaseOptimizer, scaled_twice
from mozoo.precision import Precision
from mozoo.resuming import only_writer, resume_command, sweep
from mozoo.seeding import load_rng_state, rng_state
from mozoo.tracking import Tracker, check_empty, check_tables, make_run_dir
from mozoo.watching import LivePage
from tasks import Batch, Splits, Task, create_task
from tasks.results import with_split
from tasks.task import Pictures

if TYPE_CHECKING:
    from timm.utils import ModelEmaV3

_HOPELESS = 50  # steps in a row that are skipped
_TRIES = 5  # returns to a checkpoint


@dataclass
class State:
    """Progress of a run; ``epoch`` counts finished, evaluated epochs."""

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
    absences: dict[str, list[int]] = field(default_factory=dict)  # phase -> of how many of them an objective was absent
    made: list[dict[str, Any]] = field(default_factory=list)  # from which steps on the run had which environment
    skips: dict[str, int] = field(default_factory=dict)  # phase -> steps in a row that were skipped, until now

    def add(self, phase: str, report: BalanceReport) -> None:
        """Add the losses of a step. Raises NonFiniteError if too many steps in a row are skipped."""
        self.skips[phase] = self.skips.get(phase, 0) + 1 if report.skipped and any(report.present) else 0
        if self.skips[phase] >= _HOPELESS:
            raise NonFiniteError(
                f"step {self.step}: {_HOPELESS} steps in a row were skipped; the weights are beyond help"
            )
        if not report.skipped:
            losses = report.losses
            if not all(report.present):
                losses = losses.nan_to_num(0.0)
                rests = self.absences.setdefault(phase, [0] * len(losses))
                self.absences[phase] = [n + (not here) for n, here in zip(rests, report.present, strict=True)]
            self.sums[phase] = self.sums[phase] + losses if phase in self.sums else losses
            self.counts[phase] = self.counts.get(phase, 0) + 1


@dataclass
class Run:
    """Configuration, task, model, optimizers and progress."""

    config: Config
    task: Task
    splits: Splits
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
    origin: str = ""  # of the first weights, if they are not random

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The configuration in plain containers, as every checkpoint holds it."""
        return asdict(self.config)

    @cached_property
    def sparse(self) -> frozenset[str]:
        """Objectives of which a training batch may hold no label."""
        return sparse_objectives(self.task, self.splits.train)

    @cached_property
    def frozen(self) -> list[nn.Module]:
        """Parts that keep their weights."""
        return frozen_modules(self.model, self.config.freeze)

    @property
    def notes(self) -> list[str]:
        """What the start of a run shows of data, first weights and optimizer."""
        scaled = [scaled_twice(each.balancer, self.config.optimizer) for each in self.phases]
        return [note for note in (*self.splits.notes, self.origin, *dict.fromkeys(scaled)) if note]

    def train_mode(self) -> None:
        """Switch the model to training, but for frozen parts, which keep their statistics."""
        self.model.train()
        for module in self.frozen:
            module.eval()

    @property
    def trained(self) -> Any:
        """The network to evaluate and keep: the running mean of the weights, or else the model."""
        return self.model if self.ema is None else self.ema.module


def mean_weights(model: Any, decay: float) -> ModelEmaV3:
    """A running mean of the weights of ``model``."""
    from timm.utils import ModelEmaV3  # timm takes most of a second to import

    return ModelEmaV3(model, decay, use_warmup=True)


def make_task(config: Config, state: Mapping[str, Any]) -> Task:
    """The task of a run, with what the run knows of its data.

    Raises ConfigError for wrong options, and for a damaged state.
    """
    with constructing():
        task = create_task(**config.task)
    if state:
        with _undamaged():
            task.load_state_dict(state)
    return task


def saved_state(folder: Path, saved: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a run knows of its data; earlier versions wrote it beside the best weights only."""
    described = folder / "best" / "config.json"
    if "task" in saved or not described.is_file():
        return saved.get("task", {})
    with _undamaged(f" ({described})"):
        learnt: Mapping[str, Any] = json.loads(described.read_text(encoding="utf-8"))["learnt"]
        return learnt


@contextmanager
def _undamaged(place: str = "") -> Iterator[None]:
    """Errors in what a run knows of its data become ConfigErrors."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, OSError, RecursionError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:100]}"
        raise ConfigError(f"run: what it knows of its data{place} is damaged: {reason}; restore its folder") from error


@contextmanager
def run_folder(run: Run, name: str) -> Iterator[Path]:
    """Folder of a run, a new one unless it is resumed.

    An error before the first step is done leaves nothing in it. Raises ConfigError if it cannot be made, or is not empty.
    """
    config, main = run.config, run.processes.main
    if config.resume:
        if main:
            sweep(Path(config.resume))
        yield Path(config.resume)
        return
    chosen = None if config.run_dir is None else Path(config.run_dir)
    before = chosen is not None and os.path.isdir(chosen)  # of a Path it raises an error if the name is too long
    fresh = make_run_dir(name, config.seed, config.run_dir) if main else None
    with only_writer(fresh):
        if fresh is not None:
            check_empty(fresh)
            run.state.made = [{"step": 0, **environment()}]
        with _nothing_left(run, run.processes.broadcast(fresh), before) as folder:
            yield folder


@contextmanager
def _nothing_left(run: Run, folder: Path, before: bool) -> Iterator[Path]:
    """After an error before the first step, empty the folder; delete it if it is new."""
    try:
        yield folder
    except BaseException as error:
        if run.processes.main and run.state.step == 0:
            for path in folder.iterdir():
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)
            if not before:
                with suppress(OSError):
                    folder.rmdir()
        if isinstance(error, WorkerError) and (folder / "last.pt").is_file():
            raise WorkerError(f"{error}; then go on with: {resume_command(folder, run.config.imports)}") from None
        raise


def epoch_batches(run: Run, epoch: int, start: int = 0) -> Iterator[Batch]:
    """This process's parts of the training batches of ``epoch``, from batch number ``start`` on."""
    trainer, seed = run.config.trainer, run.config.seed
    halves = any(isinstance(optimizer.balancer, BilevelBalancer) for optimizer in run.phases)
    place = run.device, trainer.num_workers, run.processes
    return training_batches(run.splits.train, trainer.batch_size, seed, epoch, start, *place, halves)


def mean_losses(run: Run) -> dict[str, float]:
    """Training losses of the current epoch so far, of objectives that had labels."""
    state, phases = run.state, [optimizer.phase for optimizer in run.phases if optimizer.phase.name in run.state.sums]
    means: dict[str, float] = {}
    for phase in phases:
        rests = state.absences.get(phase.name, [0] * len(phase.objectives))
        for name, value, rest in zip(phase.objectives, state.sums[phase.name].tolist(), rests, strict=True):
            if state.counts[phase.name] > rest:
                means[name] = value / (state.counts[phase.name] - rest)
    return means


def evaluation_size(config: Config) -> int:
    """Without gradients, four times the training batch fits wherever training does."""
    return config.trainer.eval_batch_size or 4 * config.trainer.batch_size // config.trainer.grad_accum_steps


def average_batchnorm_buffers(run: Run) -> None:
    """Average the BatchNorm statistics of the processes, with ``trainer.batchnorm=averaged``."""
    if run.processes.size > 1 and run.config.trainer.batchnorm == "averaged":
        average_buffers(run.model)
        if run.ema is not None:
            average_buffers(run.ema.module)


def open_tracker(run: Run, folder: Path, resumed: bool) -> Tracker | None:
    """Tables of the run, with earlier rows after a resume; ``None`` but in the main process."""
    if not run.processes.main:
        return None
    objectives = [objective for optimizer in run.phases for objective in optimizer.phase.objectives]
    done = (run.state.epoch, run.state.step) if resumed else None
    measured = run.config.trainer.measure_conflicts is not None
    groups = list(dict.fromkeys(name for optimizer in run.phases for name in _groups(run, optimizer, measured)))
    live = LivePage(folder, run.task, lambda: summarize(run, {}), resumed) if run.config.trainer.watch else None
    return Tracker(folder, list(run.task.results()), objectives, run.config.logger, done, groups, measured, live)


def _groups(run: Run, optimizer: PhaseOptimizer, measured: bool) -> Iterable[str]:
    """Names of the parts of the parameters for which conflicts are counted."""
    return optimizer.groups or (layers_of(run.model, optimizer) if measured else ())


def measured_conflicts(run: Run, optimizer: PhaseOptimizer) -> Conflicts:
    """What measures the gradients of a phase, in steps that ``measure_conflicts`` chooses."""
    every, scaler = run.config.trainer.measure_conflicts, run.precision.scaler
    measures = every is not None and run.state.step % every == 0
    measures = measures and len(optimizer.phase.objectives) > 1 and len(optimizer.shared) > 0
    scale = 1.0 if scaler is None or not measures else scaler.get_scale()
    return Conflicts(run.model, optimizer, run.processes, scale, measures)


@torch.no_grad()
def sample_pictures(run: Run) -> Pictures:
    """Pictures of the task from the test split, caption -> figure."""
    return run.task.pictures(run.trained.eval(), run.splits.test)


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
        "task": run.task.state_dict(),
    }


def restore(run: Run, saved: Mapping[str, Any]) -> None:
    """Inverse of :func:`checkpoint_state`. Raises ConfigError for another model or version."""
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
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(line.strip() for line in str(error).splitlines()[:2])  # torch names the tensor in the second
        raise ConfigError(f"resume: the checkpoint does not fit what its configuration describes ({reason})") from error


def extend(run: Run, folder: Path, saved: Mapping[str, Any]) -> None:
    """Give a restored run another length than the one that it was saved with.

    Raises ConfigError if it is beyond its end, or ended within an epoch.
    """
    trainer, before, state = run.config.trainer, saved["config"]["trainer"], run.state
    if (trainer.epochs, trainer.max_steps) == (before["epochs"], before["max_steps"]):
        return
    if state.step > run.total_steps:
        behind = f"{state.step} steps of {state.epoch} epochs behind it, more than the {run.total_steps} of this length"
        raise ConfigError(f"resume: {folder} has {behind}; give it a larger one")
    if state.step < state.epoch * run.steps_per_epoch:
        raise ConfigError(f"resume: {folder} ended within an epoch, by trainer.max_steps, and can only begin again")
    state.command += f" && {command()}"
    if run.processes.main:
        write_text(folder / "config.yaml", OmegaConf.to_yaml({**run.settings, "resume": None}))


def complete_folder(run: Run, folder: Path) -> None:
    """Check or write the files that a resumed run needs besides ``last.pt``. Raises ConfigError.

    Notes what has changed since.
    """
    check_tables(folder)  # before anything is written
    if run.state.best_epoch > 0 and not (folder / "best" / "model.safetensors").is_file():
        weights = f"{folder / 'best'}, the weights of epoch {run.state.best_epoch}"
        raise ConfigError(f"resume: there is no {weights}; restore it")
    if run.processes.main and run.state.made:
        before, now = run.state.made[-1], environment()
        if changes := differences(before, now):
            run.state.made.append({"step": run.state.step, **now})
            shown = ", ".join(f"{name} {old} then, {new} now" for name, (old, new) in changes.items())
            run.origin = (
                f"changed since step {run.state.step}: {shown}; an uninterrupted run may have ended differently"
            )
    if run.processes.main and not (folder / "config.yaml").is_file():
        write_text(folder / "config.yaml", OmegaConf.to_yaml({**run.settings, "resume": None}))


def _tested(run: Run) -> str:
    """How often the test split was evaluated, and with which weights."""
    parts, epoch = run.splits, f"{run.state.best_epoch} of {run.state.epoch}"
    if run.config.trainer.monitor == "last10":
        return "after every epoch; values are means over the last ten"
    if parts.val is parts.test:
        return f"after every epoch, to choose the weights of epoch {epoch}"
    return f"once, with the weights of epoch {epoch}"


def summarize(job: Run, tested: Mapping[str, float]) -> dict[str, Any]:
    """The content of ``summary.json``."""
    config, state = job.config, job.state
    samples = min(config.trainer.batch_size, len(job.splits.train))  # type: ignore[arg-type]
    return {
        "model": config.model["name"],
        "task": config.task["name"],
        "balancer": config.balancer["name"],
        "seed": config.seed,
        "status": "finished" if tested else "stopped",
        "metrics": with_split(tested, "test"),
        "higher_is_better": with_split({name: up for name, up in job.task.results().items() if name in tested}, "test"),
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
        **({"environments": state.made} if len(state.made) > 1 else {}),
        "command": state.command,
    }


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
    done, made = run.state.rollbacks + 1, run.state.made
    restore(run, load_checkpoint(folder / "last.pt"))
    run.state.rollbacks, run.state.made = done, made
    torch.manual_seed(run.config.seed + done)  # other noise, in case that it was the noise
    if tracker is not None:
        tracker.close()
    return open_tracker(run, folder, resumed=True)
