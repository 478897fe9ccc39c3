"""Files and tables that follow from the declaration of options in mozoo/config.py."""

import dataclasses

import pytest
import yaml

import mozoo
from lab import options
from mozoo.config import CONFIG_DIR
from mozoo.options import bounds

DECLARED = [(group, item) for group, items in options.sections().items() for item in items]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A folder with all that the declaration gives: the files of ``configs/``, and the page with its tables emptied."""
    folder = tmp_path_factory.mktemp("written")
    kept, table = [], False
    for line in options.PAGE.read_text(encoding="utf-8").splitlines(keepends=True):
        table = table and not line.startswith("<!-- end of ")
        kept += [] if table else [line]
        table = table or line.endswith("_options: written by lab/options.py -->\n")
    (folder / "trainer.md").write_text("".join(kept), encoding="utf-8")
    options.write(folder, folder / "trainer.md")
    return folder


@pytest.mark.parametrize("name", options.PRESETS)
def test_file_is_what_the_declaration_gives(written, name):
    assert (CONFIG_DIR / f"{name}.yaml").read_bytes() == (written / f"{name}.yaml").read_bytes()


def test_page_is_what_the_declaration_gives(written):
    assert options.PAGE.read_bytes() == (written / "trainer.md").read_bytes()


@pytest.mark.parametrize("group", options.sections())
def test_every_file_of_a_declared_group_is_written(group):
    presets = {name.partition("/")[2] for name in options.PRESETS if name.startswith(f"{group}/")}
    assert presets == {path.stem for path in (CONFIG_DIR / group).glob("*.yaml")}


@pytest.mark.parametrize(("group", "item"), DECLARED, ids=[f"{group}.{item.name}" for group, item in DECLARED])
def test_page_has_a_row_with_default_and_bounds(group, item):
    (row,) = [
        line
        for line in options.PAGE.read_text(encoding="utf-8").splitlines()
        if line.startswith(f"| `{group}.{item.name}` |")
    ]
    _, default, words = (cell.strip(" `") for cell in row.split("|")[2:5])
    assert yaml.safe_load(default) == item.default
    assert words == bounds(item.metadata["rules"])


@pytest.mark.parametrize("group", options.sections())
def test_command_and_code_have_the_same_defaults(group):
    section = dataclasses.asdict(getattr(mozoo.compose(), group))
    if group == "trainer":
        section["num_threads"] = None  # the file of the default model has its own
    assert section == dataclasses.asdict(getattr(mozoo.Config(), group))
