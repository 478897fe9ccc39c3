"""Organs of a training run: configuration, device, precision, data, optimizers, checkpoints, tracking and the report."""

from engine.arguments import ConfigError, constructing, resolve_arguments
from engine.checkpoint import load_checkpoint, load_weights, save_checkpoint, save_weights, write_text
from engine.config import Config, compose, validate
from engine.data import Split, batch_size, batches_per_epoch, micro_batches, training_batches
from engine.device import compile_model, describe_device, resolve_device, synchronise, use_threads
from engine.dry_run import describe_run
from engine.evaluation import Evaluation, Selector, evaluate, result_names
from engine.explain import reporting
from engine.interrupts import StopRequest
from engine.optimization import Turn, build_turn
from engine.precision import Precision
from engine.progress import Display
from engine.report import write_report
from engine.run import Run, State, checkpoint, evaluation_size, mean_losses, restore, summarise
from engine.seeding import seed_everything
from engine.tracking import Tracker, make_run_dir

__all__ = [
    "Config",
    "ConfigError",
    "Display",
    "Evaluation",
    "Precision",
    "Run",
    "Selector",
    "Split",
    "State",
    "StopRequest",
    "Tracker",
    "batch_size",
    "batches_per_epoch",
    "Turn",
    "build_turn",
    "checkpoint",
    "compile_model",
    "compose",
    "constructing",
    "describe_device",
    "describe_run",
    "evaluate",
    "evaluation_size",
    "load_checkpoint",
    "load_weights",
    "make_run_dir",
    "mean_losses",
    "micro_batches",
    "reporting",
    "resolve_arguments",
    "resolve_device",
    "restore",
    "result_names",
    "save_checkpoint",
    "save_weights",
    "seed_everything",
    "summarise",
    "synchronise",
    "training_batches",
    "use_threads",
    "validate",
    "write_report",
    "write_text",
]
