"""Weigh several losses: one library for every method, with nothing but torch.

>>> balancer = create_balancer("pcgrad", objectives=("class", "price"))
>>> report = balancer.backward({"class": cross_entropy, "price": squared_error})   # instead of sum(losses).backward()
>>> optimizer.step()
"""

from balancing.balancer import Balancer
from balancing.bilevel import auto_lambda, forum, moml
from balancing.bilevel.meta import MetaBalancer
from balancing.errors import BalancingError, NonFiniteError
from balancing.factory import balancer_arguments, balancer_class, create_balancer, list_balancers, register_balancer
from balancing.gradients import (
    aligned_mtl,
    cagrad,
    conflict_free,
    dualproj,
    fairgrad,
    grad_normalize,
    gradnorm,
    gradvac,
    imtl,
    krum,
    mgda,
    modo,
    nash_mtl,
    pareto_mtl,
    pcd,
    pcgrad,
    sdmgrad,
    torchjd,
    upgrad,
)
from balancing.jacobians import conflict_free_momentum, db_mtl, excess_mtl, graddrop, moco, trimmed_mean
from balancing.losses import (
    dwa,
    famo,
    fixed,
    go4align,
    group_dro,
    igb,
    imtl_l,
    pbi,
    power_mean,
    progress,
    reference_loss,
    rlw,
    running_loss,
    scheduled,
    tchebycheff,
    uncertainty,
)
from balancing.options import BalancerOptions
from balancing.protocol import MultiObjectiveModel, Phase
from balancing.report import BalanceReport

__all__ = [
    "BalanceReport",
    "Balancer",
    "BalancerOptions",
    "BalancingError",
    "MetaBalancer",
    "MultiObjectiveModel",
    "NonFiniteError",
    "Phase",
    "balancer_arguments",
    "balancer_class",
    "create_balancer",
    "list_balancers",
    "register_balancer",
]
