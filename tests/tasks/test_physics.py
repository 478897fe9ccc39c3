"""Tasks of differential equations: residuals of solutions, references, points, and conditions that hold exactly."""

import math

import numpy as np
import pytest
import torch

from balancing import create_balancer
from tasks import DataError, create_task
from tasks.cavity_flow import cavity_flow
from tasks.task import Batch
from zoo import create_model

NAMES = ("burgers", "helmholtz", "advection", "lid_cavity")
SMALL = {"lid_cavity": {"cells": 16}}


def make(name, **options):
    return create_task(name, **{"points": 64, **SMALL.get(name, {}), **options})


def network(task, **options):
    """The model that fits a task, always with the same weights."""
    torch.manual_seed(0)
    return create_model("pinn", **{**task.info, "width": 8, "depth": 2, **options})


def first_batch(task, data_dir):
    return task.splits(data_dir).train.batch(torch.arange(32))


def exact(name):
    """Solutions in torch: fields at points."""
    pi = math.pi
    if name == "helmholtz":
        return lambda x: {"u": torch.sin(pi * x[:, :1]) * torch.sin(4 * pi * x[:, 1:])}
    return lambda x: {"u": torch.sin(x[:, :1] - 10 * x[:, 1:])}


@pytest.mark.parametrize("name", ["helmholtz", "advection"])
def test_residuals_of_the_solution_are_zero_and_it_is_the_reference(name, tmp_path):
    task = make(name)
    batch = first_batch(task, tmp_path)
    double = Batch(tuple(points.double() for points in batch.inputs), {})
    losses, features = task.losses(exact(name), double, "train")
    assert features is None
    assert tuple(losses) == tuple(o.name for o in task.objectives)
    assert max(loss.item() for loss in losses.values()) < 1e-9
    test = task.splits().test
    torch.testing.assert_close(exact(name)(test.inputs[0].double())["u"].float(), test.targets["u"], atol=1e-5, rtol=0)
    assert task.evaluate(exact(name), task.splits(), "test", [test.batch(torch.arange(len(test)))]) == pytest.approx(
        {"u/relative_l2": 0}, abs=1e-5
    )


def test_the_formula_of_cole_and_hopf_solves_the_equation():
    task, h = make("burgers"), 1e-3
    x, t = (each.ravel() for each in np.meshgrid([-0.7, -0.3, 0.15, 0.4, 0.9], [0.1, 0.35, 0.6, 0.95]))

    def u(dx=0.0, dt=0.0):
        return task.reference(np.stack([x + dx, t + dt], 1))["u"]

    slope, curvature = (u(h) - u(-h)) / (2 * h), (u(h) - 2 * u() + u(-h)) / h**2
    residual = (u(0, h) - u(0, -h)) / (2 * h) + u() * slope - task.viscosity * curvature
    assert np.abs(residual).max() < 1e-4
    start = np.linspace(-1, 1, 9)
    values = task.reference(np.stack([start, 0 * start], 1))["u"]
    np.testing.assert_allclose(values, -np.sin(np.pi * start), atol=1e-12)
    times = np.linspace(0, 1, 5)
    for end in (-1.0, 0.0, 1.0):  # by symmetry at 0, too
        assert np.abs(task.reference(np.stack([end + 0 * times, times], 1))["u"]).max() < 1e-12


@pytest.mark.parametrize(("viscosity", "tolerance"), [(0.002, 1e-10), (10.0, 2e-7)])
def test_the_reference_of_burgers_is_exact_for_every_viscosity(viscosity, tolerance, monkeypatch):
    points = np.random.RandomState(0).rand(50, 2) * [2, 1] - [1, 0]
    task = make("burgers", viscosity=viscosity)
    values = task.reference(points)["u"]
    monkeypatch.setattr("tasks.burgers._NODES", 2001)
    np.testing.assert_allclose(values, task.reference(points)["u"], rtol=0, atol=tolerance)


@pytest.fixture(scope="module")
def flow():
    """At Reynolds number 100 at the nodes of 24 cells, as the task computes it."""
    coarse, fine = cavity_flow(100.0, 24), cavity_flow(100.0, 48)
    return (4 * fine[:, ::2, ::2] - coarse) / 3


def test_the_flow_in_a_cavity_is_that_of_the_literature(flow):
    """U. Ghia et al. 1982, table I; extreme velocities: O. Botella, R. Peyret, Computers & Fluids 27, 1998."""
    u, v, p = flow
    nodes = np.linspace(0, 1, 25)
    heights = [0.1719, 0.2813, 0.4531, 0.5, 0.6172, 0.7344]
    published = [-0.10150, -0.15662, -0.21090, -0.20581, -0.13641, 0.00332]
    np.testing.assert_allclose(np.interp(heights, nodes, u[12]), published, atol=4e-3)
    assert u[12].min() == pytest.approx(-0.2140424, abs=5e-4)
    assert v[:, 12].max() == pytest.approx(0.1795728, abs=5e-4)
    assert v[:, 12].min() == pytest.approx(-0.2538030, abs=3e-3)  # between two nodes
    assert p[-2, -2] > 0.2 > -0.2 > p[1, -2]  # the lid pushes to the right


