"""report.html: complete, self-contained, and read by a real browser without complaint."""

import base64
import html
import json
import math
import re
import shutil
import subprocess
import xml.etree.ElementTree as ET
from dataclasses import asdict
from html.parser import HTMLParser

import matplotlib.image
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.text import Text
from omegaconf import OmegaConf

import mozoo
import tasks
import train
import zoo
from balancing import BalanceReport
from mozoo import figures, svg, tools
from mozoo.page import page as write_page
from mozoo.page import reloading
from mozoo.panels import _two, balancing
from mozoo.report import _header
from mozoo.thin_tables import ThinTable
from mozoo.titles import Titles
from tasks.metrics import absolute_error, accuracy
from tasks.results import ResultKey

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
browser = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium, chromium-browser or google-chrome on the PATH")
PICTURE = "data:image/svg+xml;base64,"
CARD = r'<div class="card"><span>(.*?)</span><b>(.*?)</b></div>'


@pytest.fixture(scope="module")
def folder(stones, tmp_path_factory):
    """The folder of a short run."""
    path = tmp_path_factory.mktemp("outputs") / "run"
    run_briefly(path, stones, "balancer=pcgrad", "trainer.max_steps=42")
    return path


def run_briefly(path, stones, *overrides):
    short = ("trainer.device=cpu", "trainer.batch_size=64", "trainer.log_every=1", "logger.tensorboard=false")
    train.run(mozoo.compose([f"task.csv={stones}", f"run_dir={path}", *short, *overrides]))


def test_names_of_any_letters_and_length_are_shown(recwarn):
    names = ["_minus", "\N{CJK UNIFIED IDEOGRAPH-732B}", "x" * 45 + "y" * 45, "plain"]
    lines = figures.curves("loss", {name: ([1, 2, 3], [1.0, i, 2.0]) for i, name in enumerate(names)}, "epoch")
    (axes,) = lines.axes
    shown = [text.get_text().strip() for text in axes.get_legend().get_texts()]
    assert shown == [
        "_minus",
        "\N{CJK UNIFIED IDEOGRAPH-732B}",
        "x" * 14 + "\N{HORIZONTAL ELLIPSIS}" + "y" * 13,
        "plain",
    ]
    table = figures.confusion("n" * 90, np.array([0, 1, 2, 3]), np.array([0, 1, 2, 3]), names)
    assert max(len(text.get_text()) for text in table.axes[0].get_xticklabels()) == 28
    assert len(table.axes[0].get_title("left").replace("\n", "")) == 64
    for figure in (lines, table):
        svg.data_uri(figure, crop=True)
    assert not recwarn.list


@pytest.fixture(scope="module")
def page(folder):
    return (folder / "report.html").read_text(encoding="utf-8")


def elements(page):
    """(tag, attributes) of every element."""
    found = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attributes: found.append((tag, dict(attributes)))
    parser.feed(page)
    return found


def pictures(page):
    return [attributes["src"] for tag, attributes in elements(page) if tag == "img"]


