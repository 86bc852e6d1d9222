"""The table of `outrigger status`: what it shows of good and bad MCPServers, and which namespace is meant."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import pytest

from mcp_operator.cli_status import age, current_namespace, lines, ready

NOW = dt.datetime(2026, 11, 23, 12, tzinfo=dt.UTC)


def condition(kind: str, status: str, reason: str, message: str = "") -> dict[str, Any]:
    return {"type": kind, "status": status, "reason": reason, "message": message}


def server(name: str, *conditions: dict[str, Any], seen: int = 1, **status: Any) -> dict[str, Any]:
    said = {"observedGeneration": seen, "conditions": list(conditions), **status} if conditions else {}
    metadata = {"name": name, "namespace": "tools", "generation": 1, "creationTimestamp": "2026-11-23T09:00:00Z"}
    return {"metadata": metadata, "spec": {"stdio": {"command": "x"}}, "status": said}


GOOD = server(
    "notes",
    condition("Ready", "True", "Serving", "callers get answers"),
    era="Both",
    tools=4,
    replicas=2,
    readyReplicas=2,
    url="http://notes.tools.svc:8080/mcp",
    server={"name": "notes", "version": "1.0"},
    configHash="0123456789abcdef",
)
BAD = server(
    "broken",
    condition("Progressing", "False", "Stopped", "not shown"),
    condition("SecretsResolved", "False", "SecretMissing", "Secret token is not there: create it"),
    condition("Ready", "False", "SecretMissing", "Secret token is not there: create it"),
    condition("ConfigApplied", "Unknown", "StatusUnreadable", "1 of 1 pods does not answer"),
    replicas=1,
)


def test_table() -> None:
    assert lines([GOOD, BAD], now=NOW) == [
        "NAME     READY   REASON          ERA    TOOLS   REPLICAS   URL                               AGE",
        "broken   False   SecretMissing   -      -       0/1        -                                 3h",
        "notes    True    Serving         Both   4       2/2        http://notes.tools.svc:8080/mcp   3h",
        "",
        "broken: SecretMissing: Secret token is not there: create it",
    ]


def test_wide_tells_everything_that_is_not_true() -> None:
    assert [line.partition(": ")[2] for line in lines([BAD], now=NOW, wide=True)[3:]] == [
        "SecretMissing: Secret token is not there: create it",
        "SecretMissing: Secret token is not there: create it",
        "StatusUnreadable: 1 of 1 pods does not answer",
    ]


def test_ready_one_may_have_something_to_tell() -> None:
    applied = condition("ConfigApplied", "False", "Propagating", "1 of 2 pods")
    server_ = server("notes", condition("Ready", "True", "Serving", "good"), applied)
    assert lines([server_], now=NOW)[2:] == ["", "notes: Propagating: 1 of 2 pods"]


def test_wide_with_namespaces() -> None:
    header, row = lines([GOOD], now=NOW, wide=True, namespaces=True)
    assert header.split() == [
        "NAMESPACE", "NAME", "READY", "REASON", "ERA", "TOOLS", "REPLICAS", "URL", "AGE", "KIND", "SERVER", "CONFIG",
    ]  # fmt: skip
    assert row.split()[0] == "tools"
    assert row.endswith("stdio   notes 1.0   0123456789abcdef")


@pytest.mark.parametrize("status", [server("new"), server("new", condition("Ready", "True", "Serving"), seen=0)])
def test_what_the_operator_has_not_seen_is_not_ready(status: dict[str, Any]) -> None:
    assert ready(status) == "Unknown"
    said = lines([status], now=NOW)
    assert "NotSeenYet" in said[1]
    assert said[3].startswith("new: the operator has not looked at its newest version")


def test_colour_is_around_the_cell_only() -> None:
    plain, coloured = (lines([GOOD, BAD], now=NOW, colour=colour) for colour in (False, True))
    assert "\033[31mFalse\033[0m" in coloured[1]
    assert "\033[32mTrue \033[0m" in coloured[2]
    assert [line.replace("\033[31m", "").replace("\033[32m", "").replace("\033[0m", "") for line in coloured] == plain


def test_control_characters_stay_out() -> None:
    odd = server("odd", condition("Ready", "False", "X\033[2J", "a\nb\x07"))
    assert not [line for line in lines([odd], now=NOW) if not line.isprintable()]


def test_long_messages_are_wrapped() -> None:
    long = server("long", condition("Ready", "False", "Because", "word " * 60))
    said = lines([long], now=NOW, width=60)[3:]
    assert max(len(line) for line in said) <= 60
    assert all(line.startswith("  ") for line in said[1:])


@pytest.mark.parametrize("found", [{}, {"metadata": None, "status": {"conditions": "x"}}, {"status": []}])
def test_odd_objects_do_not_break_it(found: dict[str, Any]) -> None:
    assert lines([found], now=NOW)


@pytest.mark.parametrize(
    ("created", "shown"),
    [
        ("2026-11-23T11:59:15Z", "45s"),
        ("2026-11-23T11:58:15Z", "105s"),
        ("2026-11-23T11:48:00Z", "12m"),
        ("2026-11-20T12:00:00Z", "3d"),
        ("2026-11-23T12:00:09Z", "0s"),
        (None, "-"),
        ("soon", "-"),
    ],
)
def test_age(created: object, shown: str) -> None:
    assert age(created, NOW) == shown


KUBECONFIG = """
current-context: one
contexts:
  - {name: one, context: {cluster: c, namespace: first}}
  - {name: two, context: {cluster: c}}
"""


def test_namespace_is_the_contexts(tmp_path: Path) -> None:
    file = tmp_path / "config"
    file.write_text(KUBECONFIG)
    other = tmp_path / "other"
    other.write_text("current-context: two\ncontexts: [{name: three, context: {namespace: third}}]")
    assert current_namespace(str(file), None, environ={}) == "first"
    assert current_namespace(str(file), "two", environ={}) == "default"
    assert current_namespace(None, None, environ={"KUBECONFIG": f"{tmp_path}/missing:{file}:{other}"}) == "first"
    assert current_namespace(None, "three", environ={"KUBECONFIG": f"{file}:{other}"}) == "third"
    assert current_namespace(str(tmp_path / "missing"), None, environ={}) == "default"


def test_namespace_in_a_pod_is_its_own(tmp_path: Path) -> None:
    file = tmp_path / "namespace"
    file.write_text("mine")
    environ = {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}
    assert current_namespace(None, None, environ=environ, namespace_file=file) == "mine"
