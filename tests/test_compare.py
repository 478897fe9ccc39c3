"""scripts/compare.py: sets of seeds, what is computed of them, the three files, and errors that name the remedy."""

import csv
import html
import json
import math
import os
import re
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf

import mozoo
import tasks
import train
from mozoo import tools
from mozoo.comparison.estimates import column_texts, estimate, student_t
from mozoo.comparison.pictures import _drawn, named_sets, pareto
from mozoo.comparison.run_sets import RunSet, group
from mozoo.comparison.runs import FORMER_DIRECTIONS, FinishedRun, directions, find_runs
from mozoo.comparison.section import Section
from mozoo.titles import titled
from scripts import compare
from tasks.results import ResultKey
from tests.test_report import browse, browser, elements, inspect, pictures
from tests.test_shown_names import texts

# test results of made-up runs of diamonds: set -> seed -> cut/accuracy, price/r2
RESULTS = {
    "sum": {0: (0.70, 0.90), 1: (0.72, 0.92), 2: (0.74, 0.94)},
    "mgda": {0: (0.80, 0.90), 1: (0.80, 0.90), 2: (0.80, 0.90)},
    "pcgrad": {0: (0.60, 0.95), 1: (0.60, 0.95)},
    "rlw": {0: (0.60, 0.80)},
}


def write_run(folder, overrides=(), seed=0, values=(0.5, 0.5), status="finished", seconds=10.0):
    """A run folder as train.py leaves it, without training."""
    folder.mkdir(parents=True)
    config = mozoo.compose([*overrides, f"seed={seed}", "logger.tensorboard=false"])
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(asdict(config)))
    accuracy, r2 = values
    metrics = {"cut/loss": 1 - accuracy, "cut/accuracy": accuracy, "price/loss": 1 - r2, "price/r2": r2}
    tracker = tools.Tracker(folder, list(metrics), ("cut", "price"), config.logger, None)
    for epoch in (1, 2, 3):
        tracker.log_metrics(epoch, epoch, "val", 1.0, 0.1, {name: value * epoch / 3 for name, value in metrics.items()})
    names = {"model": config.model["name"], "task": config.task["name"], "balancer": config.balancer["name"]}
    tested = {f"test/{name}": value for name, value in metrics.items()} if status == "finished" else {}
    facts = {"seed": seed, "status": status, "metrics": tested, "steps": 100, "seconds": seconds, "device": "cpu"}
    higher = {name: name.endswith(("accuracy", "r2")) for name in tested}
    tracker.write_summary({**names, **facts, "higher_is_better": higher, "samples_per_second": 1000 / seconds})
    tracker.close()
    return folder


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    root = tmp_path_factory.mktemp("outputs")
    for balancer, seeds in RESULTS.items():
        for seed, values in seeds.items():
            seconds = 20.0 if balancer == "mgda" else 10.0
            write_run(root / balancer / f"seed{seed}", [f"balancer={balancer}"], seed, values, seconds=seconds)
    return root


def made(folder, *arguments):
    """Run the command; its three files by ending."""
    compare.main([*map(str, arguments), "--out", str(folder / "found")])
    return {path.suffix: path.read_text(encoding="utf-8") for path in (folder / "found").iterdir()}


def table(text):
    """(set, value) -> (mean, half width) of the CSV."""
    rows = csv.DictReader(text.splitlines())
    return {
        (row["set"], row["value"]): tuple(float(row[key]) if row[key] else None for key in ("mean", "half_width"))
        for row in rows
    }


def refusal(capsys, *arguments):
    """The message of a command that ends with an error."""
    with pytest.raises(SystemExit) as stopped:
        compare.main([str(argument) for argument in arguments])
    said = capsys.readouterr()
    assert (said.out, stopped.value.code, said.err.count("\n")) == ("", 2, 1)
    return said.err


