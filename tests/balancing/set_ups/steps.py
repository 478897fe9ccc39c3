"""Set-ups about the loop: accumulation, several backwards of a step, hooks, and what is handed to ``backward``."""

import copy

import torch
from torch.nn import functional as F

from balancing import balancer_class, create_balancer
from tests.balancing.problems import Net
from tests.balancing.set_ups.outputs import EVERY, errors, separate
from tests.balancing.set_ups.reference import Reference, build, rows_of
from tests.balancing.set_ups.table import (
    FEW,
    KINDS,
    SetUp,
    batch,
    cell,
    check_gradient,
    compare,
    refuses,
    right_or_refused,
    set_up,
)

#: Methods that draw nothing and whose weights are smooth in the gradients, for optimizers that search along a line.
SMOOTH = ("sum", "fixed", "mgda", "upgrad", "nash_mtl", "cagrad")
UNBIASED = tuple(name for name in EVERY if balancer_class(name.split(">")[-1]).unbiased)
#: Methods that do not see that an earlier micro-batch was given up, as it went into ``.grad`` at once.
AT_ONCE = tuple(name for name in EVERY if balancer_class(name.split(">")[-1]).needs == "nothing")


class Twins:
    """A network and a method, and the reference of both."""

    def __init__(self, method):
        self.s = SetUp(Net(), separate)
        self.net, self.exact = self.s.model, copy.deepcopy(self.s.model)
        self.balancer, self.reference = build(method, "abc"), Reference(method, "abc")

    def wanted(self, *batches, reference=None):
        """What a step on the sum of these batches should leave; the reference advances."""
        values = [separate(self.exact, x) for x in batches]
        total = {key: sum(losses[key] for losses in values) for key in "abc"}
        leaves = dict(self.exact.named_parameters())
        return (reference or self.reference).step(total, rows_of(total, leaves), leaves)

    def losses(self, x):
        return separate(self.net, x)

    def check(self, wanted):
        compare(self.s, self.net, wanted, 1e-9)


# ---- accumulation --------------------------------------------------------------------------------------------------


@cell(*(name for name in EVERY if name not in UNBIASED))
def accumulation(method):
    t = Twins(method)
    for step in range(2):
        t.net.zero_grad()
        parts = batch(step, 12).chunk(3)
        for i, x in enumerate(parts):
            t.balancer.backward(t.losses(x), last=i == 2)
        t.check(t.wanted(*parts))


def restart(method, between, *batches):
    """Give up a micro-batch, go on ``between``, and take a step on the batches."""
    t = Twins(method)
    t.balancer.backward(t.losses(100 * batch(9)), last=False)
    t.net.zero_grad()
    between(t)
    for i, x in enumerate(batches):
        report = t.balancer.backward(t.losses(x), last=i == len(batches) - 1)
    t.check(t.wanted(*batches))
    if method not in AT_ONCE:
        total = [sum(separate(t.exact, x)[key].detach() for x in batches) for key in "abc"]
        torch.testing.assert_close(report.losses, torch.stack(total))


@cell(*EVERY)
def given_up_accumulation(method):
    right_or_refused(lambda: restart(method, lambda t: None, batch(0)), r"discard\(\)")


@cell(*(name for name in KINDS if name not in UNBIASED))
def given_up_and_accumulated_again(method):
    right_or_refused(lambda: restart(method, lambda t: None, batch(0), batch(1)), r"discard\(\)")


@cell(*EVERY)
def discarded_accumulation(method):
    restart(method, lambda t: t.balancer.discard(), batch(0))


@cell(*(name for name in KINDS if name not in UNBIASED))
def discarded_and_accumulated_again(method):
    restart(method, lambda t: t.balancer.discard(), batch(0), batch(1))


@cell(*KINDS)
def given_up_and_moved(method):
    """The parameters have moved since: what waits belongs to another model."""

    def move(t):
        with torch.no_grad():
            for p, q in zip(t.net.parameters(), t.exact.parameters(), strict=True):
                p.mul_(0.9)
                q.mul_(0.9)

    right_or_refused(lambda: restart(method, move, batch(0)), r"discard\(\)")


# ---- several backwards of a step -----------------------------------------------------------------------------------


@cell(*EVERY)
def retain_graph(method):
    """Two steps on one graph add up."""
    t, x = Twins(method), batch(0)
    losses = t.losses(x)
    t.balancer.backward(losses, retain_graph=True)
    first = t.wanted(x)
    t.check(first)
    t.net.zero_grad()
    t.balancer.backward(losses)
    t.check(t.wanted(x))


@cell(*EVERY)
def advance_false(method):
    """An evaluation gives the gradient that the step will give, and leaves the state as it is, bit for bit."""
    t = Twins(method)
    for step in range(3):
        t.net.zero_grad()
        x = batch(step)
        before = copy.deepcopy(t.balancer.state_dict())
        for other in (x, batch(50 + step)):
            t.net.zero_grad()
            t.balancer.backward(t.losses(other), advance=False)
            t.check(t.wanted(other, reference=copy.deepcopy(t.reference)))
        assert same_state(before, t.balancer.state_dict())
        t.net.zero_grad()
        t.balancer.backward(t.losses(x))
        t.check(t.wanted(x))


