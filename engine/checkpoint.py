"""Files that are complete or not there at all."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from engine.arguments import ConfigError

__all__ = ["load_checkpoint", "load_weights", "save_checkpoint", "save_weights", "write_text"]


def _replace(temporary: Path, path: Path) -> None:
    """Move a finished file into place: whoever reads ``path`` sees the old or the new one, never a part."""
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(temporary, path)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(text, encoding="utf-8")
    _replace(temporary, path)


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Write plain containers and tensors atomically, so that ``torch.load(path, weights_only=True)`` reads them."""
    temporary = path.with_name(path.name + ".part")
    torch.save(dict(state), temporary)
    _replace(temporary, path)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint to the CPU. Raises ConfigError if it is missing or not one of ours."""
    if not path.is_file():
        raise ConfigError(f"resume: there is no {path}; name a run folder that holds last.pt")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types for a damaged file
        raise ConfigError(f"resume: {path} cannot be read ({type(error).__name__}); is it complete?") from error
    if not isinstance(state, dict) or "config" not in state:
        raise ConfigError(f"resume: {path} is not a checkpoint of train.py")
    return state


def save_weights(folder: Path, model: nn.Module, config: Mapping[str, Any]) -> None:
    """Write ``model.safetensors`` and ``config.json`` (model name and arguments) into ``folder``."""
    folder.mkdir(exist_ok=True)
    write_text(folder / "config.json", json.dumps(config, indent=2) + "\n")
    temporary = folder / "model.safetensors.part"
    save_file({name: tensor.detach().contiguous().cpu() for name, tensor in model.state_dict().items()}, temporary)
    _replace(temporary, folder / "model.safetensors")


def load_weights(folder: Path, model: nn.Module) -> None:
    """Read ``model.safetensors`` of ``folder`` into ``model``, strictly."""
    model.load_state_dict(load_file(folder / "model.safetensors"))
