"""On which event loops the tests of a module run: `LOOPS = ("asyncio", "uvloop")` in the module, else asyncio alone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import pytest
import uvloop

_FACTORIES: Mapping[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The hook of pytest-asyncio."""
    module = getattr(item, "module", None)
    return {name: _FACTORIES[name] for name in getattr(module, "LOOPS", ("asyncio",))}