def browse(path, tmp_path, *flags):
    """Open a page in a browser without a window; returns what it wrote to stdout and stderr."""
    quiet = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    done = subprocess.run(
        [
            CHROMIUM,
            *quiet.split(),
            "--disable-component-update",
            "--disable-sync",
            "--enable-logging=stderr",
            "--v=0",
            f"--user-data-dir={tmp_path / 'profile'}",
            *flags,
            path.as_uri(),
        ],
        capture_output=True,
        text=True,
        encoding="utf-8",
        errors="replace",
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


# ---- the file --------------------------------------------------------------------------------------------------------


def test_page_loads_nothing_from_outside(page):
    loaded = [
        value
        for tag, attributes in elements(page)
        for name, value in attributes.items()
        if name in ("src", "href", "srcset", "data", "action", "poster")
    ]
    assert loaded
    assert [value for value in loaded if not value.startswith("data:")] == []
    assert not {"script", "iframe", "object", "embed"} & {tag for tag, _ in elements(page)}
    assert "@import" not in page
    assert "url(" not in page


def test_every_picture_is_an_svg_that_needs_nothing_else(page):
    assert len(pictures(page)) >= 10
    for source in pictures(page):
        assert source.startswith(PICTURE)
        root = ET.fromstring(base64.b64decode(source.removeprefix(PICTURE)))
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        links = [value for node in root.iter() for name, value in node.attrib.items() if name.endswith("href")]
        assert all(value.startswith(("#", "data:")) for value in links)


def test_page_names_the_run_and_shows_every_test_result(page, folder):
    summary = json.loads((folder / "summary.json").read_text())
    assert "<title>shared_trunk on diamonds, pcgrad</title>" in page
    cards = dict(re.findall(CARD, page))
    assert list(cards) == [
        *("cut: accuracy ↑", "cut: F1, mean of classes ↑", "cut: loss ↓"),
        *("price: R² ↑", "price: R² in USD ↑", "price: mean absolute error ↓", "price: loss ↓"),
    ]
    shown = [float(text.partition(" <")[0].replace(",", "")) for text in cards.values()]
    order = ("cut/accuracy", "cut/macro_f1", "cut/loss", "price/r2", "price/r2_usd", "price/mae_usd", "price/loss")
    assert shown == pytest.approx([summary["metrics"][f"test/{name}"] for name in order], rel=1e-3)
    assert cards["price: mean absolute error ↓"].endswith("<small>USD</small>")


def test_page_holds_what_repeats_the_run(page, folder):
    summary = json.loads((folder / "summary.json").read_text())
    assert f"<pre>{html.escape(summary['command'])}</pre>" in page
    assert html.escape((folder / "config.yaml").read_text()) in page
    assert all(f"<tr><td>{name}</td><td>{version}</td></tr>" for name, version in summary["versions"].items())


def test_page_shows_the_predictions_of_every_objective(page):
    *_, predictions = re.split("<h2>", page.partition("<h2>Repeat this run</h2>")[0])
    assert predictions.startswith("Predictions on the test split")
    assert len(pictures(predictions)) == 2


def test_names_are_escaped(folder, tmp_path, stones):
    shutil.copytree(folder, tmp_path / "run")
    summary = json.loads((folder / "summary.json").read_text()) | {"balancer": "<script>alert(1)</script>"}
    (tmp_path / "run" / "summary.json").write_text(json.dumps(summary))
    task = tasks.create_task("diamonds", csv=str(stones))
    written = tools.write_report(tmp_path / "run", task, {}).read_text(encoding="utf-8")
    assert "<script>" not in written
    assert "&lt;script&gt;" in written


def test_pictures_of_the_task_are_shown_with_their_captions(folder, tmp_path, stones):
    shutil.copytree(folder, tmp_path / "run")
    figure = Figure()
    figure.subplots().plot([0, 1])
    task = tasks.create_task("diamonds", csv=str(stones))
    written = tools.write_report(tmp_path / "run", task, {}, {"what the model saw": figure}).read_text("utf-8")
    samples = written.partition("<h2>Samples</h2>")[2].partition("<h2>")[0]
    assert len(pictures(samples)) == 1
    assert "<figcaption>what the model saw</figcaption>" in samples


def test_shares_of_experts_are_a_section(folder, tmp_path, stones):
    shutil.copytree(folder, tmp_path / "run")
    task = tasks.create_task("diamonds", csv=str(stones))
    rows = {"cut": {"cut 1": 0.25, "shared 1": 0.75}, "price": {"price 1": 0.5, "shared 1": 0.5}}
    written = tools.write_report(tmp_path / "run", task, {}, shares=rows).read_text("utf-8")
    shown = pictures(written.partition("<h2>Sharing</h2>")[2].partition("<h2>")[0])
    assert len(shown) == 1
    drawn = base64.b64decode(shown[0].removeprefix(PICTURE)).decode()
    assert all(text in drawn for text in ("0.25", "0.75", "shared 1", "price 1"))
    assert "<h2>Sharing</h2>" not in (folder / "report.html").read_text("utf-8")  # of a model with one trunk


@pytest.mark.parametrize("name", ["cross_stitch", "mmoe", "ple", "shared_trunk"])
def test_shares_of_experts_are_means_over_the_split(name, stones, tmp_path):
    task = tasks.create_task("diamonds", csv=str(stones))
    split = task.splits(tmp_path).test
    model = zoo.create_model(
        name, in_features=task.info["in_features"], classifiers={"cut": 5}, regressors={"price": 1}
    )
    rows = tools.expert_shares(model, task, split, 8, torch.device("cpu"))
    assert bool(rows) == (name != "shared_trunk")
    assert all(sum(row.values()) == pytest.approx(1, abs=1e-5) for row in rows.values())
    assert model.training
    assert not model._forward_pre_hooks


def test_run_that_skipped_a_step_gets_its_report(tmp_path, stones, monkeypatch):
    losses, calls = tasks.Task.losses, iter(range(1, 100))

    def spoiled(self, model, batch, phase):
        found, features = losses(self, model, batch, phase)
        if next(calls) == 5:
            found["price"] = found["price"] * math.nan
        return found, features

    monkeypatch.setattr(tasks.Task, "losses", spoiled)
    run_briefly(tmp_path / "run", stones, "balancer=mgda", "balancer.on_nonfinite=skip", "trainer.max_steps=10")
    assert len(pictures((tmp_path / "run" / "report.html").read_text(encoding="utf-8"))) == 7


def test_run_that_diverged_gets_its_report(tmp_path, stones):
    diverging = ("optimizer=sgd", "optimizer.lr=1.0e+30", "scheduler=constant", "trainer.max_steps=1")
    run_briefly(tmp_path / "run", stones, *diverging)
    summary = (tmp_path / "run" / "summary.json").read_text(encoding="utf-8")
    assert '"test/price/loss": null' in summary
    assert "NaN" not in summary
    assert "<span>price: loss ↓</span><b>not finite</b>" in (tmp_path / "run" / "report.html").read_text(
        encoding="utf-8"
    )


# ---- runs of other kinds -----------------------------------------------------------------------------------------------


def made_up(
    folder,
    names,
    epochs=3,
    steps=20,
    phases=None,
    measures=("accuracy",),
    tested=True,
    units=(),
    trained=(),
    constant=False,
):
    """The folder of a run that nobody trained, written by the tracker, and the report of it.

    ``units``: of objectives, which are numbers then. ``trained``: results that validation does not have. ``constant``: weights of 1.
    """
    folder.mkdir()
    config = mozoo.compose(["trainer.device=cpu", "logger.tensorboard=false"])
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(asdict(config)))
    keys = [f"{name}/{key}" for name in names for key in ("loss", *measures)]
    tracker = tools.Tracker(folder, keys, names, config.logger, None)
    generator = torch.Generator().manual_seed(0)

    def numbers():
        return {key: float(torch.rand((), generator=generator)) for key in keys}

    for epoch in range(1, epochs + 1):
        for split in ("train", "val"):
            values = {key: value for key, value in numbers().items() if split == "train" or key not in trained}
            tracker.log_metrics(epoch, epoch * 10, split, 1.0, 0.1, values)
    for step in range(1, steps + 1):
        for phase, own in (phases or {"all": names}).items():
            rows = torch.randn(len(own), 5, generator=generator)
            losses, weights = torch.rand(2, len(own), generator=generator)
            weights = torch.ones(len(own)) if constant else weights
            report = BalanceReport(tuple(own), losses, weights, rows @ rows.T)
            tracker.log_report(step, 1, phase, report)
    summary = {
        "model": "a_model",
        "task": "a_task",
        "balancer": "pcgrad",
        "seed": 0,
        "precision": "fp32",
        "world_size": 1,
        "status": "finished" if tested else "stopped",
        "epochs": epochs,
        "best_epoch": epochs,
        "tested": f"once, with the weights of epoch {epochs} of {epochs}",
        "steps": steps,
        "seconds": 1.0,
        "samples_per_second": 10.0,
        "device": "cpu",
        "versions": {"torch": "2"},
        "git": None,
        "metrics": {f"test/{key}": value for key, value in numbers().items()} if tested else {},
        "command": "python train.py model=a_model",
    }
    tracker.write_summary(summary)
    tracker.close()
    task = tasks.Task()
    guesses = torch.randint(2, (2, 50), generator=generator)
    if units:
        pairs = zip(names, units, strict=True)
        task.objectives = tuple(
            tasks.Objective(n, tasks.SquaredError(), {"mae": absolute_error()}, unit=u) for n, u in pairs
        )
        guesses = guesses.float()
    else:
        known = {"accuracy": accuracy(2)}
        task.objectives = tuple(tasks.Objective(n, tasks.CrossEntropy(("no", "yes")), known) for n in names)
    tools.write_report(folder, task, dict.fromkeys(names, tuple(guesses)) if tested else {})
    return (folder / "report.html").read_text(encoding="utf-8")


