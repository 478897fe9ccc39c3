"""Check the documents: every command of every page runs in a copy of this repository.

python lab/check_docs.py                     # all pages: about a quarter of an hour on one core
python lab/check_docs.py docs/using.md       # some
python lab/check_docs.py --list              # only say what would be carried out, and what not and why

Each page has a copy of its own, with the files that git knows or would add, and its commands are carried out in their order: one
finds the runs of those before it, as it would for a reader. Rules in doc_commands.py say what stands for a placeholder such as
`outputs/<run>`, which words make a long command end soon, and which commands are left out and why.

A command whose output the page shows is carried out as it stands, at its full length. Each line that is shown must be printed,
in this order. Others may come between, which `...` tells the reader; any number is as good as another, and so is any amount of
space and the length of a rule. If the first line begins with `error:`, the command must fail; all others must not.

Prints a row per command; exit code 1 if one failed.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from rich.markup import escape
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lab import command, results
from lab.doc_commands import RUNS, Command, commands, completed, files, reason, shorter
from lab.jobs import progress
from lab.results import write_stones

PATIENCE = 900.0  # seconds after which a command counts as hanging
_NUMBER = re.compile(r"(?:(?<=\s)-)?\d[\d.,]*(?:e[-+]?\d+)?")
_RULE = re.compile(r"([━─])\1+")


def main(arguments: Sequence[str] | None = None) -> None:
    """Carry out all commands and print what became of them; exit code 1 if one failed."""
    parser = command.parser(__doc__)
    parser.add_argument("pages", nargs="*", metavar="PAGE", help="default: README.md, CONTRIBUTING.md and docs/*.md")
    parser.add_argument("--list", action="store_true", help="carry out nothing")
    parser.add_argument("--out", type=Path, help="a new folder for the copies; default: a temporary one")
    options = parser.parse_args(arguments)
    documents = sorted(f"docs/{page.name}" for page in results.ROOT.glob("docs/*.md"))
    pages = options.pages or ["README.md", "CONTRIBUTING.md", *documents]
    for page in pages:
        if not (results.ROOT / page).is_file():
            parser.error(f"there is no page {page}")
    if options.out is not None and options.out.exists():
        parser.error(f"--out: {options.out} exists already; name a new folder")
    texts = {page: (results.ROOT / page).read_text(encoding="utf-8") for page in pages}
    if options.list:
        listed = [each for page, text in texts.items() for each in commands(page, text)]
        show([(each, f"skipped: {why}" if (why := reason(each)) else completed(each)[0]) for each in listed])
        return
    with tempfile.TemporaryDirectory(prefix="check-docs-") as temporary:
        verdicts = check(texts, (options.out or Path(temporary)).resolve())
    show(verdicts)
    failures = sum(verdict.startswith("failed") for _, verdict in verdicts)
    if failures:
        sys.exit(f"error: {failures} of {len(verdicts)} commands failed")


def check(texts: Mapping[str, str], place: Path) -> list[tuple[Command, str]]:
    """Every command of the pages with its verdict, carried out in folders in ``place``."""
    listed = {page: commands(page, text) for page, text in texts.items()}
    verdicts = []
    with progress() as bars:
        bar = bars.add_task("", total=sum(map(len, listed.values())))
        for page, text in texts.items():
            bars.update(bar, description=page)
            copy = place / Path(page).stem / "repository"
            prepare(copy, files(text))
            done: set[str] = set()
            for each in listed[page]:
                line = completed(each)[0]
                above = line in done and not each.shown
                verdict = "ran above: it is the same once it is shortened" if above else try_out(each, copy)
                if not verdict.startswith("skipped"):
                    done.add(line)
                if verdict.startswith("failed"):  # at once, as the table comes at the end
                    report = f"{page}: {each.text}\n{verdict}"
                    bars.console.print(report, markup=False, highlight=False, soft_wrap=True)
                verdicts.append((each, verdict))
                bars.update(bar, advance=1)
    return verdicts


# ---- the copy --------------------------------------------------------------------------------------------------------


def prepare(copy: Path, written: Mapping[str, str]) -> None:
    """Copy the files that git knows or would add, and write those of the reader."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=results.ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    for name in filter(lambda name: (results.ROOT / name).is_file(), names):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(results.ROOT / name, copy / name)
    for source in (results.ROOT / "data").glob("*"):
        (copy / "data").mkdir(exist_ok=True)
        (copy / "data" / source.name).symlink_to(source)
    for name, content in written.items():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_text(content, encoding="utf-8")
    write_photos(copy)
    write_fields(copy / "fields")
    write_stones(copy / "stones.csv")
    write_customers(copy)
    write_sources(copy)


