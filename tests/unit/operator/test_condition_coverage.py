"""Every row of the table of conditions is shown by a real API server with the real operator.

The rows are read from the tests below tests/cluster/api: what they wait for by `wait_for(…, type, status, reason)`.
That each reason has a situation among the unit tests is checked in test_status.py.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from mcp_operator.reasons import REASONS, TYPES

TESTS = Path(__file__).resolve().parents[2] / "cluster" / "api"

Row = tuple[str, str, str]
"""Type, status, reason."""

ROWS: set[Row] = {(row.type, row.status, row.reason) for row in REASONS.values()}

BY_PARAMETER = {
    "ImagePullFailed": "test_refusals.py::test_pod_that_does_not_start",
    "ImageUserNotAllowed": "test_refusals.py::test_pod_that_does_not_start",
    "CommandNotFound": "test_refusals.py::test_pod_that_does_not_start",
    "ServerCrashing": "test_refusals.py::test_pod_that_does_not_start",
    "SidecarCrashing": "test_refusals.py::test_pod_that_does_not_start",
    "Unschedulable": "test_refusals.py::test_pod_that_does_not_start",
    "ContainerRefused": "test_conditions.py::test_pod_that_does_not_start",
    "PortInUse": "test_conditions.py::test_pod_that_does_not_start",
}
"""Reasons of `Ready=False` that a test takes as a parameter → that test."""


def waited_for(tree: ast.AST) -> Iterator[Row]:
    """The rows that the calls of `wait_for` in a module name, as arguments one after the other or as tuples."""
    for call in ast.walk(tree):
        if not isinstance(call, ast.Call):
            continue
        function = call.func
        name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
        if name != "wait_for":
            continue
        groups = [call.args, *(one.elts for one in call.args if isinstance(one, ast.Tuple))]
        for group in groups:
            words = [one.value for one in group if isinstance(one, ast.Constant) and isinstance(one.value, str)]
            if len(words) >= 3 and words[-3] in TYPES:
                yield words[-3], words[-2], words[-1]


def shown() -> set[Row]:
    found: set[Row] = set()
    for module in TESTS.glob("test_*.py"):
        found.update(waited_for(ast.parse(module.read_text())))
    return found | {("Ready", "False", reason) for reason in BY_PARAMETER}


def test_every_row_is_shown_by_an_api_server() -> None:
    assert ROWS - shown() == set()


def test_nothing_is_waited_for_that_cannot_be() -> None:
    assert shown() - ROWS == set()


@pytest.mark.parametrize("kind", TYPES)
def test_every_condition_is_shown_true_and_false(kind: str) -> None:
    statuses = {status for other, status, _ in shown() if other == kind}
    assert statuses >= {"True", "False"}
    assert statuses == {status for other, status, _ in ROWS if other == kind}


@pytest.mark.parametrize("reason", BY_PARAMETER)
def test_a_parameter_is_one(reason: str) -> None:
    module, _, name = BY_PARAMETER[reason].partition("::")
    text = (TESTS / module).read_text()
    (function,) = (one for one in ast.parse(text).body if isinstance(one, ast.FunctionDef) and one.name == name)
    parameters = {
        one.value for each in function.decorator_list for one in ast.walk(each) if isinstance(one, ast.Constant)
    }
    assert reason in parameters
    waits = [ast.unparse(one) for one in ast.walk(function) if isinstance(one, ast.Call)]
    assert any(one.startswith("wait_for(") and "'Ready', 'False', reason" in one for one in waits)
