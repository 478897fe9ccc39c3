"""The studies compare like with like, and their page says what the runs gave."""

import csv
import math
from dataclasses import replace
from itertools import combinations

import pytest

import mozoo
from lab import autoscale, benchmark_methods, jobs, method_tables, results, studies, study_plan, which
from lab.benchmark_methods import write_runs
from lab.grids import weight_grid
from lab.studies import AUTOSCALE, METHODS, STUDIES, Study, Trial, directions, static
from lab.study_plan import Plan
from mozoo import tools
from tasks import create_task
from tasks.results import ResultKey

TINY = Study(
    "2 steps instead of 30 epochs",
    ("trainer.max_steps=2", "trainer.num_threads=1"),
    ("cut", "price"),
    {"cut accuracy": ("test/cut/accuracy", 4), "price error, USD": ("test/price/mae_usd", 1)},
    prior={"cut": 1.373, "price": 1.0},
    seeds=(0, 1),
)


@pytest.mark.parametrize("name", STUDIES)
def test_every_run_is_a_valid_configuration(name):
    study = STUDIES[name]
    trials = [Trial(name, label, study.rates[1], study.seeds[0]) for label in study.settings()]
    assert {trial.label for trial in trials} >= set(study.methods)
    for trial in trials[:: len(trials) // 4]:
        assert mozoo.compose(trial.training.overrides).optimizer.lr == trial.rate
    points = [trial for trial in trials if trial.label.startswith("static ")]
    assert len(points) == (0 if not study.swept else 9 if len(study.objectives) == 2 else 16)
    assert len({trial.training.folder for trial in trials}) == len(trials)
    assert len(study.seeds) >= (3 if name == "rooms" else 5)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, study in STUDIES.items() if study.prior])
def test_prior_losses_are_those_of_the_task(name):
    config = mozoo.compose(list(STUDIES[name].common))
    task = create_task(**config.task)
    found = task.prior_losses(task.splits(config.data_dir))
    assert {key: found[key] for key in STUDIES[name].prior} == pytest.approx(STUDIES[name].prior, rel=1e-3)


def test_weights_of_a_point_are_divided_by_the_prior_losses():
    study = STUDIES["diamonds_usd"]
    assert study.overrides("static 0.1818 1.818")[1] == "balancer.values={cut: 0.132411, price: 1.15136e-07}"
    assert STUDIES["pinn_helmholtz"].overrides("static 0.5 1.5")[1] == "balancer.values={equation: 0.5, boundary: 1.5}"


@pytest.mark.parametrize("name", STUDIES)
def test_directions_are_those_of_the_task(name):
    study = STUDIES[name]
    known = create_task(**mozoo.compose(list(study.common)).task).results()
    keys = {heading: ResultKey.parse(key).name for heading, (key, _) in study.metrics.items()}
    assert directions(study) == {heading: known[key] for heading, key in keys.items()}


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    """A small study, in folders of its own."""
    monkeypatch.setitem(STUDIES, "tiny", TINY)
    monkeypatch.setattr(results, "OUTPUTS", tmp_path / "outputs")
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    return tmp_path


def write(values, cost=(), rates=()):
    """CSV files of the study, as the command writes them: setting -> (score, accuracies, errors) of two seeds."""

    def row(trial):
        score, accuracies, prices = values.get(trial.label, (1.0, (0.5, 0.52), (1000.0, 1010.0)))
        score += abs(math.log(trial.rate / dict(rates).get(trial.label, 0.016)))
        found = {"cut accuracy": accuracies[trial.seed], "price error, USD": prices[trial.seed]}
        validated = {"val score": score, "val cut accuracy": 1.0, "val price error, USD": 1000 + score}
        return {"setting": trial.label, "lr": f"{trial.rate:g}", "seed": trial.seed, **found, **validated, "git": "abc"}

    write_runs(Plan("tiny", TINY, row))
    costs = [{"setting": name, "time": dict(cost).get(name, 1), "memory": 1} for name in METHODS]
    results.write_rows(studies.cost_file("tiny"), costs)
    return method_tables.Results("tiny")