def write_photos(folder: Path) -> None:
    """Write photo.jpg, and photos/ with the columns that docs/your_own_images.md shows."""
    (folder / "photos" / "cats").mkdir(parents=True)
    rows = ["path,species,sex,weight"]
    for i in range(60):
        pixels = np.random.RandomState(i).randint(0, 256, (24, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"photos/cats/{i:03}.jpg")
        sex, weight = ("female", "male", "")[i % 3], "" if i % 5 == 0 else f"{15 + i / 10}"
        rows.append(f"cats/{i:03}.jpg,{('lynx', 'ocelot')[i % 2]},{sex},{weight}")
    (folder / "photos" / "labels.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    shutil.copy(folder / "photos/cats/000.jpg", folder / "photo.jpg")


def write_fields(folder: Path) -> None:
    """Write fields/ with the maps and the table that docs/your_own_maps.md shows."""
    rows = ["image,ground,height,weather,animals,seen"]
    for i in range(24):
        random = np.random.RandomState(i)
        pictures = {
            "images": random.randint(0, 256, (24, 32, 3), dtype=np.uint8),
            "ground": random.choice(np.array([0, 1, 2, 255], np.uint8), (24, 32)),
            "height": random.randint(0, 30000, (24, 32)).astype(np.uint16),
            "edges": random.choice(np.array([0, 255], np.uint8), (24, 32)),
        }
        for name, pixels in pictures.items():
            (folder / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / name / f"{i:03}.{'jpg' if name == 'images' else 'png'}")
        labels = [("sunny", "rain")[i % 2], str(i % 3), ("road", "road;tree", "")[i % 3]]
        rows.append(",".join([f"images/{i:03}.jpg", f"ground/{i:03}.png", f"height/{i:03}.png", *labels]))
    (folder / "paths.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")


def write_sources(folder: Path) -> None:
    """Write animals/ and faces/ with the labels of docs/your_own_sources.md."""
    for name, column, labels in (("animals", "species", ("lynx", "ocelot")), ("faces", "age", ("31", "45", "62"))):
        (folder / name).mkdir()
        rows = [f"path,{column}", *(f"{i:03}.jpg,{labels[i % len(labels)]}" for i in range(60))]
        (folder / name / "labels.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
        for i in range(60):
            pixels = np.random.RandomState(i).randint(0, 256, (24, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i:03}.jpg")


def write_customers(folder: Path) -> None:
    """Write the tables of docs/your_own_table.md, one of them without labels."""
    random = np.random.RandomState(0)
    rows = []
    for i in range(440):
        age, city, year = random.randint(18, 80), random.randint(4), 2019 + random.randint(7)
        tags = ";".join(tag for tag, least in (("mail", 40), ("vip", 60)) if age > least)
        churn = "" if random.rand() < 0.08 else ("no", "yes")[int(age + 5 * city > 55)]
        inputs = [f"C{i:04}", "" if random.rand() < 0.1 else str(age), ("Oslo", "Bergen", "Bodø", "Narvik")[city]]
        rows.append([*inputs, f"{year}-{1 + i % 12:02}-{1 + i % 28:02}", churn, f"{20 + 2 * age - 5 * city}", tags])
    names = ["customer", "age", "city", "joined", "churn", "spend", "tags"]
    for name, part, width in (("customers", rows[:400], 7), ("new_customers", rows[400:], 4)):
        lines = [",".join(row[:width]) for row in [names, *part]]
        (folder / f"{name}.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


# ---- the commands ----------------------------------------------------------------------------------------------------


def try_out(command: Command, copy: Path) -> str:
    """The verdict on a command; first the runs are made that it needs."""
    if why := reason(command):
        return f"skipped: {why}"
    line, shown = completed(command)
    for folder, making in RUNS.items():
        if folder in line and not (copy / folder).exists():
            code, output = carry_out(shorter(making), copy)
            if code:
                return f"failed: {making}: {last_lines(output)}"
    problem = judge(shown, *carry_out(line, copy))
    if problem:
        return f"failed: {problem}"
    return "ran, and printed what the page shows" if shown else "ran"


def carry_out(line: str, copy: Path) -> tuple[int, str]:
    """Exit code and output of a shell in the copy, with this Python and without a GPU."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    process = subprocess.Popen(
        ["bash", "-c", line],
        cwd=copy,
        env=environment | {"PATH": path, "CUDA_VISIBLE_DEVICES": ""},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        start_new_session=True,
    )
    try:
        output = process.communicate(timeout=PATIENCE)[0]
        return process.returncode, output
    except subprocess.TimeoutExpired:
        return 1, f"no end after {PATIENCE:.0f} s"
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)  # its children too
            process.wait()


def judge(shown: Sequence[str], code: int, output: str) -> str:
    """The error in exit code or output, compared with the shown lines; empty if there is none."""
    should_fail = bool(shown) and shown[0].startswith("error:")
    if bool(code) != should_fail:
        return f"exit code {code}: {last_lines(output)}"
    printed = iter([plain(line) for line in output.splitlines()])
    for line in shown:
        if plain(line) not in printed:  # which also moves on, so that the order counts
            return f"not printed there: {line.strip()!r}; the last lines were: {last_lines(output)}"
    return ""


def plain(line: str) -> str:
    """The line with # for every number, single spaces and short rules."""
    return " ".join(_RULE.sub(r"\1", _NUMBER.sub("#", line)).split())


def last_lines(output: str) -> str:
    """The last three lines that say something."""
    return "\n".join([line for line in output.splitlines() if line.strip()][-3:])


def show(rows: Sequence[tuple[Command, str]]) -> None:
    """A table of commands and their verdicts."""
    table = Table("page", "command", "verdict")
    colors = {"failed": "red", "skipped": "dim"}
    page = ""
    for each, verdict in rows:
        color = colors.get(verdict.partition(":")[0], "default")
        table.add_row(each.page if each.page != page else "", escape(each.text), f"[{color}]{escape(verdict)}[/]")
        page = each.page
    command.console().print(table)


if __name__ == "__main__":
    main()
