"""Encoders and backbones of timm: their names, sizes and weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn

from zoo.checks import check_timm_name
from zoo.hub import quiet_hub

_HUB = ("hf-hub:timm/", "hf_hub:timm/", "timm/")


def timm_name(owner: str, kind: str, name: str) -> str:
    """A name as timm knows it; those of its page on the hub begin with ``timm/``.

    Raises ValueError, which begins with ``owner``, for a name that timm does not have.
    """
    import timm  # takes most of a second, and models for tables need none

    plain = next((name.removeprefix(start) for start in _HUB if name.startswith(start)), name)
    if plain.startswith(("hf-hub:", "hf_hub:", "local-dir:")):
        raise ValueError(
            f"{owner}: {kind} {name!r} is known to its page only, which would be asked whenever the model is loaded; download its "
            f"weights, name the architecture as {kind}, and set pretrained=true and pretrained_file=model.safetensors"
        )
    check_timm_name(owner, kind, plain)
    try:
        timm.get_pretrained_cfg(plain)
    except RuntimeError:
        base, _, tag = plain.partition(".")
        known = [each.removeprefix(f"{base}.") for each in timm.list_pretrained(f"{base}.*")]
        had = f"it has {', '.join(known)}" if known else "it has none"
        raise ValueError(f"{owner}: {kind} {base!r} has no weights {tag!r}; {had}") from None
    return plain


def create_timm(
    owner: str, kind: str, name: str, pretrained: bool = False, pretrained_file: str | None = None, **options: Any
) -> nn.Module:
    """``timm.create_model``.

    Args:
        owner: Begins the messages.
        kind: Word for the model in messages.
        name: As :func:`timm_name` gives it.
        pretrained: With the weights that timm has for it.
        pretrained_file: With those of this file instead.
        options: For ``timm.create_model``.

    Raises:
        ValueError: There are no weights, they cannot be fetched, or the file is missing or of another architecture.
    """
    import timm

    if not pretrained:
        return timm.create_model(name, **options)
    if pretrained_file is not None:
        if not Path(pretrained_file).is_file():
            raise ValueError(f"{owner}: pretrained_file: there is no file {pretrained_file}")
        options["pretrained_cfg_overlay"] = {"file": pretrained_file}
    try:
        with quiet_hub() if pretrained_file is None else nullcontext():
            model = timm.create_model(name, pretrained=True, **options)
    except TypeError:  # an argument that this architecture does not have
        raise
    except Exception as error:  # of timm, the hub, its cache, the network
        reason = " ".join(str(error).split()).partition(". ")[0][:160]
        if pretrained_file is not None:
            raise ValueError(f"{owner}: {pretrained_file} has no weights of {kind} {name!r} ({reason})") from error
        local = "or give a file: pretrained_file=model.safetensors"
        if not timm.list_pretrained(f"{name.partition('.')[0]}.*"):
            message = f"timm has no weights for {kind} {name!r}; set pretrained=false"
        else:
            why = f"{type(error).__name__}: {reason}"
            message = f"the weights of {kind} {name!r} cannot be fetched ({why}); check the network"
        raise ValueError(f"{owner}: {message}, {local}") from error
    if pretrained_file is not None:
        _check_loaded(owner, kind, name, pretrained_file, model, timm.create_model(name, pretrained=True, **options))
    return model


def _check_loaded(owner: str, kind: str, name: str, file: str, model: nn.Module, twin: nn.Module) -> None:
    """Raise ValueError if weights of both differ.

    Both come from the same file, of which timm loads what it finds.
    """
    pairs = zip(model.named_parameters(), twin.parameters(), strict=True)
    absent = [key for (key, mine), other in pairs if mine.dim() > 1 and not torch.equal(mine, other)]
    if absent:
        raise ValueError(
            f"{owner}: {file} has no weights of {kind} {name!r}, or not all: {len(absent)} are missing, such as {absent[0]}"
        )


def check_patch_size(owner: str, encoder: str, patch_size: int) -> None:
    """Raise ValueError if the encoder has no patches, or none of this size. Nothing is computed."""
    import timm

    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        try:
            timm.create_model(encoder, features_only=True, patch_size=patch_size)
        except Exception as error:  # each family has its own
            reason = " ".join(str(error).split())[:120] or type(error).__name__
            raise ValueError(
                f"{owner}: encoder {encoder!r} cannot have patch_size={patch_size} ({reason}); leave it out, or take a plain "
                "transformer such as vit_tiny_patch16_224"
            ) from error


@torch.no_grad()
def fitting_size(
    owner: str, encoder: str, in_channels: int, size: Sequence[int], options: Mapping[str, Any] | None = None
) -> tuple[int, int] | None:
    """``img_size`` for an encoder that is made for one size; ``None`` if it takes any.

    ``options`` are more of them for ``timm.create_model``.

    It is ``size`` (height, width), up to multiples of the largest stride. Nothing is computed, and no random numbers are drawn.
    Raises ValueError, naming sizes that fit, if this one does not.
    """
    import timm

    given: dict[str, Any] = {"features_only": True, "in_chans": in_channels, **(options or {})}

    def strides(shape: Sequence[int]) -> list[int]:
        """Those of the stages, after a try with images of this shape."""
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            net: Any = timm.create_model(encoder, img_size=shape, **given).eval()
            found = net.feature_info.reduction()
            net(torch.empty(1, in_channels, *(side + -side % max(found) for side in shape)))
        return found

    def multiple(of: int) -> tuple[int, int]:
        return size[0] + -size[0] % of, size[1] + -size[1] % of

    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        try:
            net: Any = timm.create_model(encoder, img_size=multiple(32), **given)
        except TypeError as error:
            if "img_size" not in str(error):
                raise
            return None
        except (AssertionError, RuntimeError, ValueError):
            net = None
    wanted = multiple(max(net.feature_info.reduction()) if net is not None else 32)
    reason = ""
    fits = []
    native = timm.get_pretrained_cfg(encoder)
    own = tuple(native.input_size[1:]) if native is not None else (224, 224)
    square = (max(multiple(32)),) * 2
    for shape in dict.fromkeys([wanted, multiple(32), multiple(64), multiple(224), multiple(256), square, own]):
        try:
            strides(shape)
        except Exception as error:  # each family has its own
            reason = reason or " ".join(str(error).split())[:120] or type(error).__name__
            continue
        if shape == wanted:
            return wanted
        fits.append(f"{shape[0]} x {shape[1]}")
    shown = ", ".join(fits) or "no size near it does; choose another encoder"
    raise ValueError(
        f"{owner}: encoder {encoder!r} cannot take images of {size[0]} x {size[1]} pixels ({reason}); these fit: {shown}"
    )
