"""What it takes to be there: CPU and memory of an import, and the size of an installation.

    python -m benchmarks.footprint [--rounds N] [--install]

Imports run in processes of their own, with compiled modules in a folder made for this run, so that neither the first
one's compiling nor a machine that keeps no compiled modules counts. `--install` installs the project with pip into
empty folders, without and with the command line's libraries, and says what is in them.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
IMPORTS = {
    "floor": "import trio, httptools, msgspec",
    "httpx": "import httpx, trio, msgspec",
    "ours": "import ai_lib_trio; ai_lib_trio.open_client, ai_lib_trio.Config",  # names are resolved on first use
    "openai": "import openai",
    "litellm": "import os; os.environ['LITELLM_LOCAL_MODEL_COST_MAP'] = 'True'; import litellm",
}
MEASURED = """
import json, sys, time
began = time.process_time()
{}
used = time.process_time() - began
peak = 0
if sys.platform == "linux":
    peak = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps({{"ms": used * 1e3, "peak_mb": peak * 1024 / 1e6, "modules": len(sys.modules)}}))
"""


def compiled_env(folder: Path) -> dict[str, str]:
    """An environment whose processes keep compiled modules in a folder, whatever the machine's own says."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, "PYTHONPYCACHEPREFIX": str(folder)}


def imports(rounds: int, env: dict[str, str], pinned: Any = list) -> dict[str, list[dict[str, float]]]:
    """For each import that can be made here, what each round took; rounds are interleaved."""
    there = [name for name in IMPORTS if name not in ("openai", "litellm") or importlib.util.find_spec(name)]
    found: dict[str, list[dict[str, float]]] = {name: [] for name in there}
    for number in range(rounds + 1):  # the first compiles
        for name in there:
            command = pinned([sys.executable, "-c", MEASURED.format(IMPORTS[name])])
            done = subprocess.run(command, cwd=ROOT / "src", env=env, capture_output=True, text=True, check=True)
            if number:
                found[name].append(json.loads(done.stdout.splitlines()[-1]))
    return found


def _size_mb(path: Path) -> float:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files) / 1e6


def install(what: str) -> dict[str, Any]:
    """The size of an installation into an empty folder, in MB without compiled modules, and its largest parts."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "install", "-q", "--no-compile", "--target", folder, what]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode:
            return {"failed": (done.stderr.strip().splitlines() or ["pip said nothing"])[-1]}
        parts = {part.name: _size_mb(part) for part in Path(folder).iterdir() if not part.name.endswith(".dist-info")}
        largest = sorted(parts.items(), key=lambda pair: -pair[1])[:8]
        return {
            "mb": _size_mb(Path(folder)),
            "largest": {name: round(size, 2) for name, size in largest},
            "has_pydantic": any(name.startswith("pydantic") for name in parts),
        }


def installs() -> dict[str, dict[str, Any]]:
    return {"core": install("."), "with the command line": install(".[cli]")}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--install", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report: dict[str, Any] = {"imports": imports(args.rounds, compiled_env(Path(folder)))}
    if args.install:
        report["installs"] = installs()
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
