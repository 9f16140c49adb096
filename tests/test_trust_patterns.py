"""Patterns that manifests bring cannot hang whoever runs them."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ai_lib_trio.errors import ManifestError
from ai_lib_trio.protocol.patterns import compile_pattern
from ai_lib_trio.protocol.where import Where

AT = Where("m.yaml")


@pytest.mark.parametrize(
    "text",
    [
        r"retry after (\d+) seconds",
        r"in (\d+)\s*ms",
        r"try again in ([\d.]+)s",
        r"(?i)wait\s+(\d{1,6})\s*(?:s|sec|seconds)?",
        r"^(\d+)$",
        r"a*b*c*(\d)",
    ],
)
def test_usual_patterns_are_let_through(text: str) -> None:
    assert compile_pattern(text, AT, groups=1).pattern == text


@pytest.mark.parametrize(
    ("text", "part"),
    [
        (r"(a+)+$", "inside another"),
        (r"((a|b)*)*", "inside another"),
        (r"(\d+\s*)+x", "inside another"),
        (r"(?:x{0,100}){0,100}y", "inside another"),
        (r"\d+\d+x", "side by side"),
        (r".*.*=", "side by side"),
        (r"\d*(?:\d*)x", "side by side"),
        (r"\w+\s?\d+", "side by side"),
        (r"(?:a+|b)a*c", "side by side"),
        (r"(\d)\1", "back-references"),
        (r"(?P<n>x)(?P=n)", "back-references"),
        (r"(\d", "regular expression"),
        (r"*", "regular expression"),
        ("a" * 201, "at most 200"),
    ],
)
def test_patterns_that_can_take_long_are_refused(text: str, part: str) -> None:
    with pytest.raises(ManifestError, match=part):
        compile_pattern(text, AT)


def test_the_number_of_groups_is_asked_for() -> None:
    with pytest.raises(ManifestError, match=r"expected 1 group\(s\) in the pattern, got 2"):
        compile_pattern(r"(a)(b)", AT, groups=1)


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet=r"ab1\d\s.+*?()[]|^${2}", max_size=14))
def test_what_is_let_through_runs_quickly_on_a_long_text(text: str) -> None:
    try:
        pattern = compile_pattern(text, AT)
    except ManifestError:
        return
    assert isinstance(pattern, re.Pattern)
    for sample in ("a" * 2048, "ab" * 1024, "1" * 2047 + "!", " a1" * 682):
        begun = time.perf_counter()
        pattern.search(sample)
        assert time.perf_counter() - begun < 2
