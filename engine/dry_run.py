"""Show what a run would do, and try one step of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import torch
from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table

from balancing import BalanceReport
from engine.data import Split
from engine.device import describe_device
from engine.run import Run, epoch_batches
from tasks import Batch


def describe_run(run: Run, step: Callable[[Run, Batch], Sequence[BalanceReport]]) -> dict[str, Any]:
    """Print configuration, data, shapes and parameter counts, take one step, write nothing."""
    console = Console(highlight=False, soft_wrap=True)
    console.print(OmegaConf.to_yaml(asdict(run.config)).rstrip(), markup=False)
    splits = run.splits
    parts: tuple[tuple[str, Split], ...] = (("train", splits.train), ("val", splits.val), ("test", splits.test))
    console.print("\ndata        " + "  ".join(f"{name} {len(split):,}" for name, split in parts))  # type: ignore[arg-type]
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
    run.model.train()
    console.print("inputs      " + "  ".join(str(tuple(tensor.shape)) for tensor in batch.inputs))
    console.print("outputs     " + "  ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in outputs.items()))
    for optimizer, report in zip(run.phases, step(run, batch), strict=True):
        numbers = "  ".join(f"{key} {value:.4g}" for key, value in report.as_dict().items())
        console.print(f"one step    phase {optimizer.phase.name}: {numbers}")
    if run.device.type == "cuda":
        console.print(f"memory      {torch.cuda.max_memory_allocated(run.device) / 2**20:,.0f} MiB at most")
    console.print("dry run: nothing was written")
    return {"status": "dry_run"}
