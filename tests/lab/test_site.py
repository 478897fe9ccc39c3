"""The documentation site: links, and pages of methods and models that are made at the build."""

import ast
from collections.abc import Mapping, Sequence

import pytest

import balancing
from balancing import list_balancers
from lab import docstrings, method_pages, model_pages, results, site_links
from tasks import list_tasks
from zoo import list_models

HOST = "https://host/repository"
METHODS = list_balancers()


@pytest.mark.parametrize(
    ("link", "source", "page", "expected"),
    [
        ("using.md#hub", "docs/weights.md", "weights.md", "using.md#hub"),
        ("../README.md", "docs/weights.md", "weights.md", "index.md"),
        ("docs/results.md#rooms", "README.md", "index.md", "results.md#rooms"),
        ("../results/rooms.png", "docs/dense.md", "dense.md", "results/rooms.png"),
        ("../results/rooms.csv", "docs/dense.md", "dense.md", f"{HOST}/blob/main/results/rooms.csv"),
        ("../lab/tables.py", "docs/dense.md", "dense.md", f"{HOST}/blob/main/lab/tables.py"),
        ("../findings", "docs/surprises.md", "surprises.md", f"{HOST}/tree/main/findings"),
        ("cost.md", "docs/page.md", "methods/mgda.md", "../cost.md"),
        ("methods/mgda.svg", "docs/page.md", "methods/mgda.md", "mgda.svg"),
        ("#here", "docs/cost.md", "cost.md", "#here"),
        ("https://pytorch.org/a.md", "docs/cost.md", "cost.md", "https://pytorch.org/a.md"),
        ("../no_such_file.py", "docs/cost.md", "cost.md", "../no_such_file.py"),
        ("../../outside.md", "docs/cost.md", "cost.md", "../../outside.md"),
    ],
)
def test_links_lead_to_the_same_thing_on_the_site(link, source, page, expected):
    assert site_links.target(link, source, page, HOST) == expected
    text = f"See [the `code`]({link}) and ![x]({link})."
    assert site_links.rewrite(text, source, page, HOST) == text.replace(link, expected)


@pytest.mark.parametrize("code", ["`[a](../README.md)`", "```text\n[a](../README.md)\narXiv:1234.5678\n```\n"])
def test_code_is_left_alone(code):
    assert site_links.rewrite(code, "docs/cost.md", "cost.md", HOST) == code


def test_what_only_the_host_understands_is_adapted():
    text = "<!-- a: written by b -->\n| a |\n|---|\n\nYu, 2020, arXiv:2001.06782."
    assert site_links.rewrite(text, "docs/cost.md", "cost.md", HOST) == (
        "<!-- a: written by b -->\n\n| a |\n|---|\n\nYu, 2020, [arXiv:2001.06782](https://arxiv.org/abs/2001.06782)."
    )


@pytest.mark.parametrize("name", METHODS)
def test_the_example_of_every_method_runs(name, capsys):
    code = method_pages.example(name)
    assert max(map(len, code.splitlines())) <= 100
    exec(compile(code, name, "exec"), {})
    losses = ast.literal_eval(capsys.readouterr().out.replace("nan", "None"))
    assert {f"loss/{objective}" for objective in method_pages.objectives(name)} <= set(losses)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_a_page(name):
    page = method_pages.page(name)
    for heading in ("Formula and source", "When to use it", "Example", "Options", "Cost", "Results", "API"):
        assert page.count(f"\n## {heading}\n") == 1
    assert f"# `{name}`\n" in page
    assert "``" not in page.replace("```", "")
    assert (f"methods/{name}.svg" in page) == (name not in ("torchjd", *method_pages.FAMILIES["bilevel"]))


def test_sources_lead_to_the_paper():
    page = site_links.rewrite(method_pages.page("pcgrad"), "docs/page.md", "methods/pcgrad.md", HOST)
    assert 'Yu et al., "Gradient Surgery for Multi-Task Learning", NeurIPS 2020' in page
    assert "[arXiv:2001.06782](https://arxiv.org/abs/2001.06782)" in page


