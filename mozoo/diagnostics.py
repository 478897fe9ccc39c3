"""Steps that train nothing: a dry run, and the time of each part of a step."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Column, Table
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from balancing import BalanceReport
from balancing.spans import span
from mozoo.data import Split
from mozoo.device import describe_device, silence_profiler, synchronize
from mozoo.memory import held_bytes, multiply_adds, peak_bytes
from mozoo.run import Run, epoch_batches
from tasks import Batch


def describe_run(run: Run, step: Callable[[Run, Batch], Sequence[BalanceReport]]) -> dict[str, Any]:
    """Print configuration, data, shapes, counts and memory, take two steps, write nothing."""
    console = Console(highlight=False, soft_wrap=True)
    console.print(OmegaConf.to_yaml(asdict(run.config)).rstrip(), markup=False)
    splits = run.splits
    parts: tuple[tuple[str, Split], ...] = (("train", splits.train), ("val", splits.val), ("test", splits.test))
    console.print("\ndata        " + "  ".join(f"{name} {len(split):,}" for name, split in parts))  # type: ignore[arg-type]
    for note in run.notes:
        console.print(f"            {note}", markup=False)
    console.print(f"device      {describe_device(run.device)}, {run.total_steps:,} steps")

    table = Table("network", "parameters")
    for name, network in run.model.networks().items():
        table.add_row(name, f"{sum(p.numel() for p in network.parameters()):,}")
    table.add_row("shared by several objectives", f"{sum(p.numel() for p in run.model.shared_parameters()):,}")
    console.print(table)

    batch = next(epoch_batches(run, epoch=0))
    run.model.eval()
    outputs: Mapping[str, Tensor] = {}

    @torch.no_grad()
    def forward() -> None:
        nonlocal outputs
        outputs = run.task.outputs(run.model, batch)

    products = None if run.config.trainer.compile else multiply_adds(forward)
    if products is None:
        forward()
    run.train_mode()
    console.print("inputs      " + "  ".join(str(tuple(tensor.shape)) for tensor in batch.inputs))
    console.print("outputs     " + "  ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in outputs.items()))
    before = held_bytes(run)

    def two_steps() -> Sequence[BalanceReport]:
        reports = step(run, batch)
        step(run, batch)  # optimizers have their state only now
        return reports

    reports, most = peak_bytes(run.device, two_steps)
    for optimizer, report in zip(run.phases, reports, strict=True):
        numbers = "  ".join(f"{key} {value:.4g}" for key, value in report.as_dict().items())
        console.print(f"one step    phase {optimizer.phase.name}: {numbers}")
    samples = len(batch.inputs[0])
    if products:
        per_sample = _count(products / samples)
        console.print(f"forward     {per_sample} multiply-adds per sample, in matrix products and convolutions")
    for line in _memory(before, held_bytes(run), most, f"{samples} samples on {run.device.type}"):
        console.print(line)
    console.print("dry run: nothing was written")
    return {"status": "dry_run"}


def _memory(before: Mapping[str, int], after: Mapping[str, int], most: int | None, step: str) -> list[str]:
    """Lines about a step, from bytes before and after it, and the most beyond those before."""
    kinds = ", ".join(f"{name} {_size(count)}" for name, count in after.items() if count)
    if most is None:
        return [f"memory      {kinds}; the rest of a step, such as activations, is not measured on this device"]
    whole = sum(before.values()) + most
    rest = max(whole - sum(after.values()), 0)
    return [
        f"memory      {_size(whole)} at most in a step of {step}, as torch allocated it:",
        f"            {kinds}, activations and all that is temporary {_size(rest)}",
    ]


def _size(count: int) -> str:
    """Bytes in MiB, or GiB if they are many."""
    return f"{count / 2**20:,.1f} MiB" if count < 10 * 2**30 else f"{count / 2**30:,.1f} GiB"


def _count(value: float) -> str:
    for limit, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= limit:
            return f"{value / limit:.3g}{unit}"
    return f"{value:.3g}"


_WARM_UP = 5


def profile_run(run: Run, step: Callable[[Run, Batch], Sequence[BalanceReport]], folder: Path) -> dict[str, Any]:
    """Profile ``trainer.profile`` steps: print a table, write ``trace.json``.

    The parts are those named by :func:`balancing.spans.span`.
    """
    count = run.config.trainer.profile
    assert count is not None
    cuda = run.device.type == "cuda"
    run.train_mode()
    batches = itertools.chain.from_iterable(epoch_batches(run, epoch) for epoch in itertools.count())
    for batch in itertools.islice(batches, _WARM_UP):
        step(run, batch)
    synchronize(run.device)
    silence_profiler()
    with profile(activities=[ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if cuda else [])) as profiler:
        for _ in range(count):
            with span("whole step"):
                with span("data"):
                    batch = next(batches)
                step(run, batch)
                synchronize(run.device)
    trace = folder / "trace.json"
    if run.processes.main:
        profiler.export_chrome_trace(str(trace))
    events = {
        event.key.removeprefix("span: "): event for event in profiler.key_averages() if event.key.startswith("span: ")
    }
    total = events.pop("whole step").cpu_time_total / 1000 / count  # the device is not busy all the time
    times = {
        name: (event.device_time_total if cuda else event.cpu_time_total) / 1000 / count
        for name, event in events.items()
    }
    columns: list[str | Column] = ["part", *(Column(name, justify="right") for name in ("ms", "share"))]
    table = Table(*columns, title=f"{count} steps, {total:.3f} ms each", title_justify="left")
    for name, milliseconds in [*times.items(), ("the rest", total - sum(times.values()))]:
        table.add_row(name, f"{milliseconds:.3f}", f"{milliseconds / total:.1%}")
    console = Console(highlight=False, soft_wrap=True)
    console.print(table)
    viewers = "chrome://tracing or https://ui.perfetto.dev"
    console.print(f"every operation is in {trace}; open it in {viewers}", markup=False)
    return {"status": "profile"}
