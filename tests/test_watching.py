"""trainer.watch: a page while training, which changes nothing and cannot fail the training."""

import pytest

import mozoo
import train
from mozoo import tools, watching

SHORT = (
    "trainer.device=cpu",
    "model.width=8",
    "model.depth=1",
    "trainer.batch_size=64",
    "trainer.max_steps=30",
    "trainer.log_every=1",
)


@pytest.fixture
def words(stones, tmp_path, monkeypatch):
    """A run of three epochs, whose page may be written at any time."""
    for name in ("_FIRST", "_WITHIN"):
        monkeypatch.setattr(watching, name, 0.0)
    monkeypatch.setattr(watching, "_SHARE", 1e9)
    short = (*SHORT, "trainer.overfit=640", "trainer.epochs=3", "logger.tensorboard=false")
    return [f"task.csv={stones}", f"run_dir={tmp_path / 'run'}", *short, "trainer.watch=true"]


@pytest.fixture
def pages(tmp_path, monkeypatch):
    """Pages that are written, in their order; each has a heading alone, to be fast."""
    seen = []
    monkeypatch.setattr(tools, "write_report", lambda *arguments: None)

    def write(folder, task, summary, predictions, reload):
        rows = len((folder / "metrics.csv").read_text().splitlines()) - 1
        seen.append((summary["status"], summary["epochs"], rows, reload))

    monkeypatch.setattr(watching, "write_page", write)
    return seen


def test_there_is_a_page_after_every_epoch(words, pages):
    train.run(mozoo.compose(words))
    after_epochs = {(epochs, rows) for _, epochs, rows, _ in pages}
    assert {(1, 2), (2, 4), (3, 6)} <= after_epochs
    assert {(status, reload) for status, _, _, reload in pages} == {("running", watching._RELOAD)}


def test_the_last_page_is_the_report_and_loads_itself_no_more(words, tmp_path, monkeypatch):
    written, write = [], watching.write_page

    def kept(folder, *arguments, **options):
        write(folder, *arguments, **options)
        written.append((folder / "report.html").read_text())

    monkeypatch.setattr(watching, "write_page", kept)
    monkeypatch.setattr(watching, "_WITHIN", 1e9)
    train.run(mozoo.compose([*words, "trainer.epochs=1"]))
    assert written
    assert "location.reload()" in written[-1]
    assert '<b class="running">running</b>' in written[-1]
    assert "the test comes at the end" in written[-1]
    report = (tmp_path / "run" / "report.html").read_text()
    assert "location.reload()" not in report
    assert '<b class="finished">finished</b>' in report


def test_watching_leaves_the_training_as_it_is(words, pages, tmp_path):
    train.run(mozoo.compose(words))
    others = [word for word in words if not word.startswith(("run_dir", "trainer.watch"))]
    train.run(mozoo.compose([*others, f"run_dir={tmp_path / 'plain'}"]))
    for name in ("balance.csv", "best/model.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "plain" / name).read_bytes()


def test_a_page_that_fails_is_a_warning_and_the_training_goes_on(words, tmp_path, monkeypatch):
    def failing(*arguments, **options):
        raise RuntimeError("no\nroom")

    monkeypatch.setattr(tools, "write_report", lambda *arguments: None)
    monkeypatch.setattr(watching, "write_page", failing)
    with pytest.warns(UserWarning, match=r"trainer.watch: no page any more, .*\(no room\)") as told:
        summary = train.run(mozoo.compose(words))
    assert summary["status"] == "finished"
    assert len([each for each in told if "trainer.watch" in str(each.message)]) == 1


def test_the_page_of_a_run_that_fails_says_so(words, pages, monkeypatch):
    def failing(*arguments):
        raise ZeroDivisionError

    monkeypatch.setattr(train, "evaluate", failing)
    with pytest.raises(ZeroDivisionError):
        train.run(mozoo.compose(words))
    assert pages[-1][0] == "failed"
    assert pages[-1][3] is None
