"""Rules of a `decode` section: what runs, in which order, over which backend, and what is refused at load."""

from __future__ import annotations

import json
from textwrap import dedent
from typing import Any

import pytest
import yaml

from ai_lib_trio.errors import ManifestError
from ai_lib_trio.pipeline import DecodeProgram, compile_decoder, compile_pipeline
from ai_lib_trio.protocol.loader import Catalog
from ai_lib_trio.protocol.where import Where
from ai_lib_trio.types.events import (
    Citation,
    FinalCandidate,
    MediaPart,
    Metadata,
    OpaqueBlock,
    PartialContentDelta,
    StreamEnd,
    StreamError,
    StreamingEvent,
    ThinkingDelta,
)

EOF = "complete_when: [eof]\n"


def program(text: str) -> DecodeProgram:
    head = EOF if text.startswith(EOF) else ""
    return compile_decoder(
        yaml.safe_load(head + dedent(text.removeprefix(head))), Where("acme.yaml", None, ("decode",))
    )


def run(text: str, *frames: Any, names: list[str] | None = None) -> list[StreamingEvent]:
    """Events of SSE frames, after both backends gave the same."""
    compiled = program(text)
    lines = []
    for number, frame in enumerate(frames):
        if names:
            lines.append(f"event: {names[number]}\n")
        lines.append(f"data: {json.dumps(frame)}\n\n")
    data = "".join(lines).encode()
    results = []
    for backend in ("view", "generic"):
        pipeline = compiled.open(backend=backend)
        results.append(pipeline.feed(data) + pipeline.finish())
    assert results[0] == results[1]
    return results[0]


def text_of(events: list[StreamingEvent]) -> list[str]:
    return [event.content for event in events if isinstance(event, PartialContentDelta)]


def test_every_rule_that_matches_runs_in_order() -> None:
    rules = """
    rules:
      b: { match: $.type == 'x', emit: PartialContentDelta, extract: { content: $.b } }
      always: { emit: PartialContentDelta, extract: { content: $.always } }
      a: { match: "$.type in ['x', 'y']", emit: PartialContentDelta, extract: { content: $.a } }
      c: { match: $.type == 'y' && exists($.c), emit: PartialContentDelta, extract: { content: $.c } }
    """
    frame = {"a": "a", "b": "b", "c": "c", "always": "-"}
    events = run(EOF + rules, {"type": "x", **frame}, {"type": "y", **frame}, {"type": 7, **frame}, frame)
    assert text_of(events) == ["b", "-", "a", "-", "a", "c", "-", "-"]


def test_one_frame_gives_many_events() -> None:
    rules = """
    rules:
      parts:
        for_each: { p: $.parts }
        rules:
          text: { match: $p.thought != true, emit: PartialContentDelta, extract: { content: $p.text } }
          thought: { match: $p.thought == true, emit: ThinkingDelta, extract: { thinking: $p.text } }
    """
    events = run(EOF + rules, {"parts": [{"text": "a"}, {"text": "b", "thought": True}, None, 3, {"text": "c"}]})
    assert events[:3] == [PartialContentDelta("a", 0), ThinkingDelta("b", 1), PartialContentDelta("c", 2)]


def test_let_takes_the_first_path_that_is_something_and_ends_the_rule_where_none_is() -> None:
    rules = """
    rules:
      text:
        let: { m: [$.delta, $.message] }
        emit: PartialContentDelta
        extract: { content: { $first: [$m.text, '-'] } }
    """
    events = run(EOF + rules, {"delta": {"text": "a"}}, {"message": {"text": "b"}}, {"delta": None, "message": {}}, {})
    assert text_of(events) == ["a", "b", "-"]


def test_a_match_may_name_what_the_rule_binds_itself() -> None:
    rules = """
    rules:
      text:
        match: $p.type == 'text' && $o.on == true
        let: { o: $.opts }
        for_each: { p: $o.parts }
        emit: PartialContentDelta
        extract: { content: $p.text }
    """
    frame = {"opts": {"on": True, "parts": [{"type": "text", "text": "a"}, {"type": "x", "text": "b"}]}}
    assert text_of(run(EOF + rules, frame)) == ["a"]