def captions(page, title):
    """Captions of the pictures below one heading."""
    return re.findall("<figcaption>(.*?)</figcaption>", page.partition(f"<h2>{title}</h2>")[2].partition("<h2>")[0])


@pytest.fixture(scope="module")
def forty(tmp_path_factory):
    return made_up(tmp_path_factory.mktemp("forty") / "run", [f"attribute_{i}" for i in range(40)])


@pytest.fixture(scope="module")
def two_phases(tmp_path_factory):
    turns = {"discriminator": ("real", "real_class"), "generator": ("fake", "fake_class")}
    return made_up(
        tmp_path_factory.mktemp("phases") / "run", [*turns["discriminator"], *turns["generator"]], phases=turns
    )


def test_every_phase_has_its_own_pictures(two_phases):
    found = captions(two_phases, "Balancing: discriminator")
    assert len(found) == len(captions(two_phases, "Balancing: generator")) == 5
    assert [text for text in found if "over the whole run" in text]


def test_forty_objectives_are_shown_together(forty):
    cards = dict(re.findall(CARD, forty))
    assert set(cards) == {"accuracy, mean of 40 ↑", "loss, mean of 40 ↓"}
    assert "<td>attribute_39</td>" in forty
    assert len(pictures(forty)) < 25
    assert any("Of 780 pairs, the 28 that conflict most" in text for text in captions(forty, "Balancing"))
    predictions = captions(forty, "Predictions on the test split")
    assert len(predictions) == 8
    assert all("8 objectives of 40 with the largest loss" in text for text in predictions)
    heights = [float(ET.fromstring(base64.b64decode(s[len(PICTURE) :])).get("height")[:-2]) for s in pictures(forty)]
    assert max(heights) < 1000  # points; a row for each of 780 pairs would be a picture of four metres


