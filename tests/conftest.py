"""What every test has: the fixture that proves that nothing was left behind, and one reading of the bundled manifests."""

from __future__ import annotations

import os
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
def _one_reading() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(client_module, "Catalog", _OneReading())
        yield
