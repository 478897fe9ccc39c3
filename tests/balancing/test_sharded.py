"""Sharded parameters get the gradients of one process on the whole batch, at every step."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed._composable.replicate_with_fsdp import replicate
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.utils.checkpoint import checkpoint

from balancing import BalancingError, group_parameters
from tests.balancing.problems import ALL, GRAMIAN, Net, assert_close, expected, inputs, make
from tests.balancing.test_distributed import two_processes

BATCH, STEPS = 8, 3


class Whole(Net):
    """A net whose forward is one call, as the hooks of its shards need."""

    recompute = False

    def features(self, x):
        if self.recompute:
            return checkpoint(self.trunk, x, use_reentrant=False)
        return self.trunk(x)

    def forward(self, x):
        z = self.features(x)
        if not hasattr(self, "merged"):
            return z, self.losses(x, z)
        inputs = self.merged({name: scale * z for name, scale in self.scales.items()})
        return z, {name: self.losses(x, inputs[name])[name] for name in self.objectives}


class Merged(nn.Module):
    """A module whose input is one value for all objectives, behind which a graph does not tell them apart."""

    def __init__(self, dtype):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(6, dtype=dtype))

    def forward(self, values):
        return {name: self.scale * value for name, value in values.items()}


def shard(net, setup):
    """Put the net's parameters in shards, as the name of the set-up says."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    layers = [net.trunk[0], net.trunk[2], *net.head.values()]
    if setup == "merged":
        fully_shard(net.merged, mesh=mesh)
        fully_shard(net, mesh=mesh)
    elif setup == "tensor parallel":
        parallelize_module(net.trunk, mesh, {"0": ColwiseParallel(), "2": RowwiseParallel()})
    elif setup == "both":
        mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "tensor"))
        parallelize_module(net.trunk, mesh["tensor"], {"0": ColwiseParallel(), "2": RowwiseParallel()})
        for layer in [*layers, net]:
            fully_shard(layer, mesh=mesh["data"])
    elif setup == "trunk alone":
        fully_shard(net.trunk, mesh=mesh)
    elif setup in ("tied", "together"):
        fully_shard(net.trunk, mesh=mesh)
        fully_shard([net.head["a"], net.head["b"]], mesh=mesh)
        fully_shard(net, mesh=mesh)
    elif setup == "replicated":
        replicate(net.trunk)
        replicate(net)
    else:
        if setup == "hybrid":
            mesh = init_device_mesh("cpu", (2, dist.get_world_size() // 2), mesh_dim_names=("replicate", "shard"))
        for layer in layers if setup != "root" else []:
            fully_shard(layer, mesh=mesh, reshard_after_forward=setup != "kept")
        fully_shard(net, mesh=mesh, reshard_after_forward=setup != "kept")


def full(tensor):
    return (tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor).clone()


def train(case, part, sharded):
    """Gradients of every step, parameters after the last and state of a case."""
    name, options, setup, how = case
    net = Whole(dtype=torch.float32 if how == "overflow" else torch.float64)
    net.recompute = how == "recomputed"
    if how == "frozen":
        net.trunk[0].requires_grad_(False)
        net.head["b"].bias.requires_grad_(False)
    if setup == "merged":
        net.merged = Merged(net.trunk[0].weight.dtype)
        net.scales = nn.ParameterDict({k: torch.full((6,), 1.0 + i).double() for i, k in enumerate(net.objectives)})
    if setup == "tensor parallel":
        part = lambda x: x  # noqa: E731
    if setup == "tied":
        net.head["b"].weight = net.head["a"].weight
    if sharded:
        shard(net, setup)
    balancer = make(name, **options)
    parameters = list(net.parameters())
    kind = torch.optim.AdamW if how == "adamw" else torch.optim.SGD
    optimizer = kind(net.parameters(), lr=0.003)
    own = torch.optim.SGD(balancer.parameters(), lr=0.01) if list(balancer.parameters()) else None
    scaler = {"scaler": 2.0**16, "overflow": 1e38}.get(how)
    scaler = None if scaler is None else torch.amp.GradScaler("cpu", init_scale=scaler)
    found = []
    for step in range(STEPS):
        optimizer.zero_grad()
        batches = inputs(BATCH, seed=step).chunk(2) if how == "parts" else [inputs(BATCH, seed=step)]
        if how == "added":
            net(part(inputs(BATCH, seed=50)))[1]["a"].backward()
        for i, batch in enumerate(batches):
            z, losses = net(part(batch.to(net.trunk[0].weight.dtype)))
            if how == "two forwards":
                losses["c"] = net(part(inputs(BATCH, seed=60)))[1]["c"]
            given = {"last": i == len(batches) - 1}
            if options.get("at") == "features":
                given["features"] = z
            if options.get("at") == "subset":
                given["subset"] = [net.trunk[2].weight]
            if how == "parameters":
                given["parameters"] = parameters
            if how == "shared":
                given["shared"] = list(net.trunk.parameters())
            if how == "trunk":
                given["parameters"] = list(net.trunk.parameters())
            if how == "groups":
                given["groups"] = group_parameters(net, "layer")
            report = balancer.backward(losses, scaler=scaler, **given)
        gradients = {key: full(p.grad) for key, p in net.named_parameters() if p.grad is not None}
        found.append({"losses": report.losses.detach().clone()})
        if how == "overflow":
            found[-1]["skips"] = torch.tensor(report.skips)
        else:
            found[-1] |= gradients
            for key, group in (getattr(report, "groups", None) or {}).items():
                found[-1] |= {f"gramian of {key}": group.gramian.clone(), f"weights of {key}": group.weights.clone()}
            if report.gramian is not None:
                found[-1]["gramian"] = report.gramian.clone()
        if own:
            own.step(), own.zero_grad()
        if how == "clipped":
            norm = nn.utils.clip_grad_norm_(net.parameters(), 0.5)
            found[-1]["norm"] = full(norm)
        if scaler:
            scaler.step(optimizer), scaler.update()
        else:
            optimizer.step()
        if balancer.observes:
            with torch.no_grad():
                balancer.observe(net(part(inputs(BATCH, seed=step)))[1])
        if how == "resumed":
            state, balancer = copy.deepcopy(balancer.state_dict()), make(name, **options)
            balancer.load_state_dict(state)
    return [*found, {key: full(p.detach()) for key, p in net.named_parameters()}]


METHODS = ("sum", "uncertainty", "pcgrad", "mgda", "nash_mtl", "graddrop", "moco")
SETUPS = ("root", "kept", "hybrid", "replicated", "trunk alone", "together", "tied", "tensor parallel")
HOWS = ("adamw", "parts", "added", "parameters", "shared", "trunk", "frozen", "recomputed", "two forwards", "clipped")
HOWS += ("scaler", "overflow", "resumed")
#: Method, options, how parameters lie, how the loop deviates.
CASES = [(name, {}, "layers", "") for name in ALL]
CASES += [(name, {}, setup, "") for name in METHODS for setup in SETUPS]
CASES += [(name, {}, "layers", how) for name in METHODS for how in HOWS]
CASES += [(name, {"at": "features"}, "layers", "") for name in GRAMIAN]
CASES += [("pcgrad", {"at": "features"}, setup, "") for setup in SETUPS[:-2]]
CASES += [("pcgrad", {"at": "features"}, "layers", how) for how in ("parameters", "trunk", "added", "scaler")]
CASES += [("pcgrad", {"at": "subset"}, setup, "") for setup in ("layers", "root", "trunk alone", "tensor parallel")]
CASES += [("pcgrad", {"at": "subset"}, "layers", how) for how in ("parameters", "shared", "trunk", "added")]
CASES += [(name, {"max_norm": 0.1}, "layers", "") for name in ("mgda", "graddrop", "db_mtl", "excess_mtl")]
CASES += [(name, {}, "merged", how) for name in ("sum", "pcgrad", "mgda", "moco") for how in ("", "parts")]
CASES += [("mgda", {"update_every": 2}, "merged", "")]
CASES += [("mgda", {}, setup, "groups") for setup in ("layers", "root", "trunk alone")]
CASES += [("mgda", {"update_every": 2}, setup, "") for setup in ("layers", "root", "trunk alone")]
CASES += [("mgda", {"update_every": 2, "heads": "weighted"}, "layers", "")]
CASES += [("pcgrad", {"before": "uncertainty"}, "layers", ""), ("sdmgrad", {}, "layers", "parts")]


#: Of every kind some; the others are slow.
QUICK = [
    case
    for case in CASES
    if (case[0] in METHODS and not case[1] and (case[2] == "layers" or case[3]) and case[3] in ("", "parts"))
    or (
        case[1].get("at")
        and case[0] in ("pcgrad", "mgda")
        and case[2] in ("layers", "root")
        and case[3] in ("", "scaler")
    )
    or case[2] in ("merged", "tensor parallel")
    or case[3] in ("overflow", "groups", "resumed")
]
REST = [case for case in CASES if case not in QUICK]


def quick_cases(part):
    return trained(QUICK, part)


def other_cases(part):
    return trained(REST, part)


def trained(cases, part):
    """Results of the cases, in shards if there are several processes."""
    warnings.simplefilter("ignore")
    sharded = dist.is_initialized()
    return [train(case, part, sharded) for case in cases]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return quick_cases(lambda x: x), two_processes(quick_cases, tmp_path_factory.mktemp("ranks"))


@pytest.fixture(scope="module")
def other_results(tmp_path_factory):
    return other_cases(lambda x: x), two_processes(other_cases, tmp_path_factory.mktemp("ranks"))


def label(case):
    name, options, setup, how = case
    return "-".join([name, *map(str, options.values()), setup, *filter(None, [how])])


def compare(results, cases, case):
    whole, ranks = results
    for rank in ranks:
        for step, (mine, wanted) in enumerate(zip(rank[case], whole[case], strict=True)):
            assert mine.keys() == wanted.keys(), step
            for key, value in wanted.items():
                torch.testing.assert_close(mine[key], value, msg=lambda m, at=(step, key): f"{at}: {m}")


@pytest.mark.parametrize("case", range(len(QUICK)), ids=map(label, QUICK))
def test_shards_equal_one_process(results, case):
    compare(results, QUICK, case)


@pytest.mark.slow
@pytest.mark.parametrize("case", range(len(REST)), ids=map(label, REST))
def test_shards_of_more_set_ups_equal_one_process(other_results, case):
    compare(other_results, REST, case)


def message(call):
    try:
        call()
    except BalancingError as error:
        return str(error)
    return "no error"


def refusals(part):
    """Messages of set-ups that cannot be balanced, and what is left in ``.grad``."""
    found = {}
    x = part(inputs(BATCH))

    def sharded(setup="layers"):
        net = Whole()
        shard(net, setup)
        return net

    net = sharded()
    net.set_requires_gradient_sync(False)
    found["no reduction"] = message(lambda: make("pcgrad").backward(net(x)[1]))
    make("sum").backward(net(x)[1], parameters=list(net.parameters()))  # as a plain backward, it waits for the next one
    net.set_requires_gradient_sync(True)
    found["waiting"] = message(lambda: make("pcgrad").backward(net(x)[1]))
    make("sum").backward(net(x)[1])
    found["twice"] = {key: full(p.grad) for key, p in net.named_parameters()}

    net = sharded()
    net.trunk[0].weight.register_post_accumulate_grad_hook(lambda parameter: None)
    found["hook"] = message(lambda: make("pcgrad").backward(net(x)[1]))
    found["left"] = [key for key, p in net.named_parameters() if p.grad is not None]

    z, losses = (net := sharded("tensor parallel"))(inputs(BATCH))
    found["tensor"] = message(lambda: make("pcgrad", at="features").backward(losses, features=z))

    for given in (["b"], list(make("sum").objectives)):
        for at in ("shared", "features"):
            z, losses = (net := sharded())(x)
            losses |= dict.fromkeys(given) if dist.get_rank() == 1 else {}
            options, place = ({}, {}) if at == "shared" else ({"at": at}, {"features": z})
            case = f"absent {len(given)} {at}"
            found[case] = message(lambda: make("mgda", **options).backward(losses, **place))  # noqa: B023

    net = Whole()
    fully_shard(net, mesh=init_device_mesh("cpu", (2, 1), mesh_dim_names=("rest", "data"))["data"])
    found["some"] = message(lambda: make("sum").backward(net(x)[1]))

    net = FullyShardedDataParallel(Whole(), use_orig_params=True, device_id=torch.device("cpu"))
    found["flat"] = message(lambda: make("pcgrad").backward(net(x)[1]))
    found["flat parameters"] = message(lambda: make("sum").backward(net(x)[1], parameters=list(net.parameters())))
    for name in ("sum", "uncertainty"):
        net = FullyShardedDataParallel(Whole(), device_id=torch.device("cpu"))
        report = make(name).backward(net(x)[1])
        found[name] = torch.cat([p.grad.flatten() for p in net.parameters()])
        net.zero_grad()
        (report.weights * torch.stack([*net(x)[1].values()])).sum().backward()
        found[f"plain {name}"] = torch.cat([p.grad.flatten() for p in net.parameters()])
    return found


@pytest.fixture(scope="module")
def refused(tmp_path_factory):
    return two_processes(refusals, tmp_path_factory.mktemp("refused"))


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("no reduction", "set_requires_gradient_sync"),
        ("waiting", "set_requires_gradient_sync"),
        ("hook", "post-accumulate-grad hook"),
        ("tensor", "tensor parallelism"),
        ("some", "must hold all processes"),
        *((f"absent {count} {at}", "absent from some") for count in (1, 3) for at in ("shared", "features")),
        ("flat", "FullyShardedDataParallel"),
        ("flat parameters", "leave parameters= out"),
    ],
)
def test_what_shards_cannot_do_is_one_message(refused, case, words):
    for rank in refused:
        assert words in rank[case]