def test_positions_count_the_elements_of_the_wire() -> None:
    rules = """
    rules:
      text:
        for_each: { p: $.parts }
        match: $p# > 0
        emit: PartialContentDelta
        extract: { index: $p#, content: $p.t }
    """
    events = run(EOF + rules, {"parts": [{"t": "a"}, {"t": "b"}, {"t": "c"}]}, {"parts": [None, {"t": "d"}]})
    assert events[:3] == [PartialContentDelta("b", 0), PartialContentDelta("c", 1), PartialContentDelta("d", 0)]


def test_the_name_of_an_event_can_be_matched() -> None:
    rules = """
    rules:
      a: { match: $event == 'a', emit: PartialContentDelta, extract: { content: $.t } }
      b: { match: $event == 'b', emit: ThinkingDelta, extract: { thinking: $.t } }
    """
    events = run(EOF + rules, {"t": "1"}, {"t": "2"}, {"t": "3"}, names=["a", "b", "c"])
    assert events[:2] == [PartialContentDelta("1"), ThinkingDelta("2", 1)]


def test_operators_give_what_they_say() -> None:
    rules = """
    rules:
      a:
        emit: PartialContentDelta
        extract: { index: a, content: { $case: $.k, of: { 1: one, x: $.v }, else: '?' } }
      b:
        emit: PartialContentDelta
        extract: { index: b, content: { $if: $.k == true, then: T, else: { $first: [$.none, $.w, W] } } }
      c: { emit: PartialContentDelta, extract: { index: c, content: { $join: [$.k, $.v], by: '-' } } }
      d: { emit: PartialContentDelta, extract: { index: d, content: { $cut: $.v, at: ':' } } }
      e: { emit: PartialContentDelta, extract: { index: e, content: { $json: $.v } } }
      f: { emit: Citation, extract: { data: { id: $.k, more: { deep: $.v, none: $.none }, fixed: $$x } } }
      g: { emit: PartialContentDelta, extract: { index: g, content: "$.parts[1].t" } }
      h: { emit: PartialContentDelta, extract: { index: h, content: "$.parts[?(@.t=='q')].t" } }
      i: { emit: PartialContentDelta, extract: { index: i, content: { $case: $.k, of: { x: a } } } }
    """
    last = {"k": "x", "v": "l:r", "parts": [{"t": "p"}, {"t": "q"}]}
    events = run(EOF + rules, {"k": 1, "v": {"a": [1, None]}}, {"k": True, "w": "w"}, last)
    assert [event for event in events if isinstance(event, Citation)] == [
        Citation({"id": 1, "more": {"deep": {"a": [1, None]}}, "fixed": "$x"}, 2),
        Citation({"id": True, "fixed": "$x"}, 1),
        Citation({"id": "x", "more": {"deep": "l:r"}, "fixed": "$x"}, 2),
    ]
    assert text_of(events) == ["one", "W", '{"a":[1,null]}', "?", "T", "l:r", "W", "x-l:r", "l", "l:r", "q", "q", "a"]


def test_an_object_of_nothing_is_nothing() -> None:
    rules = """
    rules:
      empty: { emit: Citation, extract: { data: {} } }
      absent: { emit: Citation, extract: { data: { a: $.a, b: $.b } } }
      nested: { emit: Citation, extract: { data: { in: { c: $.c } } } }
    """
    events = run(EOF + rules, {}, {"b": 0}, {"c": False})
    assert [event.data for event in events if isinstance(event, Citation)] == [{"b": 0}, {"in": {"c": False}}]


def test_a_define_is_used_with_the_rules_own_keys_over_it() -> None:
    rules = """
    define:
      text: { match: $k.on == true, emit: PartialContentDelta, extract: { content: $k.a, index: one } }
    rules:
      a: { let: { k: $.x }, use: text }
      b: { let: { k: $.y }, use: text, match: null, extract: { content: $k.b } }
    """
    events = run(EOF + rules, {"x": {"on": True, "a": "1"}, "y": {"a": "2", "b": "3"}}, {"x": {"a": "4"}})
    assert text_of(events) == ["1", "3"]


