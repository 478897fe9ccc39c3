"""The typed configuration, and strict checks with one clear message each."""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cache
from inspect import Parameter
from pathlib import Path
from typing import Any

import hydra
import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

import balancing
import tasks
import zoo
from mozoo.arguments import ConfigError, check_arguments, constructing, did_you_mean
from mozoo.distributed import process_place
from mozoo.options import check_options, option
from mozoo.renames import renamed, translate
from tasks.file_checks import check_regular

CONFIG_DIR = Path(__file__).resolve().parent.parent / "configs"


def _model_options(name: str) -> Mapping[str, Parameter]:
    """Arguments of a model, and for each of them ``pretrained``, which ``create_model`` takes."""
    own = zoo.model_arguments(name)
    kind: Any = own["pretrained"].annotation | str | None if "pretrained" in own else str | None
    return {**own, "pretrained": Parameter("pretrained", Parameter.KEYWORD_ONLY, default=None, annotation=kind)}


#: Group -> names of what is registered, and the parameters of one by its name.
REGISTRIES: dict[str, tuple[Callable[[], list[str]], Callable[[str], Mapping[str, Any]]]] = {
    "model": (zoo.list_models, _model_options),
    "task": (tasks.list_tasks, tasks.task_arguments),
    "balancer": (balancing.list_balancers, balancing.balancer_arguments),
}
PRECISIONS = ("fp32", "bf16", "fp16", "auto")
BATCHNORM = ("local", "averaged", "synchronized")
ON_NONFINITE = ("stop", "skip", "rollback")
WEIGHTS_PER = ("model", "network", "layer", "tensor")
_FLOAT = re.compile(
    r"[-+]?[0-9]+(?:_[0-9]+)*(?:\.[0-9_]*(?:[eE][-+]?[0-9]+)?|[eE][-+]?[0-9]+|(?::[0-5]?[0-9])+\.[0-9_]*)$"
    r"|\.[0-9]+(?:_[0-9]+)*(?:[eE][-+][0-9]+)?$|[-+]?\.(?:inf|Inf|INF)$|\.(?:nan|NaN|NAN)$"
)
SCHEDULES = ("cosine", "tanh", "step", "poly", "none")

#: What other libraries call a key -> the key.
_OTHER_WORDS = {
    **dict.fromkeys(("learning_rate", "base_lr", "max_lr"), "optimizer.lr"),
    **dict.fromkeys(("wd", "decay"), "optimizer.weight_decay"),
    **dict.fromkeys(("max_epochs", "num_epochs", "n_epochs", "num_train_epochs"), "trainer.epochs"),
    **dict.fromkeys(("steps", "num_steps", "max_iter"), "trainer.max_steps"),
    **dict.fromkeys(("batch", "bs", "train_batch_size", "per_device_train_batch_size"), "trainer.batch_size"),
    **dict.fromkeys(("gpu", "gpus", "cuda", "accelerator"), "trainer.device"),
    "threads": "trainer.num_threads",
    "workers": "trainer.num_workers",
    **dict.fromkeys(("amp", "fp16", "bf16", "mixed_precision"), "trainer.precision"),
    **dict.fromkeys(("accumulate_grad_batches", "gradient_accumulation_steps"), "trainer.grad_accum_steps"),
    **dict.fromkeys(("clip", "clip_grad", "gradient_clip_val"), "trainer.max_grad_norm"),
    **dict.fromkeys(("output", "output_dir", "out_dir", "save_dir"), "run_dir"),
    **dict.fromkeys(("checkpoint", "ckpt", "ckpt_path", "resume_from"), "resume"),
    **dict.fromkeys(("data", "data_root", "root_dir"), "data_dir"),
    **dict.fromkeys(("sched", "schedule", "lr_scheduler"), "scheduler"),
    **dict.fromkeys(("opt", "optim"), "optimizer"),
    **dict.fromkeys(("method", "weighting", "aggregator"), "balancer"),
    **dict.fromkeys(("dataset", "problem"), "task"),
    **dict.fromkeys(("arch", "architecture", "net", "network"), "model"),
}


@dataclass
class OptimizerConfig:
    """The optimizer of every network, by its timm name."""

    name: str = option("adamw", "any first-order optimizer of timm")
    lr: float = option(4e-3, "learning rate, before any schedule", positive=True)
    weight_decay: float = option(0.01, "not for biases and normalization parameters", least=0)
    momentum: float = option(0.9, "where the optimizer has one", least=0, below=1)
    betas: list[float] | None = option(None, "decay of the running means; null: [0.9, 0.999]")  # noqa: RUF009
    per_network: bool = option(False, "an optimizer for each of the model's networks")
    network_lr: dict[str, float] | None = option(None, "{network: lr}, with per_network=true")  # noqa: RUF009
    layer_decay: float | None = option(
        None, "factor of the rate from each layer of a timm trunk to the one before", share=True
    )


