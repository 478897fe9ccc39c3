"""Training that begins with weights of another run, file or hub, and parts that keep theirs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from mozoo.arguments import ConfigError, did_you_mean, some
from mozoo.transfer import match, stored_task
from tasks import Splits, Task
from zoo.hub import quiet_hub
from zoo.pretrained import run_folder

_WEIGHTS = "model.safetensors"
_INNER = ("model", "state_dict", "model_state_dict")  # where checkpoints keep the weights
_PREFIXES = ("module.", "_orig_mod.", "model.")  # of wrappers


def initialize(
    model: nn.Module, source: str | None, task: Task | None = None, splits: Splits | None = None, trust: bool = False
) -> str:
    """Give the model the weights of ``source`` that have a name and a shape of its own.

    Where the source also has a description of its data (``config.json``), inputs, categories, classes and units are matched by
    their names; see :mod:`mozoo.transfer`.

    Args:
        model: Changed in place; tensors that the source lacks stay as they are.
        source: A run folder, its folder ``best``, a file (.safetensors, .pt, .pth, .bin), weights of the zoo such as
            ``shared_trunk.diamonds``, or ``hf-hub:owner/name``; ``None``: nothing is done.
        task: What the model is trained on, with its state; ``None``: nothing is matched.
        splits: Its data.
        trust: Whether modules that the description names may be imported.

    Returns:
        What was taken and what was left out, for people.

    Raises:
        ConfigError: Nothing can be read there, or nothing fits.
    """
    if source is None:
        return ""
    if not source:
        raise ConfigError(
            "init needs a run folder, a file of weights, or hf-hub:owner/name; without it, leave init out"
        )
    own = model.state_dict()
    path = _place(source)
    found, matched = _unwrapped(_load(path), own), list[str]()
    if task is not None and splits is not None:
        found, matched = _matched(model, found, path, task, splits, trust)
    taken = {name: tensor for name, tensor in found.items() if name in own and tensor.shape == own[name].shape}
    if not taken:
        examples = f"it has {some(list(found))}, the model {some(list(own))}"
        raise ConfigError(f"init={source}: no tensor fits by name and shape; {examples}")
    model.load_state_dict(taken, strict=False)
    others = [
        f"{name} {tuple(tensor.shape)} for {tuple(own[name].shape)}" if name in own else name
        for name, tensor in found.items()
        if name not in taken
    ]
    told = [f"{len(taken)} of {len(own)} tensors from {source}", *matched]
    if fresh := [name for name in own if name not in taken]:
        told.append(f"untouched: {some(fresh)}")
    if others:
        told.append(f"left out of the file: {some(others)}")
    return "; ".join(told)


def frozen_modules(model: Any, names: Sequence[str]) -> list[nn.Module]:
    """Networks and modules with these names. Raises ConfigError for a name that there is not."""
    networks, modules = dict(model.networks()), dict(model.named_modules())
    for name in names:
        if name not in networks and not modules.get(name):
            known = [*networks, *(other for other in modules if other)]
            raise ConfigError(f"freeze: the model has no part {name!r}; {_near(name, known, networks)}")
    return [networks.get(name) or modules[name] for name in names]


def freeze(model: nn.Module, modules: Sequence[nn.Module]) -> None:
    """Exclude the parameters of ``modules`` from training. Raises ConfigError if none is left."""
    for module in modules:
        module.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ConfigError("freeze: all parameters are frozen, so there is nothing to train; leave a part out")


def layer_scales(module: nn.Module, decay: float) -> dict[nn.Parameter, float]:
    """Factors of the learning rate: ``decay`` to the power of the distance from the last layer.

    Layers are those of timm's trunks (``group_matcher``); parameters outside of a trunk are missing and have factor 1.
    H. Bao et al., "BEiT: BERT Pre-Training of Image Transformers", ICLR 2022, arXiv 2106.08254.
    """
    from timm.models import group_parameters  # timm takes most of a second to import

    scales: dict[nn.Parameter, float] = {}
    for trunk in module.modules():
        matcher: Any = getattr(trunk, "group_matcher", None)
        if not callable(matcher):
            continue
        layers = group_parameters(trunk, matcher(coarse=False), reverse=True)
        last, named = max(layers.values()), dict(trunk.named_parameters())
        scales |= {named[name]: decay ** (last - layer) for name, layer in layers.items()}
    return scales


def _matched(
    model: nn.Module, found: Mapping[str, Tensor], path: Path, task: Task, splits: Splits, trust: bool
) -> tuple[Mapping[str, Tensor], list[str]]:
    """The weights as ``task`` means them, and remarks.

    As they are, if what they mean is not written beside them. Raises ConfigError if that is damaged.
    """
    if not task.state_dict() and not (path.parent / "config.json").is_file():
        return found, []  # what inputs and classes of such a task mean never changes
    try:
        stored = stored_task(path.parent, trust)
    except ConfigError:
        raise
    except Exception as error:  # of a missing file, of another program, or of another version
        reason = "there is none" if isinstance(error, FileNotFoundError) else " ".join(str(error).split())[:100]
        if isinstance(error, json.JSONDecodeError | UnicodeDecodeError | RecursionError):
            raise ConfigError(
                f"init: {path.parent / 'config.json'} is damaged ({reason}); restore it, or remove it to take the weights as they are"
            ) from None
        unknown = f"what inputs and classes they mean is not known, and is taken to be as here (config.json beside them: {reason})"
        return found, [unknown]
    return match(model, found, stored, task, splits)


def _place(source: str) -> Path:
    """The file of weights, with the description of its data beside it if there is one."""
    if source.startswith("hf-hub:"):
        name = source.removeprefix("hf-hub:")
        file = _download(name, _WEIGHTS)
        with suppress(ConfigError):
            _download(name, "config.json")
        return file
    path = run_folder(source)
    if path.is_dir():
        places = [path / "best" / _WEIGHTS, path / _WEIGHTS]
        path = next((place for place in places if place.is_file()), places[0])
    if not path.is_file():
        raise ConfigError(
            f"init: there is no {path}; name a run folder, a file of weights, weights of the zoo, or hf-hub:owner/name"
        )
    return path


def _download(name: str, file: str) -> Path:
    from huggingface_hub import hf_hub_download

    try:
        with quiet_hub():
            return Path(hf_hub_download(name, file))
    except Exception as error:  # of the network, the name or the rights, of many types
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ConfigError(
            f"init: cannot get {file} of hf-hub:{name} ({reason}); check the network and the name, or download it and write "
            "init=folder/model.safetensors"
        ) from error


def _load(path: Path) -> Mapping[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError) as error:
        raise ConfigError(f"init: {path} cannot be read ({error}); is it complete?") from error
    except Exception as error:  # torch raises many types for a file that holds more than weights
        raise ConfigError(
            f"init: {path} cannot be read as weights alone ({type(error).__name__}); save model.state_dict() as .safetensors"
        ) from error
    for key in _INNER:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    tensors = {name: value for name, value in content.items() if isinstance(value, Tensor)} if content else {}
    if not tensors:
        raise ConfigError(f"init: {path} holds no weights by name")
    return tensors


def _unwrapped(found: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The tensors without the prefixes of wrappers, unless the model has these names itself."""
    for prefix in _PREFIXES:
        if not found.keys() & own.keys() and all(name.startswith(prefix) for name in found):
            found = {name.removeprefix(prefix): tensor for name, tensor in found.items()}
    return found


def _near(name: str, known: Sequence[str], networks: Mapping[str, nn.Module]) -> str:
    advice = did_you_mean(name, known)
    return advice if advice.startswith("did") else f"choose from {', '.join(networks)}, or a module in them"
