"""scripts/largest_batch.py: the search, and two real steps with every size."""

import pytest
import torch

import mozoo
import train
from mozoo.batch_search import Try, bisect, take_two_steps, with_reserve
from scripts import largest_batch

GIB = 2**30


@pytest.fixture
def small(stones, tmp_path):
    return [
        f"task.csv={stones}",
        "trainer.device=cpu",
        "model.width=16",
        "model.depth=1",
        f"run_dir={tmp_path / 'run'}",
    ]


@pytest.mark.parametrize(("limit", "most"), [(8, 512), (15, 512), (200, 512), (1000, 4096), (511, 512), (1e9, 24)])
def test_search_finds_the_largest_multiple(limit, most):
    tried = []

    def fits(size):
        tried.append(size)
        return size <= limit

    found = bisect(fits, 8, most)
    exact = min(int(limit) // 8 * 8, most)
    assert 0.98 * exact <= found <= exact
    assert all(size % 8 == 0 for size in tried)
    assert len(set(tried)) == len(tried)
    assert max(tried) <= min(2 * limit, most)


def test_search_says_when_nothing_fits():
    assert bisect(lambda size: False, 8, 64) == 0


def test_reserve_is_kept_by_the_memory_measured():
    tried = [Try(size, 100 + size, 1.0, size <= 900) for size in (8, 512, 896, 1024)]
    assert with_reserve(tried, 896, 1000, 8) == 800


def test_reserve_is_a_tenth_of_the_batch_where_memory_does_not_grow():
    tried = [Try(size, 100, 1.0, True) for size in (8, 16, 800)]
    assert with_reserve(tried, 800, 1000, 8) == 720


def test_configuration_files_of_the_user_are_read(tmp_path, monkeypatch, capsys):
    (tmp_path / "my configs" / "experiment").mkdir(parents=True)
    file = tmp_path / "my configs" / "experiment" / "mine.yaml"
    file.write_text("# @package _global_\nseed: 7\n")
    seen = []
    monkeypatch.setattr("mozoo.commands.largest_batch.search", lambda config, *_: seen.append(config.seed) or 8)
    assert largest_batch.main(["--config-dir", str(file.parent.parent), "experiment=mine", "memory=1"]) == 8
    assert seen == [7]
    file.write_text("hydra: {callbacks: {a: {_target_: b}}}\n")
    for words in (["--config-dir", str(file.parent.parent)], ["--config-dir", str(tmp_path / "none")]):
        with pytest.raises(SystemExit):
            largest_batch.main([*words, "experiment=mine"])
        assert capsys.readouterr().err.startswith("error: ")


def test_every_sample_fits_into_enough_memory(small, capsys):
    assert largest_batch.main([*small, "memory=64", "balancer=pcgrad", "trainer.grad_accum_steps=2"]) == 1392
    shown = capsys.readouterr().out
    assert "as many as there are samples" in shown
    sizes = [int(line.split()[0]) for line in shown.splitlines() if line.split()[0].isdigit()]
    assert sizes == [16, 32, 64, 128, 256, 512, 1024, 1392]
    assert "trainer.batch_size=1392" in shown


def test_memory_grows_with_the_batch_and_stops_the_search(small, capsys):
    wide = [*small, "model.width=256", "model.depth=24"]
    few, many = (take_two_steps(train.build(mozoo.compose(wide)), train.train_step, n, GIB, 0) for n in (8, 1392))
    assert many.memory - few.memory > 20e6
    limit = (few.memory + many.memory) / 2
    assert not take_two_steps(train.build(mozoo.compose(wide)), train.train_step, 1392, int(limit), 0).fits


def test_too_little_memory_is_one_line(small, capsys):
    with pytest.raises(SystemExit) as stop:
        largest_batch.main([*small, "model.width=2000", "model.depth=3", "memory=0.01"])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: not even trainer.batch_size=8 fits")
    assert error.count("\n") == 1


@pytest.mark.parametrize(("override", "told"), [("memory=much", "number of GiB"), ("modle=dense", "model")])
def test_mistake_is_one_line(small, capsys, override, told):
    with pytest.raises(SystemExit) as stop:
        largest_batch.main([*small, override])
    assert stop.value.code == 2
    assert told in capsys.readouterr().err


def test_out_of_memory_is_a_size_that_does_not_fit(small):
    run = train.build(mozoo.compose(small))

    def limited(job, batch):
        if mozoo.data.batch_size(batch) > 100:
            raise torch.OutOfMemoryError("no room")
        return train.train_step(job, batch)

    assert [take_two_steps(run, limited, size, GIB * 64).fits for size in (96, 104, 64)] == [True, False, True]


def test_other_errors_are_not_taken_for_it(small):
    run = train.build(mozoo.compose(small))
    with pytest.raises(ZeroDivisionError):
        take_two_steps(run, lambda *arguments: 1 / 0, 8, GIB)


@pytest.mark.gpu
def test_largest_batch_on_cuda_leaves_room(stones, capsys):
    found = largest_batch.main([f"task.csv={stones}", "trainer.device=cuda", "model.width=4096", "memory=1"])
    assert found % 8 == 0
    assert f"trainer.batch_size={found}" in capsys.readouterr().out
    torch.cuda.reset_peak_memory_stats()
    run = train.build(mozoo.compose([f"task.csv={stones}", "trainer.device=cuda", "model.width=4096"]))
    assert take_two_steps(run, train.train_step, found, GIB).fits


def test_a_model_without_measurable_memory_gets_the_largest_size():
    tried = [Try(size, 0, 1.0, True) for size in (16, 1392)]
    assert with_reserve(tried, 1392, 64 * 2**30, 16) == 1392
