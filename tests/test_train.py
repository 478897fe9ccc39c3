"""train.run, in this process: what it writes, what it repeats, and what it refuses."""

import csv
import json
import math
import shlex
import shutil

import pytest
import torch

import balancing
import mozoo
import tasks
import train
from mozoo import tools
from tests import forks
from tests.tiny_runs import stop_after
from zoo.shared_trunk import SharedTrunk

PER_EPOCH = 1398 // 64  # full batches of the training split


@pytest.fixture(scope="module")
def configure(stones):
    """Configuration of a short run on the CPU."""

    def compose(folder, *overrides):
        short = ("trainer.device=cpu", "trainer.batch_size=64", "trainer.max_steps=20", "logger.tensorboard=false")
        return mozoo.compose([f"task.csv={stones}", f"run_dir={folder}", *short, *overrides])

    return compose


@pytest.fixture
def train_in(configure, monkeypatch, tmp_path):
    """Train in a folder of ``tmp_path`` and return that folder; the report, which takes longest, is left out."""
    monkeypatch.setattr(tools, "write_report", lambda *arguments: None)

    def start(name, *overrides):
        train.run(configure(tmp_path / name, *overrides))
        return tmp_path / name

    return start


@pytest.fixture(scope="module")
def finished(configure, tmp_path_factory):
    """Folder, configuration and summary of a whole run of two epochs, with TensorBoard and a report."""
    folder = tmp_path_factory.mktemp("outputs") / "run"
    overrides = ("balancer=pcgrad", f"trainer.max_steps={2 * PER_EPOCH}", "logger.tensorboard=true")
    config = configure(folder, *overrides)
    return folder, config, train.run(config)


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def saved(folder):
    return torch.load(folder / "last.pt", weights_only=True)


def assert_equal(a, b):
    torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


def differ(a, b):
    return [name for name in a if not torch.equal(a[name], b[name])]


def spoil(monkeypatch, objective, step):
    """Make the loss of ``objective`` not a number in one step."""
    losses, calls = tasks.Task.losses, iter(range(1, 10_000))

    def spoiled(self, model, batch, phase):
        found, features = losses(self, model, batch, phase)
        if next(calls) == step:
            found[objective] = found[objective] * math.nan
        return found, features

    monkeypatch.setattr(tasks.Task, "losses", spoiled)


def through_a_loader(monkeypatch):
    """Hand out every split as a list of samples, which goes through a DataLoader."""
    load = tasks.diamonds.Diamonds.load

    def samples(split):
        index = torch.arange(len(split))
        return [
            tasks.Batch(tuple(x[i] for x in split.inputs), {k: y[i] for k, y in split.targets.items()}) for i in index
        ]

    def loaded(self, data_dir):
        splits = load(self, data_dir)
        return tasks.Splits(*map(samples, splits), state=splits.state)

    monkeypatch.setattr(tasks.diamonds.Diamonds, "load", loaded)


# ---- the run folder --------------------------------------------------------------------------------------------------


def test_run_folder_holds_what_is_promised_and_nothing_else(finished):
    folder, _, _ = finished
    assert {path.name for path in folder.iterdir()} == {
        "config.yaml",
        "metrics.csv",
        "balance.csv",
        "summary.json",
        "last.pt",
        "best",
        "report.html",
        "tensorboard",
    }
    assert {path.name for path in (folder / "best").iterdir()} == {"model.safetensors", "config.json", "README.md"}
    assert [path.name.split(".")[0] for path in (folder / "tensorboard").iterdir()] == ["events"]


def test_no_tensorboard_folder_when_it_is_off(train_in):
    assert not (train_in("run", "trainer.max_steps=1") / "tensorboard").exists()


