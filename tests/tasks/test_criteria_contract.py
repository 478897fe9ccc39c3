"""What every criterion of the registry keeps, and what each computes."""

import json
import math

import pytest
import torch
import torch.nn.functional as F

from tasks.criteria import (
    LABEL_KINDS,
    CriterionChoice,
    choose_criteria,
    choose_criterion,
    create_criterion,
    criterion_state,
    decode_output,
    default_criterion,
    list_criteria,
)
from tasks.criteria.base import least_loss
from tasks.metrics import identity

NAMES = ("low", "middle", "high")
OPTIONS = {
    "cross_entropy": {"weights": {"low": 3.0}, "label_smoothing": 0.1},
    "focal": {"weights": "balanced"},
    "dice_cross_entropy": {"dice": 0.5, "weights": [1.0, 2.0, 0.5]},
    "binary_cross_entropy": {"pos_weight": 2.5},
    "multi_label": {"pos_weight": "balanced"},
    "huber": {"delta": 0.5},
    "quantile": {"quantiles": [0.2, 0.5, 0.7]},
}
COLUMNS = sorted({name for labels in LABEL_KINDS for name in list_criteria(labels)})  # the others are for maps
CASES = [(name, options) for name in COLUMNS for options in ({}, OPTIONS.get(name)) if options is not None]
case = pytest.mark.parametrize(
    ("name", "options"), CASES, ids=lambda value: value if isinstance(value, str) else len(value)
)


