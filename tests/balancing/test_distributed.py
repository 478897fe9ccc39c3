"""Two processes on half the batch each give the gradients of one process on the whole batch."""

import os
import socket

import pytest
import torch
import torch.distributed as dist

from balancing import Rotations, create_balancer
from balancing.measuring import processes
from tests import forks
from tests.balancing.bilevel.problems import closure
from tests.balancing.problems import ALL, BILEVEL, GRAMIAN, Net, inputs, make

CASES = [(name, {}) for name in ALL] + [(name, {"at": "features"}) for name in GRAMIAN]
CASES += [("mgda", {"update_every": 2}), ("pcgrad", {"at": "subset"}), ("pcgrad", {"before": "uncertainty"})]
CASES += [("mgda", {"sample": 2}), ("gradvac", {"sample": 2, "at": "features"})]


def steps(part):
    """Gradients of two steps of every case, on ``part(batch)`` of each batch."""
    gradients = []
    for name, options in CASES:
        net, balancer = Net(), make(name, **options)
        for seed in range(2):
            net.zero_grad()
            x = part(inputs(8, seed=seed))
            z = net.features(x)
            # as where layers share a weight, a list may name one twice
            listed = [*net.parameters(), net.trunk[0].weight] if seed else None
            balancer.backward(net.losses(x, z), parameters=listed, features=z, subset=[net.trunk[2].weight])
            if balancer.observes:
                with torch.no_grad():
                    balancer.observe({key: 0.9 * loss for key, loss in net.losses(x).items()})
            gradients.append(
                net.gradients() | {f"own {i}": p.grad.clone() for i, p in enumerate(balancer.parameters())}
            )
    return gradients


def bilevel_steps(part):
    """Gradients of two steps of every bilevel method, on ``part(batch)`` of each batch."""
    gradients = []
    for name in BILEVEL:
        net, balancer = Net(), create_balancer(name, ("a", "b", "c"))
        for seed in range(2):
            pair = [closure(part(inputs(8, seed=base + seed))) for base in (0, 50)]
            balancer.meta_backward(net, *pair, lr=1e-3)
            gradients.append(net.gradients() | {"own": balancer.alpha.grad.clone()})
    return gradients


def steps_with_an_absent_objective(part):
    """Gradients of two steps without ``b``, then one with it."""
    gradients = []
    for name in ("sum", "uncertainty", "pcgrad", "moco", "famo", "db_mtl"):
        net, balancer = Net(), make(name)
        for seed in range(3):
            net.zero_grad()
            losses = net.losses(part(inputs(8, seed=seed)))
            report = balancer.backward(losses if seed == 2 else losses | {"b": None})
            assert report.present == (True, seed == 2, True)
            gradients.append(net.gradients())
    return gradients


def steps_with_rotations(part):
    """Gradients of two steps of a net with a rotation before each head, the second without ``b``."""
    net, balancer = Net(), make("rotograd", at="features")
    rotations = Rotations(net.objectives, net.features(inputs(2)).shape[-1])
    for angles in rotations.parameters():
        torch.nn.init.normal_(angles, std=3.0)
    gradients = []
    for seed in range(2):
        net.zero_grad()
        rotations.zero_grad()
        x = part(inputs(8, seed=seed))
        features = rotations(net.features(x))
        losses = {name: net.losses(x, z)[name] for name, z in rotations.turned(features).items()}
        balancer.backward(losses | ({"b": None} if seed else {}), features=features)
        angles = {name: p.grad for name, p in rotations.named_parameters() if p.grad is not None}
        gradients.append(net.gradients() | angles)
    return gradients


def worker(rank, port, folder, run):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    processes._BUCKET = 40  # several messages, although the net is small
    dist.init_process_group("gloo", rank=rank, world_size=2)
    try:
        torch.save(run(lambda x: x.chunk(2)[rank]), f"{folder}/{rank}.pt")
    finally:
        dist.destroy_process_group()


def two_processes(run, folder):
    """What ``run`` returns for the halves of its batches, by process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    forks.spawn(worker, (port, str(folder), run), 2)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return steps(lambda x: x), two_processes(steps, tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize("case", range(len(CASES)), ids=["-".join([n, *map(str, o.values())]) for n, o in CASES])
def test_two_processes_equal_one(results, case):
    whole, ranks = results
    for index in (2 * case, 2 * case + 1):
        for rank in ranks:
            assert rank[index].keys() == whole[index].keys()
            for key, gradient in whole[index].items():
                torch.testing.assert_close(rank[index][key], gradient, msg=lambda m, key=key: f"{key}: {m}")


@pytest.mark.parametrize("run", [steps_with_an_absent_objective, steps_with_rotations])
def test_two_processes_without_an_objective_equal_one(run, tmp_path):
    whole = run(lambda x: x)
    for rank in two_processes(run, tmp_path):
        for mine, wanted in zip(rank, whole, strict=True):
            assert mine.keys() == wanted.keys()
            for key, gradient in wanted.items():
                torch.testing.assert_close(mine[key], gradient)


def test_two_processes_of_bilevel_methods_equal_one(tmp_path):
    whole, ranks = bilevel_steps(lambda x: x), two_processes(bilevel_steps, tmp_path)
    for rank in ranks:
        for mine, wanted in zip(rank, whole, strict=True):
            assert mine.keys() == wanted.keys()
            for key, gradient in wanted.items():
                torch.testing.assert_close(mine[key], gradient, rtol=1e-5, atol=1e-7)
