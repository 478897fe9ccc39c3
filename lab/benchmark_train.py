"""How fast train.py is: its loop against a bare one, what its files cost, and how long a start takes.

python lab/benchmark_train.py                     # everything (about ten minutes on two idle cores)
python lab/benchmark_train.py diamonds startup    # some parts
python lab/benchmark_train.py --collect           # only fill in the document again

The bare loop is what one writes by hand for one model and one data set: forward, the sum of the losses, backward, torch's
AdamW, a schedule. Both loops start from the same weights, see the same batches and end with the same weights. They take turns
in one process, so that a busy machine slows both alike; what is reported are ratios of medians, of wall and of processor time.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from lab import documents  # noqa: E402

RESULTS = ROOT / "results"
DOCUMENT = ROOT / "docs" / "speed.md"

if TYPE_CHECKING:
    from torch import Tensor

    from engine import Config, Run, Tracker
    from tasks import Batch

Row = dict[str, Any]
FIELDS = ("part", "variant", "value", "low", "high", "processor", "unit")
# work -> overrides; the rooms are few, as nothing is learnt here
WORK: dict[str, tuple[str, ...]] = {
    "diamonds": (),
    "rooms": ("model=dense_resnet18", "task.train=48", "task.val=2", "task.test=2", "trainer.precision=fp32"),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, write ``results/train_speed.csv`` and fill in the document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"one of {', '.join(PARTS)}; default: all")
    parser.add_argument("--collect", action="store_true", help="measure nothing")
    parser.add_argument("--rounds", type=int, default=20, help="turns of every variant (fewer where turns are long)")
    parser.add_argument("--device", default="cpu", help="as trainer.device")
    options = parser.parse_args(arguments)
    for name in options.parts:
        if name not in PARTS:
            parser.error(f"unknown part {name!r}; choose from {', '.join(PARTS)}")
    if options.rounds < 1:
        parser.error("--rounds must be at least 1")
    if not options.collect:
        measure(options.parts or list(PARTS), options.rounds, options.device)
    documents.fill_in(DOCUMENT, "benchmark_train", {name: table(read()) for name, table in TABLES.items()})


def measure(parts: Sequence[str], rounds: int, device: str) -> None:
    """Replace the rows of these parts in ``results/train_speed.csv``."""
    try:
        facts = environment(device)  # before any tracked file changes
    except ValueError as problem:
        sys.exit(f"error: {problem}")
    file = RESULTS / "train_speed.csv"
    rows = read() if file.is_file() else []
    for part in parts:
        rows = [row for row in rows if row["part"] != part]
        rows += [{"part": part, **row, **facts} for row in PARTS[part](rounds, device)]
        RESULTS.mkdir(exist_ok=True)
        with file.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, [*FIELDS, *facts], lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


def environment(device: str) -> dict[str, str]:
    """What a number depends on."""
    import torch

    from engine.device import describe_device, resolve_device
    from engine.environment import git_commit

    return {
        "device": describe_device(resolve_device(device)),
        "torch": torch.__version__,
        "git": git_commit() or "unknown",
    }


# ---- the two loops ---------------------------------------------------------------------------------------------------


class BareLoop:
    """The model of ``run`` in a loop written by hand; it starts from the weights that ``run`` has now."""

    def __init__(self, run: Run, losses: Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], Sequence[Tensor]]):
        import torch

        config = run.config
        self.model, self.losses = deepcopy(run.model), losses
        self.data = run.task.splits(config.data_dir).train
        self.size, self.seed, self.device, self.epoch = config.trainer.batch_size, config.seed, run.device, 0
        parameters = list(self.model.parameters())
        groups = [
            {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
            {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": config.optimizer.weight_decay},
        ]
        fused = run.device.type in ("cpu", "cuda")
        self.optimizer = torch.optim.AdamW(groups, lr=config.optimizer.lr, fused=fused)
        first, warmup = config.scheduler.start, round(config.scheduler.warmup * run.total_steps)

        def rate(step: int) -> float:
            if step < warmup:
                return first + (1 - first) * step / warmup
            return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (run.total_steps - warmup)))

        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, rate)

    def train_epoch(self) -> None:
        """All full batches once."""
        import torch

        total = torch.zeros((), device=self.device)
        self.model.train()
        for batch in self._batches():
            self.optimizer.zero_grad()
            loss = sum(self.losses(self.model(*batch.inputs), batch.targets))
            assert isinstance(loss, torch.Tensor)
            loss.backward()
            self.optimizer.step()
            self.schedule.step()
            total += loss.detach()
        self.epoch += 1

    def _batches(self) -> Iterator[Batch]:
        from torch.utils.data import DataLoader

        from engine.seeding import epoch_order
        from tasks import Batch, TensorData

        data: Any = self.data
        order = epoch_order(len(data), self.seed, self.epoch)
        order = order[: max(len(data) // self.size, 1) * self.size]  # a short last batch is left out
        if isinstance(data, TensorData):
            for index in order.to(self.device).split(self.size):
                yield Batch(tuple(x[index] for x in data.inputs), {name: y[index] for name, y in data.targets.items()})
            return
        if hasattr(data, "set_epoch"):
            data.set_epoch(self.seed, self.epoch)
        cuda = self.device.type == "cuda"
        for inputs, targets in DataLoader(data, self.size, sampler=order.tolist(), pin_memory=cuda):
            yield Batch(
                tuple(x.to(self.device, non_blocking=True) for x in inputs),
                {name: y.to(self.device, non_blocking=True) for name, y in targets.items()},
            )


class TrainLoop:
    """``train.train_epoch`` with everything that it writes while it trains."""

    def __init__(self, run: Run, folder: Path) -> None:
        import engine

        engine.write_text(folder / "config.yaml", "")
        self.run, self.folder = run, folder
        self.tracker = engine.open_tracker(run, folder, resumed=False)
        self.display, self.stop = engine.Display(run.total_steps), engine.StopRequest()

    def train_epoch(self) -> None:
        """The steps of one epoch."""
        import train

        train.train_epoch(self.run, self.folder, self.tracker, self.display, self.stop)
        self.run.state.epoch += 1

    def close(self) -> None:
        """Finish the files."""
        if self.tracker is not None:
            self.tracker.close()


def by_hand(outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> Sequence[Tensor]:
    """The losses of diamonds as torch has them."""
    import torch.nn.functional as F

    return F.cross_entropy(outputs["cut"], targets["cut"]), F.mse_loss(outputs["price"], targets["price"])


def both(config: Config, folder: Path) -> tuple[TrainLoop, BareLoop]:
    """The two loops before their first step."""
    import train

    run = train.build(config)
    own = by_hand if run.task.name == "diamonds" else lambda *pair: list(run.task.criteria(*pair).values())
    return TrainLoop(run, folder), BareLoop(run, own)


# ---- measurements ----------------------------------------------------------------------------------------------------


def measure_work(name: str, rounds: int, device: str) -> list[Row]:
    """Samples per second of both loops, and the ratio with its interval."""
    from rich.progress import track

    import engine

    rounds = rounds if name == "diamonds" else max(rounds // 2, 3)
    epochs = rounds + 1
    with tempfile.TemporaryDirectory() as folder:
        config = engine.compose([*WORK[name], *_run_overrides(name, device), f"trainer.epochs={epochs}"])
        loop, bare = both(config, Path(folder))
        variants: dict[str, Callable[[], None]] = {"bare": bare.train_epoch, "train.py": loop.train_epoch}
        wall: dict[str, list[float]] = {variant: [] for variant in variants}
        processor: dict[str, list[float]] = {variant: [] for variant in variants}
        for turn in track(range(epochs), description=name):
            order = list(variants) if turn % 2 else list(reversed(variants))
            for variant in order:
                engine.synchronize(loop.run.device)
                start = clock()
                variants[variant]()
                engine.synchronize(loop.run.device)
                spent, busy = since(start)
                if turn:  # the first warms up
                    wall[variant].append(spent)
                    processor[variant].append(busy)
        loop.close()
        samples = loop.run.steps_per_epoch * config.trainer.batch_size
    rows = [
        {
            "variant": variant,
            "value": f"{samples / statistics.median(wall[variant]):.4g}",
            "processor": f"{samples / statistics.median(processor[variant]):.4g}",
            "unit": "samples/s",
        }
        for variant in variants
    ]
    low, high = interval(wall["bare"], wall["train.py"])
    ratio = {
        "variant": "train.py / bare",
        "value": f"{statistics.median(wall['bare']) / statistics.median(wall['train.py']):.3f}",
        "low": f"{low:.3f}",
        "high": f"{high:.3f}",
        "processor": f"{statistics.median(processor['bare']) / statistics.median(processor['train.py']):.3f}",
        "unit": "ratio",
    }
    return [*rows, ratio]


def interval(first: Sequence[float], second: Sequence[float], draws: int = 2000) -> tuple[float, float]:
    """95 % bootstrap interval of the ratio of medians; turns are drawn in pairs, as they were measured."""
    generator, pairs = random.Random(0), list(zip(first, second, strict=True))
    found = []
    for _ in range(draws):
        drawn = generator.choices(pairs, k=len(pairs))
        found.append(statistics.median(a for a, _ in drawn) / statistics.median(b for _, b in drawn))
    found.sort()
    return found[round(0.025 * (draws - 1))], found[round(0.975 * (draws - 1))]


def measure_files(rounds: int, device: str) -> list[Row]:
    """Share of an epoch of diamonds that goes into files: tables, TensorBoard, checkpoint and best weights.

    The time inside the functions that write is added up, as it is too small for a difference of two epochs.
    """
    import engine
    import train

    parts = ("balance.csv and TensorBoard", "metrics.csv and TensorBoard", "checkpoint", "best weights")
    shares: dict[str, list[tuple[float, float]]] = {part: [] for part in (*parts, "together")}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = engine.compose([*_run_overrides("diamonds", device), f"trainer.epochs={rounds + 1}"])
        run = train.build(config)
        loop = TrainLoop(run, folder)
        tracker = loop.tracker
        assert tracker is not None
        watch = Stopwatch(tracker)
        loop.tracker = watch  # type: ignore[assignment]
        values = dict.fromkeys(run.task.results(), 0.5)
        model = {"model": config.model["name"], **run.arguments}
        for epoch in range(rounds + 1):
            watch.spent = (0.0, 0.0)
            whole = clock()
            loop.train_epoch()
            spent = [watch.spent]
            for action in (
                lambda: log_epoch(tracker, run.state.step, values),
                lambda: train.save(run, folder, tracker),
                lambda: engine.save_weights(folder / "best", run.trained, model),
            ):
                before = clock()
                action()
                spent.append(since(before))
            all_of_it = since(whole)
            spent.append((sum(wall for wall, _ in spent), sum(busy for _, busy in spent)))
            if epoch:
                for part, (wall, busy) in zip(shares, spent, strict=True):
                    shares[part].append((wall / all_of_it[0], busy / all_of_it[1]))
        tracker.close()
    return [
        {
            "variant": part,
            "value": f"{statistics.median(wall for wall, _ in found):.4f}",
            "processor": f"{statistics.median(busy for _, busy in found):.4f}",
            "unit": "share",
        }
        for part, found in shares.items()
    ]


def clock() -> tuple[float, float]:
    """Now, in wall and in processor time."""
    return time.perf_counter(), time.process_time()


def since(start: tuple[float, float]) -> tuple[float, float]:
    """Seconds since :func:`clock` gave ``start``."""
    wall, busy = clock()
    return wall - start[0], busy - start[1]


def log_epoch(tracker: Tracker, step: int, values: Mapping[str, float]) -> None:
    """The rows that an epoch adds to ``metrics.csv``."""
    for split in ("train", "val"):
        tracker.log_metrics(1, step, split, 1.0, 0.1, values)


class Stopwatch:
    """A tracker that adds up how long it takes to log a step, in wall and in processor time."""

    def __init__(self, tracker: Tracker) -> None:
        self.tracker, self.spent = tracker, (0.0, 0.0)

    def log_report(self, *arguments: Any) -> None:
        """As :meth:`engine.Tracker.log_report`."""
        before = clock()
        self.tracker.log_report(*arguments)
        wall, busy = since(before)
        self.spent = self.spent[0] + wall, self.spent[1] + busy


_START = """
import json, sys, time
laps, last = {}, 0.0
def lap(name):
    global last
    now = time.process_time()
    laps[name], last = laps.get(name, 0.0) + now - last, now
