"""Processes that reach different parameters get the mean of their gradients, parameter by parameter."""

import copy
import io
import os
import random
import re
import socket

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from balancing import BalancingError, create_balancer
from balancing.measuring import processes
from tests import forks
from tests.balancing.problems import inputs

NAMES = ("a", "b", "c")
METHODS = ("sum", "uncertainty", "alternating", "pcgrad", "mgda", "nash_mtl", "graddrop", "moco")
STEPS = 3


class Experts(nn.Module):
    """A trunk, three residual layers of one size, of which a forward uses some in any order, and a head per objective."""

    def __init__(self, zero_bias=False):
        super().__init__()
        torch.manual_seed(0)
        self.trunk = nn.Linear(5, 6)
        self.experts = nn.ModuleList(nn.Linear(6, 6) for _ in range(3))
        self.head = nn.ModuleDict({name: nn.Linear(6, 2) for name in NAMES})
        if zero_bias:
            for layer in [self.trunk, *self.experts, *self.head.values()]:
                nn.init.zeros_(layer.bias)
        self.double()

    def forward(self, x, route):
        z = self.trunk(x).tanh()
        for expert in route:
            z = z + self.experts[expert](z).tanh()
        return z, [head(z) for head in self.head.values()]

    def shared(self):
        return [*self.trunk.parameters(), *self.experts.parameters()]


def losses_of(net, outputs, x, unlabelled=()):
    losses = {
        name: (1.0 + 3 * k) * (out - (-1.0) ** k * (1 + x[:, :2])).square().mean()
        for k, (name, out) in enumerate(zip(NAMES, outputs, strict=True))
    }
    for name in unlabelled:
        losses[name] = sum(0 * p.sum() for p in net.head[name].parameters())
    return losses


def gradients_of(net):
    return {name: p.grad for name, p in net.named_parameters() if p.grad is not None}


def one_expert(rank, step):
    return [rank]


def all_experts(rank, step):
    return [0, 1, 2]


def another_order(rank, step):
    return [(rank + step + k) % 3 for k in range(3)]


def dropped(rank, step):
    return [e for e in range(3) if random.Random(7 * step + rank).random() < 0.6]


def dropped_later(rank, step):
    return dropped(rank, step) if step else [0, 1, 2]


#: Name -> route by process and step, processes and objectives without label, and what is given to ``backward``.
SETUPS = {
    "alike": (all_experts, {}, ""),
    "experts": (one_expert, {}, "parameters"),
    "experts, shared given": (one_expert, {}, "shared"),
    "another order": (another_order, {}, ""),
    "another order, given": (another_order, {}, "parameters"),
    "layers dropped": (dropped, {}, "parameters"),
    "layers dropped later": (dropped_later, {}, ""),
    "no label": (all_experts, {1: ["b"]}, ""),
    "no labels": (another_order, {0: ["c"], 1: ["a", "b"]}, "parameters"),
}
CASES = [
    *(("experts, shared given", method, {}) for method in METHODS),
    *(("no label", method, {}) for method in METHODS),
    *((setup, method, {}) for setup in SETUPS for method in ("sum", "uncertainty", "pcgrad")),
    *((setup, "mgda", {"at": "features"}) for setup in SETUPS),
    *((setup, "mgda", {"update_every": 2}) for setup in ("experts", "layers dropped")),
    *((setup, method, {"parts": 2}) for setup in ("experts", "layers dropped later") for method in ("rlw", "pcgrad")),
    ("no labels", "pcgrad", {"at": "subset"}),
    *(
        ("alike", method, {"wrapped": kind})
        for method in ("sum", "alternating", "mgda")
        for kind in ("plain", "unused")
    ),
]