# ---- numbers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("freedom", "printed"), [(1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (9, 2.262), (10, 2.228), (120, 1.980)]
)
def test_students_t_is_the_one_of_the_tables(freedom, printed):
    assert student_t(freedom) == pytest.approx(printed, abs=6e-4)


def test_intervals_are_of_the_mean():
    found = estimate([1.0, 2.0, 3.0])
    assert (found.mean, found.half) == (2.0, pytest.approx(4.3027 / math.sqrt(3), rel=1e-4))
    assert estimate([5.0]).half is None
    assert (str(estimate([0.7, 0.72, 0.74])), str(estimate([314.5])), str(estimate([math.nan]))) == (
        *("0.720 ± 0.050", "314.5", "-"),
    )
    assert str(estimate([1e-9, 2e-9, 3e-9])) == "2.000e-09 ± 2.5e-09"


def test_a_column_has_one_number_of_digits():
    column = [estimate(values) for values in ([0.70, 0.72, 0.74], [0.6], [0.8, 0.8], [math.nan, 1.0], [0.71, 0.72])]
    assert column_texts(column) == ["0.720 ± 0.050", "0.600", "0.800 ± 0.000", "-", "0.715 ± 0.064"]
    assert column_texts([estimate([rank]) for rank in (2.75, 3.0, 4.5)]) == ["2.750", "3.000", "4.500"]


def test_command_computes_what_the_formulas_say(outputs, tmp_path):
    found = table(made(tmp_path, outputs)[".csv"])
    assert found["sum", "cut/accuracy"] == (pytest.approx(0.72), pytest.approx(4.3027 * 0.02 / math.sqrt(3), rel=1e-4))
    assert found["rlw", "cut/accuracy"] == (0.6, None)
    delta = 100 * ((0.72 - 0.80) / 0.72 + (0.92 - 0.90) / 0.92) / 2
    assert found["mgda", "delta-m, %"] == (pytest.approx(delta), pytest.approx(0, abs=1e-9))
    assert found["sum", "delta-m, %"][0] == pytest.approx(0, abs=1e-9)
    assert found["sum", "delta-m, %"][1] > 1
    assert {name: found[name, "mean rank"][0] for name in RESULTS} == {"sum": 2, "mgda": 2, "pcgrad": 2, "rlw": 3.5}
    assert found["mgda", "cost"] == (pytest.approx(2), pytest.approx(0))
    assert found["pcgrad", "samples/s"] == (100, 0)


def test_front_holds_the_sets_that_no_other_beats(outputs, tmp_path):
    rows = csv.DictReader(made(tmp_path, outputs)[".csv"].splitlines())
    assert {row["set"] for row in rows if row["front"] == "1"} == {"sum", "mgda", "pcgrad"}


def test_another_baseline_and_other_metrics(outputs, tmp_path):
    found = table(made(tmp_path, outputs, "--baseline", "mgda", "--metrics", "price/r2")[".csv"])
    assert found["pcgrad", "delta-m, %"][0] == pytest.approx(100 * (0.90 - 0.95) / 0.90)
    assert found["sum", "cost"][0] == pytest.approx(0.5)
    assert [found[name, "mean rank"][0] for name in ("pcgrad", "sum", "mgda", "rlw")] == [1, 2, 3, 4]


def test_single_task_runs_are_the_baseline_of_their_objective(tmp_path):
    for objective, values in (("cut", (0.5, 0.1)), ("price", (0.1, 0.8))):
        write_run(tmp_path / objective, ["balancer=single", f"balancer.objective={objective}"], 0, values)
    write_run(tmp_path / "sum", ["balancer=sum"], 0, (0.6, 0.8), seconds=15.0)
    found = table(made(tmp_path, tmp_path, "--single-task")[".csv"])
    assert found["sum", "delta-m, %"] == (pytest.approx(-10), None)
    assert found["sum", "cost"][0] == pytest.approx(0.75)  # two trainings of 10 s in the same number of steps
    assert found["single (balancer.objective=cut)", "delta-m, %"] == (None, None)


