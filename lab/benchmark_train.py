"""Speed of train.py: its loop against a bare one, the cost of its files, and its start.

python lab/benchmark_train.py                     # everything (about ten minutes on two idle cores)
python lab/benchmark_train.py diamonds startup    # some parts
python lab/benchmark_train.py --collect           # only fill in the document again

The bare loop is what one writes by hand for one model and one data set: forward, the sum of the losses, backward, torch's
AdamW, a schedule. Both loops start from the same weights, see the same batches and end with the same weights. They take turns
in one process, so that a busy machine slows both alike; what is reported are ratios of medians, of wall and of processor time.
"""

from __future__ import annotations

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
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from rich.progress import track
from torch import Tensor
from torch.nn.functional import cross_entropy, mse_loss
from torch.utils.data import DataLoader

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import mozoo
import train
from lab import command, documents, results
from lab.timing import Seconds, take_turns, timed
from mozoo import tools
from mozoo.device import describe_device, resolve_device
from mozoo.seeding import epoch_order
from tasks import Batch, TensorData

FILE = "train_speed.csv"
FIELDS = ("variant", "value", "low", "high", "processor", "unit")
Row = dict[str, Any]
# work -> overrides; the rooms are few, as nothing is learnt here
WORK: dict[str, tuple[str, ...]] = {
    "diamonds": (),
    "rooms": ("model=dense_resnet18", "task.train=48", "task.val=2", "task.test=2", "trainer.precision=fp32"),
}
#: Loop of Lightning -> whether it is sparing with ``log_dict``, and in words.
VARIANTS = {"Lightning": (False, "every step"), "Lightning, sparing": (True, "every tenth step")}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, write ``results/train_speed.csv`` and fill in the document."""
    parser = command.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=20, help="turns of every variant (fewer where turns are long)")
    parser.add_argument("--device", default="cpu", help="as trainer.device")
    options = command.parse(parser, arguments, "part", PARTS)
    if options.rounds < 1:
        parser.error("--rounds must be at least 1")
    if not options.collect:
        try:
            device = describe_device(resolve_device(options.device))
        except ValueError as problem:
            sys.exit(f"error: {problem}")
        if "lightning" in options.names and find_spec("lightning") is None:
            options.names.remove("lightning")
            print("lightning is left out, as it is not installed: pip install -e '.[loops]'")
        parts = {part: partial(PARTS[part], options.rounds, options.device) for part in options.names}
        results.record(results.RESULTS / FILE, FIELDS, parts, results.environment(device))
    documents.write("benchmark_train", BLOCKS)


# ---- the two loops ---------------------------------------------------------------------------------------------------


class BareLoop:
    """The model of ``run``, with its weights of now, in a loop written by hand."""

    def __init__(
        self, run: tools.Run, losses: Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], Sequence[Tensor]]
    ):
        config = run.config
        self.model, self.losses = deepcopy(run.model), losses
        self.data = run.splits.train
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
        total = torch.zeros((), device=self.device)
        self.model.train()
        for batch in self:
            self.optimizer.zero_grad()
            loss = sum(self.losses(self.model(*batch.inputs), batch.targets))
            assert isinstance(loss, torch.Tensor)
            loss.backward()
            self.optimizer.step()
            self.schedule.step()
            total += loss.detach()
        self.epoch += 1

    def __iter__(self) -> Iterator[Batch]:
        """The full batches of the current epoch."""
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

    def __init__(self, run: tools.Run, folder: Path) -> None:
        tools.write_text(folder / "config.yaml", "")
        self.run, self.folder, tracker = run, folder, tools.open_tracker(run, folder, resumed=False)
        assert tracker is not None
        self.tracker: tools.Tracker = tracker
        self.display, self.stop = tools.Display(run.total_steps), tools.StopRequest()

    def train_epoch(self) -> None:
        """The steps of one epoch."""
        train.train_epoch(self.run, self.folder, self.tracker, self.display, self.stop)
        self.run.state.epoch += 1

    def close(self) -> None:
        """Finish the files."""
        self.tracker.close()


def by_hand(outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> Sequence[Tensor]:
    """The losses of diamonds as torch has them."""
    return cross_entropy(outputs["cut"], targets["cut"]), mse_loss(outputs["price"], targets["price"])


def both(config: mozoo.Config, folder: Path) -> tuple[TrainLoop, BareLoop]:
    """The two loops before their first step."""
    run = train.build(config)
    own = by_hand if run.task.name == "diamonds" else lambda *pair: list(run.task.criteria(*pair).values())
    return TrainLoop(run, folder), BareLoop(run, own)


class LightningLoop:
    """Lightning's Trainer with model, batches, optimizer and schedule of a bare loop."""

    def __init__(self, loop: TrainLoop, sparing: bool, folder: Path) -> None:
        from lab.lightning_loop import ManualLoop

        config, self.parts = loop.run.config, BareLoop(loop.run, by_hand)
        method, names = config.balancer["name"], loop.run.model.objectives
        work = self.parts.model, by_hand, names, method, self.parts.optimizer, self.parts.schedule, self.parts
        self.loop = ManualLoop(*work, config.trainer.log_every, sparing, loop.run.device, folder)

    def train_epoch(self) -> Seconds:
        """All full batches once, and the time for them."""
        seconds = self.loop.train_epoch()
        self.parts.epoch += 1
        return seconds


