"""Every rule of the CRD accepts its good example and refuses its bad one, by its own message and nothing else."""

from __future__ import annotations

import ast
import inspect
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from mcp_operator.api.crd import schema
from mcp_operator.api.rules import RULES, Rule
from mcp_operator.api.v1alpha1 import parse
from mcp_operator.errors import SpecError
from mcp_sidecar.config import rules as sidecar_rules

IDS = [rule.id for rule in RULES]


@pytest.mark.parametrize("rule", RULES, ids=IDS)
def test_rule_accepts(rule: Rule) -> None:
    parse(rule.accepted)


@pytest.mark.parametrize("rule", RULES, ids=IDS)
def test_rule_refuses_alone(rule: Rule) -> None:
    with pytest.raises(SpecError) as caught:
        parse(rule.refused)
    (problem,) = caught.value.problems
    assert problem.message.startswith(rule.message)
    written = problem.path.replace("[0]", "[]").replace("[1]", "[]").replace(".search", ".NAME")
    assert written == (rule.field or "metadata.name")


def test_ids_are_unique() -> None:
    assert [name for name, count in Counter(IDS).items() if count > 1] == []


def validations(node: dict[str, Any], path: str = "") -> Iterator[tuple[str, str, str]]:
    for rule in node.get("x-kubernetes-validations", []):
        yield path, rule["rule"], rule["message"]
    for name, inner in node.get("properties", {}).items():
        yield from validations(inner, f"{path}.{name}".lstrip("."))
    for key, step in (("items", "[]"), ("additionalProperties", ".NAME")):
        if key in node:
            yield from validations(node[key], path + step)


def test_table_is_complete() -> None:
    assert Counter(validations(schema())) == Counter((rule.path, rule.rule, rule.message) for rule in RULES)


# What the sidecar refuses across fields, and which rule of the CRD says so before a pod does. Where there is none, the
# operator itself writes what the sidecar looks at, or the schema cannot express the mistake.
SIDECAR = {
    "has no servers: name at least one": None,
    "every server is disabled": None,
    "differs from {} too little: both would use MCP_TOKEN_{}": None,
    "{}; give exactly one of them": "spec/one-kind",
    "must not be empty": None,  # minLength
    "must be an absolute path": None,  # the bridge's socket
    "must be at most {} bytes, the longest path of a Unix socket": None,
    "does not fit {}; use one of {}": None,  # an enum for each kind
    "is for servers over stdio only": None,  # fields of stdio
    "must be 1 with `isolation: PerSession`": "spec.stdio/one-process-per-session",
    "must be at least timeout: an attempt is part of its call": "spec.timeouts/timeout-at-most-totaltimeout",
    "must be at most health.interval": "spec.health/timeout-at-most-interval",
    "must be at most {}": "spec.pool/min-at-most-max",
    "is no name of an environment variable": None,  # a pattern
    "is there twice (case does not matter)": "spec.remote/headers-once",
    "is the sidecar's own to set": "spec.remote.headers[]/header-is-ours",
    "conflicts with the header Authorization: one of both would win silently": "spec/forward-or-remote-authorization",
    "needs {} too": None,  # one Secret holds both
    "needs a url that begins with https://": "spec.remote/tls-needs-https",
    "is Unsafe in retry.tools: what changes something must not be answered from a cache": "spec/cached-tool-is-safe",
    "must be sealed or come from a file: `secrets.require` is SealedOrFile": "spec/literal-remote-headers",
    "must differ from port": "spec.front/two-ports",
    "names a token that is there already": None,  # the list's key
    "must be the IP address of this replica, such as 10.1.2.3 or fd00::7": None,
    "must be at most sessions.lifetime": "spec.sessions/idletimeout-at-most-lifetime",
}


def errors_of_the_sidecar() -> set[str]:
    """The messages of its rules that are errors, `{}` for what is filled in."""
    found = set()
    for node in ast.walk(ast.parse(inspect.getsource(sidecar_rules))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "_error":
            match node.args[0]:
                case ast.Constant(value=str(message)):
                    found.add(message)
                case ast.JoinedStr(values=parts):
                    found.add("".join(part.value if isinstance(part, ast.Constant) else "{}" for part in parts))
    return found


def test_every_rule_of_the_sidecar_is_thought_of() -> None:
    known = errors_of_the_sidecar()
    assert known <= set(SIDECAR)
    assert {message for message, name in SIDECAR.items() if name is not None} <= known
    assert {name for name in SIDECAR.values() if name is not None} <= set(IDS)