def test_a_slow_flow_is_symmetric():
    u, v, _ = cavity_flow(1.0, 24)
    np.testing.assert_allclose(u, u[::-1], atol=1e-2)
    np.testing.assert_allclose(v, -v[::-1], atol=1e-2)


def test_momentum_and_continuity_hold_in_the_computed_flow(flow):
    """By differences, far from the lid: velocity and pressure are of one flow."""
    h = 1 / 24

    def of(w):
        inside = w[1:-1, 1:-1]
        x, y = (w[2:, 1:-1] - w[:-2, 1:-1]) / (2 * h), (w[1:-1, 2:] - w[1:-1, :-2]) / (2 * h)
        return inside, x, y, (w[2:, 1:-1] + w[:-2, 1:-1] + w[1:-1, 2:] + w[1:-1, :-2] - 4 * inside) / h**2

    (u, u_x, u_y, u_2), (v, v_x, v_y, v_2), (_, p_x, p_y, _) = map(of, flow)
    middle = np.s_[3:-3, 1:-10]
    residuals = u * u_x + v * u_y + p_x - u_2 / 100, u * v_x + v * v_y + p_y - v_2 / 100, u_x + v_y
    for residual, term in zip(residuals, (p_x, p_y, u_x), strict=True):
        assert np.linalg.norm(residual[middle]) < 0.05 * np.linalg.norm(term[middle])


def test_a_computed_flow_is_kept_and_a_damaged_file_is_named(tmp_path, monkeypatch):
    first = make("lid_cavity").splits(tmp_path).test
    (file,) = tmp_path.iterdir()
    assert file.name == "lid_cavity-v1-re100-16.npy"
    monkeypatch.setattr("tasks.lid_cavity.cavity_flow", None)
    again = make("lid_cavity").splits(tmp_path).test
    torch.testing.assert_close(again.targets, first.targets, rtol=0, atol=0, equal_nan=True)
    near = first.targets["p"].isnan().flatten()
    assert 0 < near.sum() < 20
    assert (first.inputs[0][near, 1] > 0.9).all()
    for content in (b"", b"no array", file.read_bytes()[:-8]):
        file.write_bytes(content)
        with pytest.raises(DataError, match="delete it, and it is computed again"):
            make("lid_cavity").splits(tmp_path)
    np.save(file, np.zeros((3, 9, 9)))
    with pytest.raises(DataError, match="holds no flow on this grid"):
        make("lid_cavity").splits(tmp_path)


@pytest.mark.parametrize("name", NAMES)
def test_points_follow_from_seed_and_epoch_and_lie_where_they_should(name, tmp_path):
    task = make(name)
    train = task.splits(tmp_path).train
    assert len(train) == 64

    def drawn(seed, epoch):
        train.set_epoch(seed, epoch)
        return [tensor.clone() for tensor in train.inputs]

    first, other, again = drawn(3, 5), drawn(3, 6), drawn(3, 5)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])
    assert not torch.equal(first[0], drawn(4, 5)[0])
    low, high = torch.tensor(task.lower), torch.tensor(task.upper)
    for points in first:
        assert (points >= low).all()
        assert (points <= high).all()
    kinds = dict(zip(("inside", "start", "ends"), first, strict=False))
    if name in ("burgers", "advection"):
        assert (kinds["start"][:, 1] == 0).all()
        assert set(kinds["ends"][:, 0].tolist()) == ({-1.0, 1.0} if name == "burgers" else {0.0})
    else:
        sides = first[1]
        on = [(sides[:, k] == bound[k]).sum().item() for k in (0, 1) for bound in (low, high)]
        assert sum(on) == 64
        assert min(on) > 5
    kept = task.splits().truncate(4).train
    kept_points = kept.inputs[0].clone()
    train.set_epoch(9, 9)
    assert torch.equal(kept.inputs[0], kept_points)  # those of debug=overfit stay
    assert not hasattr(kept, "set_epoch")


