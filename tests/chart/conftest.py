"""The chart's tests need helm and kubeconform: built once, outside of the tests' time."""

from __future__ import annotations

from pathlib import Path

import pytest

from chart import tools

HERE = Path(__file__).resolve().parent


def pytest_collection_finish(session: pytest.Session) -> None:
    # Here and not in a fixture: a first build takes longer than a test may.
    if any(item.path.is_relative_to(HERE) for item in session.items) and not session.config.option.collectonly:
        tools.helm()
        tools.kubeconform()