def test_a_task_without_runs_of_one_objective_does_not_stop_the_others(tmp_path, capsys):
    dollars = "experiment=diamonds_usd"
    write_run(tmp_path / "usd", [dollars, "balancer=sum"], 0, (0.6, 0.8))
    write_run(tmp_path / "usd2", [dollars, "balancer=mgda"], 0, (0.6, 0.8))
    refused = "no finished run of shared_trunk trains cut, price alone; make one with: "
    assert refused in refusal(capsys, tmp_path, "--single-task")
    for objective, values in (("cut", (0.5, 0.1)), ("price", (0.1, 0.8))):
        write_run(tmp_path / objective, ["balancer=single", f"balancer.objective={objective}"], 0, values)
    write_run(tmp_path / "sum", ["balancer=sum"], 0, (0.6, 0.8))
    page = made(tmp_path, tmp_path, "--single-task")[".md"]
    assert refused in page
    assert "delta-m: mean relative loss of quality against one model per objective" in page
    assert "delta-m: mean relative loss of quality against sum" in page  # of the other task


def test_results_that_no_objective_trains_are_named(tmp_path, capsys):
    run = write_run(tmp_path / "sum", ["balancer=sum"], 0, (0.6, 0.8))
    summary = json.loads((run / "summary.json").read_text())
    summary["metrics"]["test/u/relative_l2"], summary["higher_is_better"]["test/u/relative_l2"] = 0.1, False
    (run / "summary.json").write_text(json.dumps(summary))
    said = refusal(capsys, run, "--single-task")
    assert "has results of u, which no objective alone trains; compare with --baseline instead" in said


def test_an_entry_of_a_mapping_parts_sets(tmp_path):
    """A run without it has the mapping by default, so it is another setting, of whatever seed."""
    balancer = "balancer=pcgrad"
    write_run(tmp_path / "a", [balancer], 0, (0.6, 0.8))
    write_run(tmp_path / "b", [balancer, "balancer.preference={cut: 20}"], 1, (0.7, 0.8))
    write_run(tmp_path / "c", [balancer, "balancer.preference={price: 5}"], 0, (0.5, 0.9))
    found = table(made(tmp_path, tmp_path)[".csv"])
    labels = {"pcgrad", "pcgrad (balancer.preference.cut=20)", "pcgrad (balancer.preference.price=5)"}
    assert {label for label, _ in found} == labels
    assert [found[label, "cut/accuracy"][0] for label in sorted(labels)] == [0.6, 0.7, 0.5]


def test_an_automatic_baseline_of_other_options_is_named(tmp_path):
    write_run(tmp_path / "sum", ["balancer=sum"], 0, (0.5, 0.8))
    write_run(tmp_path / "mgda", ["balancer=mgda", "trainer.epochs=1"], 0, (0.6, 0.8))
    note = "mgda (trainer.epochs=1): relative to sum, although other options differ; there is no other sum."
    assert note in made(tmp_path, tmp_path)[".md"]
    assert note not in made(tmp_path, tmp_path, "--baseline", "sum")[".md"]


def test_an_objective_that_was_trained_alone_twice_counts_once(tmp_path, capsys):
    faster = "optimizer.lr=0.03"
    for objective, values in (("cut", (0.5, 0.1)), ("price", (0.1, 0.8))):
        write_run(tmp_path / objective, ["balancer=single", f"balancer.objective={objective}"], 0, values)
    write_run(tmp_path / "again", ["balancer=single", "balancer.objective=price", faster], 0, (0.1, 0.4))
    write_run(tmp_path / "sum", ["balancer=sum"], 0, (0.6, 0.8), seconds=15.0)
    found = table(made(tmp_path, tmp_path, "--single-task")[".csv"])
    assert (found["sum", "delta-m, %"][0], found["sum", "cost"][0]) == (pytest.approx(-10), pytest.approx(0.75))
    write_run(tmp_path / "other", ["balancer=mgda", "optimizer.lr=0.1"], 0, (0.6, 0.8))
    capsys.readouterr()
    said = refusal(capsys, tmp_path, "--single-task")
    assert re.search("several sets that train price alone: .*lr=0.03.*; leave out all but one", said)