@dataclass
class SchedulerConfig:
    """The learning rate over the steps of a run, by its timm name."""

    name: str = option("cosine", f"shape of the decay: {', '.join(SCHEDULES)}")
    warmup: float = option(0.3, "linear warm-up, as a share of all steps", share=True)
    start: float = option(0.04, "first learning rate, as a share of optimizer.lr", share=True)
    end: float = option(0.0, "last learning rate, as a share of optimizer.lr", share=True)
    decay_rate: float = option(0.1, "step, poly: factor of a decay", positive=True)
    decay_every: float = option(0.3, "step: share of all steps between decays", positive=True)


@dataclass
class TrainerConfig:
    """How a model is trained, and on what."""

    epochs: int = option(30, "passes over the training data", least=1)
    max_steps: int | None = option(None, "stop early, in steps; schedules are fitted to it", least=1)
    batch_size: int = option(256, "samples per update, of all processes together", least=1, below=2**31)
    eval_batch_size: int | None = option(
        None, "samples per evaluation batch; null: four training batches", least=1, below=2**31
    )
    grad_accum_steps: int = option(1, "micro-batches per update; must divide the batch size", least=1)
    device: str = option("auto", "auto, cpu, cuda, cuda:N or mps; auto: the accelerator if there is one, else the CPU")
    num_threads: int | None = option(None, "CPU threads for one operation; null: as torch decides", least=1, below=1025)
    precision: str = option("fp32", "of the forward pass; auto: bf16 where the hardware has it", choices=PRECISIONS)
    compile: bool = option(False, "torch.compile for trunk and heads")
    tf32: bool = option(True, "CUDA: multiply with ten bits of mantissa, which is several times faster")
    channels_last: bool = option(False, "memory format of images and convolutions")
    grad_checkpointing: bool = option(False, "to save memory, timm trunks recompute activations in the backward pass")
    batchnorm: str = option(
        "averaged",
        "with several processes; averaged: before evaluations, synchronized: always (CUDA)",
        choices=BATCHNORM,
    )
    num_workers: int = option(0, "loader processes; unused by tasks that live on the device", least=0, below=1025)
    max_grad_norm: float | None = option(None, "longest gradient, over all parameters of a phase", positive=True)
    on_nonfinite: str = option(
        "stop", "for a loss or gradient that is not finite; rollback: to the last checkpoint", choices=ON_NONFINITE
    )
    ema: float | None = option(
        None, "decay of a mean of the weights that is kept instead; 0.999 is usual", least=0, below=1
    )
    balancer_lr: float = option(0.025, "learning rate (Adam) of balancers with parameters of their own", positive=True)
    weights_per: str = option(
        "model",
        "find weights per model, network, layer or tensor; the latter with Gramian methods",
        choices=WEIGHTS_PER,
    )
    lbfgs_steps: int | None = option(None, "iterations of L-BFGS after the last epoch; null: none", least=1)
    lbfgs_samples: int = option(8192, "training samples that these iterations see, others after every 250", least=1)
    monitor: str = option("loss", "best epoch: loss, last, val/<objective>/<metric>, val/*/<metric>, gain or last10")
    measure_conflicts: int | None = option(
        None,
        "steps between measurements of all gradients, under any balancer: lengths, cosines, conflicts by layer",
        least=1,
    )
    watch: bool = option(False, "write report.html while training too; the open page loads itself again")
    log_every: int = option(10, "steps between rows of balance.csv", least=1)
    save_every: int | None = option(None, "steps between checkpoints, besides those at the ends of epochs", least=1)
    overfit: int | None = option(None, "train and evaluate on this many training samples only", least=2)
    profile: int | None = option(None, "record this many steps, show where their time goes and stop", least=1)
    deterministic: bool = option(False, "deterministic kernels only")
    dry_run: bool = option(False, "show everything, try two steps, say what memory they need, write nothing")


@dataclass
class LoggerConfig:
    """Services that get the numbers of a run, besides its own tables."""

    tensorboard: bool = option(True, "event files: tensorboard --logdir outputs")
    wandb: bool = option(False, 'Weights & Biases; needs pip install -e ".[wandb]"')
    wandb_project: str = option("mozoo", "project of Weights & Biases")
    mlflow: bool = option(False, 'MLflow; needs pip install -e ".[mlflow]"')
    mlflow_uri: str | None = option(None, "such as sqlite:///mlflow.db; null: MLFLOW_TRACKING_URI, or MLflow's default")
    mlflow_experiment: str = option("mozoo", "experiment of MLflow")


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
    seed: int = option(0, "of weights, data order, dropout", least=0, below=2**31)
    data_dir: str = "data"
    run_dir: str | None = None
    resume: str | None = None
    init: str | None = None
    freeze: list[str] = field(default_factory=list)
    imports: list[str] = field(default_factory=list)
    trust: bool = False


