"""What every test has: the proof that nothing was left behind, one reading of the bundled manifests, and Ctrl-C."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from ai_lib_trio.client import client as client_module
from ai_lib_trio.protocol.loader import Catalog

pytest_plugins = ["ai_lib_trio.testing.pytest_plugin"]


class _OneReading:
    """`Catalog.open`, with the bundled set read once for the whole session: reading it takes longer than most tests.

    A catalogue is safe to share, and whoever names a path or AI_PROTOCOL_DIR gets one of their own.
    """

    def __init__(self) -> None:
        self._bundled = Catalog.open(None, environ={})

    def open(self, manifests: Any = None, environ: Mapping[str, str] | None = None) -> Catalog:
        variables = os.environ if environ is None else environ
        if manifests is None and not any(name.startswith("AI_PROTOCOL_") for name in variables):
            return self._bundled
        return Catalog.open(manifests, environ)


@pytest.fixture(scope="session", autouse=True)
def _ctrl_c_is_heard() -> Iterator[None]:
    """A shell without job control starts what it puts into the background with SIGINT ignored, children included.

    Then nothing here could be interrupted, and the tests that interrupt would wait for their bounds.
    """
    inherited = signal.getsignal(signal.SIGINT)
    if inherited is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, inherited)


@pytest.fixture(scope="session", autouse=True)
def _one_reading() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(client_module, "Catalog", _OneReading())
        yield
