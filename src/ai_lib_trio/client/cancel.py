"""Cancel tokens: end calls from another task or thread, with a reason. A thin front of cancel scopes.

Imports `errors`, `service` and trio.
"""

from __future__ import annotations

import trio

from ..errors import CancelledByToken
from ..service import Call, Outlet, Service

__all__ = ["CancelToken", "cancellable"]


class CancelToken:
    """Give it to calls with `.cancel_token(token)`; `cancel()` ends all of them, now and later ones.

    A cancelled call raises `CancelledByToken` (kind `cancel_token`) with the reason, and its connection is closed.
    """

    def __init__(self) -> None:
        self._scopes: dict[trio.CancelScope, trio.lowlevel.TrioToken] = {}
        self.reason: str | None = None
        self.is_cancelled = False

    def cancel(self, reason: str = "cancelled") -> None:
        """End the calls. May be called from any task or thread, and more than once: the first reason stays."""
        if self.is_cancelled:
            return
        self.reason = reason
        self.is_cancelled = True
        for scope, home in list(self._scopes.items()):
            try:
                home.run_sync_soon(scope.cancel, idempotent=True)
            except trio.RunFinishedError:  # that run is over, and the call with it
                continue

    def __repr__(self) -> str:
        return f"<CancelToken {'cancelled: ' + repr(self.reason) if self.is_cancelled else 'open'}>"


def cancellable(token: CancelToken, service: Service) -> Service:
    """The service, ended by the token."""

    async def run(call: Call, outlet: Outlet) -> None:
        scope = trio.CancelScope()
        token._scopes[scope] = trio.lowlevel.current_trio_token()
        try:
            # Registered first, looked at second: a cancel from a thread in between reaches one of the two.
            is_over = token.is_cancelled
            if is_over:  # then nothing is sent
                await trio.lowlevel.checkpoint()
            else:
                with scope:
                    await service(call, outlet)
        finally:
            del token._scopes[scope]
        if is_over or scope.cancelled_caught:
            raise CancelledByToken(f"cancelled: {token.reason}", kind="cancel_token")

    return run
