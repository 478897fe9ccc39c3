"""Set-ups in two processes: what each of them leaves in ``.grad``, against plain backwards on both halves of the batch.

One start of two processes runs every cell in a process group of its own, so that a cell that fails, hangs or ends a
process does not touch the others; the tests read what was left. Each cell is float64.
"""

import functools
import os
import re
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from tests import forks
from tests.balancing.problems import Net
from tests.balancing.set_ups.outputs import errors, separate
from tests.balancing.set_ups.parameters import Experts, Spare
from tests.balancing.set_ups.reference import Reference, build, rows_of
from tests.balancing.set_ups.table import add, batch, check_gradient

METHODS = ("sum", "uncertainty", "pcgrad", "mgda", "nash_mtl", "graddrop", "moco")
LEAN = (*METHODS, "mgda lean")
SHARDED = ("sum", "uncertainty", "pcgrad", "mgda", "nash_mtl", "graddrop")
#: A message between processes that nobody answers is an error after so many seconds.
PATIENCE = 15
#: After so many seconds, cells that have not been reached are given up.
BUDGET = 300
STEPS = 2


@dataclass
class Pair:
    """What two processes do.

    Attributes:
        losses: (model, batch, rank, step) -> losses.
        plain: The same without what is wrapped around the model.
        model: Makes the model, alike in all processes.
        wrap: (model) -> what is called instead of it.
        arguments: (model, rank, step) -> arguments of ``backward``.
        objectives: (rank) -> their names.
        expected: ``right``, ``refused`` or ``either``.
        message: Patterns in the message of a refusal.
        zeros: Whether what no objective reaches may have a zero ``.grad``.
        data: (step, rank) -> the part of the batch.
        methods: Methods that it concerns.
    """

    losses: Callable[[Any, torch.Tensor, int, int], dict[str, torch.Tensor | None]]
    plain: Callable[[Any, torch.Tensor, int, int], dict[str, torch.Tensor | None]] | None = None
    model: Callable[[], nn.Module] = Net
    wrap: Callable[[nn.Module], Any] = lambda model: model
    arguments: Callable[[nn.Module, int, int], dict[str, Any]] = lambda model, rank, step: {}
    objectives: Callable[[int], Sequence[str]] = lambda rank: "abc"
    expected: str = "right"
    message: Sequence[str] = ()
    zeros: bool = False
    data: Callable[[int, int], torch.Tensor] = lambda step, rank: batch(step).chunk(2)[rank]
    methods: Sequence[str] = METHODS
    gradients: Callable[[Any, nn.Module], dict[str, torch.Tensor]] = lambda wrapped, model: full_gradients(model)


PAIRS: dict[str, Pair] = {}


def pair(function):
    """Decorator: a function () -> Pair is a set-up of its own name."""
    name = function.__name__
    PAIRS[name] = function()
    add(name, lambda method: check(name, method), PAIRS[name].methods)
    return function


def full_gradients(model):
    """``.grad`` of every parameter, whole where it is sharded."""
    found = {}
    for name, p in model.named_parameters():
        if p.grad is not None:
            found[name] = (p.grad.full_tensor() if hasattr(p.grad, "full_tensor") else p.grad).detach().clone()
    return found


# ---- set-ups -------------------------------------------------------------------------------------------------------


def everything(model, rank, step):
    return {"parameters": list(model.parameters())}


@pair
def equal_graphs():
    return Pair(lambda net, x, rank, step: separate(net, x), methods=LEAN)


@pair
def concatenated_on_each_rank():
    def losses(net, x, rank, step):
        z = net.features(x)
        return errors(torch.cat([net.head[name](z) for name in "abc"], 1).chunk(3, 1), x)

    return Pair(losses, lambda net, x, rank, step: separate(net, x), zeros=True, methods=LEAN)


def dropping(net, x, rank, step):
    """At the second step a rank skips a layer."""
    z = net.features(x)
    if not (rank == 1 and step == 1):
        z = z + net.extra(z).tanh()
    return errors([net.head[name](z) for name in "abc"], x)


@pair
def layer_drop_on_a_rank():
    return Pair(dropping, model=Spare, arguments=everything, methods=LEAN)


@pair
def layer_drop_on_a_rank_found():
    return Pair(dropping, model=Spare, expected="either", message=("parameters=",))


def routed(net, x, rank, step):
    """Each rank's batch goes to another expert."""
    z = net.experts[(rank + step) % 2](net.features(x)).tanh()
    return errors([net.head[name](z) for name in "abc"], x)


@pair
def experts_by_rank():
    return Pair(routed, model=Experts, arguments=everything, methods=LEAN)


@pair
def experts_by_rank_found():
    return Pair(routed, model=Experts, expected="either", message=("parameters=",))


