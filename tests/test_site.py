"""The site of docs/, built as `mkdocs build --strict` builds it: every link leads somewhere, and nothing is loaded from
elsewhere. Needs the extra `docs`; `.ci/run` has it."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from docs_support import PAGES, ROOT
from test_docs import documented, resolve

pytestmark = pytest.mark.skipif(importlib.util.find_spec("mkdocs") is None, reason="the extra `docs` is not installed")

# What makes a browser load something: attributes of these tags, apart from links that a person follows.
LOADS = {"script": "src", "link": "href", "img": "src", "iframe": "src", "source": "src", "object": "data"}


class Seen(HTMLParser):
    """What a page loads, and its words."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag in LOADS and given.get(LOADS[tag]) and given.get("rel") != "canonical":
            self.loads.append(str(given[LOADS[tag]]))

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site. A warning of any kind (a link or an anchor that leads nowhere, a page outside of `nav`) fails."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def pages(site: Path) -> list[Path]:
    return sorted(site.rglob("*.html"))


def test_every_page_is_built(site: Path) -> None:
    built = {page.relative_to(site).with_suffix(".md").as_posix() for page in pages(site)} - {"404.md", "search.md"}
    assert built == {page.relative_to(ROOT / "docs").as_posix() for page in PAGES if page.name != "README.md"}


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    seen = 0
    for page in pages(site):
        parser = Seen()
        parser.feed(page.read_text("utf-8"))
        seen += len(parser.loads)
        assert [load for load in parser.loads if re.match(r"(\w+:)?//", load)] == [], page.name
        for load in parser.loads:
            base = site if load.startswith("/") else page.parent  # the page for what is not found may be shown anywhere
            assert (base / load.lstrip("/").partition("?")[0]).is_file(), f"{page.name}: {load}"
    for style in site.rglob("*.css"):
        targets = re.findall(r"(?:url\(|@import\s+)[\"']?([^\"')]+)", style.read_text("utf-8"))
        seen += len(targets)
        assert [target for target in targets if re.match(r"(https?:)?//", target)] == [], style.name
    assert seen > 100


def test_every_name_of_the_reference_has_its_place_and_its_words(site: Path) -> None:
    texts = {page: page.read_text("utf-8") for page in (site / "reference").glob("*.html")}
    everything = "".join(texts.values())
    for name in documented():
        at = everything.find(f'id="{name}"')
        assert at >= 0, name
        after = re.split(r"<h\d id=", everything[at:], maxsplit=1)[0]
        assert re.search(r'class="doc doc-contents[^"]*">\s*<p>', after), f"{name} has no words"
    # A module where a function of the same name was meant would be shown with everything in it.
    assert "doc-module" not in everything


def test_a_struct_is_shown_with_what_makes_one(site: Path) -> None:
    parser = Seen()
    parser.feed((site / "reference" / "config.html").read_text("utf-8"))
    shown = "".join(parser.text)
    for name in ("Config", "Resilience", "Timeouts"):
        signature = shown.partition(f"\n{name}(\n")[2].partition("\n)")[0]
        for field in resolve(f"ai_lib_trio.{name}").__struct_fields__:
            assert re.search(rf"^ +{field}: .+ = .+,$", signature, re.MULTILINE), f"{name}.{field}"
