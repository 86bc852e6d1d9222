"""Replicas of one sidecar on addresses of loopback, and a front that spreads requests over them in turn.

A `Replica` is a sidecar as in a pod: an IP address of its own, the port and the key of sessions shared with the others.
`Spread` stands for a Service: each request goes to the next replica that takes connections, whoever holds its session.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import socket
import ssl
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sidecar_process import SidecarProcess, free_ports

KEY = "ab" * 32


class Replica(SidecarProcess):
    """A sidecar that listens on `address` and tells it the others."""

    def __init__(
        self, config: Mapping[str, Any], address: str, port: int, key: str = KEY, env: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(config, host=address, port=port, env={"OUTRIGGER__SESSIONS__ADDRESS": address, **(env or {})})
        key_file = self.directory / "session.key"
        key_file.write_text(key)
        self.config_path.write_text(
            json.dumps({**config, "sessions": {**config.get("sessions", {}), "keyFile": "session.key"}})
        )

    def forwarded(self, outcome: str = "answered") -> float:
        """Requests that it passed on."""
        return self.metrics().get(f'outrigger_forwarded_requests_total{{outcome="{outcome}"}}', 0.0)


@contextlib.contextmanager
def replicas(config: Mapping[str, Any], count: int = 2, **options: Any) -> Iterator[list[Replica]]:
    """So many replicas, ready, on 127.0.0.2 and up."""
    port = free_ports(1)[0]
    with contextlib.ExitStack() as stack:
        found = [Replica(config, f"127.0.0.{number + 2}", port, **options) for number in range(count)]
        for replica in found:
            stack.enter_context(replica)
        for replica in found:
            replica.wait_for("/readyz")
        yield found


class Spread:
    """A listener on 127.0.0.1 whose requests go to one replica after the other. A context manager."""

    def __init__(
        self,
        targets: Sequence[Replica],
        tls: ssl.SSLContext | None = None,
        *,
        address: tuple[str, int] = ("127.0.0.1", 0),
        own: ssl.SSLContext | None = None,
    ) -> None:
        """`tls` to the targets, `own` towards callers."""
        self.targets = list(targets)
        self.seen: Counter[str] = Counter()
        """Requests by the address they went to."""
        self._turn = itertools.count()
        self._tls = tls
        self._own = own
        self._socket = socket.create_server(address, backlog=128)
        self._stop = asyncio.Event()
        # A loop and not threads: OpenSSL does not let one thread read from a connection while another writes to it.
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),), daemon=True)

    @property
    def url(self) -> str:
        """Where callers go."""
        return f"http://127.0.0.1:{self._socket.getsockname()[1]}/mcp"

    def __enter__(self) -> Spread:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self._loop.close()

    async def _serve(self) -> None:
        relays: set[asyncio.Task[None]] = set()

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            relays.add(task)
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await self._relay(reader, writer)
            writer.close()
            relays.discard(task)

        server = await asyncio.start_server(accept, sock=self._socket, ssl=self._own)
        await self._stop.wait()
        server.close()
        for task in relays:
            task.cancel()
        await asyncio.gather(*relays)

    async def _relay(self, caller: asyncio.StreamReader, answers: asyncio.StreamWriter) -> None:
        lines, _, _ = (await caller.readuntil(b"\r\n\r\n")).partition(b"\r\n\r\n")
        kept = [line for line in lines.split(b"\r\n") if not line.lower().startswith(b"connection:")]
        connected = await self._connect()
        if connected is None:
            return
        source, sink = connected
        sink.write(b"\r\n".join([*kept, b"Connection: close"]) + b"\r\n\r\n")
        asking = asyncio.ensure_future(_pump(caller, sink))
        try:
            await _pump(source, answers)
        finally:
            asking.cancel()
            sink.close()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        for _ in self.targets:
            replica = self.targets[next(self._turn) % len(self.targets)]
            with contextlib.suppress(OSError):
                found = await asyncio.open_connection(replica.host, replica.port, ssl=self._tls)
                self.seen[replica.host] += 1
                return found
        return None


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    """What comes, as fast as it is taken, and its end."""
    sink.transport.set_write_buffer_limits(high=0)
    with contextlib.suppress(OSError):
        while data := await source.read(65536):
            sink.write(data)
            await sink.drain()
    with contextlib.suppress(OSError):
        if sink.can_write_eof():
            sink.write_eof()
        else:
            sink.close()


def sockets(pid: int) -> int:
    """Sockets that a process has open."""
    count = 0
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            count += str(link.readlink()).startswith("socket:")
    return count
