"""Kill runs at random instants, resume them, and compare them with undisturbed runs.

python lab/crash_trials.py                            # 50 trials (about ten minutes on two cores)
python lab/crash_trials.py --trials 5 --out trials    # fewer, and their run folders are kept

A trial starts train.py, ends it with SIGKILL at a random instant, resumes it, ends it again, one to six times in all, and then
lets it finish. Whatever the instants were, the run folder must hold the same files, and last.pt, the best weights, both tables
and the results of summary.json must be those of the undisturbed run, bit for bit; only seconds and the recorded command may
differ. A run that is killed before its first checkpoint has nothing to go on with and starts anew. Trials take turns between
a table (famo, whose weights are learnt; BatchNorm and dropout) and a GAN (pcgrad, which draws numbers of its own; two phases);
both keep a running mean of the weights and follow a one-cycle schedule, and both save every fourth step.

A start of train.py takes seconds of imports, in which there is nothing to lose. So every start here is a fork of one process
that has imported everything and done nothing yet, and which then carries out the command itself, ``train.main()`` with the words
of a command line. Only the report, which is drawn after everything else is written, is left out. Needs a system that can fork.
"""

from __future__ import annotations

import itertools
import json
import multiprocessing
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import train
from lab import command
from lab.jobs import progress
from lab.results import read_yaml, write_stones
from mozoo import tools
from mozoo.tracking import read_rows

DATA: Mapping[str, Any] = read_yaml(Path(__file__).with_suffix(".yaml"))
COMMON: Sequence[str] = DATA["common"]
PATIENCE = 600.0  # seconds after which a run counts as hanging