def test_eleven_units_are_not_averaged_but_listed(tmp_path):
    names = [f"property_{i}" for i in range(11)]
    page = made_up(tmp_path / "run", names, measures=("mae",), units=[f"unit_{i}" for i in range(11)])
    assert "mean of 11" not in page.replace("loss, mean of 11", "")  # of the same loss of standardized numbers
    for i, name in enumerate(names):
        assert re.search(rf"<td>{name}</td><td>[\d.]+ unit_{i}</td>", page)
    assert "Each row is relative to its first epoch, as the objectives have different units." in page
    assert any("Of 55 pairs, the 28 that conflict most" in text for text in captions(page, "Balancing"))


def test_means_are_of_results_with_one_unit():
    def titles(*units):
        task = tasks.Task()
        metric = {"mae": absolute_error()}
        task.objectives = tuple(
            tasks.Objective(f"o{i}", tasks.SquaredError(), metric, unit=unit) for i, unit in enumerate(units)
        )
        return Titles(task)

    keys = [ResultKey("o0", "mae"), ResultKey("o1", "mae")]
    assert titles("m", "m").comparable(keys)
    assert not titles("m", "s").comparable(keys)
    assert titles("m", "s").full(keys[1]) == "o1: mean absolute error, s"
    assert titles("m, standardised", "s").unit(keys[0]) == ""
    assert [
        str(key) for key in titles("m", "s").sorted([ResultKey("u", "my_own"), ResultKey("o1", "loss"), *keys])
    ] == [
        *("o0/mae", "o1/mae", "o1/loss", "u/my_own"),
    ]
    assert titles("m").full(ResultKey("u", "my_own")) + titles("m").arrow(ResultKey("u", "my_own")) == "u: my own"


def test_what_never_changes_has_no_picture(tmp_path):
    page = made_up(tmp_path / "run", ["cut", "price"], constant=True)
    assert "The weights are the same in every step: 1 for all." in page
    assert not [text for text in captions(page, "Balancing") if "Weight" in text]
    assert [
        text for text in captions(made_up(tmp_path / "other", ["cut", "price"]), "Balancing") if "Weight of" in text
    ]


