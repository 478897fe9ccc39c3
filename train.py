"""Train any model of the zoo on any task with any balancer.

python train.py                                              # shared_trunk on diamonds, equal weights; about a minute
python train.py balancer=pcgrad model.norm=layer             # another method, another option
python train.py balancer=realtime task.target=price_usd      # losses seven orders of magnitude apart
python train.py -m balancer=sum,mgda,gradnorm seed=0,1,2     # a sweep
python train.py resume=outputs/<run>                         # go on where a run stopped, bit for bit on the CPU
python train.py trainer.dry_run=true                         # configuration, shapes, parameter counts, one step
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import hydra
import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

import engine
from balancing import (
    BalanceReport,
    BalancingError,
    MetaBalancer,
    MultiObjectiveModel,
    NonFiniteError,
    create_balancer,
)
from engine import Config, ConfigError
from tasks import Batch, create_task
from zoo import create_model


def build(config: Config) -> engine.Run:
    """Make task, model, balancers and optimizers, in this order: each may ask those before it."""
    trainer = config.trainer
    device = engine.resolve_device(trainer.device)
    engine.use_threads(trainer.threads)
    engine.seed_everything(config.seed, trainer.deterministic)
    with engine.constructing():
        task = create_task(**config.task)
    train = task.splits(config.data_dir).train
    task.place(device)
    name, arguments = engine.resolve_arguments("model", config.model, task)
    with engine.constructing():
        model = create_model(name, **arguments).to(device)
    if not isinstance(model, MultiObjectiveModel):
        raise ConfigError(f"model {name} does not keep the contract of balancing.MultiObjectiveModel")
    with engine.constructing():
        task.keep(model.objectives)
    if trainer.compile:
        engine.compile_model(model)
    steps_per_epoch = engine.batches_per_epoch(train, trainer.batch_size)
    total_steps = min(trainer.epochs * steps_per_epoch, trainer.max_steps or sys.maxsize)
    turns = []
    for phase in model.phases:
        method, options = engine.resolve_arguments("balancer", config.balancer, task, phase.objectives)
        with engine.constructing():
            balancer = create_balancer(method, phase.objectives, **options)
        if balancer.at == "subset" or (balancer.at == "features" and trainer.accumulate > 1):
            remedy = "it is for a loop of your own" if balancer.at == "subset" else "use trainer.accumulate=1"
            raise ConfigError(f"balancer.at={balancer.at} is not possible here: {remedy}, or use balancer.at=shared")
        if isinstance(balancer, MetaBalancer) and (
            trainer.accumulate > 1 or trainer.compile or trainer.precision == "fp16" or trainer.batch_size < 2
        ):
            raise ConfigError(
                f"balancer {method} takes virtual steps on half of each batch: it needs trainer.accumulate=1, "
                "trainer.compile=false, trainer.precision=fp32 or bf16, and trainer.batch_size of at least 2"
            )
        if not balancer.measures:
            balancer.to(device)  # weights of losses are found where the losses are, without waiting for the device
        turns.append(
            engine.build_turn(
                model, phase, balancer, config.optimizer, config.scheduler, trainer.balancer_lr, total_steps
            )
        )
    return engine.Run(
        config,
        task,
        model,
        arguments,
        turns,
        engine.Precision(trainer.precision, device),
        device,
        steps_per_epoch,
        total_steps,
        engine.State(),
    )


def train_step(run: engine.Run, batch: Batch) -> list[BalanceReport]:
    """One update: every phase takes its turn. This is where losses become gradients."""
    trainer, precision = run.config.trainer, run.precision
    reports: dict[str, BalanceReport] = {}  # of the last update of each phase
    for turn in [each for each in run.turns for _ in range(each.phase.steps)]:
        turn.zero_grad()
        if isinstance(turn.balancer, MetaBalancer):
            report = look_ahead(run, turn, turn.balancer, batch)
            parts: list[Batch] = []
        else:
            parts = engine.micro_batches(batch, trainer.accumulate)
        for index, part in enumerate(parts):
            share = engine.batch_size(part) / engine.batch_size(batch)
            with precision.autocast():
                losses, features = run.task.losses(run.model, part, turn.phase.name)
            report = turn.balancer.backward(
                losses if len(parts) == 1 else {name: share * loss for name, loss in losses.items()},
                shared=turn.shared,
                parameters=None if turn.phase.networks is None else turn.parameters,
                features=features,
                scaler=precision.scaler,
                last=index == len(parts) - 1,
            )
        if report.skipped and not report.overflow:
            turn.zero_grad()  # of earlier micro-batches
        precision.step(turn.optimizers.values(), turn.parameters, trainer.clip_norm)
        if turn.balancer.observes and not report.skipped:
            with torch.no_grad(), precision.autocast():
                turn.balancer.observe(run.task.losses(run.model, batch, turn.phase.name)[0])
        if turn.balancer_optimizer is not None and not report.skipped:
            turn.balancer_optimizer.step()
        reports[turn.phase.name] = report
    return list(reports.values())


def look_ahead(run: engine.Run, turn: engine.Turn, balancer: MetaBalancer, batch: Batch) -> BalanceReport:
    """One half of the batch trains the model, the other tells what that does to losses on data that it did not train on."""
    half, other = engine.micro_batches(batch, 2)

    def losses(model: torch.nn.Module, part: Batch) -> dict[str, Tensor]:
        with run.precision.autocast():
            return run.task.losses(model, part, turn.phase.name)[0]

    chosen = None if turn.phase.networks is None else turn.parameters
    return balancer.meta_backward(
        run.model, lambda net: losses(net, half), lambda net: losses(net, other), lr=turn.lr, parameters=chosen
    )


def train_epoch(run: engine.Run, tracker: engine.Tracker, display: engine.Display, stop: engine.StopRequest) -> None:
    """Train the steps that are left of the current epoch, or until asked to stop."""
    config, state = run.config, run.state
    start = state.step - state.epoch * run.steps_per_epoch
    end = min((state.epoch + 1) * run.steps_per_epoch, run.total_steps)
    run.model.train()
    clock, first = time.perf_counter(), state.step
    batches = engine.training_batches(
        run.task.splits(config.data_dir).train,
        config.trainer.batch_size,
        config.seed,
        state.epoch,
        start,
        run.device,
        config.trainer.workers,
    )
    for batch in batches:
        if state.step >= end or stop:
            break
        for turn in run.turns:
            turn.schedule(state.step)
        try:
            reports = train_step(run, batch)
        except (BalancingError, FloatingPointError) as error:
            diverged = isinstance(error, (NonFiniteError, FloatingPointError))
            hint = "; a lower optimizer.lr or trainer.clip_norm=1 often helps" if diverged else ""
            raise BalancingError(f"step {state.step + 1}: {error}{hint}") from None
        state.step += 1
        for turn, report in zip(run.turns, reports, strict=True):
            phase = turn.phase.name
            state.add(phase, report)
            if state.step % config.trainer.log_every == 0:
                tracker.log_balance(state.step, state.epoch + 1, phase, report.as_dict())
        if display.live and state.step % 10 == 0:
            display.step(
                state.step,
                state.epoch + 1,
                engine.mean_losses(run),
                (state.step - first) / (time.perf_counter() - clock),
            )
    engine.synchronise(run.device)
    state.seconds += time.perf_counter() - clock


def evaluate(run: engine.Run, name: str, stop: engine.StopRequest) -> engine.Evaluation | None:
    """Losses and metrics over the split ``name``, or ``None`` if asked to stop before its end."""
    split = getattr(run.task.splits(run.config.data_dir), name)
    size, workers = engine.evaluation_size(run.config), run.config.trainer.workers
    return engine.evaluate(run.model, run.task, split, size, run.precision, workers, stop, name)


def finish_epoch(
    run: engine.Run,
    folder: Path,
    tracker: engine.Tracker,
    display: engine.Display,
    selector: engine.Selector,
    stop: engine.StopRequest,
) -> None:
    """Validate, keep the best weights, write the numbers. Does nothing if asked to stop before validation ends."""
    config, state = run.config, run.state
    found = evaluate(run, "val", stop)
    if found is None:
        return
    means = {f"{name}/loss": mean for name, mean in engine.mean_losses(run).items()}
    state.epoch, state.sums, state.counts = state.epoch + 1, {}, {}
    for turn in run.turns:
        turn.balancer.next_epoch()
    lr = run.turns[0].lr
    tracker.log_metrics(state.epoch, state.step, "train", state.seconds, lr, means)
    tracker.log_metrics(state.epoch, state.step, "val", state.seconds, lr, found.values)
    score = selector.score(found.values, state.epoch)
    if score < state.best or state.epoch == 1:
        state.best, state.best_epoch = score, state.epoch
        engine.save_weights(folder / "best", run.model, {"model": config.model["name"], **run.arguments})
    training = "  ".join(f"{name} {value:.4g}" for name, value in means.items())
    validation = "  ".join(f"{name} {value:.4g}" for name, value in found.values.items())
    best = "  (best so far)" if state.best_epoch == state.epoch else ""
    display.say(
        f"epoch {state.epoch}/{-(-run.total_steps // run.steps_per_epoch)}  train {training}  |  val {validation}{best}"
    )


def run(config: Config) -> dict[str, Any]:
    """Train, select on the validation split, test once. Returns what ``summary.json`` holds.

    Raises ConfigError or DataError before anything is written if the run cannot start.
    """
    saved = engine.load_checkpoint(Path(config.resume, "last.pt")) if config.resume else None
    job = build(config)
    selector = engine.Selector(config.trainer.select, job.task)
    if config.trainer.dry_run:
        return engine.describe_run(job, train_step)
    name = f"{config.model['name']}-{config.task['name']}-{config.balancer['name']}"
    folder = Path(config.resume) if config.resume else engine.make_run_dir(name, config.seed, config.run_dir)
    if saved is not None:
        engine.restore(job, saved)
    else:
        engine.write_text(folder / "config.yaml", OmegaConf.to_yaml(asdict(config)))
    objectives = [objective for turn in job.turns for objective in turn.phase.objectives]
    done = (job.state.epoch, job.state.step) if saved is not None else None
    tracker = engine.Tracker(folder, engine.result_names(job.task), objectives, config.logger, done)
    predictions: dict[str, tuple[Tensor, Tensor]] = {}
    tested: dict[str, float] = {}
    pictures: dict[str, Any] = {}
    try:
        with engine.Display(job.total_steps, job.state.step) as display, engine.StopRequest() as stop:
            display.say(f"{name} on {engine.describe_device(job.device)}: {job.total_steps} steps, writing to {folder}")
            while job.state.epoch * job.steps_per_epoch < job.total_steps:
                train_epoch(job, tracker, display, stop)
                if not stop:
                    finish_epoch(job, folder, tracker, display, selector, stop)
                tracker.flush()
                engine.save_checkpoint(folder / "last.pt", engine.checkpoint(job))
                if stop:
                    break
            if not stop:
                engine.load_weights(folder / "best", job.model)
                found = evaluate(job, "test", stop)
                if found is not None:
                    tested, predictions = found.values, found.predictions
                    with torch.no_grad():
                        pictures = job.task.pictures(job.model.eval(), job.task.splits(config.data_dir).test)
                    tracker.log_metrics(
                        job.state.best_epoch, job.state.step, "test", job.state.seconds, job.turns[0].lr, tested
                    )
        summary = engine.summarise(job, tested)
        tracker.write_summary(summary)
    finally:
        tracker.close()
    engine.write_report(folder, job.task, predictions, pictures)
    if tested:
        display.results(f"test, weights of epoch {job.state.best_epoch}", tested)
        display.say(
            f"{summary['seconds']:.1f} s of training, {summary['samples_per_second']:.0f} samples/s; open {folder / 'report.html'}"
        )
    else:
        display.say(
            f"stopped at step {job.state.step} of {job.total_steps}; go on with: python train.py resume={folder}"
        )
    return summary


@hydra.main(version_base="1.3", config_path="configs", config_name="train")
def _main(composed: DictConfig) -> float | None:
    with engine.reporting():  # in here, as hydra adds lines of its own to an exception that leaves a job
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise ConfigError("train.py runs in one process; start it with python, not torchrun")
        resume = composed.get("resume")
        if resume:
            others = [item for item in HydraConfig.get().overrides.task if not item.startswith("resume=")]
            if others:
                raise ConfigError(f"resume keeps the configuration of {resume}; leave out {' '.join(others)}")
            composed = OmegaConf.create(engine.load_checkpoint(Path(resume, "last.pt"))["config"])
            composed.resume = resume
        summary = run(engine.validate(composed))
        if summary["status"] == "stopped":
            sys.exit(0)  # also ends a sweep
        return summary.get("score")


def main() -> None:
    """Entry point. A problem that the user can mend is one message and exit code 2; a step that failed is exit code 1."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # hydra hands its exceptions over instead of printing them
    with engine.reporting():
        _main()


if __name__ == "__main__":
    main()
