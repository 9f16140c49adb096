"""`ailib conformance`: the specification's suite and our own; nothing passes by not being looked at."""

from __future__ import annotations

import copy
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from ai_lib_trio.cli.app import run
from ai_lib_trio.conformance.kinds import KINDS
from ai_lib_trio.conformance.run import Report, differences, own_suite, read_known, run_suite
from ai_lib_trio.conformance.suite import LIST, Bench, Case, read_suite
from ai_lib_trio.errors import ManifestError

ROOT = Path(__file__).resolve().parents[1]
OWN = ROOT / "conformance"
UPSTREAM = ROOT.parent / "shared" / "ai-protocol" / "compliance"
needs_upstream = pytest.mark.skipif(
    not UPSTREAM.is_dir(), reason="the specification's suite is not beside the checkout"
)


def case(
    kind: str, given: dict[str, Any], expected: dict[str, Any], ident: str = "own-001", **more: Any
) -> dict[str, Any]:
    return {
        "suite": "some",
        "name": "a case",
        "id": ident,
        "setup": {"provider": "openai"},
        "input": {"type": kind, **given},
        "expected": expected,
        **more,
    }


def write(folder: Path, *cases: Any, known: Any = None) -> Path:
    (folder / "cases.yaml").write_text(yaml.safe_dump_all(list(cases)), encoding="utf-8")
    (folder / LIST).write_text(yaml.safe_dump(known or []), encoding="utf-8")
    return folder


def statuses(report: Report) -> list[tuple[str, tuple[str, ...]]]:
    return [(result.status, result.differences) for result in report.results]


FALLS = case("fallback_decision", {"error_code": "E3002"}, {"should_fallback": True})


# ---- the suites


@needs_upstream
def test_of_the_specifications_suite_all_but_the_one_that_contradicts_itself_pass() -> None:
    report = run_suite(UPSTREAM)
    failed = [(result.file, result.id, result.differences) for result in report.results if result.status == "failed"]
    assert failed == []
    assert (len(report.results), report.count("passed"), report.count("contradiction")) == (121, 120, 1)
    assert [result.id for result in report.results if result.status == "contradiction"] == ["gen-001"]
    assert report.is_good
    notes = [note for row in report.rows() for note in row.notes]
    assert notes == ["4 exercise nothing but the path getter"]
    assert sorted(result.id for result in report.results if result.note) == [f"adv-0{n}" for n in range(13, 17)]


@needs_upstream
def test_without_the_list_the_contradiction_is_a_failure() -> None:
    report = run_suite(UPSTREAM, known=[])
    assert [(result.id, result.status) for result in report.results if result.status != "passed"] == [
        ("gen-001", "failed")
    ]
    assert not report.is_good


def test_the_projects_own_cases_pass() -> None:
    report = run_suite(OWN)
    assert [
        (result.file, result.id, result.differences) for result in report.results if result.status != "passed"
    ] == []
    assert len(report.results) >= 40
    assert report.is_good


@needs_upstream
def test_every_kind_is_used_by_some_case() -> None:
    used = {one.kind for folder in (UPSTREAM, OWN) for one in read_suite(folder) if isinstance(one, Case)}
    assert used == set(KINDS)


def test_requests_are_written_in_every_dialect_by_some_case() -> None:
    bench = Bench(OWN)
    seen = set()
    for one in read_suite(OWN):
        if isinstance(one, Case) and one.kind == "request_building" and "body" in one.expected:
            seen.add(bench.manifest(one).family(one.input.get("api")).dialect)
    assert seen == set(bench.catalog.dialects())


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if isinstance(value, dict) and value:
        for key, part in value.items():
            yield from leaves(part, (*path, key))
    elif isinstance(value, list) and value:
        for number, part in enumerate(value):
            yield from leaves(part, (*path, number))
    else:
        yield path


