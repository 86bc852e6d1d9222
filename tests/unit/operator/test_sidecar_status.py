"""Reading /status of pods: what a sidecar says arrives, and what an enemy says hurts nobody."""

from __future__ import annotations

import asyncio
import gzip
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kubernetes_objects import HASH, NAME, pod, sidecar_status
from mcp_operator.observed import PodView
from mcp_operator.sidecar_status import Report, SidecarReport, StatusPoller, Unreadable, clean, parse

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def said(**what: Any) -> SidecarReport:
    report = parse(json.dumps(sidecar_status(**what)).encode(), NAME)
    assert isinstance(report, SidecarReport)
    return report


def refusal(body: bytes | str | Any) -> str:
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    report = parse(text, NAME)
    assert isinstance(report, Unreadable)
    return report.reason


class TestParse:
    def test_over_stdio(self) -> None:
        report = said()
        assert (report.ready, report.file_hash, report.last_refusal, report.shutting_down) == (True, HASH, (), False)
        server = report.server
        assert server is not None
        assert (server.name, server.version, server.protocol_versions) == ("files", "1.2", ("2026-07-28",))
        assert (server.eras, server.tools, server.up, server.answered) == (("Modern",), 3, True, True)

    @pytest.mark.parametrize(
        ("upstream", "eras", "versions"),
        [
            ({"era": "modern", "versions": ["2026-07-28"]}, ("Modern",), ("2026-07-28",)),
            (
                {"era": "modern", "versions": ["2026-07-28", "2025-11-25"]},
                ("Modern", "Legacy"),
                ("2026-07-28", "2025-11-25"),
            ),
            ({"era": "legacy", "versions": ["2025-06-18"]}, ("Legacy",), ("2025-06-18",)),
            ({"eras": ["legacy", "modern"]}, ("Modern", "Legacy"), ()),
            ({"eras": [], "serverInfo": None, "protocolVersion": None}, (), ()),
            ({"transport": "http"}, (), ()),
        ],
    )
    def test_eras_and_versions(
        self, upstream: dict[str, Any], eras: tuple[str, ...], versions: tuple[str, ...]
    ) -> None:
        server = said(upstream=upstream).server
        assert server is not None
        assert (server.eras, server.protocol_versions) == (eras, versions)

    def test_trouble(self) -> None:
        server = said(
            up=False,
            failures=3,
            last_error="connection refused",
            secrets_problem="headers.X: there is no file",
            stderr=[f"line {number}" for number in range(9)],
        ).server
        assert server is not None
        assert (server.failing, server.last_error) == (True, "connection refused")
        assert server.secrets_problem == "headers.X: there is no file"
        assert server.stderr == tuple(f"line {number}" for number in range(4, 9))
        assert server.tools is None

    def test_a_refused_configuration(self) -> None:
        assert said(refusal=["servers.web.x: unknown key"]).last_refusal == ("servers.web.x: unknown key",)

    def test_the_server_of_another_name(self) -> None:
        assert said(name="another").server is None

    def test_counters_do_not_make_a_difference(self) -> None:
        before, after = sidecar_status(), sidecar_status()
        after["uptimeSeconds"] = 99.0
        after["servers"][NAME]["health"]["checks"] = 12
        assert parse(json.dumps(before).encode(), NAME) == parse(json.dumps(after).encode(), NAME)

    @pytest.mark.parametrize(
        ("body", "reason"),
        [
            (b"", "not JSON"),
            (b"<html>", "not JSON"),
            (b"\xff\xfe\xfd", "not JSON"),
            (b"[" * 100_000, "not JSON"),
            (b'{"ready":' + b"9" * 100_000 + b"}", "not JSON"),
            ([], "the answer is no object"),
            ({}, "config is no object"),
            ({**sidecar_status(), "ready": "yes"}, "ready is neither true nor false"),
            ({**sidecar_status(), "reason": {}}, "reason is no text"),
            ({**sidecar_status(), "config": {"fileHash": 7}}, "config.fileHash is no text"),
            ({**sidecar_status(), "config": {"lastRefusal": "x"}}, "config.lastRefusal is no list"),
            ({**sidecar_status(), "config": {"lastRefusal": [1]}}, "config.lastRefusal[0] is no text"),
            ({**sidecar_status(), "servers": []}, "servers is no object"),
            ({**sidecar_status(), "servers": {NAME: 1}}, "servers.* is no object"),
            (sidecar_status(tools=-1), "count is no count"),
            (sidecar_status(tools=True), "count is no count"),
            (sidecar_status(tools=1.5), "count is no count"),  # type: ignore[arg-type]
            (sidecar_status(upstream={"versions": "2026"}), "upstream.versions is no list"),
        ],
    )
    def test_misfits(self, body: Any, reason: str) -> None:
        assert reason in refusal(body)

    def test_what_is_refused_is_never_quoted(self) -> None:
        assert "hunter2" not in refusal({**sidecar_status(), "ready": "hunter2"})

    def test_words_are_cut_and_printable(self) -> None:
        report = said(last_error="\x1b[2J\u202e\ud800" + "x" * 10_000, up=False)
        assert report.server is not None
        assert len(report.server.last_error) == 256
        assert report.server.last_error.isprintable()
        report.server.last_error.encode()

    def test_lists_are_cut(self) -> None:
        report = said(refusal=["x"] * 1000, upstream={"versions": ["2026-07-28"] * 1000}, tools=10**30)
        assert len(report.last_refusal) == 5
        assert report.server is not None
        assert len(report.server.protocol_versions) == 16
        assert report.server.tools == 1_000_000

    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
            lambda each: (
                st.lists(each, max_size=3)
                | st.dictionaries(
                    st.sampled_from(
                        ["ready", "config", "servers", NAME, "up", "tools", "count", "upstream", "health", "x"]
                    ),
                    each,
                    max_size=4,
                )
            ),
            max_leaves=20,
        )
    )
    @settings(max_examples=300, deadline=None)
    def test_anything(self, value: Any) -> None:
        assert isinstance(parse(json.dumps(value).encode(), NAME), SidecarReport | Unreadable)