def test_options_of_a_method_reach_its_runs_and_no_others():
    plain = ("balancer=conflict_free_momentum", "optimizer.name=momentum", "optimizer.momentum=0")
    assert STUDIES["pinn_burgers"].overrides("conflict_free_momentum") == plain
    assert STUDIES["pinn_burgers"].overrides("conflict_free") == ("balancer=conflict_free",)
    assert all(set(study.options) <= set(study.methods) for study in STUDIES.values())


def test_validation_chooses_the_point_of_the_sweep(tiny):
    chosen, better = static(weight_grid(2)[3]), static(weight_grid(2)[4])
    found = write({chosen: (0.1, (0.1, 0.1), (9.0, 9.0)), better: (0.2, (0.9, 0.9), (1.0, 1.0))})
    assert found.rival == found.plan.tuned == chosen
    assert "chose of 9 (v = 0.4805 1.519, inside the grid)" in method_tables.verdict(found)
    at_the_end = write({static(weight_grid(2)[8]): (0.1, (0.1, 0.1), (9.0, 9.0))})
    assert "chose of 10 (v = 1.98 0.0198, inside the grid)" in method_tables.verdict(at_the_end)


def test_groups_follow_from_pairs_and_not_from_single_intervals(tiny):
    values = {
        "only cut": (1.0, (0.5, 0.5), (math.nan, math.nan)),
        "only price": (1.0, (math.nan, math.nan), (1000.0, 1000.0)),
        static(weight_grid(2)[3]): (0.1, (0.60, 0.70), (1000.0, 1001.0)),
        "mgda": (1.0, (0.80, 0.90001), (1000.0, 1001.0)),  # better by the same in both seeds, which spread as much
        "pcgrad": (1.0, (0.30, 0.40001), (1000.0, 1001.0)),  # worse
        "cagrad": (1.0, (0.65, 1.0), (1000.0, 1001.0)),  # better on average, but who knows
        "dwa": (1.0, (math.nan, math.nan), (math.nan, math.nan)),  # diverged
    }
    found = write(values, cost=[("mgda", 2.5)])
    assert found.delta("mgda").mean == pytest.approx(-35.0, abs=0.2)  # 70 % better in one of two results
    assert found.difference("mgda").mean.mean == pytest.approx(-20.0, abs=0.01)
    better, same, worse = found.groups()
    assert better == ["mgda"]
    assert "cagrad" in same
    assert {"pcgrad", "dwa"} <= set(worse)
    assert "better `mgda`; no significant difference" in method_tables.verdict(found)
    assert found.ranks(["mgda", "pcgrad", "cagrad", "dwa"]) == {"mgda": 1.0, "pcgrad": 2.0, "cagrad": 1.5, "dwa": 4.0}
    table = method_tables.table(found)
    assert "| `mgda` | 0.016 | 4 | 0.8500 ±" in table  # three rates, and the other seed
    assert "| 2.50 | 1.00 |" in table
    assert "diverged" in table
    assert f"p: Holm's, of {len(METHODS) + 1} comparisons" in table
    assert "Runs by commit: abc" in table


BETTER = {
    "only cut": (1.0, (0.5, 0.5), (math.nan, math.nan)),
    "only price": (1.0, (math.nan, math.nan), (1000.0, 1000.0)),
    static(weight_grid(2)[3]): (0.1, (0.60, 0.70), (1000.0, 1001.0)),
    "mgda": (1.0, (0.80, 0.90001), (1000.0, 1001.0)),
    "famo": (1.0, (0.70, 0.80001), (1000.0, 1001.0)),
    "pcgrad": (1.0, (0.30, 0.40001), (1000.0, 1001.0)),
}


def test_advice_names_the_best_and_the_cheapest_that_beat_the_sweep(tiny, monkeypatch):
    for module in (which, method_tables):
        monkeypatch.setattr(module, "STUDIES", {"tiny": TINY})
    monkeypatch.setattr(results, "environment", lambda device: {})
    found = write(BETTER, cost=[("mgda", 2.5), ("famo", 1.5)])
    said = which.advice(found)
    assert said.startswith("`mgda` (delta-m -20.0 ± 0.0 points to the rival, p ")
    assert " or `famo` (delta-m -10.0 ± 0.0 points to the rival, p " in said
    assert "a step takes 2.50) or" in said
    assert said in which.by_study()
    assert "| [tiny](results.md#tiny) | 2 | 1.4 | AdamW |" in which.by_study()
    assert f"- **tiny**: of {len(METHODS) + 1} settings 2 better than the rival, 1 worse" in which.in_short()
    rows = {line.split(" | ")[0]: line for line in which.by_method().splitlines()}
    assert rows["| `mgda`"] == "| `mgda` | tiny |  |  | 2.50 |"
    assert rows["| `pcgrad`"] == "| `pcgrad` |  |  | tiny | 1.00 |"
    assert list(rows)[-1] == "| `pcgrad`"
    assert "static weights, v = 1: 1 of 1" in which.by_budget()
    assert "`pcgrad`: 0 of 1" in which.by_budget()


