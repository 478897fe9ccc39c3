"""report.html: complete, self-contained, and read by a real browser without complaint."""

import base64
import html
import json
import math
import re
import shutil
import subprocess
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import matplotlib.image
import pytest
from matplotlib.figure import Figure

import engine
import tasks
import train

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
browser = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium, chromium-browser or google-chrome on the PATH")
PICTURE = "data:image/svg+xml;base64,"


@pytest.fixture(scope="module")
def folder(stones, tmp_path_factory):
    """The folder of a short run."""
    path = tmp_path_factory.mktemp("outputs") / "run"
    run_briefly(path, stones, "balancer=pcgrad", "trainer.max_steps=42")
    return path


def run_briefly(path, stones, *overrides):
    short = ("trainer.device=cpu", "trainer.batch_size=64", "trainer.log_every=1", "logger.tensorboard=false")
    train.run(engine.compose([f"task.csv={stones}", f"run_dir={path}", *short, *overrides]))


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
    cards = dict(re.findall(r'<div class="card"><span>(.*?)</span><b>(.*?)</b></div>', page))
    assert cards == {name.removeprefix("test/"): f"{value:.4g}" for name, value in summary["metrics"].items()}


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
    written = engine.write_report(tmp_path / "run", task, {}).read_text(encoding="utf-8")
    assert "<script>" not in written
    assert "&lt;script&gt;" in written


def test_pictures_of_the_task_are_shown_with_their_captions(folder, tmp_path, stones):
    shutil.copytree(folder, tmp_path / "run")
    figure = Figure()
    figure.subplots().plot([0, 1])
    task = tasks.create_task("diamonds", csv=str(stones))
    written = engine.write_report(tmp_path / "run", task, {}, {"what the model saw": figure}).read_text("utf-8")
    samples = written.partition("<h2>Samples</h2>")[2].partition("<h2>")[0]
    assert len(pictures(samples)) == 1
    assert "<figcaption>what the model saw</figcaption>" in samples


def test_run_that_skipped_a_step_gets_its_report(tmp_path, stones, monkeypatch):
    losses, calls = tasks.Task.losses, iter(range(1, 100))

    def spoiled(self, model, batch, phase):
        found, features = losses(self, model, batch, phase)
        if next(calls) == 5:
            found["price"] = found["price"] * math.nan
        return found, features

    monkeypatch.setattr(tasks.Task, "losses", spoiled)
    run_briefly(tmp_path / "run", stones, "balancer=mgda", "balancer.on_nonfinite=skip", "trainer.max_steps=10")
    assert len(pictures((tmp_path / "run" / "report.html").read_text(encoding="utf-8"))) >= 10


def test_run_that_diverged_gets_its_report(tmp_path, stones):
    diverging = ("optimizer=sgd", "optimizer.lr=1.0e+30", "scheduler=constant", "trainer.max_steps=1")
    run_briefly(tmp_path / "run", stones, *diverging)
    summary = (tmp_path / "run" / "summary.json").read_text(encoding="utf-8")
    assert '"test/price/loss": null' in summary
    assert "NaN" not in summary
    assert "<span>price/loss</span><b>not finite</b>" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")


# ---- in a browser ----------------------------------------------------------------------------------------------------


@browser
def test_browser_reports_no_errors(folder, tmp_path):
    dom, log = browse(folder / "report.html", tmp_path, "--dump-dom")
    assert "balanced by pcgrad" in dom
    assert [line for line in log.splitlines() if "CONSOLE" in line] == []


@browser
def test_browser_decodes_every_picture(page, tmp_path):
    script = "document.title = Array.from(document.images, i => i.complete && i.naturalWidth > 0).join()"
    copy = tmp_path / "copy.html"
    copy.write_text(page.replace("</body>", f"<script>onload = () => {{ {script} }}</script></body>"), encoding="utf-8")
    dom, _ = browse(copy, tmp_path, "--dump-dom", "--virtual-time-budget=5000")
    decoded = re.search("<title>(.*?)</title>", dom)[1].split(",")
    assert decoded == ["true"] * len(pictures(page))


@browser
def test_browser_draws_the_page(folder, tmp_path):
    browse(folder / "report.html", tmp_path, f"--screenshot={tmp_path / 'page.png'}", "--window-size=1200,2400")
    shown = matplotlib.image.imread(tmp_path / "page.png")[..., :3]
    assert shown.shape[:2] == (2400, 1200)
    thirds = (shown[:800], shown[800:1600], shown[1600:])
    assert all(part.std() > 0.02 for part in thirds)
