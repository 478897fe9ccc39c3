"""A live view on a terminal, plain lines elsewhere."""

import contextlib
import io
import os
import pty
import re
import sys

import pytest
import torch
from rich.console import Console

import mozoo.progress
from balancing import BalanceReport
from mozoo.progress import Display

CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
NAMES = ("cut", "price")
LOSSES = {"cut": 0.75, "price": 12.5}


def report(gramian=((1.0, -0.5), (-0.5, 1.0)), names=NAMES):
    return BalanceReport(names, torch.ones(len(names)), torch.tensor([0.25, 4.0]), torch.tensor(gramian))


class Untouchable:
    def __getattr__(self, name):
        raise AssertionError(f"{name} was read, which may wait for the device")


@pytest.fixture
def terminal(monkeypatch):
    """What is written to a terminal of 100 columns."""
    file = io.StringIO()
    monkeypatch.setattr(
        mozoo.progress,
        "_LastingConsole",
        lambda **options: Console(file=file, force_terminal=True, width=100, **options),
    )
    return file


def shown(file):
    """The last frame of the live view, without control codes."""
    return CONTROL.sub("", file.getvalue())


def test_without_a_terminal_there_are_plain_lines_and_nothing_else(capsys):
    with Display(total=20) as display:
        assert not display.live
        display.say("a model on [cpu]")
        display.step(10, 1, LOSSES, 100.0, [Untouchable()])
        display.epoch(1, 2, {"cut/loss": 0.75}, {"cut/loss": 0.5, "cut/accuracy": 0.9}, best=True)
        display.epoch(2, 2, {"cut/loss": 0.25}, {"cut/loss": 0.6, "cut/accuracy": 0.8}, best=False)
    assert capsys.readouterr().out.splitlines() == [
        "a model on [cpu]",
        "epoch 1/2  train cut/loss 0.75  |  val cut/loss 0.5  cut/accuracy 0.9  (best so far)",
        "epoch 2/2  train cut/loss 0.25  |  val cut/loss 0.6  cut/accuracy 0.8",
    ]


def test_a_line_about_many_objectives_has_their_means(capsys):
    keys = (("loss", 0), ("f1", 1), ("mae", 2))  # the last are in units that may differ
    values = {f"o{i}/{key}": float(i + shift) for i in range(12) for key, shift in keys}
    Display(total=1).epoch(1, 1, values, values, best=False)
    assert capsys.readouterr().out == (
        "epoch 1/1  train loss 5.5  f1 6.5  (means of 12 objectives)  |  val loss 5.5  f1 6.5  (means of 12 objectives)\n"
    )


def test_the_live_view_shows_epoch_speed_losses_weights_conflicts_and_time_left(terminal):
    with Display(total=100, done=40) as display:
        assert display.live
        display.step(50, 3, LOSSES, 1234.0, [report()])
        display._live.refresh()
    text = shown(terminal)
    assert re.search(r"epoch 3 .* 50/100 1234 step/s \d:\d\d:\d\d left", text)
    assert re.search(r"cut +0\.75 +0\.25", text)
    assert re.search(r"price +12\.5 +4", text)
    assert "100% of the pairs of gradients in conflict" in text


def test_phases_are_shown_together(terminal):
    with Display(total=100) as display:
        both = [report(), report(((1.0, 0.5), (0.5, 1.0)), ("real", "fake"))]
        display.step(10, 1, LOSSES | {"real": 1.0, "fake": 2.0}, 0.5, both)
        display._live.refresh()
    text = shown(terminal)
    assert "0.5 step/s" in text
    assert "50% of the pairs" in text
    assert re.search(r"fake +2 +4", text)


def test_losses_alone_are_shown_too(terminal):
    with Display(total=100) as display:
        display.step(10, 1, LOSSES, 20.0)
        display.step(20, 1, LOSSES, 20.0, [BalanceReport(NAMES, torch.ones(2))])
        display._live.refresh()
    assert "price" in shown(terminal)
    assert "conflict" not in shown(terminal)


def test_forty_objectives_do_not_fill_the_screen(terminal):
    with Display(total=100) as display:
        display.step(10, 1, {f"o{i}": 1.0 for i in range(40)}, 20.0)
        display._live.refresh()
    text = shown(terminal)
    assert "o7 " in text
    assert "o8 " not in text
    assert "and 32 more objectives" in text


def test_names_are_not_read_as_markup(terminal):
    with Display(total=100) as display:
        display.step(10, 1, {"[bold]cut[/bold]": 1.0}, 20.0)
        display._live.refresh()
    assert "[bold]cut[/bold]" in shown(terminal)


def test_a_real_terminal_is_left_clean(monkeypatch):
    ours, theirs = pty.openpty()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stdout", os.fdopen(theirs, "w", buffering=1))
    display = Display(total=100)

    def interrupted():
        with display:
            assert display.live
            display.step(10, 1, LOSSES, 20.0, [report()])
            display._live.refresh()
            display.say("a line that stays")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not display.live
    sys.stdout.close()
    written = b""
    with contextlib.suppress(OSError):  # of a terminal whose other end is closed; one read may give a part only
        while part := os.read(ours, 100_000):
            written += part
    os.close(ours)
    written = written.decode()
    assert "a line that stays" in written
    assert written.count("\x1b[?25l") == written.count("\x1b[?25h") == 1  # the cursor is hidden, and shown again
