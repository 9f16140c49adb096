"""The fault table runs, and a sample of its rows is full. The whole of it: `python -m benchmarks.faults`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from engines import benchmark

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("transport", ["native", "hub", "httpx"])
@pytest.mark.parametrize("only", ["refused", "status 429", "clean early end", "every character", "a crashed actor"])
def test_a_row_of_the_fault_table_is_full(only: str, transport: str) -> None:
    engine = "native" if transport == "hub" else transport
    done = subprocess.run(
        [*benchmark("faults", transport), "--json", "--only", only, "--transport", engine],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    said = json.loads(done.stdout)
    assert said["full"] == len(said["rows"]) > 0


def test_the_table_has_at_least_twenty_five_faults() -> None:
    sys.path.insert(0, str(ROOT))
    try:
        from benchmarks.faults import faults
    finally:
        sys.path.remove(str(ROOT))
    names = [fault.name for fault in faults()]
    assert len(names) == len(set(names)) >= 25
