"""A command's async part, with Ctrl-C as a cancelled scope. Imports click, and trio on first use.

The rule that must stay true: after the first Ctrl-C everything the command opened is left in order, and a second one
goes through at once.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

import click

if TYPE_CHECKING:
    import trio

__all__ = ["INTERRUPTED", "interruptible", "run_async"]

INTERRUPTED = 130  # what shells expect of a program that Ctrl-C ended: 128 and the signal's number

T = TypeVar("T")


def run_async(main: Callable[[], Awaitable[T]]) -> T:
    """What `main` gives, run by trio. After a Ctrl-C the command ends with 130, once everything is closed."""
    import trio

    async def watched() -> T:
        with interruptible():
            return await main()
        raise _interrupted()

    return trio.run(watched)


def _interrupted() -> click.exceptions.Exit:
    if sys.stderr.isatty():
        sys.stderr.write("\n")  # after the ^C that the terminal shows
    return click.exceptions.Exit(INTERRUPTED)


@contextmanager
def interruptible() -> Iterator[trio.CancelScope]:
    """A scope that the next Ctrl-C cancels, and does nothing else. May be nested: the innermost one takes it."""
    import trio

    scope = trio.CancelScope()
    before = signal.getsignal(signal.SIGINT)
    if before in (signal.SIG_IGN, None):
        # Started by a shell that keeps Ctrl-C from its background jobs: that stays so.
        with scope:
            yield scope
        return
    token = trio.lowlevel.current_trio_token()

    def interrupt(signum: int, frame: object) -> None:
        signal.signal(signal.SIGINT, before)
        token.run_sync_soon(scope.cancel, idempotent=True)

    signal.signal(signal.SIGINT, interrupt)
    try:
        with scope:
            yield scope
    finally:
        signal.signal(signal.SIGINT, before)
