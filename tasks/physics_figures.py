"""Pictures of fields over two coordinates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure


def fields_beside_reference(
    panels: Mapping[str, tuple[np.ndarray, np.ndarray]],
    coordinates: Sequence[str],
    lower: Sequence[float],
    upper: Sequence[float],
) -> Figure:
    """A row for each field: network, reference, difference.

    Args:
        panels: Field -> its values and those of the reference, (Nx, Ny) each.
        coordinates: Names of the two axes.
        lower: Smallest value of each coordinate.
        upper: Largest value of each coordinate.
    """
    figure = Figure(figsize=(10, 2.9 * len(panels)), layout="constrained")
    extent = (lower[0], upper[0], lower[1], upper[1])
    for row, (name, (values, truth)) in zip(
        figure.subplots(len(panels), 3, squeeze=False), panels.items(), strict=True
    ):
        # a few values at corners, where a field may be singular, would hide the others
        high = float(np.nanquantile(np.abs(truth), 0.995)) or 1.0
        error = values - truth
        largest = float(np.nanquantile(np.abs(error), 0.995)) or 1e-12
        shown = ((name, values, high, "RdBu_r"), (f"{name}, reference", truth, high, "RdBu_r"))
        for axes, (title, field, limit, colors) in zip(
            row, (*shown, ("difference", error, largest, "PuOr")), strict=True
        ):
            image = axes.imshow(
                field.T, origin="lower", extent=extent, aspect="auto", cmap=colors, vmin=-limit, vmax=limit
            )
            axes.set_title(title, fontsize=10, loc="left")
            axes.set_xlabel(coordinates[0])
            axes.set_ylabel(coordinates[1])
            figure.colorbar(image, ax=axes, shrink=0.9)
    return figure