def test_advice_says_that_nothing_beats_the_sweep(tiny, monkeypatch):
    monkeypatch.setattr(which, "WIDE", math.inf)  # two seeds
    found = write({label: BETTER[label] for label in BETTER if label not in ("mgda", "famo")}, cost=[("cagrad", 2.0)])
    said = which.advice(found)
    assert said.startswith("nothing beats the chosen static weights here; without a search, not significantly worse: ")
    assert "`sum`" in said
    assert "`cagrad`" not in said  # as good, but costs more
    assert "`pcgrad`" not in said


def test_a_problem_that_no_setting_solves_is_said_and_does_not_count(tiny, monkeypatch):
    equation = replace(TINY, metrics={**TINY.metrics, "cut accuracy": ("test/cut/relative_l2", 4)})
    for module in (which, method_tables):
        monkeypatch.setattr(module, "STUDIES", {"tiny": equation})
    monkeypatch.setattr(method_tables, "SOLVED", 0.4)
    found = write(
        {"mgda": (1.0, (0.41, 0.43), (1000.0, 1010.0)), "dwa": (1.0, (math.nan, math.nan), (math.nan, math.nan))}
    )
    assert which.advice(found) == (
        "no setting solves it: the smallest relative error of cut is 0.42, and zero everywhere has 1"
    )
    assert method_tables.table(found).count("No setting solves the problem") == 1
    assert "- **tiny**: no setting solves it" in which.in_short()
    assert "**Studies that count: 0**" in which.in_short()
    assert "Not counted, as no setting solves it: tiny." in method_tables.summary()
    assert "| [tiny](results.md#tiny) | 2 | 1.4 | AdamW | " in which.by_study()
    assert "tiny" not in which.by_method()
    assert "no study" in which.by_budget()
    monkeypatch.setattr(method_tables, "SOLVED", 0.43)
    assert not found.unsolved


def test_advice_names_the_best_though_it_costs_and_none_that_is_worse_but_for_the_correction(tiny, monkeypatch):
    values = {label: BETTER[label] for label in BETTER if label not in ("mgda", "famo")}
    values["cagrad"] = (1.0, (0.65, 1.0), (1000.0, 1001.0))
    values["dwa"] = (1.0, (0.55, 0.645), (1000.0, 1001.0))
    found = write(values, cost=[("cagrad", 2.0)])
    assert "dwa" in found.groups()[1]
    assert found.difference("dwa").mean.mean - found.difference("dwa").mean.half > 0
    assert "`cagrad`" not in which.advice(found), "its interval is too wide to know anything"
    monkeypatch.setattr(which, "WIDE", math.inf)
    said = which.advice(found)
    assert "not significantly worse: `cagrad` (-17.5 ± " in said
    assert "`dwa`" not in said


def test_where_the_plain_sum_is_the_rival_the_chosen_point_is_compared_with_it(tiny, monkeypatch):
    for module in (which, method_tables):
        monkeypatch.setattr(module, "STUDIES", {"tiny": TINY})
    point = static(weight_grid(2)[3])
    values = {label: BETTER[label] for label in BETTER if label not in ("mgda", "famo")}
    found = write(values | {"sum": (0.05, (0.75, 0.85), (1000.0, 1001.0)), point: (0.1, (0.6, 0.7), (1000.0, 1001.0))})
    assert (found.rival, found.plan.tuned) == ("sum", point)
    assert point in found.compared
    assert "sum" not in found.compared
    assert point in found.groups()[2]
    table = method_tables.table(found)
    assert f"Against `sum`, which validation finds better than the best of 9 static weights (v = {point[7:]})" in table
    assert f"| {point}, chosen |" in table
    assert which.advice(found).startswith("nothing beats `sum` here; ")
    assert "worse than `sum` in 1 of 1 studies" in which.by_budget()
    assert "`sum`" not in which.by_method()
    assert "| static weights, chosen |  |  | tiny | 1.00 |" in which.by_method()
    assert {"● mgda", "★ static weights, chosen"} <= {
        t.get_text() for t in method_tables.draw_results("tiny").axes[1].texts
    }