def test_one_epoch_is_a_table_and_no_picture_of_dots(tmp_path):
    page = made_up(tmp_path / "run", ["cut", "price"], epochs=1, trained=("price/loss",))
    learned = page.partition("<h2>Learning</h2>")[2].partition("<h2>")[0]
    assert pictures(learned) == []
    assert "One epoch, so there are no curves." in learned
    assert re.search(r"<td>cut: accuracy ↑</td><td>0\.\d+</td><td>0\.\d+</td>", learned)
    assert re.search(r"<td>price: loss ↓</td><td>0\.\d+</td><td></td>", learned)


def test_parts_without_conflicts_are_a_line_and_no_picture():
    steps = np.arange(3.0)

    def of(*shares):
        columns = {"step": steps, "loss/a": steps, "conflicts/trunk": np.array(shares)}
        notes = []
        return list(balancing(ThinTable(columns, 1, {}), ["a"], notes)), notes

    none, some = of(0.0, 0.0, 0.0), of(0.0, 1.0, 0.0)
    assert none == ([], ["No part of the shared parameters has gradients in conflict in any step."])
    assert len(some[0]) == 1
    assert some[1] == []


def test_broad_pictures_of_a_task_scroll_on_a_phone(folder, tmp_path, stones):
    shutil.copytree(folder, tmp_path / "run")
    task = tasks.create_task("diamonds", csv=str(stones))
    shown = {"broad": Figure(figsize=(12, 3)), "narrow": Figure(figsize=(4, 4))}
    written = tools.write_report(tmp_path / "run", task, {}, shown).read_text("utf-8")
    samples = written.partition("<h2>Samples</h2>")[2].partition("<h2>")[0]
    assert [attributes.get("class") for tag, attributes in elements(samples) if tag == "img"] == ["broad", None]


def test_captions_say_which_split_is_shown(tmp_path):
    page = made_up(tmp_path / "run", ["equation", "boundary"], trained=("equation/loss",))
    found = captions(page, "Learning")
    assert found[:2] == [
        f"{text} Dotted: the best epoch." for text in ("Training.", "Dashed: training, solid: validation.")
    ]


def test_best_epoch_is_marked():
    line = ([1, 2, 3], [0.3, 0.1, 0.2])
    (axes,) = figures.curves("loss", {"a val": line}, "epoch", best=2).axes
    assert [list(each.get_xdata()) for each in axes.lines if each.get_linestyle() == ":"] == [[2, 2]]
    (dot,) = [each for each in axes.lines if each.get_marker() == "o"]
    assert (list(dot.get_xdata()), list(dot.get_ydata())) == ([2], [0.1])


@pytest.mark.parametrize("values", [(0.985, 0.98512), (1e-7, 4e-7), (1.2e7, 3e7)])
def test_what_ticks_share_is_beside_the_title(values):
    """It stood on the title, as "+9.85e-1"."""
    figure = figures.curves("cut against price, a long title", {"a": ([0, 1], values)}, "epoch")
    figure.draw_without_rendering()
    (axes,) = figure.axes
    shared = axes.yaxis.get_offset_text()
    assert bool(shared.get_text()) == (values[0] != 0.985)
    title = next(text for text in axes.findobj(Text) if text.get_text().startswith("cut against"))
    box = shared.get_window_extent()
    assert box.x1 <= title.get_window_extent().x0 + 0.1
    assert box.x0 >= 0
    assert min(label.get_window_extent().x0 for label in axes.get_yticklabels()) >= 0
    top = axes.get_ylim()[1]
    axes.set_yticks([top])
    figure.draw_without_rendering()
    (highest,) = axes.get_yticklabels()
    assert not shared.get_text() or not highest.get_window_extent().overlaps(shared.get_window_extent())


def test_a_long_title_is_two_lines_of_the_size_of_others():
    """It was shrunk to 7.5 points, which is six on a page."""
    figure = figures.curves("satisfaction: area under the ROC curve, and more ↑", {"a": ([0, 1], [0, 1])}, "epoch")
    figure.draw_without_rendering()
    title = next(text for text in figure.axes[0].findobj(Text) if text.get_text().startswith("satisfaction"))
    box = title.get_window_extent()
    assert title.get_fontsize() >= 9
    assert box.x1 <= figure.bbox.x1
    assert box.y1 <= figure.bbox.y1