@dataclass
class Trial:
    """One run that was killed and resumed until it finished.

    Attributes:
        run: Its key in ``crash_trials.yaml``.
        kills: How often it was killed.
        anew: How many of these came before the first checkpoint.
        differences: From the undisturbed run; empty if all is well.
    """

    run: str
    kills: int = 0
    anew: int = 0
    differences: list[str] = field(default_factory=list)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the trials and print a table; exit code 1 if a run differs."""
    parser = command.parser(__doc__)
    parser.add_argument("--trials", type=int, default=50, help="how many runs to kill and resume (default: 50)")
    parser.add_argument("--out", type=Path, help="a new folder for the runs; default: a temporary one")
    parser.add_argument("--seed", type=int, default=0, help="of the instants (default: 0)")
    options = parser.parse_args(arguments)
    if options.trials < 1:
        parser.error(f"--trials must be at least 1, got {options.trials}")
    if options.out is not None and options.out.exists():
        parser.error(f"--out: {options.out} exists already; name a new folder")
    with tempfile.TemporaryDirectory(prefix="crash-trials-") as temporary:
        trials = run_trials(options.out or Path(temporary), options.trials, options.seed)
    report(trials)
    sys.exit(1 if any(trial.differences for trial in trials) else 0)


def run_trials(folder: Path, count: int, seed: int = 0) -> list[Trial]:
    """Kill and resume ``count`` runs. Raises RuntimeError if one fails undisturbed."""
    folder.mkdir(parents=True, exist_ok=True)
    write_stones(folder / "stones.csv")
    commands = {name: (*COMMON, *words) for name, words in DATA["runs"].items()}
    commands["table"] += (f"task.csv={folder / 'stones.csv'}",)
    trials: list[Trial] = []
    # no thread that draws: a fork copies locks that other threads hold
    with progress(auto_refresh=False) as bars:
        bar = bars.add_task("undisturbed runs", total=count)
        bars.refresh()
        seconds = {}
        for name, command in itertools.islice(commands.items(), count):
            started = time.perf_counter()
            code = Start(folder / name, (*command, f"run_dir={folder / name}")).wait()
            if code:
                raise RuntimeError(f"the undisturbed run failed with exit code {code}: {last_line(folder / name)}")
            seconds[name] = time.perf_counter() - started
        for number, name in zip(range(count), itertools.cycle(commands), strict=False):
            bars.update(bar, description=f"trial {number + 1}: {name}", refresh=True)
            place = folder / f"trial{number + 1}"
            trial = disturb(name, place, commands[name], seconds[name], random.Random(1000 * seed + number))
            trial.differences = trial.differences or list(itertools.islice(differences(folder / name, place), 3))
            trials.append(trial)
            bars.update(bar, advance=1, refresh=True)
    return trials


def disturb(name: str, folder: Path, command: Sequence[str], seconds: float, dice: random.Random) -> Trial:
    """Start a run that takes ``seconds``, kill it and resume it until it has finished."""
    trial = Trial(name)
    wanted = dice.randint(1, 6)
    while True:
        if (folder / "last.pt").exists():
            words: tuple[str, ...] = (f"resume={folder}",)
        else:
            shutil.rmtree(folder, ignore_errors=True)  # it may have been made already
            words = (*command, f"run_dir={folder}")
        start = Start(folder, words)
        code = start.wait() if trial.kills == wanted else start.kill_after(dice.uniform(0, seconds))
        if code == -signal.SIGKILL:
            trial.kills += 1
            trial.anew += not (folder / "last.pt").exists()
        elif code:
            trial.differences.append(f"exit code {code}: {last_line(folder)}")
            return trial
        elif trial.kills:
            return trial
        else:  # faster than expected: once more, as a trial needs a kill
            shutil.rmtree(folder)


class Start:
    """``python train.py <words>``, in a fork of this process.

    Args:
        folder: The run folder; what is printed goes to a file beside it.
        words: Of the command line.
    """

    def __init__(self, folder: Path, words: Sequence[str]) -> None:
        self._process = multiprocessing.get_context("fork").Process(target=_carry_out, args=(words, log_of(folder)))
        self._process.start()
        self.pid = self._process.pid or 0

    @property
    def alive(self) -> bool:
        """Whether it goes on."""
        return self._process.is_alive()

    def wait(self) -> int:
        """Exit code; of a run that hangs, one that is not 0."""
        self._process.join(PATIENCE)
        hangs, code = self.alive, self.kill_after(0)
        return 1 if hangs else code

    def kill_after(self, seconds: float) -> int:
        """Exit code: minus SIGKILL, or that of a run that ended before."""
        self._process.join(seconds)
        self._process.kill()
        self._process.join()
        return self._process.exitcode or 0


def _carry_out(words: Sequence[str], log: Path) -> None:
    """What the fork does."""
    with log.open("a", buffering=1, encoding="utf-8") as out:
        sys.stdout = sys.stderr = out
        sys.argv = ["train.py", *words]
        tools.write_report = lambda folder, *_: folder
        print(f"$ {' '.join(sys.argv)}")
        train.main()


def log_of(folder: Path) -> Path:
    """Where the runs in ``folder`` print to."""
    return folder.with_suffix(".log")


def last_line(folder: Path) -> str:
    """The last line that the run in ``folder`` printed."""
    return log_of(folder).read_text(encoding="utf-8").strip().rpartition("\n")[2]


def differences(expected: Path, folder: Path) -> Iterator[str]:
    """Places where two run folders differ, but for those that may."""
    names = [sorted(str(path.relative_to(each)) for path in each.rglob("*")) for each in (expected, folder)]
    if names[0] != names[1]:
        yield f"files: {', '.join(sorted(set(names[0]) ^ set(names[1])))}"
        return
    yield from unequal(comparable(expected), comparable(folder))


def comparable(folder: Path) -> dict[str, Any]:
    """What has to be equal, bit for bit."""
    checkpoint = torch.load(folder / "last.pt", weights_only=True)
    checkpoint["config"] |= {"run_dir": None, "resume": None}
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    metrics = read_rows(folder / "metrics.csv")
    for timed in (checkpoint["state"], *metrics):
        del timed["seconds"]
    del checkpoint["state"]["command"]  # names the folder
    return {
        "last.pt": checkpoint,
        "best": {name: (folder / "best" / name).read_bytes() for name in ("model.safetensors", "config.json")},
        "metrics.csv": metrics,
        "balance.csv": read_rows(folder / "balance.csv"),
        "summary.json": {key: summary[key] for key in ("status", "metrics", "score", "epochs", "best_epoch", "steps")},
    }


def unequal(a: Any, b: Any, place: str = "") -> Iterator[str]:
    """Places in nested containers where ``a`` and ``b`` differ in type, size or a single bit."""
    if type(a) is not type(b):
        yield f"{place}: {type(a).__name__} and {type(b).__name__}"
    elif isinstance(a, Mapping):
        if list(a) != list(b):
            yield f"{place}: keys {list(a)} and {list(b)}"
            return
        for key in a:
            yield from unequal(a[key], b[key], f"{place}/{key}")
    elif isinstance(a, list | tuple):
        if len(a) != len(b):
            yield f"{place}: {len(a)} and {len(b)} entries"
            return
        for index, pair in enumerate(zip(a, b, strict=True)):
            yield from unequal(*pair, f"{place}/{index}")
    elif isinstance(a, Tensor):
        if a.dtype != b.dtype or a.shape != b.shape or a.numpy().tobytes() != b.numpy().tobytes():
            yield f"{place}: tensors"
    elif a != b:
        yield f"{place}: {a!r:.40} and {b!r:.40}"


def report(trials: Sequence[Trial]) -> None:
    """Print a row per kind of run, and what went wrong."""
    console = Console(highlight=False)
    table = Table("run", title="killed at random instants and resumed", title_justify="left")
    for column in ("trials", "kills", "before the first checkpoint", "bit-equal", "different"):
        table.add_column(column, justify="right")
    for name in dict.fromkeys(trial.run for trial in trials):
        of_run = [trial for trial in trials if trial.run == name]
        bad = sum(bool(trial.differences) for trial in of_run)
        numbers = (len(of_run), sum(t.kills for t in of_run), sum(t.anew for t in of_run), len(of_run) - bad, bad)
        table.add_row(name, *map(str, numbers))
    console.print(table)
    for number, trial in enumerate(trials, start=1):
        for difference in trial.differences:
            console.print(f"trial {number} ({trial.run}): {difference}", markup=False, soft_wrap=True)


if __name__ == "__main__":
    main()
