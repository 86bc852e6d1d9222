"""Which source wins, JSON with comments, overrides, all problems at once."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from mcp_sidecar.config import ConfigError, LoadedConfig, load, load_text, parse
from mcp_sidecar.config.jsonc import MAX_BYTES

GOOD: dict[str, Any] = {"servers": {"time": {"command": "uvx"}}}


def named(name: str) -> str:
    return json.dumps({"servers": {name: {"command": "x"}}})


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def loaded(text: str, **environ: str) -> LoadedConfig:
    return load_text(text.encode(), "test", environ=environ)


def messages(text: str | bytes, **environ: str) -> dict[str, str]:
    with pytest.raises(ConfigError) as caught:
        load_text(text.encode() if isinstance(text, str) else text, "test", environ=environ)
    return {problem.path: problem.message for problem in caught.value.problems}


# sources (seed R8, F65, F66)


def test_order_of_sources(tmp_path: Path) -> None:
    flag = write(tmp_path / "flag.json", named("flag"))
    path = write(tmp_path / "path.json", named("path"))
    write(tmp_path / ".mcp/config.json", named("home"))
    environ = {"MCP_CONFIG_JSON": named("json"), "MCP_CONFIG_PATH": str(path)}

    def servers(file: Path | None, environ: dict[str, str]) -> list[str]:
        return list(load(file, environ=environ, home=tmp_path).config.servers)

    assert servers(flag, environ) == ["flag"]
    assert servers(None, environ) == ["json"]
    del environ["MCP_CONFIG_JSON"]
    assert servers(None, environ) == ["path"]
    assert servers(None, {}) == ["home"]
    assert servers(None, {"MCP_CONFIG_JSON": "", "MCP_CONFIG_PATH": ""}) == ["home"]


def test_no_config_names_the_three_places(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(environ={}, home=tmp_path)
    text = str(caught.value)
    assert "MCP_CONFIG_JSON" in text
    assert "MCP_CONFIG_PATH" in text
    assert str(tmp_path / ".mcp/config.json") in text


@pytest.mark.parametrize("how", ["flag", "variable"])
def test_a_named_file_that_is_missing_is_fatal(tmp_path: Path, how: str) -> None:
    write(tmp_path / ".mcp/config.json", named("home"))
    missing = tmp_path / "typo.json"
    environ = {"MCP_CONFIG_PATH": str(missing)} if how == "variable" else {}
    with pytest.raises(ConfigError, match=r"there is no file .*typo\.json"):
        load(missing if how == "flag" else None, environ=environ, home=tmp_path)


def test_a_directory_and_a_broken_file_are_fatal(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Is a directory"):
        load(tmp_path, environ={})
    with pytest.raises(ConfigError, match="no JSON"):
        load(write(tmp_path / "c.json", "{nope"), environ={})
    with pytest.raises(ConfigError):
        load("a\0b", environ={})


def test_a_flag_that_hides_the_environment_says_so(tmp_path: Path) -> None:
    found = load(write(tmp_path / "c.json", named("a")), environ={"MCP_CONFIG_JSON": named("b")})
    assert any("MCP_CONFIG_JSON" in warning.message for warning in found.warnings)


def test_reload_reads_the_same_file_with_the_same_overrides(tmp_path: Path) -> None:
    file = write(tmp_path / "c.json", named("a"))
    first = load(file, environ={"OUTRIGGER__FRONT__PORT": "7"})
    write(file, named("b"))
    again = first.reload()
    assert list(again.config.servers) == ["b"]
    assert again.config.front.port == 7
    write(file, "{")
    with pytest.raises(ConfigError):
        again.reload()
    assert loaded(named("a")).reload().source == "test"


def test_where_relative_paths_begin(tmp_path: Path) -> None:
    file = write(tmp_path / "etc/c.json", named("a"))
    assert load(os.path.relpath(file), environ={}).directory.resolve() == (tmp_path / "etc").resolve()
    assert loaded(named("a")).directory == Path.cwd()


# JSON with comments


def test_comments_and_trailing_commas() -> None:
    text = """\ufeff// a file of VS Code
    {
      "servers": { /* one
      only */
        "a//b": {"command": "x", "args": ["/*", "//", "a,]", "\\"//",], }, // end
      },
    }
    """
    (server,) = loaded(text).config.servers.values()
    assert [argument.parts[0] for argument in server.args] == ["/*", "//", "a,]", '"//']


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        (" \n", "is empty"),
        ("{", "line 1, column 2"),
        ("{}}", "line 1, column 3"),
        ('{"a": 1 "b": 2}', "line 1, column 9"),
        ("// c\n/* x\n{", "Comment without end at line 2, column 1"),
        ("[,]", "no JSON"),
        ('{"servers": {},,}', "no JSON"),
        ("NaN", "NaN"),
        ('{"a": Infinity}', "Infinity"),
        ("1" * 5000, "too long"),
        ("[" * 100_000, "too deeply"),
        ("'x'", "no JSON"),
    ],
)
def test_no_json(text: str, message: str) -> None:
    (problem,) = messages(text).values()
    assert message in problem


def test_no_utf8_and_too_large() -> None:
    assert "UTF-8" in messages(b'{"a": "\xff"}')[""]
    assert "larger" in messages(b" " * (MAX_BYTES + 1))[""]


def test_depth_is_bounded_with_a_path() -> None:
    assert any("too deeply" in message for message in messages('{"a":' * 150 + "1" + "}" * 150).values())


def test_duplicate_keys_are_refused_with_their_path() -> None:
    found = messages('{"servers": {"a": {"command": "x", "command": "y", "env": {"T": "1", "T": "2", "T": "3"}}}}')
    assert found == {"servers.a.command": "is there twice", "servers.a.env.T": "is there twice"}


def test_lone_surrogates_are_refused() -> None:
    assert "no Unicode" in messages('{"servers": {"a": {"command": "\\ud800"}}}')["servers.a.command"]
    assert messages('{"servers": {"\\ud800": {"command": "x"}}}')


# overrides by the environment


def test_overrides() -> None:
    found = loaded(
        json.dumps(
            {"mcpServers": {"brave-search": {"url": "https://a.example/mcp", "timeout": 7}}, "readiness": "Startup"}
        ),
        OUTRIGGER__FRONT__PORT="8081",
        OUTRIGGER__FRONT__ADMIN_HOST="0.0.0.0",
        OUTRIGGER__LOG__LEVEL="DEBUG",
        OUTRIGGER__AUDIT__ENABLED="false",
        OUTRIGGER__READINESS__REQUIRE="All",
        OUTRIGGER__SERVERS__BRAVE_SEARCH__TIMEOUT="5s",
        OUTRIGGER__SERVERS__BRAVE_SEARCH__RETRY__MAX_RETRIES="1",
        OUTRIGGER__SERVERS__BRAVE_SEARCH__CACHE__MAX_BYTES="1MiB",
        OUTRIGGER_PORT="tcp://10.0.0.1:80",
    ).config
    assert (found.front.port, found.front.admin_host, found.log.level) == (8081, "0.0.0.0", "Debug")
    assert not found.audit.enabled
    assert (found.readiness.mode, found.readiness.require) == ("Startup", "All")
    server = found.servers["brave-search"]
    assert (server.timeout, server.retry.max_retries, server.cache.max_bytes) == (5, 1, 1 << 20)


def test_bad_overrides_are_refused_by_name() -> None:
    found = messages(
        json.dumps(GOOD),
        OUTRIGGER__FRONT__PROT="1",
        OUTRIGGER__FRONT="x",
        OUTRIGGER__FRONT__ALLOWED_HOSTS="a",
        OUTRIGGER__SERVERS__NOPE__TIMEOUT="1s",
        OUTRIGGER__SERVERS__TIME="1s",
        OUTRIGGER__FRONT__PORT="many",
    )
    assert found.keys() == {
        "OUTRIGGER__FRONT__PROT",
        "OUTRIGGER__FRONT",
        "OUTRIGGER__FRONT__ALLOWED_HOSTS",
        "OUTRIGGER__SERVERS__NOPE__TIMEOUT",
        "OUTRIGGER__SERVERS__TIME",
        "front.port",
    }


# all problems at once (seed R10, F67)


def test_all_problems_at_once() -> None:
    found = messages(
        json.dumps(
            {
                "servers": {
                    "a": {
                        "tiemout": 3,
                        "command": 5,
                        "retry": {"maxRetries": "x", "backoff": {"base": "1d"}},
                        "isolation": "shared",
                        "timeout": 60000,
                        "limits": {"rate": {}},
                        "pool": {"min": 20},
                        "env": {"A": ["x"]},
                    },
                    "b": {},
                    "c": {"command": "x", "url": "https://x.example"},
                    "d": 7,
                },
                "front": {"port": 70000, "allowedHosts": ["a b"], "tokens": [{"name": "x"}, {"name": "y", "file": 3}]},
                "metrcs": {},
                "globalTimeout": True,
            }
        )
    )
    assert found.keys() == {
        "servers.a.tiemout",
        "servers.a.command",
        "servers.a.retry.maxRetries",
        "servers.a.retry.backoff.base",
        "servers.a.isolation",
        "servers.a.timeout",
        "servers.a.limits.rate.requestsPerSecond",
        "servers.a.pool.min",
        "servers.a.env.A",
        "servers.b",
        "servers.c",
        "servers.d",
        "front.port",
        "front.allowedHosts[0]",
        "front.tokens[0].file",
        "front.tokens[1].file",
        "metrcs",
        "globalTimeout",
    }
    assert found["servers.a.tiemout"] == "unknown key; did you mean timeout?"
    assert found["metrcs"] == "unknown key; did you mean metrics?"
    assert found["servers.a.isolation"].endswith("did you mean Shared?")
    assert "from 0 to 65535; it is the number 70000" in found["front.port"]
    assert "milliseconds are written as 60000ms" in found["servers.a.timeout"]
    assert "from 1ms to 1m" in found["servers.a.retry.backoff.base"]


@pytest.mark.parametrize(
    ("key", "right"),
    [
        ("comand", "command"),
        ("Command", "command"),
        ("time_out", "timeout"),
        ("circuit_braker", "circuitBreaker"),
        ("circuit-breaker", "circuitBreaker"),
        ("maxRetries", "retry.maxRetries"),
        ("retryAttempt", "retry.maxRetries"),
        ("failureRateThreshold", "circuitBreaker.failureRateThreshold"),
    ],
)
def test_unknown_key_names_the_nearest(key: str, right: str) -> None:
    found = messages(json.dumps({"servers": {"a": {"command": "x", key: 1}}}))[f"servers.a.{key}"]
    assert found == f"unknown key; did you mean {right}?"


def test_nothing_near_is_named_for_nonsense() -> None:
    assert messages(json.dumps({**GOOD, "zzqqxx": 1}))["zzqqxx"] == "unknown key"


@pytest.mark.parametrize("data", [None, [], "x", 5, True, {}, {"servers": None}, {"servers": []}, {"servers": {}}])
def test_no_servers(data: object) -> None:
    with pytest.raises(ConfigError, match="servers"):
        parse(data)


def test_what_was_parsed_is_not_changed() -> None:
    data = {"mcpServers": {"a b": {"command": "x", "env": {"A": None}, "args": None, "retry_attempts": 1}}}
    before = json.dumps(data)
    parse(data)
    assert json.dumps(data) == before


# hash


def test_hash_changes_with_settings_and_not_with_literals() -> None:
    def digest(**server: Any) -> str:
        return parse({"servers": {"a": {"command": "x", **server}}}).config.config_hash()

    assert len(digest()) == 12
    assert digest() == digest(timeout="30s")
    assert digest() != digest(timeout="31s")
    assert digest(env={"A": "one"}) == digest(env={"A": "two"})
    assert digest(env={"A": "one"}) != digest(env={"B": "one"})
    assert digest(env={"A": {"valueFrom": {"file": "x"}}}) != digest(env={"A": {"valueFrom": {"file": "y"}}})
    assert digest(env={"A": "${X}"}) != digest(env={"A": "${Y}"})
