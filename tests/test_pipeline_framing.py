"""Framings: bytes become frames, the same ones however they are cut."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ai_lib_trio.pipeline.decode import Body, EventStream, Frame, JsonArray, JsonLines, Sse

BOUND = 1 << 20


def read(kind: Any, pieces: list[bytes], bound: int = BOUND) -> tuple[list[Frame], str | None, bool]:
    framing = kind(bound)
    frames = [frame for piece in pieces for frame in framing.feed(piece)]
    frames += framing.finish()
    return frames, framing.fault, framing.cut


def cuts_of(data: bytes) -> Iterator[list[bytes]]:
    """Whole, byte by byte, and every cut in two."""
    yield [data]
    yield [data[at : at + 1] for at in range(len(data))]
    for at in range(len(data) + 1):
        yield [data[:at], data[at:]]


def frames_of(kind: Any, data: bytes, bound: int = BOUND) -> list[Frame]:
    """The frames, after every cut has given the same."""
    expected = read(kind, [data], bound)
    for pieces in cuts_of(data):
        assert read(kind, pieces, bound) == expected, pieces
    return expected[0]


def test_events_end_at_a_blank_line_whatever_ends_a_line() -> None:
    for end in (b"\n", b"\r\n", b"\r"):
        data = end.join([b"data: one", b"", b"data: two", b"", b""])
        assert frames_of(Sse, data) == [(None, b"one"), (None, b"two")]


def test_line_ends_may_be_mixed() -> None:
    assert frames_of(Sse, b"data: a\r\n\ndata: b\r\rdata: c\n\r\n") == [(None, b"a"), (None, b"b"), (None, b"c")]


def test_a_space_after_the_colon_is_optional_and_only_one_is_taken() -> None:
    assert frames_of(Sse, b"data:x\n\ndata: x\n\ndata:  x \n\n") == [(None, b"x"), (None, b"x"), (None, b" x ")]


def test_lines_of_data_are_joined_by_a_line_feed() -> None:
    assert frames_of(Sse, b'data: {"a":\r\ndata:1}\r\ndata\r\n\r\n') == [(None, b'{"a":\n1}\n')]


def test_a_name_belongs_to_the_event_it_stands_in() -> None:
    data = b"event: error\ndata: 1\n\ndata: 2\n\nevent: lost\n\ndata: 3\n\ndata: 4\nevent:late\n\n"
    assert frames_of(Sse, data) == [("error", b"1"), (None, b"2"), (None, b"3"), ("late", b"4")]


def test_comments_ids_retries_and_unknown_fields_are_passed_over() -> None:
    data = b": PROCESSING\n\n:\nid: 7\nretry: 10\nfoo: bar\nfoo\n: data: no\ndata: x\nid\n\n:\n\n"
    assert frames_of(Sse, data) == [(None, b"x")]


def test_an_event_without_data_is_none() -> None:
    assert frames_of(Sse, b"event: ping\n\ndata:\n\ndata\n\n\n\n") == []


def test_a_byte_order_mark_before_the_first_line_is_no_part_of_it() -> None:
    assert frames_of(Sse, b"\xef\xbb\xbfdata: x\n\n") == [(None, b"x")]
    assert frames_of(Sse, b"data: \xef\xbb\xbfx\n\n") == [(None, b"\xef\xbb\xbfx")]
    assert frames_of(JsonLines, b'\xef\xbb\xbf{"a":1}\n') == [(None, b'{"a":1}')]
    assert frames_of(JsonArray, b"\xef\xbb\xbf [1]") == [(None, b"1")]


def test_a_last_event_without_its_blank_line_counts() -> None:
    assert frames_of(Sse, b"data: a\n\ndata: b") == [(None, b"a"), (None, b"b")]
    assert frames_of(Sse, b"data: a\n\ndata: b\n") == [(None, b"a"), (None, b"b")]
    assert frames_of(Sse, b"event: e\r\ndata: b\r") == [("e", b"b")]


def test_a_character_cut_in_two_arrives_whole() -> None:
    body = '{"t": "日本 🎌"}'.encode()
    assert frames_of(Sse, b"data: " + body + b"\n\n") == [(None, body)]
    assert frames_of(JsonLines, body + b"\n") == [(None, body)]
    assert frames_of(JsonArray, b"[" + body + b"]") == [(None, body)]


def test_separators_inside_text_do_not_end_a_line() -> None:
    body = '{"t": "a\u2028b\u0085c\x0bd"}'.encode()
    assert frames_of(Sse, b"data: " + body + b"\n\n") == [(None, body)]
    assert frames_of(JsonLines, body + b"\n") == [(None, body)]


def test_json_lines_end_in_lf_or_crlf_and_blank_ones_are_passed_over() -> None:
    assert frames_of(JsonLines, b'{"a":1}\n\n{"b":2}\r\n \r\n{"c":3}') == [
        (None, b'{"a":1}'),
        (None, b'{"b":2}\r'),
        (None, b'{"c":3}'),
    ]


def test_a_printed_array_gives_its_elements_as_they_close() -> None:
    data = b'[{\n  "a": [1, {"b": "],}[{"}]\n}\n,\r\n{"c": "\\"]\\\\"}\n, 3, "x,y" , null\n]\n'
    assert frames_of(JsonArray, data) == [
        (None, b'{\n  "a": [1, {"b": "],}[{"}]\n}'),
        (None, b'{"c": "\\"]\\\\"}'),
        (None, b"3"),
        (None, b'"x,y"'),
        (None, b"null"),
    ]
    framing = JsonArray(BOUND)
    assert framing.feed(b'[{"a": 1}') == []
    assert framing.feed(b"\n,") == [(None, b'{"a": 1}')]


def test_an_empty_array_has_no_elements() -> None:
    assert frames_of(JsonArray, b" [ ] ") == []


def test_objects_one_after_the_other_are_read_where_an_array_was_expected() -> None:
    assert frames_of(JsonArray, b'{"error": {"a": 1}}\n{"b": 2}') == [
        (None, b'{"error": {"a": 1}}'),
        (None, b'{"b": 2}'),
    ]


@pytest.mark.parametrize("data", [b'[{"a":1}', b'[{"a":1},', b'[{"a":1},{"b', b'[{"a":"x', b"["])
def test_an_array_that_never_closes_is_seen_as_cut(data: bytes) -> None:
    frames_of(JsonArray, data)
    assert read(JsonArray, [data])[2]
    assert not read(JsonArray, [b'[{"a":1}]'])[2]


def test_a_body_is_one_frame() -> None:
    assert frames_of(Body, b'\xef\xbb\xbf{"a":\n1}') == [(None, b'{"a":\n1}')]
    assert frames_of(Body, b" \n") == []


@pytest.mark.parametrize(
    ("kind", "data", "given"),
    [
        (Sse, b"data: 12345\n\ndata: 123456789012\n\ndata: 1\n\n", [(None, b"12345")]),
        (Sse, b"data: 1\n\ndata: 1234\ndata: 1234\n\n", [(None, b"1")]),
        (Sse, b"data: 1\n\n: a comment too long for the bound", [(None, b"1")]),
        (JsonLines, b"12345\n1234567890123\n1\n", [(None, b"12345")]),
        (JsonArray, b"[12345, 1234567890123, 1]", [(None, b"12345")]),
        (Body, b"1234567890123", []),
    ],
)
def test_a_frame_over_the_bound_ends_the_reading_after_what_came_before(
    kind: Any, data: bytes, given: list[Frame]
) -> None:
    assert frames_of(kind, data, bound=12) == given
    assert read(kind, [data], 12)[1] == "oversize"
    assert read(kind, [data], 100)[1] is None


def test_a_frame_in_many_pieces_is_joined_once() -> None:
    framing = Sse(BOUND)
    framing.feed(b"data: ")
    for _ in range(1000):
        framing.feed(b"x" * 100)
    assert len(framing._pieces) == 1001
    assert framing.feed(b"\n\n") == [(None, b"x" * 100_000)]
    assert framing._pieces == []


LINES = st.lists(
    st.sampled_from(
        [b"data: {}", b"data:[1]", b"data", b": c", b"event: e", b"", b"", b"id: 1", "data: \u00e9".encode()]
    )
)
ENDS = st.sampled_from([b"\n", b"\r\n", b"\r"])


@settings(max_examples=150, deadline=None)
@given(LINES, st.data())
def test_any_cut_of_any_lines_gives_the_same_events(lines: list[bytes], data: st.DataObject) -> None:
    body = b"".join(line + data.draw(ENDS) for line in lines)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=8)))
    edges = [0, *cuts, len(body)]
    pieces = [body[a:b] for a, b in pairwise(edges)]
    assert read(Sse, pieces) == read(Sse, [body])


@settings(max_examples=150, deadline=None)
@given(st.text(alphabet='[]{},": \n\\a1', max_size=25), st.data())
def test_any_cut_of_any_text_gives_the_same_elements(text: str, data: st.DataObject) -> None:
    body = text.encode()
    bound = data.draw(st.sampled_from([4, BOUND]))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=6)))
    edges = [0, *cuts, len(body)]
    pieces = [body[a:b] for a, b in pairwise(edges)]
    for kind in (JsonArray, JsonLines):
        assert read(kind, pieces, bound) == read(kind, [body], bound)


# ---- binary messages ----


def header(name: bytes, value: bytes, kind: int = 7) -> bytes:
    sized = struct.pack(">H", len(value)) + value if kind in (6, 7) else value
    return bytes([len(name)]) + name + bytes([kind]) + sized


def binary(payload: bytes, *headers: bytes) -> bytes:
    head = b"".join(headers)
    prelude = struct.pack(">II", 16 + len(head) + len(payload), len(head))
    message = prelude + struct.pack(">I", zlib.crc32(prelude)) + head + payload
    return message + struct.pack(">I", zlib.crc32(message))


EVENT = header(b":message-type", b"event")


def test_binary_messages_are_frames_under_the_name_of_their_event() -> None:
    odd = header(b"n", b"\0\0\0\1", 4) + header(b"yes", b"", 0) + header(b"raw", b"ab", 6) + header(b"id", b"x" * 16, 9)
    data = (
        binary(b'{"a":1}', EVENT, header(b":event-type", b"chunk"), odd)
        + binary(b"", EVENT, header(b":event-type", b"initial-response"))
        + binary(b'{"m":1}', header(b":message-type", b"exception"), header(b":exception-type", b"throttled"))
        + binary(b"", header(b":message-type", b"exception"), header(b":exception-type", b"overloaded"))
        + binary(
            b"", header(b":message-type", b"error"), header(b":error-code", b"E"), header(b":error-message", b"no")
        )
    )
    assert frames_of(EventStream, data) == [
        ("chunk", b'{"a":1}'),
        ("throttled", b'{"m":1}'),
        ("overloaded", b"{}"),
        ("E", b'{"message": "no"}'),
    ]


def test_a_binary_message_that_was_cut_is_seen() -> None:
    data = binary(b'{"a":1}', EVENT)
    for cut in range(1, len(data)):
        assert read(EventStream, [data[:cut]]) == ([], None, True)
    assert read(EventStream, [data]) == ([(None, b'{"a":1}')], None, False)


def test_a_changed_bit_is_found_by_the_sums() -> None:
    first, second = binary(b"1", EVENT), binary(b'{"a":1}', EVENT)
    for at in range(len(second)):
        broken = second[:at] + bytes([second[at] ^ 1]) + second[at + 1 :]
        frames, fault, _ = read(EventStream, [first + broken + first])
        assert (frames, fault) == ([(None, b"1")], "unreadable_frame")


def test_a_binary_message_with_lying_lengths_or_headers_is_unreadable() -> None:
    for head in (b"\x05ab", header(b"a", b"xy", 7)[:-1], bytes([1]) + b"a" + bytes([77]), header(b"a", b"abc", 5)[:-1]):
        data = binary(b"{}", head)
        frames_of(EventStream, data)
        assert read(EventStream, [data])[1] == "unreadable_frame"
    prelude = struct.pack(">II", 20, 400)
    data = prelude + struct.pack(">I", zlib.crc32(prelude)) + b"12345678"
    assert read(EventStream, [data])[1] == "unreadable_frame"


def test_a_binary_message_over_the_bound_is_refused_by_its_prelude() -> None:
    data = binary(b"1", EVENT) + binary(b"x" * 200, EVENT)
    assert frames_of(EventStream, data, bound=100) == [(None, b"1")]
    assert read(EventStream, [data], 100)[1] == "oversize"


def test_a_bound_on_lines_counts_what_came_before_and_the_mark_of_the_encoding() -> None:
    for data, expected in (
        (b"123456\n12345678\n1\n", [(None, b"123456")]),
        (b"\xef\xbb\xbf123456\n1\n", []),
        (b"1\n2\n123456789", [(None, b"1"), (None, b"2")]),
    ):
        assert frames_of(JsonLines, data, bound=7) == expected
        assert read(JsonLines, [data], 7)[1] == "oversize"
