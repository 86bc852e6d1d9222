"""Which era a server is found to be of, and what is no finding but an error."""

from __future__ import annotations

import asyncio
import json

import pytest

from fault_server import STREAM_HEAD, FaultServer, SeenRequest, Wire, answer, chunk, result, rpc_error
from http_upstreams import bounded, http_upstream
from mcp_sidecar.errors import Delivery, Reason, UpstreamError
from mcp_sidecar.pipeline.call import Era

DISCOVERED = {
    "resultType": "complete",
    "supportedVersions": ["2026-07-28", "2025-11-25"],
    "capabilities": {"tools": {"listChanged": True}},
    "_meta": {"io.modelcontextprotocol/serverInfo": {"name": "srv", "version": "1"}},
    "ttlMs": 0,
    "cacheScope": "private",
}
INITIALIZED = {"protocolVersion": "2025-06-18", "capabilities": {}, "serverInfo": {"name": "old", "version": "2"}}


def error(id: bytes, code: int, data: object) -> bytes:
    body = {"jsonrpc": "2.0", "id": json.loads(id), "error": {"code": code, "message": "no", "data": data}}
    return json.dumps(body).encode()


class Script:
    """A server that knows some of the methods. `discover` is how it answers `server/discover`; None is silence."""

    def __init__(self, discover: bytes | None = b"", *, initialize: int = 200, stream: bool = False) -> None:
        self.discover = discover
        self.initialize = initialize
        self.stream = stream
        self.asked: list[str] = []

    async def __call__(self, request: SeenRequest, wire: Wire) -> None:
        if request.method == "DELETE":
            self.asked.append("DELETE " + request.headers["mcp-session-id"])
            await wire.write(answer(b""))
        elif request.method == "GET":
            self.asked.append("GET")
            if not self.stream:
                await wire.write(answer(b"", 405))
                return
            await wire.write(STREAM_HEAD + b"\r\n" + chunk(b"event: endpoint\ndata: /m\n\n"))
            await wire.gone()
        elif request.json["method"] == "server/discover":
            self.asked.append("discover")
            assert request.headers["mcp-method"] == "server/discover"
            assert request.headers["mcp-protocol-version"] == "2026-07-28"
            if self.discover is None:
                await wire.gone()
            else:
                await wire.write(self.discover.replace(b"@ID@", request.id))
                if not self.discover:
                    wire.close()
        else:
            self.asked.append("initialize")
            if self.initialize == 200:
                await wire.write(answer(result(request.id, INITIALIZED), extra="Mcp-Session-Id: s1\r\n"))
            else:
                await wire.write(answer(b"<html>", self.initialize, "text/html"))


async def test_a_modern_server() -> None:
    async def script(request: SeenRequest, wire: Wire) -> None:
        await wire.write(answer(result(request.id, DISCOVERED)))

    async with FaultServer(script) as server, http_upstream(server.url) as upstream:
        found = await bounded(upstream.discover())
        assert (found.era, found.transport) == (Era.MODERN, "http")
        assert found.versions == ("2026-07-28", "2025-11-25")
        assert found.profile is not None
        assert found.profile.server_info == {"name": "srv", "version": "1"}
        assert await bounded(upstream.discover()) is found
        assert len(server.requests) == 1
        await bounded(upstream.probe())
        assert len(server.requests) == 2
        status = upstream.status()
        assert (status["era"], status["serverInfo"]["name"]) == ("modern", "srv")


NOT_MODERN = {
    "404 page": answer(b"<html>", 404, "text/html"),
    "405": answer(b"", 405),
    "400 legacy": answer(rpc_error(b'"server-error"', -32600), 400),
    "500": answer(b"", 500),
    "reset": b"",
    "garbage": b"what?\r\n\r\n",
    "202": answer(b"", 202),
}


@pytest.mark.parametrize("name", NOT_MODERN)
async def test_what_is_no_modern_answer_means_legacy(name: str) -> None:
    script = Script(NOT_MODERN[name])
    async with FaultServer(script) as server, http_upstream(server.url) as upstream:
        found = await bounded(upstream.discover())
        assert (found.era, found.transport, found.versions) == (Era.LEGACY, "http", ("2025-06-18",))
        assert script.asked == ["discover", "initialize", "DELETE s1"]
        await bounded(upstream.probe())
        assert script.asked[3:] == ["initialize", "DELETE s1"]  # a known era is asked for alone
        assert upstream.status()["serverInfo"] == {"name": "old", "version": "2"}