def reordered(net, x, rank, step):
    """Both ranks use the same experts, in another order, so that autograd lists them in another order."""
    z = net.features(x)
    for place in (0, 1) if rank == 0 else (1, 0):
        z = net.experts[place](z).tanh()
    return errors([net.head[name](z) for name in "abc"], x)


@pair
def experts_other_order():
    return Pair(reordered, model=Experts, arguments=everything)


@pair
def experts_other_order_found():
    return Pair(reordered, model=Experts, expected="either", message=("parameters=",))


def unlabelled(net, x, rank, step):
    """The second rank has no labels for b."""
    losses = separate(net, x)
    return losses | {"b": None} if rank == 1 else losses


@pair
def rank_without_labels():
    return Pair(unlabelled, arguments=everything, methods=LEAN)


@pair
def rank_without_labels_found():
    return Pair(unlabelled, expected="either", message=("parameters=",))


def absent_on_another_rank(net, x, rank, step):
    """Each rank lacks the labels of another objective."""
    return separate(net, x) | {"ab"[rank]: None}


@pair
def ranks_without_other_labels():
    return Pair(absent_on_another_rank, arguments=everything, methods=LEAN)


def zeroed(net, x, rank, step):
    """The second rank has no labels for b, and a loss of zero that reaches its head."""
    losses = separate(net, x)
    if rank == 1:
        losses["b"] = 0 * sum(p.sum() for p in net.head["b"].parameters())
    return losses


@pair
def rank_without_labels_zero():
    return Pair(zeroed, arguments=everything)


@pair
def rank_without_labels_zero_found():
    return Pair(zeroed, expected="either", message=("parameters=",))


@pair
def objectives_other_order():
    return Pair(
        lambda net, x, rank, step: separate(net, x),
        objectives=lambda rank: ("abc", "bac")[rank],
        expected="refused",
        message=("order|other objectives|objectives",),
    )


class Called(Net):
    """All outputs by ``forward``, as wrappers want it."""

    def forward(self, x):
        z = self.features(x)
        return [self.head[name](z) for name in "abc"]


def by_forward(net, x, rank, step):
    return errors(net(x), x)


def ddp(**options):
    def wrap(model):
        return nn.parallel.DistributedDataParallel(model, **options)

    either = {"expected": "either", "message": ("DistributedDataParallel|DDP",)}
    return Pair(by_forward, lambda net, x, rank, step: separate(net, x), Called, wrap, zeros=True, **either)


@pair
def ddp_plain():
    return ddp()


@pair
def ddp_find_unused():
    return ddp(find_unused_parameters=True)


@pair
def ddp_static_graph():
    return ddp(static_graph=True)


def sharded(model):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (2,))
    fully_shard(model.trunk, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


@pair
def fsdp2():
    return Pair(by_forward, lambda net, x, rank, step: separate(net, x), Called, sharded, zeros=True, methods=SHARDED)


@pair
def fsdp2_one_unit():
    def wrap(model):
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        return fully_shard(model, mesh=init_device_mesh("cpu", (2,)))

    return Pair(by_forward, lambda net, x, rank, step: separate(net, x), Called, wrap, zeros=True, methods=SHARDED)


@pair
def fsdp1():
    def wrap(model):
        from torch.distributed.fsdp import FullyShardedDataParallel

        return FullyShardedDataParallel(model, use_orig_params=True, device_id=torch.device("cpu"))

    def gradients(wrapped, model):
        with type(wrapped).summon_full_params(wrapped, with_grads=True):
            return {k.replace("_fsdp_wrapped_module.", ""): g for k, g in full_gradients(wrapped).items()}

    either = {"expected": "either", "message": ("(?i)FSDP|FullySharded",)}
    return Pair(
        by_forward, lambda net, x, rank, step: separate(net, x), Called, wrap, zeros=True, gradients=gradients, **either
    )


@pair
def tensor_parallel():
    def wrap(model):
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

        plan = {"0": ColwiseParallel(), "2": RowwiseParallel()}
        parallelize_module(model.trunk, init_device_mesh("cpu", (2,)), plan)
        return model

    return Pair(
        lambda net, x, rank, step: separate(net, x),
        wrap=wrap,
        expected="either",
        message=("(?i)DTensor|tensor parallel|shard",),
        data=lambda step, rank: batch(step),
    )


# ---- in a process --------------------------------------------------------------------------------------------------


def steps_of(name, method, rank):
    """What a process leaves in ``.grad``, step by step."""
    p = PAIRS[name]
    model = p.model()
    wrapped = p.wrap(model)
    balancer = build(method, p.objectives(rank))
    left = []
    for step in range(STEPS):
        wrapped.zero_grad()
        losses = p.losses(wrapped, p.data(step, rank), rank, step)
        balancer.backward(losses, **p.arguments(model, rank, step))
        left.append(p.gradients(wrapped, model))
    return left


def worker(rank, folder, cells):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="0")
    torch.set_num_threads(1)
    patience = timedelta(seconds=PATIENCE)
    for name, method in cells:
        place = Path(folder) / f"{name}-{method}"
        store = dist.PrefixStore(f"{name}-{method}", dist.FileStore(f"{place}.store", 2))
        dist.init_process_group("gloo", store=store, rank=rank, world_size=2, timeout=patience)
        try:
            result = {"gradients": steps_of(name, method, rank)}
        except Exception as error:
            kinds = [kind.__name__ for kind in type(error).__mro__]
            result = {"error": kinds, "message": str(error), "trace": traceback.format_exc()}
        torch.save(result, f"{place}.{rank}.part")
        os.replace(f"{place}.{rank}.part", f"{place}.{rank}.pt")
        dist.destroy_process_group()


