"""How long manifests take to load, from the built files of a wheel: `python -m benchmarks.manifests [ROUNDS]`.

Builds the wheel's files into a temporary folder and loads from there, each round in a process of its own (the first
load of a process pays for what later ones find made) and once more in the same process. Prints medians. The targets are
those of the design: all bundled manifests in 50 ms, one provider in 5 ms.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ROUND = """
import json, sys, time
from pathlib import Path
from ai_lib_trio.protocol import sources
from ai_lib_trio.protocol.loader import Catalog

bundled = sources.bundled_tree

def built():
    tree = bundled()
    tree.dist, tree.is_trusted = Path(sys.argv[1]), True
    return tree

sources.bundled_tree = built

def one():
    Catalog.open(environ={}).provider("openai")

def resolve():
    Catalog.open(environ={}).resolve("gpt-5")

def every():
    catalog = Catalog.open(environ={})
    for name in catalog.providers():
        catalog.provider(name)

def everything():
    catalog = Catalog.open(environ={})
    for name in catalog.providers():
        catalog.provider(name)
    for name in catalog.dialects():
        catalog.dialect(name)
    catalog.models()

work = {"one": one, "resolve": resolve, "every": every, "everything": everything}[sys.argv[2]]
times = []
for _ in range(2):
    start = time.perf_counter()
    work()
    times.append((time.perf_counter() - start) * 1000)
print(json.dumps(times))
"""
SAID = {
    "one": "one provider",
    "resolve": "a registered model's name",
    "every": "every provider",
    "everything": "every provider, dialect and model",
}


def main(rounds: int) -> None:
    sys.path.insert(0, str(ROOT / "src"))
    from ai_lib_trio.protocol.build import shipped, write_dist
    from ai_lib_trio.protocol.loader import Catalog

    with tempfile.TemporaryDirectory() as folder:
        write_dist(Path(folder), shipped(Catalog.open(environ={}).build()))
        for work, said in SAID.items():
            times = []
            for _ in range(rounds):
                command = [sys.executable, "-c", ROUND, folder, work]
                done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT / "src")
                times.append(json.loads(done.stdout))
            first, again = (statistics.median(column) for column in zip(*times, strict=True))
            print(f"{said:<36} {first:6.2f} ms in a fresh process, {again:6.2f} ms again (medians of {rounds})")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 11)