def test_clean() -> None:
    assert clean("a\nb\tc", 10) == "a b c"
    assert clean("x" * 11, 10) == "x" * 9 + "…"
    assert clean("  ", 10) == ""


@asynccontextmanager
async def answering(handler: Handler) -> AsyncIterator[PodView]:
    """A pod whose admin port is `handler`; the connection is closed behind it."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await handler(reader, writer)
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    raw = pod(ip="127.0.0.1")
    raw["spec"]["containers"][0]["ports"][1]["containerPort"] = server.sockets[0].getsockname()[1]
    try:
        yield PodView.of(raw)
    finally:
        server.close()


def sends(head: str, body: bytes, *, then: asyncio.Event | None = None) -> Handler:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(head.encode() + b"\r\n\r\n" + body)
        await writer.drain()
        if then is not None:
            await then.wait()

    return handler


GOOD = json.dumps(sidecar_status()).encode()
OK = "HTTP/1.1 200 OK\r\nconnection: close"


async def ask(handler: Handler, **how: Any) -> Report:
    poller = StatusPoller(**how)
    try:
        async with answering(handler) as target:
            return (await poller.poll([target]))[target.uid]
    finally:
        await poller.close()


class TestPoll:
    async def test_a_sidecar(self) -> None:
        assert await ask(sends(OK, GOOD)) == said()

    async def test_what_it_asks(self) -> None:
        requests: list[bytes] = []

        async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            requests.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(OK.encode() + b"\r\n\r\n" + GOOD)

        await ask(handler)
        assert requests[0].startswith(b"GET /status HTTP/1.1\r\n")
        assert b"accept-encoding: identity\r\n" in requests[0].lower()
        assert b"cookie" not in requests[0].lower()

    async def test_no_proxy_of_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
        assert await ask(sends(OK, GOOD)) == said()

    @pytest.mark.parametrize(
        ("head", "body", "reason"),
        [
            ("HTTP/1.1 302 Found\r\nlocation: http://169.254.169.254/\r\ncontent-length: 0", b"", "HTTP status 302"),
            ("HTTP/1.1 503 x\r\ncontent-length: 0", b"", "HTTP status 503"),
            (OK, b" " * 300_000, "longer than 256 KiB"),
            (OK + "\r\ncontent-length: 99999999999", b" " * 300_000, "longer than 256 KiB"),
            (OK + "\r\ncontent-encoding: gzip", gzip.compress(b" " * 10_000_000), "not JSON"),
            (OK + "\r\nx: " + "y" * 100_000, b"", "not answer with HTTP"),
            ("SSH-2.0-OpenSSH_9.2", b"", "not answer with HTTP"),
            (OK + "\r\ntransfer-encoding: chunked", b"zz\r\n", "not answer with HTTP"),
            (OK + "\r\ncontent-length: 500", b"{", "not answer with HTTP"),
            ("", b"", "not answer with HTTP"),
        ],
    )
    async def test_misbehaviour(self, head: str, body: bytes, reason: str) -> None:
        report = await ask(sends(head, body))
        assert isinstance(report, Unreadable)
        assert reason in report.reason

    async def test_silence(self) -> None:
        async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read()

        assert await ask(handler, timeout=0.1) == Unreadable("no answer within 0.1 s")

    async def test_a_drip(self) -> None:
        """The time is for all of it, not for each byte."""

        async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(OK.encode() + b"\r\n\r\n")
            while not reader.at_eof():
                writer.write(b" ")
                await writer.drain()
                try:
                    async with asyncio.timeout(0.02):
                        if not await reader.read(4096):
                            return
                except TimeoutError:
                    continue

        began = time.monotonic()
        assert await ask(handler, timeout=0.2) == Unreadable("no answer within 0.2 s")
        assert time.monotonic() - began < 2

    async def test_nobody_listens(self) -> None:
        async with answering(sends(OK, GOOD)) as target:
            pass
        poller = StatusPoller()
        assert await poller.poll([target]) == {target.uid: Unreadable("no connection to the admin port")}
        await poller.close()

    @pytest.mark.parametrize(
        "changes",
        [{"ip": ""}, {"phase": "Failed"}, {"phase": "Succeeded"}],
    )
    async def test_pods_that_cannot_be_asked(self, changes: dict[str, Any]) -> None:
        assert await StatusPoller().poll([PodView.of(pod(**changes))]) == {}

    async def test_pods_on_their_way_out(self) -> None:
        leaving = pod()
        leaving["metadata"]["deletionTimestamp"] = "2026-11-23T12:00:00Z"
        assert await StatusPoller().poll([PodView.of(leaving)]) == {}

    @pytest.mark.parametrize("ip", ["evil.example", "127.0.0.1:80/x?", "10.0.0.256", "10.0.0.1@evil.example"])
    async def test_an_address_that_is_none(self, ip: str) -> None:
        poller = StatusPoller()
        assert list((await poller.poll([PodView.of(pod(ip=ip))])).values()) == [Unreadable("the pod's address is none")]
        await poller.close()

    async def test_not_too_many_at_a_time(self) -> None:
        open_now, most = 0, 0
        everybody = asyncio.Event()

        async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal open_now, most
            open_now += 1
            most = max(most, open_now)
            if open_now == 3:
                everybody.set()
            await reader.readuntil(b"\r\n\r\n")
            await everybody.wait()
            open_now -= 1
            writer.write(OK.encode() + b"\r\n\r\n" + GOOD)

        poller = StatusPoller(concurrency=3, timeout=10)
        async with answering(handler) as target:
            port = target.admin_port
            raws = [pod(f"web-1-{number}", ip="127.0.0.1") for number in range(12)]
            for raw in raws:
                raw["spec"]["containers"][0]["ports"][1]["containerPort"] = port
            reports = await poller.poll([PodView.of(raw) for raw in raws])
        await poller.close()
        assert len(reports) == 12
        assert all(isinstance(report, SidecarReport) for report in reports.values())
        assert most == 3

    async def test_one_slow_pod_does_not_hold_up_the_others(self) -> None:
        async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read()

        poller = StatusPoller(concurrency=2, timeout=0.5)
        async with answering(silent) as slow, answering(sends(OK, GOOD)) as good:
            raw = pod("web-1-b", ip="127.0.0.1")
            raw["spec"]["containers"][0]["ports"][1]["containerPort"] = good.admin_port
            reports = await poller.poll([slow, PodView.of(raw)])
        await poller.close()
        assert isinstance(reports["web-1-b-uid"], SidecarReport)
        assert isinstance(reports[slow.uid], Unreadable)

    async def test_cancelled(self) -> None:
        asked = asyncio.Event()

        async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            asked.set()
            await reader.read()

        poller = StatusPoller(timeout=30)
        async with answering(handler) as target:
            polling = asyncio.create_task(poller.poll([target]))
            await asked.wait()
            polling.cancel()
            with pytest.raises(asyncio.CancelledError):
                await polling
        await poller.close()