def test_a_baseline_of_other_options_is_named(tmp_path):
    write_run(tmp_path / "sum", ["balancer=sum", "model.width=4"], 0, (0.5, 0.8))
    write_run(tmp_path / "mgda", ["balancer=mgda", "model.width=64"], 0, (0.6, 0.8))
    page = made(tmp_path, tmp_path)[".md"]
    assert "mgda (model.width=64): relative to sum (model.width=4), although other options differ" in page
    write_run(tmp_path / "sum64", ["balancer=sum", "model.width=64"], 0, (0.5, 0.8))
    assert "although" not in made(tmp_path, tmp_path)[".md"]


def test_downloading_changes_no_task(tmp_path):
    write_run(tmp_path / "sum", ["balancer=sum"])
    write_run(tmp_path / "chained", ["model=chained", "balancer=sum", "task.download=true"])
    write_run(tmp_path / "other", ["model=chained", "balancer=mgda"])
    assert list(group(find_runs([str(tmp_path)])[0])) == ["compressed_fashion", "diamonds"]


def test_a_run_without_a_finite_result_is_shown_and_not_ranked(tmp_path):
    write_run(tmp_path / "good", ["balancer=sum"], 0, (0.6, 0.8))
    write_run(tmp_path / "other", ["balancer=mgda"], 0, (0.7, 0.8))
    write_run(tmp_path / "diverged", ["balancer=pcgrad"], 0, (math.nan, math.nan))
    files = made(tmp_path, tmp_path)
    assert table(files[".csv"])["pcgrad", "mean rank"] == (None, None)
    assert re.search(r"\| pcgrad \| 1 \| - \| - \|", files[".md"])


# ---- sets ------------------------------------------------------------------------------------------------------------


def sets_of(*places):
    return {title: {each.label: len(each.runs) for each in sets} for title, sets in group(find_runs(places)[0]).items()}


def test_sets_differ_in_options_and_not_in_seeds_or_places(tmp_path):
    for seed in (0, 1):
        write_run(tmp_path / f"a{seed}", ["balancer=cagrad"], seed)
        write_run(tmp_path / f"b{seed}", ["balancer=cagrad", "balancer.c=0.9"], seed)
        write_run(tmp_path / f"c{seed}", ["balancer=sum", "optimizer.lr=0.1", "data_dir=/elsewhere"], seed)
    assert sets_of(str(tmp_path)) == {
        "diamonds": {"cagrad": 2, "cagrad (balancer.c=0.9)": 2, "sum (optimizer.lr=0.1)": 2}
    }


def test_other_tasks_and_other_options_of_a_task_are_other_sections(tmp_path):
    write_run(tmp_path / "a")
    write_run(tmp_path / "b", ["task.target=price_usd"])
    write_run(tmp_path / "c", ["model=mmoe"])
    assert sets_of(str(tmp_path)) == {
        "diamonds (task.target=log_price)": {"shared_trunk, sum": 1, "mmoe, sum": 1},
        "diamonds (task.target=price_usd)": {"sum": 1},
    }


def test_older_runs_of_a_seed_are_left_out_and_named(tmp_path):
    write_run(tmp_path / "new", values=(0.9, 0.9))
    os.utime(write_run(tmp_path / "old", values=(0.1, 0.1)) / "summary.json", (0, 0))
    files = made(tmp_path, tmp_path)
    assert table(files[".csv"])["sum", "cut/accuracy"] == (0.9, None)
    assert "sum: older runs of the same seeds were left out (1)" in files[".md"]