def same_state(first, second):
    """Whether two states hold the same tensors and numbers."""
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same_state(first[key], second[key]) for key in first)
    return first == second


@cell(*SMOOTH)
def lbfgs(method):
    """The closure is called several times per step; only its first call is a step of the balancer."""
    t = Twins(method)
    mine, other = (torch.optim.LBFGS(net.parameters(), lr=0.01, max_iter=4) for net in (t.net, t.exact))
    for step in range(2):
        x, calls = batch(step), []

        def closure(x=x, calls=calls):
            t.net.zero_grad()
            report = t.balancer.backward(t.losses(x), advance=not calls)
            calls.append(report)
            return report.losses.sum()

        def plain(x=x, calls=None):
            fresh = copy.deepcopy(t.reference)
            wanted = t.wanted(x, reference=fresh)
            for key, p in t.exact.named_parameters():
                p.grad = wanted.gradients[key].clone()
            return sum(separate(t.exact, x).values()).detach()

        mine.step(closure)
        other.step(plain)
        t.reference.twin.advance()
        assert len(calls) > 1
        assert t.balancer.step == step + 1
    for p, q in zip(t.net.parameters(), t.exact.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-8)


@cell(*KINDS)
def sharpness_aware(method):
    """SAM: a step's gradient is that of a point uphill; the evaluation there leaves state alone."""
    t = Twins(method)
    for step in range(2):
        x = batch(step)
        t.net.zero_grad()
        t.balancer.backward(t.losses(x))
        t.wanted(x)
        uphill = [
            0.05 * p.grad / p.grad.norm().clamp(min=1e-9) if p.grad is not None else 0 * p for p in t.net.parameters()
        ]
        with torch.no_grad():
            for net in (t.net, t.exact):
                for p, e in zip(net.parameters(), uphill, strict=True):
                    p.add_(e)
        t.net.zero_grad()
        t.balancer.backward(t.losses(x), advance=False)
        t.check(t.wanted(x, reference=copy.deepcopy(t.reference)))
        with torch.no_grad():
            for net in (t.net, t.exact):
                for p, e in zip(net.parameters(), uphill, strict=True):
                    p.sub_(e)
        assert t.balancer.step == step + 1


@cell(*KINDS)
def create_graph(method):
    """Gradients that can be differentiated, or a refusal by name."""
    t, x = Twins(method), batch(0)

    def check():
        t.balancer.backward(t.losses(x), create_graph=True)
        t.check(t.wanted(x))
        assert t.net.trunk[0].weight.grad.requires_grad

    right_or_refused(check, "create_graph")


@cell(*EVERY)
def no_grad(method):
    """As torch's backward, it does not matter whether gradients are being recorded."""
    t = Twins(method)
    for step in range(2):
        t.net.zero_grad()
        x = batch(step)
        losses = t.losses(x)
        with torch.no_grad():
            t.balancer.backward(losses)
        t.check(t.wanted(x))


# ---- hooks ---------------------------------------------------------------------------------------------------------


def twice(tensor):
    """The tensor, with twice its gradient."""
    return tensor + (tensor - tensor.detach())


@set_up(*KINDS)
def tensor_hook():
    net = Net()
    net.trunk[0].weight.register_hook(lambda g: 2 * g)
    net.head["b"].weight.register_hook(lambda g: 2 * g)

    def plain(model, x):
        z = F.linear(
            F.linear(x, twice(model.trunk[0].weight), model.trunk[0].bias).tanh(), *model.trunk[2].parameters()
        )
        z = z.tanh()
        b = model.head["b"]
        return errors([model.head["a"](z), F.linear(z, twice(b.weight), b.bias), model.head["c"](z)], x)

    return SetUp(net, separate, plain, precisions=(torch.float64,))


@set_up(*KINDS)
def full_backward_hook():
    net = Net()
    net.trunk[2].register_full_backward_hook(lambda module, inputs, outputs: (2 * inputs[0],))

    def plain(model, x):
        z = F.linear(twice(model.trunk[:2](x)), *model.trunk[2].parameters()).tanh()
        return errors([model.head[name](z) for name in "abc"], x)

    return SetUp(net, separate, plain)


@cell(*EVERY)
def post_accumulate_hook(method):
    """Runs once per parameter and step, on the finished gradient; or the step is refused."""
    t, x, seen = Twins(method), batch(0), {}
    for name, p in t.net.named_parameters():
        p.register_post_accumulate_grad_hook(lambda p, name=name: seen.setdefault(name, []).append(p.grad.clone()))

    def check():
        t.balancer.backward(t.losses(x))
        t.check(t.wanted(x))
        gradients = t.net.gradients()
        assert seen.keys() == gradients.keys()
        for name, values in seen.items():
            assert len(values) == 1
            torch.testing.assert_close(values[0], gradients[name])

    right_or_refused(check, "post_accumulate")