def test_weights_per_layer_are_recorded_with_the_conflicts_of_every_layer(train_in):
    table = rows(
        train_in("run", "balancer=pcgrad", "trainer.weights_per=layer", "trainer.max_steps=20") / "balance.csv"
    )
    layers = [name for name in table[0] if name.startswith("conflicts/trunk.")]
    assert len(layers) >= 2
    assert {row[name] for row in table for name in layers} <= {"0", "1"}
    whole = rows(train_in("whole", "balancer=pcgrad", "trainer.max_steps=20") / "balance.csv")
    assert table[-1]["loss/cut"] != whole[-1]["loss/cut"]


def test_metrics_table_has_a_row_per_epoch_and_split(finished):
    folder, config, summary = finished
    table = rows(folder / "metrics.csv")
    assert [(row["epoch"], row["split"]) for row in table] == [
        ("1", "train"),
        ("1", "val"),
        ("2", "train"),
        ("2", "val"),
        (str(summary["best_epoch"]), "test"),
    ]
    results = list(tasks.create_task(**config.task).results())
    for row in table:
        told = [name for name in results if row["split"] != "train" or name.endswith("/loss")]
        assert all(math.isfinite(float(row[name])) for name in ("step", "seconds", "lr", *told))
        assert all(row[name] == "" for name in results if name not in told)


def test_balance_table_has_a_full_row_every_ten_steps(finished):
    table = rows(finished[0] / "balance.csv")
    assert [int(row["step"]) for row in table] == list(range(10, 2 * PER_EPOCH + 1, 10))
    assert {"loss/cut", "weight/price", "norm/cut", "cosine/cut/price", "conflicts"} <= set(table[0])
    assert all(math.isfinite(float(value)) for row in table for name, value in row.items() if name != "phase")


def test_summary_has_every_promised_key(finished):
    folder, config, summary = finished
    assert json.loads((folder / "summary.json").read_text()) == summary
    promised = "model task balancer seed status metrics epochs steps seconds samples_per_second device precision"
    assert set(promised.split()) | {"world_size", "versions", "git"} <= set(summary)
    told = {key: summary[key] for key in ("model", "task", "balancer", "seed", "status", "epochs", "steps")}
    assert told == {
        "model": "shared_trunk",
        "task": "diamonds",
        "balancer": "pcgrad",
        "seed": 0,
        "status": "finished",
        "epochs": 2,
        "steps": 2 * PER_EPOCH,
    }
    results = list(tasks.create_task(**config.task).results())
    assert set(summary["metrics"]) == {f"test/{name}" for name in results}
    assert summary["higher_is_better"] == {
        f"test/{name}": better for name, better in tasks.create_task(**config.task).results().items()
    }
    assert torch.__version__.startswith(summary["versions"]["torch"])


def test_config_file_repeats_the_configuration(finished):
    folder, config, _ = finished
    assert tools.validate(mozoo.config.OmegaConf.load(folder / "config.yaml")) == config


def test_best_weights_give_the_recorded_test_metrics(finished):
    folder, config, summary = finished
    model = SharedTrunk.from_pretrained(folder / "best").eval()
    task = tasks.create_task(**config.task)
    test = task.splits().test
    found = tools.evaluate(model, task, task.splits(), 256, tools.Precision("fp32", torch.device("cpu")), name="test")
    assert {f"test/{name}": value for name, value in found.values.items()} == pytest.approx(summary["metrics"])
    with torch.no_grad():
        outputs = model(*test.inputs)
    hits = (outputs["cut"].argmax(1) == test.targets["cut"]).float().mean()
    error = (outputs["price"] - test.targets["price"]).square().mean()
    assert summary["metrics"]["test/cut/accuracy"] == pytest.approx(float(hits))
    assert summary["metrics"]["test/price/loss"] == pytest.approx(float(error), rel=1e-5)


