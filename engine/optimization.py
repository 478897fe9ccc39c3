"""Optimizers and schedules of each phase, by their timm names."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from timm.optim import create_optimizer_v2, get_optimizer_info, list_optimizers
from timm.scheduler import create_scheduler_v2
from timm.scheduler.scheduler import Scheduler
from torch import nn

from balancing import Balancer, BilevelBalancer, Phase, group_parameters
from engine.arguments import ConfigError, did_you_mean
from engine.config import SCHEDULES, Config, OptimizerConfig, SchedulerConfig, TrainerConfig
from engine.distributed import Processes

# torch's own, with a kernel that updates all parameters at once. Not SGD: with momentum it fails if a parameter gets its first
# gradient later than another, and begins with uninitialized memory after a first step that a GradScaler skips (torch 2.14.1).
_FUSED = ("adam", "adamw")


@dataclass
class PhaseOptimizer:
    """Balancer, parameters, optimizers and schedules of one phase."""

    phase: Phase
    balancer: Balancer
    parameters: list[nn.Parameter]
    shared: list[nn.Parameter]
    optimizers: dict[str, torch.optim.Optimizer]
    schedulers: list[Scheduler]
    rates: dict[str, float]  # of the optimizers, before any schedule
    balancer_optimizer: torch.optim.Optimizer | None
    groups: dict[str, list[nn.Parameter]] | None = None  # that weights are found for one by one

    def zero_grad(self) -> None:
        """Delete the gradients of the last step."""
        for parameter in (*self.parameters, *self.balancer.parameters()):
            parameter.grad = None

    def schedule(self, step: int, factor: float = 1.0) -> None:
        """Set the learning rates after ``step`` updates to ``factor`` times the schedule's."""
        for scheduler in self.schedulers:
            scheduler.step_update(step)
        for name, optimizer in self.optimizers.items():
            for group in optimizer.param_groups:
                # a schedule has just set the rate; a constant one is what it was at the start
                group["lr"] = factor * (group["lr"] if self.schedulers else self.rates[name])

    @property
    def lr(self) -> float:
        """Learning rate of the first parameter group."""
        return float(next(iter(self.optimizers.values())).param_groups[0]["lr"])

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
    known = [str(name) for name in list_optimizers() if name != "adahessian"]  # it needs second derivatives
    if optimizer.name not in known:
        raise ConfigError(f"unknown optimizer {optimizer.name!r}; {did_you_mean(optimizer.name, known)}")
    if scheduler.name not in SCHEDULES:
        raise ConfigError(f"unknown schedule {scheduler.name!r}; {did_you_mean(scheduler.name, SCHEDULES)}")
    if scheduler.name == "none" and scheduler.warmup > 0:
        raise ConfigError(
            "scheduler.name=none keeps the learning rate as it is; set scheduler.warmup=0, or another name"
        )
    networks = {name: module for name, module in model.networks().items() if any(True for _ in module.parameters())}
    chosen = networks if phase.networks is None else {name: networks[name] for name in phase.networks}
    needed = f"needs optimizer.per_network=true and one of {', '.join(networks)}"
    for name in optimizer.network_lr or {}:
        if not optimizer.per_network or name not in networks:
            raise ConfigError(f"optimizer.network_lr.{name}: {needed}")
    whole: nn.Module = model if phase.networks is None else nn.ModuleDict(chosen)
    groups = chosen if optimizer.per_network else {"all": whole}
    rates = {name: (optimizer.network_lr or {}).get(name, optimizer.lr) for name in groups}
    optimizers = {name: _make_optimizer(module, optimizer, rates[name]) for name, module in groups.items()}
    schedules = [_make_schedule(each, scheduler, rates[name], total_steps) for name, each in optimizers.items()]
    per: Any = config.trainer.weights_per
    own, moved = list(balancer.parameters()), dict.fromkeys(whole.parameters())
    # given, as the graph of a compiled model does not show them
    shared = [parameter for parameter in model.shared_parameters() if parameter in moved]
    return PhaseOptimizer(
        phase=phase,
        balancer=balancer,
        parameters=list(moved),
        shared=shared,
        optimizers=optimizers,
        schedulers=[schedule for schedule in schedules if schedule is not None],
        rates=rates,
        balancer_optimizer=torch.optim.Adam(own, lr=config.trainer.balancer_lr) if own else None,
        groups=None if per == "model" else _groups(whole, per, shared),
    )


def check_balancer(balancer: Balancer, trainer: TrainerConfig, processes: Processes) -> None:
    """Raise ConfigError if the balancer needs what this training loop does not have."""
    at = balancer.options.at
    if at == "subset" or (at == "features" and trainer.grad_accum_steps > 1):
        remedy = "it is for a loop of your own" if at == "subset" else "use trainer.grad_accum_steps=1"
        raise ConfigError(f"balancer.at={at} is not possible here: {remedy}, or use balancer.at=shared")
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


def _groups(
    model: nn.Module, per: Literal["network", "layer", "tensor"], shared: list[nn.Parameter]
) -> dict[str, list[nn.Parameter]]:
    """The shared parameters of each network, layer or tensor that has any."""
    contested = set(shared)
    groups = {name: [p for p in group if p in contested] for name, group in group_parameters(model, per).items()}
    return {name: group for name, group in groups.items() if group}


def _make_optimizer(module: nn.Module, config: OptimizerConfig, lr: float) -> torch.optim.Optimizer:
    """timm's optimizer, which leaves biases and normalization parameters out of weight decay."""
    if config.name == "kron" and importlib.util.find_spec("opt_einsum") is None:
        raise ConfigError(
            "optimizer.name=kron needs a package, without which it asks for tens of gigabytes: pip install opt_einsum"
        )
    kernel = next(module.parameters()).device.type
    extra: dict[str, Any] = {"fused": True} if config.name in _FUSED and kernel in ("cpu", "cuda") else {}
    if config.betas is not None:
        if not get_optimizer_info(config.name).has_betas:
            raise ConfigError(f"optimizer.betas: optimizer {config.name!r} has none; set optimizer.betas=null")
        extra["betas"] = tuple(config.betas)
    extra |= {"weight_decay": config.weight_decay, "momentum": config.momentum}
    try:
        return create_optimizer_v2(module, opt=config.name, lr=lr, **extra)
    # a package that is not installed, or a value out of range
    except (ImportError, RuntimeError, AssertionError, ValueError, IndexError) as error:
        raise ConfigError(f"optimizer {config.name!r} cannot be used here: {error}") from error


def _make_schedule(
    optimizer: torch.optim.Optimizer, config: SchedulerConfig, lr: float, total_steps: int
) -> Scheduler | None:
    """timm's schedule, counted in steps; ``None`` for a constant rate."""
    warmup = round(config.warmup * total_steps)
    schedule, _ = create_scheduler_v2(
        optimizer,
        sched=config.name,
        num_epochs=max(total_steps - warmup, 1),  # in steps; timm counts the warm-up on top
        warmup_epochs=warmup,
        warmup_prefix=True,
        warmup_lr=config.start * lr,
        min_lr=config.end * lr,
        decay_epochs=max(config.decay_every * total_steps, 1),
        decay_rate=config.decay_rate,
        step_on_epochs=False,
        updates_per_epoch=1,
    )
    return schedule