def changed(expected: dict[str, Any], path: tuple[Any, ...]) -> dict[str, Any]:
    """The same expectation with one value changed into one that cannot be met."""
    out: Any = copy.deepcopy(expected)
    into = out
    for key in path[:-1]:
        into = into[key]
    value = into[path[-1]]
    if any(str(key).endswith("not_contain") for key in path):
        into[path[-1]] = ""  # stands in every text
    elif "shadowed_envs_must_not_resolve" in path:
        into[path[-1]] = expected["required"][0]
    elif path[-1] in ("min", "max") and "errors" not in path:
        into[path[-1]] = 1e12 if path[-1] == "min" else -1
    elif path[-1] == "min":
        into[path[-1]] = 1000
    elif isinstance(value, bool):
        into[path[-1]] = not value
    else:
        into[path[-1]] = "something else" if value != [] else ["something else"]
    return out  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "folder", [pytest.param(UPSTREAM, marks=needs_upstream, id="upstream"), pytest.param(OWN, id="own")]
)
def test_every_value_that_a_case_expects_is_compared(folder: Path) -> None:
    bench = Bench(folder)
    known = {(one.file, one.id) for one in read_known(OWN / LIST)}
    for one in read_suite(folder):
        assert isinstance(one, Case)
        if (one.file, one.id) in known:
            continue
        outcome = KINDS[one.kind].run(one, bench)
        assert differences(one.expected, outcome) == [], one.key
        listed = [f"request.body.{path}.".replace("[", ".").replace("]", "") for path in one.input.get("differs") or ()]
        for path in leaves(one.expected):
            if any(f"{'.'.join(map(str, path))}.".startswith(other) for other in listed):
                continue  # the case itself says that ours is another there
            expected = changed(one.expected, path)
            assert differences(expected, outcome), f"{one.key}: nothing compares expected.{'.'.join(map(str, path))}"


# ---- cases of providers

EXCHANGE: dict[str, Any] = {
    "provider": "openai",
    "family": "chat_completions",
    "evidence": "documented",
    "asked": {"model": "m", "messages": [{"role": "user", "content": "hi"}]},
    "request": {
        "method": "POST",
        "url": "https://api.openai.com/v1/chat/completions",
        "headers": {"content-type": "application/json", "authorization": "Bearer the-key"},
        "body": {"model": "m", "messages": [{"role": "user", "content": "hi"}], "seed": None},
    },
    "reply": {
        "content_type": "application/json",
        "body": {"choices": [{"message": {"role": "assistant", "content": "yes"}, "finish_reason": "stop"}]},
    },
    "expected": {"text": "yes", "finish": "end_turn"},
}


def exchange(**changes: Any) -> dict[str, Any]:
    made = copy.deepcopy(EXCHANGE)
    for path, value in changes.items():
        *outer, last = path.split("__")
        into = made
        for name in outer:
            into = into[name]
        into[last] = value
    return made