def test_candidates_keep_their_events_apart() -> None:
    rules = """
    complete_when: [finish]
    rules:
      choices:
        for_each: { c: $.choices }
        candidate: $c.index
        rules:
          text: { emit: PartialContentDelta, extract: { content: $c.text } }
          end: { emit: FinalCandidate, extract: { finish_reason: $c.end } }
      after: { emit: PartialContentDelta, extract: { content: $.after } }
    """
    events = run(
        rules,
        {"choices": [{"index": 1, "text": "b"}, {"text": "a"}, {"index": "x", "text": "!"}], "after": "0"},
        {"choices": [{"index": 1, "end": "stop"}, {"index": 0, "end": "length"}]},
    )
    assert events == [
        PartialContentDelta("b", 0, 1),
        PartialContentDelta("a", 0, 0),
        PartialContentDelta("!", 0, 0),
        PartialContentDelta("0", 0, 0),
        FinalCandidate(0, "other", "length"),
        FinalCandidate(1, "other", "stop"),
        StreamEnd("other", "length"),
    ]


def test_a_frame_that_is_a_list_counts_as_its_elements() -> None:
    rules = "rules: { text: { emit: PartialContentDelta, extract: { content: $.t } } }"
    frames = [[{"t": "a"}, {"t": "b"}], {"t": "c"}, [], [[{"t": "no"}], 1, None]]
    assert text_of(run(EOF + rules, *frames)) == ["a", "b", "c"]


def test_frames_of_any_shape_are_passed_over_and_counted() -> None:
    compiled = program(EOF + "rules: { text: { emit: PartialContentDelta, extract: { content: $.t.u } } }")
    pipeline = compiled.open()
    for frame in ("3", '"t"', "null", '{"t": 1}', '{"t": {"u": ["x"]}}', '{"t": {"u": "x"}}'):
        pipeline.feed(f"data: {frame}\n\n".encode())
    assert (pipeline.counts.frames, pipeline.counts.ignored) == (6, 5)


def test_names_that_stand_for_a_place_and_one_inside_it_are_read_as_plain_json() -> None:
    rules = "rules: { text: { let: { r: [$.response, $] }, emit: PartialContentDelta, extract: { content: $r.t } } }"
    assert text_of(run(EOF + rules, {"response": {"t": "a"}}, {"t": "b"})) == ["a", "b"]


def test_a_value_taken_whole_can_be_read_into_as_well() -> None:
    rules = """
    rules:
      raw: { emit: Usage, extract: { input_tokens: $.u.n.x, raw: $.u } }
      inner: { let: { n: $.u.n }, emit: PartialContentDelta, extract: { content: $n.t } }
    """
    events = run(EOF + rules, {"u": {"n": {"x": 3, "t": "a"}, "more": [1]}})
    meta = next(event for event in events if isinstance(event, Metadata))
    assert meta.usage is not None
    assert (meta.usage.input_tokens, meta.usage.raw) == (3, {"n": {"x": 3, "t": "a"}, "more": [1]})
    assert text_of(events) == ["a"]


def test_a_frame_taken_whole_is_the_one_on_the_wire_also_where_it_is_an_element_of_a_list() -> None:
    rules = """
    rules: { cited: { match: exists($.c), emit: Citation, extract: { data: $ } } }
    error: { match: exists($.e), extract: { message: $.e, error: $ } }
    """
    frames = [{"c": 1, "more": [1]}, [{"no": 1}, {"c": 2, "of": {"a": "list"}}], {"e": "bad", "more": {}}]
    events = run(EOF + rules, *frames)
    cited = [event.data for event in events if isinstance(event, Citation)]
    assert cited == [{"c": 1, "more": [1]}, {"c": 2, "of": {"a": "list"}}]
    assert isinstance(events[-1], StreamError)
    assert events[-1].error == {"e": "bad", "more": {}}


def test_a_frame_taken_whole_may_hold_what_is_no_text_where_no_rule_looks() -> None:
    pipeline = program(EOF + "rules: { c: { match: exists($.c), emit: Citation, extract: { data: $ } } }").open()
    for odd in (b"\xff", rb"\ud83d"):
        frame = b'data: {"c": 1, "odd": "%b"}\n\n' % odd
        assert pipeline.feed(frame) == [Citation({"c": 1, "odd": "\ufffd"})]


