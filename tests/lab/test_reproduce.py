"""lab/reproduce.py: verdicts, exit codes, resuming and files; and a few steps of every toy against independent code."""

import csv
import json
import math
import pickle
from functools import partial

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

import mozoo
from balancing import create_balancer
from lab import reproduce, results
from lab.reproductions import (
    famo_toy,
    fonseca,
    gradnorm_toy,
    multi_fashion,
    published_tables,
    ring_of_gaussians,
    trajectories,
    uncertainty_toy,
)
from lab.reproductions.experiment import TIERS, Experiment
from lab.reproductions.recipes import RECIPES, read_recipe
from tasks import DataError, Splits
from tasks.fashion import PixelData
from tasks.multi_fashion import MultiFashion
from tasks.scores import mean_rank
from tests import forks

KNOWN = reproduce.experiments()
TRAININGS = [each.name for each in KNOWN.values() if each.recipe and not each.family]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Everything that is written goes to a folder of the test; a few made-up experiments are all there is."""
    calls = tmp_path / "calls"

    def toy(seed, folder):
        calls.write_text(calls.read_text() + f"{seed} " if calls.exists() else f"{seed} ")
        if seed == 13:
            raise ValueError("an unlucky seed")
        return {"error": 1.0 + seed / 10, "other": 0.0}

    known = [
        Experiment("inside", "quick", "a book", {"error": (1.0, 0.1)}, toy, (0, 1)),
        Experiment("outside", "cpu", "a book", {"error": (1.0, 0.1), "other": (0, 0)}, toy, (2,)),
        Experiment("big", "gpu", "a book", {"error": (1.0, 0.1)}, toy),
        Experiment("broken", "cpu", "a book", {"error": (1.0, 0.1)}, toy, (13,)),
    ]
    monkeypatch.setattr(reproduce, "experiments", lambda: {each.name: each for each in known})
    monkeypatch.setattr(results, "OUTPUTS", tmp_path / "outputs")
    monkeypatch.setattr(results, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(reproduce, "BLOCKS", {})
    monkeypatch.setattr(reproduce, "run_missing", run_here)
    return tmp_path


def run_here(jobs, processes):
    """As ``run_missing``, in this process, where the made-up experiments are known."""
    failures = {}
    for job in jobs:
        if not job.finished:
            try:
                job.run()
            except ValueError as error:
                failures[job.experiment] = error
    return failures


def table(place):
    with (place / "results" / "reproduced.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def code(*arguments):
    """Exit code of the command."""
    try:
        reproduce.main(arguments)
    except SystemExit as stopped:
        return stopped.code
    return 0


# ---- the command -----------------------------------------------------------------------------------------------------


def test_a_mean_inside_the_tolerance_is_reproduced(place, capsys):
    assert code("inside") == 0
    (row,) = table(place)
    assert (row["got"], row["lowest"], row["highest"], row["verdict"]) == ("1.05", "1", "1.1", "reproduced")
    assert (row["seeds"], row["device"], row["torch"]) == ("0 1", "cpu", torch.__version__.split("+")[0])
    assert row["command"] == "python lab/reproduce.py inside"
    assert all(row[field] for field in reproduce.FIELDS)
    assert "reproduced" in capsys.readouterr().out


def test_a_mean_outside_the_tolerance_is_an_exit_code(place, capsys):
    assert code("outside") == 1
    assert [row["verdict"] for row in table(place)] == ["differs", "reproduced"]
    assert "differs" in capsys.readouterr().out


def test_what_fails_is_named_and_leaves_the_table_alone(place, capsys):
    assert code("inside") == 0
    assert code("broken", "inside") == 1
    assert [row["experiment"] for row in table(place)] == ["inside"]
    assert "broken failed: an unlucky seed" in capsys.readouterr().err


def test_unknown_name_is_exit_code_two_and_the_nearest_name(place, capsys):
    assert code("insid") == 2
    assert "did you mean inside?" in capsys.readouterr().err
    assert not (place / "calls").exists()


def test_what_needs_a_gpu_is_not_tried_without_one(place, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert code("big") == 2
    assert "big would take weeks without a GPU" in capsys.readouterr().err
    assert code("big", "--list") == 0


def test_finished_runs_are_not_run_again(place):
    assert code("inside") == code("inside") == 0
    assert (place / "calls").read_text() == "0 1 "
    assert code("inside", "--fresh") == 0
    assert (place / "calls").read_text() == "0 1 0 1 "


def test_only_missing_seeds_are_run(place):
    code("inside")
    (place / "outputs" / "reproduce" / "inside" / "seed1" / "result.json").unlink()
    assert code("inside") == 0
    assert (place / "calls").read_text() == "0 1 1 "


def test_a_run_of_another_recipe_does_not_count(place):
    code("inside")
    for file in (place / "outputs" / "reproduce" / "inside").rglob("result.json"):
        file.write_text(json.dumps(json.loads(file.read_text()) | {"recipe": "another"}))
    code("inside")
    assert (place / "calls").read_text() == "0 1 0 1 "


def test_rows_of_other_experiments_are_kept(place):
    code("outside")
    code("inside")
    assert [row["experiment"] for row in table(place)] == ["inside", "outside", "outside"]
    before = table(place)
    code("outside")
    assert table(place) == before


def test_tiers_and_patterns_choose(place, capsys):
    assert code() == 0
    assert {row["experiment"] for row in table(place)} == {"inside"}
    assert code("--tier", "cpu", "--list") == 0
    assert code("*side") == 1
    assert {row["experiment"] for row in table(place)} == {"inside", "outside"}


def test_list_runs_nothing(place, capsys):
    assert code("--list") == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("inside", "outside", "broken", "a book"))
    assert not (place / "calls").exists()


@pytest.mark.slow
def test_the_command_runs_in_processes_of_its_own(tmp_path):
    script = (
        "from pathlib import Path\n"
        "from lab import reproduce, results\n"
        f"results.OUTPUTS = results.RESULTS = Path('{tmp_path}')\n"
        "reproduce.BLOCKS = {}\n"
        "if __name__ == '__main__':\n"
        "    reproduce.main(['published_tables', '--processes', '2'])\n"
    )
    (tmp_path / "run.py").write_text(script)
    done = forks.run(tmp_path / "run.py", cwd=tmp_path, PYTHONPATH=str(results.ROOT))
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "reproduced.csv").read_text().splitlines()) == 1 + len(KNOWN["published_tables"].expected)


# ---- recipes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TRAININGS)
def test_recipe_composes_and_expects_results_of_its_task(name):
    recipe = OmegaConf.load(RECIPES / f"{name}.yaml")
    assert (recipe.expect.seeds, recipe.expect.tier) == (list(KNOWN[name].seeds), KNOWN[name].tier)
    assert recipe.expect.metrics == {key: list(pair) for key, pair in KNOWN[name].expected.items()}
    known = reproduce_results(mozoo.compose(recipe.config))
    assert {key.removeprefix("test/") for key in recipe.expect.metrics} <= known


def reproduce_results(config):
    """Names of what the task of a configuration evaluates."""
    from tasks import create_task

    return set(create_task(**config.task).results())


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ("metrics: {a: 1.0}", "expect.metrics: needs"),
        ("metrics: {a: [1.0, -0.1]}", "expect.metrics: needs"),
        ("metrics: {a: [.nan, 0.1]}", "expect.metrics: needs"),
        ("metrics: {}", "expect.metrics: needs"),
        ("seeds: [0, 0]", "expect.seeds: needs"),
        ("seeds: 3", "expect.seeds: needs"),
        ("tier: fast", "expect.tier: must be one of quick, cpu, gpu"),
        ("source: null", "expect.source: needs"),
    ],
)
def test_recipe_that_cannot_be_judged_is_refused(tmp_path, change, problem):
    lines = {"metrics": "metrics: {a: [1.0, 0.1]}", "seeds": "seeds: [0]", "tier": "tier: cpu", "source": "source: x"}
    lines[change.split(":")[0]] = change
    file = tmp_path / "recipes" / "mine.yaml"
    file.parent.mkdir()
    file.write_text("config: []\nexpect:\n" + "".join(f"  {line}\n" for line in lines.values()))
    with pytest.raises(mozoo.ConfigError, match=f"recipes/mine.yaml: {problem}"):
        read_recipe(file)


@pytest.mark.parametrize("text", ["seeds: [0]", "config: experiment=diamonds\nexpect: {}", "config: []\nexpects: {}"])
def test_recipe_needs_config_and_expect(tmp_path, text):
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(mozoo.ConfigError, match="needs config, a list of overrides, and expect"):
        read_recipe(tmp_path / "mine.yaml")


def test_training_options_without_expectations_are_no_reproduction():
    assert "diamonds_usd" not in KNOWN
    assert mozoo.compose(["experiment=diamonds_usd"]).task["target"] == "price_usd"


@pytest.mark.parametrize("key", ["seeds", "tier", "source", "expected", "published"])
def test_keys_of_recipes_are_unknown_to_a_training(key):
    with pytest.raises(Exception, match=f"there is no key '{key}'"):
        mozoo.compose([f"+{key}=1"])


def test_a_recipe_is_trained_and_goes_on_where_it_stopped(tmp_path, monkeypatch, stones):
    monkeypatch.setattr(results, "OUTPUTS", tmp_path)
    job, folder = reproduce.Reproduction("diamonds", 0), tmp_path / "reproduce" / "diamonds" / "seed0"
    compose = mozoo.compose
    small = ("trainer.epochs=2", "trainer.max_steps=8", f"task.csv={stones}", "logger.tensorboard=false")
    monkeypatch.setattr(mozoo, "compose", lambda overrides: compose([*overrides, *small]))
    job.run()
    kept = job.result()
    assert kept["metrics"].keys() >= KNOWN["diamonds"].expected.keys()
    summary = json.loads((folder / "run" / "summary.json").read_text())
    assert kept["device"] == summary["device"]
    (folder / "result.json").unlink()
    monkeypatch.setattr(mozoo, "compose", None)  # going on needs no configuration but that of the checkpoint
    job.run()
    assert job.result()["metrics"] == kept["metrics"]


def test_a_typo_of_seed_is_told_so():
    with pytest.raises(Exception, match=r"mean seed\?") as found:
        mozoo.compose(["+seedz=1"])
    assert "seeds" not in str(found.value)


# ---- toys ------------------------------------------------------------------------------------------------------------


def test_every_experiment_says_what_it_expects():
    for each in KNOWN.values():
        assert each.expected
        assert each.source
        assert each.tier in TIERS
        assert each.seeds


def test_derivatives_of_the_famo_toy_are_those_of_autograd():
    def reference(point):
        x, y = point
        above, below = torch.tanh(0.5 * y), torch.tanh(-0.5 * y)
        # the derivative of clamp at its bound depends on the version of torch, that of where does not
        c1, c2 = torch.where(above >= 0, above, 0 * above), torch.where(below >= 0, below, 0 * below)
        f1 = (0.5 * (-x - 7) - torch.tanh(-y)).abs().clamp(min=5e-6).log() + 6
        f2 = (0.5 * (-x + 3) + torch.tanh(-y) + 2).abs().clamp(min=5e-6).log() + 6
        g1 = ((-x + 7) ** 2 + 0.1 * (-y - 8) ** 2) / 10 - 20
        g2 = ((-x - 7) ** 2 + 0.1 * (-y - 8) ** 2) / 10 - 20
        return torch.stack([0.1 * (c1 * f1 + c2 * g1), c1 * f2 + c2 * g2])

    points = torch.cat([torch.tensor(famo_toy.STARTS), 6 * torch.randn(50, 2)]).double()
    values, jacobians = famo_toy.losses(points.numpy())
    for point, value, jacobian in zip(points, values, jacobians, strict=True):
        assert value == pytest.approx(reference(point).numpy(), abs=1e-12)
        assert jacobian == pytest.approx(torch.func.jacrev(reference)(point).numpy(), abs=1e-12)


@pytest.mark.parametrize("method", ["mgda", "pcgrad", "famo"])
def test_the_famo_toy_moves_as_backward_and_adam_do(method, monkeypatch):
    monkeypatch.setattr(famo_toy, "EVERY", 20)
    monkeypatch.setattr(famo_toy, "STARTS", famo_toy.STARTS[:1])
    path = famo_toy.trace(method, steps=20)
    point = torch.nn.Parameter(torch.tensor(famo_toy.STARTS[0]))
    balancer = create_balancer(method, ("L1", "L2"), **famo_toy.OPTIONS.get(method, {}))
    optimizer = torch.optim.Adam([point], lr=1e-3)
    own = list(balancer.parameters())
    levels = torch.optim.Adam(own, lr=0.025) if own else None

    def losses():
        values, jacobians = (torch.from_numpy(found[0]) for found in famo_toy.losses(point.detach().numpy()[None]))
        linear = values + jacobians @ (point - point.detach())  # the value, and the derivative
        return dict(zip(balancer.objectives, linear, strict=True))

    for _ in range(20):
        optimizer.zero_grad()
        balancer.backward(losses(), shared=[point])
        optimizer.step()
        if levels is not None:
            balancer.observe(losses())
            levels.step()
            levels.zero_grad()
    assert path[-1, 0] == pytest.approx(point.detach().numpy(), abs=1e-5)


def test_no_point_dominates_the_front_of_the_famo_toy():
    points, values = famo_toy.front(201)
    assert famo_toy.distances(points[::50]) == pytest.approx(0, abs=1e-5)
    grid = np.stack(np.meshgrid(np.linspace(-12, 12, 201), np.linspace(-12, 12, 201)), -1).reshape(-1, 2)
    better = (famo_toy.losses(grid)[0][:, None] < values[None] - 1e-9).all(-1)
    assert not better.any()


def test_a_weighted_sum_finds_the_ends_and_mgda_the_inside_of_a_concave_front():
    assert fonseca.run(fonseca.weighted_sum, 1.0, 1, 0, None, searches=3)["interior points"] == 0
    assert fonseca.run(fonseca.mgda, 1.0, 1, 0, None, searches=3)["interior points"] == 3
    assert fonseca.distances(np.array([[0.63212, 0.63212], [0.98168, 0.0], [1.0, 1.0]])) == pytest.approx(
        [0, 0, math.hypot(1 - 0.63212, 1 - 0.63212)], abs=1e-4
    )


@pytest.mark.parametrize(
    "method", [name for name in trajectories.METHODS if name != "nash_mtl"]
)  # which needs a solver
def test_trajectories_json_holds_what_torchjd_gives(method):
    if method == "cagrad":
        pytest.importorskip("cvxpy", reason="torchjd's CAGrad needs pip install 'torchjd[cagrad]'")
    aggregation = pytest.importorskip("torchjd.aggregation")
    from torchjd.autojac import backward, jac_to_grad
    from torchjd.linalg import QuadprogProjector

    _, factor, name, arguments = trajectories.METHODS[method]
    if name in ("UPGrad", "DualProj"):
        arguments = {"projector": QuadprogProjector(norm_eps=1e-11, reg_eps=1e-11)}
    aggregator = getattr(aggregation, name)(**arguments)
    steps, lr = trajectories.STEPS["EWQ"]
    x = torch.nn.Parameter(torch.tensor(trajectories.STARTS["EWQ"][0], dtype=torch.float64))
    optimizer = torch.optim.SGD([x], lr * factor)
    for _ in range(steps):
        optimizer.zero_grad()
        backward(torch.stack(list(trajectories.losses("EWQ", x).values())))
        jac_to_grad([x], aggregator)
        optimizer.step()
    kept = json.loads(trajectories.DATA.read_text())["EWQ"][method]
    assert x.tolist() == pytest.approx(kept[0], abs=1e-6)


def test_uncertainty_toy_draws_in_the_published_order():
    found = uncertainty_toy.run(0, None, epochs=3)
    state = np.random.get_state()[1].copy()
    assert found == uncertainty_toy.run(0, None, epochs=3)
    assert (np.random.get_state()[1] == state).all()
    assert found["standard deviation 1"] == pytest.approx(1.0, abs=0.05)


def test_gradnorm_toy_runs():
    found = gradnorm_toy.run(0, None, steps=2)
    assert all(0 < found[method] < 2.5 for method in gradnorm_toy.METHODS)


def test_multi_fashion_expects_what_a_run_states(tmp_path, monkeypatch):
    def noise(count):
        labels = {name: torch.randint(10, (count,)) for name in multi_fashion.NAMES}
        return PixelData((torch.randint(256, (count, 1, 36, 36), dtype=torch.uint8),), labels)

    monkeypatch.setattr(MultiFashion, "splits", lambda task: Splits(noise(20), noise(1), noise(10)))
    found = multi_fashion.run(0, tmp_path, epochs=1, network=TINY)
    assert set(found) > set(KNOWN["multi_fashion_orderings"].expected)
    assert all(value in (0, 1) or name.startswith("hypervolume") for name, value in found.items())


TINY = {"channels": (2, 2), "width": 8}


def test_multi_fashion_networks_differ_by_balancer_and_seed_alone():
    task = MultiFashion()
    labels = {name: torch.arange(30) % 10 for name in multi_fashion.NAMES}
    data = PixelData((torch.randint(256, (30, 1, 36, 36), dtype=torch.uint8),), labels)

    def train(balancer, seed=0):
        return multi_fashion.train(task, data, data, balancer, seed, 1, 10, 0.01, TINY)

    swept = [train(balancer) for balancer in multi_fashion.sweep()]
    equal = train(create_balancer("sum", multi_fashion.NAMES))
    assert swept[2] == pytest.approx(equal, rel=1e-6)
    assert len({*swept, train(create_balancer("sum", multi_fashion.NAMES), seed=1)}) == 6


#: Fronts and networks with equal weights of which all is true that the experiment expects.
FRONTS = {
    "equal weights": [(0.8, 0.8), (0.9, 0.8)],
    "sweep": [(0.8, 0.8), (0.7, 0.9)],
    **{name: [(0.8, 0.8)] for name in multi_fashion.PREFERRING},
}
EQUAL = {4: [(1.0, 1.0), (1.1, 1.0)], 6: [(0.8, 0.8)], 8: [(0.5, 0.5)]}


@pytest.mark.parametrize(
    ("fronts", "equal", "wrong"),
    [
        ({}, {}, None),
        ({"equal weights": [(0.7, 0.8)]}, {}, "sweep above five with equal weights"),
        ({"stch": [(0.9, 0.95)]}, {}, "stch reaches 90% of the sweep"),
        ({}, {6: [(0.8, 0.8), (1.5, 1.5)]}, "rises with the offset"),
        ({}, {8: [(0.8, 0.8)]}, "rises with the offset"),
    ],
)
def test_multi_fashion_sees_a_wrong_order(fronts, equal, wrong):
    found = multi_fashion.orders(FRONTS | fronts, EQUAL | equal)
    expected = KNOWN["multi_fashion_orderings"].expected
    assert [name for name in expected if found[name] == 0] == ([wrong] if wrong else [])


def arrays(count):
    """As in the published file: images in [0, 1] and labels."""
    images, labels = np.random.default_rng(0), np.arange(2 * count).reshape(count, 2) % 10
    return images.random((count, 36, 36)), labels


def test_published_pickle_is_read_and_trained_on(tmp_path):
    path = tmp_path / "multi_fashion.pickle"
    (images, labels), test = arrays(30), arrays(10)
    path.write_bytes(pickle.dumps((images, labels, *test), protocol=4))
    data, _ = multi_fashion.read_pickle(path)
    batch = data.batch(torch.tensor([7]))
    assert batch.inputs[0].numpy() == pytest.approx(images[None, 7:8], abs=1e-6)
    assert [batch.targets[name].item() for name in multi_fashion.NAMES] == [4, 5]
    found = multi_fashion.run_pickle(0, tmp_path, path, epochs=1, network=TINY)
    assert found.keys() == KNOWN["multi_fashion_pickle"].expected.keys()


class Command:
    """Runs when it is unpickled, by a loader that lets it."""

    def __reduce__(self):
        return print, ("running",)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "put the file there"),
        (pickle.dumps(Command()), "is no array"),
        (pickle.dumps(arrays(3), protocol=4), "is not the published file"),
        (pickle.dumps((*arrays(3), arrays(3)[0], np.zeros((3, 3))), protocol=4), "is not the published file"),
        (b"", "is not the published file"),
    ],
)
def test_anything_but_the_published_pickle_is_refused(tmp_path, capsys, content, problem):
    path = tmp_path / "multi_fashion.pickle"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=problem):
        multi_fashion.read_pickle(path)
    assert capsys.readouterr().out == ""


def test_ring_sees_a_wrong_order():
    (statement,) = KNOWN["ring_ordering"].expected
    assert [ring_of_gaussians.order(*modes)[statement] for modes in ((1, 7), (7, 7), (8, 7))] == [1, 0, 0]


def test_ring_starts_alike_and_depends_on_the_pack(tmp_path):
    runs = [ring_of_gaussians.run(seed, tmp_path, steps=2) for seed in (0, 0, 1)]
    assert runs[0] == runs[1]
    assert set(runs[0]) > set(KNOWN["ring_ordering"].expected)


def test_printed_tables_are_whole():
    for read in published_tables.read().values():
        width = len(read["columns"])
        assert len(read["baseline"]) == width
        assert all(len(row) == width for row in read["rows"].values())
        assert {method for printed in read["printed"].values() for method in printed} <= set(read["rows"])
        assert set(read["printed"]) == set(read["rounding"])


def test_slips_are_those_that_the_page_explains():
    found = {(cell.table, cell.method) for cell in published_tables.slips() if cell.table != "qm9"}
    assert found == {("nyuv2_segnet", "IMTL-G"), ("nyuv2_segnet", "IMGrad")} | {
        ("office_home", method) for method in ("IMTL-G", "CAGrad")
    }
    ranks = [cell for cell in published_tables.slips() if cell.table == "qm9"]
    assert {round(11 * (cell.computed - cell.printed)) for cell in ranks} == {10, 11}


def test_ranks_tell_which_row_of_cityscapes_is_misprinted():
    read = published_tables.read()["cityscapes_segnet"]
    higher = {column: better == "higher" for column, better in read["columns"].items()}
    printed = read["printed"]["mean rank, FAMO"]

    def agreeing(row_of_ls):
        rows = {m: dict(zip(higher, read["rows"][m], strict=True)) for m in printed}
        ranks = mean_rank(rows | {"LS": dict(zip(higher, read["rows"][row_of_ls], strict=True))}, higher)
        return sum(abs(ranks[method] - value) < 0.01 for method, value in printed.items())

    assert (agreeing("LS"), agreeing("SI")) == (9, 3)


# ---- what is written -------------------------------------------------------------------------------------------------


def test_table_holds_what_the_experiments_expect():
    rows = reproduce.read_table()
    assert rows
    for row in rows:
        value, tolerance = KNOWN[row["experiment"]].expected[row["metric"]]
        assert (float(row["expected"]), float(row["tolerance"])) == pytest.approx((value, tolerance))
        inside = abs(float(row["got"]) - value) <= tolerance + 1e-6 * max(1, abs(value))
        assert row["verdict"] == ("reproduced" if inside else "differs")
    for name in {row["experiment"] for row in rows}:
        assert [row["metric"] for row in rows if row["experiment"] == name] == list(KNOWN[name].expected)


def test_quick_tier_was_run():
    assert {row["experiment"] for row in reproduce.read_table()} >= {
        each.name for each in KNOWN.values() if each.tier == "quick"
    }


def test_figure_shows_every_method(tmp_path):
    paths = {}
    for index, name in enumerate(famo_toy.RUNS):
        paths[name] = tmp_path / f"{index}.npy"
        np.save(paths[name], np.array([famo_toy.STARTS, [(0.0, -8.3551)] * 5], np.float32))
    assert {name for name in KNOWN if name.startswith("famo_toy_")} == {f"famo_toy_{name}" for name in famo_toy.METHODS}
    results.save_figure(tmp_path / "toy.svg", "toy", partial(famo_toy.draw, paths))
    drawn = (tmp_path / "toy.svg").read_text()
    assert all(title in drawn for title, *_ in famo_toy.METHODS.values())
    assert drawn.count("5 of 5 on the front") == len(famo_toy.METHODS)