@pytest.mark.parametrize("name", NAMES)
def test_hard_conditions_hold_exactly_and_have_no_losses(name, tmp_path):
    soft, hard = make(name), make(name, conditions="hard")
    names = [o.name for o in soft.objectives]
    kept = [o.name for o in hard.objectives]
    assert kept == names[: len(kept)]
    assert not {"initial", "boundary", "walls"} & {*kept}
    model = network(hard).double()
    batch = first_batch(soft, tmp_path)
    points = Batch(tuple(points.double() for points in batch.inputs), {})
    if name == "lid_cavity":  # whose lid comes to rest in its corners
        walls = points.inputs[1]
        calm = ~((walls[:, 1] == 1) & ((walls[:, 0] < 0.2) | (walls[:, 0] > 0.8)))
        points = Batch((points.inputs[0][calm], walls[calm]), {})
    losses, _ = soft.losses(model, points, "train")
    assert all(loss.item() < 1e-8 for key, loss in losses.items() if key not in kept)
    assert losses["equation" if "equation" in kept else "continuity"].item() > 1e-8


@pytest.mark.parametrize("conditions", ["soft", "hard"])
def test_a_stream_function_gives_a_flow_without_sources_and_the_same_momenta(conditions, tmp_path):
    task = make("lid_cavity", formulation="stream", conditions=conditions)
    names = ["momentum_x", "momentum_y"] + ["walls"] * (conditions == "soft")
    assert [o.name for o in task.objectives] == names
    assert task.fields == ("u", "v", "p")
    model = network(task).double()
    batch = first_batch(task, tmp_path)
    batch = Batch(tuple(points.double() for points in batch.inputs), {})

    def flow(points):
        """The fields that the other formulation reads."""
        found = model(points)
        (slopes,) = torch.autograd.grad(found["psi"].sum(), points, create_graph=True)
        return {"u": slopes[:, 1:], "v": -slopes[:, :1], "p": found["p"]}

    walls = batch.inputs[1].requires_grad_()
    expected, _ = make("lid_cavity").losses(flow, Batch((batch.inputs[0], walls), {}), "train")
    assert expected.pop("continuity").item() < 1e-20
    losses, _ = task.losses(model, batch, "train")
    assert [*losses] == names
    for name, loss in losses.items():
        torch.testing.assert_close(loss, expected[name], rtol=1e-9, atol=1e-12)
    with torch.no_grad():
        found = task.outputs(model, batch)
    points = batch.inputs[0].clone().requires_grad_()
    torch.testing.assert_close(found, {name: values.detach() for name, values in flow(points).items()})
    assert not any(values.requires_grad for values in found.values())


def test_a_hard_stream_function_rests_at_the_walls_and_moves_with_the_lid():
    model = network(make("lid_cavity", formulation="stream", conditions="hard")).double()
    line = torch.linspace(0, 1, 21, dtype=torch.float64)
    for wall in (
        torch.stack([line, 0 * line], 1),
        torch.stack([0 * line, line], 1),
        torch.stack([1 + 0 * line, line], 1),
        torch.stack([line, 1 + 0 * line], 1),
    ):
        points = wall.requires_grad_()
        (slopes,) = torch.autograd.grad(model(points)["psi"].sum(), points)
        assert slopes[:, 0].abs().max() < 1e-12
        x = wall.detach()[:, 0]
        lid = x**2 / (x**2 + 4e-4) * (1 - x) ** 2 / ((1 - x) ** 2 + 4e-4) * (wall[:, 1] == 1)
        torch.testing.assert_close(slopes[:, 1], lid, rtol=0, atol=1e-12)