def test_a_case_of_a_provider_is_its_request_and_its_reply(tmp_path: Path) -> None:
    assert statuses(run_suite(write(tmp_path, exchange()))) == [("passed", ())]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"request__url": "https://x.example"}, "request.url: expected 'https://x.example'"),
        ({"request__headers": {}}, "request.headers.content-type: expected nothing"),
        ({"request__body__messages": []}, "request.body.messages: expected []"),
        ({"request__body__top_p": 1}, "request.body.top_p: expected 1, got nothing"),
        ({"differs": {"seed": "left out"}}, "request.body.seed: expected 'a difference, as the case lists'"),
        ({"expected__text": "no"}, "text: expected 'no', got 'yes'"),
        ({"expected__tone": "warm"}, "tone: expected 'warm', got 'nothing that compares it'"),
        ({"reply__body": {"error": {"message": "down"}}}, "!error: expected None, got 'down'"),
        ({"asked__colour": 1}, "it could not be run: [E1001"),
        ({"family": "telepathy"}, "it could not be run: [E1001"),
        ({"provider": "nobody"}, "it could not be run: [E1004"),
        ({"replies": {}}, "unknown key 'replies'"),
        ({"reply": {}}, "expected 'body' in 'reply'"),
        ({"request": {}}, "expected 'url' in 'request'"),
        ({"expected": None}, "expected a mapping in 'expected'"),
        ({"provider": 1}, "expected a provider"),
    ],
)
def test_what_is_wrong_with_a_case_of_a_provider_is_said(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    ((status, why),) = statuses(run_suite(write(tmp_path, exchange(**changes))))
    assert status == "failed"
    assert any(said in one for one in why), why


def test_a_difference_that_a_case_lists_is_none(tmp_path: Path) -> None:
    made = exchange(request__body__n=1, differs={"n": "the default is left out"})
    assert statuses(run_suite(write(tmp_path, made))) == [("passed", ())]


def test_a_case_that_rests_on_a_recording_is_not_run_here(tmp_path: Path) -> None:
    made = {"provider": "openai", "family": None, "evidence": "recorded", "recording": {}, "asked": {}}
    assert run_suite(write(tmp_path, made, exchange())).count("passed") == 1


# ---- what must fail


def test_a_kind_that_nobody_knows_is_a_failure(tmp_path: Path) -> None:
    report = run_suite(write(tmp_path, case("mind_reading", {}, {"valid": True})))
    assert statuses(report) == [("failed", ("the kind 'mind_reading' is not known",))]


def test_a_field_that_nothing_compares_is_a_failure(tmp_path: Path) -> None:
    report = run_suite(
        write(tmp_path, case("fallback_decision", {"error_code": "E3002"}, {"should_fallback": True, "soon": 1}))
    )
    ((status, (why,)),) = statuses(report)
    assert status == "failed"
    assert why == "soon: expected 1, got 'nothing that compares it'"


def test_an_input_that_nothing_reads_is_a_failure(tmp_path: Path) -> None:
    report = run_suite(write(tmp_path, case("fallback_decision", {"error_code": "E3002", "mood": 1}, {})))
    assert statuses(report) == [("failed", ("input.mood: nothing reads it",))]


def test_a_case_that_cannot_be_run_is_a_failure(tmp_path: Path) -> None:
    report = run_suite(
        write(tmp_path, case("response_parsing", {"response_body": {}, "manifest": "id: 1"}, {"valid": True}))
    )
    ((status, (why,)),) = statuses(report)
    assert status == "failed"
    assert why.startswith("it could not be run: ")


def test_a_case_that_is_not_written_as_its_kind_is_fails_and_stops_nothing(tmp_path: Path) -> None:
    wrong = case("fallback_decision", {}, {"should_fallback": True})
    odd = case("provider_mock_behavior", {"request_body": {}}, {"request_assert": "text"}, "own-002")
    report = run_suite(write(tmp_path, wrong, odd, case("fallback_decision", {"error_code": "E3002"}, {}, "own-003")))
    assert [result.status for result in report.results] == ["failed", "failed", "passed"]
    assert report.results[0].differences == ("it is not written as its kind is: KeyError: 'error_code'",)
    assert report.results[1].differences[0].endswith("got 'what it cannot be compared with'")


@pytest.mark.parametrize(
    ("document", "why"),
    [
        ({"input": {"type": "x"}, "expected": {}}, "expected an id"),
        ({**FALLS, "expected": None}, "expected 'expected'"),
        ({**FALLS, "input": {}}, "'input.type'"),
        ({**FALLS, "expectd": {}}, "unknown key 'expectd'"),
    ],
)
def test_what_is_meant_as_a_case_and_is_none_is_a_failure(tmp_path: Path, document: Any, why: str) -> None:
    report = run_suite(write(tmp_path, document, {"title": "no case, and meant as none"}))
    ((status, said),) = statuses(report)
    assert status == "failed"
    assert why in said[0]
    assert not report.is_good


def test_a_file_that_is_no_yaml_is_a_failure_and_so_is_an_id_twice(tmp_path: Path) -> None:
    write(tmp_path, FALLS, FALLS)
    (tmp_path / "broken.yaml").write_text("a: [")
    assert [status for status, _ in statuses(run_suite(tmp_path))] == ["failed", "passed", "failed"]


def test_ids_may_repeat_in_different_files(tmp_path: Path) -> None:
    write(tmp_path, FALLS)
    (tmp_path / "more.yaml").write_text(yaml.safe_dump(FALLS))
    assert [status for status, _ in statuses(run_suite(tmp_path))] == ["passed", "passed"]


def test_a_folder_without_cases_is_no_success(tmp_path: Path) -> None:
    assert not run_suite(tmp_path).is_good
    with pytest.raises(ManifestError, match="expected a folder of cases"):
        run_suite(tmp_path / "nowhere")


def known(*differs: str, ident: str = "own-001") -> list[dict[str, Any]]:
    return [{"file": "cases.yaml", "id": ident, "differs": list(differs), "why": "the fixture says otherwise"}]


def test_a_contradiction_is_shown_as_such_only_with_exactly_the_listed_differences(tmp_path: Path) -> None:
    wrong = case("fallback_decision", {"error_code": "E1001"}, {"should_fallback": True})
    report = run_suite(write(tmp_path, wrong, known=known("should_fallback")))
    assert [result.status for result in report.results] == ["contradiction"]
    assert report.results[0].differences[0] == "the fixture says otherwise"
    assert report.is_good
    report = run_suite(write(tmp_path, wrong, known=known("should_fallback", "other")))
    assert [result.status for result in report.results] == ["failed"]


def test_a_listed_case_that_passes_is_a_failure(tmp_path: Path) -> None:
    report = run_suite(write(tmp_path, FALLS, known=known("should_fallback")))
    assert statuses(report) == [("failed", ("it is listed as a contradiction, and passes",))]


def test_a_listed_case_that_is_not_there_is_a_fault(tmp_path: Path) -> None:
    report = run_suite(write(tmp_path, FALLS, known=known("x", ident="own-999")))
    assert report.faults == ("cases.yaml#own-999 is listed as a contradiction, and there is no such case",)
    assert not report.is_good


@pytest.mark.parametrize("entry", [{"file": "a", "id": "b"}, {**known("x")[0], "differs": []}, "text"])
def test_an_entry_of_the_list_says_what_differs_and_why(tmp_path: Path, entry: Any) -> None:
    write(tmp_path, FALLS, known=[entry])
    with pytest.raises(ManifestError, match="expected a mapping with file, id, differs"):
        run_suite(tmp_path)


def test_no_case_is_named_in_the_code() -> None:
    ids = {one.id for folder in (UPSTREAM, OWN) if folder.is_dir() for one in read_suite(folder)}
    for path in (ROOT / "src" / "ai_lib_trio" / "conformance").glob("*.py"):
        assert not ids & set(re.findall(r"[a-z]+-\d{3}", path.read_text())), path


def test_every_cut_of_the_bytes_must_agree(tmp_path: Path) -> None:
    # A wire whose frames are told apart by nothing but the reads would be read differently byte by byte; ours is not,
    # so the comparison itself is tried: what a case cannot expect counts all the same.
    assert [one.path for one in differences({}, {"!cuts": ["cut at 3"], "content": ""})] == ["!cuts"]


# ---- paths out of the suite


def outside(tmp_path: Path, path: str, provider: str = "nvidia", version: str = "2.0") -> Path:
    given = {"manifest_path": path}
    return write(
        tmp_path, case("protocol_loading", given, {"valid": True, "provider_id": provider, "protocol_version": version})
    )


def test_paths_out_of_the_suite_mean_the_bundled_set_or_the_given_tree(tmp_path: Path) -> None:
    suite, tree = tmp_path / "suite", tmp_path / "tree"
    suite.mkdir()
    (tree / "v2" / "providers").mkdir(parents=True)
    outside(suite, "../../../../v2/providers/nvidia.yaml")
    assert statuses(run_suite(suite)) == [("passed", ())]
    own = "id: nvidia\nprotocol_version: '1.9'\nendpoint: {base_url: 'https://n.example/v1'}\ncapabilities: [chat]\n"
    (tree / "v2" / "providers" / "nvidia.yaml").write_text(own)
    ((status, why),) = statuses(run_suite(suite, tree=tree))
    assert (status, why) == ("failed", ("protocol_version: expected '2.0', got '1.9'",))


def test_a_path_out_of_the_suite_never_means_a_place_on_this_machine(tmp_path: Path) -> None:
    suite = tmp_path / "suite"
    suite.mkdir()
    (tmp_path / "acme.yaml").write_text(
        "id: acme\nprotocol_version: '2.0'\nendpoint: {base_url: 'https://a.example'}\n"
    )
    for path in ("../acme.yaml", str(tmp_path / "acme.yaml"), "missing.yaml"):
        outside(suite, path, "acme")
        ((status, why),) = statuses(run_suite(suite))
        assert status == "failed"
        assert "valid: expected True, got False" in why


def test_contracts_are_tried_and_not_believed(tmp_path: Path) -> None:
    source = ROOT / "manifests" / "contracts" / "anthropic-messages.contract.yaml"
    (tmp_path / "suite").mkdir()
    pointer = tmp_path / "suite" / "pointer.yaml"
    pointer.write_text("title: the contract is elsewhere\n")
    given = {
        "manifest_path": "pointer.yaml",
        "validate_contract_schema": True,
        "contract_path": f"v2/contracts/{source.name}",
    }
    suite = write(tmp_path / "suite", case("protocol_loading", given, {"valid": True, "errors": []}))
    assert statuses(run_suite(suite)) == [("passed", ())]
    pointer.write_text("contract_path: v2/contracts/another.contract.yaml\n")
    ((status, said),) = statuses(run_suite(suite))
    assert status == "failed"
    assert "points at the contract" in " ".join(said)
    pointer.write_text(f"contract_path: v2/contracts/{source.name}\n")
    claims = [
        (
            "base64_field: source.data\n      mime",
            "base64_field: source.bytes\n      mime",
            "expected where the document",
        ),
        ("type_field: document", "type_field: file", "expected the type that is written"),
        ("top_level_field", "inline", "outside of the messages"),
        ("assistant: assistant", "assistant: model", "expected a role that messages writes"),
        ("error_before_encode", "silently", "expected one of"),
    ]
    (tmp_path / "v2" / "contracts").mkdir(parents=True)
    for old, new, why in claims:
        text = source.read_text()
        assert old in text
        (tmp_path / "v2" / "contracts" / source.name).write_text(text.replace(old, new))
        ((status, said),) = statuses(run_suite(suite, tree=tmp_path))
        assert status == "failed"
        assert why in " ".join(said)


# ---- the command


def test_the_command_prints_a_table_by_category_and_fails_with_a_case(tmp_path: Path, capsys: Any) -> None:
    bad = case("fallback_decision", {"error_code": "E1001"}, {"should_fallback": True}, "own-002")
    folder = write(tmp_path, FALLS, bad)
    assert run(["conformance", str(folder)]) == 1
    out, err = capsys.readouterr()
    assert err == "[E1001 invalid_request] 1 of 2 cases failed\n"
    assert "some\t2\t1\t0\t1\t" in out
    assert "cases.yaml#own-002" in out
    assert "should_fallback: expected True, got False" in out
    assert "1 of 2 passed, 1 failed" in out


def test_the_command_writes_json_for_programs(tmp_path: Path, capsys: Any) -> None:
    assert run(["conformance", str(write(tmp_path, FALLS)), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["cases"], document["passed"], document["failed"], document["faults"]) == (1, 1, 0, [])
    assert document["results"][0]["status"] == "passed"
    assert document["categories"][0]["category"] == "some"


def test_without_a_folder_the_command_runs_the_projects_own_cases(capsys: Any) -> None:
    assert own_suite() == OWN
    assert run(["conformance"]) == 0
    assert ", 0 failed" in capsys.readouterr().out


@needs_upstream
def test_the_command_shows_the_contradiction_and_what_passes_without_showing_much(capsys: Any) -> None:
    assert run(["conformance", str(UPSTREAM)]) == 0
    out = capsys.readouterr().out
    assert "120 of 121 passed, 1 known to contradict itself, 0 failed" in out
    assert "4 exercise nothing but the path getter" in out
    assert "contradicts itself" in out


def test_a_folder_without_cases_fails_and_says_so(tmp_path: Path, capsys: Any) -> None:
    assert run(["conformance", str(tmp_path)]) == 1
    assert capsys.readouterr().err == f"[E1001 invalid_request] {tmp_path}: there are no cases here\n"


def test_a_folder_that_may_not_be_read_is_a_failure_and_no_wrong_usage(
    tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda *_, **__: False)
    assert run(["conformance", str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith("[E1001 ")


def test_a_folder_that_is_not_there_is_one_clear_line(tmp_path: Path, capsys: Any) -> None:
    assert run(["conformance", str(tmp_path / "no")]) == 1
    assert "expected a folder of cases" in capsys.readouterr().err