sys.path.insert(0, sys.argv.pop(1))
lap("Python")
import torch
lap("torch")
import torch._dynamo
lap("torch._dynamo, which every optimizer of torch imports")
if sys.argv.pop(1) == "bare":
    from torch.nn.functional import cross_entropy, mse_loss
    x, cut, price = torch.randn(256, 21), torch.randint(5, (256,)), torch.randn(256, 1)
    trunk = torch.nn.Sequential(*(layer for i in range(4) for layer in (torch.nn.Linear(192 if i else 21, 192), torch.nn.SiLU())))
    heads = torch.nn.Linear(192, 5), torch.nn.Linear(192, 1)
    parameters = [p for module in (trunk, *heads) for p in module.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=4e-3, fused=True)
    z = trunk(x)
    (cross_entropy(heads[0](z), cut) + mse_loss(heads[1](z), price)).backward()
    optimizer.step()
    lap("model, data, first step")
    print(json.dumps({"laps": laps, "time": time.time()}))
    sys.exit()
import timm
lap("timm, with torchvision")
import hydra, rich.live, rich.progress
lap("hydra and rich")
import train
lap("everything else that is imported")
step, build = train.train_step, train.build
def timed_build(*arguments):
    lap("configuration")
    built = build(*arguments)
    lap("data, model, optimizer")
    return built