def compose(overrides: Sequence[str] = (), config_dir: Path | None = None) -> Config:
    """The configuration of ``python train.py --config-dir=<config_dir> <overrides>``.

    Raises as the command does.
    """
    return validate(merged_files(overrides, config_dir))


def merged_files(overrides: Sequence[str], config_dir: Path | None = None) -> DictConfig:
    """The files that overrides choose, merged by hydra, with the options set; not checked."""
    if config_dir is not None:
        if not config_dir.is_dir():
            raise ConfigError(f"--config-dir: there is no folder {config_dir}")
        place = str(config_dir.resolve()).replace('"', '\\"')
        overrides = [*overrides, f'hydra.searchpath=["file://{place}"]']
    with hydra.initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        return hydra.compose("train", overrides=list(overrides))


def saved_config(content: Mapping[str, Any]) -> DictConfig:
    """The configuration of a run folder, in today's words if an earlier version wrote it."""
    return OmegaConf.create(saved_content(content))


def saved_content(content: Mapping[str, Any]) -> dict[str, Any]:
    """The same in plain containers."""
    return translate(content, _known_options())


@cache
def _known_options() -> dict[str, set[str]]:
    groups = {"": Config, "trainer": TrainerConfig}
    known = {name: {item.name for item in fields(group)} for name, group in groups.items()}
    return {**known, "balancer": {*balancing.balancer_arguments("sum")}}


def read_yaml(path: Path) -> dict[str, Any]:
    """Content of a configuration file, as ``OmegaConf.load`` reads it. Raises ValueError."""
    check_regular(path)
    with path.open(encoding="utf-8") as file:
        try:
            content = yaml.load(file, _yaml_loader())
        except yaml.YAMLError as error:
            raise ValueError(str(error)) from None
        except RecursionError:
            raise ValueError("it nests too deeply") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} holds no mapping")
    _check_no_aliases(content)
    return content


def _check_no_aliases(content: Mapping[str, Any]) -> None:
    """Raise ValueError for an alias: a few lines of them can mean gigabytes."""
    waiting: list[Any] = [content]
    seen: set[int] = set()
    while waiting:
        part = waiting.pop()
        if isinstance(part, (dict, list)) and part:
            if id(part) in seen:
                raise ValueError("it has an alias (*), which no run writes")
            seen.add(id(part))
            waiting += part.values() if isinstance(part, dict) else part


@cache
def _yaml_loader() -> Any:
    """Of libyaml where there is one. Like OmegaConf's: 1e-3 is a number, a date a string."""

    class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            keys = [key.value for key, _ in node.value]
            if len(set(keys)) < len(keys):
                raise yaml.YAMLError(f"a key occurs twice in {keys}")
            return super().construct_mapping(node, deep)

    Loader.yaml_implicit_resolvers = {
        first: [(tag, form) for tag, form in forms if not tag.endswith((":timestamp", ":float"))]
        for first, forms in Loader.yaml_implicit_resolvers.items()
    }
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))
    return Loader


