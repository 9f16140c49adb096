"""The docs say what is true: each Python block runs, and prints what stands in the `text` block after it."""

from __future__ import annotations

import ast
import logging
import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import trio

import ai_lib_trio
from ai_lib_trio import simulator
from ai_lib_trio.simulator import open_simulator

DOCS = Path(__file__).resolve().parents[1] / "docs"
BLOCK = re.compile(r"^```python\n(.*?)^```$(?:\n\n^```text\n(.*?)^```$)?", re.MULTILINE | re.DOTALL)


def blocks(*, whole: bool) -> list[Any]:
    """Every Python block of the docs: the whole programs, or the parts of one."""
    return [
        pytest.param(found[1], found[2], id=f"{page.stem}-{number}")
        for page in sorted(DOCS.glob("*.md"))
        for number, found in enumerate(BLOCK.finditer(page.read_text(encoding="utf-8")), 1)
        if ("trio.run(" in found[1]) is whole
    ]


@pytest.mark.parametrize(("code", "printed"), blocks(whole=True))
def test_a_program_runs_and_prints_what_stands_after_it(
    code: str,
    printed: str | None,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    handlers = list(logging.getLogger().handlers)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        exec(compile(code, "docs", "exec"), {"__name__": "__main__"})
    assert logging.getLogger().handlers == handlers  # pytest's own are there, so basicConfig adds none
    if printed is not None:
        assert capsys.readouterr().out.strip() == printed.strip()


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


@pytest.mark.parametrize(("code", "printed"), blocks(whole=False))
async def test_a_part_of_a_program_runs_inside_of_one(
    code: str, printed: str | None, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    async with open_simulator() as sim:
        folder = manifests(tmp_path, sim.base_url("chat_completions"))

        def open_client(*arguments: Any, **named: Any) -> Any:
            return ai_lib_trio.open_client(*arguments, manifests=folder, **named)

        names = {name: getattr(simulator, name) for name in simulator.__all__}
        names |= {name: getattr(ai_lib_trio, name) for name in ai_lib_trio.__all__ if name != "__version__"}
        async with open_client("a/model") as client:
            names |= {"trio": trio, "client": client, "open_client": open_client}
            await eval(compile(code, "docs", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), names)
    capsys.readouterr()
