"""The blocks of code on our pages, so that each can be run: README.md and everything below docs/."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import trio

import ai_lib_trio
from ai_lib_trio.protocol.loader import Catalog
from ai_lib_trio.simulator import Simulator

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


class Block(NamedTuple):
    """One block. `language` is the word after its fence, `indented` for one without; `shown` is the `text` after it."""

    page: str
    section: str
    language: str
    code: str
    shown: str | None = None

    @property
    def commands(self) -> list[str]:
        """The lines of a block for a shell, without prompts and remarks."""
        lines = [re.sub(r"\s+# .*", "", line).removeprefix("$ ").strip() for line in self.code.splitlines()]
        return [line for line in lines if line]

    @property
    def is_program(self) -> bool:
        """Whether the Python code is a whole program. A part of one awaits outside of any function."""
        try:
            compile(self.code, self.page, "exec")
        except SyntaxError:
            return False
        return True


def blocks(*languages: str) -> list[Block]:
    """Every block in one of these languages, in the order of the pages. What a program prints belongs to its block."""
    return [block for page in PAGES for block in _of_page(page) if block.language in languages]


def all_blocks() -> list[Block]:
    return [block for page in PAGES for block in _of_page(page)]


def numbered(found: list[Block]) -> Iterator[tuple[str, Block]]:
    """The blocks, each with a name: its page, and which one of the page's it is."""
    counts: dict[str, int] = {}
    for block in found:
        counts[block.page] = counts.get(block.page, 0) + 1
        page = block.page.removeprefix("docs/").removesuffix(".md")
        yield f"{page}-{counts[block.page]}", block


def _of_page(page: Path) -> Iterator[Block]:
    """Fenced blocks, and those that four blanks make. A `text` right after a program is what it prints."""
    name, section = page.relative_to(ROOT).as_posix(), ""
    lines = page.read_text(encoding="utf-8").splitlines()
    waits: Block | None = None  # a program whose output may come
    at = 0
    while at < len(lines):
        line = lines[at]
        if fence := re.match(r"(\s*)```(\w*)$", line):
            end = next(n for n in range(at + 1, len(lines)) if lines[n] == f"{fence[1]}```")
            code = "".join(f"{inside.removeprefix(fence[1])}\n" for inside in lines[at + 1 : end])
            block = Block(name, section, fence[2], code)
            if waits is not None and block.language == "text":
                yield waits._replace(shown=code)
                waits = None
            else:
                if waits is not None:
                    yield waits
                waits = block
            at = end + 1
            continue
        assert "```" not in line, f"{name}:{at + 1}: a fence that this does not understand"
        if waits is not None and line.strip():
            yield waits
            waits = None
        if line.startswith("    ") and at and not lines[at - 1].strip():
            end = next((n for n in range(at, len(lines)) if not lines[n].startswith("    ")), len(lines))
            yield Block(name, section, "indented", "\n".join(inside[4:] for inside in lines[at:end]))
            at = end
            continue
        if heading := re.match(r"#+ (.*)", line):
            section = heading[1]
        at += 1
    if waits is not None:
        yield waits


def point_at(sim: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `open_client` of programs that are meant for real providers talk to the simulator, with keys of no worth."""
    original = ai_lib_trio.open_client
    providers = Catalog.open(environ={}).providers()
    config = ai_lib_trio.Config(
        base_urls={name: sim.base_url(name) for name in providers} | {"acme": sim.base_url("chat_completions")},
        api_keys=dict.fromkeys([*providers, "acme"], "a-key-of-the-test"),
    )

    def pointed(*arguments: Any, **named: Any) -> Any:
        return original(*arguments, **named, config=config)

    monkeypatch.setattr(ai_lib_trio, "open_client", pointed)


def main_of(code: str, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Awaitable[None]]:
    """The `main` that a program gives to `trio.run`."""
    given: list[Callable[[], Awaitable[None]]] = []
    with monkeypatch.context() as patch:
        patch.setattr(trio, "run", given.append)
        exec(compile(code, "docs", "exec"), {"__name__": "__main__"})
    assert len(given) == 1
    return given[0]
