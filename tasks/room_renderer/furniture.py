"""Pieces of furniture at the origin with their front to -y; some return a flat top."""

from __future__ import annotations

from .scene import Builder

Top = tuple[float, float, float, float, float]  # x, y, z, width, depth


def bed(b: Builder, w: float, d: float) -> None:
    """Frame, mattress, headboard, cover and pillows."""
    height, frame, sheet = b.draw(0.4, 0.6), b.material(), b.material()
    b.add("box", "bed", (0, 0, height / 3), (w, d, height / 2), frame)
    b.add("box", "bed", (0, 0, height * 0.78), (w - 0.04, d - 0.04, height * 0.44), sheet)
    head = b.draw(0.8, 1.2)
    b.add("box", "bed", (0, d / 2 - 0.03, head / 2), (w, 0.06, head), frame)
    cover = b.draw(0.5, 0.75) * d
    b.add("box", "bed", (0, (cover - d) / 2, height * 0.8), (w + 0.03, cover + 0.02, height * 0.44))
    count = 2 if w > 1.3 else 1
    for i in range(count):
        x = (i - (count - 1) / 2) * w / 2
        b.add("sphere", "bed", (x, d / 2 - 0.3, height + 0.04), (0.8 * w / count, 0.42, 0.2), None if i else sheet)


def sofa(b: Builder, w: float, d: float) -> None:
    """Seat, back, arms and cushions."""
    cloth = b.material()
    seat, back, arm = b.draw(0.38, 0.46), b.draw(0.75, 0.95), b.draw(0.14, 0.24)
    b.add("box", "sofa", (0, 0, seat / 2 + 0.03), (w, d, seat - 0.06), cloth)
    b.add("box", "sofa", (0, d / 2 - 0.1, back / 2), (w, 0.2, back), cloth)
    for side in (-1, 1):
        b.add("box", "sofa", (side * (w - arm) / 2, 0, 0.31), (arm, d, 0.62), cloth)
    count, room = b.random.randint(2, 4), w - 2 * arm
    seats = b.material()
    for i in range(count):
        x = (i - (count - 1) / 2) * room / count
        b.add("box", "sofa", (x, -0.06, seat + 0.05), (room / count - 0.02, d - 0.28, 0.12), seats)
        if b.chance(0.6):
            b.add("sphere", "sofa", (x, d / 2 - 0.28, seat + 0.26), (0.46, 0.22, 0.42))


def chair(b: Builder, w: float, d: float) -> None:
    """Seat on legs or a post, back solid or of bars."""
    height, back, wood = b.draw(0.42, 0.5), b.draw(0.38, 0.55), b.material()
    seat = wood if b.chance(0.5) else b.material()
    b.add("cylinder" if b.chance(0.3) else "box", "chair", (0, 0, height), (w, d, 0.05), seat)
    if b.chance(0.7):
        for x in (-1, 1):
            for y in (-1, 1):
                place = (x * (w / 2 - 0.04), y * (d / 2 - 0.04), height / 2)
                b.add("box", "chair", place, (0.045, 0.045, height), wood)
    else:
        b.add("cylinder", "chair", (0, 0, height / 2), (0.07, 0.07, height), wood)
        b.add("cylinder", "chair", (0, 0, 0.02), (w * 0.9, w * 0.9, 0.04), wood)
    if b.chance(0.5):
        b.add("box", "chair", (0, d / 2 - 0.025, height + back / 2), (w, 0.04, back), seat)
        return
    for i in range(3):
        b.add("box", "chair", ((i - 1) * (w / 2 - 0.03), d / 2 - 0.025, height + back / 2), (0.05, 0.035, back), wood)
    b.add("box", "chair", (0, d / 2 - 0.025, height + back), (w, 0.04, 0.08), wood)


def table(b: Builder, w: float, d: float, height: float) -> Top:
    """Rectangular on four legs, or round on a post."""
    wood, legs = b.material(), b.material()
    if b.chance(0.3):
        size = min(w, d)
        b.add("cylinder", "table", (0, 0, height - 0.02), (size, size, 0.04), wood)
        b.add("cylinder", "table", (0, 0, height / 2), (0.12, 0.12, height), legs)
        b.add("cylinder", "table", (0, 0, 0.02), (size * 0.6, size * 0.6, 0.04), legs)
        return (0, 0, height, size * 0.65, size * 0.65)
    b.add("box", "table", (0, 0, height - 0.025), (w, d, 0.05), wood)
    for x in (-1, 1):
        for y in (-1, 1):
            b.add("box", "table", (x * (w / 2 - 0.05), y * (d / 2 - 0.05), height / 2), (0.07, 0.07, height), legs)
    return (0, 0, height, w, d)


def cabinet(b: Builder, w: float, d: float, height: float) -> Top | None:
    """Body with doors or drawers."""
    body, face = b.material(), b.material()
    b.add("box", "furniture", (0, 0, height / 2), (w, d, height), body)
    columns, rows = (2 if w > 0.8 else 1), b.random.randint(1, 4)
    for i in range(columns):
        for j in range(rows):
            wide, high = w / columns, (height - 0.08) / rows
            x, z = (i - (columns - 1) / 2) * wide, 0.06 + (j + 0.5) * high
            b.add("box", "furniture", (x, -d / 2, z), (wide - 0.04, 0.03, high - 0.04), face)
            b.add("sphere", "furniture", (x + wide / 3, -d / 2 - 0.025, z), (0.045, 0.045, 0.045), body)
    return (0, 0, height, w, d) if height < 1.4 else None