def test_refused_step_leaves_no_gradients(refused):
    assert all(rank["left"] == [] for rank in refused)


def test_loss_method_waits_with_gradients_as_plain_backward(refused):
    net = Whole()
    for _ in range(2):
        sum(net(inputs(BATCH))[1].values()).backward()
    for rank in refused:
        for key, gradient in net.gradients().items():
            torch.testing.assert_close(rank["twice"][key], gradient)


@pytest.mark.parametrize("name", ["sum", "uncertainty"])
def test_loss_method_with_flat_parameters_equals_plain_backward(refused, name):
    for rank in refused:
        torch.testing.assert_close(rank[name], rank[f"plain {name}"])


def halves(part):
    """A step with bfloat16 parameters, and the rows of a backward for each objective."""
    net = Whole(dtype=torch.float32)
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    for module in (net.trunk[0], net.trunk[2], net):
        fully_shard(module, mp_policy=policy)
    x = part(inputs(BATCH, dtype=torch.float32))
    rows = {}
    for name in net.objectives:
        net.zero_grad()
        net(x)[1][name].backward()
        rows[name] = {key: full(p.grad) for key, p in net.named_parameters() if p.grad is not None}
    net.zero_grad()
    report = (balancer := make("mgda")).backward(net(x)[1])
    return {key: full(p.grad) for key, p in net.named_parameters()}, expected(rows, balancer, report)


def test_rows_of_mixed_precision_are_those_of_plain_backward(tmp_path):
    for gradients, wanted in two_processes(halves, tmp_path):
        assert all(gradient.dtype == torch.float32 for gradient in gradients.values())
        assert_close(gradients, wanted)