def test_more_samples_are_stronger_on_light_and_dark_pages():
    """They were darker, so that a dark page showed the rarest places most."""
    figure = figures.scatter("price", np.array([0.0, 0.0, 1.0]), np.array([0.0, 0.0, 1.0]), "USD")
    (mesh,) = figure.axes[0].collections
    rare, frequent = mesh.to_rgba(np.log1p([1, 2]))
    assert frequent[:3] == pytest.approx(rare[:3], abs=1e-6)
    assert rare[3] < frequent[3] == 1


def test_ten_powers_of_ten_have_ticks():
    """Their axis had none."""
    for low in (1e-8, 1e-4, 1e-2):
        figure = figures.curves("weights", {"a": ([1, 2], [low, 1.0]), "b": ([1, 2], [1.0, 1.0])}, "step")
        figure.draw_without_rendering()
        (axes,) = figure.axes
        inside = [tick for tick in axes.get_yticks() if low <= tick <= 1]
        assert 2 <= len(inside) <= 6


def test_nearly_constant_predictions_and_long_numbers_are_seen():
    actual = np.linspace(-100_000.0, -50_000.0, 50)
    figure = figures.scatter("U", np.full(50, -70_000.0) + np.linspace(0, 1, 50), actual, "meV")
    figure.draw_without_rendering()
    (axes,) = figure.axes
    (mesh,) = axes.collections
    heights = np.diff(mesh.get_coordinates()[:, 0, 1])
    assert heights.min() > 500, "a line too thin to see"
    assert axes.yaxis.label.get_window_extent().x0 >= 0


def test_a_mean_of_zero_has_no_sign():
    assert [_two(value) for value in (-0.001, 0.0, -0.006)] == ["0.00", "0.00", "-0.01"]


def test_errors_of_a_confusion_are_red():
    figure = figures.confusion("cut", np.array([0, 0, 1]), np.array([0, 1, 1]), ["no", "yes"])
    right, wrong = (image.get_array() for image in figure.axes[0].images)
    assert right.mask.tolist() == [[False, True], [True, False]]
    assert wrong.mask.tolist() == [[True, False], [False, True]]
    assert [image.get_cmap().name for image in figure.axes[0].images] == ["Blues", "Reds"]


def test_a_long_run_has_a_report_as_small_as_a_short_one(tmp_path):
    page = made_up(tmp_path / "run", ["cut", "price"], steps=2100)
    assert "Of a long table: each point is the mean of 4 rows." in page
    assert len(page) < 1_000_000


def test_one_objective_has_nothing_to_balance_and_no_conflicts(tmp_path):
    page = made_up(tmp_path / "run", ["price"])
    assert captions(page, "Balancing") == ["Length of each objective&#x27;s gradient, before weighting."]
    assert "against" not in page


def test_stopped_run_shows_its_last_validation(tmp_path):
    page = made_up(tmp_path / "run", ["cut", "price"], tested=False)
    assert '<b class="stopped">stopped</b>' in page
    assert "Validation split, epoch 3: the run stopped before its test." in page
    assert page.count('<div class="card">') == 4
    assert captions(page, "Predictions on the test split") == []


def test_run_stopped_in_its_first_epoch_gets_its_report(tmp_path):
    page = made_up(tmp_path / "run", ["cut", "price"], epochs=0, steps=1, tested=False)
    assert captions(page, "Learning") == []
    assert captions(page, "Balancing") == []
    assert "Only step 1 is in balance.csv; with trainer.log_every=1 every step is." in page


def test_trade_off_marks_the_epochs_that_no_other_beats():
    points = np.array([[1.0, 4.0], [2.0, 2.0], [3.0, 3.0], [2.0, 2.0], [4.0, 1.0], [4.0, 1.5]])
    assert figures.front(points).tolist() == [True, True, False, True, True, False]


# ---- in a browser ----------------------------------------------------------------------------------------------------

PROBE = """<!doctype html><title>waiting</title>%s<script>
const found = [];
onload = () => {
  for (const frame of document.querySelectorAll("iframe")) {
    const page = frame.contentDocument, root = page.documentElement;
    found.push({
      pictures: Array.from(page.images, image => image.complete && image.naturalWidth > 0),
      requests: frame.contentWindow.performance.getEntriesByType("resource").map(entry => entry.name),
      width: [root.clientWidth, root.scrollWidth],
    });
  }
  document.title = JSON.stringify(found);
};
</script>"""


