"""docs/language.md names every operator, fact, field and key of the language, and none that is not there."""

from __future__ import annotations

import re
from pathlib import Path

from ai_lib_trio.pipeline import event_map, facts, pipeline
from ai_lib_trio.wire import encode, lens, template

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "language.md").read_text("utf-8")
WORDS = set(re.findall(r"[A-Za-z_]+", PAGE))


def test_every_operator_is_there_and_no_other() -> None:
    known = {*template._OPERATORS, *event_map._OPERATORS, "$entries"}
    assert set(re.findall(r"\{(\$[a-z_]+):", PAGE)) == known


def test_every_fact_and_field_is_there() -> None:
    for fact, fields in facts.FACTS.items():
        row = next(line for line in PAGE.splitlines() if line.startswith("| ") and f"`{fact}`" in line.split("|")[1])
        for field in fields:
            assert f"`{field}`" in row, (fact, field)


def test_every_key_of_the_sections_and_every_field_of_a_request_is_there() -> None:
    for key in (*encode._KEYS, *pipeline._KEYS, *event_map._RULE_KEYS):
        assert key == "doc" or key in WORDS, key
    for shape, fields in lens.FIELDS.items():
        for field in fields:
            assert f"`{field}`" in PAGE, (shape, field)