def test_one_bad_run_of_an_objective_alone_does_not_move_delta_m(tiny):
    found = write({})
    alone = {"cut accuracy": [0.5, 0.5, 0.01], "price error, USD": [1000.0, 1000.0, 90000.0]}
    found.values = {
        "only cut": alone,
        "only price": alone,
        "sum": {"cut accuracy": [0.5], "price error, USD": [1000.0]},
    }
    assert found.deltas("sum") == [0.0]


def test_figure_frames_the_many_and_names_the_far(tiny):
    places = {label: (1.0, (0.5 + i / 1000,) * 2, (1000.0 + i,) * 2) for i, label in enumerate(TINY.settings())}
    places[static(weight_grid(2)[3])] = (0.5, (0.5, 0.5), (1000.0, 1000.0))
    far = {"mgda": (1.0, (0.05, 0.05), (1000.0, 1000.0)), "dwa": (1.0, (math.nan,) * 2, (math.nan,) * 2)}
    costs = [(name, 1 + i / 10) for i, name in enumerate(METHODS)]
    write(places | far, cost=costs)
    pairs, cost = method_tables.draw_results("tiny").axes
    for panel, value in ((pairs, "0.05"), (cost, None)):
        low, high = panel.get_xlim()
        hollow = [line for line in panel.get_lines() if line.get_markerfacecolor() == "none"]
        assert len(hollow) == 1
        assert value is None or [text.get_text() for text in panel.texts] == [value]
        assert all(low <= line.get_xdata()[0] <= high for line in panel.get_lines() if line.get_marker() in ("o", "s"))
    assert pairs.get_xlim()[0] > 0.4
    named = {text.get_text().partition(" ")[2] for text in cost.texts}
    assert named >= {"sum", "pcgrad", "static weights, chosen"}
    assert "dwa" not in named, "it diverged"


def test_figure_of_many_objectives_is_a_map_of_changes(tiny, monkeypatch):
    values = {
        "only cut": (1.0, (0.5, 0.5), (2000.0, 2000.0)),
        "only price": (1.0, (0.1, 0.1), (1000.0, 1000.0)),
        "mgda": (1.0, (0.8, 0.8), (700.0, 700.0)),
        "pcgrad": (1.0, (0.4, 0.4), (3500.0, 3500.0)),
        "dwa": (1.0, (math.nan,) * 2, (math.nan,) * 2),
    }
    write(values)
    monkeypatch.setattr(method_tables, "WIDE", 1)
    changes, cost = method_tables.draw_results("tiny").axes
    rows = [label.get_text() for label in changes.get_yticklabels()]
    texts = iter([text.get_text() for text in changes.texts])
    shown = {row: (next(texts), next(texts)) for row in rows}
    assert [label.get_text() for label in changes.get_xticklabels()] == ["cut", "price"]
    assert shown["mgda"] == ("-60", "-30")  # an accuracy of 0.8 instead of 0.5, and 30 % less error
    assert shown["pcgrad"] == ("20", "250")
    assert shown["dwa"] == ("diverged",) * 2
    assert (rows[0], rows[-1]) == ("mgda", "dwa"), "the best is above, what diverged below"
    assert "static weights, chosen" in rows
    assert cost.get_xlabel() == "time of a step, relative to sum"


@pytest.mark.parametrize(("shares", "scale"), [((0.9, 0.1), "linear"), ((1.0, 1e-6), "log"), ((1.2, -0.2), "linear")])
def test_figure_of_weights_shows_small_shares(tiny, shares, scale):
    folder = tiny / "mgda"
    folder.mkdir()
    rows = [{"step": step, "weight/cut": shares[0], "weight/price": shares[1]} for step in (10, 20)]
    results.write_rows(folder / "balance.csv", rows)
    panel, *rest = method_tables.draw_weights("tiny", {"mgda": folder}).axes
    assert panel.get_yscale() == scale
    assert [line.get_label() for line in panel.get_lines()] == ["cut", "price"]
    assert not any(other.axison for other in rest)
    if scale == "log":  # it had powers of ten with small exponents
        assert [panel.yaxis.get_major_formatter()(tick) for tick in panel.get_yticks()] == [
            "1",
            "0.01",
            "0.0001",
            "1e-06",
        ]


