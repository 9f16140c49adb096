"""No provider in code: nothing under src/ names a provider, a model or a vendor's host."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

import pytest

from ai_lib_trio.protocol.yaml_source import read_yaml

ROOT = Path(__file__).resolve().parents[1]
SRC = ROOT / "src"

# Ids that are English words (or parts of our own names): looked for in string literals and identifiers only, as whole
# words. Everything else is looked for in the whole text, comments and docstrings too.
ENGLISH = {"together", "fireworks", "perplexity", "spark", "replicate", "stability", "writer", "cohere", "yi", "lepton"}
# Of these, the words that programs use for things of their own: looked for in string literals only.
PROGRAMMING = {"writer"}


@functools.cache
def provider_files() -> list[dict[str, object]]:
    return [
        read_yaml(path.read_bytes(), path.name).data for path in sorted((ROOT / "manifests/providers").glob("*.yaml"))
    ]


@functools.cache
def names() -> set[str]:
    found: set[str] = set()
    for data in provider_files():
        found.add(str(data["id"]))
        found.update(str(one) for one in data.get("aliases") or ())  # type: ignore[attr-defined]
    return found


@functools.cache
def hosts() -> set[str]:
    found: set[str] = set()
    for data in provider_files():
        for url in re.findall(r"https?://[^\s'\"}]+", str(data.get("endpoint")) + str(data.get("official_url"))):
            host = re.split(r"[/:]", url.split("://", 1)[1])[0]
            if not re.fullmatch(r"localhost|127\.[\d.]+", host):
                found.add(".".join(host.split(".")[-2:]))
    return found


@functools.cache
def model_keys() -> set[str]:
    found: set[str] = set()
    for path in (ROOT / "manifests/models").glob("*.yaml"):
        for key, entry in read_yaml(path.read_bytes(), path.name).data["models"].items():
            found.update((str(key), str(entry.get("model_id", key))))
    return {name for name in found if not name.isalpha()}


@functools.cache
def forbidden() -> dict[str, re.Pattern[str]]:
    """One pattern for each kind of name, over lower-case text."""

    def any_of(found: set[str]) -> str:
        return "|".join(re.escape(one.lower()) for one in sorted(found, key=len, reverse=True))

    return {
        "provider": re.compile(rf"(?<![a-z0-9])(?:{any_of(names() - ENGLISH)})(?![a-z0-9])"),
        "host": re.compile(any_of(hosts())),
        "model": re.compile(rf"(?<![\w.-])(?:{any_of(model_keys())})(?![\w.-])"),
    }


def modules() -> list[Path]:
    return sorted(SRC.rglob("*.py"))


def words_of_code(text: str) -> tuple[set[str], set[str]]:
    """The words of string literals (docstrings are not code), and of identifiers."""
    tree = ast.parse(text)
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    # The names in `__slots__` and `__all__` are identifiers that are written as text.
    listed = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) in ("__slots__", "__all__")
        for inner in ast.walk(node)
    }
    literals: list[str] = []
    found: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            # Only a literal that is a name by itself: a sentence may say "together".
            if re.fullmatch(r"[\w./:-]+", node.value):
                (found if id(node) in listed else literals).append(node.value)
        elif isinstance(node, ast.Name):
            found.append(node.id)
        elif isinstance(node, ast.Attribute):
            found.append(node.attr)
        elif isinstance(node, ast.arg):
            found.append(node.arg)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            found.append(node.name)

    def words(names: list[str]) -> set[str]:
        return {word.lower() for name in names for word in re.split(r"[^A-Za-z0-9]+|_", name)}

    return words(literals), words(found)


@pytest.mark.parametrize("path", modules(), ids=lambda path: path.relative_to(SRC).as_posix())
def test_no_module_names_a_provider_a_model_or_a_host(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    lowered = text.lower()
    for what, pattern in forbidden().items():
        hit = pattern.search(lowered)
        assert hit is None, f"{path}: names the {what} {hit.group(0) if hit else ''!r}"
    literals, identifiers = words_of_code(text)
    code = (literals | (identifiers - PROGRAMMING)) & names() & ENGLISH
    assert not code, f"{path}: names {code}"


def test_the_search_finds_what_it_looks_for() -> None:
    literals, identifiers = words_of_code('"""together"""\nx = "together"\nspark_id = 1\n')
    assert "together" in literals
    assert "spark" in identifiers
    assert "together" not in words_of_code('"""together"""\nx = "all go together here"\n')[0]
