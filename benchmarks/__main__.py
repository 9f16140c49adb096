"""How far from the floor: our client beside hand-written ones and the peers that are installed, in one run.

    python -m benchmarks [--quick] [--json] [--only ROW] [--rounds N]

Each measurement is a process of its own (`benchmarks.client`) against a provider in another (`benchmarks.provider`), on
cores of their own where there are two. Rounds are interleaved: every client once, then all again, so that what else the
machine does falls on all of them alike. What counts is the ratio to httpx on trio written by hand, taken within each
round; the table shows the median of the ratios and their spread. `docs/performance.md` explains the rows.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
BASELINE = "httpx"


class Row(NamedTuple):
    """One load. `target` is the most that ours may cost beside the baseline, None where the number itself counts."""

    name: str
    load: str
    metric: str
    target: float | None
    streams: int = 1
    events: int = 1
    every: int = 20
    is_tls: bool = False
    is_quick: bool = True
    clients: tuple[str, ...] = ("httpx", "ours", "ours-httpx", "floor", "openai")


ROWS = [
    Row("bulk stream", "bulk", "us_per_event", 0.30, events=20_000),
    Row("bulk stream, TLS", "bulk", "us_per_event", 0.13, events=20_000, is_tls=True),
    Row("request", "request", "ms_per_request", 0.25, events=300),
    Row("paced, 100 x 50/s", "paced", "us_per_event", 0.33, streams=100, events=100),
    Row("paced, 1,000 x 50/s", "paced", "us_per_event", None, 1000, 100, is_quick=False, clients=("httpx", "ours")),
    Row("paced, 5,000 x 5/s", "paced", "us_per_event", None, 5000, 10, 200, is_quick=False, clients=("httpx", "ours")),
    Row("cancel 200 streams", "cancel", "closed_ms", None, streams=200),
    Row("leave 200 streams early", "abandon", "left_open", None, streams=200),
    Row("an idle stream", "idle", "kb_per_stream", None, streams=300),
]
UNITS = {
    "us_per_event": "us",
    "ms_per_request": "ms",
    "closed_ms": "ms",
    "left_open": "open",
    "kb_per_stream": "KB",
    "import_ms": "ms",
}


class Cell(NamedTuple):
    """One client's figures in a row, over the rounds."""

    client: str
    values: list[float]
    ratios: list[float]
    more: dict[str, float]


