"""The rules across fields, each shown to object and to be silent."""

from __future__ import annotations

from typing import Any

import pytest

from mcp_sidecar.config import ConfigError, parse

COMMAND: dict[str, Any] = {"command": "x"}
URL: dict[str, Any] = {"url": "https://x.example/mcp"}
SOCKET: dict[str, Any] = {"socket": "/run/mcp.sock"}


def errors(server: dict[str, Any] | None = None, **top: Any) -> dict[str, str]:
    """What is wrong with a config of one server, by path."""
    try:
        parse({"servers": {"s": server or COMMAND}, **top})
    except ConfigError as error:
        return {problem.path.removeprefix("servers.s."): problem.message for problem in error.problems}
    return {}


def warnings(server: dict[str, Any], **top: Any) -> dict[str, str]:
    found = parse({"servers": {"s": server}, **top}).warnings
    return {problem.path.removeprefix("servers.s."): problem.message for problem in found}


def test_plain_servers_are_good_and_silent() -> None:
    for server in (COMMAND, URL, SOCKET):
        assert not errors(server)
        assert not warnings(server)


@pytest.mark.parametrize(
    "server", [{}, {"args": ["x"]}, {**COMMAND, **URL}, {**URL, **SOCKET}, {**COMMAND, **URL, **SOCKET}]
)
def test_exactly_one_target(server: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="exactly one"):
        parse({"servers": {"s": server}})


def test_null_means_not_this_one() -> None:
    assert not errors({"command": "x", "url": None, "args": None, "env": None})


@pytest.mark.parametrize(
    ("server", "path"),
    [
        ({**URL, "timeout": "60s", "totalTimeout": "59s"}, "totalTimeout"),
        ({**URL, "health": {"interval": "5s", "timeout": "6s"}}, "health.timeout"),
        ({**URL, "retry": {"backoff": {"base": "2s", "max": "1s"}}}, "retry.backoff.base"),
        ({**URL, "circuitBreaker": {"openDuration": "2s", "maxOpenDuration": "1s"}}, "circuitBreaker.openDuration"),
        ({**URL, "pool": {"min": 3, "max": 2}}, "pool.min"),
        ({**COMMAND, "restart": {"backoffBase": "2s", "backoffMax": "1s"}}, "restart.backoffBase"),
        ({**URL, "isolation": "PerSession"}, "isolation"),
        ({**URL, "processes": 2}, "processes"),
        ({**URL, "maxSessions": 2}, "maxSessions"),
        ({**COMMAND, "isolation": "PerSession", "processes": 2}, "processes"),
        ({**COMMAND, "transport": "StreamableHTTP"}, "transport"),
        ({**SOCKET, "transport": "SSE"}, "transport"),
        ({**URL, "transport": "Stdio"}, "transport"),
        ({"command": ""}, "command"),
        ({"socket": "run/mcp.sock"}, "socket"),
        ({"socket": "/" + "x" * 107}, "socket"),
        ({"url": "ftp://x"}, "url"),
        ({"url": "http://"}, "url"),
        ({"url": "http://user:pass@x.example/"}, "url"),
        ({"url": "http://x.example/#a"}, "url"),
        ({"url": "http://x.example:99999/"}, "url"),
        ({"url": "http://x y/"}, "url"),
        ({"url": "http://[::1/"}, "url"),
        ({**URL, "headers": {"Bad Name": "x"}}, 'headers["Bad Name"]'),
        ({**URL, "headers": {"X-A": "a\r\nX-B: b"}}, "headers.X-A"),
        ({**URL, "headers": {"X-A": "€"}}, "headers.X-A"),
        ({**URL, "headers": {"X-A": "1", "x-a": "2"}}, "headers.x-a"),
        ({**URL, "headers": {"Mcp-Session-Id": "x"}}, "headers.Mcp-Session-Id"),
        ({**URL, "headers": {"Host": "x"}}, "headers.Host"),
        ({**URL, "headers": {"Authorization": "x"}, "credentials": "Forward"}, "credentials"),
        ({**COMMAND, "env": {"A=B": "x"}}, "env[a key of 3 characters]"),
        ({**COMMAND, "env": {"": "x"}}, "env[a key of 0 characters]"),
        ({**URL, "tls": {"certFile": "c"}}, "tls"),
        ({**URL, "tls": {"keyFile": "k"}}, "tls"),
        ({"url": "http://x.example", "tls": {"caFile": "c"}}, "tls"),
        (
            {**URL, "cache": {"tools": {"t": "1m"}}, "retry": {"tools": {"t": "Unsafe"}}},
            "cache.tools.t",
        ),
    ],
)
def test_error(server: dict[str, Any], path: str) -> None:
    assert errors(server).keys() == {path}


