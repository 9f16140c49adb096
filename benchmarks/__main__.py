"""How far from the floor: our client beside hand-written ones and the peers that are installed, in one run.

    python -m benchmarks [--quick] [--json] [--only ROW] [--rounds N]

Each measurement is a process of its own (`benchmarks.client`) against a provider in another (`benchmarks.provider`), on
cores of their own where there are two. Rounds are interleaved: every client once, then all again, so that what else the
machine does falls on all of them alike. What counts is the ratio to httpx on trio written by hand, taken within each
round; the table shows the median of the ratios and their spread. Decoding without a network (`benchmarks.decode`),
imports and installations (`benchmarks.footprint`) follow. `--quick` takes under three minutes on a machine with nothing
else to do: two rounds of shorter streams, one round of peers, nothing is installed. `docs/performance.md` explains the
rows.
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

from .footprint import compiled_env, imports, installs

ROOT = Path(__file__).resolve().parents[1]
BASELINE = "httpx"


ALL = ("httpx", "ours", "ours-httpx", "floor", "openai", "litellm")
OWN = ("httpx", "ours", "floor")
PEERS = ("openai", "litellm")  # measured where they are installed


class Row(NamedTuple):
    """One load. `target` is the most that ours may cost beside the baseline, None where the number itself counts.

    `quick_events` is what `--quick` takes instead of `events`; None leaves the row out of it.
    """

    name: str
    load: str
    metric: str
    target: float | None
    streams: int = 1
    events: int = 1
    every: int = 20
    is_tls: bool = False
    quick_events: int | None = 1
    clients: tuple[str, ...] = ALL


ROWS = [
    Row("bulk stream", "bulk", "us_per_event", 0.30, events=20_000, quick_events=3_000),
    Row("bulk stream, TLS", "bulk", "us_per_event", 0.13, events=20_000, is_tls=True, quick_events=3_000),
    Row("bulk stream of 1,000", "bulk", "us_per_event", None, events=1_000, quick_events=None, clients=OWN),
    Row("bulk stream of 100,000", "bulk", "us_per_event", None, events=100_000, quick_events=None, clients=OWN),
    Row("request", "request", "ms_per_request", 0.25, events=300, quick_events=100),
    Row("paced, 100 x 50/s", "paced", "us_per_event", 0.33, streams=100, events=100, quick_events=50),
    Row("paced, 1,000 x 50/s", "paced", "us_per_event", None, 1000, 100, quick_events=None, clients=OWN),
    Row("paced, 5,000 x 5/s", "paced", "us_per_event", None, 5000, 10, 200, quick_events=None, clients=OWN),
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
}
DECODED = {"frame": "whole way", "alone": "a frame a read", "rules": "frames cut", "closures": "reference backend"}


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


def measure(
    client: str, row: Row, base: str, certificate: Path | None, env: dict[str, str] | None = None
) -> dict[str, float] | str:
    """One process's figures, or the last line of what went wrong."""
    command = [sys.executable, "-m", "benchmarks.client", client, row.load, "--base", base]
    command += ["--streams", str(row.streams), "--events", str(row.events), "--every", str(row.every)]
    command += ["--ca", str(certificate)] if row.is_tls else []
    try:
        done = subprocess.run(
            _pinned(command, 0), cwd=ROOT, env=env, capture_output=True, text=True, timeout=120, check=False
        )
    except subprocess.TimeoutExpired:
        return "took over 120 s"
    if done.returncode:
        return (done.stderr.strip().splitlines() or ["nothing was said"])[-1]
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def run_row(
    row: Row, clients: list[str], rounds: int, base: str, certificate: Path | None, env: dict[str, str], *, quick: bool
) -> list[Cell]:
    values: dict[str, list[float]] = {client: [] for client in clients}
    ratios: dict[str, list[float]] = {client: [] for client in clients}
    more: dict[str, dict[str, float]] = {}
    for number in range(rounds):
        seen: dict[str, float] = {}
        for client in clients:
            if quick and number and client in PEERS:
                continue
            told = measure(client, row, base, certificate, env)
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


def decoded(env: dict[str, str], *, quick: bool) -> dict[str, Any]:
    """What `benchmarks.decode` prints."""
    command = [sys.executable, "-m", "benchmarks.decode", "--rounds", "7" if quick else "30"]
    command += ["--frames", "1000"] if quick else []
    done = subprocess.run(_pinned(command, 0), cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout))


