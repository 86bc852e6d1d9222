"""What the client sends, and what it makes of the answers, on a real connection."""

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from mcp_operator import errors
from mcp_operator.kube.client import Client
from mcp_operator.kube.resources import (
    CONFIG_MAPS,
    DEPLOYMENTS,
    LEASES,
    MCP_SERVERS,
    POD_MONITORS,
    PODS,
    SECRETS,
    Resource,
)
from mcp_operator.kube.transport import Limits
from scripted_api_server import ScriptedApiServer, status, streaming

ONE = "/api/v1/namespaces/prod/configmaps/one"
ALL = "/api/v1/configmaps"
CONFIG_MAP = {
    "apiVersion": "v1",
    "kind": "ConfigMap",
    "metadata": {"namespace": "prod", "name": "one"},
    "data": {"a": "1"},
}


@pytest.fixture
async def server() -> AsyncIterator[ScriptedApiServer]:
    async with ScriptedApiServer() as started:
        yield started


@pytest.fixture(autouse=True)
def no_certificates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading the system's takes a quarter of a second."""
    monkeypatch.setenv("SSL_CERT_FILE", "/dev/null")


@pytest.fixture
async def client(server: ScriptedApiServer, tmp_path: Path) -> AsyncIterator[Client]:
    limits = Limits(concurrency=4, timeout=10)
    async with await Client.connect(server.kubeconfig(tmp_path), limits=limits) as connected:
        yield connected


def event(kind: str, name: str, version: str) -> bytes:
    return (
        f'{{"type":"{kind}","object":{{"metadata":{{"namespace":"prod","name":"{name}","resourceVersion":"{version}"'
        "}}}\n"
    ).encode()


async def test_get(server: ScriptedApiServer, client: Client) -> None:
    server.on("GET", ONE, (200, CONFIG_MAP))
    assert await client.get(CONFIG_MAPS, "prod", "one") == CONFIG_MAP
    assert await client.get(CONFIG_MAPS, "prod", "none") is None
    headers = server.requests[0].headers
    assert headers["Authorization"] == "Bearer token-1"
    assert headers["User-Agent"].startswith("outrigger-operator/")
    assert headers["Accept"] == "application/json"


async def test_get_of_the_metadata(server: ScriptedApiServer, client: Client) -> None:
    server.on("GET", ONE, (200, {"metadata": {}}))
    await client.get(CONFIG_MAPS, "prod", "one", metadata_only=True)
    assert server.requests[0].headers["Accept"] == "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"


async def test_list_is_paged(server: ScriptedApiServer, client: Client) -> None:
    server.on(
        "GET",
        ALL,
        (200, {"metadata": {"resourceVersion": "7", "continue": "more"}, "items": [{"n": 1}]}),
        (200, {"metadata": {"resourceVersion": "7"}, "items": [{"n": 2}]}),
    )
    assert await client.list(CONFIG_MAPS, label_selector="a=b,c!=d", metadata_only=True) == [{"n": 1}, {"n": 2}]
    first, second = server.requests
    assert first.query == {"labelSelector": "a=b,c!=d", "limit": "100"}
    assert second.query == {"labelSelector": "a=b,c!=d", "limit": "100", "continue": "more"}
    assert first.headers["Accept"] == "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"


async def test_apply(server: ScriptedApiServer, client: Client) -> None:
    server.on("PATCH", ONE, (200, CONFIG_MAP))
    assert await client.apply(CONFIG_MAP) == CONFIG_MAP
    asked = server.requests[0]
    assert asked.query == {"fieldManager": "outrigger", "force": "true"}
    assert asked.headers["Content-Type"] == "application/apply-patch+yaml"
    assert asked.body == CONFIG_MAP


async def test_apply_as_a_trial(server: ScriptedApiServer, client: Client) -> None:
    server.on("PATCH", ONE, (200, CONFIG_MAP))
    client.fence = lambda: False  # a trial writes nothing
    await client.apply(CONFIG_MAP, dry_run=True)
    assert server.requests[0].query == {"fieldManager": "outrigger", "force": "true", "dryRun": "All"}


