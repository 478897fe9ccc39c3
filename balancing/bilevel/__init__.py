"""Methods that learn weights by looking at validation losses after a virtual step."""

from balancing.bilevel.meta import Closure, MetaBalancer

__all__ = ["Closure", "MetaBalancer"]
