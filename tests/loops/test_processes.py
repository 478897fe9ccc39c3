"""docs/loop_ddp.md and docs/loop_fsdp.md: two processes equal one, with any wrapper."""

import pytest
import torch
from torch.nn.functional import cross_entropy, mse_loss

from balancing import create_balancer
from tests.loops.pages import by_process, load

METHODS = ["sum", "uncertainty", "pcgrad", "mgda", "nash_mtl", "graddrop"]
WRAPPERS = {"plain": {}, "find_unused": {"find_unused_parameters": True}, "static_graph": {"static_graph": True}}
HEAD = f"""
import os
import torch
import torch.distributed as dist
import loop

METHODS, WRAPPERS = {METHODS}, {WRAPPERS}
torch.optim.Adam = lambda parameters, lr: torch.optim.SGD(parameters, lr=0.05)  # Adam makes full steps of rounding errors
dist.init_process_group("gloo")
found = {{}}
"""
DDP = (
    HEAD
    + """
for method in METHODS:
    for name, options in WRAPPERS.items():
        model, report = loop.train(method, 1, **options)
        found[method, name] = [*model.module.state_dict().values(), report.losses]
torch.save(found, f"{dist.get_rank()}.pt")
dist.destroy_process_group()
"""
)
FSDP = (
    HEAD
    + """
for method in METHODS:
    for steps in (1, 4):
        model, report = loop.train(method, steps)
        found[method, steps] = [*(p.full_tensor() for p in model.state_dict().values()), report.losses]
torch.save(found, f"{dist.get_rank()}.pt")
dist.destroy_process_group()
"""
)


@pytest.fixture(scope="module")
def ddp(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ddp")
    return [by_process("ddp", DDP, folder / str(size), size) for size in (1, 2)]


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("method", METHODS)
def test_two_processes_in_a_wrapper_equal_one(method, wrapper, ddp):
    (whole,), ranks = ddp
    for rank in ranks:
        torch.testing.assert_close(rank[method, wrapper], whole[method, "plain"], rtol=1e-4, atol=1e-6)


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    return by_process("fsdp", FSDP, tmp_path_factory.mktemp("fsdp") / "two", 2)


@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("method", METHODS)
def test_sharded_parameters_equal_whole_ones(method, steps, sharded):
    loop = load("fsdp")
    torch.manual_seed(0)
    model, balancer = loop.TwoHeads(), create_balancer(method, ("kind", "size"))
    optimizer = torch.optim.SGD([*model.parameters(), *balancer.parameters()], lr=0.05)
    for step in range(steps):
        x = torch.randn(16, 8, generator=torch.Generator().manual_seed(step % 4))
        optimizer.zero_grad()
        kind, size = model(x)
        losses = {"kind": cross_entropy(kind, x[:, :3].argmax(1)), "size": mse_loss(size, 3 * x[:, 3:4] + 1)}
        report = balancer.backward(losses)
        optimizer.step()
    for rank in sharded:
        wanted = [*model.state_dict().values(), report.losses]
        torch.testing.assert_close(rank[method, steps], wanted, rtol=1e-4, atol=1e-6)