def test_media_and_raw_blocks_stand_in_their_order() -> None:
    rules = """
    rules:
      parts:
        for_each: { p: $.parts }
        rules:
          text: { emit: PartialContentDelta, extract: { content: $p.text } }
          image: { emit: MediaPart, extract: { mime_type: $p.mime, data: $p.data, url: $p.url, signature: $p.sig } }
          other: { match: $p.type == 'odd', emit: OpaqueBlock, extract: { kind: $p.type, data: $p, is_complete: true } }
    """
    parts = [
        {"text": "a"},
        {"mime": "image/png", "data": "AA==", "sig": "S"},
        {"type": "odd", "x": 1},
        {"url": "data:audio/wav;base64,BB=="},
        {"url": "https://acme.example/i.png", "mime": "image/png"},
        {"text": "b"},
    ]
    events = run(EOF + rules, {"parts": parts})
    assert events[:-2] == [
        PartialContentDelta("a", 0),
        MediaPart("image/png", "AA==", None, 1),
        OpaqueBlock(1, "signature", "S", 0, "media"),
        OpaqueBlock(2, "odd", {"type": "odd", "x": 1}),
        MediaPart("audio/wav", "BB==", None, 3),
        MediaPart("image/png", None, "https://acme.example/i.png", 4),
        PartialContentDelta("b", 5),
    ]


def test_stream_rules_and_body_rules_are_apart_and_rules_are_in_both() -> None:
    compiled = program(
        """
        complete_when: [mark]
        rules: { both: { emit: PartialContentDelta, extract: { index: 0, content: $.both } } }
        stream:
          s: { emit: PartialContentDelta, extract: { index: 1, content: $.s } }
          end: { match: $.end == true, emit: Complete }
        body: { b: { emit: PartialContentDelta, extract: { index: 2, content: $.b } } }
        """
    )
    frame = b'{"both": "x", "s": "y", "b": "z", "end": true}'
    streamed = compiled.open()
    assert text_of(streamed.feed(b"data: " + frame + b"\n\n")) == ["x", "y"]
    whole = compiled.open(content_type="application/json", streamed=False)
    assert text_of(whole.feed(frame) + whole.finish()) == ["x", "z"]
    assert whole.body == json.loads(frame)
    assert streamed.body is None


def test_an_error_reply_is_read_by_the_error_fields_alone() -> None:
    compiled = program(
        """
        error:
          match: exists($.never)
          extract:
            code: { $first: [$.error.code, { $cut: $header.x-errortype, at: ':' }] }
            message: { $first: [$.error.message, $.message] }
            error: $.error
        """
    )
    said = compiled.read_error(400, {}, b'{"error": {"code": 17, "message": "no"}}')
    assert said == StreamError("provider", "no", "17", None, 400, {"code": 17, "message": "no"})
    said = compiled.read_error(429, {"X-ErrorType": "Throttled:http://x"}, b'{"message": "slow"}')
    assert (said.code, said.message, said.status, said.error) == ("Throttled", "slow", 429, {"message": "slow"})
    assert compiled.read_error(500, {}, b'[{"error": {"message": "in a list"}}]').message == "in a list"
    assert compiled.read_error(502, {}, b"<html>bad gateway</html>") == StreamError("provider", status=502)
    assert compiled.read_error(502, {}, b"upstream gone").message == "upstream gone"
    assert compiled.read_error(503, {}, b"").message == ""
    assert compiled.read_error(503, {}, b"\xff\xfe{").status == 503


@pytest.mark.parametrize(
    ("tree", "place", "expected"),
    [
        ("odd: 1", "decode.odd", "expected one of"),
        ("framing: { format: xml }", "decode.framing.format", "expected one of sse"),
        ("framing: { formt: sse }", "decode.framing.formt", "expected one of format, done, content_type"),
        ("complete_when: [end]", "decode.complete_when[0]", "expected one of finish"),
        ("complete_when: [mark]", "decode.complete_when[0]", "evidence that some rule gives"),
        ("complete_when: [sentinel]", "decode.complete_when[0]", "evidence that some rule gives"),
        ("finish: { map: { stop: done } }", "decode.finish.map.stop", "a standard reason"),
        ("finish: { with_calls: { stop: tool_use } }", "decode.finish.with_calls.stop", "expected one of end_turn"),
        ("usage: { input_excludes: [cached] }", "decode.usage.input_excludes", "usage fields"),
        ("rules: []", "decode.rules", "a map of rules"),
        ("define: { b: { use: b } }\nrules: { a: { use: b } }", "decode.rules.a.use", "inside itself"),
        ("define: { b: { emit: Complete } }", "decode.define.b", "never used"),
        ("error: { when: $.x }", "decode.error.when", "match, extract"),
        ("error: { match: $.x, extract: { text: $.x } }", "decode.error.extract.text", "field of StreamError"),
        ("framing: { done: [1] }", "decode.framing.done", "expected a text"),
    ],
)
def test_a_mistake_in_a_decode_section_is_refused_with_its_place(tree: str, place: str, expected: str) -> None:
    with pytest.raises(ManifestError) as caught:
        program(tree)
    assert caught.value.path == place
    assert expected in caught.value.message


