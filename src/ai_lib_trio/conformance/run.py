"""Runs a suite: every case through its kind, every field of `expected` compared, contradictions accounted for.

Imports `errors`, `protocol`, `compare`, `kinds`, `suite`. The rules that must stay true: a kind nobody knows, a field
that nothing compares, an input that nothing reads and a listed case that would pass are failures.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, NamedTuple

from ..errors import AiLibError, ManifestError
from ..protocol.yaml_source import read_yaml
from .compare import Check, Difference, same
from .kinds import KINDS
from .suite import LIST, Bench, Case, Malformed, read_suite

__all__ = ["Known", "Report", "Result", "own_suite", "read_known", "run_suite"]

# What comes of a case that has a text where its kind has a mapping, or lacks what its kind needs.
MISWRITTEN = (AttributeError, KeyError, TypeError, ValueError)
Status = Literal["passed", "failed", "contradiction"]


class Result(NamedTuple):
    """What came of one case. `note` says what a pass of its kind does not show."""

    file: str
    id: str
    name: str
    suite: str
    kind: str
    status: Status
    differences: tuple[str, ...] = ()
    note: str = ""


class Row(NamedTuple):
    """One category of a report."""

    category: str
    cases: int
    passed: int
    contradictions: int
    failed: int
    notes: tuple[str, ...]


class Report(NamedTuple):
    """A whole run. `faults` are about the list of contradictions, not about one case."""

    results: tuple[Result, ...]
    faults: tuple[str, ...] = ()

    @property
    def is_good(self) -> bool:
        return bool(self.results) and not self.faults and not self.count("failed")

    def count(self, status: Status) -> int:
        return sum(result.status == status for result in self.results)

    def rows(self) -> list[Row]:
        """The categories, in the order of the suite."""
        rows = []
        for category in dict.fromkeys(result.suite for result in self.results):
            own = [result for result in self.results if result.suite == category]
            notes: dict[str, int] = {}
            for result in own:
                if result.note:
                    notes[result.note] = notes.get(result.note, 0) + 1
            rows.append(
                Row(
                    category,
                    len(own),
                    sum(result.status == "passed" for result in own),
                    sum(result.status == "contradiction" for result in own),
                    sum(result.status == "failed" for result in own),
                    tuple(f"{count} {note}" for note, count in notes.items()),
                )
            )
        return rows


class Known(NamedTuple):
    """A case that contradicts its own fixture: the fields in which it cannot be met, and why."""

    file: str
    id: str
    differs: tuple[str, ...]
    why: str


def own_suite() -> Any:
    """The project's own cases: inside the package in a wheel, beside `src` in a checkout; None where they are not."""
    from importlib.resources import files

    package: Any = files(__package__.partition(".")[0])
    for folder in (package.joinpath("_conformance"), package.parent.parent.joinpath("conformance")):
        if folder.joinpath(LIST).is_file():
            return folder
    return None


def read_known(file: Any) -> list[Known]:
    """The list in a file. Raises `ManifestError`."""
    document = read_yaml(file.read_bytes(), str(file))
    found = []
    for number, entry in enumerate(document.data or ()):
        at = document.where.at(number)
        if not isinstance(entry, dict) or set(entry) != {"file", "id", "differs", "why"} or not entry["differs"]:
            raise at.error("expected a mapping with file, id, differs (fields that are not met) and why")
        found.append(Known(entry["file"], entry["id"], tuple(entry["differs"]), entry["why"]))
    return found


def run_suite(folder: Path, *, tree: Path | None = None, known: Iterable[Known] | None = None) -> Report:
    """Run every case of a suite's folder.

    `tree` is what paths out of the folder mean (the bundled set without one). `known` are the contradictions: those
    beside the cases, else those of the project. Raises `ManifestError` for a folder or tree that is not there.
    """
    if not folder.is_dir():
        raise ManifestError("expected a folder of cases", file=str(folder))
    if known is None:
        home = folder if (folder / LIST).is_file() else own_suite()
        known = read_known(home.joinpath(LIST)) if home is not None else []
    listed = {f"{one.file}#{one.id}": one for one in known}
    bench = Bench(folder, tree)
    results = []
    for case in read_suite(folder):
        if isinstance(case, Malformed):
            results.append(Result(case.file, case.id, "", "malformed", "", "failed", (case.why,)))
        else:
            results.append(run_case(case, bench, listed.pop(case.key, None)))
    stale = [one for one in listed.values() if (folder / one.file).is_file()]
    faults = [f"{one.file}#{one.id} is listed as a contradiction, and there is no such case" for one in stale]
    return Report(tuple(results), tuple(faults))


def run_case(case: Case, bench: Bench, known: Known | None = None) -> Result:
    """What comes of one case."""
    kind = KINDS.get(case.kind)

    def result(status: Status, *why: str) -> Result:
        note = kind.note if kind is not None else ""
        return Result(case.file, case.id, case.name, case.suite, case.kind, status, why, note)

    if kind is None:
        return result("failed", f"the kind {case.kind!r} is not known")
    unread = sorted(case.input.keys() - kind.reads)
    if unread:
        return result("failed", *(f"input.{name}: nothing reads it" for name in unread))
    try:
        outcome = kind.run(case, bench)
    except AiLibError as error:
        return result("failed", f"it could not be run: {error}")
    except MISWRITTEN as error:
        return result("failed", f"it is not written as its kind is: {type(error).__name__}: {error}")
    found = differences(case.expected, outcome)
    said = tuple(str(one) for one in found)
    if known is None:
        return result("failed" if found else "passed", *said)
    if not found:
        return result("failed", "it is listed as a contradiction, and passes")
    paths = {one.path for one in found}
    if paths != set(known.differs):
        other = ", ".join(sorted(paths ^ set(known.differs)))
        return result("failed", f"it is listed with other differences: {other}", *said)
    return result("contradiction", known.why, *said)


def differences(expected: dict[str, Any], outcome: dict[str, Any]) -> list[Difference]:
    """Every difference of a case's `expected` from what came out."""
    found: list[Difference] = []
    for name, wanted in expected.items():
        if name not in outcome:
            found.append(Difference(name, wanted, "nothing that compares it"))
            continue
        got = outcome[name]
        try:
            found += got.differs(wanted, name) if isinstance(got, Check) else same(wanted, got, name)
        except MISWRITTEN:
            found.append(Difference(name, wanted, "what it cannot be compared with"))
    # What came out although a case cannot expect it, such as a difference between two cuts of the bytes.
    found += [Difference(name, None, got) for name, got in outcome.items() if name.startswith("!") and got]
    return found
