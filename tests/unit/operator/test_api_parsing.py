"""A manifest becomes an MCPServer, or everything that is wrong with it is said."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from mcp_operator.api.rules import RULES
from mcp_operator.api.v1alpha1 import MCPServer, default, parse, written
from mcp_operator.errors import SpecError
from mcp_sidecar.config import Config

STDIO: dict[str, Any] = {"stdio": {"command": "uvx"}}


def manifest(spec: Any, **metadata: Any) -> dict[str, Any]:
    return {
        "apiVersion": "outrigger.dev/v1alpha1",
        "kind": "MCPServer",
        "metadata": {"name": "time", **metadata},
        "spec": spec,
    }


def problems(spec: Any, **metadata: Any) -> dict[str, str]:
    with pytest.raises(SpecError) as caught:
        parse(manifest(spec, **metadata))
    found = {problem.path: problem.message for problem in caught.value.problems}
    assert len(found) == len(caught.value.problems)
    return found


def test_smallest() -> None:
    server = parse(manifest(STDIO))
    assert isinstance(server, MCPServer)
    assert (server.metadata.name, server.metadata.namespace, server.metadata.uid) == ("time", "default", "")
    assert server.spec.kind == "stdio"
    assert server.spec.stdio is not None
    assert server.spec.stdio.processes == 1
    assert server.spec.retry is None
    assert server.spec.server_image is None


def test_metadata_of_an_api_server() -> None:
    given = {"namespace": "team", "uid": "u", "generation": 3, "resourceVersion": "9", "labels": {"a": "b"}}
    server = parse(
        manifest(STDIO, **given, managedFields=[{}], creationTimestamp="2026-01-01T00:00:00Z", finalizers=[])
    )
    metadata = server.metadata
    assert (metadata.namespace, metadata.uid, metadata.generation, metadata.resource_version) == ("team", "u", 3, "9")
    assert metadata.labels == {"a": "b"}
    assert metadata.creation_timestamp == "2026-01-01T00:00:00Z"
    assert metadata.deletion_timestamp is None


@pytest.mark.parametrize(
    "spec, kind, image",
    [
        (STDIO, "stdio", None),
        ({"stdio": {"command": "x", "image": "i"}}, "stdio", "i"),
        ({"http": {"image": "i"}}, "http", "i"),
        ({"remote": {"url": "https://x.example/mcp"}}, "remote", None),
    ],
)
def test_kinds(spec: dict[str, Any], kind: str, image: str | None) -> None:
    server = parse(manifest(spec))
    assert (server.spec.kind, server.spec.server_image) == (kind, image)


def test_defaults_are_those_of_the_crd() -> None:
    filled = default(manifest({**STDIO, "retry": {"backoff": {}}, "cache": None}))
    assert filled["spec"] == {
        "stdio": {"command": "uvx", "isolation": "Shared", "processes": 1},
        "retry": {
            "maxRetries": 3,
            "backoff": {"base": "100ms"},
            "trustAnnotations": "None",
            "retryOn429": True,
            "retryOn503": False,
        },
        "readiness": "Startup",
        "credentials": "Drop",
        "replicas": 1,
    }


def test_defaulting_changes_nothing_in_place_and_nothing_twice() -> None:
    given = manifest({**STDIO, "front": {"tokens": [{"name": "a", "secretKeyRef": {"name": "s", "key": "k"}}]}})
    before = copy.deepcopy(given)
    filled = default(given)
    assert given == before
    assert default(filled) == filled
    assert filled["spec"]["front"]["tokens"][0]["tools"] == ["*"]


def test_default_does_not_touch_what_does_not_fit() -> None:
    assert default({"spec": "text"}) == {"spec": "text"}
    assert default(manifest({"stdio": 3, "unknown": None}))["spec"]["stdio"] == 3


@pytest.mark.parametrize("rule", RULES, ids=[rule.id for rule in RULES])
def test_what_was_written_reads_back(rule: Any) -> None:
    server = parse(rule.accepted)
    again = written(server.spec)
    assert again == default(rule.accepted)["spec"] or parse({**rule.accepted, "spec": again}) == server


def test_written_keeps_units_and_leaves_out_what_was_not() -> None:
    spec = {
        "remote": {"url": "https://x.example/mcp"},
        "timeouts": {"timeout": "90s", "connectTimeout": "250ms"},
        "cache": {"maxBytes": "1048576B", "tools": {"search": "60s"}},
    }
    server = parse(manifest(spec))
    assert server.spec.timeouts is not None
    assert written(server.spec.timeouts) == {"timeout": "90s", "connectTimeout": "250ms"}
    assert server.spec.timeouts.total_timeout == 300
    assert server.spec.cache is not None
    assert written(server.spec.cache)["maxBytes"] == "1MiB"
    assert written(server.spec.cache)["tools"] == {"search": "1m"}


def test_sections_go_into_the_sidecars_config_as_they_are() -> None:
    names = ("retry", "circuitBreaker", "pool", "limits", "cache", "health")
    spec = {"remote": {"url": "https://x.example/mcp"}, **{name: {} for name in names}}
    whole = written(parse(manifest(spec)).spec)
    config = Config.model_validate({"servers": {"time": {"url": "x", **{name: whole[name] for name in names}}}})
    assert config.servers["time"].pool.max == 10


def test_everything_at_once() -> None:
    found = problems(
        {
            "command": "uvx",
            "stdio": {
                "args": "text",
                "maxsessions": 3,
                "env": [{"name": "A", "value": 5}, {"name": "A", "value": "x"}, {"name": "9", "value": "x"}],
                "isolation": "persession",
                "processes": 99,
            },
            "remote": {"url": "ftp://x"},
            "retry": {"max_retries": 2, "backoff": {"base": "250 ms", "max": "11m"}},
            "timeouts": {"timeout": "2h", "totalTimeout": 30},
            "limits": {"rate": {"requestsPerSecond": 0}},
            "cache": {"maxBytes": "1B", "tools": {"a.b": "x"}},
            "disruption": {"maxUnavailable": "150%"},
            "allowedTools": ["a", "a"],
            "log": {"calls": "yes"},
        },
        name="9time",
    )
    assert found == {
        "metadata.name": found["metadata.name"],
        "spec": "give exactly one of stdio, http and remote",
        "spec.command": "unknown field; did you mean stdio.command?",
        "spec.stdio.command": "is missing; it must be a string that is not empty",
        "spec.stdio.args": "must be a list; it is a string of 4 characters",
        "spec.stdio.maxsessions": "unknown field; did you mean maxSessions?",
        "spec.stdio.env[0].value": "must be a string; it is a number",
        "spec.stdio.env[1]": "has the same name as [0]",
        "spec.stdio.env[2].name": 'must be the name of an environment variable, at most 256 characters; it is "9"',
        "spec.stdio.isolation": 'must be one of Shared, PerSession; it is "persession"; did you mean PerSession?',
        "spec.stdio.processes": "must be a whole number from 1 to 64; it is 99",
        "spec.remote.url": "must be a URL that begins with http:// or https://, without user, password and #fragment, "
        "at most 2048 characters; it is a string of 7 characters",
        "spec.retry.max_retries": "unknown field; did you mean maxRetries?",
        "spec.retry.backoff.base": 'must be a duration such as 250ms, 30s, 5m or 1h; it is "250 ms"',
        "spec.retry.backoff.max": 'must be from 1ms to 10m; it is "11m"',
        "spec.timeouts.timeout": 'must be from 1ms to 1h; it is "2h"',
        "spec.timeouts.totalTimeout": "must be a duration such as 250ms, 30s, 5m or 1h; it is the number 30",
        "spec.limits.rate.requestsPerSecond": "must be a number above 0 and at most 1000000; it is 0",
        "spec.cache.maxBytes": 'must be from 1KiB to 16GiB; it is "1B"',
        "spec.cache.tools[a.b]": 'must be a duration such as 250ms, 30s, 5m or 1h; it is "x"',
        "spec.disruption.maxUnavailable": 'must be a whole number or a percentage such as 50%; it is "150%"',
        "spec.allowedTools[1]": "is the same as [0]",
        "spec.log.calls": 'must be true or false; it is "yes"',
    }


@pytest.mark.parametrize(
    "name, field",
    [("bearerToken", "spec.remote.bearerToken"), ("max_retries", "spec.retry.maxRetries"), ("image", "stdio.image")],
)
def test_field_in_the_wrong_place_is_found(name: str, field: str) -> None:
    message = problems({**STDIO, "front": {}, name: 1})[f"spec.{name}"]
    assert field.removeprefix("spec.") in message


@pytest.mark.parametrize(
    "spec",
    [
        {"stdio": {"command": "x", "env": [{"name": "A", "value": "hunter2" * 9999}]}},
        {"stdio": {"command": "x", "env": [{"name": "A", "value": "hunter2", "valueFrom": {}}]}},
        {"stdio": {"command": "x", "args": [["hunter2"]]}},
        {"stdio": {"command": "x", "args": "hunter2"}},
        {"remote": {"url": "https://user:hunter2@x.example/"}},
        {"remote": {"url": "https://x.example/#hunter2"}},
        {"remote": {"url": "https://x.example/", "headers": [{"name": "X", "value": "hunter2\n"}]}},
        {"remote": {"url": "https://x.example/", "headers": [{"name": "Mcp-Name", "value": "hunter2"}]}},
        {"remote": {"url": "https://x.example/", "headers": "hunter2"}},
        {"remote": {"url": "https://x.example/", "bearerToken": "hunter2"}},
        {**STDIO, "front": {"tokens": ["hunter2"]}},
        {**STDIO, "secrets": {"encryptionKey": "hunter2"}},
        {"http": {"image": "x", "env": "hunter2"}},
        {"http": {"image": "x", "env": ["TOKEN=hunter2"]}},
        {**STDIO, "podTemplate": {"sidecar": {"env": [{"name": "A", "value": ["hunter2"]}]}}},
    ],
)
def test_no_secret_is_shown(spec: dict[str, Any]) -> None:
    assert "hunter2" not in repr(problems(spec))


@pytest.mark.parametrize("spec", [None, [], "text", 3])
def test_spec_that_is_no_object(spec: Any) -> None:
    assert list(problems(spec)) == ["spec"]


@pytest.mark.parametrize("metadata", [None, [], {}, {"name": ""}, {"name": 3}])
def test_without_a_name(metadata: Any) -> None:
    with pytest.raises(SpecError) as caught:
        parse({**manifest(STDIO), "metadata": metadata})
    assert [problem.path for problem in caught.value.problems] == ["metadata.name"]


@pytest.mark.parametrize("change", [{"kind": "Pod"}, {"apiVersion": "outrigger.dev/v2"}, {"kind": None}])
def test_another_kind(change: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match=r"must be outrigger.dev/v1alpha1, and kind must be MCPServer"):
        parse({**manifest(STDIO), **change})


def test_wrong_field_does_not_set_off_the_rules_that_read_it() -> None:
    found = problems({**STDIO, "networkPolicy": {"mode": "enabled", "from": [{"podSelector": {}}]}})
    assert list(found) == ["spec.networkPolicy.mode"]
    found = problems({**STDIO, "front": {"port": "9090"}})
    assert list(found) == ["spec.front.port"]


def test_open_objects_are_passed_on() -> None:
    affinity = {"nodeAffinity": {"any": [1, None, {"x": True}]}}
    server = parse(manifest({**STDIO, "podTemplate": {"affinity": affinity}}))
    assert server.spec.pod_template is not None
    assert server.spec.pod_template.affinity == affinity
    assert written(server.spec)["podTemplate"]["affinity"] == affinity


def test_whole_number_is_written_whole() -> None:
    # API servers take 3.0 for some integers and refuse it for others, by where a rule or a subresource reads it
    assert list(problems({"stdio": {"command": "x", "processes": 3.0}})) == ["spec.stdio.processes"]