def inspect(pages, folder):
    """What a browser makes of pages on a phone of 390 pixels, and what it wrote to its console."""
    frames = "".join(f'<iframe width="390" height="844" srcdoc="{html.escape(page)}"></iframe>' for page in pages)
    (folder / "probe.html").write_text(PROBE % frames, encoding="utf-8")
    dom, log = browse(folder / "probe.html", folder, "--dump-dom", "--virtual-time-budget=10000")
    console = [line for line in log.splitlines() if "CONSOLE" in line]
    return json.loads(html.unescape(re.search("<title>(.*?)</title>", dom)[1])), console


@browser
def test_phone_shows_every_kind_of_report_without_complaint(page, forty, two_phases, tmp_path):
    pages = [page, forty, two_phases]
    found, console = inspect(pages, tmp_path)
    assert console == []
    for source, seen in zip(pages, found, strict=True):
        assert seen["pictures"] == [True] * len(pictures(source))
        assert seen["requests"] == []
        assert seen["width"][1] <= seen["width"][0] <= 390


@browser
def test_pages_and_pictures_are_dark_for_who_prefers_it(folder, tmp_path):
    def brightness(*flags):
        size = ("--window-size=500,900", f"--screenshot={tmp_path / 'page.png'}")
        browse(folder / "report.html", tmp_path, *size, *flags)
        shown = matplotlib.image.imread(tmp_path / "page.png")[..., :3]
        return shown.mean(), shown[500:].mean()  # of the page, and where pictures are

    light, dark = brightness(), brightness("--blink-settings=preferredColorScheme=0")
    assert min(light) > 0.85
    assert max(dark) < 0.3


@browser
def test_an_open_page_loads_itself_again_where_the_reader_was(tmp_path):
    count = "const seen = 1 + Number(sessionStorage.getItem('seen') ?? 0); sessionStorage.setItem('seen', seen);"
    told = "document.title = JSON.stringify([seen, scrollY]); if (seen === 1) scrollTo(0, 777);"
    tall = '<div style="height: 5000px"></div>'
    script = (
        reloading(0.2)
        .replace("<script>", f"<script>{count}", 1)
        .replace("setTimeout(", f"{told} if (seen < 2) setTimeout(", 1)
    )
    (tmp_path / "page.html").write_text(write_page("a", [tall], script), encoding="utf-8")
    dom, log = browse(tmp_path / "page.html", tmp_path, "--dump-dom", "--virtual-time-budget=5000")
    assert json.loads(re.search("<title>(.*?)</title>", dom)[1]) == [2, 777]
    assert "CONSOLE" not in log


@browser
def test_browser_would_notice(tmp_path):
    broken = (
        '<p style="width: 600px">wide</p><img src="data:image/png;base64,AAAA"><script>console.error("oh")</script>'
    )
    (seen,), console = inspect([broken + '<img src="http://127.0.0.1:9/picture.png">'], tmp_path)
    assert len(console) >= 1
    assert seen["pictures"] == [False, False]
    assert seen["requests"] == ["http://127.0.0.1:9/picture.png"]
    assert seen["width"][1] > 390


@browser
def test_browser_draws_the_page(folder, tmp_path):
    browse(folder / "report.html", tmp_path, f"--screenshot={tmp_path / 'page.png'}", "--window-size=1200,2400")
    shown = matplotlib.image.imread(tmp_path / "page.png")[..., :3]
    assert shown.shape[:2] == (2400, 1200)
    thirds = (shown[:800], shown[800:1600], shown[1600:])
    assert all(part.std() > 0.02 for part in thirds)


def test_page_of_a_first_epoch_claims_no_time_and_no_best_epoch():
    """It said "best 0", "0 s of training" and "2.560e+13 samples/s"."""
    facts = {"model": "mmoe", "task": "diamonds", "balancer": "sum", "status": "running", "metrics": {}, "seed": 0}
    facts |= {"epochs": 0, "best_epoch": 0, "steps": 100, "seconds": 0.0, "samples_per_second": 2.56e13}
    facts |= {"device": "cpu", "precision": "fp32"}
    shown = _header(facts, {}, Titles(tasks.create_task("diamonds")))
    assert "running</b> · seed 0 · 0 epochs · 100 steps · cpu · fp32</p>" in shown