def test_options_have_defaults_values_and_meanings():
    page = method_pages.page("scheduled")
    assert '| `shape` | `step`, `linear`, `cosine` | `"linear"` |' in page
    assert "| `period` |" not in page
    assert "refused: `at`" in page
    assert "refused" not in method_pages.options("pcgrad")


def test_a_panel_shows_its_method_alone():
    picture = method_pages.picture("mgda")
    assert ">mgda</text>" in picture
    assert ">pcgrad</text>" not in picture
    assert method_pages.picture("torchjd") is None


@pytest.mark.parametrize("name", list_models())
def test_every_model_has_a_page(name):
    page = model_pages.page(name)
    for heading in ("Train", "Parameters", "Configuration", "How it works", "API"):
        assert page.count(f"\n## {heading}\n") == 1
    parameters = page.partition("## Parameters\n")[2].partition("\n## ")[0]
    assert "|  |\n" not in parameters, "a parameter without a meaning"


def test_the_list_of_tasks_has_every_task_and_what_its_arguments_mean():
    page = model_pages.task_list()
    for name in list_tasks():
        assert page.count(f"\n## `{name}`\n") == 1
    assert not [line for line in page.splitlines() if line.startswith("|") and line.endswith("|  |")]


def test_the_reference_has_public_classes_and_functions():
    page = model_pages.reference(balancing, "balancing", without=frozenset({"PCGrad"}))
    assert "\n::: balancing.create_balancer\n" in page
    assert "\n::: balancing.Balancer\n" in page
    assert "balancing.PCGrad" not in page


def test_sessions_of_python_are_blocks_of_code():
    """Their prompts were quotation marks of Markdown, one within the other."""
    text = "Do it.\n\n>>> report = step(\n...     model\n... )\n\nThen ``b``."
    assert docstrings.markdown(text) == "Do it.\n\n```python\nreport = step(\n    model\n)\n```\n\nThen `b`."


def test_marks_of_code_in_a_diagram_do_not_end_it():
    """The page of pinn was a block of code from there on."""
    text = "A ``b``:\n\n```text\nx -> y (with ``z``)\n```\n\nAnd ``c``."
    assert docstrings.markdown(text) == "A `b`:\n\n```text\nx -> y (with z)\n```\n\nAnd `c`."
    for name in list_models():
        page = model_pages.description(model_pages.model_entrypoint(name))
        outside = "".join(docstrings._FENCED.split(page)[::2])
        assert "``" not in outside, name


def test_types_are_words():
    assert docstrings.values(Sequence[str] | Mapping[str, int | str] | None) == (
        "list of text, or mapping of text to integer or text, or none"
    )
    assert docstrings.values(int | None) == "integer or none"


def test_cells_of_the_table_of_methods_are_spelled_out_on_their_pages():
    page = method_pages.facts("pcgrad")
    assert "gramian: lengths and angles of the objectives' gradients" in page
    assert "sum: the weights sum to about K" in page
    assert "rows: the gradients (for loss methods: the losses) are multiplied by it before the method" in page
    text = (results.ROOT / "docs/balancing.md").read_text(encoding="utf-8")
    for key, values in {
        "scale": "mean sum own",
        "heads": "unit weighted",
        "preference on": "weights rows target method",
    }.items():
        assert all(method_pages.spelled(key, value, text).startswith(f"{value}: ") for value in values.split()), text


def test_docstrings_are_taken_apart():
    def build() -> None:
        """A thing: ``a``.

        ``b = c`` of :class:`Thing`.

        needs: nothing     scale: sum
        A note.

        Args:
            first: One
                and more.
            second: Two.

        Raises:
            ValueError: Never.
        """

    words = docstrings.parse(build)
    assert words == docstrings.Docstring(
        "A thing: `a`.", "`b = c` of `Thing`.", "A note.", {"first": "One and more.", "second": "Two."}
    )
