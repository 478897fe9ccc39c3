"""A run that goes on: its configuration, and a lock that keeps others out of its folder."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from omegaconf import DictConfig, ListConfig, OmegaConf

from mozoo.arguments import ConfigError, some
from mozoo.checkpoint import load_checkpoint
from mozoo.config import saved_config
from mozoo.program import program
from mozoo.trust import check_files, check_modules, check_plain
from mozoo.words import shell_word

#: Keys that may be given with ``resume``: how long to train, and whether modules that the run names are imported.
_LENGTH = ("trainer.epochs", "trainer.max_steps")
_BESIDE = ("resume", "imports", "trust", *_LENGTH)


def resumed_config(composed: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """The configuration of the run that ``composed.resume`` names, or else ``composed`` itself.

    Args:
        composed: The configuration of the command line.
        overrides: The words of the command line.

    Raises ConfigError for words that would change the run or say nothing, and for modules that the user neither named nor trusts.
    """
    words = [(word.lstrip("+").partition("=")[0], word) for word in overrides]
    resume = composed.get("resume")
    if not resume:
        if any(key == "resume" and not word.endswith("=null") for key, word in words):
            raise ConfigError("resume needs the folder of a run: resume=outputs/...")
        return composed
    if others := [word for key, word in words if key not in _BESIDE]:
        raise ConfigError(f"resume keeps the configuration of {resume}; leave out {' '.join(others)}")
    named = composed.imports
    if isinstance(resume, ListConfig | DictConfig):
        raise ConfigError(f"resume needs the folder of one run, got {resume}")
    if not isinstance(composed.trust, bool):
        raise ConfigError(f"trust must be true or false, got {composed.trust!r}")
    if not isinstance(named, ListConfig):
        raise ConfigError("imports must be a list, even of one: 'imports=[...]'")
    folder = Path(str(resume))
    check_files(folder)
    content = load_checkpoint(folder / "last.pt")["config"]
    check_plain(folder, content)
    modules = check_modules(folder, content.get("imports", []), composed.trust, named)
    if others := [str(module) for module in named if module not in modules]:
        raise ConfigError(
            f"resume keeps the configuration of {resume}, which does not import {some(others)}; leave it out"
        )
    config = saved_config(content)
    config.merge_with({"resume": str(resume)})
    for key in (key for key, _ in words if key in _LENGTH):
        OmegaConf.update(config, key, OmegaConf.select(composed, key))
    return config


def resume_command(folder: Path, imports: Sequence[str]) -> str:
    """The command that goes on with the run in ``folder``."""
    named = f" 'imports=[{','.join(imports)}]'" if imports else ""
    return f"{program('train')} {shell_word('resume', folder)}{named}"


@contextmanager
def only_writer(folder: Path | None) -> Iterator[None]:
    """Hold ``folder`` for this process.

    The system releases it when the process ends, however that happens.
    Where there are no locks of folders, as on Windows and some network drives, none is held. Raises ConfigError if another
    process holds it.
    """
    if folder is None or os.name != "posix" or not folder.is_dir():
        yield
        return
    import fcntl  # of POSIX systems alone

    held = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                raise ConfigError(
                    f"{folder} is in use: another process trains there; wait for it, or stop it"
                ) from None
        yield
    finally:
        os.close(held)


def sweep(folder: Path) -> None:
    """Delete files that a killed process left half-written. The caller holds the folder."""
    for part in (*folder.glob("*.part"), *folder.glob("best/*.part"), *folder.glob("best/.tmp*")):
        part.unlink(missing_ok=True)
