"""Defaults of the model contract, :class:`balancing.MultiObjectiveModel`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn

from balancing.protocol import Phase
from balancing.rotations import Rotations
from zoo.pretrained import run_folder
from zoo.stored import is_storable, plain


class BaseModel(nn.Module, PyTorchModelHubMixin):
    """One phase, outputs by way of the features, and parameters by objective.

    A subclass sets ``objectives`` and defines ``features``, ``heads``, ``networks`` and :meth:`head_parameters`. Weights and
    arguments, in their order, are stored by ``save_pretrained`` and restored by ``from_pretrained``, which loads strictly.
    Numbers of numpy and containers of OmegaConf are stored as Python's; ``save_pretrained`` raises ValueError if another model
    would be restored.
    All models raise ValueError, naming the argument, for a size or an option out of range, for no objectives and for an
    objective named twice.
    """

    objectives: tuple[str, ...]
    features: Callable[..., Any]  # inputs -> what the heads read
    heads: Callable[[Any], dict[str, Tensor]]  # features -> one output per objective
    networks: Callable[[], dict[str, nn.Module]]  # the parts that may have an optimizer each
    #: Names of modules or parameters with a place for each objective, in their order: weights for another order are others.
    ordered_by_objective: tuple[str, ...] = ()
    _unstored: dict[str, Any] = {}  # arguments that config.json cannot hold; replaced, never changed

    def __new__(cls, *args: Any, **arguments: Any) -> Self:
        names = list(cls._hub_mixin_init_parameters)[1:]
        given = {name: plain(value) for name, value in [*zip(names, args, strict=False), *arguments.items()]}
        model = super().__new__(cls, **given)
        model._unstored = {name: value for name, value in given.items() if not is_storable(value)}
        return model

    @property
    def phases(self) -> tuple[Phase, ...]:
        """One phase: all objectives together."""
        return (Phase("train", self.objectives),)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Inputs -> one output per objective."""
        return self.heads(self.features(x))

    def head_parameters(self, name: str) -> list[nn.Parameter]:
        """The parameters that no objective but ``name`` can reach."""
        raise NotImplementedError

    def objective_parameters(self, name: str) -> list[nn.Parameter]:
        """The parameters that only ``name`` reaches; all parameters if it is the only objective."""
        return self.head_parameters(name) if len(self.objectives) > 1 else list(self.parameters())

    def shared_parameters(self) -> list[nn.Parameter]:
        """The parameters that are of no single objective."""
        own = {parameter for name in self.objectives for parameter in self.objective_parameters(name)}
        return [parameter for parameter in self.parameters() if parameter not in own]

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **options: Any) -> Self:
        """The model in a folder, on the hub, or with weights of the zoo: ``shared_trunk.diamonds``."""
        folder = run_folder(pretrained_model_name_or_path)
        named = folder != Path(pretrained_model_name_or_path)
        return super().from_pretrained(folder / "best" if named else pretrained_model_name_or_path, **options)

    @classmethod
    def _from_pretrained(cls, **arguments: Any) -> Self:
        if "pretrained" in arguments:
            arguments["pretrained"] = False  # those weights would be downloaded, only to be replaced
        return super()._from_pretrained(**{"strict": True, **arguments})

    def _save_pretrained(self, save_directory: Path) -> None:
        config = dict(getattr(self, "_hub_mixin_config", None) or {})
        self._check_restored(config)
        super()._save_pretrained(save_directory)
        # the mixin would sort the keys, and with them the objectives
        stored = {"class": type(self).__name__, **config}
        (save_directory / "config.json").write_text(json.dumps(stored, indent=2) + "\n", encoding="utf-8")

    def _check_restored(self, config: Mapping[str, Any]) -> None:
        """Raise ValueError if ``config`` builds another model than this one."""
        for name, value in self._unstored.items():
            raise ValueError(
                f"{type(self).__name__}: {name}={value!r} cannot be stored in config.json; give numbers, strings, lists or "
                "mappings with names as keys"
            )
        with torch.random.fork_rng(devices=[]):
            twin = type(self)(**{**config, **({"pretrained": False} if "pretrained" in config else {})})
        for what, mine, other in (
            ("objectives", self.objectives, twin.objectives),
            ("shapes of weights", _shapes(self), _shapes(twin)),
        ):
            if mine != other:
                raise ValueError(
                    f"{type(self).__name__}: from_pretrained would restore a model with other {what}; was it changed after it "
                    "was built? Save its state_dict() instead"
                )


def _shapes(model: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


class TrunkModel(BaseModel):
    """A trunk that is shared by all objectives, and a head per objective on its output.

    Args:
        trunk: Module from inputs to features.
        head: Objective -> module from features to its output.
        rotations: Between the output of the trunk and each head; ``None``: nothing is.
    """

    def __init__(self, trunk: nn.Module, head: Mapping[str, nn.Module], rotations: Rotations | None = None) -> None:
        super().__init__()
        self.objectives = tuple(head)
        self.trunk = trunk
        self.head = nn.ModuleDict(head)
        self.rotations = rotations

    def features(self, x: Tensor) -> Any:
        """Inputs -> output of the trunk, and the rotations if there are any."""
        return self.with_rotations(self.trunk(x))

    def with_rotations(self, z: Any) -> Any:
        """Output of the trunk -> what the heads read."""
        return z if self.rotations is None else self.rotations(z)

    def heads(self, features: Any) -> dict[str, Tensor]:
        """Features -> one output per objective."""
        if self.rotations is None:
            return {name: head(features) for name, head in self.head.items()}
        return {name: self.head[name](z) for name, z in self.rotations.turned(features).items()}

    def head_parameters(self, name: str) -> list[nn.Parameter]:
        """The head of ``name``, and its rotation if there is one."""
        own = list(self.head[name].parameters())
        return own if self.rotations is None else [*own, self.rotations.angles[name]]

    def networks(self) -> dict[str, nn.Module]:
        """The trunk, the heads and the rotations if there are any, for an optimizer each."""
        parts = {"trunk": self.trunk, "heads": self.head}
        return parts if self.rotations is None else {**parts, "rotations": self.rotations}
