"""What every registered model promises; a new model is tested by existing."""

import io

import pytest
import torch

import balancing
import tasks
import zoo
from balancing.backward import find_leaves


def build(name, **arguments):
    task = tasks.create_task(zoo.model_info(name).default_task)
    asked = {key: task.facts[key] for key in zoo.model_arguments(name) if key in task.facts}
    torch.manual_seed(0)
    return zoo.create_model(name, **asked | arguments)


def batch(name, size=8):
    task = tasks.create_task(zoo.model_info(name).default_task)
    return task, task.splits().val.batch(torch.arange(size))


@pytest.fixture(params=zoo.list_models(), scope="module")
def name(request):
    return request.param


def test_outputs_are_named_after_the_objectives(name):
    model, (_, data) = build(name), batch(name)
    outputs = model(*data.inputs)
    assert set(outputs) == set(model.objectives)
    assert all(len(output) == 8 and output.isfinite().all() for output in outputs.values())


def test_forward_is_heads_of_features(name):
    model, (_, data) = build(name).eval(), batch(name)
    split = model.heads(model.features(*data.inputs))
    whole = model(*data.inputs)
    assert all(torch.equal(split[key], whole[key]) for key in whole)


def test_declared_parameters_are_those_the_graph_shows(name):
    model, (task, data) = build(name), batch(name)
    assert isinstance(model, balancing.MultiObjectiveModel)
    losses, _ = task.losses(model, data, model.phases[0].name)
    masks = find_leaves([losses[key] for key in model.objectives])
    assert set(masks) == set(model.parameters())
    shared = {p for p, mask in masks.items() if mask.bit_count() > 1}
    assert set(model.shared_parameters()) == shared
    for index, key in enumerate(model.objectives):
        assert set(model.objective_parameters(key)) == {p for p, mask in masks.items() if mask == 1 << index}


def test_networks_hold_every_parameter_once(name):
    model = build(name)
    held = [p for network in model.networks().values() for p in network.parameters()]
    assert len(held) == len(set(held))
    assert set(held) == set(model.parameters())


def test_phases_name_known_objectives_and_networks(name):
    model = build(name)
    for phase in model.phases:
        assert set(phase.objectives) <= set(model.objectives)
        assert set(phase.networks or ()) <= set(model.networks())


def test_evaluation_is_deterministic_and_takes_a_single_sample(name):
    model, (_, data) = build(name).eval(), batch(name)
    first, second = model(*data.inputs), model(*data.inputs)
    one = model(*(tensor[:1] for tensor in data.inputs))
    for key in first:
        assert torch.equal(first[key], second[key])
        torch.testing.assert_close(one[key], first[key][:1])


def test_state_survives_a_strict_round_trip(name):
    model, (_, data) = build(name).eval(), batch(name)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    torch.manual_seed(1)
    other = build(name).eval()
    other.load_state_dict(torch.load(file, weights_only=True), strict=True)
    assert all(
        torch.equal(a, b) for a, b in zip(model(*data.inputs).values(), other(*data.inputs).values(), strict=True)
    )


def test_save_pretrained_works_offline(name, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    model, (_, data) = build(name).eval(), batch(name)
    model.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} >= {"config.json", "model.safetensors"}
    loaded = type(model).from_pretrained(tmp_path).eval()
    assert all(
        torch.equal(a, b) for a, b in zip(model(*data.inputs).values(), loaded(*data.inputs).values(), strict=True)
    )


def test_bf16_autocast_is_finite(name):
    model, (_, data) = build(name), batch(name)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = model(*data.inputs)
    assert all(output.isfinite().all() for output in outputs.values())


def test_graph_compiles_without_breaks(name):
    model, (_, data) = build(name).eval(), batch(name)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    for key, output in compiled(*data.inputs).items():
        torch.testing.assert_close(output, model(*data.inputs)[key])


def test_eval_graph_exports(name):
    model, (_, data) = build(name).eval(), batch(name)
    exported = torch.export.export(model, data.inputs).module()
    for key, output in exported(*data.inputs).items():
        torch.testing.assert_close(output, model(*data.inputs)[key])


def test_info_is_complete(name):
    info = zoo.model_info(name)
    assert all(vars(info).values())
    assert info.default_task in tasks.list_tasks()


def test_torch_hub_loads_from_the_repository(name):
    task = tasks.create_task(zoo.model_info(name).default_task)
    asked = {key: task.facts[key] for key in zoo.model_arguments(name) if key in task.facts}
    model = torch.hub.load(".", name, source="local", trust_repo=True, **asked)
    assert isinstance(model, torch.nn.Module)


@pytest.mark.gpu
def test_model_runs_on_a_gpu(name):
    model, (_, data) = build(name).cuda(), batch(name)
    outputs = model(*(tensor.cuda() for tensor in data.inputs))
    assert all(output.is_cuda and output.isfinite().all() for output in outputs.values())
