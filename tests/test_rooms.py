"""Imports point one way, and the inner rooms need neither trio nor httpx."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SRC = Path(__file__).resolve().parents[1] / "src"
PACKAGE = "ai_lib_trio"

# Room -> the rooms it may see (DESIGN section 2). A room that is not written here may not exist.
CORE = {"errors", "types", "protocol", "pipeline", "wire"}
TRIO = CORE | {"service"}
MAY_SEE: dict[str, set[str]] = {
    "errors": set(),
    "types": {"errors"},
    "protocol": {"errors", "types"},
    "pipeline": {"errors", "types", "protocol"},
    "wire": {"errors", "types", "protocol"},
    "service": CORE,
    "resilience": TRIO,
    "transport": TRIO,
    "actors": TRIO | {"transport.base"},
    "routing": TRIO | {"resilience", "transport", "actors"},
    "client": TRIO | {"resilience", "transport", "actors", "routing"},
    "telemetry": TRIO,
    "simulator": {"errors", "types", "protocol", "pipeline", "wire"},
    "conformance": TRIO | {"resilience", "transport.credentials"},
    "cli": TRIO | {"resilience", "transport", "actors", "routing", "client", "telemetry", "simulator", "conformance"},
}
MAY_SEE["testing"] = set(MAY_SEE) | {"testing"}
INNER = ("errors", "types", "protocol", "pipeline", "wire", "service")
FOREIGN_TO_INNER = {"trio", "httpx", "httpcore", "anyio", "asyncio", "socket", "ssl", "outcome"}
LAZY = {"yaml", "jsonpath_ng", "fastjsonschema", "httpx", "click", "rich", "keyring", "watchfiles"}
LAZY |= {"opentelemetry", "prometheus_client"}


def modules() -> list[Path]:
    return sorted((SRC / PACKAGE).rglob("*.py"))


def room_of(dotted: str) -> str:
    return dotted.split(".")[1] if "." in dotted else ""


def dotted_name(path: Path) -> str:
    parts = path.relative_to(SRC).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> Iterator[tuple[str, int, bool]]:
    """Every module a file imports, as an absolute dotted name, its line, and whether at import time of the file."""
    tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    name = dotted_name(path)
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]

    def walk(node: ast.AST, at_top: bool) -> Iterator[tuple[str, int, bool]]:
        for child in ast.iter_child_nodes(node):
            inside = at_top and not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                inside = False
            if isinstance(child, ast.Import):
                for alias in child.names:
                    yield alias.name, child.lineno, inside
            elif isinstance(child, ast.ImportFrom):
                base = package[: len(package) - child.level + 1] if child.level else []
                module = ".".join([*base, *([child.module] if child.module else [])])
                yield module, child.lineno, inside
                for alias in child.names:
                    yield f"{module}.{alias.name}", child.lineno, inside
            elif isinstance(child, ast.Call) and ast.unparse(child.func).split(".")[-1] in (
                "import_module",
                "__import__",
            ):
                first = child.args[0] if child.args else None
                if name == PACKAGE:
                    continue  # the root's table of public names; what it may name is every room
                assert isinstance(first, ast.Constant), f"{path}:{child.lineno}: an import of what is not a text"
                text = str(first.value)
                if text.startswith("."):
                    level = len(text) - len(text.lstrip("."))
                    text = ".".join([*package[: len(package) - level + 1], text.lstrip(".")])
                yield text, child.lineno, inside
            yield from walk(child, inside)

    yield from walk(tree, True)


def test_every_room_is_known() -> None:
    rooms = {room_of(dotted_name(path)) for path in modules()} - {""}
    assert rooms <= set(MAY_SEE)


def test_every_module_says_what_it_is_for() -> None:
    assert [dotted_name(path) for path in modules() if not ast.get_docstring(ast.parse(path.read_bytes()))] == []


@pytest.mark.parametrize("path", modules(), ids=dotted_name)
def test_imports_point_one_way(path: Path) -> None:
    room = room_of(dotted_name(path))
    if not room:
        return  # the root re-exports everything, on first use
    allowed = MAY_SEE[room]
    for module, line, _ in imports(path):
        if not module.startswith(PACKAGE + "."):
            continue
        seen = room_of(module)
        fits = (
            seen == room
            or seen in allowed
            or any(module.startswith(f"{PACKAGE}.{one}") for one in allowed if "." in one)
        )
        # `from ..transport import base` names the room before the module in it.
        fits = fits or any(one.startswith(seen + ".") and module == f"{PACKAGE}.{seen}" for one in allowed)
        is_version = seen == "__version__"
        assert fits or is_version, f"{path}:{line}: {room} imports {module}"


@pytest.mark.parametrize("path", modules(), ids=dotted_name)
def test_the_inner_rooms_import_neither_trio_nor_httpx(path: Path) -> None:
    if room_of(dotted_name(path)) not in INNER:
        return
    for module, line, _ in imports(path):
        assert module.partition(".")[0] not in FOREIGN_TO_INNER, f"{path}:{line}: imports {module}"


@pytest.mark.parametrize("path", modules(), ids=dotted_name)
def test_slow_libraries_are_imported_on_first_use(path: Path) -> None:
    room = room_of(dotted_name(path))
    if room in ("cli", "testing", "simulator") or dotted_name(path).endswith("httpx_engine"):
        return  # rooms that `import ai_lib_trio` does not load; the engine is imported when a client opens
    for module, line, at_top in imports(path):
        assert not (at_top and module.partition(".")[0] in LAZY), f"{path}:{line}: imports {module} at its top"


BLOCKED = """
import importlib, pkgutil, sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise AssertionError("imported " + name)

sys.meta_path.insert(0, Refuse())
import ai_lib_trio
for room in {rooms!r}:
    module = importlib.import_module("ai_lib_trio." + room)
    for found in pkgutil.walk_packages(getattr(module, "__path__", ()), module.__name__ + "."):
        importlib.import_module(found.name)
assert not [name for name in sys.modules if name.partition(".")[0] in {blocked!r}]
"""


def test_the_inner_rooms_run_where_trio_and_httpx_are_blocked() -> None:
    script = BLOCKED.format(blocked={"trio", "httpx", "httpcore", "anyio", "outcome"}, rooms=INNER)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_importing_the_package_imports_none_of_the_slow_libraries() -> None:
    script = (
        "import sys, ai_lib_trio\n"
        "for name in getattr(ai_lib_trio, '__all__', ()):\n"
        "    getattr(ai_lib_trio, name)\n"
        "print(' '.join(sorted({name.partition('.')[0] for name in sys.modules})))"
    )
    plain = script.replace("for name in getattr(ai_lib_trio, '__all__', ()):\n    getattr(ai_lib_trio, name)\n", "")
    for source in (plain, script):
        done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert not set(done.stdout.split()) & LAZY