def run_case(rank, setup, method, options):
    """Losses and rows of one's own by plain backward, what the balancer left in ``.grad``, and its weights."""
    options = dict(options)
    parts, wrapped, at = options.pop("parts", 1), options.pop("wrapped", None), options.get("at", "shared")
    route, unlabelled, given = SETUPS[setup]
    net, balancer = Experts(), create_balancer(method, NAMES, **options)
    called, plain = net, Experts()
    if wrapped:
        called = DistributedDataParallel(net, find_unused_parameters=wrapped == "unused")
    steps = []
    for step in range(STEPS):
        rows = []
        batches = [inputs(4, seed=100 * step + 10 * part + rank) for part in range(parts)]
        for part, x in enumerate(batches):
            for name in NAMES:
                plain.zero_grad()
                losses = losses_of(plain, plain(x, route(rank, step + part))[1], x, unlabelled.get(rank, ()))
                losses[name].backward()
                rows.append((losses[name].item(), gradients_of(plain)))
        net.zero_grad()
        for part, x in enumerate(batches):
            z, outputs = called(x, route(rank, step + part))
            losses = losses_of(net, outputs, x, unlabelled.get(rank, ()))
            keywords = {}
            if at == "features":
                keywords["features"] = z
            if at == "subset":
                keywords["subset"] = list(net.trunk.parameters())
            if given == "parameters":
                keywords["parameters"] = list(net.parameters())
            if given == "shared" or wrapped == "unused" or method in ("graddrop", "moco"):
                keywords["shared"] = net.shared()  # their coordinates have an order
            report = balancer.backward(losses, last=part == parts - 1, **keywords)
        gradients = {key: gradient.clone() for key, gradient in gradients_of(net).items()}
        own = [p.grad for p in balancer.parameters()]
        steps.append(
            {
                "rows": rows,
                "gradients": gradients,
                "own": own,
                "weights": report.weights,
                "heads": balancer.head_weights,
            }
        )
        balancer.zero_grad()
    return steps