def shelf(b: Builder, w: float, d: float, height: float) -> None:
    """Boards with books and small things."""
    wood, boards = b.material(), b.random.randint(2, 5)
    for side in (-1, 1):
        b.add("box", "furniture", (side * (w / 2 - 0.015), 0, height / 2), (0.03, d, height), wood)
    b.add("box", "furniture", (0, d / 2 - 0.01, height / 2), (w, 0.02, height), wood)
    gap = (height - 0.1) / boards
    for i in range(boards + 1):
        z = 0.06 + i * gap
        b.add("box", "furniture", (0, 0, z), (w, d, 0.03), wood)
        if i < boards and b.chance(0.75):
            _book_row(b, z + 0.015, w - 0.08, d, gap - 0.05)
        elif i < boards:
            small_object(b, (b.draw(-0.25, 0.25) * w, 0, z + 0.015), min(gap - 0.06, 0.35), b.random.randint(0, 3))


def _book_row(b: Builder, z: float, room: float, d: float, gap: float) -> None:
    x, end = -room / 2, room / 2 * b.draw(-0.2, 1.0)
    while x < end:
        thick, high = b.draw(0.03, 0.075), min(b.draw(0.2, 0.32), gap)
        deep = d * b.draw(0.6, 0.85)
        b.add("box", "books", (x + thick / 2, (d - deep) / 2 - 0.02, z + high / 2), (thick - 0.004, deep, high))
        x += thick


def _book_pile(b: Builder, x: float, y: float, z: float) -> None:
    for _ in range(b.random.randint(2, 6)):
        thick = b.draw(0.03, 0.06)
        b.add("box", "books", (x, y, z + thick / 2), (b.draw(0.2, 0.32), b.draw(0.18, 0.26), thick))
        z += thick


def small_object(b: Builder, place: tuple[float, float, float], size: float, kind: int) -> None:
    """Ball, can, box, vase, plant or lamp of height ``size`` standing on ``place``."""
    x, y, z = place
    if kind == 0:
        b.add("sphere", "objects", (x, y, z + size * 0.4), (size * 0.8, size * 0.8, size * 0.8))
    elif kind == 1:
        b.add("cylinder", "objects", (x, y, z + size / 2), (size * 0.5, size * 0.5, size))
    elif kind == 2:
        b.add("box", "objects", (x, y, z + size * 0.3), (size, size * 0.7, size * 0.6))
    elif kind == 3:
        clay = b.material()
        b.add("sphere", "objects", (x, y, z + size * 0.35), (size * 0.55, size * 0.55, size * 0.7), clay)
        b.add("cylinder", "objects", (x, y, z + size * 0.8), (size * 0.2, size * 0.2, size * 0.4), clay)
    elif kind == 4:
        b.add("cylinder", "objects", (x, y, z + size * 0.17), (size * 0.4, size * 0.4, size * 0.34))
        leaf = b.material()
        for _ in range(b.random.randint(3, 6)):
            spot = (x + b.draw(-0.2, 0.2) * size, y + b.draw(-0.2, 0.2) * size, z + b.draw(0.5, 0.85) * size)
            b.add("sphere", "objects", spot, (size * b.draw(0.2, 0.4), size * b.draw(0.2, 0.4), size * 0.4), leaf)
    else:
        b.add("cylinder", "objects", (x, y, z + 0.015), (size * 0.3, size * 0.3, 0.03))
        b.add("cylinder", "objects", (x, y, z + size * 0.4), (0.03, 0.03, size * 0.8))
        b.add("cylinder", "objects", (x, y, z + size * 0.85), (size * 0.45, size * 0.45, size * 0.3))


def dress(b: Builder, top: Top) -> None:
    """Small things on a flat top."""
    x, y, z, w, d = top
    for i in range(b.random.randint(0, 4)):
        place = (x + (b.draw(-0.3, 0.3) + 0.3 * (i - 1)) * w * 0.7, y + b.draw(-0.25, 0.25) * d, z)
        if b.chance(0.35):
            _book_pile(b, *place)
        else:
            small_object(b, place, b.draw(0.15, 0.45), b.random.randint(6))


def picture(b: Builder, w: float, h: float) -> None:
    """Frame and canvas, on a wall."""
    b.add("box", "picture", (0, -0.02, 0), (w, 0.04, h))
    b.add("box", "picture", (0, -0.03, 0), (w - 0.1, 0.04, h - 0.1))


def tv(b: Builder, w: float, h: float) -> None:
    """Screen in a thin frame, off the wall."""
    frame = b.material()
    b.add("box", "tv", (0, -0.06, 0), (w, 0.05, h), frame)
    b.add("box", "tv", (0, -0.065, 0), (w - 0.05, 0.05, h - 0.05))
    b.add("box", "tv", (0, -0.02, 0), (w / 3, 0.04, h / 3), frame)


def window(b: Builder, w: float, h: float) -> None:
    """Pane, frame, bars and sill."""
    frame = b.material()
    b.add("box", "window", (0, -0.005, 0), (w, 0.01, h))
    for side in (-1, 1):
        b.add("box", "window", (side * w / 2, -0.03, 0), (0.08, 0.06, h + 0.08), frame)
        b.add("box", "window", (0, -0.03, side * h / 2), (w + 0.08, 0.06, 0.08), frame)
    if b.chance(0.7):
        b.add("box", "window", (0, -0.02, 0), (0.05, 0.04, h), frame)
    if b.chance(0.4):
        b.add("box", "window", (0, -0.02, 0), (w, 0.04, 0.05), frame)
    b.add("box", "window", (0, -0.08, -h / 2 - 0.04), (w + 0.2, 0.16, 0.04), frame)
