"""Small networks and lists of the registered methods, which the balancing tests share."""

import torch
from torch import nn

from balancing import Composed, JacobianBalancer, balancer_class, create_balancer, list_balancers


def make(name, objectives=("a", "b", "c"), **options):
    """Any registered balancer, with what it cannot do without."""
    if name == "prior_loss":
        options.setdefault("prior_losses", {objective: 1.0 + i for i, objective in enumerate(objectives)})
    return create_balancer(name, tuple(objectives), **options)


class Net(nn.Module):
    """Two shared layers and a head per objective; losses of very different size that disagree."""

    def __init__(self, objectives=("a", "b", "c"), dtype=torch.float64, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.objectives = objectives
        self.trunk = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 6), nn.Tanh())
        self.head = nn.ModuleDict({name: nn.Linear(6, 2) for name in objectives})
        self.to(dtype)

    def features(self, x):
        return self.trunk(x)

    def losses(self, x, features=None):
        z = self.features(x) if features is None else features
        return {
            name: 10.0**i * (self.head[name](z) - (-1.0) ** i * (1 + x[:, :2])).square().mean()
            for i, name in enumerate(self.objectives)
        }

    def shared(self):
        return list(self.trunk.parameters())

    def gradients(self):
        return {name: p.grad.clone() for name, p in self.named_parameters() if p.grad is not None}


def inputs(size=12, dtype=torch.float64, seed=1):
    return torch.randn(size, 5, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def reference_rows(net, x):
    """Objective -> {parameter name -> gradient}, each by a backward of its own."""
    rows = {}
    for name in net.objectives:
        net.zero_grad()
        net.losses(x)[name].backward()
        rows[name] = net.gradients()
    net.zero_grad()
    return rows


def train(net, balancer, steps, start=0, lr=0.01):
    """SGD on the net, Adam on the balancer; the batch depends on the step alone."""
    optimizer = torch.optim.SGD(net.parameters(), lr=lr)
    own = torch.optim.Adam(balancer.parameters(), lr=0.02) if list(balancer.parameters()) else None
    for step in range(start, start + steps):
        optimizer.zero_grad()
        if own:
            own.zero_grad()
        x = inputs(seed=100 + step)
        balancer.backward(net.losses(x))
        optimizer.step()
        if balancer.observes:
            with torch.no_grad():
                balancer.observe(net.losses(x))
        if own:
            own.step()
        if step % 3 == 2:
            balancer.next_epoch()
    return own


def core(balancer):
    """The method itself, without one that weighs the losses before it."""
    return balancer.gradient_balancer if isinstance(balancer, Composed) else balancer


def expected(rows, balancer, report):
    """The weighted sum of the rows; heads as the balancer's rule has it. Objectives whose turn it is not give nothing."""
    heads = balancer.head_weights
    heads = report.weights if heads is None else heads
    total = {}
    for weight, head, gradients in zip(report.weights.tolist(), heads.tolist(), rows.values(), strict=True):
        for name, gradient in gradients.items():
            if weight != 0 or balancer.name not in TURNS:
                total[name] = total.get(name, 0) + (head if name.startswith("head") else weight) * gradient
    return total


def assert_close(actual, wanted, **tolerance):
    assert actual.keys() == wanted.keys()
    for name in wanted:
        torch.testing.assert_close(actual[name], wanted[name], **tolerance, msg=lambda m, name=name: f"{name}: {m}")


def trunk_gradient(gradients):
    """The gradients of the shared parameters as one vector."""
    return torch.cat([g.flatten() for name, g in gradients.items() if name.startswith("trunk")])


def check_turns(balancer, trained):
    """Step by step, only the objective named in ``trained`` gives gradients."""
    net, x = Net(), inputs()
    for turn in trained:
        net.zero_grad()
        balancer.backward(net.losses(x))
        balanced = net.gradients()
        net.zero_grad()
        net.losses(x)[turn].backward()
        assert balanced.keys() == net.gradients().keys()
        assert all(torch.equal(g, balanced[key]) for key, g in net.gradients().items())


#: Every method that a batch of losses is enough for. Bilevel methods and the adapter have tests of their own.
ALL = [n for n in list_balancers() if n != "torchjd" and balancer_class(n).needs != "validation"]
BILEVEL = [name for name in list_balancers() if name != "torchjd" and balancer_class(name).needs == "validation"]
LOSS = [name for name in ALL if balancer_class(name).needs in ("nothing", "losses")]
GRAMIAN = [name for name in ALL if balancer_class(name).needs == "gramian"]
JACOBIAN = [name for name in ALL if balancer_class(name).needs == "jacobian"]
GRADIENT = GRAMIAN + JACOBIAN
COMBINES = [name for name in ALL if isinstance(core(make(name)), JacobianBalancer)]
WEIGHS = [name for name in ALL if name not in COMBINES]
TURNS = [name for name in ALL if make(name).active() is not None]
LEARNED = [name for name in ALL if list(make(name).parameters())]
#: Methods that need more objectives than one or two.
MANY = ("krum", "trimmed_mean")
#: Loss methods whose weights depend on the order of the objectives, on chance or on given values.
UNEQUAL = ("single", "alternating", "rlw", "preference_sampling", "prior_loss", "ldc_mtl")
#: Loss methods that treat all objectives alike, with options.
SYMMETRIC = [
    *((name, {}) for name in LOSS if name not in UNEQUAL),
    ("power_mean", {"gamma": -1.5}),
    ("dwa", {"window": 1}),
    ("stch", {"form": "log", "warmup": 1, "unit": "step"}),
    ("igb", {"window": 1}),
]