@cell(*KINDS)
def optimizer_in_backward(method):
    """A hook steps each parameter as its gradient is finished, and drops it; or the step is refused."""
    t, x = Twins(method), batch(0)

    def step(p):
        with torch.no_grad():
            p.sub_(p.grad, alpha=0.01)
        p.grad = None

    for p in t.net.parameters():
        p.register_post_accumulate_grad_hook(step)

    def check():
        t.balancer.backward(t.losses(x))
        wanted = t.wanted(x)
        assert t.net.gradients() == {}
        with torch.no_grad():  # back to gradients
            moved = {name: (q - p) / 0.01 for (name, p), q in zip(named(t.net), t.exact.parameters(), strict=True)}
        for name, gradient in moved.items():
            if name in wanted.gradients:
                check_gradient(name, gradient, wanted, 1e-9)
            else:
                assert not gradient.any()

    right_or_refused(check, "post_accumulate")


def named(net):
    return list(net.named_parameters())


# ---- what is handed over -------------------------------------------------------------------------------------------


def check_given(method, given):
    """Losses without names: in the order of the objectives, or refused by a message that says what to pass."""
    t, x = Twins(method), batch(0)

    def check():
        t.balancer.backward(given(list(t.losses(x).values())))
        t.check(t.wanted(x))

    right_or_refused(check, "mapping|dict|name")


@cell(*KINDS)
def losses_list(method):
    check_given(method, list)


@cell(*KINDS)
def losses_stacked(method):
    check_given(method, torch.stack)


@set_up(*KINDS)
def integer_names():
    def losses(net, x):
        return dict(enumerate(separate(net, x).values()))

    return SetUp(Net(), losses, objectives=(0, 1, 2))


@cell(*FEW)
def integer_names_with_one_too_many(method):
    t = Twins(method)
    losses = list(t.losses(batch(0)).values())
    refuses(lambda: build(method, (0, 1)).backward(dict(enumerate(losses))), "unknown objective 2")


@cell(*KINDS)
def set_of_objectives(method):
    """A set has no order, so weights and state would mean something else in every process."""
    names = method.split(">")
    refuses(lambda: create_balancer(names, {"a", "b", "c"}), r"(?i)\bset\b|order")


@cell(*FEW)
def number_of_objectives(method):
    names = method.split(">")[-1]
    refuses(lambda: balancer_class(names)(2), r"(?i)name")


@cell(*KINDS)
def complex_loss(method):
    t = Twins(method)
    losses = {key: torch.complex(loss, loss) for key, loss in t.losses(batch(0)).items()}
    refuses(lambda: t.balancer.backward(losses), "objective 'a'", r"(?i)complex|real")
    assert t.net.gradients() == {}


@cell("mgda", "pcgrad", "upgrad", "nash_mtl", "gradnorm", "graddrop")
def features_mapping(method):
    """Right as a sequence is, or refused by a message that says what to pass."""
    net, x = Net(), batch(0)

    def gradients(given):
        net.zero_grad()
        z = net.features(x)
        losses = errors([net.head[name](z) for name in "abc"], x)
        build(method, "abc", at="features").backward(losses, features=given(z))
        return net.gradients()

    wanted = gradients(lambda z: z)

    def check():
        for key, gradient in gradients(lambda z: {"z": z}).items():
            torch.testing.assert_close(gradient, wanted[key])

    right_or_refused(check, "features", "mapping|dict|values")


@cell("mgda", "pcgrad", "nash_mtl", "upgrad", "grad_normalize", "imtl_g", "conflict_free", "cagrad")
def groups(method):
    """Weights for each layer are those of the method on that layer's rows alone."""
    t, x = Twins(method), batch(0)
    layers = {"first": list(t.net.trunk[0].parameters()), "second": list(t.net.trunk[2].parameters())}
    t.balancer.backward(t.losses(x), groups=layers)
    actual = t.net.gradients()
    values = separate(t.exact, x)
    # groups are served in the order given, each as a step that draws after the one before
    losses, leaves = torch.stack([values[key].detach() for key in "abc"]), dict(t.exact.named_parameters())
    rows = rows_of(values, leaves)
    twin = build(method, "abc")
    for place in (0, 2):
        keys = [f"trunk.{place}.{kind}" for kind in ("weight", "bias")]
        jacobian = torch.stack([torch.cat([rows[name][key].flatten() for key in keys]) for name in "abc"])
        with torch.no_grad():
            weights = twin.compute_weights(losses, jacobian @ jacobian.T)
        update = torch.cat([actual[key].flatten() for key in keys])
        torch.testing.assert_close(update, weights @ jacobian, rtol=1e-8, atol=1e-10)
    if twin.head_rule == "unit":
        for name in "abc":
            torch.testing.assert_close(actual[f"head.{name}.weight"], rows[name][f"head.{name}.weight"])
