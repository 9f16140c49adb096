"""`ailib providers`, `models` and `manifests`: what the catalogue knows, and what is wrong with a file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ai_lib_trio.cli import main
from ai_lib_trio.protocol.loader import Catalog
from cli_support import Terminal, ailib, one_error

PROVIDER = """\
id: acme
protocol_version: "2.0"
endpoint:
  base_url: https://api.acme.example/v1
  auth: {type: bearer, token_env: ACME_API_KEY}
default_api_family: chat
api_families:
  chat: {dialect: chat_completions}
"""


def document(capsys: pytest.CaptureFixture[str], *arguments: str) -> object:
    assert main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def lines(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[list[str]]:
    assert main(arguments) == 0
    return [line.split("\t") for line in capsys.readouterr().out.splitlines()]


# ---- providers


def test_every_provider_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    catalog = Catalog.open(environ={})
    assert [row[0] for row in lines(capsys, "providers")] == catalog.providers()
    found = document(capsys, "providers")
    assert isinstance(found, list)
    assert [row["id"] for row in found] == catalog.providers()


def test_providers_can_be_searched_and_filtered(capsys: pytest.CaptureFixture[str]) -> None:
    assert [row[0] for row in lines(capsys, "providers", "ANTHRO")] == ["anthropic"]
    speakers = [row[0] for row in lines(capsys, "providers", "--dialect", "ollama_chat")]
    assert "ollama" in speakers
    assert "openai" not in speakers
    assert lines(capsys, "providers", "--capability", "no-such-thing") == []
    gone = lines(capsys, "providers", "--status", "deprecated")
    assert gone
    assert all(row[1].endswith(" (deprecated)") for row in gone)
    assert [row[0] for row in lines(capsys, "providers", "cloud", "OLLAMA")] == ["ollama-cloud"]


def test_a_key_is_said_to_be_set_and_never_shown(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-1234567890")
    assert main(["providers", "--ready", "--json"]) == 0
    shown = capsys.readouterr().out
    assert "sk-secret" not in shown
    found = {row["id"]: row["key"] for row in json.loads(shown)}
    assert found["openai"] == "set"
    assert found["ollama"] == "not needed"
    assert "anthropic" not in found


# ---- models


def test_every_model_is_listed_with_its_prices(capsys: pytest.CaptureFixture[str]) -> None:
    models = Catalog.open(environ={}).models()
    found = document(capsys, "models")
    assert isinstance(found, list)
    assert [row["ref"] for row in found] == [facts.ref for facts in models]
    priced = next(facts for facts in models if facts.pricing is not None and facts.pricing.output_per_1m)
    row = next(row for row in found if row["ref"] == f"{priced.provider}/{priced.key}")
    assert priced.pricing is not None
    assert row["pricing"]["output_per_1m"] == priced.pricing.output_per_1m


def test_models_can_be_searched_and_filtered(capsys: pytest.CaptureFixture[str]) -> None:
    of_one = lines(capsys, "models", "--provider", "anthropic")
    assert of_one
    assert all(row[0].startswith("anthropic/") for row in of_one)
    haiku = lines(capsys, "models", "haiku", "--provider", "anthropic")
    assert haiku
    assert all("haiku" in row[0] for row in haiku)
    big = document(capsys, "models", "--min-context", "1000000")
    assert isinstance(big, list)
    assert big
    assert all(row["context_window"] >= 1_000_000 for row in big)


def refs(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    return [row[0] for row in lines(capsys, "models", *arguments)]


def test_every_word_must_fit_and_providers_may_be_several(capsys: pytest.CaptureFixture[str]) -> None:
    found = refs(capsys, "SONNET", "claude", "--provider", "anthropic", "--provider", "openrouter")
    assert {ref.split("/")[0] for ref in found} == {"anthropic", "openrouter"}
    assert all("sonnet" in ref and "claude" in ref for ref in found)


def test_models_are_filtered_by_status_and_by_what_they_cost(capsys: pytest.CaptureFixture[str]) -> None:
    gone = document(capsys, "models", "--provider", "groq", "--status", "deprecated")
    assert isinstance(gone, list)
    assert {row["status"] for row in gone} == {"deprecated"}
    both = refs(capsys, "--provider", "groq", "--status", "deprecated", "--status", "active")
    assert len(both) > len(gone)
    cheap = document(capsys, "models", "--max-input-price", "0.1", "--max-output-price", "0.3")
    assert isinstance(cheap, list)
    assert cheap
    for row in cheap:  # a price that is not known is not a low one
        assert row["pricing"]["input_per_1m"] <= 0.1
        assert row["pricing"]["output_per_1m"] <= 0.3


def test_models_are_sorted_by_what_is_asked_and_what_is_not_known_comes_last(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert refs(capsys, "--sort", "name") == sorted(refs(capsys))
    windows = [row["context_window"] or 0 for row in document(capsys, "models", "--sort", "context")]  # type: ignore[attr-defined]
    assert windows == sorted(windows, reverse=True)
    rows = document(capsys, "models", "--sort", "output-price")
    assert isinstance(rows, list)
    prices = [(row["pricing"] or {}).get("output_per_1m") for row in rows]
    known = [price for price in prices if price is not None]
    assert prices == sorted(known) + [None] * (len(prices) - len(known))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("models", "gpt5", "--provider", "openai"), "no model fits: did you mean gpt-5 "),
        (("models", "--capability", "toolz"), "no model fits: none declares 'toolz'; did you mean 'tools'?"),
        (("models", "--status", "activ"), "no model fits: none is 'activ'; did you mean 'active'?"),
        (("models", "--provider", "llamacpp"), "no model is registered for llamacpp. PROVIDER/MODEL works without"),
        (("models", "qqqq"), "no model fits. One that is not listed works as PROVIDER/MODEL"),
        (("providers", "antropic"), "no provider fits: did you mean anthropic?"),
        (("providers", "--capability", "visoin"), "no provider fits: none declares 'visoin'; did you mean 'vision'?"),
        (("providers", "qqqq"), "no provider fits. `ailib providers` lists all"),
    ],
)
def test_nothing_found_is_said_to_people_and_an_empty_list_to_programs(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], said: str
) -> None:
    assert main(arguments) == 0
    shown = capsys.readouterr()
    assert shown.out == ""
    assert said in shown.err
    assert shown.err.count("\n") == 1
    assert document(capsys, *arguments) == []


@pytest.mark.parametrize(
    "arguments", [("--min-context", "big"), ("--max-input-price", "-1"), ("--sort", "taste"), ("--colour", "red")]
)
def test_bad_input_is_exit_2_without_a_traceback(arguments: tuple[str, str]) -> None:
    done = ailib("models", *arguments)
    assert done.code == 2
    assert arguments[0] in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize("text", ["id: x\nname: [\n", "hello: 1\n", "", "- 1\n", "\udcff"])
@pytest.mark.parametrize("command", ["models", "providers"])
def test_a_list_with_a_broken_manifest_is_no_list_but_an_error(command: str, text: str, tmp_path: Path) -> None:
    (tmp_path / "torn.yaml").write_bytes(text.encode(errors="surrogateescape"))
    for path in (tmp_path / "torn.yaml", tmp_path):  # the file itself, and a folder that it is in
        done = ailib(command, "--manifests", str(path))
        assert "torn.yaml:" in one_error(done)
        assert done.out == ""


def test_an_empty_path_of_manifests_is_an_error_and_not_the_folder_one_is_in() -> None:
    for command in (
        ("models",),
        ("providers",),
        ("chat", "ollama/any", "Hi"),
        ("simulate",),
        ("manifests", "validate"),
    ):
        assert "empty path" in one_error(ailib(*command, "--manifests", ""))


def test_an_unknown_provider_is_said() -> None:
    line = one_error(ailib("models", "--provider", "anthropc"))
    assert "E1004" in line
    assert "anthropic" in line


def test_tables_have_heads_on_a_terminal_only() -> None:
    with Terminal("models", "--provider", "ollama") as terminal:
        terminal.wait_for("in $/1M")
        assert terminal.wait_end() == 0
    assert "context" not in ailib("models", "--provider", "ollama").out


def test_a_narrow_table_keeps_within_the_terminal_and_its_words_whole() -> None:
    with Terminal("providers", columns=80, env={"NO_COLOR": "1"}) as terminal:
        assert terminal.wait_end() == 0
        shown = terminal.wait_for("zhipu")
    assert max(map(len, shown.splitlines())) <= 80
    for word in ("AWS_BEARER_TOKEN_BEDROCK", "chat_completions", "(deprecated)"):
        assert word in shown
    with Terminal("models", "gpt-4.1-nano", "--provider", "openai", columns=80) as terminal:
        assert terminal.wait_end() == 0
        assert "1.05M" in terminal.shown  # short numbers for people, whole ones for programs
    assert "1,047,576" in ailib("models", "gpt-4.1-nano", "--provider", "openai").out


# ---- manifests


def test_colour_is_for_terminals_that_want_it() -> None:
    for env, has_colour in (({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)):
        with Terminal("manifests", "show", "anthropic", env=env) as terminal:
            assert terminal.wait_end() == 0
            assert ("\x1b" in terminal.shown) is has_colour


def test_facts_are_broken_between_words_on_a_terminal_and_nowhere_else() -> None:
    for command in (("manifests", "show", "anthropic"), ("doctor",)):
        with Terminal(*command, columns=80, env={"NO_COLOR": "1"}) as terminal:
            assert terminal.wait_end() == 0
            shown = terminal.shown
        assert max(map(len, shown.splitlines())) <= 80
        plain = ailib(*command).out
        assert max(map(len, plain.splitlines())) > 80
        assert shown.split() == plain.split()


def test_show_tells_what_a_manifest_comes_to(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["manifests", "show", "openai"]) == 0
    shown = capsys.readouterr().out
    for word in ("https://api.openai.com", "OPENAI_API_KEY", "responses", "429"):
        assert word in shown
    tree = document(capsys, "manifests", "show", "openai")
    assert isinstance(tree, dict)
    assert tree["families"]["responses"]["encode"]["body"]  # the dialect is merged in


def test_show_and_validate_take_a_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "acme.yaml"
    file.write_text(PROVIDER, encoding="utf-8")
    assert main(["manifests", "show", str(file)]) == 0
    assert "https://api.acme.example/v1" in capsys.readouterr().out
    assert main(["manifests", "validate", str(file)]) == 0
    assert "1 API compiled (chat)" in capsys.readouterr().out


def test_a_folder_is_no_manifest_to_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine").mkdir()
    assert "mine is a directory; name a manifest in it" in one_error(ailib("manifests", "show", "mine"))
    Path("openai").mkdir()
    assert ailib("manifests", "show", "openai").code == 0  # a provider's name means the provider


def test_every_bundled_manifest_is_valid(capsys: pytest.CaptureFixture[str]) -> None:
    found = document(capsys, "manifests", "validate")
    assert isinstance(found, dict)
    assert found["ok"] is True
    assert found["faults"] == []
    assert [row["name"] for row in found["passed"]] == [*Catalog.open(environ={}).providers(), "models"]


def test_a_provider_is_validated_by_its_id(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["manifests", "validate", "openai", "ollama"]) == 0
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines()] == ["ok   openai", "ok   ollama"]


def test_faults_are_told_to_programs_in_parts(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "acme.yaml"
    file.write_text(PROVIDER.replace("bearer", "bear"), encoding="utf-8")
    assert main(["manifests", "validate", str(file), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["ok"] is False
    assert [(one["file"], one["line"], one["path"]) for one in found["faults"]] == [
        (str(file), 5, "endpoint.auth.type")
    ]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            ("default_api_family: chat", "defualt_api_family: chat"),
            "defualt_api_family",
        ),  # an unknown key is an error here
        (("type: bearer", "type: bear"), "bearer"),
        (
            ("chat: {dialect: chat_completions}", "chat: {dialect: chat_completion}"),
            "did you mean 'chat_completions' or",
        ),
        (("base_url:", "base_ulr:"), "at endpoint: expected 'base_url', got nothing; is 'base_ulr' meant to be it?"),
        (("{dialect: chat_completions}", "{dialect: chat_completions, decode: {rules: 7}}"), "decode"),
        (("{dialect: chat_completions}", "{dialect: chat_completions, encode: {body: {x: {$iff: 1}}}}"), "$iff"),
    ],
)
def test_validate_names_file_line_and_fault(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, change: tuple[str, str], said: str
) -> None:
    file = tmp_path / "acme.yaml"
    file.write_text(PROVIDER.replace(*change), encoding="utf-8")
    assert main(["manifests", "validate", str(file)]) == 1
    shown = capsys.readouterr()
    assert shown.err.count("\n") == 1
    assert "E1001" in shown.err
    assert "acme.yaml:" in shown.err
    assert said in shown.err


def test_a_file_with_a_fault_is_not_also_called_good(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "acme.yaml"
    file.write_text(PROVIDER.replace("2.0", "3.0"), encoding="utf-8")
    assert main(["manifests", "validate", str(file)]) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.endswith("expected one of 1.0, 1.1, 1.5, 2.0, got the text '3.0'; did you mean '2.0' or '1.0'?\n")


def test_validate_reads_a_directory_and_says_which_files_fail(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "acme.yaml").write_text(PROVIDER, encoding="utf-8")
    (tmp_path / "bad.yaml").write_text(PROVIDER.replace("acme", "bad").replace("bearer", "bear"), encoding="utf-8")
    assert main(["manifests", "validate", str(tmp_path)]) == 1
    shown = capsys.readouterr()
    assert "acme: 1 API compiled" in shown.out
    assert "bad.yaml:" in shown.err
    assert shown.err.count("\n") == 1


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    assert "E1001" in one_error(ailib("manifests", "show", str(tmp_path / "none.yaml")))


# ---- the command itself


def test_help_is_exit_0_and_lists_the_commands() -> None:
    done = ailib("--help")
    assert done.code == 0
    for command in ("chat", "demo", "manifests", "models", "providers", "simulate"):
        assert command in done.out


def test_help_fits_80_columns_and_no_command_is_cut_short() -> None:
    for group in ((), ("manifests",)):
        said = ailib(*group, "--help", env={"COLUMNS": "80"}).out
        assert max(map(len, said.splitlines())) <= 80
        assert "..." not in said.partition("Commands:")[2]


def test_an_unknown_command_is_exit_2() -> None:
    assert ailib("nonsense").code == 2


def test_without_the_extra_the_command_says_how_to_install_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from importlib import util

    found = util.find_spec
    monkeypatch.setattr(util, "find_spec", lambda name, *rest: None if name == "rich" else found(name, *rest))
    assert main(["providers"]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err == "ailib needs rich: pip install 'ai-lib-trio[cli]'\n"
