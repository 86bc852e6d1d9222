"""The models have the sidecar's settings under the sidecar's names, none left out and none of their own."""

from __future__ import annotations

from typing import Any, get_args

import pytest
from pydantic import BaseModel

from mcp_operator.api.schema import places
from mcp_operator.api.v1alpha1 import MCPServerSpec
from mcp_operator.api.v1alpha1.traffic import Front, Secrets, Sessions, Shutdown, Timeouts, Token
from mcp_sidecar import config as sidecar

PATHS = {place.path for place in places(MCPServerSpec, "spec")}

# Where each setting of one server is in the spec; None where the operator sets it.
SERVER: dict[str, tuple[str, ...] | None] = {
    "command": ("stdio.command",),
    "args": ("stdio.args",),
    "env": ("stdio.env",),
    "envFrom": ("stdio.envFrom",),
    "workingDir": ("stdio.workingDir",),
    "url": ("remote.url", "http.port", "http.path"),
    "headers": ("remote.headers", "http.headers"),
    "socket": None,
    "transport": ("remote.transport", "http.transport"),
    "disabled": None,
    "revision": None,  # the operator's own, for Secrets that the bridge reads
    "isolation": ("stdio.isolation",),
    "processes": ("stdio.processes",),
    "maxSessions": ("stdio.maxSessions",),
    "sessions": ("sessions.mode",),
    "timeout": ("timeouts.timeout",),
    "totalTimeout": ("timeouts.totalTimeout",),
    "connectTimeout": ("timeouts.connectTimeout",),
    "startTimeout": ("timeouts.startTimeout",),
    "restart": ("stdio.restart",),
    "stop": ("stdio.stop",),
    "tls": ("remote.tls",),
    "allowLinkLocal": ("remote.linkLocal",),
}
# The same of the sidecar as a whole.
CONFIG: dict[str, str | None] = {
    "servers": None,
    "globalTimeout": None,
    "maxConcurrentConnections": None,
    "maxConcurrentStarts": None,
    "readiness.mode": "readiness",
    "readiness.require": None,  # one server
    "front.host": None,
    "front.adminHost": None,
    "front.allowedHosts": "service.allowedHosts",
    "front.allowedOrigins": "service.allowedOrigins",
    "front.tls.certFile": "front.tls.secretName",
    "front.tls.keyFile": "front.tls.secretName",
    "front.tls.clientCaFile": "front.tls.clientCA",
    "front.tokens[].file": "front.tokens[].secretKeyRef",
    "sessions.keyFile": "sessions.keySecretRef",
    "sessions.stateDirectory": None,
    "sessions.address": None,
    "secrets.keyFile": "secrets.encryptionKey",
}


def test_every_setting_of_a_server_can_be_set() -> None:
    for name, info in sidecar.Server.model_fields.items():
        alias = info.alias or name
        for place in SERVER.get(alias, (alias,)) or ():
            assert f"spec.{place}" in PATHS, alias


def test_every_setting_of_the_sidecar_can_be_set() -> None:
    for place in places(sidecar.Config, ""):
        path = place.path.lstrip(".")
        if path.startswith("servers.") or CONFIG.get(path, "") is None:
            continue
        assert f"spec.{CONFIG.get(path, path)}" in PATHS, path


def test_tables_name_nothing_that_is_not_there() -> None:
    settings = {place.path.lstrip(".") for place in places(sidecar.Config, "")}
    assert set(CONFIG) <= settings | {"sessions.address"}
    assert set(SERVER) <= {info.alias for info in sidecar.Server.model_fields.values()}


TAKEN: list[tuple[type[BaseModel], type[BaseModel], dict[str, str]]] = [
    (Timeouts, sidecar.Server, {}),
    (Sessions, sidecar.Sessions, {}),
    (Front, sidecar.Front, {}),
    (Shutdown, sidecar.Shutdown, {}),
    (Secrets, sidecar.Secrets, {}),
    (Token, sidecar.Token, {}),
]


@pytest.mark.parametrize("ours, theirs", [(ours, theirs) for ours, theirs, _ in TAKEN])
def test_settings_of_both_have_one_type_bound_and_default(ours: type[BaseModel], theirs: type[BaseModel]) -> None:
    common = (set(ours.model_fields) & set(theirs.model_fields)) - {"port", "admin_port", "tls", "tokens", "tools"}
    assert common
    for name in common:
        one, other = ours.model_fields[name], theirs.model_fields[name]
        assert one.annotation == other.annotation, name
        assert (one.default, one.default_factory) == (other.default, other.default_factory), name
        assert bounds(one.metadata) == bounds(other.metadata), name


@pytest.mark.parametrize(
    "name, section, setting",
    [
        ("readiness", sidecar.Readiness, "mode"),
        ("credentials", sidecar.Server, "credentials"),
    ],
)
def test_choices_of_both_are_the_same(name: str, section: type[BaseModel], setting: str) -> None:
    one, other = MCPServerSpec.model_fields[name], section.model_fields[setting]
    assert (get_args(one.annotation), one.default) == (get_args(other.annotation), other.default)


def bounds(metadata: list[Any]) -> set[tuple[str, Any]]:
    return {
        (bound, getattr(entry, bound))
        for entry in metadata
        for bound in ("ge", "gt", "le", "min_length", "max_length", "pattern")
        if getattr(entry, bound, None) is not None
    }
