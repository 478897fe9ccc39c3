"""lab/benchmark_train.py: both loops do the same work, and what it writes is what it measured."""

import csv

import pytest
import torch

import mozoo
import train
from lab import benchmark_train, results
from mozoo import tools


def finished(tmp_path, *overrides):
    """Both loops after two epochs."""
    config = mozoo.compose([*overrides, "trainer.device=cpu", "trainer.epochs=2", f"data_dir={tmp_path / 'data'}"])
    (tmp_path / "run").mkdir()
    loop, bare = benchmark_train.both(config, tmp_path / "run")
    before = [parameter.detach().clone() for parameter in loop.run.model.parameters()]
    for _ in range(2):
        loop.train_epoch()
        bare.train_epoch()
    loop.close()
    return before, loop, bare


def assert_same_work(before, loop, bare):
    after = list(loop.run.model.parameters())
    assert not any(torch.equal(a, b) for a, b in zip(after, before, strict=True))
    torch.testing.assert_close(list(bare.model.parameters()), after, rtol=1e-3, atol=1e-5)
    assert bare.schedule.last_epoch == loop.run.state.step == loop.run.total_steps


def test_both_loops_end_with_the_same_weights_on_diamonds(stones, tmp_path):
    small = ("model.width=16", "model.depth=2", "trainer.batch_size=64", "logger.tensorboard=false")
    before, loop, bare = finished(tmp_path, f"task.csv={stones}", *small)
    assert_same_work(before, loop, bare)
    with (tmp_path / "run" / "balance.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == loop.run.total_steps // 10


def test_both_loops_end_with_the_same_weights_on_rooms(tmp_path):
    rooms = ("model=dense", "model.encoder=test_resnet", "model.width=4", "task.height=24", "task.width=32")
    few = ("task.train=9", "task.val=1", "task.test=1", "trainer.batch_size=4", "logger.tensorboard=false")
    assert_same_work(*finished(tmp_path, *rooms, *few, "trainer.precision=fp32"))


@pytest.mark.parametrize("method", ["sum", "pcgrad"])
def test_lightning_does_the_same_work(method, stones, tmp_path):
    pytest.importorskip("lightning")
    small = ("model.width=16", "model.depth=2", "trainer.batch_size=64", "logger.tensorboard=false")
    options = (*small, "trainer.device=cpu", "trainer.epochs=2", f"balancer={method}", f"task.csv={stones}")
    run = train.build(mozoo.compose([*options, f"data_dir={tmp_path / 'data'}"]))
    (tmp_path / "run").mkdir()
    loop = benchmark_train.TrainLoop(run, tmp_path / "run")
    others = [benchmark_train.LightningLoop(loop, sparing, tmp_path / str(sparing)) for sparing in (False, True)]
    for _ in range(2):
        loop.train_epoch()
        assert all(other.train_epoch()[0] > 0 for other in others)
    loop.close()
    for other in others:
        torch.testing.assert_close(
            list(other.parts.model.parameters()), list(run.model.parameters()), rtol=1e-3, atol=1e-5
        )
        assert other.parts.schedule.last_epoch == run.state.step == run.total_steps
    files = ("run/balance.csv", *(f"{sparing}/lightning_logs/version_0/metrics.csv" for sparing in (False, True)))
    first, *rest = ([row["loss/cut"] for row in results.read_rows(tmp_path / file)] for file in files)
    assert len(first) == run.total_steps // 10
    for losses in rest:
        assert list(map(float, losses)) == pytest.approx(list(map(float, first)), rel=1e-3)


def test_lightning_is_left_out_where_it_is_not_installed(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(benchmark_train, "find_spec", lambda name: None)
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    monkeypatch.setattr(benchmark_train, "BLOCKS", {})
    benchmark_train.main(["lightning"])
    assert capsys.readouterr().out == "lightning is left out, as it is not installed: pip install -e '.[loops]'\n"
    assert not list(tmp_path.iterdir())


def test_interval_holds_the_ratio_and_narrows_with_the_noise():
    quiet = benchmark_train.interval([1.0, 1.01, 0.99] * 5, [2.0, 2.02, 1.98] * 5)
    noisy = benchmark_train.interval([1.0, 1.5, 0.5] * 5, [2.0, 1.0, 3.0] * 5)
    assert quiet[0] <= 0.5 <= quiet[1]
    assert noisy[0] <= 0.5 <= noisy[1]
    assert quiet[1] - quiet[0] < noisy[1] - noisy[0]


def test_measured_parts_replace_their_rows_and_tables(monkeypatch, tmp_path):
    document = tmp_path / "docs" / "speed.md"
    document.parent.mkdir()
    document.write_text((results.ROOT / "docs" / "speed.md").read_text())
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    monkeypatch.setattr(results, "ROOT", tmp_path)
    monkeypatch.setattr(benchmark_train, "WORK", {"diamonds": ("model.width=8", "trainer.batch_size=4096")})
    for _ in range(2):
        benchmark_train.main(["diamonds", "files", "--rounds", "1"])
    rows = results.read_rows(tmp_path / "train_speed.csv")
    assert [row["variant"] for row in rows if row["part"] == "diamonds"] == ["bare", "train.py", "train.py / bare"]
    shares = {row["variant"]: float(row["value"]) for row in rows if row["part"] == "files"}
    assert 0 < sum(share for name, share in shares.items() if name != "together") <= shares["together"] + 4e-4 < 1
    bare, own, ratio = (float(row["value"]) for row in rows[:3])
    assert ratio == pytest.approx(own / bare, abs=2e-3)
    assert f"| {ratio:.3f} |" in document.read_text()


def test_what_stays_the_same_is_not_written_after_every_epoch(tmp_path):
    folder, model = tmp_path / "best", torch.nn.Linear(2, 1)

    def written():
        tools.save_weights(folder, model, {"model": "linear"})
        return [(folder / name).stat().st_ino for name in ("config.json", "model.safetensors")]

    (config, weights), (config_again, weights_again) = written(), written()
    assert config == config_again
    assert weights != weights_again
    tools.save_weights(folder, model, {"model": "line"})
    assert '"line"' in (folder / "config.json").read_text()


def test_unknown_part_is_one_line(capsys):
    with pytest.raises(SystemExit):
        benchmark_train.main(["diamond"])
    assert "choose from diamonds, rooms, lightning, files, startup" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["bare", "train.py"])
def test_start_is_measured_in_a_process_of_its_own(variant):
    wall, laps = benchmark_train.start_once(variant, "cpu")
    assert wall > 0.1
    assert min(laps.values()) >= 0
    assert laps["torch"] > 0.1