def test_periodic_inputs_are_periodic_with_all_derivatives():
    task = make("advection", conditions="hard")
    model = network(task)
    left = torch.stack([torch.zeros(5), torch.rand(5)], 1).requires_grad_()
    right = (left + torch.tensor([2 * math.pi, 0.0])).detach().requires_grad_()
    slopes = [torch.autograd.grad(model(points)["u"].sum(), points)[0] for points in (left, right)]
    torch.testing.assert_close(slopes[0], slopes[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_errors_of_the_fields_ignore_what_is_not_determined(name, tmp_path):
    task = make(name)
    test = task.splits(tmp_path).test
    batches = [test.batch(rows) for rows in torch.arange(len(test)).split(100)]
    place = iter(batches)
    shift = {"p": 7.0}

    def reference(points):
        return {key: values + shift.get(key, 0) for key, values in next(place).targets.items()}

    found = task.evaluate(reference, task.splits(), "test", batches)
    assert found == pytest.approx({f"{field}/relative_l2": 0 for field in task.fields}, abs=1e-5)
    assert {*found} < {*task.results()}
    zero = task.evaluate(lambda points: dict.fromkeys(task.fields, 0 * points[:, :1]), task.splits(), "test", batches)
    assert zero == pytest.approx({f"{field}/relative_l2": 1 for field in task.fields})


@pytest.mark.parametrize("name", NAMES)
def test_every_measuring_mode_finds_the_gradients_of_losses_with_derivatives(name, tmp_path):
    """The Gramian of autograd, at shared parameters: in full, lean, in micro-batches, and layer by layer."""
    task = make(name)
    model, batch = network(task).double(), first_batch(task, tmp_path)
    batch = Batch(tuple(points.double() for points in batch.inputs), {})
    names, parameters = tuple(o.name for o in task.objectives), list(model.parameters())
    losses = task.losses(model, batch, "train")[0]
    rows = [torch.autograd.grad(losses[key], parameters, retain_graph=True, allow_unused=True) for key in names]
    rows = [[torch.zeros_like(p) if g is None else g for p, g in zip(parameters, row, strict=True)] for row in rows]
    flat = torch.stack([torch.cat([g.flatten() for g in row]) for row in rows])
    gramian = flat @ flat.T

    def measured(calls, **options):
        balancer = create_balancer("mgda", names, **options)
        model.zero_grad()
        for last, values in calls:
            report = balancer.backward(values, shared=model.shared_parameters(), last=last)
        torch.testing.assert_close(report.gramian, gramian, rtol=1e-9, atol=1e-12)
        combined = torch.cat([p.grad.flatten() for p in parameters])
        torch.testing.assert_close(combined, report.weights @ flat, rtol=1e-8, atol=1e-12)

    def fresh(rows=slice(None), share=1.0):
        part = Batch(tuple(points[rows] for points in batch.inputs), {})
        return {key: share * loss for key, loss in task.losses(model, part, "train")[0].items()}

    measured([(True, fresh())])
    measured([(True, fresh())], memory="lean")
    measured([(False, fresh(slice(16), 0.5)), (True, fresh(slice(16, 32), 0.5))])
    groups = {"trunk": list(model.trunk.parameters()), "head": list(model.head.parameters())}
    report = create_balancer("mgda", names).backward(fresh(), shared=model.shared_parameters(), groups=groups)
    torch.testing.assert_close(sum(group.gramian for group in report.groups.values()), gramian, rtol=1e-9, atol=1e-12)
    with torch.no_grad():  # as methods that look at the losses after the step do
        after = task.losses(model, batch, "train")[0]
    torch.testing.assert_close(
        {key: after[key].detach() for key in names}, {key: losses[key].detach() for key in names}
    )


def test_rows_of_a_table_get_columns_and_points_outside_are_refused(tmp_path):
    task, file = make("burgers"), tmp_path / "points.csv"
    file.write_text("T;X;u;note\n0,5;-0,25;1;a\n1;1;2;b\n")
    data = task.preprocess(file)
    assert data.inputs[0].tolist() == [[-0.25, 0.5], [1.0, 1.0]]
    outputs = {"u": torch.tensor([[0.5], [-0.5]])}
    prediction = task.annotate(data, task.decode(outputs))
    assert prediction.cells == {"predicted_u": [0.5, -0.5]}
    assert prediction.own["note"] == ["a", "b"]
    assert task.annotate(task.splits().test, task.decode(outputs)).cells == {"u": [0.5, -0.5]}
    for text, message in (
        ("x,t\n0,0\n0,1.5\n", r"line 3: t is 1.5; it must be in \[0, 1\]"),
        ("x,t\n,0.5\n", "line 2: x is missing"),
        ("x\n0\n", "no column 't'"),
        ("x,t\n", "no rows"),
    ):
        file.write_text(text)
        with pytest.raises(DataError, match=message):
            task.preprocess(file)


@pytest.mark.parametrize("name", ["burgers", "lid_cavity"])
def test_the_picture_shows_fields_reference_and_difference(name, tmp_path):
    task = make(name)
    splits = task.splits(tmp_path)
    with torch.no_grad():
        (figure,) = task.pictures(network(task), splits.test).values()
        assert task.pictures(network(task), splits.train) == {}
    titles = [axes.get_title(loc="left") for axes in figure.axes if axes.get_title(loc="left")]
    assert titles == [text for field in task.fields for text in (field, f"{field}, reference", "difference")]
    truth = figure.axes[1].images[0].get_array()
    assert truth.shape == task.grid[::-1]


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("burgers", {"viscosity": 0.001}),
        ("burgers", {"viscosity": 11.0}),
        ("burgers", {"points": 0}),
        ("burgers", {"conditions": "firm"}),
        ("helmholtz", {"a": 0}),
        ("helmholtz", {"k": -1.0}),
        ("helmholtz", {"k": math.inf}),
        ("advection", {"speed": math.inf}),
        ("lid_cavity", {"reynolds": 5000.0}),
        ("lid_cavity", {"cells": 17}),
        ("lid_cavity", {"formulation": "vorticity"}),
    ],
)
def test_impossible_options_are_refused(name, wrong):
    with pytest.raises(ValueError, match=f"{name}: .*{next(iter(wrong))}"):
        create_task(name, **wrong)
