"""Keys on the wire: where they stand, that nothing overrides them, and that they are shown nowhere."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ai_lib_trio.errors import CallerError, CredentialError
from ai_lib_trio.protocol.manifest import Auth
from ai_lib_trio.wire.auth import Attached, attach, authorise, check_header, merge_headers

SECRET = "sk-very-secret-1234"


@pytest.mark.parametrize(
    ("auth", "headers", "query"),
    [
        (Auth(type="bearer", header="Authorization", prefix="Bearer"), [("authorization", f"Bearer {SECRET}")], []),
        (Auth(type="header", header="x-api-key"), [("x-api-key", SECRET)], []),
        (Auth(type="header", header="Authorization", prefix="Key"), [("authorization", f"Key {SECRET}")], []),
        (Auth(type="query", param_name="key"), [], [("key", SECRET)]),
        (Auth(type="none"), [], []),
    ],
)
def test_a_key_stands_where_the_manifest_says(
    auth: Auth, headers: list[tuple[str, str]], query: list[tuple[str, str]]
) -> None:
    added = attach(auth, SECRET)
    assert (added.headers, added.query) == (headers, query)


def test_a_key_is_trimmed_as_it_is_often_pasted_with_a_line_end() -> None:
    assert attach(Auth(type="header", header="x-api-key"), f" {SECRET}\n").headers == [("x-api-key", SECRET)]


@pytest.mark.parametrize("secret", [None, "", "  \n"])
def test_no_key_is_an_error_that_names_where_it_was_looked_for(secret: str | None) -> None:
    with pytest.raises(CredentialError, match="ACME_API_KEY") as caught:
        attach(Auth(type="bearer", header="Authorization", token_env="ACME_API_KEY"), secret)
    assert caught.value.kind == "no_credential"
    assert caught.value.code == "E1002"


@pytest.mark.parametrize(
    "auth", [Auth(type="bearer", header="Authorization"), Auth(type="query", param_name="key")], ids=["bearer", "query"]
)
@pytest.mark.parametrize("tail", ["\r\nx: y", "\x00", "é", "…", "\udcff"])
def test_a_key_that_no_request_can_carry_is_refused_without_being_shown(tail: str, auth: Auth) -> None:
    with pytest.raises(CredentialError) as caught:
        attach(auth, SECRET + tail)
    assert SECRET not in str(caught.value)
    assert SECRET not in repr(caught.value)


def test_the_key_is_in_no_repr() -> None:
    added = attach(Auth(type="bearer", header="Authorization", prefix="Bearer"), SECRET)
    signed = authorise([("a", "b")], [("q", "r")], attach(Auth(type="query", param_name="key"), SECRET))
    for shown in (repr(added), str(added), f"{added}", repr(signed)):
        assert SECRET not in shown
    assert "authorization" in repr(added)


@pytest.mark.parametrize("name", ["Authorization", "AUTHORIZATION", "authorization"])
def test_a_callers_header_cannot_stand_in_for_the_key(name: str) -> None:
    added = attach(Auth(type="bearer", header="Authorization", prefix="Bearer"), SECRET)
    signed = authorise([(name, "Bearer other"), ("x-a", "1")], [], added)
    assert signed.headers == [("x-a", "1"), ("authorization", f"Bearer {SECRET}")]


def test_a_callers_query_parameter_cannot_stand_in_for_the_key() -> None:
    added = attach(Auth(type="query", param_name="key"), SECRET)
    signed = authorise([], [("KEY", "other"), ("alt", "sse")], added)
    assert signed.query == [("alt", "sse"), ("key", SECRET)]


def test_a_manifests_extra_headers_go_along_and_the_caller_may_replace_them() -> None:
    auth = Auth(type="header", header="x-api-key", extra_headers={"X-Version": "1", "X-App": "a"})
    signed = authorise([("x-version", "2")], [], attach(auth, SECRET))
    assert signed.headers == [("x-app", "a"), ("x-version", "2"), ("x-api-key", SECRET)]


def test_an_extra_header_never_replaces_the_key() -> None:
    auth = Auth(type="header", header="x-api-key", extra_headers={"X-API-Key": "none"})
    assert authorise([], [], attach(auth, SECRET)).headers == [("x-api-key", SECRET)]


def test_merging_keeps_one_header_of_a_name() -> None:
    assert merge_headers([("A", "1"), ("b", "2")], [("a", "3")]) == [("b", "2"), ("a", "3")]


@pytest.mark.parametrize("name", ["", "a b", "a:", "é", "a\r\n"])
def test_a_header_name_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(CallerError, match="header name"):
        check_header(name, "x")


@pytest.mark.parametrize("value", ["a\r\nb: c", "a\nb", "a\x00", "日本"])
def test_a_header_value_that_would_break_the_wire_is_refused_unseen(value: str) -> None:
    with pytest.raises(CallerError, match="x-a") as caught:
        check_header("x-a", value)
    assert value not in str(caught.value)


def test_a_tab_and_latin_letters_may_stand_in_a_header() -> None:
    check_header("x-a", "a\té")


@settings(max_examples=100)
@given(
    st.lists(st.tuples(st.sampled_from(["x-api-key", "X-Api-Key", "a", "B"]), st.text("ab", max_size=3)), max_size=5),
    st.lists(st.tuples(st.sampled_from(["key", "Key", "q"]), st.text("ab", max_size=3)), max_size=5),
)
def test_exactly_one_header_carries_the_key_whatever_the_caller_gives(
    headers: list[tuple[str, str]], query: list[tuple[str, str]]
) -> None:
    signed = authorise(headers, query, attach(Auth(type="header", header="x-api-key"), SECRET))
    assert [value for name, value in signed.headers if name.lower() == "x-api-key"] == [SECRET]
    assert isinstance(signed, Attached)
