"""Files of others load unchanged: desktop clients', and the seed document's."""

from __future__ import annotations

import json
from typing import Any

import pytest

from client_files import CLAUDE_DESKTOP, CLINE, CURSOR, GEMINI, SEED, VSCODE, WINDSURF
from mcp_sidecar.config import ConfigError, Reference, load_text, parse


@pytest.mark.parametrize("text", [CLAUDE_DESKTOP, VSCODE, CURSOR, CLINE, WINDSURF, GEMINI, SEED])
def test_loads_unchanged(text: str) -> None:
    assert load_text(text.encode(), "client", environ={}).config.enabled_servers


def load(text: str) -> Any:
    return load_text(text.encode(), "client", environ={})


def test_claude_desktop() -> None:
    loaded = load(CLAUDE_DESKTOP)
    assert [server.kind for server in loaded.config.servers.values()] == ["Stdio", "Stdio"]
    assert {warning.path for warning in loaded.warnings} == {"globalShortcut", "preferences"}


def test_vscode() -> None:
    loaded = load(VSCODE)
    server = loaded.config.servers["playwright"]
    assert server.env["PORT"].parts == ("8931",)
    assert server.env["TOKEN"].parts == (Reference("TOKEN"),)
    assert "UNSET" not in server.env
    assert server.working_dir.parts == (Reference("HOME"),)
    assert loaded.config.servers["github"].transport == "StreamableHTTP"
    assert {warning.path for warning in loaded.warnings} == {
        "inputs",
        "servers.playwright.envFile",
        "servers.playwright.dev",
        "servers.playwright.env.UNSET",
    }


def test_cursor() -> None:
    config = load(CURSOR).config
    assert config.servers["remote"].kind == "SSE"
    assert list(config.enabled_servers) == ["remote"]


def test_cline() -> None:
    loaded = load(CLINE)
    config = loaded.config
    assert list(config.servers) == ["github.com-acme-mcp-weather", "web"]
    assert config.servers["github.com-acme-mcp-weather"].timeout == 60
    assert config.servers["web"].denied_tools == ("rm",)
    assert {warning.path for warning in loaded.warnings} == {
        'mcpServers["github.com/acme/mcp-weather"]',
        'mcpServers["github.com/acme/mcp-weather"].autoApprove',
        "mcpServers.web.alwaysAllow",
    }


def test_windsurf_and_gemini() -> None:
    assert load(WINDSURF).config.servers["figma"].is_http
    server = load(GEMINI).config.servers["g"]
    assert server.kind == "StreamableHTTP"
    assert server.allowed_tools == ("a",)


def test_seed() -> None:
    config = load(SEED).config
    first, second = config.servers.values()
    assert (first.timeout, first.retry.max_retries, first.health.interval) == (20, 2, 45)
    assert (second.timeout, second.retry.max_retries, second.health.interval) == (40, 3, 60)
    assert config.max_concurrent_connections == 10
    assert second.health.enabled
    assert not config.metrics.enabled


def test_seed_defaults() -> None:
    """Seed R2-R7, R13, R15, R21, R22, where they were kept."""
    config = parse({"servers": {"s": {"url": "https://x.example"}}}).config
    server = config.servers["s"]
    assert server.timeout == config.global_timeout == 30
    assert server.retry.max_retries == 3
    assert server.health.interval == 60
    assert server.health.enabled
    assert config.metrics.enabled
    assert server.circuit_breaker.consecutive_failures == 5
    assert (server.circuit_breaker.open_duration, server.circuit_breaker.max_open_duration) == (30, 60)
    assert (server.pool.max, server.pool.min, server.pool.acquire_timeout) == (10, 2, 30)
    assert server.cache.list_ttl == 300
    assert not server.cache.tools


def test_seed_switches_for_all_servers_yield_to_one() -> None:
    config = parse(
        {
            "servers": {"a": {"command": "x"}, "b": {"command": "x", "health": {"enabled": True}}},
            "health_check_enabled": False,
            "global_timeout": "7s",
        }
    ).config
    assert [server.health.enabled for server in config.servers.values()] == [False, True]
    assert [server.timeout for server in config.servers.values()] == [7, 7]


@pytest.mark.parametrize(
    ("section", "spelling", "canonical"),
    [
        ("circuitBreaker", {"failure_threshold": 7}, {"consecutiveFailures": 7}),
        ("circuit_breaker", {"recovery_timeout": 20}, {"openDuration": 20}),
        ("retry", {"base_delay": 0.2, "max_delay": 3}, {"backoff": {"base": 0.2, "max": 3}}),
        (
            "pool",
            {"max_connections": 5, "min_connections": 1, "connection_timeout": 3},
            {"max": 5, "min": 1, "acquireTimeout": 3},
        ),
        ("cache", {"default_ttl": 60}, {"listTtl": 60}),
    ],
)
def test_seed_names_of_sections(section: str, spelling: dict[str, Any], canonical: dict[str, Any]) -> None:
    def config(settings: dict[str, Any]) -> object:
        return parse({"servers": {"s": {"url": "https://x.example", section: settings}}}).config

    assert config(spelling) == config(canonical)


@pytest.mark.parametrize(
    ("server", "path"),
    [
        ({"command": "x", "retry_attempts": 1, "retry": {"maxRetries": 2}}, "servers.s.retry_attempts"),
        ({"command": "x", "cwd": "/a", "workingDir": "/b"}, "servers.s.cwd"),
        ({"command": "x", "max_sessions": 1, "maxSessions": 2}, "servers.s.maxSessions"),
    ],
)
def test_one_setting_under_two_names_is_refused(server: dict[str, Any], path: str) -> None:
    with pytest.raises(ConfigError, match="same setting") as caught:
        parse({"servers": {"s": server}})
    assert [problem.path for problem in caught.value.problems] == [path]


def test_servers_under_two_names_are_refused() -> None:
    with pytest.raises(ConfigError, match="same setting"):
        parse({"servers": {"a": {"command": "x"}}, "mcpServers": {"b": {"command": "x"}}})


def test_problems_are_named_as_they_were_written() -> None:
    with pytest.raises(ConfigError) as caught:
        parse({"mcpServers": {"a b": {"command": "x", "retry_attempts": "many"}}, "global_timeout": "long"})
    assert {problem.path for problem in caught.value.problems} == {'mcpServers["a b"].retry_attempts', "global_timeout"}


@pytest.mark.parametrize("where", ["env", "headers", "args", "command", "url", "cwd"])
def test_what_a_person_would_have_to_type_is_refused(where: str) -> None:
    text = "${input:key}"
    value: Any = [text] if where == "args" else {"K": text} if where in ("env", "headers") else text
    with pytest.raises(ConfigError, match="nobody to ask"):
        parse({"servers": {"s": {"command": "x", where: value}}})


def test_readiness_may_be_a_word() -> None:
    config = parse({"servers": {"s": {"command": "x"}}, "readiness": "Upstream"}).config
    assert config.readiness.mode == "Upstream"
    with pytest.raises(ConfigError, match="readiness"):
        parse({"servers": {"s": {"command": "x"}}, "readiness": "Never"})


def test_examples_above_are_json_for_other_readers() -> None:
    for text in (CLAUDE_DESKTOP, CURSOR, CLINE, WINDSURF, GEMINI, SEED):
        json.loads(text)
