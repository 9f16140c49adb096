"""Ninety-six megabytes on real sockets into a consumer that sleeps: the provider stands still, memory does not grow."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from engines import benchmark

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from /proc")
@pytest.mark.parametrize("engine", ["native", "hub", "httpx"])
def test_a_consumer_that_sleeps_holds_ninety_six_megabytes_at_the_provider(engine: str) -> None:
    done = subprocess.run(
        [*benchmark("slow_reader", engine), "--json", "--engine", "native" if engine == "hub" else engine],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (row,) = json.loads(done.stdout)
    assert row["is_whole"]
    assert row["scripted"] > 95_000_000
    assert row["grown"] < 2_000_000
    assert row["sent"] < 24_000_000  # two sockets' buffers at most; without backpressure all of it would have come
