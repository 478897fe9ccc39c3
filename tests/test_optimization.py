"""Optimizers and schedules that train.py makes without timm are the ones that timm makes."""

import warnings

import pytest
import torch
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2

import mozoo
import train
import zoo
from mozoo import tools
from mozoo.config import OptimizerConfig, SchedulerConfig
from mozoo.optimization import _make_optimizer
from mozoo.schedules import learning_rate


def timm_rates(config, highest, total):
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=highest)
    warmup = round(config.warmup * total)
    schedule, _ = create_scheduler_v2(
        optimizer,
        sched=config.name,
        num_epochs=max(total - warmup, 1),
        warmup_epochs=warmup,
        warmup_prefix=True,
        warmup_lr=config.start * highest,
        min_lr=config.end * highest,
        decay_epochs=max(config.decay_every * total, 1),
        decay_rate=config.decay_rate,
        step_on_epochs=False,
        updates_per_epoch=1,
    )
    rates = []
    for step in range(total):
        if schedule is not None:
            schedule.step_update(step)
        rates.append(optimizer.param_groups[0]["lr"])
    return rates


@pytest.mark.parametrize("total", [1, 7, 100])
@pytest.mark.parametrize("warmup", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("name", ["cosine", "tanh", "step", "poly"])
def test_rates_are_those_of_timm_to_the_bit(name, warmup, total):
    config = SchedulerConfig(name=name, warmup=warmup, start=0.05, end=0.1, decay_rate=0.7, decay_every=0.23)
    assert [learning_rate(config, 0.013, step, total) for step in range(total)] == timm_rates(config, 0.013, total)


def test_constant_rate_is_that_of_timm():
    config = SchedulerConfig(name="none", warmup=0.0)
    assert [learning_rate(config, 0.013, step, 3) for step in range(3)] == timm_rates(config, 0.013, 3)


class _Position(torch.nn.Module):
    """A module that takes a weight out of weight decay."""

    def __init__(self):
        super().__init__()
        self.pos_embed = torch.nn.Parameter(torch.ones(2, 3))
        self.layer = torch.nn.Linear(3, 2)
        self.frozen = torch.nn.Linear(3, 2).requires_grad_(False)

    def no_weight_decay(self):
        return {"pos_*"}


MODULES = {
    "table": lambda: zoo.create_model(
        "shared_trunk", in_features=3, classifiers={"a": 2}, regressors={"b": 1}, width=4, norm="batch"
    ),
    "exempt": _Position,
}


@pytest.mark.parametrize("weight_decay", [0.0, 0.02])
@pytest.mark.parametrize("name", ["adam", "adamw", "sgd", "lamb", "lion", "rmsprop"])
@pytest.mark.parametrize("module", MODULES)
def test_optimizer_is_that_of_timm(module, name, weight_decay):
    model = MODULES[module]()
    betas = [0.8, 0.95] if name in ("adam", "adamw", "lion") else None
    config = OptimizerConfig(name=name, weight_decay=weight_decay, momentum=0.8, betas=betas)
    made = _make_optimizer(model, config, 0.013)
    extra = {} if betas is None else {"betas": tuple(betas)}
    if name in ("adam", "adamw"):
        extra["fused"] = True
    timm = create_optimizer_v2(model, opt=name, lr=0.013, weight_decay=weight_decay, momentum=0.8, **extra)
    assert type(made) is type(timm)
    assert made.state_dict() == timm.state_dict()
    for ours, theirs in zip(made.param_groups, timm.param_groups, strict=True):
        assert list(map(id, ours["params"])) == list(map(id, theirs["params"]))


def test_muon_orthogonalizes_matrices_and_leaves_the_rest_to_adamw():
    torch.manual_seed(0)
    config = OptimizerConfig(**mozoo.compose(["optimizer=muon"]).optimizer.__dict__)
    layers = [torch.nn.Linear(6, 4), torch.nn.Linear(6, 4)]
    layers[1].load_state_dict(layers[0].state_dict())
    adamw = torch.optim.AdamW([layers[1].bias], lr=0.01, betas=(0.9, 0.95), weight_decay=0.0)
    before = layers[0].weight.detach().clone()
    optimizer = _make_optimizer(layers[0], config, 0.01)
    layers[0].weight.grad = torch.randn(4, 1) @ torch.randn(1, 6) + 0.1 * torch.randn(4, 6)  # nearly of rank 1
    layers[0].bias.grad = layers[1].bias.grad = torch.randn(4)
    optimizer.step()
    adamw.step()
    torch.testing.assert_close(layers[0].bias, layers[1].bias)
    moved = torch.linalg.svdvals(before * (1 - 0.01 * config.weight_decay) - layers[0].weight.detach())
    assert moved.min() > 0.5 * moved.max()
    assert moved.square().mean().sqrt() == pytest.approx(
        0.01 * 0.2 * 6**0.5, rel=0.3
    )  # entries about 0.2 times the rate


def test_a_long_first_epoch_causes_no_warning(stones):
    words = [f"task.csv={stones}", "model.width=4", "balancer=pcgrad", "balancer.before=dwa", "trainer.device=cpu"]
    job = train.build(mozoo.compose(words))
    job.phases[0].balancer.loss_balancer.step = 999
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train.train_step(job, next(iter(tools.epoch_batches(job, 0))))
    assert job.phases[0].balancer.loss_balancer.step == 1000


def test_an_optimizer_that_scales_updates_again_is_said_at_the_start(stones):
    def notes(*words):
        common = [f"task.csv={stones}", "model.width=4", "trainer.device=cpu"]
        return train.build(mozoo.compose([*common, *words])).notes

    usual = notes("balancer=sum")
    said = (
        "conflict_free_momentum: its updates have momentum and are scaled by coordinate, and {} changes them once more; "
        "train with optimizer.name=momentum optimizer.momentum=0{}, at the rates of Adam"
    )
    m_config = "balancer=conflict_free_momentum"
    assert notes(m_config) == [*usual, said.format("adamw", "")]
    assert notes(m_config, "optimizer.betas=[0.5,0.9]") == [*usual, said.format("adamw", " optimizer.betas=null")]
    assert notes(m_config, "optimizer=sgd") == [*usual, said.format("sgd", "")]
    assert notes(m_config, "optimizer.name=momentum", "optimizer.momentum=0") == usual
    assert notes("balancer=conflict_free") == usual


def test_what_is_said_of_the_optimizer_is_said_once_for_two_phases():
    words = ["model=gan_points", "task=ring_of_gaussians", "balancer=conflict_free_momentum", "trainer.device=cpu"]
    assert sum("once more" in note for note in train.build(mozoo.compose(words)).notes) == 1
