"""How an HTTP upstream is reached: names, TLS, client certificates, proxies; and what it is called when it is not."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import shutil
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from certificates import Authority
from fault_server import FaultServer, SeenRequest, Wire, answer, answer_ok
from http_upstreams import bounded, exchanged, http_upstream, make_call
from mcp_sidecar.errors import Delivery, Reason, UpstreamError
from mcp_sidecar.upstream import dial
from mcp_sidecar.upstream.dial import TlsSettings

LOOPS = ("asyncio", "uvloop")


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


async def refused(upstream: object) -> UpstreamError:
    with pytest.raises(UpstreamError) as caught:
        await exchanged(upstream)  # type: ignore[arg-type]
    assert caught.value.delivery is Delivery.NOT_SENT
    return caught.value


async def test_tls_with_an_own_ca(authority: Authority) -> None:
    tls = TlsSettings(ca_file=authority.ca_file)
    async with (
        FaultServer(answer_ok, ssl=authority.server_context()) as server,
        http_upstream(server.url, dial={"tls": tls}) as upstream,
    ):
        for _ in range(3):
            await exchanged(upstream)
        await exchanged(upstream, make_call(params=b'{"x":"%b"}' % (b"x" * 3_000_000)))
        assert server.connections == 1
        assert server.requests[0].headers["host"] == f"127.0.0.1:{server.port}"


async def test_a_ca_that_is_not_trusted(authority: Authority) -> None:
    async with (
        FaultServer(answer_ok, ssl=authority.server_context()) as server,
        http_upstream(server.url) as upstream,
    ):
        error = await refused(upstream)
        assert error.reason is Reason.TLS_FAILED
        assert "certificate not accepted" in error.message
        assert server.requests == []


@pytest.mark.parametrize("fault", ["expired", "another host"])
async def test_a_certificate_that_does_not_hold(authority: Authority, fault: str) -> None:
    if fault == "expired":
        context = authority.server_context(expired=True)
    else:
        context = authority.server_context(ips=(), names=("elsewhere.test",))
    tls = TlsSettings(ca_file=authority.ca_file)
    async with FaultServer(answer_ok, ssl=context) as server, http_upstream(server.url, dial={"tls": tls}) as upstream:
        assert (await refused(upstream)).reason is Reason.TLS_FAILED
        assert server.requests == []


async def test_the_server_name_can_be_another(authority: Authority) -> None:
    context = authority.server_context(ips=(), names=("elsewhere.test",))
    tls = TlsSettings(ca_file=authority.ca_file, server_name="elsewhere.test")
    async with FaultServer(answer_ok, ssl=context) as server, http_upstream(server.url, dial={"tls": tls}) as upstream:
        await exchanged(upstream)


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
async def test_tls_below_1_2_is_not_spoken(authority: Authority) -> None:
    context = authority.server_context()
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.TLSv1
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    tls = TlsSettings(ca_file=authority.ca_file)
    async with FaultServer(answer_ok, ssl=context) as server, http_upstream(server.url, dial={"tls": tls}) as upstream:
        assert (await refused(upstream)).reason is Reason.TLS_FAILED


async def test_a_server_that_does_not_speak_tls(authority: Authority) -> None:
    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(plain, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with http_upstream(f"https://127.0.0.1:{port}/mcp") as upstream:
        assert (await refused(upstream)).reason is Reason.TLS_FAILED
    server.close()


async def test_a_client_certificate(authority: Authority, tmp_path: Path) -> None:
    cert_file, key_file = authority.issue("client", client=True)
    context = authority.server_context(client_ca=authority.ca_file)
    context.maximum_version = ssl.TLSVersion.TLSv1_2  # in 1.3 the client is refused only after its handshake
    async with FaultServer(answer_ok, ssl=context) as server:
        tls = TlsSettings(authority.ca_file, cert_file, key_file)
        async with http_upstream(server.url, dial={"tls": tls}) as upstream:
            await exchanged(upstream)
        async with http_upstream(server.url, dial={"tls": TlsSettings(authority.ca_file)}) as upstream:
            assert (await refused(upstream)).reason is Reason.TLS_FAILED


async def test_a_rotated_ca_is_used_by_new_connections_and_ends_the_old_ones(tmp_path: Path) -> None:
    old, new = Authority(tmp_path, "old"), Authority(tmp_path, "new")
    ca_file = tmp_path / "ca.pem"
    shutil.copy(old.ca_file, ca_file)
    tls = TlsSettings(ca_file=ca_file)
    async with (
        FaultServer(answer_ok, ssl=old.server_context("a")) as server,
        http_upstream(server.url, dial={"tls": tls}) as upstream,
    ):
        await exchanged(upstream)
        await server.stop()
        server._ssl = new.server_context("b")
        await server.listen()
        async with asyncio.timeout(5):
            while upstream.pool.size:
                await asyncio.sleep(0.001)
        assert (await refused(upstream)).reason is Reason.TLS_FAILED
        shutil.copy(new.ca_file, ca_file)
        await exchanged(upstream)
        assert upstream.pool.generation == 1


async def test_a_broken_ca_file_leaves_the_old_one_in_use(authority: Authority, tmp_path: Path) -> None:
    ca_file = tmp_path / "ca.pem"
    shutil.copy(authority.ca_file, ca_file)
    tls = TlsSettings(ca_file=ca_file)
    async with (
        FaultServer(answer_ok, ssl=authority.server_context()) as server,
        http_upstream(server.url, dial={"tls": tls}) as upstream,
    ):
        await exchanged(upstream)
        ca_file.write_text("half a file")
        upstream.rotate()
        await exchanged(upstream)
        assert server.connections == 2
        assert "TLS files" in upstream.status()["problem"]
        ca_file.unlink()
        upstream.rotate()
        await exchanged(upstream)
        shutil.copy(authority.ca_file, ca_file)
        upstream.rotate()
        await exchanged(upstream)
        assert "problem" not in upstream.status()


async def test_files_that_never_were_good() -> None:
    tls = TlsSettings(ca_file=Path("no/such/ca.pem"))
    async with http_upstream("https://127.0.0.1:1/mcp", dial={"tls": tls}) as upstream:
        error = await refused(upstream)
        assert error.reason is Reason.TLS_FAILED
        assert "ca.pem" in error.message


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://127.0.0.1:1/mcp", "refused"),
        ("http://no-such-host.invalid/mcp", "name not resolved"),
    ],
)
async def test_what_cannot_be_reached(url: str, words: str) -> None:
    async with http_upstream(url) as upstream:
        error = await refused(upstream)
        assert error.reason is Reason.CONNECT_FAILED
        assert words in error.message.lower()


async def test_the_connect_time_covers_a_silent_tls_server() -> None:
    silent = socket.socket()
    silent.bind(("127.0.0.1", 0))
    silent.listen(1)
    url = f"https://127.0.0.1:{silent.getsockname()[1]}/mcp"
    async with http_upstream(url, dial={"connect_timeout": 0.1}) as upstream:
        error = await refused(upstream)
        assert error.reason is Reason.TLS_FAILED
        assert "within 0.1 s" in error.message
    silent.close()


@pytest.mark.parametrize(
    "host", ["169.254.169.254", "[fe80::1]", "[::ffff:169.254.169.254]", "[64:ff9b::a9fe:a9fe]", "metadata.test"]
)
async def test_link_local_addresses_are_refused_after_resolution(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = dial._lookup

    async def lookup(name: str, port: int) -> list[dial._Address]:
        return await real("169.254.10.10" if name == "metadata.test" else name, port)

    monkeypatch.setattr(dial, "_lookup", lookup)
    async with http_upstream(f"http://{host}/mcp") as upstream:
        error = await refused(upstream)
        assert error.reason is Reason.CONNECT_FAILED
        assert "link-local" in error.message


@pytest.mark.parametrize("allowed", [True, False])
async def test_link_local_addresses_can_be_allowed(allowed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dial, "is_link_local", lambda address: address == "127.0.0.1")
    async with (
        FaultServer(answer_ok) as server,
        http_upstream(server.url, dial={"allow_link_local": allowed}) as upstream,
    ):
        if allowed:
            await exchanged(upstream)
        else:
            assert "link-local" in (await refused(upstream)).message


@contextmanager
def silent_port() -> Iterator[int]:
    """A port that drops connections: its backlog is full and nobody accepts."""
    with socket.socket() as listener, contextlib.ExitStack() as stack:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(3):
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


async def test_the_next_address_is_tried_when_one_is_silent_or_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    with silent_port() as silent:
        async with FaultServer(answer_ok) as server:

            async def lookup(name: str, port: int) -> list[dial._Address]:
                return [(socket.AF_INET, ("127.0.0.1", port)) for port in (1, silent, server.port)]

            monkeypatch.setattr(dial, "_lookup", lookup)
            async with http_upstream(f"http://several.test:{server.port}/mcp") as upstream:
                await exchanged(upstream)
                assert server.requests[0].headers["host"] == f"several.test:{server.port}"


async def test_the_connect_time_covers_a_silent_address() -> None:
    with silent_port() as silent:
        async with http_upstream(f"http://127.0.0.1:{silent}/mcp", dial={"connect_timeout": 0.1}) as upstream:
            error = await refused(upstream)
            assert error.reason is Reason.CONNECT_FAILED
            assert "within 0.1 s" in error.message


async def test_a_slow_resolver_takes_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    lookups = 0
    go = asyncio.Event()

    async def lookup(name: str, port: int) -> list[dial._Address]:
        nonlocal lookups
        lookups += 1
        await go.wait()
        return [(socket.AF_INET, ("127.0.0.1", port))]

    monkeypatch.setattr(dial, "_lookup", lookup)
    async with FaultServer(answer_ok) as server:
        url = f"http://slow.test:{server.port}/mcp"
        async with http_upstream(url, dial={"connect_timeout": 0.1}) as upstream:
            results = await asyncio.gather(*(upstream.exchange(make_call()) for _ in range(5)), return_exceptions=True)
            assert all(isinstance(r, UpstreamError) for r in results)
            assert lookups == 1
            go.set()
            await exchanged(upstream)


class Proxy:
    """A forward proxy: CONNECT and absolute-form requests."""

    def __init__(self, status: int = 200) -> None:
        self.status = status
        self.heads: list[str] = []

    async def __aenter__(self) -> Proxy:
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *args: object) -> None:
        self.server.close()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        self.heads.append(head)
        method, target, _ = head.split(" ", 2)
        if method != "CONNECT":
            length = next(int(x.split(":")[1]) for x in head.split("\r\n") if x.lower().startswith("content-length"))
            body = await reader.readexactly(length)
            await answer_ok(SeenRequest(method, target, {}, body, 0, 0), Wire(reader, writer))
            writer.close()
            return
        writer.write(f"HTTP/1.1 {self.status} X\r\nX-Filler: 1\r\n\r\n".encode())
        if self.status != 200:
            writer.close()
            return
        port = int(target.rpartition(":")[2])
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", port)

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            try:
                while data := await source.read(65536):
                    sink.write(data)
            except ConnectionError:
                pass
            sink.close()

        await asyncio.gather(pump(reader, up_writer), pump(up_reader, writer))


async def test_a_tunnel_through_a_proxy(authority: Authority) -> None:
    context = authority.server_context(ips=(), names=("mcp.test",))
    tls = TlsSettings(ca_file=authority.ca_file)
    async with FaultServer(answer_ok, ssl=context) as server, Proxy() as proxy:
        environ = {"HTTPS_PROXY": f"http://user:p%40ss@127.0.0.1:{proxy.port}"}
        url = f"https://mcp.test:{server.port}/mcp"
        async with http_upstream(url, environ=environ, dial={"tls": tls}) as upstream:
            await exchanged(upstream)
            await exchanged(upstream)
        assert len(proxy.heads) == 1
        assert proxy.heads[0].startswith(f"CONNECT mcp.test:{server.port} HTTP/1.1\r\n")
        assert f"Proxy-Authorization: Basic {base64.b64encode(b'user:p@ss').decode()}" in proxy.heads[0]
        assert "proxy-authorization" not in server.requests[0].headers


async def test_plain_requests_go_to_the_proxy_in_absolute_form() -> None:
    async with Proxy() as proxy:
        environ = {"http_proxy": f"http://user:secret@127.0.0.1:{proxy.port}"}
        async with http_upstream("http://mcp.test/mcp?a=1", environ=environ) as upstream:
            await exchanged(upstream)
            assert proxy.heads[0].startswith("POST http://mcp.test/mcp?a=1 HTTP/1.1\r\n")
            assert "Host: mcp.test\r\n" in proxy.heads[0]
            assert "Proxy-Authorization: Basic " in proxy.heads[0]
            assert "secret" not in str(upstream.status())


@pytest.mark.parametrize("status", [407, 502])
async def test_a_proxy_that_refuses(status: int) -> None:
    async with Proxy(status) as proxy:
        environ = {"https_proxy": f"http://user:topsecret@127.0.0.1:{proxy.port}"}
        async with http_upstream("https://mcp.test/mcp", environ=environ) as upstream:
            error = await refused(upstream)
            assert error.reason is Reason.CONNECT_FAILED
            assert f"the proxy answered {status}" in error.message
            assert "topsecret" not in error.message


@pytest.mark.parametrize("reply", [b"", b"SSH-2.0-x\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\nmore", b"x" * 20_000])
async def test_a_proxy_that_talks_nonsense(reply: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(reply)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    environ = {"https_proxy": f"127.0.0.1:{server.sockets[0].getsockname()[1]}"}
    async with http_upstream("https://mcp.test/mcp", environ=environ) as upstream:
        assert (await refused(upstream)).reason is Reason.CONNECT_FAILED
    server.close()


async def test_a_redirect_is_not_followed() -> None:
    async def elsewhere(request: SeenRequest, wire: Wire) -> None:
        raise AssertionError("followed")

    async def script(request: SeenRequest, wire: Wire) -> None:
        await wire.write(answer(b"", 307, "", f"Location: {other.url}\r\n"))

    async with (
        FaultServer(elsewhere) as other,
        FaultServer(script) as server,
        http_upstream(server.url, headers=lambda: [(b"Authorization", b"Bearer s")]) as upstream,
    ):
        with pytest.raises(UpstreamError) as caught:
            await bounded(upstream.exchange(make_call()))
        assert caught.value.status == 307
        assert other.connections == 0
