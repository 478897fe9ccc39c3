"""Optimizers and schedules of each phase, by the names that timm has for them."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any, Literal

import torch
from torch import nn

from balancing import Balancer, BilevelBalancer, Method, Phase, group_parameters
from mozoo.arguments import ConfigError, did_you_mean
from mozoo.config import SCHEDULES, Config, OptimizerConfig, SchedulerConfig, TrainerConfig
from mozoo.distributed import Processes
from mozoo.fine_tuning import layer_scales
from mozoo.preferences import check_preferences
from mozoo.rotations import check_rotations
from mozoo.schedules import learning_rate
from tasks import Task

# of timm, whose step is a multiple of the gradient without momentum
_PLAIN = ("sgd", "momentum", "sgdw")
# torch's own, with a kernel that updates all parameters at once. Not SGD: with momentum it fails if a parameter gets its first
# gradient later than another, and begins with uninitialized memory after a first step that a GradScaler skips (torch 2.14.1).
_FUSED = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


@dataclass
class PhaseOptimizer:
    """Balancer, parameters, optimizers and schedules of one phase."""

    phase: Phase
    balancer: Balancer
    parameters: list[nn.Parameter]
    shared: list[nn.Parameter]
    optimizers: dict[str, torch.optim.Optimizer]
    scheduler: SchedulerConfig
    rates: dict[str, float]  # of the optimizers, before any schedule
    total_steps: int
    balancer_optimizer: torch.optim.Optimizer | None
    groups: dict[str, list[nn.Parameter]] | None = None  # that weights are found for one by one

    def zero_grad(self) -> None:
        """Delete the gradients of the last step."""
        for parameter in (*self.parameters, *self.balancer.parameters()):
            parameter.grad = None

    def schedule(self, step: int, factor: float = 1.0) -> None:
        """Set the learning rates after ``step`` updates to ``factor`` times the schedule's."""
        for name, optimizer in self.optimizers.items():
            rate = factor * learning_rate(self.scheduler, self.rates[name], step, self.total_steps)
            for group in optimizer.param_groups:
                group["lr"] = rate * group.get("lr_scale", 1.0)

    @property
    def lr(self) -> float:
        """Learning rate of the first network, in its last layers."""
        return float(max(group["lr"] for group in next(iter(self.optimizers.values())).param_groups))

    def state_dict(self) -> dict[str, Any]:
        """State of balancer and optimizers."""
        return {
            "balancer": self.balancer.state_dict(),
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
            "balancer_optimizer": self.balancer_optimizer.state_dict() if self.balancer_optimizer else None,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of :meth:`state_dict`."""
        self.balancer.load_state_dict(state["balancer"])
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
        if self.balancer_optimizer:
            self.balancer_optimizer.load_state_dict(state["balancer_optimizer"])


def build_phase_optimizer(
    model: Any, phase: Phase, balancer: Balancer, config: Config, total_steps: int
) -> PhaseOptimizer:
    """Optimizers and schedules over the networks of ``phase``. Raises ConfigError."""
    optimizer, scheduler = config.optimizer, config.scheduler
    _check_optimizer(optimizer)
    if scheduler.name not in SCHEDULES:
        raise ConfigError(f"unknown schedule {scheduler.name!r}; {did_you_mean(scheduler.name, SCHEDULES)}")
    if scheduler.name == "none" and scheduler.warmup > 0:
        raise ConfigError(
            "scheduler.name=none keeps the learning rate as it is; set scheduler.warmup=0, or another name"
        )
    networks = {name: module for name, module in model.networks().items() if _trainable(module)}
    chosen = networks if phase.networks is None else {n: networks[n] for n in phase.networks if n in networks}
    if not chosen:
        raise ConfigError(f"freeze: phase {phase.name} has no parameters left to train; leave a network out")
    needed = f"needs optimizer.per_network=true and one of {', '.join(networks)}"
    for name in optimizer.network_lr or {}:
        if not optimizer.per_network or name not in networks:
            raise ConfigError(f"optimizer.network_lr.{name}: {needed}")
    whole: nn.Module = model if phase.networks is None else nn.ModuleDict(chosen)
    groups = chosen if optimizer.per_network else {"all": whole}
    rates = {name: (optimizer.network_lr or {}).get(name, optimizer.lr) for name in groups}
    if optimizer.layer_decay is not None and not layer_scales(model, optimizer.layer_decay):
        raise ConfigError("optimizer.layer_decay needs a timm trunk that knows its layers; use optimizer.network_lr")
    optimizers = {name: _make_optimizer(module, optimizer, rates[name]) for name, module in groups.items()}
    per: Any = config.trainer.weights_per
    for part in balancer.modules():
        if isinstance(part, Method):
            part.ends_epochs = True
    own, moved = list(balancer.parameters()), dict.fromkeys(_trainable(whole))
    # given, as the graph of a compiled model does not show them
    shared = [parameter for parameter in model.shared_parameters() if parameter in moved]
    made = PhaseOptimizer(
        phase=phase,
        balancer=balancer,
        parameters=list(moved),
        shared=shared,
        optimizers=optimizers,
        scheduler=scheduler,
        rates=rates,
        total_steps=total_steps,
        balancer_optimizer=torch.optim.Adam(own, lr=config.trainer.balancer_lr) if own else None,
        groups=None if per == "model" else _groups(whole, per, shared),
    )
    made.schedule(0)
    return made


def check_balancer(balancer: Balancer, trainer: TrainerConfig, processes: Processes, task: Task, model: Any) -> None:
    """Raise ConfigError if the balancer does not fit this loop, the task or the model."""
    check_preferences(model, balancer)
    check_rotations(model, balancer, task)
    at = balancer.options.at
    if task.derivatives:
        _check_derivatives(at, trainer, task)
    if trainer.lbfgs_steps is not None:
        _check_finish(balancer, trainer, processes, len(model.phases))
    if at == "subset" or (at == "features" and trainer.grad_accum_steps > 1):
        remedy = "it is for a loop of your own" if at == "subset" else "use trainer.grad_accum_steps=1"
        raise ConfigError(f"balancer.at={at} is not possible here: {remedy}, or use balancer.at=shared")
    if balancer.options.memory == "lean" and trainer.grad_accum_steps > 1:
        raise ConfigError(
            "balancer.memory=lean is not possible here: gradients of micro-batches are added before they are measured; "
            "use trainer.grad_accum_steps=1, or balancer.memory=full"
        )
    if trainer.measure_conflicts is not None and isinstance(balancer, BilevelBalancer):
        raise ConfigError(
            f"trainer.measure_conflicts needs the losses of the step, and balancer {balancer.name} takes several; leave it out"
        )
    if trainer.weights_per != "model":
        try:
            balancer.check_groups()
        except ValueError as error:
            problem = f"trainer.weights_per={trainer.weights_per} is not possible here: {error}"
            raise ConfigError(f"{problem}; use trainer.weights_per=model") from None
    size = min(trainer.batch_size, trainer.overfit or trainer.batch_size)
    if isinstance(balancer, BilevelBalancer) and (
        trainer.grad_accum_steps > 1 or trainer.compile or trainer.precision == "fp16" or size < 2 * processes.size
    ):
        raise ConfigError(
            f"balancer {balancer.name} takes virtual steps on half of each batch: it needs trainer.grad_accum_steps=1, "
            f"trainer.compile=false, trainer.precision=fp32 or bf16, and trainer.batch_size of at least {2 * processes.size}"
        )


def scaled_twice(balancer: Balancer, optimizer: OptimizerConfig) -> str:
    """A line for updates that are Adam's already if the optimizer is not plain; else empty."""
    plain = optimizer.name in _PLAIN and optimizer.momentum == 0
    if plain or not any(isinstance(part, Method) and part.adaptive for part in balancer.modules()):
        return ""
    betas = "" if optimizer.betas is None else " optimizer.betas=null"
    return (
        f"{balancer.name}: its updates have momentum and are scaled by coordinate, and {optimizer.name} changes them once more; "
        f"train with optimizer.name=momentum optimizer.momentum=0{betas}, at the rates of Adam"
    )


def _check_derivatives(at: str, trainer: TrainerConfig, task: Task) -> None:
    """Raise ConfigError for what losses with derivatives with respect to the inputs exclude."""
    why = f"the losses of task {task.name} hold derivatives of the model with respect to its inputs"
    if at == "features":
        raise ConfigError(
            f"balancer.at=features is not possible here: {why}, so they depend on the trunk by more than its output; "
            "use balancer.at=shared"
        )
    if trainer.compile:
        raise ConfigError(f"trainer.compile=true is not possible here: {why}, which compiled models do not have twice")
    if trainer.precision != "fp32":
        raise ConfigError(
            f"trainer.precision={trainer.precision} is not possible here: {why}, for which it is too coarse; use fp32"
        )


def _check_finish(balancer: Balancer, trainer: TrainerConfig, processes: Processes, phases: int) -> None:
    """Raise ConfigError for ``trainer.lbfgs_steps`` without one sum of losses to minimize."""
    needs = {
        "a model that trains in one phase": phases == 1,
        "one process": processes.size == 1,
        "trainer.precision=fp32": trainer.precision == "fp32",
        "trainer.compile=false": not trainer.compile,
        "trainer.ema=null": trainer.ema is None,
        "a balancer of one level": not isinstance(balancer, BilevelBalancer),
        "balancer.sample=null": balancer.options.sample is None,
    }
    lacking = [need for need, holds in needs.items() if not holds]
    if lacking:
        raise ConfigError(f"trainer.lbfgs_steps={trainer.lbfgs_steps} needs {' and '.join(lacking)}; or set it to null")


def _groups(
    model: nn.Module, per: Literal["network", "layer", "tensor"], shared: list[nn.Parameter]
) -> dict[str, list[nn.Parameter]]:
    """The shared parameters of each network, layer or tensor that has any."""
    contested = set(shared)
    groups = {name: [p for p in group if p in contested] for name, group in group_parameters(model, per).items()}
    return {name: group for name, group in groups.items() if group}


def _trainable(module: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def _check_optimizer(config: OptimizerConfig) -> None:
    """Raise ConfigError for an unknown name, or for ``betas`` where there are none."""
    if config.name in _FUSED:
        if config.betas is not None and len(config.betas) != 2:
            raise ConfigError(f"optimizer.betas: {config.name} has two, got {config.betas}")
        return
    from timm.optim import get_optimizer_info, list_optimizers  # timm takes most of a second to import

    known = [str(name) for name in list_optimizers() if name != "adahessian"]  # it needs second derivatives
    if config.name not in known:
        raise ConfigError(f"unknown optimizer {config.name!r}; {did_you_mean(config.name, known)}")
    if config.betas is not None and not get_optimizer_info(config.name).has_betas:
        raise ConfigError(f"optimizer.betas: optimizer {config.name!r} has none; set optimizer.betas=null")


def _make_optimizer(module: nn.Module, config: OptimizerConfig, lr: float) -> torch.optim.Optimizer:
    """Torch's Adam or AdamW, or another optimizer of timm."""
    groups = _parameter_groups(module, config)
    extra: dict[str, Any] = {} if config.betas is None else {"betas": tuple(config.betas)}
    if config.name == "kron" and importlib.util.find_spec("opt_einsum") is None:
        raise ConfigError(
            "optimizer.name=kron needs a package, without which it asks for tens of gigabytes: pip install opt_einsum"
        )
    try:
        if config.name in _FUSED:
            fused = groups[0]["params"][0].device.type in ("cpu", "cuda")
            return _FUSED[config.name](groups, lr=lr, weight_decay=0.0, fused=fused or None, **extra)
        from timm.optim import create_optimizer_v2

        return create_optimizer_v2(groups, opt=config.name, lr=lr, momentum=config.momentum, **extra)
    # a package that is not installed, or a value out of range
    except (ImportError, RuntimeError, AssertionError, ValueError, IndexError) as error:
        raise ConfigError(f"optimizer {config.name!r} cannot be used here: {error}") from error


def _parameter_groups(module: nn.Module, config: OptimizerConfig) -> list[dict[str, Any]]:
    """Parameters without weight decay, and the others; with ``layer_decay`` those of each layer.

    Biases, parameters of normalizations and those that the module names, such as position embeddings, have none.
    """
    exempt: Any = getattr(module, "no_weight_decay", set)()
    scales = {} if config.layer_decay is None else layer_scales(module, config.layer_decay)
    groups: dict[tuple[bool, float], list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            free = parameter.ndim <= 1 or name.endswith(".bias") or any(fnmatch(name, pattern) for pattern in exempt)
            decayed = bool(config.weight_decay) and not free
            groups.setdefault((decayed, scales.get(parameter, 1.0)), []).append(parameter)
    return [
        {"params": groups[key], "weight_decay": config.weight_decay if key[0] else 0.0}
        | ({} if config.layer_decay is None else {"lr_scale": key[1]})
        for key in sorted(groups)
    ]
