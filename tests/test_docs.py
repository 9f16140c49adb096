"""The docs say what is true: each block of every page is run or read by what reads it, and prints what stands below it.

The README's programs are run in `test_readme`, commands in `test_docs_commands`, the built site in `test_site`.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import logging
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_origin

import pytest
import trio
import yaml

import ai_lib_trio
from ai_lib_trio import simulator
from ai_lib_trio.pipeline import compile_decoder
from ai_lib_trio.protocol.loader import Catalog
from ai_lib_trio.simulator import open_simulator
from ai_lib_trio.wire import compile_encoder
from docs_support import ROOT, Block, all_blocks, blocks, main_of, numbered, point_at

DOCS = ROOT / "docs"
PYTHON = [(name, block) for name, block in numbered(blocks("python")) if block.page != "README.md"]
# Meant for real providers, by people who have a key: run against the simulator, which says what it was told.
FOR_REAL = {"index-1": "You said: Why is the sky blue?"}

# Blocks that show and do nothing: what they are pictures of.
PICTURES = {
    ("README.md", "ai-lib-trio"): "a call on its way",
    ("docs/design.md", "A request's way"): "a call on its way",
    ("docs/resilience.md", "Resilience"): "policies around policies",
    ("docs/expressions.md", "Expressions"): "a grammar",
    ("docs/expressions.md", "Mistakes"): "a message: test_a_mistake_is_told_as_the_page_shows_it",
    ("docs/reference/records.md", "Records"): "the order of records: test_records holds it",
}


def test_every_block_is_of_a_kind_that_is_run_or_a_picture() -> None:
    pictures = {(block.page, block.section) for block in all_blocks() if block.language in ("", "text")}
    assert pictures == set(PICTURES)
    assert {block.language for block in all_blocks()} <= {"python", "sh", "console", "yaml", "indented", "", "text"}


# ---- programs


@pytest.mark.parametrize(
    ("name", "block"),
    [pytest.param(name, block, id=name) for name, block in PYTHON if block.is_program and name not in FOR_REAL],
)
def test_a_program_runs_and_prints_what_stands_after_it(
    name: str, block: Block, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    handlers = list(logging.getLogger().handlers)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        exec(compile(block.code, name, "exec"), {"__name__": "__main__"})
    assert logging.getLogger().handlers == handlers  # pytest's own are there, so basicConfig adds none
    assert capsys.readouterr().out.strip() == (block.shown or "").strip()


@pytest.mark.parametrize("name", list(FOR_REAL))
async def test_a_program_for_real_providers_runs_against_the_simulator(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_simulator() as sim:
        point_at(sim, monkeypatch)
        await main_of(dict(PYTHON)[name].code, monkeypatch)()
    assert capsys.readouterr().out.strip() == FOR_REAL[name]


def manifests(folder: Path, url: str) -> Path:
    """Providers a, b, c and acme, with a model whose price is known."""
    for name in ("providers", "models"):
        (folder / name).mkdir()
    for name in ("a", "b", "c", "acme"):
        (folder / "providers" / f"{name}.yaml").write_text(
            f"id: {name}\nprotocol_version: '2.0'\n"
            f"endpoint: {{base_url: '{url}', auth: {{type: none}}}}\n"
            "default_api_family: chat_completions\n"
            "api_families: {chat_completions: {dialect: chat_completions}}\n",
            encoding="utf-8",
        )
        (folder / "models" / f"{name}.yaml").write_text(
            f"protocol_version: '2.0'\nmodels: {{model: {{provider: {name}, model_id: model, max_output_tokens: 100, "
            "pricing: {input_per_1m: 1, output_per_1m: 1}}}\n",
            encoding="utf-8",
        )
    return folder


@pytest.mark.parametrize("block", [pytest.param(block, id=name) for name, block in PYTHON if not block.is_program])
async def test_a_part_of_a_program_runs_inside_of_one(
    block: Block, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    async with open_simulator() as sim:
        folder = manifests(tmp_path, sim.base_url("chat_completions"))

        def open_client(*arguments: Any, **named: Any) -> Any:
            return ai_lib_trio.open_client(*arguments, manifests=folder, **named)

        names = {name: getattr(simulator, name) for name in simulator.__all__}
        names |= {name: getattr(ai_lib_trio, name) for name in ai_lib_trio.__all__ if name != "__version__"}
        async with open_client("a/model") as client:
            names |= {"trio": trio, "client": client, "open_client": open_client}
            await eval(compile(block.code, "docs", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), names)
    capsys.readouterr()


# ---- manifests


def _read(block: Block) -> dict[str, Any]:
    found: dict[str, Any] = yaml.load(block.code, Loader=yaml.CSafeLoader)
    return found


def _is_manifest(block: Block) -> bool:
    return "api_families" in _read(block)


def _named() -> dict[str, str]:
    """The files of docs/adding-a-provider.md, by the name in their first line; test_adding_a_provider runs them all."""
    files = [block.code for block in blocks("yaml") if block.page == "docs/adding-a-provider.md"]
    return {code.partition("\n")[0].removeprefix("# "): code for code in files}


def test_every_yaml_block_is_a_manifest_or_tried_as_what_it_is() -> None:
    others = {block.code for block in blocks("yaml") if not _is_manifest(block)}
    tried = {code for name, code in _named().items() if name.startswith(("dialects/", "conformance/"))}
    assert others == tried | {block.code for block in _sections()}


@pytest.mark.parametrize(
    "block", [pytest.param(block, id=name) for name, block in numbered(blocks("yaml")) if _is_manifest(block)]
)
def test_a_manifest_on_a_page_is_valid_in_strict_mode(block: Block, tmp_path: Path) -> None:
    for name, code in _named().items():
        if name.startswith("dialects/"):
            (tmp_path / "dialects").mkdir(exist_ok=True)
            (tmp_path / name).write_text(code, "utf-8")
    name = _read(block)["id"]
    (tmp_path / "providers").mkdir()
    (tmp_path / "providers" / f"{name}.yaml").write_text(block.code, "utf-8")
    _compile(Catalog.open(tmp_path, environ={}, strict=True), name)


def _sections() -> list[Block]:
    return [block for block in blocks("yaml") if block.page == "docs/language.md"]


def _compile(catalog: Catalog, provider: str) -> None:
    manifest = catalog.provider(provider)
    for api in manifest.families:
        family = manifest.family(api)
        compile_encoder(manifest, api)
        compile_decoder(family.decode, family.where.at("decode"))


def _dialect(folder: Path, code: str) -> Catalog:
    """A catalogue with a dialect of this code, and a provider that speaks it."""
    for part in ("dialects", "providers"):
        (folder / part).mkdir()
    (folder / "dialects" / "shown.yaml").write_text(f"id: shown\n{code}", "utf-8")
    (folder / "providers" / "acme.yaml").write_text(
        "id: acme\nprotocol_version: '2.0'\nendpoint: {base_url: https://api.acme.example, auth: {type: none}}\n"
        "api_families: {shown: {dialect: shown}}\n",
        "utf-8",
    )
    return Catalog.open(folder, environ={}, strict=True)


def test_the_sections_on_the_page_of_the_language_are_a_dialect(tmp_path: Path) -> None:
    assert [list(_read(block)) for block in _sections()] == [["encode"], ["decode"]]
    _compile(_dialect(tmp_path, "".join(block.code for block in _sections())), "acme")


def test_a_mistake_is_told_as_the_page_shows_it(tmp_path: Path) -> None:
    shown = next(block.code for block in blocks("text") if block.section == "Mistakes")
    said = shown.partition(": ")[2].strip()
    condition = said.rpartition("in `")[2].removesuffix("`")
    rule = f'{{match: "{condition}", emit: PartialContentDelta, extract: {{content: $.t}}}}'
    catalog = _dialect(tmp_path, f"encode: {{path: /}}\ndecode: {{rules: {{text: {rule}}}}}\n")
    with pytest.raises(ai_lib_trio.ManifestError) as caught:
        _compile(catalog, "acme")
    assert caught.value.message.endswith(f"at decode.rules.text.match: {said}")


# ---- the reference

# What `__all__` of a room promises to users; `.cli` and `.conformance` are for the command alone.
PUBLIC = ("", ".routing", ".telemetry", ".testing", ".simulator", ".pipeline", ".wire", ".types.records")


def documented() -> list[str]:
    found: list[str] = []
    for page in sorted((DOCS / "reference").glob("*.md")):
        found += re.findall(r"^::: (\S+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return found


def resolve(dotted: str) -> Any:
    module, _, name = dotted.rpartition(".")
    return getattr(importlib.import_module(module), name)


def public() -> Iterator[tuple[str, Any]]:
    for room in PUBLIC:
        module = importlib.import_module(f"ai_lib_trio{room}")
        yield from ((f"{module.__name__}.{name}", getattr(module, name)) for name in module.__all__ if name[0] != "_")


def test_every_public_name_is_in_the_reference_once() -> None:
    names = documented()
    objects = [id(resolve(name)) for name in names]
    assert len(objects) == len(set(objects)), "a name is there twice"
    assert [name for name, value in public() if id(value) not in objects] == []


def test_every_room_that_promises_names_is_asked_for_them() -> None:
    exporting = {
        f".{path.parent.name}"
        for path in (ROOT / "src" / "ai_lib_trio").glob("*/__init__.py")
        if re.search(r"^__all__ = \[", path.read_text("utf-8"), re.MULTILINE)
    }
    assert exporting - {".cli", ".conformance"} <= set(PUBLIC)


def test_every_public_class_says_what_each_of_its_methods_does() -> None:
    silent = []
    for name in {*documented(), *(name for name, _ in public())}:
        value = resolve(name)
        is_class = inspect.isclass(value) and get_origin(value) is None  # 3.10 takes `Callable[...]` for a class
        if not (is_class or inspect.isfunction(value)):
            continue  # an alias: its words are text after it in the source, and test_site looks for them
        members = [value, *(vars(value).values() if is_class else ())]
        for member in members:
            function = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
            is_hidden = getattr(function, "__name__", "_").startswith("_")
            if (inspect.isfunction(function) or function is value) and not is_hidden and not function.__doc__:
                silent.append(f"{name}: {function.__qualname__}")
    assert silent == []


# ---- the design


def test_the_drawn_supervision_tree_has_the_tasks_that_there_are() -> None:
    """Each task that a client starts is drawn by its name, and no other."""
    started = set()
    for room in ("actors", "client"):
        for file in sorted((ROOT / "src" / "ai_lib_trio" / room).glob("*.py")):
            for call in ast.walk(ast.parse(file.read_text("utf-8"))):
                if isinstance(call, ast.Call) and "start_soon" in ast.unparse(call):
                    given = next((word.value for word in call.keywords if word.arg == "name"), None)
                    if isinstance(given, ast.JoinedStr):
                        given = given.values[0]
                    if isinstance(given, ast.Constant):
                        started.add(str(given.value).strip())
    svg = (DOCS / "supervision.svg").read_text("utf-8")
    boxes = re.findall(r'<text class="name"[^>]*>([^<]*)<', svg)
    drawn = {re.sub(r"( acme| other| \d+)$", "", box) for box in boxes}
    without_a_name = {
        "async with open_client(...) as client",
        "nursery of the client",
        "HealthActor.run",
        "ProviderActor.run",
        "your own task",
        "exchange of call 1, attempt",
        "exchange of call 7, attempt",
        "lane 1, lane",
    }
    assert len(started) >= 7
    assert drawn == started | without_a_name
