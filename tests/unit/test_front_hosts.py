"""Host and Origin allow-lists."""

from __future__ import annotations

from typing import Any

import pytest

from mcp_sidecar.front.gate import FrontGate
from mcp_sidecar.front.hosts import LOCALHOST, HostPolicy
from mcp_sidecar.front.refusal import Fault
from mcp_sidecar.front.request import Request


class Connection:
    """Only what the policy needs of one."""

    def __init__(self) -> None:
        self.state: dict[Any, Any] = {}


def _request(headers: dict[bytes, bytes], connection: Any = None, repeated: frozenset[bytes] = frozenset()) -> Request:
    return Request(connection or Connection(), "POST", "/mcp", "", headers, repeated, b"", True, True)


_LOCAL = """
    localhost LOCALHOST localhost. localhost:8080 127.0.0.1 127.0.0.1:80 [::1] [::1]:8080 [0:0:0:0:0:0:0:1]
    [0000::0001]:1
"""
_OTHER = """
    evil.example localhost.evil.example evil-localhost 127.0.0.1.evil.example 127.0.0.2 0.0.0.0 ::1 [::2] [::1 [::1]x
    localhost: localhost:x localhost:80:80 user@localhost * localhost/ localhost,evil [::1%lo] [::ffff:127.0.0.1]
    http://localhost \xff
"""


@pytest.mark.parametrize("host", _LOCAL.split())
def test_localhost_is_allowed_by_default(host: str) -> None:
    assert HostPolicy().allows_host(host.encode())


@pytest.mark.parametrize("host", ["", "localhost evil", *_OTHER.split()])
def test_other_hosts_are_not(host: str) -> None:
    assert not HostPolicy().allows_host(host.encode("latin-1"))


def test_configured_names() -> None:
    policy = HostPolicy(["Tools.Example", "only.example:8443", "*.svc.cluster.local", "10.1.2.3", "fd00::1"])
    for yes in (b"tools.example", b"tools.example:9", b"only.example:8443", b"a.b.svc.cluster.local:80", b"10.1.2.3:1"):
        assert policy.allows_host(yes), yes
    assert policy.allows_host(b"[fd00:0::1]:8080")
    for no in (b"localhost", b"only.example", b"only.example:84430", b"svc.cluster.local", b"x.tools.example"):
        assert not policy.allows_host(no), no
    assert not policy.allows_host(b"*.svc.cluster.local")
    assert HostPolicy(["*"]).allows_host(b"anything at all")


@pytest.mark.parametrize("entry", ["", "a b", "*", "*x", "http://a", "a:b", "a/b", "[::1", "*.*.x"])
def test_entries_that_are_none(entry: str) -> None:
    if entry != "*":
        with pytest.raises(ValueError):
            HostPolicy([entry])
    if entry not in ("*", "http://a"):
        with pytest.raises(ValueError):
            HostPolicy(origins=[entry])


def test_origins() -> None:
    policy = HostPolicy(LOCALHOST, ["https://app.example", "http://*.dev.example:3000", "any.example"])
    for yes in (
        b"https://app.example",
        b"HTTPS://APP.example:8443",
        b"http://x.dev.example:3000",
        b"ftp://any.example",
    ):
        assert policy.allows_origin(yes), yes
    for local in (b"http://localhost:6274", b"https://127.0.0.1", b"http://[::1]:80"):
        assert policy.allows_origin(local), local
    for no in (b"http://app.example", b"https://app.example.evil.example", b"http://x.dev.example", b"null", b"", b"*"):
        assert not policy.allows_origin(no), no
    for odd in (
        b"https://user@app.example",
        b"https://app.example/path",
        b"app.example",
        b"https://",
        b"file://localhost",
    ):
        assert not policy.allows_origin(odd), odd
    assert HostPolicy(origins=["null"]).allows_origin(b"null")
    assert HostPolicy(origins=["*"]).allows_origin(b"null")


def test_local_pages_may_not_call_where_localhost_is_no_host() -> None:
    assert not HostPolicy(["tools.example"]).allows_origin(b"http://localhost")


def test_refusals() -> None:
    policy = HostPolicy()
    assert policy.refusal(_request({b"host": b"localhost"})) is None
    cases = [
        (_request({b"host": b"evil.example"}), Fault.HOST_NOT_ALLOWED, 421),
        (_request({}), Fault.HOST_NOT_ALLOWED, 421),
        (_request({b"host": b"localhost", b"origin": b"https://evil.example"}), Fault.ORIGIN_NOT_ALLOWED, 403),
        (
            _request({b"host": b"localhost", b"origin": b"http://localhost"}, repeated=frozenset({b"origin"})),
            Fault.MALFORMED_HTTP,
            400,
        ),
    ]
    for request, fault, status in cases:
        refusal = policy.refusal(request)
        assert refusal is not None
        assert (refusal.fault, refusal.status) == (fault, status)


def test_a_verdict_is_kept_by_value_not_by_connection() -> None:
    policy, connection = HostPolicy(), Connection()
    right = {b"host": b"localhost", b"origin": b"http://localhost"}
    assert policy.refusal(_request(right, connection)) is None
    assert connection.state
    assert policy.refusal(_request(right, connection)) is None
    assert policy.refusal(_request({**right, b"origin": b"https://evil.example"}, connection)) is not None
    assert policy.refusal(_request({**right, b"host": b"evil.example"}, connection)) is not None
    assert policy.refusal(_request(right, connection, frozenset({b"origin"}))) is not None
    assert HostPolicy(["other.example"]).refusal(_request(right, connection)) is not None  # another policy


def test_the_gate_counts_refusals() -> None:
    gate = FrontGate(HostPolicy())
    assert gate.refusal(_request({b"host": b"localhost"})) is None
    assert gate.principal(_request({})) == ("", None)
    refused = gate.refusal(_request({b"host": b"evil.example"}))
    assert refused is not None
    assert refused.status == 421
    assert gate.refusals == {"host_not_allowed": 1}
