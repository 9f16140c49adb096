"""Patterns that manifests bring cannot hang whoever runs them."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ai_lib_trio.errors import MAX_RAW_BYTES, ManifestError
from ai_lib_trio.protocol.manifest import ErrorRules, RateLimits
from ai_lib_trio.protocol.patterns import compile_pattern
from ai_lib_trio.protocol.where import Where
from ai_lib_trio.wire.classify import retry_after

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
        r"(\d{1,20}(?:\.\d{1,20})?)\s?s",
        r"(?:\d+\.){1,3}(\d+)",
        r"[a-z_]+: (\d+)",
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
        (r".*a.*a.*b", "side by side"),
        (r"\w+a\w+b", "side by side"),
        (r"(?:a+){1,9}b", "side by side"),
        (r"(?:a+b?){2}c", "side by side"),
        (r"a+(?=a+b)", "side by side"),
        (r"(?i)a+A+b", "side by side"),
        (r"(?i:[^a]+Ā+)", "side by side"),
        ("\\d+[٠-٩]+x", "side by side"),
        ("a?" * 50 + "a" * 50, "side by side"),
        ("a{0,63}" * 4 + "b", "side by side"),
        (r"(?:a{0,9}){0,9}b", "side by side"),
        (r"[ab]*[ab]{0,9}c", "side by side"),
        (r".*[^a]?a{1,40}b", "side by side"),
        (r"a*(?:a|aa)b", "side by side"),
        ("(?:a|ab|abc)" * 8 + "d", "32 ways"),
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


def test_of_a_body_a_pattern_sees_no_more_than_it_can_search_at_once() -> None:
    # It may begin at each of these digits and goes to their end: 64 KiB took 8 s and more.
    body = b"1" * MAX_RAW_BYTES + b" seconds"
    rules = ErrorRules(retry_after_pattern=compile_pattern(r"(\d+) seconds", AT).pattern)
    begun = time.process_time()
    assert retry_after({}, body, RateLimits(), rules, 0.0) is None
    assert time.process_time() - begun < 2
    assert retry_after({}, b"x" * 4_000 + b" 7 seconds" + body, RateLimits(), rules, 0.0) == 7
