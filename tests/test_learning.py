"""What training reaches on the real data: the default run, and what unbalanced losses do."""

import pytest

import mozoo
import train

REPAIRS = [pytest.param(name, marks=pytest.mark.slow) for name in ("realtime", "mgda", "uncertainty", "gradnorm")]


@pytest.fixture(scope="module")
def metrics(tmp_path_factory):
    """Test metrics of a run with some overrides; each is trained once."""
    found = {}

    def get(*overrides):
        if overrides not in found:
            folder = tmp_path_factory.mktemp("run") / "run"
            fixed = ("trainer.device=cpu", "logger.tensorboard=false", f"run_dir={folder}")
            found[overrides] = train.run(mozoo.compose([*overrides, *fixed]))["metrics"]
        return found[overrides]

    return get


@pytest.mark.parametrize("balancer", REPAIRS)
def test_balancing_rescues_the_cut_from_a_price_in_dollars(metrics, balancer):
    short = ("experiment=diamonds_usd", "trainer.epochs=3")
    plain = metrics(*short, "balancer=sum")["test/cut/accuracy"]
    balanced = metrics(*short, f"balancer={balancer}")["test/cut/accuracy"]
    assert plain < 0.5
    assert balanced > 0.65


@pytest.mark.slow
@pytest.mark.parametrize(
    ("balancer", "r2"), [("realtime", 0.975), ("uncertainty", 0.975), ("mgda", 0.85), ("gradnorm", 0.6)]
)
def test_balancing_learns_both_objectives_in_the_end(metrics, balancer, r2):
    plain = metrics("experiment=diamonds_usd", "balancer=sum")
    balanced = metrics("experiment=diamonds_usd", f"balancer={balancer}")
    assert plain["test/cut/accuracy"] < 0.5
    assert plain["test/price/r2"] > 0.975
    assert balanced["test/cut/accuracy"] > 0.78
    assert balanced["test/price/r2"] > r2


@pytest.mark.slow
def test_default_run_comes_close_to_gradient_boosting(metrics):
    found = metrics()
    assert found["test/cut/accuracy"] >= 0.793
    assert found["test/price/r2"] >= 0.989
