"""Groups of shared parameters, for which weights are found one by one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor, nn

from .choices import check_choices
from .measuring.gradients import Gradients

#: Name of the group of the contested parameters that no group of the caller holds.
OTHERS = "others"


@check_choices()
def group_parameters(model: nn.Module, by: Literal["layer", "network", "tensor"]) -> dict[str, list[nn.Parameter]]:
    """Trainable parameters of ``model`` by name of their group, for ``backward(..., groups=)``.

    A parameter that several modules hold belongs to the first.

    Args:
        model: Any module.
        by: ``layer``: a group per module that holds parameters itself, such as ``trunk.0``. ``network``: per child of the
            model. ``tensor``: per parameter.

    Raises:
        ValueError: Another value of ``by``.
    """
    groups: dict[str, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            layer = name.rpartition(".")[0] or name
            group = {"layer": layer, "network": name.partition(".")[0], "tensor": name}[by]
            groups.setdefault(group, []).append(parameter)
    return groups


@dataclass
class Group:
    """A part of the contested parameters.

    Attributes:
        name: Of the group.
        gradients: The rows at its parameters.
        gramian: (K, K) inner products of the true gradients.
        weights: (K,) weights of the objectives, once they are known.
    """

    name: str
    gradients: Gradients
    gramian: Tensor
    weights: Tensor | None = None

    def among(self, indices: Sequence[int]) -> Group:
        """The group's rows of the objectives with these indices."""
        chosen = list(indices)
        return Group(self.name, self.gradients.among(chosen), self.gramian[chosen][:, chosen])


def split_into_groups(
    owner: str, groups: Mapping[str, Sequence[Tensor]], gradients: Gradients, factor: float
) -> list[Group]:
    """The groups that hold contested parameters, in the order given, and the rest.

    ``factor`` is the scale of the gradients. Raises ValueError, which begins with ``owner``, for a parameter in two groups,
    and for groups without any of the contested parameters.
    """
    names: dict[Tensor, str] = {}
    for name, parameters in groups.items():
        for parameter in parameters:
            if names.setdefault(parameter, name) != name:
                shape = tuple(parameter.shape)
                raise ValueError(
                    f"{owner}: a parameter of shape {shape} is in the groups {names[parameter]!r} and {name!r}"
                )
    if gradients.inputs and not any(leaf in names for leaf in gradients.inputs):
        raise ValueError(
            f"{owner}: groups= holds no parameter that several losses reach; make the groups from the model that is trained"
        )
    places: dict[str, list[int]] = {name: [] for name in (*groups, OTHERS)}
    for index, leaf in enumerate(gradients.inputs):
        places[names.get(leaf, OTHERS)].append(index)
    parts = []
    for name, indices in places.items():
        if indices:
            inputs = [gradients.inputs[p] for p in indices]
            rows = [[row[p] for p in indices] for row in gradients.rows]
            heads: list[dict[Tensor, Tensor]] = [{} for _ in rows]
            part = replace(gradients, inputs=inputs, rows=rows, heads=heads, matrix=None, vectors=None)
            parts.append(Group(name, part, part.gramian() / factor**2))
    return parts