def test_a_rate_at_an_end_is_reported(tiny):
    assert "Best at an end" not in method_tables.table(write({}))
    table = method_tables.table(write({}, rates=[("dwa", 1e9), ("only cut", 0.001)]))
    assert "Best at an end of the rates that were tried, and maybe better beyond it: `dwa`.\n" in table
    assert "| `dwa` | 4.096 | 7 |" in table


def test_a_study_that_is_not_finished_has_no_table(tiny, monkeypatch):
    assert not method_tables.finished("tiny")
    assert method_tables.block("tiny").startswith("Not run yet: `python lab/benchmark_methods.py tiny`. 2 steps")
    monkeypatch.setattr(method_tables, "STUDIES", {"tiny": TINY})
    line = "Not finished, so not in this table: `python lab/benchmark_methods.py tiny`."
    assert line in method_tables.summary()
    write({})
    assert method_tables.finished("tiny")
    assert "Not finished" not in method_tables.summary()
    costs = results.read_rows(studies.cost_file("tiny"))
    results.write_rows(studies.cost_file("tiny"), costs[:-1])
    assert not method_tables.finished("tiny")  # the last method would seem to cost nothing
    results.write_rows(studies.cost_file("tiny"), costs)
    rows = results.read_rows(studies.runs_file("tiny"))
    some = [row for row in rows if not row["setting"].startswith("static ")]
    results.write_rows(studies.runs_file("tiny"), some)
    studies.recorded.cache_clear()
    assert not method_tables.finished("tiny")
    assert method_tables.block("tiny").startswith(f"Not finished, {len(some)} runs so far: `python lab/")


def test_runs_become_rows_and_are_not_run_again(tiny, monkeypatch):
    study = Study(**{**vars(TINY), "methods": ("sum",), "swept": False, "rates": (1.6e-2,), "alone": {}, "phase": 1})
    monkeypatch.setitem(STUDIES, "tiny", study)
    monkeypatch.setattr(study_plan, "further_rate", lambda *_: None)
    monkeypatch.setattr(benchmark_methods, "run_missing", lambda jobs, _: {job.name: job.run() for job in jobs} and {})
    plan = benchmark_methods.run("tiny", 1)
    assert not plan.missing
    for trial in plan.needed:
        assert trial.finished
        assert not [*trial.training.folder.rglob("*.pt"), *trial.training.folder.rglob("*.safetensors")]
    write_runs(plan)
    with studies.runs_file("tiny").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(plan.needed)
    summary = next(iter(plan.needed)).training.summary()
    assert float(rows[0]["price error, USD"]) == pytest.approx(summary["metrics"]["test/price/mae_usd"], rel=1e-5)
    assert rows[0]["command"].startswith("python train.py trainer.max_steps=2 ")
    assert {row["setting"] for row in rows if row["val delta-m"]} == {"sum", AUTOSCALE}
    chosen = {(row["setting"], row["seed"]) for row in rows if row["chosen"] == "1"}
    assert chosen == {(label, seed) for label in study.settings() for seed in "01"}

    folders, row = tiny / "outputs", next(each for each in rows if each["setting"] == AUTOSCALE)
    weights = dict(pair.split(": ") for pair in row["command"].split("{")[1].split("}")[0].split(", "))
    phase = results.read_rows(Trial("tiny", AUTOSCALE, float(row["lr"]), int(row["seed"])).phase.folder / "balance.csv")
    lengths = {name: float(phase[0][f"norm/{name}"]) for name in weights}
    assert float(weights["cut"]) / float(weights["price"]) == pytest.approx(lengths["price"] / lengths["cut"], rel=1e-4)
    assert sum(map(float, weights.values())) == pytest.approx(2.0, rel=1e-4)

    folders.rename(tiny / "gone")
    assert not Plan("tiny", study, Trial.row).missing  # the rows are enough
    longer = Study(**{**vars(study), "common": ("trainer.max_steps=3", "trainer.num_threads=1")})
    monkeypatch.setitem(STUDIES, "tiny", longer)
    assert {each.label for each in Plan("tiny", longer, Trial.row).missing} == {"sum"}  # of other settings


