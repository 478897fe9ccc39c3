"""The typed configuration, and strict checks with one clear message each."""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

import balancing
import tasks
import zoo
from engine.arguments import ConfigError, check_arguments, did_you_mean

__all__ = ["Config", "compose", "unknown_key", "validate"]

CONFIG_DIR = Path(__file__).resolve().parent.parent / "configs"


@dataclass
class OptimizerConfig:
    name: str = "adamw"
    lr: float = 1e-3
    weight_decay: float = 0.01
    momentum: float = 0.9
    betas: list[float] | None = None
    per_network: bool = False
    network_lr: dict[str, float] | None = None


@dataclass
class SchedulerConfig:
    name: str = "cosine"
    warmup: float = 0.3
    start: float = 0.04
    end: float = 0.0
    decay_rate: float = 0.1
    decay_every: float = 0.3


@dataclass
class TrainerConfig:
    epochs: int = 30
    max_steps: int | None = None
    batch_size: int = 256
    eval_batch_size: int | None = None
    grad_accum_steps: int = 1
    device: str = "auto"
    num_threads: int | None = None
    precision: str = "fp32"
    compile: bool = False
    tf32: bool = True
    channels_last: bool = False
    grad_checkpointing: bool = False
    batchnorm: str = "averaged"
    num_workers: int = 0
    max_grad_norm: float | None = None
    on_nonfinite: str = "stop"
    ema: float | None = None
    balancer_lr: float = 0.025
    monitor: str = "loss"
    log_every: int = 10
    save_every: int | None = None
    overfit: int | None = None
    profile: int | None = None
    deterministic: bool = False
    dry_run: bool = False


@dataclass
class LoggerConfig:
    tensorboard: bool = True
    wandb: bool = False
    wandb_project: str = "mozoo"
    mlflow: bool = False
    mlflow_uri: str | None = None
    mlflow_experiment: str = "mozoo"


@dataclass
class Config:
    """Everything that ``train.py`` needs; see ``configs/`` for what each key means."""

    model: dict[str, Any] = field(default_factory=dict)
    task: dict[str, Any] = field(default_factory=dict)
    balancer: dict[str, Any] = field(default_factory=dict)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    scheduler: SchedulerConfig = field(default_factory=SchedulerConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    logger: LoggerConfig = field(default_factory=LoggerConfig)
    seed: int = 0
    data_dir: str = "data"
    run_dir: str | None = None
    resume: str | None = None
    imports: list[str] = field(default_factory=list)


def compose(overrides: Sequence[str] = ()) -> Config:
    """The configuration of ``python train.py <overrides>``, for notebooks and tests. Raises as the command would."""
    import hydra

    with hydra.initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        return validate(hydra.compose("train", overrides=list(overrides)))


def known_keys(schema: type = Config, prefix: str = "") -> list[str]:
    """Every key of the schema, dotted."""
    keys = []
    for item in fields(schema):
        keys.append(prefix + item.name)
        default = item.default_factory() if callable(item.default_factory) else None
        if is_dataclass(default):
            keys += known_keys(type(default), f"{prefix}{item.name}.")
    return keys


def unknown_key(key: str) -> str:
    """Message about a key that is not in the schema, with its nearest neighbours in the same section."""
    section = key.rpartition(".")[0]
    known = known_keys()
    siblings = [name for name in known if name.rpartition(".")[0] == section]
    return f"there is no key {key!r}; {did_you_mean(key, siblings or known)}"


def validate(composed: DictConfig) -> Config:
    """Check types, names, arguments and ranges. Raises ConfigError at the first problem."""
    plain = OmegaConf.to_container(composed, resolve=True)
    assert isinstance(plain, dict)
    plain.pop("hydra", None)
    try:
        config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Config), plain))
    except ConfigKeyError as error:
        key = str(error.full_key)
        raise ConfigError(unknown_key(key)) from None
    except OmegaConfBaseException as error:
        raise ConfigError(f"{error.full_key}: {str(error.msg).splitlines()[0]}") from None
    assert isinstance(config, Config)
    for module in config.imports:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise ConfigError(f"imports: cannot import {module!r} ({error})") from None
    _check_ranges(config)
    if config.balancer.get("before") is not None:
        config.balancer["before"] = _with_defaults(config.balancer["before"])
    for group, create in (
        ("model", zoo.model_arguments),
        ("task", tasks.task_arguments),
        ("balancer", balancing.balancer_arguments),
    ):
        section = getattr(config, group)
        try:
            parameters = create(section.get("name", ""))
        except ValueError as error:
            raise ConfigError(str(error)) from None
        check_arguments(group, section, parameters)
    return config