async def test_apply_status(server: ScriptedApiServer, client: Client) -> None:
    path = "/apis/outrigger.dev/v1alpha1/namespaces/prod/mcpservers/git/status"
    server.on("PATCH", path, (200, {}))
    await client.apply_status(MCP_SERVERS, "prod", "git", {"tools": 3})
    asked = server.requests[0]
    assert asked.query == {"fieldManager": "outrigger-status", "force": "true"}
    assert asked.body == {
        "apiVersion": "outrigger.dev/v1alpha1",
        "kind": "MCPServer",
        "metadata": {"namespace": "prod", "name": "git"},
        "status": {"tools": 3},
    }


async def test_create_and_replace(server: ScriptedApiServer, client: Client) -> None:
    collection = "/apis/coordination.k8s.io/v1/namespaces/ours/leases"
    lease = {"apiVersion": LEASES.api_version, "kind": "Lease", "metadata": {"namespace": "ours", "name": "l"}}
    server.on("POST", collection, (201, lease))
    server.on("PUT", f"{collection}/l", (200, lease))
    await client.create(lease)
    await client.replace(lease)
    assert [(asked.method, asked.query) for asked in server.requests] == [
        ("POST", {"fieldManager": "outrigger"}),
        ("PUT", {"fieldManager": "outrigger"}),
    ]


async def test_annotate(server: ScriptedApiServer, client: Client) -> None:
    path = "/api/v1/namespaces/prod/pods/p"
    server.on("PATCH", path, (200, {}))
    await client.annotate(PODS, "prod", "p", {"outrigger.dev/config-hash": "abc", "old": None})
    asked = server.requests[0]
    assert asked.headers["Content-Type"] == "application/merge-patch+json"
    assert asked.body == {"metadata": {"annotations": {"outrigger.dev/config-hash": "abc", "old": None}}}


async def test_delete_is_of_this_very_object(server: ScriptedApiServer, client: Client) -> None:
    server.on("DELETE", ONE, (200, {}), (409, status(409, "Conflict", "uid")), (404, status(404, "NotFound", "gone")))
    assert await client.delete(CONFIG_MAPS, "prod", "one", uid="u-1")
    assert not await client.delete(CONFIG_MAPS, "prod", "one", uid="u-1")
    assert not await client.delete(CONFIG_MAPS, "prod", "one", uid="u-1")
    assert server.requests[0].body == {"preconditions": {"uid": "u-1"}, "propagationPolicy": "Background"}


async def test_serves(server: ScriptedApiServer, client: Client) -> None:
    server.on("GET", "/apis/monitoring.coreos.com/v1", (200, {"resources": [{"name": "podmonitors"}]}))
    assert await client.serves(POD_MONITORS)
    assert not await client.serves(MCP_SERVERS)
    server.on("GET", "/apis/monitoring.coreos.com/v1", (503, {}))
    with pytest.raises(errors.Unavailable):
        await client.serves(POD_MONITORS)


@pytest.mark.parametrize(
    ("code", "reason", "expected", "transient"),
    [
        (400, "BadRequest", errors.Invalid, False),
        (401, "Unauthorized", errors.Unauthorized, True),
        (403, "Forbidden", errors.Forbidden, False),
        (404, "NotFound", errors.NotFound, False),
        (405, "MethodNotAllowed", errors.KubeError, False),
        (409, "Conflict", errors.Conflict, True),
        (409, "AlreadyExists", errors.AlreadyExists, True),
        (410, "Expired", errors.Expired, True),
        (413, "RequestEntityTooLarge", errors.Invalid, False),
        (422, "Invalid", errors.Invalid, False),
        (429, "TooManyRequests", errors.Throttled, True),
        (500, "InternalError", errors.Unavailable, True),
        (503, "ServiceUnavailable", errors.Unavailable, True),
    ],
)
async def test_refusals(
    server: ScriptedApiServer, client: Client, code: int, reason: str, expected: type, transient: bool
) -> None:
    server.on("PATCH", ONE, (code, status(code, reason, "in its own words", "FieldValueInvalid")))
    with pytest.raises(errors.KubeError) as refused:
        await client.apply(CONFIG_MAP)
    error = refused.value
    assert type(error) is expected
    assert (error.status, error.reason, error.message, error.causes) == (
        code,
        reason,
        "in its own words",
        ("FieldValueInvalid",),
    )
    assert error.transient is transient
    assert str(error) == "in its own words"