def test_rows_of_a_study_that_is_not_finished_are_kept(tiny):
    write({})
    rows = results.read_rows(studies.runs_file("tiny"))
    for row in rows:
        trial = Trial("tiny", row["setting"], float(row["lr"]), int(row["seed"]))
        row["command"] = "another" if trial.label == "mgda" else trial.training.command
    # without the reference nobody knows yet which seeds are needed
    some = [row for row in rows if not row["setting"].startswith("only ")]
    results.write_rows(studies.runs_file("tiny"), some)
    studies.recorded.cache_clear()
    plan = benchmark_methods.run("tiny", processes=0)
    assert len(plan.needed) < len(some)
    write_runs(plan)
    kept = results.read_rows(studies.runs_file("tiny"))
    facts = sorted((row["setting"], row["lr"], row["seed"], row["cut accuracy"]) for row in kept)
    assert facts == sorted(
        (r["setting"], r["lr"], r["seed"], r["cut accuracy"]) for r in some if r["setting"] != "mgda"
    )
    write_runs(benchmark_methods.run("tiny", processes=0))
    assert results.read_rows(studies.runs_file("tiny")) == kept


def test_rows_without_validation_count_where_it_is_not_needed(tiny):
    write({})
    rows = results.read_rows(studies.runs_file("tiny"))
    old = ["setting", "lr", "seed", "chosen", "val delta-m", *TINY.metrics, "command"]
    for row in rows:
        row["command"] = Trial("tiny", row["setting"], float(row["lr"]), int(row["seed"])).training.command
        row["command"] = row["command"].replace("trainer.monitor=", "trainer.select=")
    results.write_rows(studies.runs_file("tiny"), [{key: row[key] for key in old} for row in rows])
    studies.recorded.cache_clear()
    missing = Plan("tiny", TINY, Trial.row).missing
    assert {trial.label for trial in missing} == {"only cut", "only price", "sum"}  # which may be the rival
    assert {trial.seed for trial in missing} == {0}
    assert "trainer.monitor=" in Trial("tiny", "only cut", 0.016, 1).row()["command"]


def test_lengths_that_are_missing_or_zero_are_refused(tmp_path):
    file = tmp_path / "balance.csv"
    results.write_rows(file, [{"step": 1, "norm/a": 3.0, "norm/b": 1.0}, {"step": 2, "norm/a": "", "norm/b": ""}])
    assert autoscale.equal_lengths(file, ["a", "b"]) == pytest.approx({"a": 0.5, "b": 1.5})
    for rows in ([{"step": 1, "norm/a": 0.0, "norm/b": 1.0}], [{"step": 1, "norm/a": "", "norm/b": ""}]):
        results.write_rows(file, rows)
        with pytest.raises(ValueError, match="no lengths of gradients, or one that is 0"):
            autoscale.equal_lengths(file, ["a", "b"])


def test_a_run_that_diverges_is_a_result(tiny, monkeypatch):
    def explode(*_, **__):
        raise tools.Diverged("step 1: loss cut is not finite")

    monkeypatch.setattr(jobs, "train_quietly", explode)
    job = Trial("tiny", "sum", 4e-3, 0)
    job.run()
    assert job.finished
    assert "not finite" in job.diverged.read_text()
    found = studies.outcome(job.row(), TINY, {"cut accuracy": 0.5, "price error, USD": 1000.0})
    assert found == studies.Outcome(math.inf, math.inf)


def test_values_at_one_edge_of_a_figure_do_not_overlap(tiny):
    """Methods whose results are far out in the same corner."""
    places = {label: (1.0, (0.5 + i / 1000,) * 2, (1000.0 + i,) * 2) for i, label in enumerate(TINY.settings())}
    far = {name: (1.0, (0.05 + i / 1000,) * 2, (100.0 + i,) * 2) for i, name in enumerate(METHODS[:4])}
    write(places | far)
    figure = method_tables.draw_results("tiny")
    figure.set_dpi(72)  # as it is saved
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    assert len(boxes) == 4
    assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))