def machine() -> dict[str, Any]:
    versions = {}
    for name in ("ai-lib-trio", "trio", "httpx", "httpcore", "h11", "httptools", "msgspec", *PEERS):
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


def _print_decoded(report: dict[str, Any]) -> None:
    print("decode, bytes to typed events, no network; us a frame by hand and by the rules   (target x 2.0)")
    for name, kinds in report["dialects"].items():
        told = [
            f"{said} {kinds[kind]['by_hand_us']:.2f} {kinds[kind]['us']:.2f} x {kinds[kind]['ratio']:.2f}"
            for kind, said in DECODED.items()
        ]
        print(f"  {name:<17} " + "; ".join(told))
    slowest = max(report["dialects"], key=lambda name: report["dialects"][name]["frame"]["ratio"])
    longest = max(report["dialects"], key=lambda name: report["dialects"][name]["frame"]["us"])
    print(f"  farthest from the loop by hand: {slowest}; longest: {longest}")
    print("us an event as a reply grows, decoded and folded")
    for kind, sizes in report["growth"].items():
        print(f"  {kind:<17} " + ", ".join(f"{int(events):,} events {us:.2f}" for events, us in sizes.items()))


def _print_footprint(report: dict[str, Any]) -> None:
    print("import, CPU ms and peak MB   (target 115 ms, 31 MB)")
    for name, rounds in report["imports"].items():
        took = [one["ms"] for one in rounds]
        peak = statistics.median(one["peak_mb"] for one in rounds)
        print(f"  {name:<11} {statistics.median(took):6.0f} ms ({min(took):.0f} to {max(took):.0f})  {peak:.1f} MB")
    for what, told in report.get("installs", {}).items():
        if "failed" in told:
            print(f"install, {what}: {told['failed']}")
            continue
        parts = ", ".join(f"{name} {size}" for name, size in told["largest"].items())
        print(
            f"install, {what}: {told['mb']:.1f} MB ({parts}); pydantic {'in' if told['has_pydantic'] else 'not in'} it"
        )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="under three minutes: fewer rounds, no thousands of streams"
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--only", help="rows whose name has this in it; `decode` and `import` are names too")
    parser.add_argument("--rounds", type=int)
    args = parser.parse_args()
    rounds = args.rounds or (2 if args.quick else 5)
    rows = [row for row in ROWS if not args.only or args.only in row.name]
    if args.quick:
        rows = [row._replace(events=row.quick_events) for row in rows if row.quick_events is not None]
    report: dict[str, Any] = {"machine": machine(), "rounds": rounds, "rows": []}

    def say(*texts: Any) -> None:
        if not args.json:
            print(*texts, flush=True)

    about = report["machine"]
    said = ", ".join(f"{name} {one}" for name, one in about["versions"].items())
    say(
        f"Python {about['python']}, {about['system']}, {about['processor']}, {about['cores']} cores, load",
        *about["load"],
    )
    say(f"{said}\nclient CPU, median of {rounds} rounds; x: beside {BASELINE} on trio by hand, (least to most)\n")
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        env = compiled_env(Path(folder))
        certificate = certificate_in(Path(folder)) if any(row.is_tls for row in rows) else None
        plain = stack.enter_context(provider()) if rows else ""
        secure = stack.enter_context(provider(certificate=certificate)) if certificate is not None else None
        if not args.only or args.only in "import":
            report["imports"] = imports(rounds, env, lambda command: _pinned(command, 0))
            if not args.quick:
                report["installs"] = installs()
        for row in rows:
            if row.is_tls and secure is None:
                print(f"{row.name}: no openssl to make a certificate with", file=sys.stderr)
                continue
            clients = [one for one in row.clients if one not in PEERS or importlib.util.find_spec(one)]
            base = secure if row.is_tls and secure is not None else plain
            cells = run_row(row, clients, rounds, base, certificate, env, quick=args.quick)
            told = {"name": row.name, "metric": row.metric, "target": row.target}
            report["rows"].append({**told, "cells": [cell._asdict() for cell in cells]})
            say(row.name + (f"   (target x {row.target})" if row.target is not None else ""))
            say("\n".join(_shown(row, cell) for cell in cells))
        if not args.only or args.only in "decode":
            report["decode"] = decoded(env, quick=args.quick)
    if args.json:
        print(json.dumps(report, indent=2))
        return 0
    if "decode" in report:
        _print_decoded(report["decode"])
    if "imports" in report:
        _print_footprint(report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