def test_unfinished_runs_are_named_and_globs_are_understood(outputs, tmp_path, capsys):
    stopped = write_run(tmp_path / "stopped", status="stopped")
    made(tmp_path, f"{outputs}/*/seed0", stopped)
    said = capsys.readouterr()
    assert f"left out, as it is not finished: {stopped}" in said.err
    assert "| rlw | 1 |" in said.out


def test_directions_come_from_the_summary(outputs, tmp_path):
    known = directions(find_runs([str(outputs / "rlw")])[0])
    assert known == {"cut/loss": False, "cut/accuracy": True, "price/loss": False, "price/r2": True}
    other = json.loads((write_run(tmp_path / "run") / "summary.json").read_text())
    other["higher_is_better"]["test/price/r2"] = False
    (tmp_path / "run" / "summary.json").write_text(json.dumps(other))
    assert directions(find_runs([str(tmp_path)])[0]) == {**known, "price/r2": False}


def former(folder, **metrics):
    """A run of a version that wrote no directions."""
    path = write_run(folder) / "summary.json"
    summary = json.loads(path.read_text())
    del summary["higher_is_better"]
    summary["metrics"] |= metrics
    path.write_text(json.dumps(summary))


def test_runs_of_earlier_versions_can_be_compared(outputs, tmp_path, capsys):
    former(tmp_path / "run")
    known = directions(find_runs([str(tmp_path)])[0])
    assert known == {"cut/loss": False, "cut/accuracy": True, "price/loss": False, "price/r2": True}
    former(tmp_path / "other", **{"test/price/own": 1.0})
    made(tmp_path, tmp_path)
    message = capsys.readouterr().err
    assert str(tmp_path / "other" / "summary.json") in message
    assert "written by an earlier version, without directions; add whether higher is better" in message
    assert '"higher_is_better": {"test/price/own": true, ...}' in message


def test_earlier_versions_and_this_one_know_the_same_directions():
    needed = {"image_table": {"csv": "labels.csv", "classification": ["kind"], "regression": ["size"]}}
    results = [tasks.create_task(name, **needed.get(name, {})).results() for name in tasks.list_tasks()]
    known = {ResultKey.parse(name).metric: better for each in results for name, better in each.items()}
    assert FORMER_DIRECTIONS.items() <= known.items()


def test_results_stand_in_the_order_of_the_run_that_has_most():
    def run(*names):
        return FinishedRun(Path("run"), {"metrics": dict.fromkeys(names, 0.5)}, {})

    runs = [run("test/price/loss"), run("test/cut/loss", "test/price/loss")]
    assert list(directions(runs)) == ["cut/loss", "price/loss"]


# ---- errors ----------------------------------------------------------------------------------------------------------