def test_folder_with_files_in_it_is_refused_and_left_alone(train_in, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    with pytest.raises(mozoo.ConfigError, match="is not empty"):
        train_in("run")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("before", [True, False])
def test_a_run_that_could_not_start_leaves_nothing(train_in, tmp_path, monkeypatch, before):
    if before:
        (tmp_path / "run").mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(train, "train_step", lambda *_: (_ for _ in ()).throw(balancing.BalancingError("too large")))
        with pytest.raises(balancing.BalancingError, match="step 1: too large"):
            train_in("run")
    assert (tmp_path / "run").exists() == before
    train_in("run", "trainer.max_steps=1")


def test_a_run_that_ended_before_its_first_checkpoint_is_not_to_be_resumed(train_in, tmp_path, monkeypatch):
    step, done = train.train_step, []

    def fail_later(*arguments):
        done.append(1)
        if len(done) == 3:
            raise balancing.BalancingError("too large")
        return step(*arguments)

    monkeypatch.setattr(train, "train_step", fail_later)
    with pytest.raises(balancing.BalancingError, match="step 3: too large"):
        train_in("a b")
    with pytest.raises(mozoo.ConfigError, match=r"a b is not empty; choose another folder$"):
        train_in("a b")
    (tmp_path / "a b/last.pt").touch()
    with pytest.raises(mozoo.ConfigError) as caught:
        train_in("a b")
    assert str(caught.value).endswith(f"""or continue its run with: python train.py 'resume="{tmp_path}/a b"'""")


def test_dry_run_writes_nothing(configure, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    assert train.run(configure("run", "trainer.dry_run=true", "balancer=pcgrad")) == {"status": "dry_run"}
    assert list(tmp_path.iterdir()) == []
    shown = capsys.readouterr().out
    assert all(text in shown for text in ("(64, 21)", "cut (64, 5)", "price (64, 1)", "cosine/cut/price"))


# ---- training --------------------------------------------------------------------------------------------------------


#: One of each kind that the loop must serve; tests/balancing has every method.
KINDS = [
    *("sum", "uncertainty", "rlw", "dwa", "famo", "alternating", "pcgrad", "gradnorm", "modo", "imtl"),
    *("graddrop", "moco", "conflict_free_momentum", "auto_lambda", "moml", "forum"),
]


@pytest.mark.parametrize("balancer", [*KINDS, "pcgrad balancer.before=uncertainty"])
def test_every_kind_of_balancer_trains(train_in, configure, tmp_path, balancer):
    overrides = (*f"balancer={balancer}".split(), "trainer.max_steps=10")
    untrained = train.build(configure(tmp_path / "run", *overrides)).model
    trained = saved(train_in("run", *overrides))["model"]
    assert all(tensor.isfinite().all() for tensor in trained.values())
    assert [name for name, parameter in untrained.named_parameters() if torch.equal(parameter, trained[name])] == []


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (("balancer=krum",), "krum: byzantine=0 needs at least 3 objectives"),
        (("balancer=forum", "trainer.grad_accum_steps=2"), "needs trainer.grad_accum_steps=1"),
        (("balancer=moml", "trainer.precision=fp16"), "trainer.precision=fp32 or bf16"),
        (("balancer=gradnorm", "trainer.weights_per=layer"), "gradnorm: keeps state of the whole gradients"),
        (("balancer=moml", "trainer.weights_per=layer"), "use trainer.weights_per=model"),
        (("balancer=pcgrad", "balancer.before=mgda"), "only a method that weighs losses can come before it"),
        (("balancer=pcgrad", "balancer.before=uncertanty"), "did you mean uncertainty"),
        (
            ("balancer=pcgrad", "balancer.before={name: uncertainty, inti: 0}"),
            "has no option 'inti'; did you mean init",
        ),
    ],
)
def test_a_balancer_that_cannot_run_says_so_before_anything_is_written(configure, tmp_path, overrides, problem):
    with pytest.raises(mozoo.ConfigError, match=problem):
        train.run(configure(tmp_path / "run", *overrides))
    assert not (tmp_path / "run").exists()


def test_the_method_before_has_the_defaults_of_its_own_file(configure, tmp_path):
    (turn,) = train.build(configure(tmp_path / "run", "balancer=pcgrad", "balancer.before=uncertainty")).phases
    assert turn.balancer.loss_balancer.likelihood.tolist() == [1.0, 0.5]  # classification: auto
    assert [group["params"] for group in turn.balancer_optimizer.param_groups] == [list(turn.balancer.parameters())]


