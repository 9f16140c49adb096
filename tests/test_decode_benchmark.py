"""What decoding is measured by: every dialect has a loop by hand that gives the same as its rules."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from ai_lib_trio.protocol.loader import Catalog

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.by_hand import BY_HAND
from benchmarks.decode import SHAPES, measure


def test_every_dialect_is_measured() -> None:
    streamed = set(Catalog.open().dialects()) - {"predictions"}  # whose replies are never a stream
    assert set(SHAPES) == set(BY_HAND) == streamed


@pytest.mark.parametrize("dialect", SHAPES)
def test_the_loop_by_hand_and_the_rules_give_the_same(dialect: str) -> None:
    found = measure(dialect, frames=13, rounds=1, catalog=Catalog.open())  # compares the events before it measures
    assert set(found) == {"bytes_per_frame", "frame", "alone", "rules", "closures"}