@pytest.mark.parametrize(
    ("rule", "place", "expected"),
    [
        ("1", "", "expected a rule"),
        ("{}", "", "`emit` or `rules`"),
        ("{ emit: Text }", ".emit", "expected a fact"),
        ("{ emit: Usage, extract: { tokens: $.x } }", ".extract.tokens", "a field of Usage"),
        ("{ emt: Usage }", ".emt", "expected one of"),
        ("{ extract: { x: 1 }, rules: {} }", ".extract", "`emit` beside"),
        ("{ match: '$.x =', emit: Complete }", ".match", "at column 5"),
        ("{ match: $y.x, emit: Complete }", ".match", "a bound name"),
        ("{ let: { k: $.k }, emit: Complete }", ".let.k", "never used"),
        ("{ let: { k: '$.k[*]' }, match: $k, emit: Complete }", ".let.k", "one value"),
        ("{ let: { k: [] }, match: $k, emit: Complete }", ".let.k", "empty list"),
        ("{ let: { k-x: $.k }, emit: Complete }", ".let.k-x", "expected a name"),
        ("{ let: { event: $.k }, emit: Complete }", ".let.event", "bound already"),
        ("{ for_each: { p: '$.x[*].y' }, emit: Complete }", ".for_each.p", "nest another"),
        ("{ for_each: { p: $.x, q: $.y }, emit: Complete }", ".for_each", "one name"),
        ("{ emit: Citation, extract: { data: '$.x[*].y' } }", ".extract.data", "for conditions"),
        ("{ emit: Refusal, extract: { content: { $frist: [] } } }", ".extract.content", "one operator"),
        ("{ emit: Refusal, extract: { content: { $if: $.x, than: 1 } } }", ".extract.content.than", "one of"),
        ("{ emit: Refusal, extract: { content: { $cut: $.x } } }", ".extract.content.at", "cut at"),
        ("{ emit: Refusal, extract: { content: { $case: $.x } } }", ".extract.content.of", "map of values"),
        ("{ emit: Refusal, extract: { content: { a: $.x } } }", ".extract.content", "an object"),
        ("{ emit: Refusal, extract: { content: [$.x] } }", ".extract.content", "a constant"),
        ("{ use: b }", ".use", "in `define` (none)"),
    ],
)
def test_a_mistake_in_a_rule_is_refused_with_its_place(rule: str, place: str, expected: str) -> None:
    with pytest.raises(ManifestError) as caught:
        program("rules: { a: " + rule + " }")
    assert caught.value.path == "decode.rules.a" + place
    assert expected in caught.value.message


def test_rules_nested_without_end_are_refused() -> None:
    tree: dict[str, Any] = {"emit": "Complete"}
    for _ in range(20):
        tree = {"rules": {"a": tree}}
    with pytest.raises(ManifestError, match="nested at most 12 deep"):
        compile_decoder({"rules": {"a": tree}}, Where("acme.yaml"))


def test_rules_may_nest_as_deep_as_is_allowed() -> None:
    tree: dict[str, Any] = {"match": "$x11.t == 'a'", "emit": "PartialContentDelta", "extract": {"content": "$x11.t"}}
    for number in range(11, 0, -1):
        path = "$.l" if number == 1 else f"$x{number - 1}.l"
        own = {} if number == 11 else {"rules": {"a": tree}}
        tree = {**(tree if number == 11 else {}), "for_each": {f"x{number}": path}, **own}
    frame: Any = {"t": "a"}
    for _ in range(11):
        frame = {"l": [frame, frame]}
    compiled = compile_decoder({"complete_when": ["eof"], "rules": {"a": tree}}, Where("acme.yaml"))
    pipeline = compiled.open()
    assert len(pipeline.feed(b"data: " + json.dumps(frame).encode() + b"\n\n")) == 2048