# ---- measurements ----------------------------------------------------------------------------------------------------


def measure_work(name: str, rounds: int, device: str) -> list[Row]:
    """Samples per second of both loops, and the ratio with its interval."""
    rounds = rounds if name == "diamonds" else max(rounds // 2, 3)
    with tempfile.TemporaryDirectory() as folder:
        config = mozoo.compose([*WORK[name], *place(name, device), f"trainer.epochs={rounds + 1}"])
        loop, bare = both(config, Path(folder))

        def synchronize() -> None:
            tools.synchronize(loop.run.device)

        def complete(epoch: Callable[[], None]) -> None:
            epoch()
            synchronize()

        variants = {"bare": partial(complete, bare.train_epoch), "train.py": partial(complete, loop.train_epoch)}
        seconds = take_turns(variants, rounds, name, before=synchronize, warm_up=1, alternate=True)
        loop.close()
        samples = loop.run.steps_per_epoch * config.trainer.batch_size
    (bare_wall, bare_busy), (wall, busy) = (zip(*spent, strict=True) for spent in seconds.values())
    median = statistics.median
    rows = [
        row(variant, "samples/s", *(f"{samples / value:.4g}" for value in map(median, zip(*spent, strict=True))))
        for variant, spent in seconds.items()
    ]
    ratios = (median(bare_wall) / median(wall), median(bare_busy) / median(busy), *interval(bare_wall, wall))
    return [*rows, row("train.py / bare", "ratio", *(f"{value:.3f}" for value in ratios))]


def row(variant: str, unit: str, value: str, processor: str, low: str = "", high: str = "") -> Row:
    """A line of the CSV file."""
    return {"variant": variant, "value": value, "low": low, "high": high, "processor": processor, "unit": unit}


def interval(first: Sequence[float], second: Sequence[float], draws: int = 2000) -> tuple[float, float]:
    """95 % bootstrap interval of the ratio of medians; turns are drawn in pairs."""
    generator, pairs = random.Random(0), list(zip(first, second, strict=True))
    ratios = []
    for _ in range(draws):
        drawn = generator.choices(pairs, k=len(pairs))
        ratios.append(statistics.median(a for a, _ in drawn) / statistics.median(b for _, b in drawn))
    ratios.sort()
    return ratios[round(0.025 * (draws - 1))], ratios[round(0.975 * (draws - 1))]


def measure_lightning(rounds: int, device: str) -> list[Row]:
    """Samples per second of train.py and of Lightning on diamonds, and ratios with intervals."""
    rows: list[Row] = []
    for method in ("sum", "pcgrad"):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            # a table is all that both write
            options = (f"balancer={method}", f"trainer.epochs={rounds + 1}", "logger.tensorboard=false")
            run = train.build(mozoo.compose([*place("diamonds", device), *options]))
            loop = TrainLoop(run, folder)
            own: Callable[[], Seconds] = partial(timed, loop.train_epoch)
            variants = {"train.py": own}
            for variant, (sparing, _) in VARIANTS.items():
                variants[variant] = LightningLoop(loop, sparing, folder / variant).train_epoch
            seconds: dict[str, list[Seconds]] = {variant: [] for variant in variants}
            for turn in track(range(rounds + 1), description=f"lightning, {method}"):
                for variant in reversed(variants) if turn % 2 else variants:
                    tools.synchronize(run.device)
                    taken = variants[variant]()
                    if turn:
                        seconds[variant].append(taken)
            loop.close()
        samples = run.steps_per_epoch * run.config.trainer.batch_size
        walls = {variant: [wall for wall, _ in spent] for variant, spent in seconds.items()}
        for variant, spent in seconds.items():
            wall, busy = map(statistics.median, zip(*spent, strict=True))
            rows.append(row(f"{method}: {variant}", "samples/s", f"{samples / wall:.4g}", f"{samples / busy:.4g}"))
        for variant in VARIANTS:
            wall, busy = (
                statistics.median(each[i] for each in seconds[variant])
                / statistics.median(each[i] for each in seconds["train.py"])
                for i in range(2)
            )
            limits = (f"{limit:.3f}" for limit in interval(walls[variant], walls["train.py"]))
            rows.append(row(f"{method}: train.py / {variant}", "ratio", f"{wall:.3f}", f"{busy:.3f}", *limits))
    return rows


def measure_files(rounds: int, device: str) -> list[Row]:
    """Share of an epoch that goes into files: tables, TensorBoard, checkpoint, best weights.

    The time inside the functions that write is added up, as it is too small for a difference of two epochs.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = mozoo.compose([*place("diamonds", device), f"trainer.epochs={rounds + 1}"])
        run = train.build(config)
        loop = TrainLoop(run, folder)
        log, logging = loop.tracker.log_report, []
        loop.tracker.log_report = lambda *report: logging.append(timed(partial(log, *report)))  # type: ignore[method-assign]
        values = dict.fromkeys(run.task.results(), 0.5)
        model = {"model": config.model["name"], **run.arguments}

        def log_epoch() -> None:
            for split in ("train", "val"):
                loop.tracker.log_metrics(1, run.state.step, split, 1.0, 0.1, values)

        writers: dict[str, Callable[[], object]] = {
            "metrics.csv and TensorBoard": log_epoch,
            "checkpoint": partial(train.save, run, folder, loop.tracker),
            "best weights": partial(tools.save_weights, folder / "best", run.trained, model),
        }
        written: list[Seconds] = []
        parts = ("balance.csv and TensorBoard", *writers, "together")
        shares: dict[str, list[Seconds]] = {part: [] for part in parts}

        def train_and_write() -> None:
            loop.train_epoch()
            written.extend(map(timed, writers.values()))

        for epoch in range(rounds + 1):
            logging.clear()
            written.clear()
            all_wall, all_busy = timed(train_and_write)
            spent = [(sum(wall for wall, _ in logging), sum(busy for _, busy in logging)), *written]
            spent.append((sum(wall for wall, _ in spent), sum(busy for _, busy in spent)))
            if epoch:
                for part, (wall, busy) in zip(shares, spent, strict=True):
                    shares[part].append((wall / all_wall, busy / all_busy))
        loop.close()
    return [
        row(part, "share", *(f"{statistics.median(values):.4f}" for values in zip(*spent, strict=True)))
        for part, spent in shares.items()
    ]


START = """
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
import hydra, huggingface_hub.hub_mixin, rich.live, rich.progress
lap("hydra, huggingface_hub and rich")
import train
lap("everything else that is imported")
step, build = train.train_step, train.build
def timed_build(*arguments):
    lap("configuration")
    import torch._dynamo
    lap("torch._dynamo, which every optimizer of torch imports")
    built = build(*arguments)
    lap("data, model, optimizer")
    return built
def timed_step(run, batch):
    lap("run folder, first batch")
    step(run, batch)
    lap("first step")
    print(json.dumps({"laps": laps, "time": time.time()}), flush=True)
    import os
    os._exit(0)
train.build, train.train_step = timed_build, timed_step
train.main()
"""


def measure_startup(rounds: int, device: str) -> list[Row]:
    """Seconds from the start of Python to the end of the first step, and its parts."""
    rounds = max(rounds // 4, 1)
    taken: dict[str, list[tuple[float, dict[str, float]]]] = {"bare": [], "train.py": []}
    for turn in range(rounds + 1):
        for variant in reversed(taken) if turn % 2 else taken:
            taken[variant].append(start_once(variant, device))
    rows: list[Row] = []
    for variant, starts in taken.items():
        counted = starts[1:]  # the first reads from the disk
        walls = [wall for wall, _ in counted]
        busy = statistics.median(sum(laps.values()) for _, laps in counted)
        value, low, high = (f"{number:.2f}" for number in (statistics.median(walls), min(walls), max(walls)))
        rows.append(row(variant, "s", value, f"{busy:.2f}", low, high))
    busy_of = {name: statistics.median(laps[name] for _, laps in counted) for name in starts[0][1]}
    return [*rows, *(row(f"of it: {name}", "s", "", f"{busy:.2f}") for name, busy in busy_of.items())]


def start_once(variant: str, device: str) -> tuple[float, dict[str, float]]:
    """Wall time to the end of the first step, and processor time by part."""
    with tempfile.TemporaryDirectory() as folder:
        overrides = [f"run_dir={folder}/run", f"trainer.device={device}"]
        start = time.time()
        done = subprocess.run(
            [sys.executable, "-c", START, str(results.ROOT), variant, *overrides],
            cwd=folder,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": ""},  # as in use: modules are compiled by the first start
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        sys.exit(f"error: the measured process failed\n{done.stderr}")
    answer = json.loads(done.stdout.splitlines()[-1])
    return answer["time"] - start, answer["laps"]


def place(name: str, device: str) -> list[str]:
    """Overrides: the folder of the data, and the device."""
    return [f"trainer.device={device}", f"data_dir={results.OUTPUTS / 'benchmark' / name}"]


#: Name of a part -> what measures it
PARTS: dict[str, Callable[[int, str], list[Row]]] = {
    "diamonds": lambda rounds, device: measure_work("diamonds", rounds, device),
    "rooms": lambda rounds, device: measure_work("rooms", rounds, device),
    "lightning": measure_lightning,
    "files": measure_files,
    "startup": measure_startup,
}


# ---- what is made of the numbers -------------------------------------------------------------------------------------


def read(part: str) -> dict[str, dict[str, str]]:
    """Variant -> its row of this part in ``results/train_speed.csv``."""
    rows = results.read_rows(results.RESULTS / FILE)
    return {row["variant"]: row for row in rows if row["part"] == part}


def loops_table() -> str:
    """Speed of both loops."""
    head = ("work", "bare, samples/s", "train.py, samples/s", "ratio", "95 % interval", "ratio of processor time")
    lines = []
    for name in WORK:
        if rows := read(name):
            ratio = {key: float(rows["train.py / bare"][key]) for key in ("value", "low", "high", "processor")}
            line = [name, speed(rows["bare"]), speed(rows["train.py"]), f"{ratio['value']:.3f}"]
            lines.append([*line, f"{ratio['low']:.3f} to {ratio['high']:.3f}", f"{ratio['processor']:.3f}"])
    return documents.table(head, lines)


def speed(row: Row) -> str:
    """Samples per second with three digits or more."""
    value = float(row["value"])
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def lightning_table() -> str:
    """Speed of train.py and of Lightning."""
    head = ("balancer", "log_dict", "Lightning, samples/s", "train.py, samples/s", "ratio", "95 % interval")
    lines = []
    for name, ratio in (rows := read("lightning")).items():
        method, _, variant = name.partition(": train.py / ")
        if variant:
            speeds = (speed(rows[f"{method}: {each}"]) for each in (variant, "train.py"))
            limits = f"{float(ratio['low']):.2f} to {float(ratio['high']):.2f}"
            values = (f"{float(ratio[key]):.2f}" for key in ("value", "processor"))
            lines.append([f"`{method}`", VARIANTS[variant][1], *speeds, next(values), limits, next(values)])
    return documents.table((*head, "ratio of processor time"), lines)


def files_table() -> str:
    """Share of the time that goes into files."""
    lines = (
        [name, f"{float(row['value']):.1%}", f"{float(row['processor']):.1%}"] for name, row in read("files").items()
    )
    return documents.table(("what is written", "share of an epoch", "share of its processor time"), lines)


def startup_table() -> str:
    """Seconds to the first step."""
    head = ("from the start of Python to the end of the first step", "seconds", "processor seconds")
    lines = (
        [name, f"{float(row['value']):.1f}" if row["value"] else "", f"{float(row['processor']):.2f}"]
        for name, row in read("startup").items()
    )
    return documents.table(head, lines)


BLOCKS: documents.Blocks = {
    "docs/speed.md": {
        "speed_loops": loops_table,
        "speed_lightning": lightning_table,
        "speed_files": files_table,
        "speed_startup": startup_table,
    }
}


if __name__ == "__main__":
    main()