def timed_step(run, batch):
    lap("run folder, TensorBoard, first batch")
    step(run, batch)
    lap("first step")
    print(json.dumps({"laps": laps, "time": time.time()}), flush=True)
    import os
    os._exit(0)
train.build, train.train_step = timed_build, timed_step
train.main()
"""


def measure_startup(rounds: int, device: str) -> list[Row]:
    """Seconds from the start of the interpreter to the end of the first step, and the processor time of each part."""
    rounds = max(rounds // 4, 1)
    rows: list[Row] = []
    for variant in ("bare", "train.py"):
        walls, processors, laps = [], [], []
        for turn in range(rounds + 1):
            wall, found = start_once(variant, device)
            if turn or rounds == 1:  # the first reads from the disk
                walls.append(wall)
                processors.append(sum(found.values()))
                laps.append(found)
        rows.append(
            {
                "variant": variant,
                "value": f"{statistics.median(walls):.2f}",
                "low": f"{min(walls):.2f}",
                "high": f"{max(walls):.2f}",
                "processor": f"{statistics.median(processors):.2f}",
                "unit": "s",
            }
        )
        if variant == "train.py":
            for name in laps[0]:
                seconds = statistics.median(found[name] for found in laps)
                rows.append({"variant": f"of it: {name}", "processor": f"{seconds:.2f}", "unit": "s"})
    return rows


def start_once(variant: str, device: str) -> tuple[float, dict[str, float]]:
    """Wall time to the end of the first step, and processor time by part."""
    with tempfile.TemporaryDirectory() as folder:
        overrides = [f"run_dir={folder}/run", f"trainer.device={device}"]
        start = time.time()
        done = subprocess.run(
            [sys.executable, "-c", _START, str(ROOT), variant, *overrides],
            cwd=folder,
            env={**os.environ, "HYDRA_FULL_ERROR": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        sys.exit(f"error: the measured process failed\n{done.stderr}")
    answer = json.loads(done.stdout.splitlines()[-1])
    return answer["time"] - start, answer["laps"]


def _run_overrides(name: str, device: str) -> list[str]:
    """Where the data lie and what is computed on."""
    return [f"trainer.device={device}", f"data_dir={ROOT / 'outputs' / 'benchmark' / name}"]


#: Name of a part -> what measures it
PARTS: dict[str, Callable[[int, str], list[Row]]] = {
    "diamonds": lambda rounds, device: measure_work("diamonds", rounds, device),
    "rooms": lambda rounds, device: measure_work("rooms", rounds, device),
    "files": measure_files,
    "startup": measure_startup,
}


# ---- what is made of the numbers -------------------------------------------------------------------------------------


def read() -> list[Row]:
    """The rows of ``results/train_speed.csv``."""
    with (RESULTS / "train_speed.csv").open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def loops_table(rows: Sequence[Row]) -> str:
    """Speed of both loops."""
    lines = [
        "| work | bare, samples/s | train.py, samples/s | ratio | 95 % interval | ratio of processor time |",
        "|---|---|---|---|---|---|",
    ]
    for name in WORK:
        found = {row["variant"]: row for row in rows if row["part"] == name}
        if found:
            bare, own, ratio = (found[variant] for variant in ("bare", "train.py", "train.py / bare"))
            lines.append(
                f"| {name} | {speed(bare)} | {speed(own)} | {float(ratio['value']):.3f} | "
                f"{float(ratio['low']):.3f} to {float(ratio['high']):.3f} | {float(ratio['processor']):.3f} |"
            )
    return "\n".join(lines) + "\n"


def speed(row: Row) -> str:
    """Samples per second with three digits or more."""
    value = float(row["value"])
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def files_table(rows: Sequence[Row]) -> str:
    """Share of the time that goes into files."""
    lines = ["| what is written | share of an epoch | share of its processor time |", "|---|---|---|"]
    lines += [
        f"| {row['variant']} | {float(row['value']):.1%} | {float(row['processor']):.1%} |"
        for row in rows
        if row["part"] == "files"
    ]
    return "\n".join(lines) + "\n"


def startup_table(rows: Sequence[Row]) -> str:
    """Seconds to the first step."""
    lines = ["| from the start of Python to the end of the first step | seconds | processor seconds |", "|---|---|---|"]
    for row in rows:
        if row["part"] == "startup":
            wall = f"{float(row['value']):.1f}" if row["value"] else ""
            lines.append(f"| {row['variant']} | {wall} | {float(row['processor']):.2f} |")
    return "\n".join(lines) + "\n"


TABLES: dict[str, Callable[[Sequence[Row]], str]] = {
    "speed_loops": loops_table,
    "speed_files": files_table,
    "speed_startup": startup_table,
}


if __name__ == "__main__":
    main()
