"""The contract of every registered model; a new one needs a line in tests/zoo/tiny.py."""

import pytest
import torch

import balancing
import tasks
import zoo
from balancing.measuring.leaves import find_leaves
from tests.zoo.tiny import GRAPHS, TINY, build, tiny


@pytest.fixture(params=zoo.list_models(), scope="module")
def name(request):
    tiny(request.param)
    return request.param


@pytest.fixture
def model(name):
    return build(name)


@pytest.fixture
def inputs(name):
    return tiny(name).inputs(8)


def test_every_model_has_a_tiny_instance():
    for name in zoo.list_models():
        if not getattr(TINY.get(name), "needs", ""):
            tiny(name)


def test_model_keeps_the_protocol(model):
    assert isinstance(model, balancing.MultiObjectiveModel)


def test_forward_is_heads_of_features(model, inputs):
    model.eval()
    split, whole = model.heads(model.features(*inputs)), model(*inputs)
    assert split.keys() == whole.keys()
    assert all(torch.equal(split[key], whole[key]) for key in whole)
    assert all(len(output) == 8 and output.isfinite().all() for output in whole.values())


def test_declared_parameters_are_those_the_graph_shows(name, model, inputs):
    if model.phases[0].networks is not None:
        pytest.skip("its phases move different networks; tests/zoo/test_gan.py looks at each")
    (phase,) = model.phases
    losses = tiny(name).losses(model, inputs, phase)
    leaves = find_leaves([losses[key] for key in phase.objectives])
    masks = {leaf: mask for leaf, mask in leaves.items() if isinstance(leaf, torch.nn.Parameter)}  # not inputs
    assert set(masks) == set(model.parameters())
    shared = {p for p, mask in masks.items() if mask.bit_count() > 1}
    assert set(model.shared_parameters()) == shared
    for index, key in enumerate(phase.objectives):
        assert set(model.objective_parameters(key)) == {p for p, mask in masks.items() if mask == 1 << index}


def test_networks_hold_every_parameter_once(model):
    parameters = [p for network in model.networks().values() for p in network.parameters()]
    assert len(parameters) == len(set(parameters))
    assert set(parameters) == set(model.parameters())


def test_phases_name_known_objectives_and_networks(model):
    for phase in model.phases:
        assert set(phase.objectives) <= set(model.objectives)
        assert set(phase.networks or ()) <= set(model.networks())


def test_evaluation_is_deterministic_and_does_not_mix_samples(model, inputs):
    model.eval()
    first, second = model(*inputs), model(*inputs)
    one = model(*(tensor[:1] for tensor in inputs))
    for key in first:
        assert torch.equal(first[key], second[key])
        torch.testing.assert_close(one[key], first[key][:1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", GRAPHS, indirect=True, scope="module")
def test_graph_compiles_without_breaks(model, inputs):
    model.eval()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    with torch._dynamo.config.patch(allow_rnn=True):  # for molecules_nnconv; by default they break the graph
        outputs = compiled(*inputs)
    for key, output in outputs.items():
        torch.testing.assert_close(output, model(*inputs)[key])


def test_info_is_complete(name):
    info = zoo.model_info(name)
    assert all(vars(info).values())
    assert info.default_task in tasks.list_tasks()


@pytest.mark.gpu
def test_model_runs_on_a_gpu(model, inputs):
    outputs = model.cuda()(*(tensor.cuda() for tensor in inputs))
    assert all(output.is_cuda and output.isfinite().all() for output in outputs.values())
