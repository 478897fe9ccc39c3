"""docs/loop_lightning.md: resumed runs, several processes, a GradScaler that Lightning owns."""

import pytest
import torch

from tests.loops.pages import assert_equal, by_process, load

DRIVER = """
import os, sys
import torch
from torch.utils.data import DataLoader, DistributedSampler
import loop

class Recorded(loop.TwoHeads):
    def on_before_optimizer_step(self, optimizer):
        super().on_before_optimizer_step(optimizer)
        self.seen.append({name: p.grad.clone() for name, p in self.named_parameters()})

    def configure_optimizers(self):  # Adam would make full steps of rounding errors
        return torch.optim.SGD(self.parameters(), lr=0.05)

def batches(size):
    data = plain(size).dataset
    sampler = DistributedSampler(data, world, rank, shuffle=False)
    return DataLoader(data, size, sampler=sampler)

world, rank = int(os.environ["WORLD_SIZE"]), int(os.environ["RANK"])
plain, loop.batches = loop.batches, batches
found = {}
for method in ("pcgrad", "uncertainty", "sum"):
    torch.manual_seed(0)
    model = Recorded(method)
    model.seen = []
    loop.fit(model, 2, world, use_distributed_sampler=False)
    found[method] = model.seen
torch.save(found, f"{rank}.pt")
"""


@pytest.mark.parametrize("method", ["pcgrad", "uncertainty", "dwa", "moco"])
def test_a_resumed_run_equals_an_uninterrupted_one(method, tmp_path):
    loop = load("lightning")
    torch.manual_seed(0)
    whole = loop.TwoHeads(method)
    loop.fit(whole, 4)
    torch.manual_seed(0)
    loop.fit(loop.TwoHeads(method), 2).save_checkpoint(tmp_path / "half.ckpt")
    resumed = loop.TwoHeads(method)
    loop.fit(resumed, 4, checkpoint=tmp_path / "half.ckpt")
    assert (resumed.balancer.step, resumed.balancer.epoch) == (16, 4)
    assert_equal(dict(resumed.state_dict()), dict(whole.state_dict()))


def test_ddp_with_two_processes_equals_one(tmp_path):
    (whole,) = by_process("lightning", DRIVER, tmp_path / "one", 1)
    for rank in by_process("lightning", DRIVER, tmp_path / "two", 2):
        for method, steps in whole.items():
            assert len(rank[method]) == len(steps) == 8
            for mine, wanted in zip(rank[method], steps, strict=True):
                torch.testing.assert_close(mine, wanted, rtol=1e-4, atol=1e-6)


def test_gradients_are_clipped_after_unscaling():
    loop = load("lightning")
    from lightning.pytorch.plugins import MixedPrecision

    norms = {}

    class Recorded(loop.TwoHeads):
        def on_before_optimizer_step(self, optimizer):
            before = {name: parameter.grad.clone() for name, parameter in self.named_parameters()}
            super().on_before_optimizer_step(optimizer)
            after = {name: parameter.grad.clone() for name, parameter in self.named_parameters()}
            norms.setdefault(scale, []).append((before, after))

    for scale in (1.0, 2.0**12):
        torch.manual_seed(0)
        scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        plugin = MixedPrecision("16-mixed", "cpu", scaler=scaler)
        loop.fit(Recorded("uncertainty"), 1, plugins=[plugin])
        assert scaler.get_scale() == scale
    for mine, wanted in zip(norms[2.0**12], norms[1.0], strict=True):
        for gradients, others in zip(mine, wanted, strict=True):
            torch.testing.assert_close(gradients, others, rtol=1e-3, atol=1e-4)  # fp16 activations
    lengths = [torch.cat([g.flatten() for g in after.values()]).norm() for _, after in norms[1.0]]
    assert all(length <= 5.001 for length in lengths)
