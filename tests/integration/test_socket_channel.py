"""upstream/socket_channel.py against a stand-in for the bridge: lines over a Unix socket, one process a connection."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from mcp_sidecar.errors import Delivery, Reason, UpstreamError
from mcp_sidecar.upstream.channel import StartError
from mcp_sidecar.upstream.multiplexer import Multiplexer
from mcp_sidecar.upstream.socket_channel import SocketChannel, SocketSettings


class Peer:
    def __init__(self) -> None:
        self.closed: list[UpstreamError] = []

    def on_notification(self, method: str, message: bytes) -> None: ...

    def on_request(self, id_raw: bytes, method: str, params: bytes | None, message: bytes) -> None: ...

    def on_closed(self, error: UpstreamError) -> None:
        self.closed.append(error)


class Bridge:
    """Answers every request; `hang-up` ends the connection, `hang` is never answered."""

    def __init__(self) -> None:
        self.finished = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            message = json.loads(line)
            if message["method"] == "hang-up":
                break
            if message["method"] != "hang":
                answer = {"jsonrpc": "2.0", "id": message["id"], "result": message["params"]}
                writer.write(json.dumps(answer).encode() + b"\n")
        self.finished += 1
        writer.close()


@asynccontextmanager
async def bridge(path: Path) -> AsyncIterator[Bridge]:
    made = Bridge()
    server = await asyncio.start_unix_server(made.serve, path)
    async with server:
        yield made


async def connect(path: Path, **options: float) -> tuple[Multiplexer, Peer]:
    channel = SocketChannel(SocketSettings(str(path), **options))  # type: ignore[arg-type]
    peer = Peer()
    mux = Multiplexer(channel, ids=itertools.count(1).__next__, clock=time.monotonic, peer=peer)
    await channel.open()
    return mux, peer


async def test_calls_over_the_socket_and_a_clean_end(tmp_path: Path) -> None:
    async with bridge(tmp_path / "s") as b:
        mux, peer = await connect(tmp_path / "s")
        replies = await asyncio.gather(*[mux.request("x", b'{"n":%d}' % n) for n in range(100)])
        assert [json.loads(r.result or b"")["n"] for r in replies] == list(range(100))
        await mux.channel.close("test")
        await mux.channel.close("again")
        assert b.finished == 1
        assert len(peer.closed) == 1


async def test_process_that_ends_fails_its_calls(tmp_path: Path) -> None:
    async with bridge(tmp_path / "s"):
        mux, _ = await connect(tmp_path / "s")
        waiting = asyncio.ensure_future(mux.request("hang", None))
        with pytest.raises(UpstreamError) as caught:
            await mux.request("hang-up", None)
        assert caught.value.reason is Reason.CHILD_EXITED
        assert caught.value.delivery is Delivery.MAYBE
        with pytest.raises(UpstreamError):
            await waiting
        with pytest.raises(UpstreamError) as caught:
            await mux.request("x", None)
        assert caught.value.delivery is Delivery.NOT_SENT
        await mux.channel.close("test")


async def test_bridge_that_does_not_hang_up_is_left(tmp_path: Path) -> None:
    async def stubborn(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        await release.wait()
        writer.close()

    release = asyncio.Event()
    server = await asyncio.start_unix_server(stubborn, tmp_path / "s")
    async with server:
        mux, _ = await connect(tmp_path / "s", end_grace=0.05)
        async with asyncio.timeout(5):
            await mux.channel.close("test")
        release.set()


@pytest.mark.parametrize(("name", "kind"), [("absent", "not_found"), ("file", "refused"), ("x" * 200, "other")])
async def test_unreachable_socket(tmp_path: Path, name: str, kind: str) -> None:
    (tmp_path / "file").touch()
    channel = SocketChannel(SocketSettings(str(tmp_path / name)))
    with pytest.raises(StartError, match=name[:20]) as caught:
        await channel.open()
    assert caught.value.kind == kind
    assert caught.value.reason is Reason.CONNECT_FAILED
    await channel.close("never opened")
