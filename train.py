"""Train any model of the zoo on any task with any balancer.

python train.py                                              # shared_trunk on diamonds, equal weights; about a minute
python train.py balancer=pcgrad model.norm=layer             # another method, another option
python train.py -m balancer=sum,mgda,gradnorm seed=0,1,2     # a sweep
python train.py resume=outputs/<run>                         # go on where a run stopped, bit for bit on the CPU
python train.py init=outputs/<run> 'freeze=[trunk]'          # begin with the weights of another run, and keep its trunk
python train.py trainer.dry_run=true                         # configuration, shapes, parameter counts, memory
torchrun --nproc-per-node 4 train.py balancer=pcgrad         # several processes, each with its part of every batch
"""

from __future__ import annotations

import gc
import os
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import hydra
import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from balancing import BalanceReport, BalancingError, BilevelBalancer, MultiObjectiveModel, create_balancer
from balancing.spans import span
from mozoo import Config, ConfigError, tools
from tasks import Batch, Task
from tasks.results import ResultKey
from zoo import create_model

ALONE = tools.Processes()


def build(config: Config, processes: tools.Processes = ALONE, known: Task | None = None) -> tools.Run:
    """Make task (unless ``known``), model, balancers, optimizers: each may need those before it."""
    trainer = config.trainer
    device = tools.resolve_device(trainer.device, processes)
    if trainer.num_threads is not None:
        torch.set_num_threads(trainer.num_threads)
    tools.seed_everything(config.seed, trainer.deterministic)
    task = known or tools.make_task(config, {})
    splits = processes.main_first(lambda: task.splits(config.data_dir))
    if trainer.overfit is not None:
        splits = splits.truncate(trainer.overfit)
    splits = splits.to(device)
    name, arguments = tools.resolve_arguments("model", config.model, task, splits)
    with tools.constructing():
        model = create_model(name, **arguments)
    if not isinstance(model, MultiObjectiveModel):
        raise ConfigError(f"model {name} does not keep the contract of balancing.MultiObjectiveModel")
    with tools.constructing():
        task = task.restrict(model.objectives)
    origin = "" if config.resume else tools.initialize(model, config.init, task, splits, config.trust)
    tools.freeze(model, tools.frozen_modules(model, config.freeze))
    model = tools.place_model(model, device, trainer, processes, task.derivatives)
    ema = None if trainer.ema is None else tools.mean_weights(model, trainer.ema)
    if trainer.compile:
        tools.compile_model(model)
    per_epoch = tools.batches_per_epoch(splits.train, trainer.batch_size)
    total_steps = min(trainer.epochs * per_epoch, trainer.max_steps or sys.maxsize)
    phases = []
    for phase in model.phases:
        method, options = tools.resolve_arguments("balancer", config.balancer, task, splits, phase.objectives)
        if trainer.on_nonfinite == "skip":
            options["on_nonfinite"] = "skip"
        with tools.constructing():
            balancer = create_balancer(method, phase.objectives, **options)
        tools.check_balancer(balancer, trainer, processes, task, model)
        if not balancer.measures:
            balancer.to(device)  # weights of losses are computed where the losses are, without waiting for the device
        phases.append(tools.build_phase_optimizer(model, phase, balancer, config, total_steps))
    parts = config, task, splits, model, arguments, phases, tools.Precision(trainer.precision, device), device
    return tools.Run(*parts, per_epoch, total_steps, tools.State(), processes, ema, origin)