def test_errors_name_what_is_wrong_and_what_to_do(outputs, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    stopped = write_run(tmp_path / "stopped", status="stopped")
    assert re.search("there is no .*nowhere; give run folders", refusal(capsys, tmp_path / "nowhere"))
    assert re.search("no summary.json in .*empty", refusal(capsys, tmp_path / "empty"))
    assert f"python train.py resume={stopped}" in refusal(capsys, tmp_path)
    assert "no runs of 'sim'; choose from mgda, pcgrad, rlw, sum" in refusal(capsys, outputs, "--baseline", "sim")
    assert "no result cut/acc; choose from cut/loss, cut/accuracy" in refusal(capsys, outputs, "--metrics", "cut/acc")
    assert "balancer=single balancer.objective=cut" in refusal(capsys, outputs, "--single-task")
    (tmp_path / "file").touch()
    assert "cannot create" in refusal(capsys, outputs, "--out", tmp_path / "file" / "folder")
    for text in ("{", "[]", '{"status": "finished", "metrics": "none"}', '{"status": "finished"}'):
        (tmp_path / "empty" / "summary.json").write_text(text)
        assert re.search("none of 1 runs can be compared; .*empty: it ", refusal(capsys, tmp_path / "empty"))


#: What is in a folder -> what is said about it.
NO_RUNS = {
    "a list": ("summary.json", "[]", "it cannot be read as a run"),
    "half a file": ("summary.json", '{"status": "fini', "it cannot be read as a run"),
    "of another program": ("summary.json", '{"loss": 1}', "it cannot be read as a run \\(it lacks 'status'\\)"),
    "without results": ("summary.json", '{"status": "finished", "metrics": {}}', "it cannot be read as a run"),
    "text as a result": (
        "summary.json",
        '{"status": "finished", "metrics": {"test/a/b": "x"}}',
        "it cannot be read as a run",
    ),
    "without a configuration": ("config.yaml", None, "it cannot be read as a run"),
    "an empty configuration": ("config.yaml", "", "it cannot be read as a run"),
    "a binary configuration": ("config.yaml", b"\xff\xfe", "it cannot be read as a run"),
    "stopped": ("summary.json", '{"status": "stopped"}', "it is not finished"),
}


def test_what_is_no_run_is_left_out_with_a_line_each(outputs, tmp_path, capsys):
    for name, (file, content, _) in NO_RUNS.items():
        path = write_run(tmp_path / "others" / name) / file
        path.unlink()
        if content is not None:
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
    files = made(tmp_path, outputs, tmp_path / "others")
    said = capsys.readouterr().err.splitlines()
    assert len(said) == len(NO_RUNS)
    for name, (_, _, reason) in NO_RUNS.items():
        assert [line for line in said if re.match(f"left out, as {reason}.*/{name}$", line)], name
        assert f"{tmp_path / 'others' / name}: it " in files[".html"]
    assert "Comparison of 9 runs" in files[".html"]
    assert f"| {len(RESULTS['sum'])} |" in files[".md"]


def test_a_run_of_packages_that_are_gone_and_of_another_folder_is_compared(outputs, tmp_path):
    moved = write_run(tmp_path / "elsewhere", ["balancer=mgda", "run_dir=/gone", "data_dir=/gone"])
    config = (moved / "config.yaml").read_text()
    (moved / "config.yaml").write_text(config.replace("imports: []", "imports: [a_package_that_is_gone]"))
    summary = json.loads((moved / "summary.json").read_text()) | {"balancer": "my_own", "model": "my_model"}
    (moved / "summary.json").write_text(json.dumps(summary))
    found = table(made(tmp_path, outputs, moved)[".csv"])
    assert found["my_model, my_own", "cut/accuracy"] == (0.5, None)


def test_a_damaged_table_leaves_its_run_out_of_the_curves(outputs, tmp_path):
    damaged = write_run(tmp_path / "damaged", ["balancer=cagrad"])
    (damaged / "metrics.csv").write_bytes(b"\xff\xfe,")
    files = made(tmp_path, outputs, damaged)
    assert "| cagrad ★ | 1 | 0.5000 |" in files[".md"] or "| cagrad | 1 |" in files[".md"]


def test_a_default_baseline_that_could_be_several_sets_is_none(tmp_path):
    for rate in (0.1, 0.2):
        write_run(tmp_path / f"sum{rate}", ["balancer=sum", f"optimizer.lr={rate}"])
    write_run(tmp_path / "mgda", ["balancer=mgda"])
    files = made(tmp_path, tmp_path)
    assert files[".md"].count("No delta-m where several sets could be the baseline: 'sum (optimizer.lr=0.1)'") == 1
    assert table(files[".csv"])["mgda", "delta-m, %"] == (None, None)
    assert table(files[".csv"])["sum (optimizer.lr=0.1)", "delta-m, %"] == (0, None)


def test_a_model_without_runs_of_the_baseline_is_named(tmp_path):
    for model, balancer in (("shared_trunk", "sum"), ("mmoe", "mgda"), ("shared_trunk", "mgda")):
        write_run(tmp_path / f"{model}-{balancer}", [f"model={model}", f"balancer={balancer}"])
    files = made(tmp_path, tmp_path)
    assert files[".md"].count("No delta-m for mmoe: no run of that model has sum.") == 1
    assert "No delta-m for shared_trunk" not in files[".md"]
    assert table(files[".csv"])["mmoe, mgda", "delta-m, %"] == (None, None)


def test_a_result_that_changed_its_sign_is_explained(tmp_path):
    write_run(tmp_path / "sum", ["balancer=sum"], values=(0.7, -0.1))
    write_run(tmp_path / "mgda", ["balancer=mgda"], values=(0.7, 0.5))
    note = "Of price/r2, some set and its baseline differ in sign"
    assert note in made(tmp_path, tmp_path)[".md"]
    assert note not in made(tmp_path, tmp_path, "--metrics", "cut/accuracy")[".md"]


def test_a_baseline_that_could_be_several_sets_is_asked_for(tmp_path, capsys):
    for name, rate in (("a", 0.1), ("b", 0.2)):
        write_run(tmp_path / name, ["balancer=sum", f"optimizer.lr={rate}"])
    write_run(tmp_path / "c", ["balancer=mgda"])
    message = refusal(capsys, tmp_path, "--baseline", "sum")
    assert "several sets of 'sum'; choose one of 'sum (optimizer.lr=0.1)', 'sum (optimizer.lr=0.2)'" in message
    write_run(tmp_path / "d", ["balancer=sum"], values=(0.25, 0.25))
    found = table(made(tmp_path, tmp_path, "--baseline", "sum")[".csv"])
    assert {found[f"sum (optimizer.lr={rate})", "delta-m, %"][0] for rate in (0.1, 0.2)} == {-100}


# ---- files -----------------------------------------------------------------------------------------------------------


def test_markdown_has_a_row_for_each_set_best_rank_first(outputs, tmp_path):
    lines = made(tmp_path, outputs)[".md"].splitlines()
    rows = [line for line in lines if line.startswith("| ")]
    assert rows[0].startswith("| balancer | seeds | delta-m, % | mean rank | cut/accuracy ↑ | price/r2 ↑ |")
    assert rows[-1].startswith("| rlw | 1 |")
    assert len(rows) == 1 + len(RESULTS)
    assert "**0.800 ± 0.000**" in next(row for row in rows if "mgda" in row)


def test_page_has_titles_where_files_have_keys(outputs, tmp_path):
    page = made(tmp_path, outputs)[".html"]
    assert "<button>cut: accuracy ↑</button>" in page
    assert "over “cut: accuracy”, “price: R²”;" in page
    assert "cut/accuracy" not in page
    shown = [{text.strip() for text in texts(picture)} for picture in pictures(page)]
    assert {"cut against price", "cut: accuracy ↑", "price: R² ↑"} <= shown[0]
    assert titled("price/mae_usd") == "price: mean absolute error, USD"
    assert (titled("depth/rmse"), titled("u/my_own")) == ("depth: root mean square error", "u: my own")


def test_a_wide_interval_does_not_set_the_axis():
    epochs, means = np.arange(1.0, 4.0), np.array([0.5, 0.6, 0.7])
    lines = {"a": (epochs, means, np.array([50.0, 0.1, 0.1])), "b": (epochs, means + 0.1, np.zeros(3))}
    (axes,) = _drawn("cut: accuracy", lines, {"a": "#2563eb", "b": "#d97706"}).axes
    low, high = axes.get_ylim()
    assert 0.4 < low < 0.5
    assert 0.8 < high < 0.9


def test_every_picture_names_the_sets(outputs, tmp_path):
    for picture in pictures(made(tmp_path, outputs)[".html"]):
        assert {*RESULTS} <= {text.strip() for text in texts(picture)}


def test_of_many_sets_the_best_and_the_baseline_have_a_color(tmp_path):
    sets = [RunSet(f"set {i}", "m", f"b{i}", {}, ()) for i in range(20)]
    part = Section("task", sets, {"a/r2": True, "b/r2": True}, ["a/r2"], ["a/r2", "b/r2"], baseline="set 19")
    part.columns["mean rank"] = [estimate([float(i)]) for i in range(20)]
    assert list(named_sets(part)) == [*(f"set {i}" for i in range(7)), "set 19"]
    part.columns |= {name: [estimate([float(i * i % 7)]) for i in range(20)] for name in part.main}
    ((picture, caption),) = pareto(part)
    shown = {text.strip() for text in texts(picture)}
    hidden = re.search(r"(\d+) names that found no room are left out", caption)
    assert len({each.label for each in sets} & shown) == 20 - int(hidden[1] if hidden else 0)
    assert "set 6" in shown  # the best


def test_a_single_run_has_no_charts(tmp_path):
    write_run(tmp_path / "runs" / "a")
    page = made(tmp_path, tmp_path / "runs")[".html"]
    assert pictures(page) == []
    assert "A single run: its report.html shows it." in page
    assert "One setting alone, so there is nothing to compare" in page
    assert "cost" not in page
    assert "--baseline" not in page


def test_several_tasks_have_an_index(tmp_path):
    write_run(tmp_path / "runs" / "a")
    write_run(tmp_path / "runs" / "b", ["task.target=price_usd"])
    page = made(tmp_path, tmp_path / "runs")[".html"]
    links = [attributes["href"][1:] for tag, attributes in elements(page) if tag == "a"]
    places = [attributes["id"] for tag, attributes in elements(page) if tag == "h2" and "id" in attributes]
    assert links == places
    assert len(links) == 2


PRESS = """<script>addEventListener("load", () => {
  const read = () => Array.from(document.querySelectorAll("tr")).slice(1).map(row => row.cells[0].textContent);
  const found = [read()];
  for (const column of [4, 4, 0]) { document.querySelectorAll("th button")[column].click(); found.push(read()); }
  document.title = JSON.stringify(found);
})</script></body>"""


@browser
def test_a_press_on_a_heading_sorts(outputs, tmp_path):
    page = made(tmp_path, outputs)[".html"]
    (tmp_path / "page.html").write_text(page.replace("</body>", PRESS), encoding="utf-8")
    dom, _ = browse(tmp_path / "page.html", tmp_path, "--dump-dom", "--virtual-time-budget=10000")
    before, rising, falling, by_name = json.loads(html.unescape(re.search("<title>(.*?)</title>", dom)[1]))
    accuracy = {"sum": 0.72, "mgda": 0.80, "pcgrad": 0.60, "rlw": 0.60}
    for rows, sign in ((rising, 1), (falling, -1)):
        values = [sign * accuracy[row.removesuffix(" ★")] for row in rows]
        assert values == sorted(values)
    assert by_name == sorted(before)


@browser
def test_page_is_complete_on_a_phone(outputs, tmp_path):
    page = made(tmp_path, outputs)[".html"]
    assert len(pictures(page)) == 5  # a pair of objectives, two results and two losses
    assert [a["src"][:5] for tag, a in elements(page) if "src" in a] == ["data:"] * 5
    (seen,), console = inspect([page], tmp_path)
    assert console == []
    assert seen["pictures"] == [True] * 5
    assert seen["requests"] == []
    assert seen["width"][1] <= seen["width"][0] <= 390


def test_real_runs_can_be_compared(stones, tmp_path):
    short = ("trainer.device=cpu", "trainer.batch_size=64", "trainer.max_steps=10", "logger.tensorboard=false")
    for balancer in ("sum", "pcgrad"):
        folder = tmp_path / "runs" / balancer
        train.run(mozoo.compose([f"task.csv={stones}", f"run_dir={folder}", f"balancer={balancer}", *short]))
    found = table(made(tmp_path, tmp_path / "runs")[".csv"])
    summary = json.loads((tmp_path / "runs" / "pcgrad" / "summary.json").read_text())
    assert found["pcgrad", "cut/accuracy"][0] == pytest.approx(summary["metrics"]["test/cut/accuracy"])
    assert found["sum", "cost"][0] == 1
