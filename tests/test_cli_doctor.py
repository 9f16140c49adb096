"""`ailib doctor`: what is in force, what is missing, and never a key."""

from __future__ import annotations

import json
from pathlib import Path

from ai_lib_trio.simulator import open_simulator
from cli_support import ailib, ailib_async

KEY = "a-key-that-nobody-may-see"


def test_a_key_is_found_and_never_shown() -> None:
    for form in ((), ("--json",)):
        done = ailib("doctor", *form, env={"OPENAI_API_KEY": KEY})
        assert done.code == 0
        assert "OPENAI_API_KEY" in done.out
        assert KEY not in done.out + done.err


def test_without_a_key_there_is_advice() -> None:
    done = ailib("doctor")
    assert done.code == 0
    assert "no key was found" in done.out


def test_a_named_provider_without_a_key_is_wrong() -> None:
    done = ailib("doctor", "groq", "--json")
    told = json.loads(done.out)
    assert done.code == 1
    assert told["problems"] == ["groq: no key; set GROQ_API_KEY"]
    assert told["providers"][0]["base_url"].startswith("https://")
    assert told["versions"]["trio"]
    assert told["manifests"]["providers"] > 40


def test_an_unknown_provider_and_white_space_in_a_key_are_told() -> None:
    done = ailib("doctor", "nobody", "openai", "--json", env={"OPENAI_API_KEY": f" {KEY}\n"})
    told = json.loads(done.out)
    assert "nobody" in told["problems"][0]
    assert "white space" in told["advice"][0]
    assert KEY not in done.out


def test_manifests_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    broken = tmp_path / "broken.yaml"
    broken.write_text("id: [", encoding="utf-8")
    done = ailib("doctor", "--manifests", str(broken))
    assert done.code == 1
    assert "wrong: " in done.out


def test_a_variable_of_an_address_that_is_not_set_is_told() -> None:
    done = ailib("doctor", "azure", "--json", env={"AZURE_OPENAI_API_KEY": KEY, "AZURE_OPENAI_KEY": KEY})
    assert any("its address needs" in one for one in json.loads(done.out)["problems"])


def manifest_of(folder: Path, base_url: str) -> Path:
    written = folder / "acme.yaml"
    written.write_text(
        "id: acme\nprotocol_version: '2.0'\n"
        f"endpoint: {{base_url: '{base_url}', auth: {{type: bearer, token_env: ACME_API_KEY}}}}\n"
        "default_api_family: chat_completions\n"
        "api_families: {chat_completions: {dialect: chat_completions}}\n",
        encoding="utf-8",
    )
    return written


async def test_reachability_is_tried_only_when_asked_for_and_without_a_key(tmp_path: Path) -> None:
    async with open_simulator() as sim:
        own = str(manifest_of(tmp_path, sim.base_url("chat_completions")))
        env = {"ACME_API_KEY": KEY}
        quiet = await ailib_async("doctor", "acme", "--manifests", own, "--json", env=env)
        assert sim.entries == []
        asked = await ailib_async("doctor", "acme", "--manifests", own, "--json", "--reach", env=env)
        assert [entry.method for entry in sim.entries] == ["GET"]
        assert all("authorization" not in dict(entry.headers) for entry in sim.entries)
    assert json.loads(quiet.out)["providers"][0]["reached"] is None
    assert isinstance(json.loads(asked.out)["providers"][0]["reached"], int)
    gone = await ailib_async("doctor", "acme", "--manifests", own, "--json", "--reach", env=env)
    assert gone.code == 1
    assert "not reached" in json.loads(gone.out)["problems"][0]