@pytest.mark.parametrize(
    "server",
    [
        {**URL, "timeout": "30m"},  # totalTimeout follows
        {**URL, "pool": {"max": 1}},  # min follows
        {**URL, "health": {"interval": "1s"}},
        {**URL, "circuitBreaker": {"openDuration": "10m"}},
        {**URL, "retry": {"backoff": {"base": "10s"}}},
        {**COMMAND, "restart": {"backoffBase": "5m"}},
    ],
)
def test_what_is_not_said_follows_what_is(server: dict[str, Any]) -> None:
    assert not errors(server)


@pytest.mark.parametrize(
    ("server", "path"),
    [
        ({**COMMAND, "headers": {"X-A": "x"}}, "headers"),
        ({**COMMAND, "pool": {"max": 3}}, "pool"),
        ({**COMMAND, "tls": {"caFile": "x"}}, "tls"),
        ({**COMMAND, "credentials": "Forward"}, "credentials"),
        ({**COMMAND, "maxSessions": 3}, "maxSessions"),
        ({**SOCKET, "env": {"A": "x"}}, "env"),
        ({**SOCKET, "stop": {}}, "stop"),
        ({**URL, "env": {"A": "x"}}, "env"),
        ({**URL, "args": ["x"]}, "args"),
        ({**URL, "restart": {}}, "restart"),
        ({**URL, "tls": {"verify": False}}, "tls.verify"),
        ({**URL, "headers": {"Content-Type": "application/json"}}, "headers.Content-Type"),
        ({**COMMAND, "args": ["--token", "${TOKEN}"]}, "args[1]"),
    ],
)
def test_warning(server: dict[str, Any], path: str) -> None:
    assert warnings(server).keys() == {path}


@pytest.mark.parametrize(
    ("front", "path"),
    [
        ({"port": 7000, "adminPort": 7000}, "front.adminPort"),
        ({"allowedHosts": ["http://x"]}, "front.allowedHosts[0]"),
        ({"allowedHosts": ["ok", "a b"]}, "front.allowedHosts[1]"),
        ({"allowedOrigins": ["x.example"]}, "front.allowedOrigins[0]"),
        ({"allowedOrigins": ["https://x.example/path"]}, "front.allowedOrigins[0]"),
        ({"tokens": [{"name": "a", "file": "f"}, {"name": "a", "file": "g"}]}, "front.tokens[1].name"),
    ],
)
def test_front_error(front: dict[str, Any], path: str) -> None:
    assert errors(front=front).keys() == {path}


def test_front_is_good() -> None:
    front = {
        "port": 0,
        "adminPort": 0,
        "allowedHosts": ["x.example", "x.example:8080", "[::1]", "10.0.0.1:80", "*"],
        "allowedOrigins": ["https://x.example", "http://localhost:3000", "*"],
        "tokens": [{"name": "a", "file": "f"}, {"name": "b", "file": "f", "tools": ["get_*"]}],
    }
    assert not errors(front=front)
    assert warnings(COMMAND, front={**front, "host": "0.0.0.0"}).keys() == {"front.tokens"}
    assert not warnings(COMMAND, front={**front, "host": "0.0.0.0", "tls": {"certFile": "c", "keyFile": "k"}})


@pytest.mark.parametrize(
    ("address", "good"),
    [
        ("10.1.2.3", True),
        ("fd00::7", True),
        ("127.0.0.2", True),
        ("pod-0.svc", False),
        ("10.1.2.3:8080", False),
        ("http://10.1.2.3", False),
        ("0.0.0.0", False),
        ("::", False),
        ("224.0.0.1", False),
        ("fe80::1%eth0", False),
        ("", False),
    ],
)
def test_the_address_of_a_replica_is_an_ip_address(address: str, good: bool) -> None:
    found = errors(COMMAND, sessions={"address": address, "keyFile": "/k"}, front={"host": "0.0.0.0"})
    assert found.keys() == (set() if good else {"sessions.address"})


