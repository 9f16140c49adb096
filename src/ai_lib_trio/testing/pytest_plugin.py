"""The `quiescence` fixture, for pytest with pytest-trio: name it in a test that opens a client.

    pytest_plugins = ["ai_lib_trio.testing.pytest_plugin"]

Imports pytest, which no other module of ours needs; nothing registers it by itself, so it costs nobody else anything.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from .quiescence import Quiescence
from .quiescence import quiescence as quiescence_block

__all__ = ["quiescence"]


@pytest.fixture
async def quiescence() -> AsyncIterator[Quiescence]:
    """Everything that the test leaves behind is an error. `quiescence.check()` asks in between."""
    async with quiescence_block() as quiet:
        yield quiet
