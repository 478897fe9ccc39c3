"""The documentation site: hooks of MkDocs that add what is not written by hand.

mkdocs build --strict     # into site/; a broken link is an error
mkdocs serve              # on http://127.0.0.1:8000

README.md is the front page. Each method and each model has a page, made from its docstring, its signature, the pages of docs/ and
the files in results/; the reference follows the public names of the packages. Nothing of that is in the repository.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import balancing
import mozoo
import tasks
import zoo
from lab import method_pages, model_pages, ours, site_links
from lab.site_links import ROOT

HEADING = re.compile(r"^##+ `(\w+)`\n", re.MULTILINE)  # of a method, on the page of its family
OTHERS = "others"  # stands in the navigation for the pages of docs/ that it does not name


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Fill in the parts of the navigation that are lists."""
    families = {
        f"methods/{key}": [f"methods/{name}.md" for name in names] for key, names in method_pages.FAMILIES.items()
    }
    lists = {**families, "models": [f"models/{name}.md" for name in ours.models()]}
    named = set(entries(config.nav))
    lists[OTHERS] = sorted(path.name for path in Path(config.docs_dir).glob("*.md") if path.name not in named)
    config.nav = filled(config.nav, lists)
    return config


def entries(nav: Any) -> Iterator[str]:
    """All paths of a navigation."""
    for item in nav:
        if isinstance(item, str):
            yield item
        else:
            for value in item.values():
                yield from entries([value] if isinstance(value, str) else value)


def filled(nav: Any, lists: dict[str, list[str]]) -> list[Any]:
    """A navigation with lists for the entries that stand for them."""
    made: list[Any] = []
    for item in nav:
        if isinstance(item, dict):
            made.append({key: value if isinstance(value, str) else filled(value, lists) for key, value in item.items()})
        else:
            made += lists.get(item, [item])
    return made


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made, and pictures."""
    for source, page in site_links.PAGES.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    for path in sorted((ROOT / "results").iterdir()):
        if path.suffix in site_links.PICTURES:
            files.append(File.generated(config, f"results/{path.name}", abs_src_path=str(path)))
    for page, text in pages():
        # as if it stood in docs/, which is where its links are relative to
        made = site_links.rewrite(text, "docs/page.md", page, host(config))
        files.append(File.generated(config, page, content=made))
    for name in (name for names in method_pages.FAMILIES.values() for name in names):
        if (picture := method_pages.picture(name)) is not None:
            files.append(File.generated(config, f"methods/{name}.svg", content=picture))
    return files


def pages() -> Iterator[tuple[str, str]]:
    """Path and Markdown of the pages that are made."""
    methods = [name for names in method_pages.FAMILIES.values() for name in names]
    classes = frozenset(getattr(balancing.balancer_class(name), "__name__", name) for name in methods)
    yield from ((f"methods/{name}.md", method_pages.page(name)) for name in methods)
    yield from ((f"models/{name}.md", model_pages.page(name)) for name in ours.models())
    yield "reference/balancing.md", model_pages.reference(balancing, "balancing", without=classes)
    for package in (zoo, tasks, mozoo):
        yield f"reference/{package.__name__}.md", model_pages.reference(package, package.__name__)
    yield "reference/task_names.md", model_pages.task_list()


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links of pages that are written by hand."""
    path = page.file.src_uri
    source = next((file for file, place in site_links.PAGES.items() if place == path), f"docs/{path}")
    if not (ROOT / source).is_file():
        return markdown
    if path.startswith("balancing_"):
        markdown = HEADING.sub(r"\g<0>\n[Code, options, cost, results and API](methods/\1.md)\n", markdown)
    return site_links.rewrite(markdown, source, path, host(config))


def host(config: MkDocsConfig) -> str:
    """Address of the repository, without a slash at its end."""
    return str(config.repo_url).rstrip("/")
