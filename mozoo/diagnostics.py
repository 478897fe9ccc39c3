"""Steps that train nothing: a dry run, and the time of each part of a step."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Column, Table
from torch.profiler import ProfilerActivity, profile

from balancing import BalanceReport
from balancing.spans import span
from mozoo.data import Split
from mozoo.device import describe_device, synchronize
from mozoo.run import Run, epoch_batches
from tasks import Batch


def describe_run(run: Run, step: Callable[[Run, Batch], Sequence[BalanceReport]]) -> dict[str, Any]:
    """Print configuration, data, shapes and parameter counts, take one step, write nothing."""
    console = Console(highlight=False, soft_wrap=True)
    console.print(OmegaConf.to_yaml(asdict(run.config)).rstrip(), markup=False)
    splits = run.splits
    parts: tuple[tuple[str, Split], ...] = (("train", splits.train), ("val", splits.val), ("test", splits.test))
    console.print("\ndata        " + "  ".join(f"{name} {len(split):,}" for name, split in parts))  # type: ignore[arg-type]
    for note in splits.notes:
        console.print(f"            {note}", markup=False)
    console.print(f"device      {describe_device(run.device)}, {run.total_steps:,} steps")

    table = Table("network", "parameters")
    for name, network in run.model.networks().items():
        table.add_row(name, f"{sum(p.numel() for p in network.parameters()):,}")
    table.add_row("shared by several objectives", f"{sum(p.numel() for p in run.model.shared_parameters()):,}")
    console.print(table)

    batch = next(epoch_batches(run, epoch=0))
    run.model.eval()
    with torch.no_grad():
        outputs = run.task.outputs(run.model, batch)
    run.train_mode()
    console.print("inputs      " + "  ".join(str(tuple(tensor.shape)) for tensor in batch.inputs))
    console.print("outputs     " + "  ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in outputs.items()))
    for optimizer, report in zip(run.phases, step(run, batch), strict=True):
        numbers = "  ".join(f"{key} {value:.4g}" for key, value in report.as_dict().items())
        console.print(f"one step    phase {optimizer.phase.name}: {numbers}")
    if run.device.type == "cuda":
        console.print(f"memory      {torch.cuda.max_memory_allocated(run.device) / 2**20:,.0f} MiB at most")
    console.print("dry run: nothing was written")
    return {"status": "dry_run"}


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
