"""lab/check_docs.py: what it takes for a command, what it makes of it, and when it says that a page is wrong."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lab import check_docs, doc_commands, results
from lab.doc_commands import Command, commands, completed, files, reason

ROOT = Path(__file__).resolve().parent.parent.parent
PAGES = ["README.md", "CONTRIBUTING.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
PAGE = """# A page

`python tool.py first` comes before, `scripts/tool.py` is a name, and `python
  tool.py   wrapped` goes on in the next line.

```bash
pip install -e . && python tool.py second   # in words
# nothing but words
python tool.py third \\
    'a: [1, 2]'                              # and more words
```

```text
one 1.5
...

three
```

A file, `../mine/tool.py`:

```python
print("`python tool.py no`")
```

```python
print("no file")
```

```bash
python tool.py fourth
python tool.py first
```

What it prints is told elsewhere:

```text
nothing
```

Again `python tool.py fourth`.
"""


# ---- reading pages ---------------------------------------------------------------------------------------------------


def test_commands_are_those_of_bash_blocks_and_inline_code_each_once():
    assert [each.text for each in commands("page.md", PAGE)] == [
        "python tool.py first",
        "python tool.py wrapped",
        "pip install -e .",
        "python tool.py second",
        "python tool.py third 'a: [1, 2]'",
        "python tool.py fourth",
    ]


def test_a_text_block_belongs_to_the_command_right_before_it():
    shown = {each.text: each.shown for each in commands("page.md", PAGE) if each.shown}
    assert shown == {"python tool.py third 'a: [1, 2]'": ("one 1.5", "three")}


def test_files_are_blocks_that_follow_a_path():
    assert files(PAGE) == {"../mine/tool.py": 'print("`python tool.py no`")\n'}


# ---- rules -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("python scripts/predict.py run=outputs/<run> input=photo.jpg", "outputs/pictures input=photo.jpg"),
        ("python scripts/predict.py run=outputs/<run> samples=64", "outputs/points samples=64"),
        ("python scripts/evaluate.py run=outputs/<run>", "outputs/table"),
        ("python scripts/compare.py outputs/<runs>", "compare.py outputs/table"),
        ("torchrun --nproc-per-node N train.py ...", "--nproc-per-node 2 train.py trainer.max_steps=2"),
        ("python train.py model=... balancer=...", "train.py model=shared_trunk balancer=pcgrad trainer.max_steps=2"),
        ("python train.py", "train.py trainer.max_steps=2"),
        ("python train.py resume=outputs/<run>", "resume=outputs/table"),
        ("python train.py model=gan", "train.py model=gan trainer.dry_run=true"),
        ("python train.py model=gan_points", "model=gan_points trainer.max_steps=2"),
        ("python lab/benchmark_train.py --collect", "benchmark_train.py --collect"),
    ],
)
def test_placeholders_are_filled_in_and_long_commands_end_soon(text, expected):
    line, shown = completed(Command("page.md", text))
    assert expected in line
    assert shown == []
    assert line.count("--collect") <= 1
    assert ("max_steps" in line) == ("max_steps" in expected)


def test_a_command_whose_output_is_shown_keeps_its_length():
    command = Command("page.md", "python train.py resume=outputs/<run>", ("writing to outputs/<run>",))
    assert completed(command) == ("python train.py resume=outputs/table", ["writing to outputs/table"])


def test_what_cannot_be_carried_out_has_a_reason(monkeypatch):
    texts = (
        "pip install -e .",
        "python lab/tables.py rooms",
        "python train.py -m hydra/launcher=slurm",
        "ln -s /where/it/is",
    )
    assert all(reason(Command("page.md", text)) for text in texts)
    assert reason(Command("page.md", "python train.py")) == ""
    parallel = Command("page.md", "python train.py -m hydra/launcher=parallel")
    monkeypatch.setattr(doc_commands, "is_installed", lambda module: False)
    assert reason(parallel) == "needs hydra-joblib-launcher"
    monkeypatch.setattr(doc_commands, "is_installed", lambda module: True)
    assert reason(parallel) == ""


@pytest.mark.parametrize("page", PAGES)
def test_no_command_of_a_page_is_left_with_a_placeholder(page):
    for command in commands(page, (ROOT / page).read_text(encoding="utf-8")):
        line = completed(command)[0]
        assert reason(command) or not ("<" in line or "..." in line), line


# ---- verdicts --------------------------------------------------------------------------------------------------------

PRINTED = "epoch 12  loss -0.51\n┏━━━┳━━━┓\n\nwritten to run-20261122/a.json\n"


@pytest.mark.parametrize(
    ("shown", "code", "right"),
    [
        ([], 0, True),
        ([], 1, False),
        (["epoch 3  loss 1,700.2", "┏━━━━━━┳━┓", "written to run-7/a.json"], 0, True),
        (["epoch 3   loss 1e-05"], 0, True),
        (["written to run-7/a.json", "epoch 3 loss 1"], 0, False),
        (["epoch 3 loss 1", "epoch 4 loss 1"], 0, False),
        (["epoch 3 accuracy 1"], 0, False),
        (["epoch 3 loss nan"], 0, False),
        (["error: epoch"], 0, False),
    ],
)
def test_lines_are_compared_in_order_and_numbers_are_alike(shown, code, right):
    assert (check_docs.judge(shown, code, PRINTED) == "") is right


def test_a_page_that_shows_an_error_expects_one():
    assert check_docs.judge(["error: no key 'a'"], 2, "error: no key 'a'\n") == ""
    assert "exit code 0" in check_docs.judge(["error: no key 'a'"], 0, "error: no key 'a'\n")


# ---- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A repository with one tool, whose pages the test writes."""
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    (tmp_path / "tasks" / "data").mkdir(parents=True)
    shutil.copy(ROOT / "tasks/data/diamonds.csv.xz", tmp_path / "tasks/data")
    (tmp_path / ".gitignore").write_text("/data/\n/secret.txt\n")
    (tmp_path / "secret.txt").write_text("not part of the repository\n")
    (tmp_path / "data" / "set").mkdir(parents=True)
    (tmp_path / "data" / "set" / "one.txt").write_text("a sample\n")
    (tmp_path / "tool.py").write_text(
        "import pathlib, sys\n"
        "name = sys.argv[1]\n"
        "if name == 'bad':\n"
        "    sys.exit('error: a bad name')\n"
        "print(name, len(name), pathlib.Path(name).read_text() if pathlib.Path(name).exists() else 'nothing there')\n"
        "pathlib.Path('seen.txt').write_text(name)\n"
    )
    monkeypatch.setattr(results, "ROOT", tmp_path)
    return tmp_path


