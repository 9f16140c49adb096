"""The public names: each resolves, is typed, and costs nothing before it is used."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import ai_lib_trio
from ai_lib_trio import errors

ROOT = Path(__file__).resolve().parents[1]
NAMES = [name for name in ai_lib_trio.__all__ if name != "__version__"]
# What `import ai_lib_trio` may not load: an HTTP library, what reads manifests, what the command needs, trio itself.
LATER = {"httpx", "httpcore", "yaml", "jsonpath_ng", "fastjsonschema", "click", "rich", "keyring", "trio"}


def python(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", NAMES)
def test_a_public_name_is_what_it_says(name: str) -> None:
    value = getattr(ai_lib_trio, name)
    if isinstance(value, type):
        assert value.__name__ == name
    assert name in dir(ai_lib_trio)


def test_every_public_name_has_a_docstring() -> None:
    bare = [
        name
        for name in NAMES
        if not getattr(ai_lib_trio, name).__doc__ or getattr(ai_lib_trio, name).__doc__.startswith(f"{name}(")
    ]
    assert set(bare) <= {"StreamingEvent"}  # a union; its members have theirs


def test_types_and_names_agree() -> None:
    """What type checkers see (the TYPE_CHECKING block) is what the table resolves, from the same modules."""
    tree = ast.parse(Path(ai_lib_trio.__file__).read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))
    typed: dict[str, str] = {}
    for node in block.body:
        assert isinstance(node, ast.ImportFrom)
        for alias in node.names:
            assert alias.asname == alias.name, "`import X as X`: else checkers take it for private"
            typed[alias.name] = node.module or ""
    resolved = {name: home for home, names in ai_lib_trio._HOMES.items() for name in names}
    assert typed == resolved
    assert sorted(typed) == NAMES


def test_type_checkers_see_no_list_of_names_that_is_computed() -> None:
    """They would take the package for one that exports nothing to `import *`; without a list they go by the imports."""
    tree = ast.parse(Path(ai_lib_trio.__file__).read_text(encoding="utf-8"))
    holding = [node for node in tree.body if "__all__" in {getattr(name, "id", "") for name in ast.walk(node)}]
    first = holding[0]
    assert isinstance(first, ast.If)
    assert ast.unparse(first.test) == "not TYPE_CHECKING"
    assert not [node for node in holding if isinstance(node, ast.Assign)]


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = ai_lib_trio.no_such_name  # type: ignore[attr-defined]
    assert not hasattr(ai_lib_trio, "os")


def test_star_import_gives_the_public_names() -> None:
    found = python("from ai_lib_trio import *\nprint(*sorted(set(globals())))").split()
    assert set(NAMES) <= set(found)


def test_the_package_is_typed_and_has_the_version_of_the_distribution() -> None:
    from importlib.metadata import version

    assert (Path(ai_lib_trio.__file__).parent / "py.typed").is_file()
    assert version("ai-lib-trio") == ai_lib_trio.__version__


def test_importing_the_package_loads_nothing_that_is_needed_later() -> None:
    loaded = python("import sys, ai_lib_trio\nprint(*sorted({name.partition('.')[0] for name in sys.modules}))")
    assert not set(loaded.split()) & LATER


def test_every_public_name_resolves_without_the_command_or_a_manifest() -> None:
    program = (
        "import sys, ai_lib_trio\n"
        "for name in ai_lib_trio.__all__: getattr(ai_lib_trio, name)\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    assert not set(python(program).split()) & (LATER - {"trio"})


def test_importing_the_package_costs_a_fraction_of_what_its_libraries_cost() -> None:
    def cost(what: str) -> float:
        program = f"import time; start = time.perf_counter(); import {what}; print(time.perf_counter() - start)"
        return min(float(python(program)) for _ in range(5))

    assert cost("ai_lib_trio") < cost("trio, httpx, msgspec") / 2


# ---- the pages that repeat what the code says


def rows(heading: str) -> list[list[str]]:
    page = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    table = page.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in table.splitlines() if line.startswith("| ")][1:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_page_of_errors_has_every_code_as_it_is() -> None:
    def words(value: bool) -> str:
        return "yes" if value else "no"

    assert rows("Standard codes") == [
        [row.code, row.name, ", ".join(map(str, row.http)) or "-", words(row.retryable), words(row.fallbackable)]
        for row in errors.CODES.values()
    ]


def test_the_page_of_errors_has_every_kind_as_it_is() -> None:
    assert rows("Kinds of our own failures") == [
        [name, kind.code, "by state" if kind.retryable else "no", "yes" if kind.fallbackable else "no"]
        for name, kind in errors.KINDS.items()
    ]


def test_every_dependency_has_its_sentence() -> None:
    import re

    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    page = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")
    listed = project.partition("dependencies = [")[2].partition("[project.scripts]")[0]
    for name in re.findall(r"\"([A-Za-z][\w.-]*?)(?:\[[\w,]+\])?(?:[<>=;]|\")", listed):
        if name != "ai-lib-trio":
            assert re.search(rf"\b{re.escape(name)}\b", page), f"docs/dependencies.md says nothing of {name}"
