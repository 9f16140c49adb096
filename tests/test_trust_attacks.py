"""What a manifest from elsewhere may try, tried through the client and the catalogue: each attack ends in one error.

Keys here are made up; nothing is sent, and the tests look that nothing was.
"""

from __future__ import annotations

import io
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ai_lib_trio import AiLibError, Config, open_client
from ai_lib_trio.errors import CredentialError, ManifestError
from ai_lib_trio.protocol.loader import Catalog
from ai_lib_trio.protocol.manifest import manifest_tree
from ai_lib_trio.protocol.remote import parse_pin, tree_of
from ai_lib_trio.protocol.sources import Tree
from ai_lib_trio.testing import ScriptedTransport
from client_support import echo

SECRET = "test-key-of-somebody-else"
ENVIRON = {"OPENAI_API_KEY": SECRET, "ANTHROPIC_API_KEY": SECRET, "PRIVATE_TOKEN": SECRET, "HOME": "/home/someone"}
ENVIRON |= {"DATABASE_URL": SECRET, "DB_PWD": SECRET}
ATTACKER = """\
id: IDENT
protocol_version: "2.0"
name: Helpful
endpoint:
  base_url: BASE
  auth: {type: bearer, token_env: VARIABLE}
api_families: {chat: {dialect: chat_completions}}
"""
VERSION_1 = """\
id: IDENT
protocol_version: "1.5"
endpoint: {base_url: "BASE"}
auth: {type: bearer, token_env: VARIABLE}
payload_format: openai_style
"""


def written(ident: str, base: str, variable: str, text: str = ATTACKER) -> str:
    return text.replace("IDENT", ident).replace("BASE", base).replace("VARIABLE", variable)


async def refusal(manifests: Path, model: str) -> AiLibError:
    """The error of a call by this file; that nothing went out is checked here."""
    transport = ScriptedTransport(echo)
    with pytest.raises(AiLibError) as caught:
        async with open_client(
            model, manifests=manifests, config=Config(transport=transport, environ=ENVIRON)
        ) as client:
            await client.chat("hi").execute()
    assert transport.asked == []
    assert SECRET not in str(caught.value)
    return caught.value


@pytest.mark.parametrize("text", [ATTACKER, VERSION_1])
@pytest.mark.parametrize(
    ("ident", "variable"),
    [
        ("openai", "OPENAI_API_KEY"),  # the known name, another host
        ("openai", "OTHER_NAME"),  # its key is found by the usual name all the same
        ("helpful", "OPENAI_API_KEY"),  # another name, the known key
        ("google", "OTHER_NAME"),  # a name that a known one goes by too: GOOGLE_API_KEY is that one's
    ],
)
async def test_a_known_providers_key_does_not_go_to_another_host(
    tmp_path: Path, ident: str, variable: str, text: str
) -> None:
    file = tmp_path / "helpful.yaml"
    file.write_text(written(ident, "https://collect.example", variable, text), encoding="utf-8")
    found = await refusal(file, f"{ident}/m")
    assert isinstance(found, CredentialError)


async def test_a_host_that_only_looks_like_the_known_one_gets_nothing(tmp_path: Path) -> None:
    file = tmp_path / "helpful.yaml"
    for base in ("https://api.openai.com.collect.example", "https://api.openai.com:444", "http://api.openai.com"):
        file.write_text(written("helpful", base, "OPENAI_API_KEY"), encoding="utf-8")
        assert isinstance(await refusal(file, "helpful/m"), CredentialError)
    file.write_text(written("helpful", "https://api.openai.com@collect.example", "OPENAI_API_KEY"), encoding="utf-8")
    assert (await refusal(file, "helpful/m")).code == "E1001"


@pytest.mark.parametrize("path", ["{$join: [.collect.example/, $.model]}", "{$join: ['@collect.example/', $.model]}"])
async def test_the_path_of_a_request_does_not_go_on_with_the_host(tmp_path: Path, path: str) -> None:
    file = tmp_path / "helpful.yaml"
    text = written("helpful", "https://api.openai.com", "OPENAI_API_KEY")
    file.write_text(
        text.replace("dialect: chat_completions", f"dialect: chat_completions, encode: {{path: {path}}}"),
        encoding="utf-8",
    )
    assert "a path that begins with '/'" in str(await refusal(file, "helpful/m"))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("dialect: chat_completions", "dialect: chat_completions, encode: {headers: {Host: collect.example}}"),
        (
            "dialect: chat_completions",
            "dialect: chat_completions, encode: {headers: {$if: $.model, then: {host: collect.example}}}",
        ),
        ("type: bearer", "type: bearer, extra_headers: {HOST: collect.example}"),
    ],
)
async def test_a_request_to_a_known_host_does_not_name_another(tmp_path: Path, old: str, new: str) -> None:
    file = tmp_path / "helpful.yaml"
    text = written("helpful", "https://api.openai.com", "OPENAI_API_KEY").replace(old, new)
    file.write_text(text, encoding="utf-8")
    assert "`host`" in str(await refusal(file, "helpful/m"))


@pytest.mark.parametrize("variable", ["OPENAI_API_KEY", "PRIVATE_TOKEN", "ANTHROPIC_API_KEY", "DATABASE_URL", "DB_PWD"])
async def test_a_key_does_not_leave_as_a_part_of_the_address(tmp_path: Path, variable: str) -> None:
    file = tmp_path / "helpful.yaml"
    text = written("helpful", "https://{leak}.collect.example", "HELPFUL_API_KEY")
    file.write_text(text.replace("  auth:", f"  variables: {{leak: {variable}}}\n  auth:"), encoding="utf-8")
    assert "one that holds no key" in str(await refusal(file, "helpful/m"))
    file.write_text(
        written("helpful", f"https://collect.example/${{{variable}}}", "HELPFUL_API_KEY", VERSION_1), encoding="utf-8"
    )
    assert "one that holds no key" in str(await refusal(file, "helpful/m"))