def labels_for(name, shape=(40,)):
    """LabelKind, of which the first sample has none, and the criterion that is fitted to them."""
    random = torch.Generator().manual_seed(1)
    labels = next(kind for kind in LABEL_KINDS if name in list_criteria(kind))
    classes = NAMES[:2] if name == "binary_cross_entropy" else NAMES
    if labels in ("classes", "ordered"):
        target = torch.randint(len(classes), shape, generator=random).clamp(max=len(classes) - 1)
        target[: len(target) // 4] = 0
        target[0] = -1
    elif labels == "tags":
        target = (
            torch.rand(shape[0], 3, *shape[1:], generator=random)
            < torch.tensor([0.2, 0.5, 0.7]).view(-1, *[1] * (len(shape) - 1))
        ).float()
        target[0] = math.nan
    else:
        target = torch.rand(shape[0], 1, *shape[1:], generator=random) ** 2 * 5
        target = target.round() if name == "poisson" else target - 1
        target[0] = math.nan
    return labels, classes, target


def made(name, options, shape=(40,)):
    labels, classes, target = labels_for(name, shape)
    choice = choose_criterion("task.criteria.x", {"name": name, **options})
    criterion = choice.fit(choice.build(labels, classes=classes, unit="kg", separator=";"), target)
    output = torch.randn(shape[0], criterion.outputs, *shape[1:], generator=torch.Generator().manual_seed(2))
    return criterion, output, target


@case
def test_missing_labels_change_neither_loss_nor_gradient(name, options):
    criterion, output, target = made(name, options)
    whole, part = output.clone().requires_grad_(), output[1:].clone().requires_grad_()
    loss, without = criterion(whole, target), criterion(part, target[1:])
    torch.testing.assert_close(loss, without)
    (gradient,), (expected,) = torch.autograd.grad(loss, whole), torch.autograd.grad(without, part)
    assert gradient[0].abs().max() == 0
    torch.testing.assert_close(gradient[1:], expected)


@case
def test_without_labels_the_loss_is_zero_and_connected(name, options):
    criterion, output, target = made(name, options)
    leaf = output[:1].requires_grad_()
    loss = criterion(leaf, target[:1])
    loss.backward()
    assert (loss.item(), leaf.grad.abs().max().item(), int(criterion.num_labels(target[:1]))) == (0, 0, 0)


@case
def test_parts_of_a_batch_add_up_by_their_labels(name, options):
    criterion, output, target = made(name, options)
    parts = [(output[i : i + 13], target[i : i + 13]) for i in range(0, 40, 13)]
    weights = torch.stack([criterion.num_labels(t).double() for _, t in parts])
    losses = torch.stack([criterion(o, t).double() for o, t in parts])
    assert (weights * losses).sum() / weights.sum() == pytest.approx(criterion(output, target).item(), rel=1e-5)


@case
def test_untrained_and_constant_losses_are_those_of_constant_outputs(name, options):
    criterion, _, target = made(name, options)
    zeros = torch.zeros(40, criterion.outputs)
    assert criterion.untrained_loss(target) == pytest.approx(criterion(zeros, target).item(), rel=1e-5)
    if name in ("l1", "quantile"):  # with kinks: no constant on a grid is better
        grid = [torch.full((40, 1), x.item()).expand(40, criterion.outputs) for x in torch.linspace(-1, 4, 101)]
        assert (
            name == "quantile"
            or criterion.constant_loss(target) <= min(criterion(x, target).item() for x in grid) + 1e-6
        )
    found = least_loss(
        lambda c: criterion(c.expand(40, -1), target.double() if target.is_floating_point() else target), zeros[0]
    )
    assert criterion.constant_loss(target) == pytest.approx(found, rel=0.02 if name in ("l1", "quantile") else 1e-5)
    assert 0 < criterion.constant_loss(target) <= criterion.untrained_loss(target)


@case
def test_metrics_and_cells_have_a_row_for_each_sample(name, options):
    criterion, output, target = made(name, options)
    predicted, actual = criterion.labelled_pairs(output, target)
    assert len(predicted) == len(actual) == 39
    for spec in criterion.metrics(identity).values():
        metric = spec.make()
        metric.update(spec.transform(predicted), spec.transform(actual))
        assert metric.compute().isfinite()
        assert metric.higher_is_better in (spec.direction, None)
    cells = decode_output(criterion, "x", output, identity)
    assert next(iter(cells)) == "x"
    assert {len(column) for column in cells.values()} == {40}
    if "x_probability" in cells:
        assert all(1 / len(criterion.classes) - 1e-6 <= p <= 1 for p in cells["x_probability"]) or name == "ordinal"


@case
def test_state_survives_json(name, options):
    criterion, output, target = made(name, options)
    again = create_criterion(**json.loads(json.dumps(criterion_state(criterion))))
    assert torch.equal(again(output, target), criterion(output, target))
    assert again.untrained_loss(target) == criterion.untrained_loss(target)


@case
def test_half_precision_is_near(name, options):
    criterion, output, target = made(name, options)
    output = output.bfloat16()
    torch.testing.assert_close(
        criterion(output, target).float(), criterion(output.float(), target), rtol=0.01, atol=0.01
    )


@pytest.mark.parametrize(("name", "options"), [c for c in CASES if c[0] != "dice_cross_entropy"])
def test_pixels_of_maps_are_samples(name, options):
    criterion, output, target = made(name, options, (5, 3, 4))
    flat = output.movedim(1, -1).flatten(0, 2)
    truth = target.movedim(1, -1).flatten(0, 2) if target.dim() == 4 else target.flatten()
    torch.testing.assert_close(criterion(output, target), criterion(flat, truth))
    assert criterion.constant_loss(target) == pytest.approx(criterion.constant_loss(truth))
    assert len(criterion.labelled_pairs(output, target)[1]) == 48


# ---- formulas --------------------------------------------------------------------------------------------------------


def test_weights_and_smoothing_are_those_of_torch():
    criterion, output, target = made("cross_entropy", {"weights": [3.0, 1.0, 0.5], "label_smoothing": 0.2})
    theirs = F.cross_entropy(output, target, torch.tensor([3.0, 1.0, 0.5]), ignore_index=-1, label_smoothing=0.2)
    torch.testing.assert_close(criterion(output, target), theirs)
    complete = create_criterion(
        "cross_entropy", classes=NAMES, weights=[3.0, 1.0, 0.5], label_smoothing=0.2, complete=True
    )
    torch.testing.assert_close(complete(output[1:], target[1:]), theirs)


def test_balanced_weights_give_every_class_the_same_say():
    criterion, _, target = made("cross_entropy", {"weights": "balanced"})
    counts = torch.bincount(target[1:])
    assert [w * n for w, n in zip(criterion.weights, counts.tolist(), strict=True)] == pytest.approx([39 / 3] * 3)
    assert criterion.constant_loss(target) == pytest.approx(math.log(3))


def test_focal_without_gamma_is_cross_entropy_and_sure_labels_count_less():
    criterion, output, target = made("focal", {"gamma": 0})
    torch.testing.assert_close(criterion(output, target), F.cross_entropy(output, target, ignore_index=-1))
    p = output[1:].softmax(1).gather(1, target[1:, None])[:, 0]
    torch.testing.assert_close(made("focal", {})[0](output, target), (-((1 - p) ** 2) * p.log()).mean())
    sure = torch.tensor([[60.0, 0, 0]], requires_grad=True)
    create_criterion("focal", classes=NAMES, gamma=0.5)(sure, torch.tensor([0])).backward()
    assert sure.grad.isfinite().all()


def test_dice_is_that_of_each_map_over_the_classes_that_it_has():
    criterion, output, target = made("dice_cross_entropy", {"dice": 2.0}, (3, 4, 4))
    output, target = output[1:], target[1:]
    shares, coefficients = output.softmax(1), []
    for p, y in zip(shares, target, strict=True):
        found = [2 * p[c][y == c].sum() / (p[c].sum() + (y == c).sum()) for c in y.unique().tolist()]
        coefficients.append(torch.stack(found).mean())
    expected = F.cross_entropy(output, target) + 2 * (1 - torch.stack(coefficients).mean())
    torch.testing.assert_close(criterion(output, target), expected)


def test_one_logit_is_as_good_as_two():
    criterion, output, target = made("binary_cross_entropy", {})
    two = torch.cat([torch.zeros(40, 1), output], 1)
    torch.testing.assert_close(criterion(output, target), F.cross_entropy(two, target, ignore_index=-1))
    assert criterion.decode("x", torch.tensor([[-2.0], [3.0]]), identity)["x"] == ["low", "middle"]


def test_ordered_classes_have_a_likelihood_that_sums_to_one():
    criterion, output, target = made("ordinal", {})
    probabilities = criterion.probabilities(output)
    torch.testing.assert_close(probabilities.sum(1), torch.ones(40))
    assert probabilities.min() >= 0
    own = probabilities[1:].gather(1, target[1:, None]).log().mean()
    torch.testing.assert_close(criterion(output, target), -own)
    sure = torch.tensor([[-9.0, 9.0], [9.0, -9.0], [9.0, 9.0]])  # the second is not asked if the first says no
    assert criterion.decode("x", sure, identity)["x"] == list(NAMES)


def test_quantiles_are_those_of_the_labels_and_do_not_cross_in_cells():
    criterion, _, target = made("quantile", {})
    target = torch.arange(1001.0)[:, None]
    best = torch.tensor([[100.0, 500.0, 900.0]]).expand(1001, 3)
    assert criterion.constant_loss(target) == pytest.approx(criterion(best, target).item())
    cells = criterion.decode("x", torch.tensor([[3.0, 2.0, 1.0]]), lambda values: values + 10)
    assert cells == {"x": [12.0], "x_q10": [11.0], "x_q50": [12.0], "x_q90": [13.0]}


@pytest.mark.parametrize("scale", [1, 1e5])
def test_poisson_has_the_gradient_of_the_likelihood_and_no_negative_values(scale):
    criterion = create_criterion("poisson", mean=2.0 * scale)
    target, output = (
        torch.tensor([[0.0], [1.0], [4.0]]).double() * scale,
        torch.tensor([[0.1], [-0.7], [0.2]]).double().requires_grad_(),
    )
    loss = criterion(output, target)
    (found,) = torch.autograd.grad(loss, output)
    theirs = F.poisson_nll_loss(output + math.log(2.0 * scale), target, full=False)
    torch.testing.assert_close(found, torch.autograd.grad(theirs, output)[0])
    exact = criterion((target / (2 * scale)).log().float(), target.float())
    assert abs(exact.item()) <= 1e-12 * scale
    assert criterion.decode("x", torch.zeros(1, 1), identity) == {"x": [2.0 * scale]}


# ---- choice ----------------------------------------------------------------------------------------------------------


def test_every_kind_of_labels_has_a_default_among_its_criteria():
    for labels in LABEL_KINDS:
        assert default_criterion("x", labels).build(labels, classes=NAMES).name in list_criteria(labels)


@pytest.mark.parametrize(
    ("criteria", "message"),
    [
        ({"agee": "huber"}, "task.criteria names 'agee', which is no objective; did you mean age"),
        ({"age": "hubr"}, "task.criteria.age: unknown criterion 'hubr'; did you mean huber"),
        ({"age": 3}, "task.criteria.age must be the name of a criterion, or a mapping with a name, got 3"),
        ({"age": {"delta": 1}}, "or a mapping with a name"),
        ({"age": {"name": "huber", "dleta": 1}}, "huber has no option 'dleta'; did you mean delta"),
        ({"age": {"name": "l1", "delta": 1}}, "l1 has no option 'delta'; it has none"),
        ({"age": {"name": "huber", "unit": "kg"}}, "huber has no option 'unit'"),
        (
            {"age": {"name": "huber", "delta": 0}},
            "task.criteria.age: huber: delta must be a number greater than 0, got 0",
        ),
        ({"age": {"name": "huber", "delta": "big"}}, "got 'big'"),
        ({"age": {"name": "cross_entropy", "label_smoothing": 1}}, "label_smoothing must be below 1"),
        ({"age": {"name": "quantile", "quantiles": [0.9, 0.1]}}, "rising levels"),
        ({"age": {"name": "quantile", "quantiles": [0, 0.5]}}, "between 0 and 1"),
        ({"age": {"name": "focal", "gamma": -1}}, "gamma must be a number of at least 0"),
        ({"age": {"name": "multi_label", "pos_weight": "even"}}, "a number, a list or balanced, got 'even'"),
    ],
)
def test_a_choice_that_cannot_be_is_refused_before_the_data_are_read(criteria, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(").replace("[", r"\[")):
        choose_criteria("task.criteria", criteria, ["age", "churn"])


@pytest.mark.parametrize(
    ("labels", "chosen", "message"),
    [
        ("classes", "huber", "huber is for number or count, and these labels are classes; choose from binary_cross"),
        ("number", "ordinal", "ordinal is for ordered, and these labels are number; choose from huber, l1, "),
        ("classes", "binary_cross_entropy", "needs two classes, got 3; use cross_entropy"),
        (
            "classes",
            {"name": "focal", "weights": {"lo": 2}},
            "weights names 'lo', which is no class; these are low, middle",
        ),
        ("classes", {"name": "focal", "weights": [1, 2]}, "a positive weight for each of 3 classes"),
        ("tags", {"name": "multi_label", "pos_weight": [1, 2]}, "2 numbers for 3 tags"),
    ],
)
def test_a_choice_that_does_not_fit_the_labels_is_refused(labels, chosen, message):
    choice = choose_criterion("task.criteria.x", chosen)
    assert isinstance(choice, CriterionChoice)
    with pytest.raises(ValueError, match=f"^task.criteria.x: .*{message}".replace("[", r"\[")):
        choice.build(labels, classes=NAMES)


@pytest.mark.parametrize(("values", "message"), [([-1.0, 2.0], "0 or more, got -1; huber"), ([0.0, 0.0], "not all 0")])
def test_poisson_needs_counts(values, message):
    choice = choose_criterion("task.criteria.visits", "poisson")
    with pytest.raises(ValueError, match=f"task.criteria.visits: poisson needs counts .*{message}"):
        choice.fit(choice.build("number"), torch.tensor(values)[:, None])
