"""Whether gradients were deleted, or parameters moved, while micro-batches waited."""

from __future__ import annotations

import weakref
from collections.abc import Iterable

import torch
from torch import Tensor, nn


class Watch:
    """One leaf between two micro-batches.

    A leaf without ``.grad`` is lent zeros, as deleting nothing would leave no trace. They are -0, which ``zero_grad`` with
    ``set_to_none=False`` makes +0, and which adding, clipping and unscaling leave as they are. Hooks tell gradients that
    another backward adds from all other changes.

    Args:
        leaf: Receives a gradient from the step anyway.

    Attributes:
        deleted: Whether its gradient was set to ``None`` or to zero.
        replaced: Whether its gradient was changed in another way, by which that can no longer be known.
    """

    def __init__(self, leaf: Tensor) -> None:
        self.deleted = self.replaced = False
        self._leaf = weakref.ref(leaf)
        self._value, self._version = leaf.detach().clone(), leaf._version
        self._lent = leaf.grad is None
        if self._lent:
            leaf.grad = torch.full_like(leaf, -0.0)
        self._remember(leaf)
        self._hooks = leaf.register_hook(self._before), leaf.register_post_accumulate_grad_hook(self._after)
        _OPEN.add(self)

    def moved(self) -> bool:
        """Whether the leaf itself was changed in place, as by an optimizer."""
        leaf = self._leaf()
        return leaf is not None and (leaf._version != self._version or not torch.equal(leaf.detach(), self._value))

    def close(self) -> None:
        """Look a last time, and take back what was lent if nothing was added to it."""
        self._look()
        for hook in self._hooks:
            hook.remove()
        leaf = self._leaf()
        _OPEN.discard(self)
        if self._lent and leaf is not None and leaf.grad is self._grad and not self.deleted:
            others = [watch for watch in _OPEN if watch._leaf() is leaf]
            if others:  # of another balancer, to which the zeros look like a gradient
                others[0]._lent = True
            else:
                leaf.grad = None

    def _remember(self, leaf: Tensor) -> None:
        assert leaf.grad is not None
        self._grad, self._grad_version, self._grad_value = leaf.grad, leaf.grad._version, leaf.grad.detach().clone()

    def _before(self, gradient: Tensor) -> None:
        self._look()

    def _after(self, leaf: Tensor) -> None:
        self._lent = False
        self._remember(leaf)

    def _look(self) -> None:
        leaf = self._leaf()
        now = None if leaf is None else leaf.grad
        if now is None:
            self.deleted = True
        elif now is self._grad and now._version == self._grad_version:
            return
        elif bool(now.any()):
            self.replaced = self.replaced or now is not self._grad
        elif _is_positive_zero(now):
            self.replaced = self.replaced or _is_positive_zero(self._grad_value)
            self.deleted = self.deleted or not _is_positive_zero(self._grad_value)


_OPEN: weakref.WeakSet[Watch] = weakref.WeakSet()


def watched_leaf(leaves: Iterable[Tensor]) -> Tensor | None:
    """The smallest of the leaves that can be watched: plain tensors that hold their own values."""
    plain = [leaf for leaf in leaves if type(leaf) in (Tensor, nn.Parameter) and leaf.is_leaf and leaf.numel()]
    return min((leaf for leaf in plain if leaf.untyped_storage().size() > 0), key=Tensor.numel, default=None)


def _is_positive_zero(gradient: Tensor) -> bool:
    return not bool(gradient.any()) and not bool(gradient.signbit().all())