def left_by(folder, name, method):
    """Result of a cell by process; ``None`` for a process that did not end it."""
    files = [Path(folder) / f"{name}-{method}.{rank}.pt" for rank in range(2)]
    return [torch.load(file) if file.exists() else None for file in files]


@functools.cache
def results():
    """Results of all cells, by name and method.

    Processes that end early or hang are started again, for the set-ups after the one in which they did.
    """
    cells = [(name, method) for name, p in PAIRS.items() for method in p.methods]
    with tempfile.TemporaryDirectory() as folder:
        waiting, until = cells, time.monotonic() + BUDGET
        while waiting and time.monotonic() < until:
            both = [
                forks.context().Process(target=worker, args=(rank, folder, waiting), daemon=True) for rank in range(2)
            ]
            for process in both:
                process.start()
            watch(folder, both, until)
            waiting = [cell for cell in waiting if None in left_by(folder, *cell)]
            waiting = [cell for cell in waiting if cell[0] != waiting[0][0]]
        return {cell: left_by(folder, *cell) for cell in cells}


def watch(folder, both, until):
    """Wait for both processes; end them if one was ended by an error, if no cell comes to its end, or at ``until``."""
    count, since = -1, time.monotonic()
    while any(process.is_alive() for process in both):
        finished = sum(1 for _ in Path(folder).glob("*.pt"))
        if finished != count:
            count, since = finished, time.monotonic()
        crashed = any(process.exitcode not in (None, 0) for process in both)
        now = time.monotonic()
        if crashed or now - since > 4 * PATIENCE or now > until:
            for process in both:
                process.kill()
        time.sleep(0.05)
    for process in both:
        process.join()


# ---- in the test ---------------------------------------------------------------------------------------------------


def wanted_steps(name, method):
    """The right gradients: rows are the means of both processes' rows, where one that lacks a part counts as zero."""
    p = PAIRS[name]
    model, reference = p.model(), Reference(method, "abc")
    plain = p.plain or p.losses
    for step in range(STEPS):
        leaves = dict(model.named_parameters())
        total, rows = {}, {key: {} for key in "abc"}
        for rank in range(2):
            values = plain(model, p.data(step, rank), rank, step)
            values = {key: loss for key, loss in values.items() if loss is not None}
            for key, row in rows_of(values, leaves).items():
                total[key] = total.get(key, 0) + values[key].detach() / 2
                for leaf, g in row.items():
                    rows[key][leaf] = rows[key].get(leaf, 0) + g / 2
        shared = [key for key in leaves if sum(key in row for row in rows.values()) > 1]
        yield reference.step(total, rows, leaves, shared)


def check(name, method):
    """The cell is right in both processes, or refused in both."""
    p, left = PAIRS[name], results()[name, method]
    assert None not in left, "a process ended, or hung, in this cell"
    failed = ["error" in result for result in left]
    if any(failed) and p.expected != "right":
        for result in left:
            assert "error" in result, f"only one process refused: {left[failed.index(True)]['message']}"
            assert {"BalancingError", "ValueError"} & {*result["error"]}, result["trace"]
            for pattern in p.message:
                assert re.search(pattern, result["message"]), f"{pattern!r} is not in {result['message']!r}"
        return
    assert not any(failed), next(result["trace"] for result in left if "error" in result)
    assert p.expected != "refused", "should have been refused"
    for step, wanted in enumerate(wanted_steps(name, method)):
        for result in left:
            actual = result["gradients"][step]
            extra = {key for key, g in actual.items() if key not in wanted.gradients and (g.any() or not p.zeros)}
            assert not extra, f"step {step}: {extra} should have no gradient"
            missing = {key for key, g in wanted.gradients.items() if key not in actual and g.any()}
            assert not missing, f"step {step}: no gradient for {missing}"
            for key, gradient in actual.items():
                if key in wanted.gradients:
                    check_gradient(key, gradient, wanted, 1e-9)
        first, second = (result["gradients"][step] for result in left)
        for key in first.keys() & second.keys():
            assert torch.equal(first[key], second[key]), f"step {step}, {key}: the processes differ"
