"""scripts/evaluate.py on real runs: the best weights have the numbers of the summary, and those of other splits."""

import csv
import json
import shutil
import subprocess
import sys

import pytest

from scripts import evaluate
from tests.tiny_runs import KINDS, ROOT, finished


@pytest.fixture
def run_of(tmp_path_factory):
    return lambda kind: finished(kind, tmp_path_factory)


@pytest.fixture
def copy_of(run_of, tmp_path):
    """A copy of a run folder, in which a test may break something."""
    return lambda kind: shutil.copytree(run_of(kind), tmp_path / "run")


def metrics(path):
    return json.loads(path.read_text())["metrics"]


def told(capsys, *words):
    """The message of a command that ends with exit code 2."""
    with pytest.raises(SystemExit) as ended:
        evaluate.main(words)
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    return error


@pytest.mark.parametrize("kind", KINDS)
def test_the_numbers_are_those_of_the_summary(copy_of, capsys, kind):
    run = copy_of(kind)
    evaluate.main([f"run={run}"])
    assert metrics(run / "evaluation-test.json") == metrics(run / "summary.json")
    printed = capsys.readouterr().out
    for key, value in metrics(run / "summary.json").items():
        assert value is None or f"{key.split('/')[2]} {value:.4g}" in printed


@pytest.mark.slow
def test_the_command_evaluates_another_split(copy_of, tmp_path):
    run = copy_of("images")
    with (run / "metrics.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "val"]
    best = rows[json.loads((run / "summary.json").read_text())["best_epoch"] - 1]
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts/evaluate.py"), "run=run", "split=val", "device=cpu"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("written to run/evaluation-val.json\n")
    found = metrics(run / "evaluation-val.json")
    assert found == {f"val/{key}": pytest.approx(float(value)) for key, value in best.items() if f"val/{key}" in found}
    assert len(found) == 6


def test_another_protocol_averages_over_batches(copy_of):
    run = copy_of("maps")
    for size in (1, 3):
        evaluate.main([f"run={run}", "protocol=mtan", f"batch_size={size}"])
        found = json.loads((run / "evaluation-test-mtan.json").read_text())
        assert (found["protocol"], found["batch_size"]) == ("mtan", size)
        assert found["metrics"].keys() == metrics(run / "summary.json").keys()
    pooled, batched = (metrics(run / f"{name}.json") for name in ("summary", "evaluation-test-mtan"))
    evaluate.main([f"run={run}", "protocol=pooled"])
    assert metrics(run / "evaluation-test-pooled.json") == pooled
    assert batched["test/depth/loss"] == pytest.approx(pooled["test/depth/loss"])
    evaluate.main([f"run={run}", "protocol=mtan", "batch_size=1"])
    single = metrics(run / "evaluation-test-mtan.json")
    for other in (pooled, batched):  # three rooms one by one, and together
        assert single["test/normals/median"] != pytest.approx(other["test/normals/median"], rel=1e-3)


def test_data_may_lie_elsewhere(copy_of, tmp_path):
    run = copy_of("maps")
    text = (run / "config.yaml").read_text()
    data = next(line.split(": ")[1] for line in text.splitlines() if line.startswith("data_dir"))
    (run / "config.yaml").write_text(text.replace(f"data_dir: {data}", "data_dir: /proc/nowhere"))
    evaluate.main([f"run={run}", f"data_dir={data}"])
    assert metrics(run / "evaluation-test.json") == metrics(run / "summary.json")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "run must be given"),
        (["run=nowhere"], "there is no folder nowhere"),
        (["run={run}", "spilt=val"], "there is no key 'spilt'; did you mean split?"),
        (["run={run}", "split=vall"], "split must be train, val or test, got 'vall'"),
        (["run={run}", "protocol=mtan"], "task ring_of_gaussians has no choice of protocols"),
        (["run={run}", "batch_size=big"], "batch_size: Value 'big'"),
        (["run={run}", "batch_size=0"], "trainer.eval_batch_size must be at least 1, got 0"),
        (["run={run}", "device=tpu"], "device must be"),
        (["run={run}/best"], "config.yaml; an evaluation needs the whole run folder"),
    ],
)
def test_what_cannot_be_done_is_one_message(run_of, capsys, words, message):
    run = run_of("points")
    capsys.readouterr()
    assert message in told(capsys, *(word.format(run=run) for word in words))


def test_an_unknown_protocol_is_named(run_of, capsys):
    run = run_of("maps")
    capsys.readouterr()
    assert "protocol must be one of pooled, mtan" in told(capsys, f"run={run}", "protocol=other")


def test_a_damaged_configuration_is_named(copy_of, capsys):
    run = copy_of("points")
    for text in ("seed: [", "", "- a list\n", "seed: 0\n"):
        (run / "config.yaml").write_text(text)
        capsys.readouterr()
        assert f"{run / 'config.yaml'} is damaged" in told(capsys, f"run={run}")


def test_weights_of_another_model_are_named(copy_of, run_of, capsys):
    run = copy_of("points")
    shutil.copy(run_of("table") / "best/model.safetensors", run / "best/model.safetensors")
    capsys.readouterr()
    assert "best cannot be loaded" in told(capsys, f"run={run}")
