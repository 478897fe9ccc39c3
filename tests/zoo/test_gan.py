"""The two GANs: sizes, turns, and who is touched in which turn."""

import pytest
import torch

import balancing
import zoo
from balancing.measuring.leaves import find_leaves
from tasks.gaussians import RingOfGaussians


def images(**arguments):
    return zoo.create_model(
        "gan", **{"in_channels": 1, "image_size": 28, "classes": 3, "latent": 5, "width": 4, **arguments}
    )


def points(**arguments):
    return zoo.create_model("gan_points", **{"in_features": 2, "classes": 8, "latent": 3, "width": 8, **arguments})


@pytest.mark.parametrize("size", [8, 28, 32, 33, 50])
@pytest.mark.parametrize("channels", [1, 3])
def test_images_of_any_size_and_number_of_channels(size, channels):
    model = images(image_size=size, in_channels=channels)
    made = model.generate(model.noise(6), torch.tensor([0, 1, 2, 0, 1, 2]))
    assert made.shape == (6, channels, size, size)
    assert made.abs().max() <= 1
    outputs = model(made)
    assert {name: tuple(output.shape) for name, output in outputs.items()} == {
        "real_fake": (6, 1),
        "real_class": (6, 3),
        "adversarial": (6,),
        "fake_class": (6, 3),
    }


@pytest.mark.parametrize("make", [images, points])
def test_a_model_without_classes_has_no_classifier(make):
    model = make(classes=0)
    assert [phase.objectives for phase in model.phases] == [("real_fake",), ("adversarial",)]
    assert model.generate(model.noise(2)).shape[0] == 2
    assert model.shared_parameters() == []


@pytest.mark.parametrize("make", [images, points])
def test_every_discriminator_is_an_objective_of_the_generator(make):
    model = make(discriminators=3, discriminator_steps=2)
    first, second = model.phases
    assert first.steps == 2
    assert second.objectives == ("adversarial_1", "adversarial_2", "adversarial_3", "fake_class")
    outputs = model.eval()(model.generate(model.noise(4), torch.arange(4) % 3))
    assert outputs["real_fake"].shape == (4, 3)
    assert torch.equal(outputs["real_fake"][:, 1], outputs["adversarial_2"])
    assert not torch.equal(outputs["adversarial_1"], outputs["adversarial_2"])


@pytest.mark.parametrize("discriminators", [1, 2])
@pytest.mark.parametrize("classes", [0, 8])
def test_declared_parameters_are_those_the_graph_shows_in_each_turn(discriminators, classes):
    model, task = points(discriminators=discriminators, classes=classes), RingOfGaussians(labels=classes > 0)
    task = task.restrict(model.objectives)
    batch = task.splits().val.batch(torch.arange(8))
    contested = set()
    for phase in model.phases:
        own = {p for name in phase.networks for p in model.networks()[name].parameters()}
        losses, _ = task.losses(model, batch, phase.name)
        assert tuple(losses) == phase.objectives
        masks = {p: mask for p, mask in find_leaves(list(losses.values())).items() if p in own}
        assert set(masks) == own
        contested |= {p for p, mask in masks.items() if mask.bit_count() > 1}
        for index, name in enumerate(phase.objectives):
            assert set(model.objective_parameters(name)) == {p for p, mask in masks.items() if mask == 1 << index}
    assert set(model.shared_parameters()) == contested


@pytest.mark.parametrize("method", ["sum", "pcgrad", "mgda", "uncertainty"])
@pytest.mark.parametrize("discriminators", [1, 2])
def test_a_turn_moves_its_own_networks_only(method, discriminators):
    torch.manual_seed(0)
    model, task = points(discriminators=discriminators), RingOfGaussians(labels=True, samples=64)
    task = task.restrict(model.objectives)
    batch = task.splits().train.batch(torch.arange(64))
    for phase in model.phases:
        own = [p for name in phase.networks for p in model.networks()[name].parameters()]
        others = [p for p in model.parameters() if all(p is not mine for mine in own)]
        optimizer = torch.optim.Adam(own, 1e-3)
        balancer = balancing.create_balancer(method, phase.objectives)
        before = {p: p.detach().clone() for p in model.parameters()}
        for _ in range(3):
            model.zero_grad()
            losses, _ = task.losses(model, batch, phase.name)
            report = balancer.backward(losses, parameters=own)
            assert all(p.grad is None for p in others)
            assert report.losses.isfinite().all()
            optimizer.step()
        assert all(p.isfinite().all() and not torch.equal(p, before[p]) for p in own)
        assert all(torch.equal(p, before[p]) for p in others)


@pytest.mark.parametrize("phase", ["discriminator", "generator"])
def test_gradients_can_be_balanced_at_the_features(phase):
    torch.manual_seed(0)
    model, task = points(), RingOfGaussians(labels=True, samples=64, penalty="none")
    batch = task.splits().train.batch(torch.arange(64))
    turn = next(p for p in model.phases if p.name == phase)
    own = list(model.networks()[phase].parameters())
    losses, features = task.losses(model, batch, phase)
    balancer = balancing.create_balancer("mgda", turn.objectives, at="features")
    report = balancer.backward(losses, parameters=own, features=features)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in own)
    assert [name for name, p in model.named_parameters() if p.grad is not None] == [
        name for name, p in model.named_parameters() if any(p is mine for mine in own)
    ]
    assert report.weights.sum().item() == pytest.approx(1)


def test_spectral_norm_bounds_every_layer_of_a_discriminator():
    torch.manual_seed(0)
    model = images()
    for _ in range(30):  # each call in training mode improves the estimate of the largest stretch
        model(torch.zeros(2, 1, 28, 28))
    weights = [layer.weight for layer in model.discriminators[0].body if hasattr(layer, "weight")]
    assert all(
        torch.linalg.matrix_norm(w.flatten(1), 2) < 1.02 for w in [*weights, model.discriminators[0].real.weight]
    )
    assert "parametrizations" not in " ".join(images(spectral_norm=False).state_dict())


def test_labels_are_needed_where_there_are_classes():
    model = images()
    with pytest.raises(ValueError, match="needs a label"):
        model.generate(model.noise(2))


@pytest.mark.parametrize(
    ("make", "wrong"),
    [
        (images, {"image_size": 7}),
        (images, {"in_channels": 0}),
        (images, {"classes": 1}),
        (images, {"discriminators": 0}),
        (points, {"width": 0}),
        (points, {"discriminator_steps": 0}),
        (points, {"classes": -1}),
    ],
)
def test_impossible_sizes_are_refused(make, wrong):
    with pytest.raises(ValueError, match="gan"):
        make(**wrong)