def train_step(run: tools.Run, batch: Batch) -> list[BalanceReport]:
    """One update, phase by phase: losses become gradients, gradients become steps."""
    trainer, precision = run.config.trainer, run.precision
    reports: dict[str, BalanceReport] = {}  # of the last update of each phase
    for optimizer in [each for each in run.phases for _ in range(each.phase.steps)]:
        optimizer.zero_grad()
        tools.draw_preference(run.model, optimizer.balancer)
        if isinstance(optimizer.balancer, BilevelBalancer):
            report = look_ahead(run, optimizer, optimizer.balancer, batch)
            parts: list[Batch] = []
        else:
            parts = tools.micro_batches(batch, trainer.grad_accum_steps)
        shares = tools.label_shares(run.task, parts, optimizer.phase.objectives, run.processes)
        conflicts = tools.measured_conflicts(run, optimizer)
        for index, piece in enumerate(parts):
            with span("forward"), precision.autocast():
                values, features = run.task.losses(run.model, piece, optimizer.phase.name)
                losses = tools.present_losses(run.task, piece, values, run.sparse, run.processes)
            weighed = tools.weigh_losses(losses, shares and [shares[index]])
            conflicts.add(weighed)
            report = optimizer.balancer.backward(
                weighed,
                shared=optimizer.shared,
                parameters=None if optimizer.phase.networks is None else optimizer.parameters,
                features=features,
                scaler=precision.scaler,
                groups=optimizer.groups,
                last=index == len(parts) - 1,
            )
        report = conflicts.added_to(report)
        if report.skipped and not report.overflow:
            optimizer.zero_grad()  # of earlier micro-batches
        with span("optimizer"):
            moved = precision.step(
                optimizer.optimizers.values(), optimizer.parameters, trainer.max_grad_norm, trainer.on_nonfinite
            )
        if not moved:
            report = replace(report, skipped=True, overflow=precision.scaler is not None)
        if optimizer.balancer.observes and not report.skipped:
            with torch.no_grad(), precision.autocast():
                values = run.task.losses(run.model, batch, optimizer.phase.name)[0]
                losses = tools.present_losses(run.task, batch, values, run.sparse, run.processes)
                optimizer.balancer.observe(tools.weigh_losses(losses, shares))
        if optimizer.balancer_optimizer is not None and not report.skipped:
            optimizer.balancer_optimizer.step()
        reports[optimizer.phase.name] = report
    if run.ema is not None:
        run.ema.update(run.model, run.state.step + 1)
    return list(reports.values())


def look_ahead(
    run: tools.Run, optimizer: tools.PhaseOptimizer, balancer: BilevelBalancer, batch: Batch
) -> BalanceReport:
    """A bilevel step: one half of the batch trains the model, the other evaluates that."""
    half, other = tools.micro_batches(batch, 2)

    def losses(model: torch.nn.Module, piece: Batch) -> dict[str, Tensor | None]:
        with run.precision.autocast():
            values = run.task.losses(model, piece, optimizer.phase.name)[0]
        shares = tools.label_shares(run.task, [piece], optimizer.phase.objectives, run.processes)
        present = tools.present_losses(run.task, piece, values, run.sparse, run.processes)
        return dict(tools.weigh_losses(present, shares))

    chosen = None if optimizer.phase.networks is None else optimizer.parameters
    return balancer.meta_backward(
        run.model, lambda net: losses(net, half), lambda net: losses(net, other), lr=optimizer.lr, parameters=chosen
    )


def train_epoch(
    run: tools.Run, folder: Path, tracker: tools.Tracker | None, display: tools.Display, stop: tools.StopRequest
) -> None:
    """Train the steps that are left of the current epoch, or until a request to stop."""
    state, trainer = run.state, run.config.trainer
    start = state.step - state.epoch * run.steps_per_epoch
    end = min((state.epoch + 1) * run.steps_per_epoch, run.total_steps)
    run.train_mode()
    clock, first = time.perf_counter(), state.step
    for batch in tools.epoch_batches(run, state.epoch, start):
        if state.step >= end or stop.agreed():
            break
        for optimizer in run.phases:
            optimizer.schedule(state.step, 0.5**state.rollbacks)
        try:
            reports = train_step(run, batch)
        except (BalancingError, FloatingPointError) as error:
            raise tools.locate(run, error) from None
        state.step += 1
        for optimizer, report in zip(run.phases, reports, strict=True):
            phase = optimizer.phase.name
            state.add(phase, report)
            measured = trainer.measure_conflicts and (state.step - 1) % trainer.measure_conflicts == 0
            if tracker is not None and (measured or state.step % trainer.log_every == 0):
                tracker.log_report(state.step, state.epoch + 1, phase, report)
        if trainer.save_every and state.step % trainer.save_every == 0 and state.step < end:
            state.seconds, clock = state.seconds + time.perf_counter() - clock, time.perf_counter()
            first = state.step
            save(run, folder, tracker)
        if display.live and state.step % 10 == 0:
            speed = (state.step - first) / (time.perf_counter() - clock)
            display.step(state.step, state.epoch + 1, tools.mean_losses(run), speed, reports)
    tools.synchronize(run.device)
    state.seconds += time.perf_counter() - clock


