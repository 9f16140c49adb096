# ruff: noqa: E501  (manifests in one line a rule)
"""`ailib manifests build` and `convert`, and what they promise: the same bytes, and the same meaning."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ai_lib_trio.cli import main
from ai_lib_trio.errors import CallerError
from ai_lib_trio.protocol import yaml_source
from ai_lib_trio.protocol.loader import Catalog
from ai_lib_trio.protocol.manifest import manifest_tree
from ai_lib_trio.protocol.yaml_source import read_yaml

SHARED = Path(__file__).resolve().parents[2] / "shared" / "ai-protocol"
ACME = """\
id: acme
protocol_version: "2.0"
name: Acme
endpoint: {base_url: https://acme.example}
api_families: {chat: {dialect: chat_completions}}
"""
VERSION_1 = """\
id: acme
protocol_version: "1.5"
name: Acme
endpoint: {base_url: "https://acme.example/v1", protocol: https, timeout_ms: 30000}
auth: {type: api_key, header_name: api-key, key_env: ACME_TOKEN, extra_headers: [{name: acme-version, value: "2024"}]}
payload_format: openai_style
endpoints: {chat: {path: /llm/chat, method: POST}, embeddings: {path: /embeddings}}
parameter_mappings: {temperature: temperature, max_tokens: max_new_tokens, stop_sequences: halt}
response_paths: {content: "choices[0].message.content"}
streaming:
  decoder: {format: sse, prefix: "data: ", done_signal: "[DONE]"}
  event_map:
    - {match: "exists($.choices[*].delta.content)", emit: PartialContentDelta, fields: {content: "$.choices[0].delta.content"}}
    - {match: "exists($.search)", emit: PartialContentDelta, fields: {content: "$.search"}}
termination: {source_field: finish_reason, mapping: {stop: end_turn, sensitive: refusal}}
retry_policy: {strategy: exponential_backoff, max_retries: 2, min_delay_ms: 500, max_delay_ms: 8000, retry_on_error_status: [UNAVAILABLE]}
error_classification: {by_http_status: {"429": rate_limited}, by_error_status: {UNAVAILABLE: overloaded}}
capabilities: {streaming: true, tools: true, vision: false}
"""


def one(path: Path) -> dict[str, object]:
    catalog = Catalog.open(path, {})
    tree = manifest_tree(catalog.provider("acme"))
    return {key: value for key, value in tree.items() if key not in ("protocol_version", "notes", "file")}


# ---- build


def test_build_writes_beside_the_sources_and_the_second_time_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "providers").mkdir()
    (tmp_path / "providers/acme.yaml").write_text(ACME, encoding="utf-8")
    plain = one(tmp_path)
    assert main(["manifests", "build", str(tmp_path)]) == 0
    assert "2 files, 2 changed" in capsys.readouterr().out
    before = {path: path.read_bytes() for path in (tmp_path / "dist").rglob("*.json")}
    assert main(["manifests", "build", str(tmp_path)]) == 0
    assert "2 files, 0 changed" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in (tmp_path / "dist").rglob("*.json")} == before
    read = yaml_source.read_yaml

    def parse(text: bytes, file: str) -> object:
        assert not file.endswith("acme.yaml")
        return read(text, file)

    monkeypatch.setattr(yaml_source, "read_yaml", parse)
    assert one(tmp_path) == plain


def test_build_says_every_fault_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "providers").mkdir()
    (tmp_path / "providers/acme.yaml").write_text(ACME + "naem: x\n", encoding="utf-8")
    (tmp_path / "providers/beta.yaml").write_text("id: beta\n", encoding="utf-8")
    assert main(["manifests", "build", str(tmp_path)]) == 1
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2
    assert "acme.yaml:6 at naem: unknown key 'naem'; did you mean 'name'?" in said[0]
    assert "beta.yaml:1: expected 'endpoint' or 'core', got nothing" in said[1]
    assert not (tmp_path / "dist").exists()


def test_build_does_not_replace_another_programs_dist(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "providers").mkdir()
    (tmp_path / "providers/acme.yaml").write_text(ACME, encoding="utf-8")
    theirs = tmp_path / "dist/v1/providers/acme.json"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("{}", encoding="utf-8")
    assert main(["manifests", "build", str(tmp_path)]) == 1
    assert "not ours to replace" in capsys.readouterr().err
    assert theirs.read_text(encoding="utf-8") == "{}"
    assert main(["manifests", "build", str(tmp_path), "--out", str(tmp_path / "other")]) == 0
    assert (tmp_path / "other/providers/acme.json").is_file()


# ---- convert


def test_a_converted_file_loads_to_the_same_internal_form(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, new = tmp_path / "old.yaml", tmp_path / "new.yaml"
    old.write_text(VERSION_1, encoding="utf-8")
    assert main(["manifests", "convert", str(old), "--out", str(new)]) == 0
    assert one(new) == one(old)
    tree = read_yaml(new.read_bytes(), "new.yaml").data
    assert tree["protocol_version"] == "2.0"
    assert tree["endpoint"]["auth"] == {
        "type": "custom_header",
        "header": "api-key",
        "token_env": "ACME_TOKEN",
        "extra_headers": {"acme-version": "2024"},
    }
    assert tree["endpoints"]["chat"] == {"path": "/llm/chat", "method": "POST", "adapter": "openai_style"}
    assert tree["parameters"]["max_tokens"] == {"alias": "max_new_tokens"}
    assert not {"auth", "payload_format", "parameter_mappings", "response_paths"} & tree.keys()
    assert main(["manifests", "convert", str(old)]) == 0
    assert capsys.readouterr().out == new.read_text(encoding="utf-8")


UNKNOWN_FORMAT = VERSION_1.replace("openai_style", "acme_style").replace(
    "{temperature: temperature, ", "{system_message: preamble, temperature: temperature, "
)


def test_what_has_no_words_in_version_2_is_kept_and_said(tmp_path: Path) -> None:
    old, new = tmp_path / "old.yaml", tmp_path / "new.yaml"
    old.write_text(UNKNOWN_FORMAT, encoding="utf-8")
    new.write_text(Catalog.open(old, {}).convert("acme"), encoding="utf-8")
    assert one(new) == one(old)
    text = new.read_text(encoding="utf-8")
    assert "# 'response_paths' has no words in version 2 and is kept as it was\n" in text
    assert read_yaml(text, "new.yaml").data["parameter_mappings"] == {"system_message": "preamble"}


@pytest.mark.parametrize("text", [ACME, VERSION_1.replace('"1.5"', '"2.0"')])
def test_only_a_file_of_version_1_is_converted(tmp_path: Path, text: str) -> None:
    file = tmp_path / "acme.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(CallerError, match="expected a manifest of version 1, got another"):
        Catalog.open(file, {}).convert("acme")


@pytest.mark.parametrize(
    "value", ["no", "1e3", "0x10", "12:30", "2024-05", "~", "", " x ", "a: b", "#x", "+1", ".5", "日本"]
)
def test_text_stays_text_through_a_converted_file(tmp_path: Path, value: str) -> None:
    file = tmp_path / "acme.yaml"
    tree = {**read_yaml(VERSION_1, "x").data, "metadata": {"odd": value}}
    file.write_text(json.dumps(tree), encoding="utf-8")
    again = read_yaml(Catalog.open(file, {}).convert("acme"), "y").data
    assert again["metadata"] == {"odd": value}


@pytest.mark.skipif(not SHARED.is_dir(), reason="the specification's fixtures are not beside this checkout")
def test_every_version_1_fixture_of_the_specification_converts_to_the_same_form(tmp_path: Path) -> None:
    seen = 0
    for file in sorted((SHARED / "compliance/fixtures/providers").glob("*.yaml")):
        tree = read_yaml(file.read_bytes(), file.name).data
        if str(tree.get("protocol_version")).startswith("2") or "invalid" in file.name:
            continue
        seen += 1
        catalog = Catalog.open(file, {})
        (ident,) = catalog.providers("given")
        text = catalog.convert(ident)
        assert "not the same" not in text, file.name
    assert seen >= 4


def test_our_own_files_are_valid_when_they_are_given_by_path_too(capsys: pytest.CaptureFixture[str]) -> None:
    """A provider without a chat has no API family, and is in our own shape all the same."""
    folder = Path(__file__).resolve().parents[1] / "manifests"
    assert main(["manifests", "validate", str(folder), "--json"]) == 0
    passed = {found["name"] for found in json.loads(capsys.readouterr().out)["passed"]}
    assert {path.stem for path in (folder / "providers").glob("*.yaml")} <= passed
    assert "jina" in passed


def test_a_folder_without_a_manifest_is_no_success(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["manifests", "validate", str(tmp_path)]) == 1
    assert "no manifest is in" in capsys.readouterr().err


# ---- mistakes of who writes one


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("{dialect: chat_completions}", "chat_completions", "api_families.chat: expected a mapping, such as {dialect: chat_completions}"),
        ("https://acme.example", "acme.example", "endpoint.base_url: expected an http or https URL without query"),
        ("{base_url: https://acme.example}", "{}", "endpoint: expected 'base_url', got nothing"),
        ("id: acme", "id: Acme", "id: expected an id of a-z, 0-9, - and _"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_once_in_the_words_that_help_most(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, said: str
) -> None:
    file = tmp_path / "acme.yaml"
    file.write_text(ACME.replace(old, new))
    assert main(["manifests", "validate", str(file)]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert said in lines[0]


def test_a_family_that_is_text_is_a_note_where_a_file_is_not_read_strictly(tmp_path: Path) -> None:
    file = tmp_path / "acme.yaml"
    file.write_text(ACME.replace("{dialect: chat_completions}", "pigeon_talk"))
    (note,) = [note for note in Catalog.open(file, {}).provider("acme").notes if "api_families" in note]
    assert "got the text 'pigeon_talk'; it has no effect" in note