def check(repository, page, *words):
    (repository / "README.md").write_text(page)
    check_docs.main(["README.md", *words])


def test_commands_find_what_earlier_ones_and_the_reader_have_written(repository, capsys):
    shown = "```bash\n{}\n```\n\n```text\n{}\n```\n"
    page = (
        shown.format("python tool.py abc", "abc 9 nothing there")
        + shown.format("python tool.py seen.txt", "seen.txt 8 abc")
        + shown.format("python tool.py ../mine/a.py", "../mine/a.py 12 # a file")
        + shown.format("python tool.py photo.png; cat photos/labels.csv | head -1", "path,species,sex,weight")
        + shown.format("python tool.py bad", "error: a bad name")
        + shown.format("cat data/set/one.txt; mkdir data/other", "a sample")
        + "`../mine/a.py`:\n\n```python\n# a file\n```\n`python tool.py secret.txt`, `python tool.py secret.txt ...`\n"
    )
    out = repository / "kept"
    check(repository, page, "--out", str(out))
    printed = capsys.readouterr().out
    assert printed.count("ran, and printed what the page shows") == 6
    assert printed.count("ran above") == 1
    assert not (out / "README" / "repository" / "secret.txt").exists()
    assert not (repository / "seen.txt").exists()
    assert [path.name for path in (repository / "data").iterdir()] == ["set"]


def test_a_command_that_fails_or_prints_something_else_ends_with_exit_code_1(repository, capsys):
    page = "`python tool.py bad`\n\n```bash\npython tool.py abc\n```\n\n```text\nabd 3 nothing there\n```\n"
    with pytest.raises(SystemExit) as ending:
        check(repository, page)
    assert ending.value.code == "error: 2 of 2 commands failed"  # which exits with 1
    printed = " ".join(capsys.readouterr().out.split())
    assert "exit code 1: error: a bad name" in printed
    assert "not printed there: 'abd 3 nothing there'" in printed


def test_a_command_that_hangs_fails(repository, monkeypatch):
    monkeypatch.setattr(check_docs, "PATIENCE", 0.2)
    assert check_docs.carry_out("sleep 60 & sleep 60", repository) == (1, "no end after 0 s")


def test_an_unknown_page_is_an_error(capsys):
    with pytest.raises(SystemExit) as ending:
        check_docs.main(["docs/no_such_page.md"])
    assert ending.value.code == 2
    assert "docs/no_such_page.md" in capsys.readouterr().err


def test_list_shows_every_command_of_the_readme_and_carries_out_nothing(monkeypatch, capsys):
    monkeypatch.setattr(check_docs, "check", None)
    check_docs.main(["--list"])
    printed = "".join(capsys.readouterr().out.replace("│", " ").split())
    for page in ("README.md", "docs/adding.md", "docs/using.md"):
        assert page in printed
    for text in ("python train.py debug=overfit", "torchrun --nproc-per-node 4", "skipped: installs packages"):
        assert "".join(text.split()) in printed


@pytest.mark.slow
def test_every_command_of_every_page_works():
    command = [sys.executable, str(ROOT / "lab" / "check_docs.py")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=7200)
    assert done.returncode == 0, done.stdout + done.stderr