def test_an_address_that_nobody_can_use_is_warned_of() -> None:
    def warned(**sessions: Any) -> str:
        config = {"servers": {"s": COMMAND}, "sessions": {"address": "10.1.2.3", **sessions}}
        return " ".join(problem.message for problem in parse(config).warnings)

    assert "without sessions.keyFile" in warned()
    assert "without sessions.keyFile" not in warned(keyFile="/k")
    assert "front.host is 127.0.0.1" in warned(keyFile="/k")


def test_sessions_idle_time_fits_into_their_lifetime() -> None:
    assert errors(sessions={"lifetime": "1m", "idleTimeout": "2m"}).keys() == {"sessions.idleTimeout"}
    assert not errors(sessions={"lifetime": "1m"})


def test_names_that_would_share_a_token_variable() -> None:
    with pytest.raises(ConfigError, match="MCP_TOKEN_A_B"):
        parse({"servers": {"a-b": COMMAND, "a.b": COMMAND}})
    parse({"servers": {"a-b": COMMAND, "a-c": COMMAND}})


@pytest.mark.parametrize("name", ["a b", "über", "x/../y", "é"])
def test_names_are_made_to_fit_into_a_path(name: str) -> None:
    parsed = parse({"servers": {f"a{name}z": COMMAND}})
    assert "is called" in parsed.warnings[0].message
    assert next(iter(parsed.config.servers)).isascii()


def test_names_that_cannot_be_made_to_fit() -> None:
    with pytest.raises(ConfigError, match="letter or digit"):
        parse({"servers": {"!!!": COMMAND}})
    with pytest.raises(ConfigError, match="same name"):
        parse({"servers": {"a b": COMMAND, "a-b": COMMAND}})


def test_disabled_servers_are_left_out_and_not_looked_at() -> None:
    config = parse({"servers": {"a": COMMAND, "b": {"disabled": True}, "c": {**URL, "enabled": False}}}).config
    assert list(config.enabled_servers) == ["a"]
    with pytest.raises(ConfigError, match="every server is disabled"):
        parse({"servers": {"b": {**COMMAND, "disabled": True}}})


SEALED = "fernet:v1:gAAAA"


@pytest.mark.parametrize(
    ("server", "path"),
    [
        ({**URL, "headers": {"X-Api-Key": "abc"}}, "headers.X-Api-Key"),
        ({**URL, "headers": {"Authorization": "Bearer ${TOKEN}"}}, "headers.Authorization"),
        ({**COMMAND, "env": {"GITHUB_TOKEN": "abc"}}, "env.GITHUB_TOKEN"),
        ({**COMMAND, "env": {"DB_PASSWORD": {"valueFrom": {"env": "X"}}}}, "env.DB_PASSWORD"),
        ({**COMMAND, "env": {"GITHUB_TOKEN": SEALED}}, None),
        ({**COMMAND, "env": {"GITHUB_TOKEN": {"valueFrom": {"file": "x"}}}}, None),
        ({**COMMAND, "env": {"LOG_LEVEL": "debug"}}, None),
        ({**COMMAND, "envFrom": [{"directory": "/run/secrets/token"}]}, None),
    ],
)
def test_policy_that_secrets_are_sealed_or_in_files(server: dict[str, Any], path: str | None) -> None:
    assert set(errors(server, secrets={"require": "SealedOrFile"})) == ({path} if path else set())
    assert not errors(server)


def test_how_a_server_is_reached() -> None:
    config = parse(
        {
            "servers": {
                "a": COMMAND,
                "b": URL,
                "c": {**URL, "type": "sse"},
                "d": SOCKET,
                "e": {**URL, "limits": {"maxConcurrent": 3}},
                "f": {**URL, "pool": {"max": 4}},
            }
        }
    ).config
    assert [server.kind for server in config.servers.values()][:4] == ["Stdio", "StreamableHTTP", "SSE", "Socket"]
    assert [server.max_concurrent for server in config.servers.values()] == [100, 10, 10, 100, 3, 4]


def test_tools_filter() -> None:
    server = parse({"servers": {"s": {**COMMAND, "allowedTools": ["get_*"], "disabledTools": ["get_secret"]}}})
    decide = server.config.servers["s"].tools_filter
    assert decide is not None
    assert [decide(name) for name in ("get_x", "get_secret", "set_x")] == [True, False, False]
    assert parse({"servers": {"s": COMMAND}}).config.servers["s"].tools_filter is None


def test_a_password_in_a_url_is_refused_without_being_shown() -> None:
    message = errors({"url": "http://user:canary@x.example/"})["url"]
    assert message == "must not hold a user or password; use headers"
