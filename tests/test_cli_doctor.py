"""`ailib doctor`: what is in force, what is missing, and never a key."""

from __future__ import annotations

import json
import os
import re
from importlib.metadata import requires
from pathlib import Path

import pytest

from ai_lib_trio.simulator import open_simulator
from cli_support import ailib, ailib_async, one_error

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


def test_the_version_of_everything_that_the_library_needs_is_told() -> None:
    needed = {re.split(r"[^\w-]", one)[0] for one in requires("ai-lib-trio") or () if ";" not in one}
    assert needed <= json.loads(ailib("doctor", "--json").out)["versions"].keys()
    assert "trio" in needed


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


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (f"{KEY}\nsecond", "OPENAI_API_KEY holds a line end or a control character"),
        (f"{KEY}\x1b[31m", "OPENAI_API_KEY holds a line end or a control character"),
        (f"{KEY}é", "OPENAI_API_KEY holds characters that are not ASCII"),
        (f'"{KEY}"', "OPENAI_API_KEY holds spaces or quotes"),
        (f"Bearer {KEY}", "OPENAI_API_KEY holds spaces or quotes"),
    ],
)
def test_a_key_that_cannot_be_one_is_told_and_not_shown(value: str, said: str) -> None:
    for form in ((), ("--json",)):
        done = ailib("doctor", *form, env={"OPENAI_API_KEY": value})
        assert done.code == 1
        assert said in done.out
        assert KEY not in done.out + done.err
        assert "\x1b" not in done.out


@pytest.mark.parametrize("proxy", ["nonsense://x", "user:p4ss@127.0.0.1:1", "http://user:p4ss@["])
def test_a_proxy_that_is_none_is_told_without_its_password(proxy: str) -> None:
    for more in ((), ("--reach",)):
        done = ailib("doctor", "openai", "--json", *more, env={"OPENAI_API_KEY": KEY, "HTTPS_PROXY": proxy})
        problems = json.loads(done.out)["problems"]
        assert any("its proxy in the environment" in one for one in problems)
        assert any("not reached" in one for one in problems) is bool(more)
        assert ("things are" if len(problems) > 1 else "one thing is") in one_error(done)
        assert "p4ss" not in done.out


def test_a_proxy_in_force_is_shown_without_its_password() -> None:
    env = {"OPENAI_API_KEY": KEY, "https_proxy": "http://user:p4ss@127.0.0.1:9"}
    done = ailib("doctor", "openai", "--reach", env=env)
    assert "proxy for openai: 127.0.0.1:9" in done.out
    assert "not reached" in done.out
    assert "p4ss" not in done.out + done.err


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("SSL_CERT_FILE", "/nowhere.pem", "SSL_CERT_FILE names '/nowhere.pem': No such file"),
        ("SSL_CERT_FILE", __file__, "it holds no certificate"),
        ("SSL_CERT_DIR", "/nowhere", "SSL_CERT_DIR names '/nowhere', which is no folder"),
        ("AI_LIB_MAX_ATTEMPTS", "many", "AI_LIB_MAX_ATTEMPTS is a number"),
        ("AI_LIB_BREAKER", "on", "AI_LIB_BREAKER may be off"),
    ],
)
def test_what_in_the_environment_would_stop_every_call_is_told(name: str, value: str, said: str) -> None:
    done = ailib("doctor", "openai", "--json", env={"OPENAI_API_KEY": KEY, "SSL_CERT_FILE": "", name: value})
    told = json.loads(done.out)
    assert done.code == 1
    assert any(said in one for one in told["problems"]), told["problems"]


def test_settings_of_the_environment_are_shown() -> None:
    done = ailib("doctor", "--json", env={"AI_LIB_MAX_ATTEMPTS": "5", "AI_LIB_API_KEY": KEY})
    settings = json.loads(done.out)["settings"]
    assert settings["AI_LIB_MAX_ATTEMPTS"] == "5"
    assert "AI_LIB_API_KEY" not in settings
    assert KEY not in done.out


def test_a_setting_that_there_is_not_is_told_and_not_shown_as_one() -> None:
    done = ailib("doctor", "--json", env={"AI_LIB_BREAKR": "off", "AI_LIB_BREAKER": "off", "AI_LIB_CACHE": "here"})
    told = json.loads(done.out)
    assert {name: value for name, value in told["settings"].items() if name.startswith("AI_LIB_")} == {
        "AI_LIB_BREAKER": "off",
        "AI_LIB_CACHE": "here",
    }
    (said,) = [one for one in told["advice"] if "no setting" in one]
    assert said.startswith("AI_LIB_BREAKR is no setting and has no effect; did you mean 'AI_LIB_BREAKER'")


