"""train.py as a command: one line for every mistake, a stop that can be resumed, sweeps, and plain output."""

import json
import lzma
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra

import train
from mozoo.words import quoted
from tests.forks import start

ROOT = Path(__file__).resolve().parent.parent
SHORT = ("trainer.device=cpu", "trainer.batch_size=64", "logger.tensorboard=false")


@pytest.fixture
def fails(monkeypatch, capsys, tmp_path):
    """Run the command in this process; it must end with exit code 2 and one line, which is returned."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")

    def call(*arguments):
        before = sorted(tmp_path.rglob("*"))
        monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
        GlobalHydra.instance().clear()
        with pytest.raises(SystemExit) as stop:
            train.main()
        out, err = capsys.readouterr()
        assert_one_line(stop.value.code, out, err)
        assert sorted(tmp_path.rglob("*")) == before
        return err

    yield call
    GlobalHydra.instance().clear()


def assert_one_line(code, out, err):
    assert code == 2, err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert "Traceback" not in out + err


def finish(process):
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


# ---- mistakes --------------------------------------------------------------------------------------------------------

MISTAKES = {
    "model=shared_trnk": "did you mean shared_trunk, shared_trunk_cnn, shared_trunk_timm?",
    "balancer=pcgrd": "did you mean pcgrad, pcd, upgrad?",
    "task=diamond": "did you mean diamonds?",
    "optimizer=adamv": "did you mean adam, adamw?",
    "optimizer.name=adamv": "did you mean adam",
    "scheduler.name=cosin": "did you mean cosine?",
    "trainer.monitor=val/cut/acuracy": "did you mean val/cut/accuracy",
    "imports=[no_such_module]": "no_such_module",
    "trainer.epoch=3": "did you mean trainer.epochs",
    "+trainer.epoch=3": "did you mean trainer.epochs",
    "trainer.epohcs=3": "did you mean trainer.epochs",
    "trianer.epochs=3": "did you mean trainer?",
    "sed=1": "did you mean seed",
    "+sed=1": "did you mean seed",
    "model.nrom=layer": "did you mean norm",
    "+model.nrom=layer": "did you mean norm",
    "task.traget=price_usd": "did you mean target",
    "balancer.update_evry=2": "did you mean update_every",
    "balancer.c=0.4": "this balancer has no option 'c'; it is one of cagrad",
    "task.nosuch=1": "task has no option 'nosuch'; `mozoo info NAME` lists the options of one task",
    "+balancer.alpha=1": "balancer 'sum' has no option 'alpha'",
    "seed=abc": "seed",
    "seed=-1": "seed must be at least 0",
    "trainer.epochs=-1": "trainer.epochs must be at least 1",
    "trainer.epochs=2.5": "trainer.epochs",
    "trainer.compile=perhaps": "trainer.compile",
    "trainer.precision=fp8": "must be one of fp32, bf16, fp16, auto",
    "trainer.device=tpu": "auto, cpu, cuda",
    "trainer.grad_accum_steps=3": "must divide trainer.batch_size",
    "optimizer.lr=fast": "optimizer.lr",
    "optimizer.lr=0": "optimizer.lr must be positive",
    "optimizer.network_lr={trunk: 0.1}": "needs optimizer.per_network=true",
    "scheduler.warmup=2": "scheduler.warmup",
    "model.width=abc": "model.width must be an integer",
    "model.width=0": "width",
    "model.norm=bach": "model.norm must be one of batch, layer, none",
    "model.dropout=1.5": "dropout",
    "balancer.at=nowhere": "balancer.at must be one of shared, features, subset",
    "task.target=euros": "task.target must be one of log_price, price_usd",
    "model.classifiers={colour: 5}": "but task diamonds has ('cut', 'price')",
    "resume=nowhere": "there is no nowhere/last.pt",
    "trainer.epochs=[1": "cannot read",
    "freeze=trunk": "freeze must be a list, even of one: 'freeze=[...]'",
    "task.objectives=[spend (€)]": "quotes of its own: 'task.objectives=[\"a (b)\", c]'",
    "task.criteria={größe: huber}": "Latin letters, digits and _ only; write options of other names in a YAML file",
    "task.objectives={größe (cm): number, b: tags}": """'task.objectives=["größe (cm): number", "b: tags"]'""",
    "task.objectives={größe: {kind: number, log: true}}": """'task.objectives=[{column: "größe", kind: number, log: true}]'""",
    "task.objectives={a: {kind: tags, separator: ;}}": 'a separator needs quotes: separator: ";"',
    "lr=0.1": "did you mean optimizer.lr?",
    "epochs=3": "did you mean trainer.epochs?",
    "batch_size=8": "did you mean trainer.batch_size?",
    "trainer.lr=1": "did you mean optimizer.lr?",
    "model.lr=1": "did you mean optimizer.lr?",
    "+trainer.optimizer=adam": "did you mean optimizer?",
    "learning_rate=1": "did you mean optimizer.lr?",
    "gradient_clip_val=1": "did you mean trainer.max_grad_norm?",
    "csv=stones.csv": "did you mean task.csv?",
    "scheduler=cosine": "write scheduler.name=cosine",
    "optimizer=lamb": "write optimizer.name=lamb",
    "trainer=3": "trainer is a section",
    "model=null": "model is a section",
    "diamonds": "such as task=diamonds",
    "epochs": "such as epochs=...",
    "balancer=pcgrad,mgda": "python train.py -m balancer=pcgrad,mgda",
    "--epochs": "write trainer.epochs=..., without dashes",
    "--trainer.epochs": "write trainer.epochs=..., without dashes",
    "--learning-rate=0.1": "write optimizer.lr=0.1, without dashes",
    "--verbose": "settings are key=value words, without dashes",
    "trainer.accumulate=4": "trainer.accumulate was renamed to trainer.grad_accum_steps",
    "+trainer.accumulate=4": "trainer.accumulate was renamed to trainer.grad_accum_steps",
    "trainer.clip_norm=1": "trainer.clip_norm was renamed to trainer.max_grad_norm",
    "++trainer.checkpoint_activations=true": "was renamed to trainer.grad_checkpointing",
    "trainer.workers=1": "trainer.workers was renamed to trainer.num_workers",
    "trainer.threads=1": "trainer.threads was renamed to trainer.num_threads",
    "trainer.select=last": "trainer.select was renamed to trainer.monitor",
    "trainer.batch_statistics=local": "trainer.batch_statistics was renamed to trainer.batchnorm",
    "~trainer.select": "trainer.select was renamed to trainer.monitor",
    "trainer.batchnorm=synchronised": "synchronised was renamed to trainer.batchnorm=synchronized",
    "model.classifiers=task": "model.classifiers=task was renamed to model.classifiers=auto",
    "balancer.before={name: uncertainty, classification: task}": "was renamed to balancer.before.classification=auto",
}


@pytest.mark.parametrize("override", MISTAKES)
def test_mistake_is_one_line_that_helps(fails, stones, override):
    data = () if override.startswith("resume") else (f"task.csv={stones}",)
    assert MISTAKES[override] in fails(*data, override)


def test_option_of_other_programs_names_the_key_and_the_value(fails):
    assert "write trainer.epochs=3, without dashes" in fails("--epochs", "3")


def test_option_between_keys_is_one_line_that_names_its_place(fails):
    assert "train.py --config-dir ..." in fails("seed=1", "--config-dir", "extra", "trainer.epochs=1")


NAMES = ("a,b.csv", "a=b.csv", "a#b.csv", "a[1].csv", "a{b}.csv", "(1).csv", "~a.csv", "größe.csv", "山.csv")
NAMES += ("it's, too.csv", 'a "b", c.csv', "a:b\\c,d.csv", "ends\\")


@pytest.mark.parametrize("name", NAMES)
def test_advice_about_a_name_with_special_characters_works(fails, name):
    given = f"task.csv={name}"
    try:
        (word,) = shlex.split(quoted(given))
        told = fails(given)
        if "no file" not in told:  # some names need no quotes
            assert f" {quoted(given)}" in told
        assert f"no file {name};" in fails(word)
    finally:
        GlobalHydra.instance().clear()


def test_seed_too_large_for_the_generators_is_one_line(fails, stones):
    assert "seed" in fails(f"task.csv={stones}", "seed=20000000000000")


@pytest.mark.parametrize(
    ("overrides", "remedy"),
    [
        (("balancer.at=subset",), "balancer.at=shared"),
        (("balancer.at=features", "trainer.grad_accum_steps=2"), "balancer.at=shared"),
        (("balancer.memory=lean", "trainer.grad_accum_steps=2"), "balancer.memory=full"),
    ],
)
def test_where_gradients_cannot_be_measured_here_is_one_line(fails, stones, overrides, remedy):
    assert remedy in fails(f"task.csv={stones}", "balancer=mgda", *overrides)


def test_resume_with_other_overrides_is_refused(fails):
    assert "leave out seed=3" in fails("resume=somewhere", "trainer.epochs=50", "seed=3")


def test_checkpoint_that_is_none_is_one_line(fails, tmp_path):
    (tmp_path / "last.pt").write_bytes(b"not a checkpoint")
    assert "cannot be read" in fails(f"resume={tmp_path}")


# ---- damaged data ----------------------------------------------------------------------------------------------------


def damaged(text, damage):
    """Name and bytes of a file of stones with something wrong."""
    lines = text.splitlines()
    bare = text.replace('"', "")
    if damage == "cut off":
        return "stones.csv", "\n".join([*lines[:500], lines[500][:9]]).encode()
    if damage == "a column short":
        return "stones.csv", "\n".join(line.rpartition(",")[0] for line in lines).encode()
    if damage == "a word for a number":
        return "stones.csv", "\n".join([*lines[:500], lines[500].replace(lines[500].split(",")[0], "heavy")]).encode()
    if damage == "an unknown cut":
        return "stones.csv", bare.replace("Premium", "Supreme").encode()
    if damage == "empty":
        return "stones.csv", b""
    if damage == "a header alone":
        return "stones.csv", lines[0].encode()
    if damage == "too few stones":
        return "stones.csv", "\n".join(lines[:50]).encode()
    if damage == "not text":
        return "stones.csv", bytes(range(256))
    if damage == "garbage as xz":
        return "stones.csv.xz", bytes(range(256))
    if damage == "half an xz":
        packed = lzma.compress(text.encode())
        return "stones.csv.xz", packed[: len(packed) // 2]
    if damage == "an open quote":
        return "stones.csv", (bare * 3).replace("Premium", '"Premium', 1).encode()
    if damage == "a stray line end":
        return "stones.csv", "\n".join([*lines[:500], lines[500].replace(",", "\r,", 1)]).encode()
    assert damage == "one stone only"
    return "stones.csv", "\n".join([lines[0], *[lines[1]] * 200]).encode()


TOLD = {
    "cut off": "line 501",
    "a column short": "has no column 'z'",
    "a word for a number": "line 501: 'heavy' is no carat",
    "an unknown cut": "'Supreme' is no cut",
    "empty": "has no column 'carat'",
    "a header alone": "too few",
    "too few stones": "49",
    "not text": "has zero bytes and is no text",
    "garbage as xz": "damaged",
    "half an xz": "damaged",
    "an open quote": "stones.csv",
    "a stray line end": "stones.csv, line 50",
    "one stone only": "too few",
}


@pytest.mark.parametrize("damage", TOLD)
def test_damaged_table_is_one_line_that_names_the_place(fails, stones, tmp_path, damage):
    name, data = damaged(stones.read_text(), damage)
    (tmp_path / name).write_bytes(data)
    message = fails(f"task.csv={name}", "trainer.max_steps=2", *SHORT)
    assert name in message
    assert TOLD[damage] in message


def test_missing_table_is_one_line_that_names_it(fails):
    assert "no file nowhere.csv" in fails("task.csv=nowhere.csv")


# ---- processes -------------------------------------------------------------------------------------------------------


def test_misspelt_key_ends_the_process_with_one_line(tmp_path):
    """The whole command, from the start of Python on; the processes of other tests are forks."""
    pipe, command = subprocess.PIPE, [sys.executable, str(ROOT / "train.py"), "trainer.epoch=3"]
    code, out, err = finish(subprocess.Popen(command, cwd=tmp_path, stdout=pipe, stderr=pipe, text=True))
    assert_one_line(code, out, err)
    assert "trainer.epochs" in err
    assert list(tmp_path.iterdir()) == []


def test_damaged_table_ends_the_process_with_one_line(tmp_path):
    (tmp_path / "stones.csv.xz").write_bytes(b"garbage")
    code, out, err = finish(start("train.py", "task.csv=stones.csv.xz", cwd=tmp_path))
    assert_one_line(code, out, err)
    assert "stones.csv.xz" in err
    assert not (tmp_path / "outputs").exists()


def test_model_and_task_that_do_not_fit_end_the_process_with_one_line(tmp_path):
    (tmp_path / "toy.py").write_text(
        "import torch\n"
        "from tasks import *\n"
        "@register_task('toy')\n"
        "class Toy(Task):\n"
        "    objectives = (Objective('size', SquaredError(), {}),)\n"
        "    def load(self, data_dir):\n"
        "        data = TensorData((torch.ones(8, 1),), {'size': torch.ones(8, 1)})\n"
        "        return Splits(data, data, data)\n"
    )
    (tmp_path / "extra" / "task").mkdir(parents=True)
    (tmp_path / "extra" / "task" / "toy.yaml").write_text("name: toy\n")
    words = ("--config-dir", "extra", "imports=[toy]", "task=toy")
    code, out, err = finish(start("train.py", *words, cwd=tmp_path, PYTHONPATH=str(tmp_path)))
    assert_one_line(code, out, err)
    assert "'shared_trunk'" in err
    assert "'toy'" in err
    assert not (tmp_path / "outputs").exists()


def test_sigterm_saves_and_the_run_can_be_resumed(tmp_path, stones):
    process = start("train.py", f"task.csv={stones}", "run_dir=run", "trainer.epochs=20", *SHORT, cwd=tmp_path)
    for line in process.stdout:
        if line.startswith("epoch 2/20"):
            break
    process.send_signal(signal.SIGTERM)
    code, out, err = finish(process)
    assert (code, err) == (0, "")
    assert "python train.py resume=run" in out
    stopped = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert stopped["status"] == "stopped"
    assert stopped["metrics"] == {}
    assert (tmp_path / "run" / "report.html").is_file()

    code, out, err = finish(start("train.py", "resume=run", cwd=tmp_path))
    assert (code, err) == (0, "")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["status"], summary["epochs"], summary["steps"]) == ("finished", 20, 20 * (1398 // 64))
    assert summary["metrics"]["test/cut/accuracy"] > 0.5


def test_sweep_over_seeds_makes_a_folder_each_and_prints_plain_lines(tmp_path, stones):
    (tmp_path / "extra").mkdir()
    words = [f"task.csv={stones}", "trainer.max_steps=20", *SHORT]
    code, out, err = finish(start("train.py", "-m", "--config-dir", "extra", "seed=0,1", *words, cwd=tmp_path))
    assert (code, err) == (0, "")
    assert not set("\x1b\r") & set(out)
    assert out.count("epoch 1/1") == 2
    (heading, _) = [line for line in out.splitlines() if line.startswith("test split,")]
    for page in (ROOT / "README.md", ROOT / "docs" / "adding.md"):
        (shown,) = [line for line in page.read_text(encoding="utf-8").splitlines() if line.startswith("test split,")]
        assert re.sub(r"\d+", "1", shown) == heading
    folders = sorted((tmp_path / "outputs" / "shared_trunk-diamonds-sum").iterdir(), key=lambda path: path.name[-1])
    assert [folder.name.rpartition("-")[2] for folder in folders] == ["seed0", "seed1"]
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in folders]
    assert summaries[0]["metrics"]["test/cut/loss"] != summaries[1]["metrics"]["test/cut/loss"]
    again = shlex.split(summaries[1]["command"])
    assert again[2:7] == ["--config-dir", str(tmp_path / "extra"), "seed=1", *words[:2]]