def _with_defaults(before: Any) -> dict[str, Any]:
    """The method that weighs losses first, with the defaults that it has when it is chosen as ``balancer``."""
    chosen = {"name": before} if isinstance(before, str) else before
    if not isinstance(chosen, dict) or not isinstance(chosen.get("name"), str):
        raise ConfigError(f"balancer.before must be a name, or a mapping with a name, got {before!r}")
    try:
        parameters = balancing.balancer_arguments(chosen["name"])
    except ValueError as error:
        raise ConfigError(f"balancer.before: {error}") from None
    file = CONFIG_DIR / "balancer" / f"{chosen['name']}.yaml"
    defaults = OmegaConf.to_container(OmegaConf.load(file)) if file.is_file() else {}
    assert isinstance(defaults, dict)
    merged = {str(key): value for key, value in (defaults | chosen).items() if key != "defaults"}
    check_arguments("balancer.before", merged, parameters)
    return merged


def _check_ranges(config: Config) -> None:
    for service in ("wandb", "mlflow"):
        found = importlib.util.find_spec(service)
        if getattr(config.logger, service) and (found is None or found.origin is None):  # a mere folder has no origin
            raise ConfigError(f"logger.{service}=true needs the package: pip install -e '.[{service}]'")
    trainer, scheduler = config.trainer, config.scheduler
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    at_least = {
        "trainer.epochs": (trainer.epochs, 1),
        "trainer.max_steps": (trainer.max_steps, 1),
        "trainer.batch_size": (trainer.batch_size, 1),
        "trainer.eval_batch_size": (trainer.eval_batch_size, 1),
        "trainer.grad_accum_steps": (trainer.grad_accum_steps, 1),
        "trainer.num_threads": (trainer.num_threads, 1),
        "trainer.num_workers": (trainer.num_workers, 0),
        "trainer.log_every": (trainer.log_every, 1),
        "trainer.save_every": (trainer.save_every, 1),
        "trainer.overfit": (trainer.overfit, max(processes, 2)),
        "trainer.profile": (trainer.profile, 1),
        "optimizer.weight_decay": (config.optimizer.weight_decay, 0),
        "seed": (config.seed, 0),
    }
    for key, (value, least) in at_least.items():
        if value is not None and not value >= least:
            raise ConfigError(f"{key} must be at least {least}, got {value}")
    if config.seed >= 2**31:
        raise ConfigError(f"seed must be below 2147483648, got {config.seed}")
    positive = {
        "optimizer.lr": config.optimizer.lr,
        "trainer.max_grad_norm": trainer.max_grad_norm,
        "trainer.balancer_lr": trainer.balancer_lr,
        "scheduler.decay_every": scheduler.decay_every,
    }
    for key, number in positive.items():
        if number is not None and not number > 0:
            raise ConfigError(f"{key} must be positive, got {number}")
    for key, share in {
        "scheduler.warmup": scheduler.warmup,
        "scheduler.start": scheduler.start,
        "scheduler.end": scheduler.end,
        "trainer.ema": trainer.ema,
    }.items():
        if share is not None and not 0 <= share <= 1:
            raise ConfigError(f"{key} is a share and must be between 0 and 1, got {share}")
    one_of = {
        "trainer.precision": (trainer.precision, ("fp32", "bf16", "fp16", "auto")),
        "trainer.batchnorm": (trainer.batchnorm, ("local", "averaged", "synchronized")),
        "trainer.on_nonfinite": (trainer.on_nonfinite, ("stop", "skip", "rollback")),
    }
    for key, (chosen, options) in one_of.items():
        if chosen not in options:
            raise ConfigError(f"{key} must be one of {', '.join(options)}, got {chosen!r}")
    if trainer.batch_size % trainer.grad_accum_steps:
        raise ConfigError(
            f"trainer.grad_accum_steps={trainer.grad_accum_steps} must divide trainer.batch_size={trainer.batch_size}"
        )
    if trainer.batch_size % (processes * trainer.grad_accum_steps):
        raise ConfigError(
            f"trainer.batch_size={trainer.batch_size} cannot be split over {processes} processes"
            + (f" with trainer.grad_accum_steps={trainer.grad_accum_steps}" if trainer.grad_accum_steps > 1 else "")
        )
