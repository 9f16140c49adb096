"""`ailib conformance`: run cases of the specification's suite, and of providers. Imports click and the runner.

The rule that must stay true: exit 0 means that every case passed, but for contradictions that are listed and shown.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..errors import CallerError
from .options import JSON
from .screen import Printer, as_json, print_table

if TYPE_CHECKING:
    from ..conformance.run import Report, Row

__all__ = ["conformance"]


@click.command(short_help="Run cases of the specification's suite.")
@click.argument("folder", metavar="[DIR]", required=False, type=click.Path(readable=False, path_type=Path))
@click.option(
    "--tree",
    metavar="DIR",
    type=click.Path(readable=False, path_type=Path),
    help="Manifests and contracts that paths out of DIR mean; the bundled set without it.",
)
@JSON
def conformance(folder: Path | None, tree: Path | None, as_document: bool) -> None:
    """Run the cases in DIR: in the form of the specification's compliance suite, or a provider's request and reply.

    Every case runs through the code that calls use. Without DIR, the project's own cases. Exit 1 on any failure.
    """
    from ..conformance.run import own_suite, run_suite

    if folder is None:
        found = own_suite()
        if not isinstance(found, Path):
            raise CallerError("the project's own cases are not on this disk: name a folder", kind="bad_argument")
        folder = found
    report = run_suite(folder, tree=tree)
    if as_document:
        sys.stdout.write(as_json(_document(report)) + "\n")
    else:
        _show(report)
    if not report.results and not report.faults:
        raise CallerError(f"{folder}: there are no cases here", kind="bad_argument")
    if not report.is_good:
        unread = f", {len(report.faults)} files could not be read" if report.faults else ""
        told = f"{report.count('failed')} of {len(report.results)} cases failed{unread}"
        raise CallerError(told, kind="bad_argument")


def _document(report: Report) -> dict[str, object]:
    return {
        "cases": len(report.results),
        "passed": report.count("passed"),
        "contradictions": report.count("contradiction"),
        "failed": report.count("failed"),
        "faults": report.faults,
        "categories": [row._asdict() for row in report.rows()],
        "results": [result._asdict() for result in report.results],
    }


def _cells(row: Row) -> tuple[str, ...]:
    counts = (row.cases, row.passed, row.contradictions, row.failed)
    return (row.category, *map(str, counts), "; ".join(row.notes))


def _show(report: Report) -> None:
    print_table(
        ("category", "cases", "passed", "contradict themselves", "failed", "notes"),
        [_cells(row) for row in report.rows()],
        right=("cases", "passed", "contradict themselves", "failed"),
    )
    out = Printer(sys.stdout)
    for result in report.results:
        if result.status != "passed":
            bad = result.status == "failed"
            out.write("FAILED " if bad else "contradicts itself ", "bad" if bad else "note")
            out.write(f"{result.file}#{result.id} ({result.kind}): {result.name}\n")
            for line in result.differences:
                out.line(f"    {line}")
    for fault in report.faults:
        out.line(fault, "bad")
    failed = report.count("failed")
    listed = report.count("contradiction")
    more = f", {listed} known to contradict {'itself' if listed == 1 else 'themselves'}" if listed else ""
    out.line(f"{report.count('passed')} of {len(report.results)} passed{more}, {failed} failed")
