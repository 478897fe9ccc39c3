"""Files that are complete or not there at all."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as serialize
from torch import nn

from mozoo.arguments import ConfigError

_SECTIONS = ("model", "task", "balancer", "optimizer", "scheduler", "trainer")


class SaveError(RuntimeError):
    """A file of the run that cannot be written; the message names it and the reason."""


@contextmanager
def saving(path: Path) -> Iterator[None]:
    """Turn errors while ``path`` is written into a SaveError with the reason."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:  # torch and safetensors have errors of their own
        kept = "what it held before is kept" if path.exists() else "nothing is left of it"
        advice = "Make room or mend the permissions, then go on with resume=..."
        raise SaveError(f"cannot write {path} ({_reason(error)}); {kept}. {advice}") from error


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A temporary file that replaces ``path`` when it is complete.

    Raises SaveError if it cannot be written; ``path`` is what it was before.
    """
    temporary = path.with_name(path.name + ".part")
    with saving(path):
        try:
            yield temporary
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
            if os.name == "posix":  # the new name must survive a power failure as well
                folder = os.open(path.parent, os.O_RDONLY)
                try:
                    os.fsync(folder)
                finally:
                    os.close(folder)
        except BaseException:  # also at a second request to stop
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise


def _reason(error: BaseException) -> str:
    """The system's reason, which torch hides below an error about positions in its file."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__context__
    return (str(error).splitlines() or [type(error).__name__])[0]


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, its line ends as they are. Raises SaveError."""
    with _replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file atomically, with null for numbers that are not finite. Raises SaveError."""
    write_text(path, json.dumps(_finite(content), indent=2, allow_nan=False) + "\n")


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Write plain containers and tensors atomically, for ``torch.load(weights_only=True)``.

    Raises SaveError if it cannot be written; an earlier checkpoint is kept.
    """
    with _replacing(path) as temporary, temporary.open("wb") as file:
        torch.save(dict(state), file)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint to the CPU. Raises ConfigError if it is missing or not one of ours."""
    if not path.is_file():
        raise ConfigError(
            f"resume: there is no {path}; name a run folder that holds last.pt; a run that ended before "
            "its first epoch has none, and starts again"
        )
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types for a damaged file
        raise ConfigError(f"resume: {path} cannot be read ({type(error).__name__}); is it complete?") from error
    config = state.get("config") if isinstance(state, dict) else None
    sections = isinstance(config, dict) and all(isinstance(config.get(name), dict) for name in _SECTIONS)
    if not sections or not {"model", "turns", "state"} <= state.keys():
        raise ConfigError(f"resume: {path} is not a checkpoint of train.py")
    return state


def save_weights(folder: Path, model: nn.Module, config: Mapping[str, Any]) -> None:
    """Write ``model.safetensors`` and ``config.json`` into ``folder``. Raises SaveError."""
    described, text = folder / "config.json", json.dumps(config, indent=2) + "\n"
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise SaveError(f"cannot make {folder} ({error.strerror})") from error
    if not described.is_file() or described.read_bytes() != text.encode():  # it is the same after every epoch
        write_text(described, text)
    with _replacing(folder / "model.safetensors") as temporary:
        # what safetensors writes itself no one else may read, and a kill leaves a file of another name behind
        tensors = {name: tensor.detach().contiguous().cpu() for name, tensor in model.state_dict().items()}
        temporary.write_bytes(serialize(tensors))


def load_weights(folder: Path, model: nn.Module) -> None:
    """Read ``model.safetensors`` of ``folder`` into ``model``, strictly."""
    model.load_state_dict(load_file(folder / "model.safetensors"))