async def test_retry_after(server: ScriptedApiServer, client: Client) -> None:
    async def busy(request: web.BaseRequest) -> web.StreamResponse:
        return web.json_response(status(429, "TooManyRequests", "slow"), status=429, headers={"Retry-After": "7"})

    server.on("GET", ONE, busy, (503, {"kind": "Status", "details": {"retryAfterSeconds": 3}}))
    for expected in (7.0, 3.0):
        with pytest.raises(errors.KubeError) as refused:
            await client.get(CONFIG_MAPS, "prod", "one")
        assert refused.value.retry_after == expected


async def test_terminating_namespace(server: ScriptedApiServer, client: Client) -> None:
    server.on("PATCH", ONE, (403, status(403, "Forbidden", "going", "NamespaceTerminating")))
    with pytest.raises(errors.Forbidden) as refused:
        await client.apply(CONFIG_MAP)
    assert refused.value.terminating


async def test_answer_that_is_not_the_api_servers(server: ScriptedApiServer, client: Client) -> None:
    async def page(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(status=502, text="<html>\n  bad   gateway</html>", content_type="text/html")

    async def text(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(text="<html>welcome</html>")

    async def array(request: web.BaseRequest) -> web.StreamResponse:
        return web.json_response([])

    server.on("GET", ONE, page, text, array)
    for message in ("HTTP 502: <html> bad gateway</html>", "is not JSON", "is not an object"):
        with pytest.raises(errors.Unavailable, match=message):
            await client.get(CONFIG_MAPS, "prod", "one")


async def test_redirects_are_not_followed(server: ScriptedApiServer, client: Client) -> None:
    async def elsewhere(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(status=302, headers={"Location": f"http://127.0.0.1:{server.port}{ONE}x"})

    server.on("GET", ONE, elsewhere)
    with pytest.raises(errors.KubeError, match="HTTP 302"):
        await client.get(CONFIG_MAPS, "prod", "one")
    assert len(server.requests) == 1


async def test_nobody_listens(tmp_path: Path) -> None:
    async with ScriptedApiServer() as server:
        kubeconfig = server.kubeconfig(tmp_path)
    async with await Client.connect(kubeconfig) as client:
        with pytest.raises(errors.Unavailable, match="cannot be reached") as refused:
            await client.get(CONFIG_MAPS, "prod", "one")
        assert refused.value.status == 0
        assert client.requests["get", "configmaps", "error"] == 1


async def test_no_answer_in_time(server: ScriptedApiServer, tmp_path: Path) -> None:
    server.on("GET", ONE, server.held)
    server.on("GET", "/apis/coordination.k8s.io/v1/namespaces/ours/leases/l", server.held)
    async with await Client.connect(server.kubeconfig(tmp_path), limits=Limits(timeout=0.05)) as client:
        with pytest.raises(errors.Unavailable, match="in time"):
            await client.get(CONFIG_MAPS, "prod", "one")
        with pytest.raises(errors.Unavailable, match="in time"):
            await client.get(LEASES, "ours", "l", timeout=0.05)


async def test_connection_cut_in_an_answer(server: ScriptedApiServer, client: Client) -> None:
    server.on("GET", ONE, streaming(b'{"metadata":', then=lambda: asyncio.sleep(0)))
    with pytest.raises(errors.Unavailable):
        await client.get(CONFIG_MAPS, "prod", "one")


async def test_what_is_not_in_the_table_is_refused(server: ScriptedApiServer, client: Client) -> None:
    with pytest.raises(AssertionError, match="list secrets"):
        await client.list(SECRETS, "prod")
    with pytest.raises(AssertionError, match="delete deployments"):
        await client.delete(DEPLOYMENTS, "prod", "web", uid="u")
    with pytest.raises(AssertionError, match="nodes"):
        await client.get(Resource("", "v1", "nodes", "Node"), "prod", "one")
    assert server.requests == []


async def test_nothing_is_written_without_leading(server: ScriptedApiServer, client: Client) -> None:
    leading = False
    client.fence = lambda: leading
    lease = {"apiVersion": LEASES.api_version, "kind": "Lease", "metadata": {"namespace": "ours", "name": "l"}}
    server.on("POST", "/apis/coordination.k8s.io/v1/namespaces/ours/leases", (201, lease))
    server.on("GET", ONE, (200, CONFIG_MAP))
    server.on("PATCH", ONE, (200, CONFIG_MAP))
    for write in (
        client.apply(CONFIG_MAP),
        client.create(CONFIG_MAP),
        client.apply_status(MCP_SERVERS, "prod", "git", {}),
        client.annotate(PODS, "prod", "p", {}),
        client.delete(CONFIG_MAPS, "prod", "one", uid="u"),
    ):
        with pytest.raises(errors.NotLeading):
            await write
    assert server.requests == []
    await client.get(CONFIG_MAPS, "prod", "one")
    await client.create(lease)
    leading = True
    await client.apply(CONFIG_MAP)
    assert len(server.requests) == 3


async def test_fence_is_asked_after_the_wait_for_a_turn(server: ScriptedApiServer, client: Client) -> None:
    server.on("GET", ONE, server.held)
    reads = [asyncio.create_task(client.get(CONFIG_MAPS, "prod", "one")) for _ in range(4)]
    await server.arrived.wait()
    write = asyncio.create_task(client.apply(CONFIG_MAP))
    await asyncio.sleep(0)
    client.fence = lambda: False
    server.release.set()
    with pytest.raises(errors.NotLeading):
        await write
    await asyncio.gather(*reads)


async def test_requests_in_flight_are_bounded_but_the_lease_is_not(server: ScriptedApiServer, client: Client) -> None:
    server.on("GET", ONE, server.held)
    server.on("GET", "/apis/coordination.k8s.io/v1/namespaces/ours/leases/l", (200, {"spec": {}}))
    tasks = [asyncio.create_task(client.get(CONFIG_MAPS, "prod", "one")) for _ in range(20)]
    while server.in_flight < 4:
        server.arrived.clear()
        await server.arrived.wait()
    assert await client.get(LEASES, "ours", "l") is not None
    assert server.in_flight == 4
    server.release.set()
    await asyncio.gather(*tasks)
    assert server.most_in_flight <= 5
    assert client.requests["get", "configmaps", "200"] == 20
    assert client.seconds["get", "configmaps"] > 0


async def test_cancelled_request_gives_its_turn_back(server: ScriptedApiServer, client: Client) -> None:
    server.on("GET", ONE, server.held)
    tasks = [asyncio.create_task(client.get(CONFIG_MAPS, "prod", "one")) for _ in range(8)]
    await server.arrived.wait()
    for task in tasks:
        task.cancel()
    assert all(isinstance(one, asyncio.CancelledError) for one in await asyncio.gather(*tasks, return_exceptions=True))
    server.on("GET", ONE, (200, CONFIG_MAP))
    for _ in range(8):
        await client.get(CONFIG_MAPS, "prod", "one")


async def test_warnings_are_logged_once(
    server: ScriptedApiServer, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    async def warn(request: web.BaseRequest) -> web.StreamResponse:
        return web.json_response(CONFIG_MAP, headers={"Warning": '299 - "unknown field"'})

    server.on("PATCH", ONE, warn)
    await client.apply(CONFIG_MAP)
    await client.apply(CONFIG_MAP)
    assert sum("unknown field" in record.message for record in caplog.records) == 1


async def test_bodies_are_not_logged(
    server: ScriptedApiServer, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"namespace": "prod", "name": "s"},
        "data": {"key": "Y2FuYXJ5"},
    }
    path = "/api/v1/namespaces/prod/secrets"
    server.on("POST", path, (201, secret), (409, status(409, "AlreadyExists", "it is there")), (500, {}))
    await client.create(secret)
    raised = []
    for _ in range(2):
        with pytest.raises(errors.KubeError) as refused:
            await client.create(secret)
        raised.append(repr(refused.value))
    assert "Y2FuYXJ5" not in caplog.text + "".join(raised)


# Watches


async def watched(client: Client, **options: Any) -> list[tuple[str, str]]:
    seen = []
    async with client.watch(CONFIG_MAPS, "prod", resource_version="5", **options) as events:
        async for kind, object_ in events:
            seen.append((kind, object_["metadata"]["resourceVersion"]))
    return seen


WATCHED = "/api/v1/namespaces/prod/configmaps"


async def test_watch(server: ScriptedApiServer, client: Client) -> None:
    bookmark = b'{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"9"}}}\n'
    both = event("MODIFIED", "a", "7") + event("DELETED", "a", "8")
    server.on("GET", WATCHED, streaming(event("ADDED", "a", "6"), both[:50], both[50:] + bookmark))
    seen = await watched(client, label_selector="x=y", timeout=60, metadata_only=True)
    assert seen == [("ADDED", "6"), ("MODIFIED", "7"), ("DELETED", "8"), ("BOOKMARK", "9")]
    asked = server.requests[0]
    assert asked.query == {
        "watch": "1",
        "allowWatchBookmarks": "true",
        "resourceVersion": "5",
        "labelSelector": "x=y",
        "timeoutSeconds": "60",
    }
    assert "as=PartialObjectMetadata;" in asked.headers["Accept"]


async def test_watch_cut_in_the_middle_of_a_line(server: ScriptedApiServer, client: Client) -> None:
    whole, half = event("ADDED", "a", "6"), event("ADDED", "b", "7")[:30]
    server.on("GET", WATCHED, streaming(whole, half), streaming(whole, half, then=lambda: asyncio.sleep(0.01)))
    assert await watched(client) == [("ADDED", "6")]  # ended well: no more
    with pytest.raises(errors.Unavailable):
        await watched(client)


async def test_watch_that_is_too_old(server: ScriptedApiServer, client: Client) -> None:
    line = b'{"type":"ERROR","object":{"kind":"Status","code":410,"reason":"Expired","message":"too old"}}\n'
    server.on("GET", WATCHED, streaming(line), (410, status(410, "Gone", "too old")))
    for _ in range(2):
        with pytest.raises(errors.Expired, match="too old"):
            await watched(client)


async def test_silent_watch_ends(server: ScriptedApiServer, client: Client) -> None:
    server.on("GET", WATCHED, streaming(event("ADDED", "a", "6"), then=server.release.wait))
    async with asyncio.timeout(5):
        assert await watched(client, inactivity=0.05) == [("ADDED", "6")]


async def test_watch_that_is_not_answered_fails(server: ScriptedApiServer, client: Client) -> None:
    server.on("GET", WATCHED, server.held)
    with pytest.raises(errors.Unavailable, match="in time"):
        await watched(client, inactivity=0.05)


@pytest.mark.parametrize(
    "line", [b"nonsense\n", b"[]\n", b'{"type":"ADDED"}\n', b'{"type":"ADDED","object":{"metadata":{"name":"a"}}}\n']
)
async def test_watch_that_sends_nonsense(server: ScriptedApiServer, client: Client, line: bytes) -> None:
    server.on("GET", WATCHED, streaming(line))
    with pytest.raises(errors.Unavailable):
        await watched(client)


async def test_watch_that_is_left_is_closed(server: ScriptedApiServer, client: Client) -> None:
    closed = asyncio.Event()

    async def endless(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            while True:
                await response.write(event("ADDED", "a", "6"))
                await asyncio.sleep(0.001)
        finally:
            closed.set()

    server.on("GET", WATCHED, endless)
    async with client.watch(CONFIG_MAPS, "prod", resource_version="5") as events:
        async for _ in events:
            break
    async with asyncio.timeout(5):
        await closed.wait()