def fetched(**files: str) -> Tree:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as into:
        for name, text in files.items():
            into.writestr(name.replace("__", "/") + ".yaml", text)
    return tree_of(parse_pin("https://manifests.example/v1.0.0/all.zip"), out.getvalue())


def test_a_fetched_file_reads_no_variable_but_its_own() -> None:
    text = written("helpful", "https://{leak}.collect.example", "HELPFUL_API_KEY")
    for variable in ("HOME", "PRIVATE_TOKEN", "OPENAI_API_KEY"):
        leaking = text.replace("  auth:", f"  variables: {{leak: {variable}}}\n  auth:")
        with pytest.raises(ManifestError, match="one that begins with HELPFUL_"):
            Catalog.open(fetched(providers__helpful=leaking), ENVIRON).provider("helpful")
    with pytest.raises(ManifestError, match="may only name HELPFUL_API_KEY"):
        text = written("helpful", "https://collect.example", "PRIVATE_TOKEN")
        Catalog.open(fetched(providers__helpful=text), ENVIRON).provider("helpful")


def test_a_fetched_source_changes_nothing_of_what_is_bundled() -> None:
    plain = Catalog.open(environ={})
    theirs = written("openai", "https://collect.example", "OPENAI_API_KEY")
    dialect = "id: chat_completions\nencode: {path: /stolen}\ndecode: {}\nsimulate: {}\n"
    entry = "{provider: openai, model_id: stolen, verification: {status: verified}}"
    models = f'protocol_version: "2.0"\nmodels: {{gpt-5: {entry}}}\n'
    alias = written("helpful", "https://collect.example", "HELPFUL_API_KEY") + "aliases: [anthropic, gpt-5]\n"
    tree = fetched(
        providers__openai=theirs, providers__helpful=alias, dialects__chat_completions=dialect, models__openai=models
    )
    catalog = Catalog.open(tree, {})
    for name in plain.providers():
        assert manifest_tree(catalog.provider(name)) == manifest_tree(plain.provider(name))
    assert catalog.resolve("gpt-5") == plain.resolve("gpt-5")
    assert catalog.resolve("openai/gpt-5") == plain.resolve("openai/gpt-5")
    with pytest.raises(ManifestError, match="cannot be 'anthropic', which is bundled"):
        catalog.provider("helpful")


def test_the_user_may_say_that_a_given_source_comes_first(tmp_path: Path) -> None:
    file = tmp_path / "openai.yaml"
    file.write_text(written("openai", "https://mirror.example", "OPENAI_API_KEY"), encoding="utf-8")
    assert Catalog.open(file, {}).provider("openai").endpoint.base_url == "https://mirror.example"


@contextmanager
def soon() -> Iterator[None]:
    """Well below a second on any machine; what these try would take hours or all memory."""
    before = time.process_time()
    yield
    assert time.process_time() - before < 10


PATTERNS = (
    r"(a+)+$",
    r"(\d+)*x",
    r"(.*)(.*)(.*)x",
    r"(a|a)*b",
    r"(a{1,3})*b",
    r"(a?a?)*b",
    r"(x)\1{50}",
    r"(\w{1,900}\w{1,900})z",
)


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("text", [ATTACKER, VERSION_1])
def test_a_pattern_that_can_take_for_ever_is_refused_at_its_line(tmp_path: Path, pattern: str, text: str) -> None:
    file = tmp_path / "helpful.yaml"
    rule = f"error_classification: {{retry_after_extraction: {{pattern: '{pattern}', unit: seconds}}}}\n"
    file.write_text(written("helpful", "https://collect.example", "HELPFUL_API_KEY", text) + rule, encoding="utf-8")
    with soon(), pytest.raises(ManifestError, match=r"helpful\.yaml:\d+ at error_classification"):
        Catalog.open(file, {}).provider("helpful")


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join(['*' + before] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    "text",
    [
        BOMB,
        "a: &a [*a]\n",
        "notes: " + "[" * 5_000 + "]" * 5_000 + "\n",
        "notes: " + "{a: " * 5_000 + "1" + "}" * 5_000 + "\n",
        "size: " + "9" * 200_000 + "\n",
        "x: !!python/object/apply:os.system [echo]\n",
    ],
)
def test_a_file_that_grows_nests_or_runs_is_refused_at_once(tmp_path: Path, text: str) -> None:
    file = tmp_path / "helpful.yaml"
    file.write_text(written("helpful", "https://collect.example", "HELPFUL_API_KEY") + text, encoding="utf-8")
    with soon(), pytest.raises(ManifestError, match=r"helpful\.yaml"):
        Catalog.open(file, {}).provider("helpful")


def test_a_schema_that_a_file_names_is_not_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    monkeypatch.setattr(socket, "getaddrinfo", lambda *all, **named: pytest.fail("a name was looked up"))
    file = tmp_path / "helpful.yaml"
    text = written("helpful", "https://collect.example", "HELPFUL_API_KEY", VERSION_1)
    file.write_text('$schema: "https://schemas.example/v1.json"\n' + text, encoding="utf-8")
    assert Catalog.open(file, {}).provider("helpful").id == "helpful"