@contextlib.contextmanager
def provider(*, certificate: Path | None = None) -> Iterator[str]:
    """The provider's base URL while the block is open."""
    command = [sys.executable, "-m", "benchmarks.provider"]
    command += ["--tls", str(certificate)] if certificate is not None else []
    process = subprocess.Popen(_pinned(command, 1), cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        port = json.loads(process.stdout.readline())["port"]
        yield f"http{'' if certificate is None else 's'}://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def _pinned(command: list[str], core: int) -> list[str]:
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if len(cores) < 2 or shutil.which("taskset") is None:
        return command
    return ["taskset", "-c", str(cores[core]), *command]


def certificate_in(folder: Path) -> Path | None:
    """A certificate and its key for 127.0.0.1 in one file; None where openssl is missing."""
    if shutil.which("openssl") is None:
        return None
    command = (
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1"
    )
    both = folder / "both.pem"
    subprocess.run(
        [*command.split(), "-keyout", "key.pem", "-out", "cert.pem"], cwd=folder, check=True, capture_output=True
    )
    both.write_bytes((folder / "cert.pem").read_bytes() + (folder / "key.pem").read_bytes())
    return both


def measure(client: str, row: Row, base: str, certificate: Path | None) -> dict[str, float] | str:
    """One process's figures, or the last line of what went wrong."""
    command = [sys.executable, "-m", "benchmarks.client", client, row.load, "--base", base]
    command += ["--streams", str(row.streams), "--events", str(row.events), "--every", str(row.every)]
    command += ["--ca", str(certificate)] if row.is_tls else []
    try:
        done = subprocess.run(_pinned(command, 0), cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    except subprocess.TimeoutExpired:
        return "took over 120 s"
    if done.returncode:
        return (done.stderr.strip().splitlines() or ["nothing was said"])[-1]
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def import_ms(module: str) -> float:
    code = f"import time; t = time.process_time(); import {module}; print((time.process_time() - t) * 1e3)"
    return float(subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True).stdout)


def run_row(row: Row, clients: list[str], rounds: int, base: str, certificate: Path | None) -> list[Cell]:
    values: dict[str, list[float]] = {client: [] for client in clients}
    ratios: dict[str, list[float]] = {client: [] for client in clients}
    more: dict[str, dict[str, float]] = {}
    for _ in range(rounds):
        seen: dict[str, float] = {}
        for client in clients:
            told = measure(client, row, base, certificate)
            if isinstance(told, str):
                print(f"{row.name}: {client}: {told}", file=sys.stderr)
                continue
            seen[client] = told.pop(row.metric)
            more[client] = told
            values[client].append(seen[client])
        for client, value in seen.items():
            if seen.get(BASELINE):
                ratios[client].append(value / seen[BASELINE])
    return [Cell(client, values[client], ratios[client], more.get(client, {})) for client in clients if values[client]]


def machine() -> dict[str, Any]:
    versions = {}
    for name in ("ai-lib-trio", "trio", "httpx", "httpcore", "h11", "httptools", "msgspec", "openai"):
        with contextlib.suppress(PackageNotFoundError):
            versions[name] = version(name)
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    return {
        "python": platform.python_version(),
        "system": platform.system(),
        "processor": model,
        "cores": os.cpu_count(),
        "load": [round(one, 2) for one in os.getloadavg()],
        "versions": versions,
    }


def _shown(row: Row, cell: Cell) -> str:
    middle = statistics.median(cell.values)
    line = f"  {cell.client:<11} {middle:>9.2f} {UNITS[row.metric]:<4}"
    if cell.ratios and row.metric not in ("left_open",):
        line += f"  x {statistics.median(cell.ratios):.2f}  ({min(cell.ratios):.2f} to {max(cell.ratios):.2f})"
    extra = ", ".join(f"{name} {value:.2f}" for name, value in cell.more.items())
    return line + (f"   {extra}" if extra else "")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="under three minutes: fewer rounds, no thousands of streams"
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--only", help="rows whose name has this in it")
    parser.add_argument("--rounds", type=int)
    args = parser.parse_args()
    rounds = args.rounds or (2 if args.quick else 5)
    rows = [row for row in ROWS if (row.is_quick or not args.quick) and (not args.only or args.only in row.name)]
    has_openai = importlib.util.find_spec("openai") is not None
    report: dict[str, Any] = {"machine": machine(), "rounds": rounds, "rows": []}
    if not args.json:
        about = report["machine"]
        print(f"Python {about['python']}, {about['system']}, {about['processor']}, {about['cores']} cores", end="; ")
        print(", ".join(f"{name} {one}" for name, one in about["versions"].items()))
        print(f"client CPU, median of {rounds} rounds; x: beside {BASELINE} on trio by hand, (least to most)\n")
    with tempfile.TemporaryDirectory() as folder:
        certificate = certificate_in(Path(folder)) if any(row.is_tls for row in rows) else None
        with contextlib.ExitStack() as stack:
            plain = stack.enter_context(provider())
            secure = stack.enter_context(provider(certificate=certificate)) if certificate is not None else None
            for row in rows:
                if row.is_tls and secure is None:
                    print(f"{row.name}: no openssl to make a certificate with", file=sys.stderr)
                    continue
                clients = [client for client in row.clients if client != "openai" or has_openai]
                base = secure if row.is_tls and secure is not None else plain
                cells = run_row(row, clients, rounds, base, certificate)
                report["rows"].append(
                    {
                        "name": row.name,
                        "metric": row.metric,
                        "target": row.target,
                        "cells": [cell._asdict() for cell in cells],
                    }
                )
                if not args.json:
                    target = f"   (target x {row.target})" if row.target is not None else ""
                    print(row.name + target)
                    print(*(_shown(row, cell) for cell in cells), sep="\n", flush=True)
    if not args.only:
        modules = ["trio", "httpx", "ai_lib_trio", *(["openai"] if has_openai else [])]
        report["import_ms"] = {name: statistics.median(import_ms(name) for _ in range(rounds)) for name in modules}
        report["open_client_ms"] = statistics.median(
            import_ms("ai_lib_trio; ai_lib_trio.open_client, ai_lib_trio.Config") for _ in range(rounds)
        )
        if not args.json:
            print("import, CPU ms")
            print("  " + ", ".join(f"{name} {one:.0f}" for name, one in report["import_ms"].items()))
            print(f"  ai_lib_trio with what a client needs {report['open_client_ms']:.0f}")
    if args.json:
        print(json.dumps(report, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