def test_training_lowers_every_loss(finished):
    first, last = (row for row in rows(finished[0] / "metrics.csv") if row["split"] == "train")
    assert float(last["cut/loss"]) < float(first["cut/loss"])
    assert float(last["price/loss"]) < float(first["price/loss"])


def test_one_objective_alone_trains(train_in):
    table = rows(train_in("run", "model.regressors={}") / "metrics.csv")
    assert all(math.isfinite(float(row["cut/loss"])) for row in table)


def test_equal_seeds_give_equal_weights(train_in):
    first, second = (saved(train_in(name, "seed=3", "balancer=pcgrad")) for name in ("first", "second"))
    assert_equal(first["model"], second["model"])


def test_different_seeds_give_different_weights(train_in):
    first, second = (saved(train_in(f"seed{seed}", f"seed={seed}"))["model"] for seed in (0, 1))
    assert {name for name in first if first[name].is_floating_point()} == set(differ(first, second))


@pytest.mark.parametrize("balancer", ["sum", "realtime", "mgda", "pcgrad"])
def test_micro_batches_give_the_weights_of_whole_batches(train_in, balancer):
    exact = ("model.norm=layer", "model.dropout=0", "optimizer=sgd", "optimizer.lr=0.005", f"balancer={balancer}")
    whole, parts = (saved(train_in(f"accumulate{n}", *exact, f"trainer.grad_accum_steps={n}"))["model"] for n in (1, 4))
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("balancer", ["sum", "mgda"])
def test_micro_batches_of_unequal_sizes_give_the_weights_of_the_whole_batch(train_in, balancer):
    exact = ("model.norm=layer", "model.dropout=0", "optimizer=sgd", "optimizer.lr=0.005", f"balancer={balancer}")
    larger_than_the_split = ("trainer.batch_size=2048", "trainer.max_steps=1")
    whole, parts = (
        saved(train_in(f"accumulate{n}", *exact, *larger_than_the_split, f"trainer.grad_accum_steps={n}"))["model"]
        for n in (1, 512)
    )
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("balancer", ["sum", "realtime", "mgda"])
def test_micro_batches_log_the_losses_of_whole_batches(train_in, balancer):
    exact = ("model.norm=layer", "model.dropout=0", "optimizer=sgd", "optimizer.lr=0.005", f"balancer={balancer}")
    whole, parts = (
        rows(train_in(f"accumulate{n}", *exact, f"trainer.grad_accum_steps={n}") / "metrics.csv")[0] for n in (1, 4)
    )
    assert float(parts["cut/loss"]) == pytest.approx(float(whole["cut/loss"]), rel=1e-4)
    assert float(parts["price/loss"]) == pytest.approx(float(whole["price/loss"]), rel=1e-4)


@pytest.mark.parametrize("balancer", ["sum", "pcgrad", "gradnorm"])
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_low_precision_trains_close_to_full_precision(train_in, precision, balancer):
    low, full = (
        rows(train_in(name, f"balancer={balancer}", f"trainer.precision={name}") / "metrics.csv")[0]
        for name in (precision, "fp32")
    )
    assert float(low["cut/loss"]) == pytest.approx(float(full["cut/loss"]), rel=0.05)
    assert float(low["price/loss"]) == pytest.approx(float(full["price/loss"]), rel=0.05)


def compiled_and_eager(train_in):
    small = ("model.width=16", "model.dropout=0", "trainer.max_steps=8", "balancer=mgda", "trainer.log_every=1")
    eager = rows(train_in("eager", *small) / "balance.csv")
    torch._dynamo.reset()
    compiled = rows(train_in("compiled", *small, "trainer.compile=true") / "balance.csv")
    torch._dynamo.reset()
    return [
        [float(row[f"{kind}/{name}"]) for row in table for kind in ("loss", "weight") for name in ("cut", "price")]
        for table in (compiled, eager)
    ]


