"""The command mozoo, from any folder: the first word names what to do.

mozoo train model=... balancer=...     train, as python train.py does in a clone
mozoo predict run=... input=...        predictions for your own files, or samples of a GAN
mozoo evaluate run=... split=val       test the best weights of a run again
mozoo compare outputs                  many runs side by side
mozoo largest_batch model=...          the largest batch that fits into memory
mozoo list models                      models, balancers, tasks, optimizers or schedulers, with what was measured
mozoo info pcgrad                      one of them: what it is, its options, an example
mozoo init my_project                  a small project for data of your own, which trains at once

mozoo <command> --help describes one. Files are written below the current folder.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

from mozoo.arguments import ConfigError, did_you_mean
from mozoo.command_line import reporting
from mozoo.environment import versions

COMMANDS = ("train", "predict", "evaluate", "compare", "largest_batch", "list", "info", "init")


def main(arguments: Sequence[str] | None = None) -> None:
    """Start the command that the first word names; exit code 2 if there is none."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help", "help"):
        print((__doc__ or "").strip())
        return
    if words[0] == "--version":
        print(versions()["mozoo"])
        return
    with reporting():
        name, rest = completed(words) if words[0] in ("-sc", "--shell-completion") else (words[0], words[1:])
        if name not in COMMANDS:
            raise ConfigError(f"mozoo has no command {name!r}; {did_you_mean(name, COMMANDS)}")
    find_own_modules()
    sys.argv = [f"mozoo {name}", *rest]
    # a module each, as comparing needs matplotlib, which takes longer to import than a training to start
    command = importlib.import_module(f"mozoo.commands.{name}")
    try:
        command.main()
    except BrokenPipeError:  # a reader such as head has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def find_own_modules() -> None:
    """Look for modules in the current folder, too, after all other places.

    ``imports=[mine]`` finds them, and none hides one of ours.
    """
    here = os.getcwd()
    sys.path[:] = [*(path for path in sys.path if path not in ("", here)), here]


def completed(words: Sequence[str]) -> tuple[str, list[str]]:
    """The command whose words a shell asks to complete: hydra completes those of ``train``."""
    line = os.environ.get("COMP_LINE", "").split(maxsplit=2)
    if line[1:2] == ["train"]:
        os.environ["COMP_LINE"] = " ".join(
            ["train", *line[2:], *([""] if os.environ["COMP_LINE"].endswith(" ") else [])]
        )
        return "train", list(words)
    print(" ".join(COMMANDS))
    sys.exit(0)