def flatten(section: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Values by their dotted keys; an empty section is a value."""
    values: dict[str, Any] = {}
    for key, value in section.items():
        inner = isinstance(value, Mapping) and len(value) > 0
        values |= flatten(value, f"{prefix}{key}.") if inner else {prefix + str(key): value}
    return values


def unknown_key(key: str) -> str:
    """Message about an unknown key, with its section, or with the nearest names of its own."""
    known = [*vars(Config()), *(f"{group}.{option}" for group, options in _sections().items() for option in options)]
    siblings = [name for name in known if name.rpartition(".")[0] == key.rpartition(".")[0]]
    places = places_of(key.rpartition(".")[2])
    near = f"did you mean {', '.join(places)}?" if places else did_you_mean(key, siblings or known)
    return renamed(key) or f"there is no key {key!r}; {near}"


def places_of(name: str) -> list[str]:
    """Keys of the configuration that are called ``name``, or by another library so."""
    if name in vars(Config()):
        return [name]
    places = [f"{group}.{option}" for group, options in _sections().items() for option in options if option == name]
    if not places and name in _OTHER_WORDS:
        return [_OTHER_WORDS[name]]
    registered = {group: set().union(*map(arguments, names())) for group, (names, arguments) in REGISTRIES.items()}
    return places or [f"{group}.{name}" for group, options in registered.items() if name in options]


def _sections() -> dict[str, dict[str, Any]]:
    return {name: vars(group) for name, group in vars(Config()).items() if is_dataclass(group)}


def import_modules(names: Sequence[str]) -> None:
    """Import modules of the user, which may register what they hold. Raises ConfigError."""
    for module in names:
        if not all(part.isidentifier() for part in module.split(".")):
            raise ConfigError(f"imports: {module!r} is no name of a module, such as pumps or pumps.tasks")
        if module in ("balancing", "configs", "mozoo", "tasks", "train", "zoo"):
            raise ConfigError(f"imports: {module!r} is the name of a package of mozoo; give your module another name")
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise ConfigError(f"imports: cannot import {module!r} ({error})") from None


def validate(composed: DictConfig) -> Config:
    """Check types, names, arguments and ranges. Raises ConfigError at the first problem."""
    plain: Any = OmegaConf.to_container(composed, resolve=True)
    plain.pop("hydra", None)
    try:
        config: Any = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Config), plain))
    except ConfigKeyError as error:
        raise ConfigError(unknown_key(str(error.full_key))) from None
    except OmegaConfBaseException as error:
        reason = str(error.msg).splitlines()[0]
        if "is not a ListConfig" in reason:
            raise ConfigError(f"{error.full_key} must be a list, even of one: '{error.full_key}=[...]'") from None
        raise ConfigError(f"{error.full_key}: {reason}") from None
    import_modules(config.imports)
    _check_values(config)
    if config.model.get("pretrained") is None:
        config.model.pop("pretrained", None)
    if config.balancer.get("before") is not None:
        config.balancer["before"] = _with_defaults(config.balancer["before"])
    for group, (_, arguments) in REGISTRIES.items():
        section = getattr(config, group)
        if not isinstance(section.get("name", ""), str):
            raise ConfigError(f"{group}.name must be a name, got {section['name']!r}")
        with constructing():
            parameters = arguments(section.get("name", ""))
        check_arguments(group, section, parameters)
    return config


def _with_defaults(before: Any) -> dict[str, Any]:
    """The method that weighs losses first, with the defaults of its own file."""
    chosen = {"name": before} if isinstance(before, str) else before
    if not isinstance(chosen, dict) or not isinstance(chosen.get("name"), str):
        raise ConfigError(f"balancer.before must be a name, or a mapping with a name, got {before!r}")
    if chosen.get("before") is not None:
        raise ConfigError("balancer.before: a method before another has none before itself; leave out its before")
    try:
        parameters = balancing.balancer_arguments(chosen["name"])
    except ValueError as error:
        raise ConfigError(f"balancer.before: {error}") from None
    file = CONFIG_DIR / "balancer" / f"{chosen['name']}.yaml"
    defaults: Any = OmegaConf.to_container(OmegaConf.load(file)) if file.is_file() else {}
    merged = {str(key): value for key, value in (defaults | chosen).items() if key != "defaults"}
    check_arguments("balancer.before", merged, parameters)
    return merged


def _check_values(config: Config) -> None:
    for service in ("wandb", "mlflow"):
        package = importlib.util.find_spec(service)
        if getattr(config.logger, service) and (package is None or package.origin is None):  # a folder has no origin
            raise ConfigError(f"logger.{service}=true needs the package: pip install -e '.[{service}]'")
    for key, default in (("data_dir", "data"), ("run_dir", "null")):
        if getattr(config, key) == "":
            raise ConfigError(f"{key} needs a folder; the default is {key}={default}")
    if config.optimizer.betas is not None and not all(0 <= beta < 1 for beta in config.optimizer.betas):
        raise ConfigError(f"optimizer.betas must be at least 0 and below 1, got {config.optimizer.betas}")
    trainer = config.trainer
    if trainer.dry_run and trainer.profile is not None:
        raise ConfigError("trainer.dry_run writes nothing, and trainer.profile writes a profile; leave one of them out")
    processes, parts = process_place()[1], trainer.grad_accum_steps
    if trainer.overfit is not None and trainer.overfit < processes:
        raise ConfigError(f"trainer.overfit must be at least {processes}, got {trainer.overfit}")
    for name in ("trainer", "optimizer", "scheduler"):
        check_options(f"{name}.", getattr(config, name))
    check_options("", config)
    if trainer.batch_size % parts:
        raise ConfigError(f"trainer.grad_accum_steps={parts} must divide trainer.batch_size={trainer.batch_size}")
    if trainer.batch_size % (processes * parts):
        with_parts = f" with trainer.grad_accum_steps={parts}" if parts > 1 else ""
        raise ConfigError(
            f"trainer.batch_size={trainer.batch_size} cannot be split over {processes} processes{with_parts}"
        )
