"""Furnished rooms with labels, depth and normals: a ray caster in NumPy alone.

Everything in a scene is a unit box, sphere or cylinder under an affine map. A ray is moved into the unit space of a part,
met there by a formula, and its parameter carries over unchanged. Rays have length 1 along the view axis, so that the
parameter *is* the depth.

    seed, split, index -> scene (27 to 150 parts) -> nearest part per pixel -> label, depth, normal
                                                        |-> texture, lights, shadows, corners, noise -> image

Color does not give a class away: every part draws its material from the same distribution, so that a wall, a sofa and a book
may wear the same checks. Classes differ in shape, size, place and context.

The result is the same to the last bit everywhere: only correctly rounded operations act on arrays (no matrix product, no
sine), in float32, and every room has a random stream of its own. Imports are relative, as this package is also started
outside of ``tasks`` (see program.py).
"""

from .program import COMMAND, KINDS, replacing
from .render import SPLITS, VERSION, Room, render_room
from .scene import CLASSES

__all__ = ["CLASSES", "COMMAND", "KINDS", "SPLITS", "VERSION", "Room", "render_room", "replacing"]