def test_a_variable_that_does_not_fit_into_an_address_is_told_beside_everything_else() -> None:
    env = {"AZURE_OPENAI_API_KEY": KEY, "AZURE_RESOURCE_NAME": "no/host"}
    for more in ((), ("--reach",)):
        done = ailib("doctor", "azure", "--json", *more, env=env)
        told = json.loads(done.out)
        assert done.code == 1
        assert any("its address cannot be made" in one and "AZURE_RESOURCE_NAME" in one for one in told["problems"])
        assert told["versions"]["trio"]


def test_a_broken_file_of_models_is_told_once(tmp_path: Path) -> None:
    for name in ("providers", "models"):
        (tmp_path / name).mkdir()
    (tmp_path / "models" / "torn.yaml").write_text("models: [", encoding="utf-8")
    done = ailib("doctor", "--json", "--manifests", str(tmp_path))
    assert done.code == 1
    assert [("torn.yaml" in one) for one in json.loads(done.out)["problems"]] == [True]


def test_every_source_of_manifests_is_told_by_what_names_it(tmp_path: Path) -> None:
    for variable in ("AI_PROTOCOL_DIR", "AI_PROTOCOL_PATH"):
        env = {variable: str(tmp_path), "ACME_API_KEY": KEY}
        done = ailib("doctor", "--json", "--manifests", str(manifest_of(tmp_path, "https://acme.example/v1")), env=env)
        sources = json.loads(done.out)["manifests"]["sources"]
        assert [one["by"] for one in sources] == ["--manifests", variable, None]


def test_each_file_that_is_broken_is_told_and_the_others_are_in_force(tmp_path: Path) -> None:
    (tmp_path / "providers").mkdir()
    (tmp_path / "providers" / "torn.yaml").write_text("id: [", encoding="utf-8")
    whole = manifest_of(tmp_path / "providers", "https://acme.example/v1")
    env = {"AI_PROTOCOL_DIR": str(tmp_path), "ACME_API_KEY": KEY}
    done = ailib("doctor", "--json", env=env)
    told = json.loads(done.out)
    assert done.code == 1
    assert [("torn.yaml" in one) for one in told["problems"]] == [True]
    (row,) = told["providers"]
    assert (row["id"], row["origin"], row["key_from"], row["file"]) == ("acme", "given", "ACME_API_KEY", str(whole))
    assert told["manifests"]["sources"][0] == {"origin": "given", "path": str(tmp_path), "by": "AI_PROTOCOL_DIR"}


def test_a_folder_that_is_not_there_or_is_empty_is_told(tmp_path: Path) -> None:
    gone = json.loads(ailib("doctor", "--json", env={"AI_PROTOCOL_DIR": str(tmp_path / "gone")}).out)
    assert "cannot be read" in gone["problems"][0]
    assert "AI_PROTOCOL_DIR" in gone["advice"][0]
    empty = json.loads(ailib("doctor", "--json", env={"AI_PROTOCOL_DIR": str(tmp_path)}).out)
    assert "no provider in it" in empty["advice"][0]


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="whoever may read everything has no unreadable file")
def test_a_file_that_may_not_be_read_is_told(tmp_path: Path) -> None:
    written = manifest_of(tmp_path, "https://acme.example/v1")
    written.chmod(0)
    done = ailib("doctor", "--manifests", str(written))
    assert done.code == 1
    assert "cannot be read" in done.out


def test_a_provider_that_is_named_twice_is_shown_once() -> None:
    done = ailib("doctor", "openai", "openai", "--json", env={"OPENAI_API_KEY": KEY})
    assert len(json.loads(done.out)["providers"]) == 1


def test_a_named_providers_key_is_found_in_a_keyring(tmp_path: Path) -> None:
    # The library's two names that are used, so that it need not be installed here.
    (tmp_path / "keyring").mkdir()
    (tmp_path / "keyring" / "errors.py").write_text("class KeyringError(Exception): pass\n", encoding="utf-8")
    (tmp_path / "keyring" / "__init__.py").write_text(
        f"def get_password(service, user):\n    return {KEY!r} if (service, user) == ('ai-lib', 'groq') else None\n",
        encoding="utf-8",
    )
    env = {"PYTHONPATH": str(tmp_path)}
    done = ailib("doctor", "groq", "mistral", "--json", env=env)
    found, missing = json.loads(done.out)["providers"]
    assert (found["key"], found["key_from"], missing["key"]) == ("found", "ai-lib", "missing")
    assert KEY not in done.out + done.err
