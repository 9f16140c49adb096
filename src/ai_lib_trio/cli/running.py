"""A command's async part, with Ctrl-C as a cancelled scope. Imports trio on first use.

The rule that must stay true: after the first Ctrl-C everything the command opened is left in order, and a second one
goes through at once.
"""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import trio

__all__ = ["interruptible", "run_async"]

T = TypeVar("T")


def run_async(main: Callable[[], Awaitable[T]]) -> T:
    """What `main` gives, run by trio. Raises KeyboardInterrupt after a Ctrl-C, once everything is closed."""
    import trio

    async def watched() -> T:
        with interruptible():
            return await main()
        raise KeyboardInterrupt

    return trio.run(watched)


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