def test_compiled_model_gives_the_losses_of_the_eager_one(train_in, monkeypatch):
    calls = []

    def quick(function):
        calls.append(function.__name__)
        return compile_(function, backend="aot_eager")

    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", quick)
    compiled, eager = compiled_and_eager(train_in)
    assert calls == ["features", "heads"]
    assert compiled == pytest.approx(eager, rel=1e-4)


@pytest.mark.parametrize("discriminators", [1, 2])
def test_compiled_gan_measures_what_the_eager_one_does(configure, monkeypatch, tmp_path, discriminators):
    words = ("model=gan_points", "model.width=8", "model.depth=2", f"model.discriminators={discriminators}")
    words += ("task=ring_of_gaussians", "task.labels=true", "task.samples=64", "balancer=mgda", "trainer.device=cpu")
    found = []
    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function: compile_(function, backend="aot_eager"))
    for flag in ("false", "true"):
        torch._dynamo.reset()
        job = train.build(mozoo.compose([*words, "trainer.batch_size=64", f"trainer.compile={flag}"]))
        torch.manual_seed(0)
        batch = next(tools.epoch_batches(job, 0))
        found.append([report.gramian for report in train.train_step(job, batch)])
    torch._dynamo.reset()
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_model_compiled_with_inductor_gives_the_losses_of_the_eager_one(train_in):
    compiled, eager = compiled_and_eager(train_in)
    assert compiled == pytest.approx(eager, rel=1e-4)


def test_run_that_python_started_says_what_repeats_it(train_in, tmp_path):
    run = train_in("run", "model.width=8", "balancer=mgda")
    words = shlex.split(json.loads((run / "summary.json").read_text())["command"])
    assert words[:2] == ["python", "train.py"]
    forks.run("train.py", *words[2:], cwd=tmp_path).check_returncode()
    (again,) = tmp_path.glob("outputs/shared_trunk-diamonds-mgda/*")
    assert differ(saved(run)["model"], saved(again)["model"]) == []
    assert list((tmp_path / "outputs").iterdir()) == [again.parent]
    assert shlex.split(json.loads((again / "summary.json").read_text())["command"])[2:] == words[2:]


def test_each_network_trains_at_its_own_rate(train_in, configure, tmp_path):
    overrides = (
        "optimizer=adam",
        "optimizer.per_network=true",
        "optimizer.network_lr={trunk: 1.0e-7}",
        "scheduler=constant",
    )
    before = dict(train.build(configure(tmp_path / "run", *overrides)).model.named_parameters())
    after = saved(train_in("run", *overrides))["model"]
    moved = {
        part: max((after[name] - before[name]).abs().max().item() for name in before if name.startswith(part))
        for part in ("trunk", "head")
    }
    assert 0 < moved["trunk"] < 20 * 2e-7
    assert moved["head"] > 1e-2


def test_loss_that_is_not_a_number_is_an_error_naming_objective_step_and_samples(train_in, monkeypatch):
    spoil(monkeypatch, "price", step=5)
    with pytest.raises(balancing.BalancingError, match=r"^step 5, training samples \d+, .*'price' is not finite"):
        train_in("run")