def reference(ranks, method, options):
    """Gradients of the same steps in one process, whose losses have the mean gradients of all ``ranks``."""
    options = {key: value for key, value in options.items() if key not in ("parts", "wrapped")}
    net, balancer = Experts(), create_balancer(method, NAMES, **{k: v for k, v in options.items() if k != "at"})
    size = len(ranks)
    for step in range(STEPS):
        net.zero_grad()
        per_rank = [rank[step]["rows"] for rank in ranks]
        for part in range(len(per_rank[0]) // len(NAMES)):
            losses = {}
            for k, name in enumerate(NAMES):
                mine = [rows[part * len(NAMES) + k] for rows in per_rank]
                value = sum(loss for loss, _ in mine) / size
                slopes = {}
                for _, row in mine:
                    for key, gradient in row.items():
                        slopes[key] = slopes.get(key, 0) + gradient / size
                linear = sum((gradient * net.get_parameter(key)).sum() for key, gradient in slopes.items())
                losses[name] = linear - linear.detach() + value
            last = (part + 1) * len(NAMES) == len(per_rank[0])
            balancer.backward(losses, shared=net.shared(), last=last)
        yield gradients_of(net), [p.grad.clone() for p in balancer.parameters()]
        balancer.zero_grad()


def weighted_mean(ranks, step, weights, heads):
    """The mean over ``ranks`` of the sums of rows with these weights."""
    total = {}
    for rank in ranks:
        for k, (_, row) in enumerate(rank[step]["rows"]):
            for key, gradient in row.items():
                factor = heads[k] if key.startswith("head") else weights[k]
                total[key] = total.get(key, 0) + factor * gradient / len(ranks)
    return total


# ---- what must be refused, in all processes --------------------------------------------------------------------------


def refuse_unknown(rank):
    net = Experts()
    x = inputs(4)
    create_balancer("sum", NAMES).backward(losses_of(net, net(x, [rank])[1], x))


def refuse_equal_values(rank):
    net = Experts(zero_bias=True)
    x = inputs(4)
    create_balancer("pcgrad", NAMES).backward(losses_of(net, net(x, another_order(rank, 0))[1], x))


def refuse_other_objectives(rank):
    names = NAMES if rank == 0 else NAMES[::-1]
    net = Experts()
    x = inputs(4)
    create_balancer("mgda", names).backward(losses_of(net, net(x, [0])[1], x))


def refuse_fewer_objectives(rank):
    net = Experts()
    x = inputs(4)
    names = NAMES[: 3 - rank]
    losses = losses_of(net, net(x, [0])[1], x)
    create_balancer("mgda", names).backward({name: losses[name] for name in names})


def refuse_other_options(rank):
    net = Experts()
    x = inputs(4)
    create_balancer("pcgrad", NAMES, update_every=1 + rank).backward(losses_of(net, net(x, [0])[1], x))


def refuse_another_order(rank):
    net = Experts()
    x = inputs(4)
    listed = list(net.parameters())
    losses = losses_of(net, net(x, [0])[1], x)
    create_balancer("sum", NAMES).backward(losses, parameters=listed[::-1] if rank else listed)


def refuse_another_order_later(rank):
    net, balancer = Experts(), create_balancer("graddrop", NAMES)
    x = inputs(4)
    balancer.backward(losses_of(net, net(x, [0])[1], x), shared=net.shared())
    shared = net.shared()[::-1] if rank else net.shared()
    balancer.backward(losses_of(net, net(x, [0])[1], x), shared=shared)


def refuse_after_another_error(rank):
    net, balancer = Experts(), create_balancer("sum", NAMES)
    x = inputs(4)
    balancer.backward(losses_of(net, net(x, [0])[1], x))
    losses = losses_of(net, net(x, [0])[1], x)
    if rank:
        del losses["b"]
    balancer.backward(losses)


def refuse_other_micro_batches(rank):
    net, balancer = Experts(), create_balancer("mgda", NAMES)
    x = inputs(4)
    balancer.backward(losses_of(net, net(x, [0])[1], x), last=rank == 0)


def refuse_outside_subset(rank):
    """An objective that misses the subset, and is absent from one process."""
    net, x = Experts(), inputs(4)
    losses = losses_of(net, net(x, [0])[1], x)
    losses["b"] = net.trunk.weight.square().sum() if rank == 0 else None
    create_balancer("mgda", NAMES, at="subset").backward(losses, subset=[net.experts[0].weight])


REFUSED = {
    refuse_outside_subset: r"objective 'b' reaches none of the subset",
    refuse_unknown: r"parameter of shape \(6(, 6)?,?\) \(number \d+ of its graph\) that process . does not .*give parameters=list",
    refuse_equal_values: r"in another order, and several of shape \(\d,\) .*give parameters=list",
    refuse_other_objectives: r"objectives must .*process 0 has \('a', 'b', 'c'\) and process 1 has \('c', 'b', 'a'\)",
    refuse_fewer_objectives: r"objectives must .*process 0 has \('a', 'b', 'c'\) and process 1 has \('a', 'b'\)",
    refuse_other_options: r"update_every must be the same .* process 0 has 1 and process 1 has 2",
    refuse_another_order: "another order in process 1",
    refuse_another_order_later: "another order in process 1",
    refuse_after_another_error: "the loss of objective 'b' is missing",
    refuse_other_micro_batches: r"differ in last=",
}


def without_losses(rank):
    """What a balancer has learned when a process has no loss at all: it must not round otherwise than the others."""
    found = {}
    for method in ("uncertainty", "moco", "dwa"):
        net, balancer = Experts(), create_balancer(method, NAMES)
        for step in range(2):
            x = inputs(4, seed=step)
            losses = losses_of(net, net(x, [0])[1], x)
            given = dict.fromkeys(NAMES) if rank == 1 else losses
            report = balancer.backward(given, parameters=list(net.parameters()))
        found[method] = [report.losses, *balancer.state_dict().values(), *(p.grad for p in balancer.parameters())]
    return found


def masked_heads(rank):
    """Which heads are found at the features, as one process drops layers of a head and one loss is zero."""
    net, x = Experts(), inputs(4)
    z, outputs = net(x, [0])
    joined = torch.cat(outputs if rank == 0 else [*outputs[:1], 0 * x[:, :2], *outputs[2:]], 1)
    losses = losses_of(net, joined.split(2, 1), x)
    losses["c"] = 0 * losses["c"]
    create_balancer("mgda", NAMES, at="features").backward(losses, features=z, parameters=list(net.parameters()))
    return gradients_of(net)


def copies(rank):
    """A balancer that has met others, its deep copy and its unpickled copy: the bytes must not carry a model."""
    net, balancer = Experts(), create_balancer("sum", NAMES)
    x = inputs(4)
    balancer.backward(losses_of(net, net(x, [0])[1], x))
    buffer = io.BytesIO()
    torch.save(balancer, buffer)
    buffer.seek(0)
    for each in (copy.deepcopy(balancer), torch.load(buffer, weights_only=False)):
        assert each._agreement._tokens == {}
        each.backward(losses_of(net, net(x, [0])[1], x))
    return {"state": [*balancer.state_dict()], "bytes": len(buffer.getvalue())}


def new_models(rank):
    """Gradients with models that replace one another, so that ids of parameters return."""
    balancer, x = create_balancer("sum", NAMES), inputs(4, seed=rank)
    for _ in range(5):
        net = Experts()
        balancer.backward(losses_of(net, net(x, [0])[1], x))
    return gradients_of(net), len(balancer._agreement._known)


def bilevel(rank):
    """Rows of one's own, the weights and the gradients when each process uses another expert."""
    net, balancer, x = Experts(), create_balancer("moml", NAMES), inputs(4, seed=rank)
    rows = []
    for name in NAMES:
        net.zero_grad()
        losses_of(net, net(x, [rank])[1], x)[name].backward()
        rows.append((0.0, gradients_of(net)))
    net.zero_grad()

    def closure(batch):
        return lambda model: losses_of(model, model(batch, [rank])[1], batch)

    report = balancer.meta_backward(net, closure(x), closure(inputs(4, seed=50 + rank)), lr=1e-3)
    return {"rows": rows, "weights": report.weights, "gradients": gradients_of(net)}


def worker(rank, port, size, folder):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    processes._BUCKET = 40  # several messages, although the net is small
    dist.init_process_group("gloo", rank=rank, world_size=size)
    results = {"cases": [run_case(rank, *case) for case in CASES], "errors": {}}
    for refused in REFUSED:
        try:
            refused(rank)
        except (BalancingError, ValueError) as error:
            results["errors"][refused.__name__] = str(error)
    results["copies"], results["new models"], results["bilevel"] = copies(rank), new_models(rank), bilevel(rank)
    results["without losses"], results["masked heads"] = without_losses(rank), masked_heads(rank)
    torch.save(results, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module", params=[2, pytest.param(3, marks=pytest.mark.slow)])
def ranks(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    forks.spawn(worker, (port, request.param, str(folder)), request.param)
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(request.param)]


@pytest.mark.parametrize("case", range(len(CASES)), ids=["-".join([s, m, *map(str, o.values())]) for s, m, o in CASES])
def test_gradients_are_the_mean_of_the_local_ones(ranks, case):
    _, method, options = CASES[case]
    mine = [rank["cases"][case] for rank in ranks]
    wanted = None if "at" in options else reference(mine, method, options)
    for step in range(STEPS):
        if wanted is None:
            weights, heads = mine[0][step]["weights"], mine[0][step]["heads"]
            gradients, own = weighted_mean(mine, step, weights, weights if heads is None else heads), []
        else:
            gradients, own = next(wanted)
        for rank in mine:
            got = rank[step]
            assert got["gradients"].keys() == gradients.keys()
            for key, gradient in gradients.items():
                torch.testing.assert_close(got["gradients"][key], gradient, msg=lambda m, key=key: f"{key}: {m}")
            for one, other in zip(got["own"], own, strict=True):
                torch.testing.assert_close(one, other)


@pytest.mark.parametrize("refused", REFUSED, ids=lambda refused: refused.__name__)
def test_all_processes_refuse(ranks, refused):
    for rank in ranks:
        assert refused.__name__ in rank["errors"]
        assert re.search(REFUSED[refused], rank["errors"][refused.__name__])


def test_process_without_losses_learns_the_same_bits(ranks):
    for rank in ranks[1:]:
        for method, wanted in ranks[0]["without losses"].items():
            for one, other in zip(rank["without losses"][method], wanted, strict=True):
                assert one.dtype == other.dtype, method
                assert torch.equal(one, other), method


def test_masked_loss_and_different_heads_are_measured_together(ranks):
    for rank in ranks[1:]:
        assert rank["masked heads"].keys() == ranks[0]["masked heads"].keys()
        for key, gradient in rank["masked heads"].items():
            torch.testing.assert_close(gradient, ranks[0]["masked heads"][key])


def test_copies_and_state_do_not_carry_the_model(ranks):
    for rank in ranks:
        assert rank["copies"]["state"] == [*create_balancer("sum", NAMES).state_dict()]
        assert rank["copies"]["bytes"] < 20_000


def test_models_may_be_replaced(ranks):
    for rank in ranks:
        gradients, known = rank["new models"]
        assert known <= 2 * len(gradients)
        for key, gradient in ranks[0]["new models"][0].items():
            torch.testing.assert_close(gradients[key], gradient)


def test_bilevel_methods_average_by_parameter(ranks):
    mine = [[rank["bilevel"]] for rank in ranks]
    for rank in ranks:
        weights = rank["bilevel"]["weights"]
        wanted = weighted_mean(mine, 0, weights, weights)
        assert rank["bilevel"]["gradients"].keys() == wanted.keys()
        for key, gradient in wanted.items():
            torch.testing.assert_close(rank["bilevel"]["gradients"][key], gradient)
