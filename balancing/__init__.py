"""Weigh several losses: one library for every method, with nothing but torch.

>>> balancer = create_balancer("pcgrad", objectives=("class", "price"))
>>> report = balancer.backward({"class": cross_entropy, "price": squared_error})   # instead of sum(losses).backward()
>>> optimizer.step()
"""

from balancing.balancer import Balancer
from balancing.errors import BalancingError, NonFiniteError
from balancing.gradients import gradnorm, mgda, pcgrad
from balancing.losses import fixed, reference_loss, running_loss, uncertainty
from balancing.options import BalancerOptions
from balancing.protocol import MultiObjectiveModel, Phase
from balancing.registry import balancer_arguments, balancer_class, create_balancer, list_balancers, register_balancer
from balancing.report import BalanceReport

__all__ = [
    "BalanceReport",
    "Balancer",
    "BalancerOptions",
    "BalancingError",
    "MultiObjectiveModel",
    "NonFiniteError",
    "Phase",
    "balancer_arguments",
    "balancer_class",
    "create_balancer",
    "list_balancers",
    "register_balancer",
]