@pytest.mark.parametrize("accumulate", [1, 4])
@pytest.mark.parametrize("balancer", ["sum", "realtime", "pcgrad"])
def test_skipped_step_moves_no_parameter(configure, monkeypatch, tmp_path, balancer, accumulate):
    overrides = ("balancer.on_nonfinite=skip", f"balancer={balancer}", f"trainer.grad_accum_steps={accumulate}")
    job = train.build(configure(tmp_path, *overrides))
    before = [parameter.detach().clone() for parameter in job.model.parameters()]
    spoil(monkeypatch, "price", step=1 + accumulate // 2)
    batch = next(mozoo.data.training_batches(job.splits.train, 64, 0, 0, 0, job.device, 0))
    (report,) = train.train_step(job, batch)
    assert report.skipped
    assert report.skips == 1
    assert_equal(list(job.model.parameters()), before)


def test_skipped_step_is_left_out_of_the_means(train_in, monkeypatch):
    spoil(monkeypatch, "price", step=5)
    folder = train_in("run", "balancer.on_nonfinite=skip")
    assert all(tensor.isfinite().all() for tensor in saved(folder)["model"].values())
    assert math.isfinite(float(rows(folder / "metrics.csv")[0]["price/loss"]))


# ---- resuming --------------------------------------------------------------------------------------------------------

LONG = (f"trainer.max_steps={2 * PER_EPOCH}", "model.norm=batch", "model.dropout=0.2", "trainer.log_every=1")


def assert_resume_is_exact(train_in, monkeypatch, stop, *overrides):
    whole = train_in("whole", *LONG, *overrides)
    with monkeypatch.context() as patch:
        stop_after(patch, stop)
        stopped = train_in("stopped", *LONG, *overrides)
    assert json.loads((stopped / "summary.json").read_text())["status"] == "stopped"
    assert saved(stopped)["state"]["step"] == stop
    train_in("unused", *LONG, *overrides, f"resume={stopped}")

    once, twice = saved(whole), saved(stopped)
    for part in ("model", "turns", "scaler", "rng"):
        assert_equal(twice[part], once[part])
    assert (stopped / "balance.csv").read_bytes() == (whole / "balance.csv").read_bytes()
    tables = [rows(folder / "metrics.csv") for folder in (stopped, whole)]
    for row in (*tables[0], *tables[1]):
        del row["seconds"]
    assert tables[0] == tables[1]
    results = [json.loads((folder / "summary.json").read_text())["metrics"] for folder in (stopped, whole)]
    assert results[0] == results[1]
    assert not (stopped.parent / "unused").exists()


@pytest.mark.parametrize(
    "balancer",
    [
        *("sum", "uncertainty", "famo", "dwa", "pcgrad", "gradnorm", "moco", "conflict_free_momentum", "auto_lambda"),
        "pcgrad balancer.before=uncertainty",
    ],
)
def test_resume_is_bit_equal(train_in, monkeypatch, balancer):
    assert_resume_is_exact(train_in, monkeypatch, PER_EPOCH + 9, *f"balancer={balancer}".split())


def test_resume_is_bit_equal_in_half_precision(train_in, monkeypatch):
    assert_resume_is_exact(train_in, monkeypatch, 7, "balancer=pcgrad", "trainer.precision=fp16")


def test_resume_is_bit_equal_when_stopped_before_validation(train_in, monkeypatch):
    assert_resume_is_exact(train_in, monkeypatch, PER_EPOCH, "balancer=pcgrad")


def test_resume_is_bit_equal_with_a_loader(train_in, monkeypatch):
    through_a_loader(monkeypatch)
    assert_resume_is_exact(train_in, monkeypatch, PER_EPOCH + 9, "balancer=sum")


def test_resumed_run_needs_its_best_weights_and_writes_its_configuration_again(train_in):
    folder = train_in("run", "trainer.max_steps=5")
    config = (folder / "config.yaml").read_text()
    (folder / "config.yaml").unlink()
    train_in("unused", "trainer.max_steps=5", f"resume={folder}")
    assert (folder / "config.yaml").read_text().replace("unused", "run") == config
    shutil.rmtree(folder / "best")
    with pytest.raises(mozoo.ConfigError, match=r"there is no .*best, the weights of epoch 1; restore it"):
        train_in("unused", "trainer.max_steps=5", f"resume={folder}")


def test_finished_run_can_be_resumed_and_stays_as_it_is(train_in):
    folder = train_in("run", "trainer.max_steps=5")
    weights, table = saved(folder)["model"], (folder / "metrics.csv").read_text()
    train_in("unused", "trainer.max_steps=5", f"resume={folder}")
    assert_equal(saved(folder)["model"], weights)
    assert (folder / "metrics.csv").read_text() == table


# ---- schedules and selection -----------------------------------------------------------------------------------------


def learning_rates(config):
    job = train.build(config)
    rates = []
    for step in range(job.total_steps):
        job.phases[0].schedule(step)
        rates.append(job.phases[0].lr)
    return rates


def test_one_cycle_starts_low_peaks_and_ends_low(configure, tmp_path):
    shape = ("optimizer.lr=0.01", "scheduler.start=0.05", "scheduler.end=0.1", "trainer.max_steps=100")
    rates = learning_rates(configure(tmp_path, *shape, "scheduler.warmup=0.3"))
    assert rates[0] == pytest.approx(0.05 * 0.01)
    assert max(rates) == pytest.approx(0.01)
    assert rates.index(max(rates)) == 30
    assert rates[-1] == pytest.approx(0.1 * 0.01, rel=0.01)
    assert rates == sorted(rates[:31]) + sorted(rates[31:], reverse=True)


def test_constant_schedule_is_constant(configure, tmp_path):
    assert set(learning_rates(configure(tmp_path, "optimizer.lr=0.01", "scheduler=constant"))) == {0.01}


def test_step_schedule_falls_to_a_tenth_three_times(configure, tmp_path):
    shape = ("optimizer.lr=1", "scheduler=step", "trainer.max_steps=100")
    rates = learning_rates(configure(tmp_path, *shape))
    assert rates == pytest.approx([1.0] * 30 + [0.1] * 30 + [0.01] * 30 + [0.001] * 10)


def test_training_follows_the_schedule(finished):
    config = finished[1]
    rates = learning_rates(config)
    logged = [float(row["lr"]) for row in rows(finished[0] / "metrics.csv") if row["split"] == "train"]
    assert logged == pytest.approx([rates[PER_EPOCH - 1], rates[-1]])


@pytest.fixture(scope="module")
def task(stones):
    found = tasks.create_task("diamonds", csv=str(stones))
    found.splits()
    return found


def best_epoch(rule, task, epochs):
    selector = tools.Selector(rule, task, task.splits())
    scores = [selector.score(values, number) for number, values in enumerate(epochs, start=1)]
    return scores.index(min(scores)) + 1


def test_selector_knows_which_direction_is_better(task):
    epochs = [
        {"cut/accuracy": 0.5, "cut/loss": 2.0, "price/loss": 1.0, "price/mae_usd": 9.0},
        {"cut/accuracy": 0.9, "cut/loss": 1.0, "price/loss": 0.1, "price/mae_usd": 5.0},
        {"cut/accuracy": 0.7, "cut/loss": 0.9, "price/loss": 0.5, "price/mae_usd": 7.0},
    ]
    best = {"val/cut/accuracy": 2, "val/cut/loss": 3, "val/price/mae_usd": 2, "loss": 2, "last": 3}
    assert {rule: best_epoch(rule, task, epochs) for rule in best} == best


def test_selector_weighs_losses_by_their_priors(task):
    priors = task.prior_losses(task.splits())
    values = {f"{name}/loss": 0.5 * prior for name, prior in priors.items()}
    assert tools.Selector("loss", task, task.splits()).score(values, 1) == pytest.approx(0.5)


def test_selector_never_prefers_what_is_not_a_number(task):
    epochs = [{"price/r2": math.nan}, {"price/r2": -5.0}]
    assert best_epoch("val/price/r2", task, epochs) == 2


def test_best_weights_are_those_of_the_best_epoch(train_in, monkeypatch):
    values = iter([0.5, 0.9, 0.7])
    kept = []
    save = tools.save_weights
    monkeypatch.setattr(tools.Selector, "score", lambda self, found, epoch, seen: -next(values))
    monkeypatch.setattr(tools, "save_weights", lambda *arguments: (kept.append(None), save(*arguments)))
    folder = train_in("run", f"trainer.max_steps={3 * PER_EPOCH}")
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["best_epoch"], summary["score"], len(kept)) == (2, -0.9, 2)
