"""The table of providers in docs/providers.md, from the manifests. `python tests/providers_table.py` writes it anew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "providers.md"
HEAD = """# Providers

Written from the manifests by `python tests/providers_table.py`; a test holds the two together.

A model is named `provider/model`, and any model of a provider may be: the registered ones have sizes and prices too.
A key is read from the first variable named here where none is given; the others stand in the address. Where two wire
formats are named, the first is used unless `.api(family)` says otherwise.

**Wire** says what the manifest's account of requests and replies rests on: *recorded* replies of the provider that are
decoded in a test, the provider's own *documentation*, a *library* or a public list by others, or only the AI-Protocol
*specification*. Every section of a manifest has its own source and date: see its `sources`.

**Case** says what the request and the reply in `conformance/providers/` rest on, which a test compares field by field
with what the manifest gives: *recorded* ones of the provider, *documented* ones with a link, or *derived* from the
dialect, which shows that the manifest is whole and not that the provider was seen to speak so.

| Provider | Name | Wire formats | Wire | Case | Key and variables | Models | |
|---|---|---|---|---|---|---|---|
"""


def _load(path: Path) -> dict[str, Any]:
    with path.open(encoding="utf-8") as file:
        loaded: dict[str, Any] = yaml.load(file, Loader=yaml.CSafeLoader)
    return loaded


def _formats(tree: dict[str, Any]) -> list[str]:
    families = tree.get("api_families", {})
    default = tree.get("default_api_family")
    return list(dict.fromkeys(families[name]["dialect"] for name in sorted(families, key=lambda name: name != default)))


def _case(provider: str) -> str:
    path = ROOT / "conformance" / "providers" / f"{provider}.yaml"
    evidence = _load(path)["evidence"] if path.exists() else ""
    return "derived" if evidence == "derived-from-dialect" else str(evidence)


def _row(tree: dict[str, Any], models: int) -> str:
    endpoint, sources = tree["endpoint"], tree["sources"]
    ways = [endpoint["auth"], *([endpoint["auth"]["otherwise"]] if "otherwise" in endpoint["auth"] else [])]
    keys = [way.get(name) for way in ways for name in ("token_env", "key_id_env", "session_env")]
    variables = [*keys, *endpoint.get("variables", {}).values()]
    remarks = [*(["Gone."] if tree["status"] == "deprecated" else []), *tree.get("notes", ())]
    cells = [
        f"`{tree['id']}`",
        f"[{tree['name']}]({tree['official_url']})",
        ", ".join(_formats(tree)) or "none yet",
        sources["api_families"].get("evidence", "documentation") if "api_families" in sources else "",
        _case(tree["id"]),
        ", ".join(f"`{name}`" for name in variables if name) or "none",
        str(models or ""),
        " ".join(remarks),
    ]
    return "| " + " | ".join(cells) + " |"


def page() -> str:
    """The whole page."""
    rows = []
    for path in sorted((ROOT / "manifests" / "providers").glob("*.yaml")):
        registered = ROOT / "manifests" / "models" / path.name
        rows.append(_row(_load(path), len(_load(registered)["models"]) if registered.exists() else 0))
    return HEAD + "\n".join(rows) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