def evaluate(run: tools.Run, name: str, stop: tools.StopRequest) -> tools.Evaluation | None:
    """Losses and metrics over the split ``name``, or ``None`` if stopped before its end."""
    tools.average_batchnorm_buffers(run)
    size, workers = tools.evaluation_size(run.config), run.config.trainer.num_workers
    return tools.evaluate(run.trained, run.task, run.splits, size, run.precision, workers, stop, name, run.processes)


def save(run: tools.Run, folder: Path, tracker: tools.Tracker | None) -> None:
    """Write ``last.pt``, and the tables up to the same step."""
    tools.average_batchnorm_buffers(run)
    if tracker is not None:
        tracker.flush()
        tools.save_checkpoint(folder / "last.pt", tools.checkpoint_state(run))


def finish_epoch(
    run: tools.Run,
    folder: Path,
    tracker: tools.Tracker | None,
    display: tools.Display,
    selector: tools.Selector,
    stop: tools.StopRequest,
) -> None:
    """Validate, keep the best weights, write the numbers; nothing if stopped meanwhile."""
    state = run.state
    validation = evaluate(run, "val", stop)
    if validation is None:
        return
    means = {str(ResultKey(name, "loss")): mean for name, mean in tools.mean_losses(run).items()}
    state.epoch, state.sums, state.counts, state.absences = state.epoch + 1, {}, {}, {}
    for optimizer in run.phases:
        optimizer.balancer.next_epoch()
    state.seen = selector.remember(state.seen, validation.values)
    score = selector.score(validation.values, state.epoch, state.seen)
    better = score < state.best or state.epoch == 1
    if better:
        state.best, state.best_epoch = score, state.epoch
    if tracker is not None:
        for split, values in (("train", means), ("val", validation.values)):
            tracker.log_metrics(state.epoch, state.step, split, state.seconds, run.phases[0].lr, values)
        if better:
            tools.save_weights(folder / "best", run.trained, tools.model_config(run))
    epochs = -(-run.total_steps // run.steps_per_epoch) + (run.config.trainer.lbfgs_steps is not None)
    display.epoch(state.epoch, epochs, means, validation.values, state.best_epoch == state.epoch)


def run(config: Config, processes: tools.Processes = ALONE) -> dict[str, Any]:
    """Train, select on the validation split, test once. Returns the content of ``summary.json``.

    Raises ConfigError or DataError before anything is written if the run cannot start.
    """
    with tools.only_writer(Path(config.resume) if config.resume and processes.main else None):
        return _run(config, processes)


def _run(config: Config, processes: tools.Processes) -> dict[str, Any]:
    saved = tools.load_checkpoint(Path(config.resume, "last.pt")) if config.resume else None
    known = tools.make_task(config, tools.saved_state(Path(config.resume), saved)) if config.resume and saved else None
    job = build(config, processes, known)
    selector = tools.Selector(config.trainer.monitor, job.task, job.splits)
    if config.trainer.dry_run:
        return tools.describe_run(job, train_step)
    name = f"{config.model['name']}-{config.task['name']}-{config.balancer['name']}"
    with tools.StopRequest(processes) as stop, tools.run_folder(job, name) as folder:
        if config.trainer.profile is not None:
            return tools.profile_run(job, train_step, folder)
        if saved is not None:
            tools.restore(job, saved)
            tools.complete_folder(job, folder)
            tools.extend(job, folder, saved)
        else:
            job.state.command = tools.training_command(folder)
            if processes.main:
                tools.write_text(folder / "config.yaml", OmegaConf.to_yaml(asdict(config)))
        with tools.Display(job.total_steps, job.state.step) as display:
            display.say(f"{name} on {tools.describe_device(job.device)}: {job.total_steps} steps, writing to {folder}")
            display.say("".join(f"  {note}\n" for note in job.notes), end="")
            return fit(job, folder, selector, display, stop, saved is not None)


def fit(
    job: tools.Run,
    folder: Path,
    selector: tools.Selector,
    display: tools.Display,
    stop: tools.StopRequest,
    resumed: bool,
) -> dict[str, Any]:
    """Train the epochs that are left, test, write. Returns the content of ``summary.json``."""
    config = job.config
    tracker = tools.open_tracker(job, folder, resumed)
    test = None
    try:
        if not resumed and config.trainer.on_nonfinite == "rollback":
            save(job, folder, tracker)
        while job.state.epoch * job.steps_per_epoch < job.total_steps:
            try:
                train_epoch(job, folder, tracker, display, stop)
            except tools.Diverged as error:
                tracker = tools.roll_back(job, folder, tracker, error)
                display.say(f"{error}; back to step {job.state.step}, with half the learning rate")
                continue
            if not stop.agreed():
                finish_epoch(job, folder, tracker, display, selector, stop)
            save(job, folder, tracker)
            if stop.agreed():
                break
        if tools.finish(job, stop):
            finish_epoch(job, folder, tracker, display, selector, stop)
        if not stop.agreed():
            tools.load_weights(folder / "best", job.trained)
            test = evaluate(job, "test", stop)
        if test is not None:
            test.values = selector.results(test.values, job.state.seen)
        state, summary = job.state, tools.summarize(job, test.values if test else {})
        if tracker is not None:
            if test is not None:
                tracker.log_metrics(state.best_epoch, state.step, "test", state.seconds, job.phases[0].lr, test.values)
            tracker.write_summary(summary)
    finally:
        if tracker is not None:
            tracker.close()
    if test is not None:
        if tracker is not None:
            size = tools.evaluation_size(job.config)
            shares = tools.expert_shares(job.trained, job.task, job.splits.test, size, job.precision.device)
            tools.write_report(folder, job.task, test.predictions, tools.sample_pictures(job), shares)
            tools.write_model_card(folder / "best", summary, job.trained, job.task)
        display.results(f"test split, evaluated {summary['tested']}", test.values)
        speed = f"{summary['seconds']:.1f} s of training, {summary['samples_per_second']:.0f} samples/s"
        display.say(f"{speed}; open {folder / 'report.html'}")
    else:
        if tracker is not None:
            tools.write_report(folder, job.task, {})
        display.say(
            f"stopped at step {state.step} of {job.total_steps}; go on with: {tools.resume_command(folder, config.imports)}"
        )
    return summary


@hydra.main(version_base="1.3", config_path=str(tools.CONFIG_DIR), config_name="train")
def _main(composed: DictConfig) -> float | None:
    with tools.job():  # in here, as hydra adds lines of its own to an exception that leaves a job
        config = tools.validate(tools.resumed_config(composed, HydraConfig.get().overrides.task))
        with tools.interruptible(), tools.own_threads(), tools.join_processes(asdict(config)) as processes:
            summary = run(config, processes)
        if summary["status"] == "stopped":
            sys.exit(0)  # also ends a sweep
        return summary.get("score")
    return float("inf")  # of a run that failed, to a search that goes on


def main() -> None:
    """Entry point; exit code 2 with one message for bad input, 1 for a step that failed."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # hydra hands its exceptions over instead of printing them
    gc.freeze()  # what was imported stays: without this, every full collection looks through it for a tenth of a second
    with tools.reporting():
        tools.check_command(sys.argv[1:])
        tools.mend_help()
        _main()
    tools.end_of_sweep()


if __name__ == "__main__":
    main()