@pytest.mark.parametrize("code", [-32601, -32602, -32603, 42])
async def test_any_other_error_means_legacy(code: int) -> None:
    async def script(request: SeenRequest, wire: Wire) -> None:
        if b"discover" in request.body:
            await wire.write(answer(rpc_error(request.id, code)))
        else:
            await legacy(request, wire)

    legacy = Script()
    async with FaultServer(script) as server, http_upstream(server.url) as upstream:
        assert (await bounded(upstream.discover())).era is Era.LEGACY


async def test_a_server_silent_to_discover_is_legacy() -> None:
    script = Script(None)
    async with FaultServer(script) as server, http_upstream(server.url, probe_timeout=0.1) as upstream:
        assert (await bounded(upstream.discover())).era is Era.LEGACY


@pytest.mark.parametrize(
    ("supported", "era"), [(["2027-01-01"], Era.MODERN), (["2027-01-01", "2025-11-25"], Era.LEGACY), ([], Era.LEGACY)]
)
async def test_a_server_of_other_versions(supported: list[str], era: Era) -> None:
    legacy = Script()

    async def script(request: SeenRequest, wire: Wire) -> None:
        if b"discover" in request.body:
            await wire.write(answer(error(request.id, -32022, {"supported": supported}), 400))
        else:
            await legacy(request, wire)

    async with FaultServer(script) as server, http_upstream(server.url) as upstream:
        found = await bounded(upstream.discover())
        assert found.era is era
        if era is Era.MODERN:
            assert found.versions == ("2027-01-01",)


@pytest.mark.parametrize("code", [-32020, -32021])
async def test_a_modern_error_means_modern(code: int) -> None:
    async def script(request: SeenRequest, wire: Wire) -> None:
        await wire.write(answer(rpc_error(request.id, code), 400))

    async with FaultServer(script) as server, http_upstream(server.url) as upstream:
        assert (await bounded(upstream.discover())).era is Era.MODERN


@pytest.mark.parametrize("status", [400, 404, 405])
async def test_the_transport_before_streamable_http(status: int) -> None:
    script = Script(answer(b"", 405), initialize=status, stream=True)
    async with FaultServer(script) as server, http_upstream(server.url) as upstream:
        found = await bounded(upstream.discover())
        assert (found.era, found.transport) == (Era.LEGACY, "sse")
        assert script.asked == ["discover", "initialize", "GET"]
        assert upstream.status()["transport"] == "sse"
        await bounded(upstream.probe())
        assert script.asked[3:] == ["GET"]


async def test_what_is_no_mcp_server() -> None:
    script = Script(answer(b"", 404), initialize=404)
    async with FaultServer(script) as server, http_upstream(server.url) as upstream:
        with pytest.raises(UpstreamError, match="no MCP server"):
            await bounded(upstream.discover())
        assert upstream.found is None


@pytest.mark.parametrize(("status", "reason"), [(401, Reason.UPSTREAM_UNAUTHORIZED), (429, Reason.UPSTREAM_THROTTLED)])
async def test_what_says_nothing_about_the_era(status: int, reason: Reason) -> None:
    script = Script(answer(b"", status))
    async with FaultServer(script) as server, http_upstream(server.url) as upstream:
        with pytest.raises(UpstreamError) as caught:
            await bounded(upstream.discover())
        assert caught.value.reason is reason
        assert script.asked == ["discover"]


async def test_a_server_that_went_away_is_asked_anew() -> None:
    async def script(request: SeenRequest, wire: Wire) -> None:
        await handler(request, wire)

    async def modern(request: SeenRequest, wire: Wire) -> None:
        await wire.write(answer(result(request.id, DISCOVERED), extra="Connection: close\r\n"))

    handler = modern
    async with FaultServer(script) as server, http_upstream(server.url) as upstream:
        assert (await bounded(upstream.discover())).era is Era.MODERN
        await server.stop()
        with pytest.raises(UpstreamError) as caught:
            await bounded(upstream.probe())
        assert caught.value.delivery is Delivery.NOT_SENT
        assert upstream.found is None
        handler = Script(answer(b"", 404))  # type: ignore[assignment]
        await server.listen()
        assert (await bounded(upstream.discover())).era is Era.LEGACY


async def test_probes_at_once_are_one() -> None:
    async def script(request: SeenRequest, wire: Wire) -> None:
        await asyncio.sleep(0.01)
        await wire.write(answer(result(request.id, DISCOVERED)))

    async with FaultServer(script) as server, http_upstream(server.url) as upstream:
        tasks = [asyncio.create_task(upstream.probe()) for _ in range(5)]
        await asyncio.sleep(0)
        tasks[0].cancel()  # who asked first may go; the others still get to know
        await bounded(asyncio.gather(*tasks, return_exceptions=True))
        assert len(server.requests) == 1
        assert upstream.found is not None
