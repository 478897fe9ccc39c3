"""Methods applied to gradients of plain backwards: no graph is searched, nothing is measured or averaged by the library.

The formulas themselves are held by the tests of each method; here they are called bare, on rows that ``torch.autograd``
gave for a model written plainly in float64.
"""

from dataclasses import dataclass, replace

import torch

from balancing import Composed, GramianBalancer, LossBalancer, RowBalancer, create_balancer
from tests.balancing.problems import make

#: What the tables run each method with, so that nothing hangs on the sign or the size of a rounding error.
OPTIONS = {"gradnorm": {"init": "equal"}, "dwa": {"window": 1}, "conflict_free_momentum": {"eps": 1e-2}}


def build(method, objectives, **options):
    """The balancer called ``method``; ``first>second`` is a composition, and `` lean`` comes after a method so measured."""
    objectives = tuple(objectives) if isinstance(objectives, str) else objectives
    if method.endswith(" lean"):
        return build(method.removesuffix(" lean"), objectives, memory="lean", **options)
    names = method.split(">")
    if len(names) > 1:
        return create_balancer(names, objectives, **options)
    # those of an objective, whatever others there are
    values = {name: 1.0 + ord(str(name)[0]) % 5 for name in objectives}
    if method in ("fixed", "prior_loss"):
        options.setdefault("values" if method == "fixed" else "prior_losses", values)
    return make(method, objectives, **{**OPTIONS.get(method, {}), **options})


@dataclass
class Wanted:
    """What a step should leave.

    Attributes:
        gradients: Parameter name -> its ``.grad``; a name that is missing has none.
        other: The same for coordinates whose sign is drawn: each is that of ``gradients`` or that of ``other``.
        size: Length of the sum of the weighted rows before they cancel, to which errors are relative.
        weights: (K,) weights, if the method has some.
        gramian: (K, K) of the rows, if the method sees one.
    """

    gradients: dict
    other: dict
    size: float
    weights: torch.Tensor | None = None
    gramian: torch.Tensor | None = None


def real(tensor):
    """A complex tensor as a real one."""
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def rows_of(losses, parameters):
    """Objective -> {parameter name -> gradient}, a backward per objective; what it does not reach is left out."""
    rows = {}
    for key, loss in losses.items():
        found = torch.autograd.grad(loss, list(parameters.values()), retain_graph=True, allow_unused=True)
        rows[key] = {name: real(g).detach() for name, g in zip(parameters, found, strict=True) if g is not None}
    return rows


class Reference:
    """A method, step by step, on given losses and rows."""

    def __init__(self, method, objectives, **options):
        self.objectives = tuple(objectives)
        self.twin = build(method, self.objectives, **options)
        self.composed = isinstance(self.twin, Composed)
        self.core = self.twin.gradient_balancer if self.composed else self.twin

    @torch.no_grad()
    def step(self, losses, rows, parameters, shared=None):
        """The update from K losses and ``rows_of`` them at the ``parameters``.

        Contested are those in ``shared``; if it is not given, those that two objectives reach.
        """
        losses = torch.stack([losses[name].detach().double() for name in self.objectives])
        rows = [{key: g.double() for key, g in rows[name].items()} for name in self.objectives]
        if shared is None:
            shared = [key for key in parameters if sum(key in row for row in rows) > 1]
        sizes = [parameters[key].numel() for key in shared]
        first = self.twin.loss_balancer.compute_weights(losses).double() if self.composed else torch.ones_like(losses)
        active = self.core.active()
        active = range(len(losses)) if active is None else active
        jacobian = torch.zeros(len(losses), sum(sizes), dtype=losses.dtype)
        for k in active:
            for key, piece in zip(shared, jacobian[k].split(sizes), strict=True):
                if key in rows[k]:
                    piece.copy_(rows[k][key].flatten())
        weights, update, other, gramian = self._method(losses * first, jacobian, first, bool(shared))
        heads = first if weights is None or self.core.head_rule == "unit" else weights
        gradients, others = {}, {}
        for k in active:
            for key, row in rows[k].items():
                if key not in shared:
                    gradients[key] = gradients.get(key, 0) + heads[k] * row
        waits = isinstance(self.core, LossBalancer)  # what is not differentiated at this step gets nothing
        for vector, into in ((update, gradients), (other, others)) if shared else ():
            for key, piece in zip(shared, vector.split(sizes), strict=True):
                if not waits or any(key in rows[k] for k in active):
                    into[key] = piece.view(parameters[key].shape)
        self.twin.advance()
        lengths = [torch.cat([g.flatten() for g in rows[k].values()]).norm() for k in active if rows[k]]
        scale = heads.abs() if weights is None else torch.maximum(weights.abs(), heads.abs())
        size = sum(float(scale[k] * length) for k, length in zip(active, lengths, strict=True))
        size = max(size, float(update.norm()) if shared else 0.0)
        return Wanted(gradients, others, size, weights, gramian)

    def own(self):
        """Gradients of what the method itself learns."""
        return [p.grad for p in self.twin.parameters()]

    @torch.no_grad()
    def observe(self, losses):
        """The second look at a batch."""
        values = torch.stack([losses[name].detach().double() for name in self.objectives])
        for method in (self.twin.loss_balancer, self.core) if self.composed else (self.core,):
            method.update(values)

    def _method(self, losses, jacobian, first, anything):
        """Weights, update, the other choice of drawn signs, and the Gramian."""
        core = self.core
        if isinstance(core, LossBalancer):
            weights = core.compute_weights(losses).double() * first
            return weights, weights @ jacobian, weights @ jacobian, None
        gramian = jacobian @ jacobian.T
        if not anything:
            return first, None, None, gramian
        scaled = jacobian * first[:, None]
        if isinstance(core, GramianBalancer):
            weights = core.compute_weights(losses, scaled @ scaled.T) * first
            return weights, weights @ jacobian, weights @ jacobian, gramian
        if isinstance(core, RowBalancer):
            weights = core.compute_weights(losses, scaled.clone()).double() * first
            return weights, weights @ jacobian, weights @ jacobian, gramian
        if core.name == "graddrop":  # which sign a coordinate keeps is drawn in an order that is the library's own
            return None, scaled.clamp(min=0).sum(0), scaled.clamp(max=0).sum(0), gramian
        update = core.combine(losses, scaled.clone())
        return None, update, update, gramian


class ReferenceOfPresent(Reference):
    """A method that never hears of objectives that are absent at every step."""

    def __init__(self, method, objectives, present):
        super().__init__(method, present)
        self.places = [list(objectives).index(name) for name in present]
        self.size = len(objectives)

    def step(self, losses, rows, parameters, shared=None):
        return replace(super().step(losses, rows, parameters, shared), weights=None, gramian=None)

    def own(self):
        """Zero for those that are absent."""
        return [
            g if g is None else g.new_zeros(self.size).index_copy(0, torch.tensor(self.places), g)
            for g in super().own()
        ]


class ReferenceWithProbe(ReferenceOfPresent):
    """A gradient method for the objectives that share something; the last keeps its own gradient."""

    def __init__(self, method, objectives):
        super().__init__(method, objectives, objectives[:-1])
        self.probe = objectives[-1]

    def step(self, losses, rows, parameters, shared=None):
        wanted = super().step(losses, rows, parameters, shared)
        return replace(wanted, gradients=wanted.gradients | rows[self.probe])
