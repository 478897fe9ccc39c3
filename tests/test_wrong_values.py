"""Values that make no sense: one message that names the key, before anything is made."""

import socket

import pytest

import mozoo
import train
from balancing import create_balancer
from mozoo import tools
from mozoo.words import check_words
from tests import forks
from zoo import create_model


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("optimizer.lr=inf", "optimizer.lr must be finite"),
        ("optimizer.weight_decay=nan", "optimizer.weight_decay must be finite"),
        ("optimizer.momentum=5", "optimizer.momentum must be below 1, got 5"),
        ("optimizer.betas=[2,0.9]", "optimizer.betas must be at least 0 and below 1"),
        ("optimizer.betas=[0.9,nan]", "optimizer.betas must be"),
        ("scheduler.decay_rate=-1", "scheduler.decay_rate must be positive"),
        ("scheduler.decay_every=inf", "scheduler.decay_every must be finite"),
        ("trainer.balancer_lr=inf", "trainer.balancer_lr must be finite"),
        ("trainer.max_grad_norm=inf", "trainer.max_grad_norm must be finite"),
        ("trainer.ema=1", "trainer.ema must be below 1"),
        ("trainer.num_threads=100000", "trainer.num_threads must be below 1025"),
        ("trainer.num_workers=100000", "trainer.num_workers must be below 1025"),
        ("data_dir=", "data_dir needs a folder"),
        ("run_dir=", "run_dir needs a folder"),
        ("trainer.batch_size=1000000000000", "trainer.batch_size must be below 2147483648"),
        ("trainer.max_steps=99999999999999999999", "trainer.max_steps must be a number of 64 bits"),
        ("trainer.profile=2 trainer.dry_run=true", "leave one of them out"),
        ('imports=[""]', "imports: '' is no name of a module"),
        ("imports=[..x]", "imports: '..x' is no name of a module"),
        ("imports=[tasks]", "imports: 'tasks' is the name of a package of mozoo; give your module another name"),
        ("balancer=pcgrad balancer.before={name:uncertainty,before:sum}", "has none before itself"),
    ],
)
def test_configuration(words, message):
    with pytest.raises(mozoo.ConfigError) as caught:
        mozoo.compose(words.split())
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("trainer.device=cpu:7", "trainer.device=cpu:7 is not available"),
        ("optimizer.betas=[0.9,0.99,0.999]", "adamw has two"),
        ("model.classifiers={cut:7}", "'cut' has 7 outputs, but the data of task 'diamonds' ask for 5"),
        ("model.regressors={price:3}", "'price' has 3 outputs, but the data of task 'diamonds' ask for 1"),
        ("model.classifiers={a.b:5}", "an objective cannot be called 'a.b'"),
        ("model.classifiers={__class__:5}", "an objective cannot be called '__class__'"),
        ("model.depth=100000", "depth must be at most 1000, got 100000"),
        ("model.width=10000000000", "there is no memory for a part of this size (782 GiB)"),
        ("task=table task.csv=x.csv task.objectives=3", "must be"),
        ("model.in_features=7", "model.in_features=7, but the data of task 'diamonds' have 21"),
        ("balancer=cagrad balancer.c=inf", "cagrad: c must be finite, got inf"),
        ("balancer=mgda balancer.seed=-1", "mgda: seed must be at least 0"),
        ("balancer=mgda balancer.preference={cut:1e-20,price:1}", "must not differ by more than 1e12"),
        ("balancer=fixed balancer.values={cut:inf}", "fixed: values must be finite"),
        ("model.dropout=nan", "must be finite"),
    ],
)
def test_parts_of_a_run(words, message):
    with pytest.raises(mozoo.ConfigError) as caught:
        train.build(mozoo.compose(["trainer.device=cpu", *words.split()]))
    assert message in str(caught.value)


def test_a_list_of_methods_is_no_choice_of_one():
    with pytest.raises(mozoo.ConfigError, match=r"a run has one balancer; for a sweep: python train.py -m"):
        check_words(["balancer=[sum,mgda]"])


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE='two'"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE='0'"),
        ({"WORLD_SIZE": "-2"}, "WORLD_SIZE='-2'"),
        ({"WORLD_SIZE": "2"}, "is set without RANK"),
        ({"WORLD_SIZE": "2", "RANK": "5", "LOCAL_RANK": "0", "MASTER_ADDR": "a", "MASTER_PORT": "1"}, "RANK='5'"),
        (
            {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "a", "MASTER_PORT": "x"},
            "MASTER_PORT='x'",
        ),
    ],
)
def test_variables_of_a_launcher(monkeypatch, variables, message):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(mozoo.ConfigError) as caught:
        mozoo.compose([])
    assert message in str(caught.value)
    assert "torchrun" in str(caught.value)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: create_balancer("gradnorm", ["a", "b"], aplha=1),
            r"gradnorm has no option 'aplha'; did you mean alpha\?",
        ),
        (
            lambda: create_balancer("mgda", ["a", "b"], normalise="l2"),
            r"mgda has no option 'normalise'; did you mean normalize\?",
        ),
        (lambda: create_balancer("cagrad", ["a", "b"], cc=1), "cagrad has no option 'cc'"),
        (
            lambda: create_model("shared_trunk", in_features=3, classifiers={"a": 2}, widht=3),
            r"shared_trunk has no option 'widht'; did you mean width\?",
        ),
    ],
)
def test_a_misspelled_argument_in_python_is_answered_as_on_the_command_line(call, message):
    with pytest.raises(TypeError, match=message):
        call()


@pytest.mark.parametrize("value", [float("inf"), float("nan"), {"a": float("inf")}, [1.0, float("nan")]])
def test_no_constructor_takes_numbers_that_are_not_finite(value):
    with pytest.raises((ValueError, TypeError), match="must be finite"):
        create_balancer("stch", ("a", "b"), mu=value)


def test_processes_with_different_options_end_at_once(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    ranks = [
        forks.start("train.py", f"trainer.epochs={k + 2}", cwd=tmp_path, RANK=str(k), LOCAL_RANK=str(k), **place)
        for k in (0, 1)
    ]
    for rank in ranks:
        _, err = rank.communicate(timeout=120)
        assert rank.returncode == 2
        assert "different options: trainer.epochs is 2 in process 0 and 3 in process 1" in err
    assert not (tmp_path / "outputs").exists()


def test_a_name_that_is_too_long_for_a_folder_is_refused():
    with pytest.raises(mozoo.ConfigError, match=r"run_dir: cannot create x+ .*too long"):
        train.run(mozoo.compose(["trainer.device=cpu", f"run_dir={'x' * 300}"]))


def test_what_the_system_refuses_is_one_line(capsys, tmp_path):
    with pytest.raises(SystemExit) as ended, tools.reporting():
        (tmp_path / "nothing" / "file").write_text("")
    assert ended.value.code == 1
    assert capsys.readouterr().err == f"error: {tmp_path / 'nothing' / 'file'}: No such file or directory\n"