def test_rules_that_multiply_are_refused() -> None:
    define: dict[str, Any] = {"d0": {"emit": "Complete"}}
    for level in range(1, 10):
        define[f"d{level}"] = {"rules": {name: {"use": f"d{level - 1}"} for name in "abcdefgh"}}
    with pytest.raises(ManifestError, match="expected at most 5000 rules"):
        compile_decoder({"define": define, "rules": {"a": {"use": "d9"}}}, Where("acme.yaml"))


def test_names_without_end_are_refused() -> None:
    lets = {f"n{number}": "$.t" for number in range(1_000)}
    with pytest.raises(ManifestError, match="expected at most 64 names in force"):
        compile_decoder({"rules": {"a": {"let": lets, "emit": "Complete"}}}, Where("acme.yaml"))


def test_places_that_many_ways_lead_to_are_looked_at_once() -> None:
    # 2 to the power of 40 ways from the frame to the last name's place.
    lets: dict[str, Any] = {"n0": ["$.l", "$.r"]}
    lets |= {f"n{number}": [f"$n{number - 1}.l", f"$n{number - 1}.r"] for number in range(1, 41)}
    rule = {"let": lets, "emit": "PartialContentDelta", "extract": {"content": "$n40.t"}}
    frame: Any = {"t": "here"}
    for _ in range(41):
        frame = {"r": frame}
    compiled = compile_decoder({"complete_when": ["eof"], "rules": {"a": rule}}, Where("acme.yaml"))
    assert text_of(compiled.open().feed(f"data: {json.dumps(frame)}\n\n".encode())) == ["here"]


@pytest.mark.parametrize(
    "rule",
    [
        {"extract": {"content": {"$first": [*(f"$.a{number}" for number in range(300)), "$.t"]}}},
        {"let": {"n": [*(f"$.a{number}" for number in range(300)), "$.t"]}, "extract": {"content": "$n"}},
        {
            "extract": {
                "content": {"$case": "$.t", "of": {f"k{number}": "no" for number in range(20_000)}, "else": "$.t"}
            }
        },
        {
            "extract": {"content": "$.t"},
            "rules": {
                "deep": {
                    "let": {"n0": "$.a", **{f"n{number}": f"$n{number - 1}" + ".a" * 60 for number in range(1, 40)}},
                    "emit": "Refusal",
                    "extract": {"content": "$n39.t"},
                }
            },
        },
    ],
)
def test_rules_larger_than_a_function_can_be_run_all_the_same(rule: dict[str, Any]) -> None:
    tree = {"complete_when": ["eof"], "rules": {"a": {"emit": "PartialContentDelta", **rule}}}
    compiled = compile_decoder(tree, Where("acme.yaml"))
    assert text_of(compiled.open().feed(b'data: {"t": "here", "a": {"a": 1}}\n\n')) == ["here"]


def test_no_text_of_a_manifest_becomes_code() -> None:
    nasty = '\'); raise SystemExit(\'\\n"""'
    tree = {
        "complete_when": ["eof"],
        "rules": {
            nasty: {
                "emit": "PartialContentDelta",
                "extract": {"index": nasty, "content": {"$case": "$.'a b);'", "of": {nasty: nasty}, "else": nasty}},
            }
        },
    }
    pipeline = compile_decoder(tree, Where("acme.yaml")).open()
    assert text_of(pipeline.feed(b'data: {"x": 1}\n\n')) == [nasty]


def test_a_manifest_opens_a_pipeline_of_the_family_asked_for() -> None:
    manifest = Catalog.open().provider("openai")
    frame = {"choices": [{"delta": {"content": "a"}, "finish_reason": "stop"}]}
    assert text_of(compile_pipeline(manifest).feed(f"data: {json.dumps(frame)}\n\n".encode())) == ["a"]
    frame = {"type": "response.output_text.delta", "output_index": 0, "content_index": 0, "delta": "b"}
    pipeline = compile_pipeline(manifest, "responses")
    assert text_of(pipeline.feed(f"data: {json.dumps(frame)}\n\n".encode())) == ["b"]
