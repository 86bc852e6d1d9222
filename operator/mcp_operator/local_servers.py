"""The MCPServers of some files, each with a sidecar on this machine: started, changed, stopped as the files say.

A change that a running sidecar can take up is only written; for any other it is started anew, as pods would be
replaced. A bad change is told and what ran before goes on. What is shown of all this is left to the reporter.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import socket
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from mcp_operator.local_folder import ServerFolder
from mcp_operator.local_plan import SESSION_KEY, LocalPlan
from mcp_operator.local_sidecar import LocalSidecar, State
from mcp_sidecar.config import ConfigError, parse_duration

POLL = 0.25
"""Seconds between two looks at the files. A change counts once two looks in a row find the same."""

Key = tuple[str, str]
Plans = Mapping[Key, "LocalPlan | Refused"]
Signature = object


@dataclass(frozen=True)
class Refused:
    """An MCPServer that cannot run here."""

    name: str
    namespace: str
    kind: str
    why: str


class Reporter(Protocol):
    """Shows people what happens."""

    def server(self, plan: LocalPlan | Refused, url: str, state: State) -> None:
        """A server's state is another one."""

    def line(self, name: str, line: str) -> None:
        """A sidecar wrote a line."""

    def problems(self, error: ConfigError) -> None:
        """The files cannot be used as they are now; what ran before goes on."""


class PortsTakenError(Exception):
    """No port can be had; the message says which was wanted."""


class Ports:
    """Which server listens where: a server keeps its port, the first ones get the first ports."""

    def __init__(self, first: int, *, exact: bool, free: Callable[[int], bool] | None = None) -> None:
        """With `exact` the first port must be free; else the next one is taken."""
        self._first = first
        self._exact = exact
        self._free = free or is_free
        self._given: dict[Key, int] = {}

    def of(self, key: Key) -> int:
        """The port of a server. Raises PortsTakenError."""
        if key not in self._given:
            self._given[key] = self._next()
        return self._given[key]

    def release(self, key: Key) -> None:
        """The server is gone."""
        self._given.pop(key, None)

    def _next(self) -> int:
        taken = set(self._given.values())
        for port in range(self._first, min(self._first + 1000, 65536)):
            if port in taken:
                continue
            if self._free(port):
                return port
            if self._exact and not taken:
                raise PortsTakenError(f"port {port} is taken; choose another with --port")
        raise PortsTakenError(f"no port from {self._first} on is free; choose others with --port")


def is_free(port: int) -> bool:
    """Whether nobody listens on `port` of 127.0.0.1 at this moment."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the sidecar does
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


class _Shown:
    """What people were told of one server: a failure once, until it is well again or is another one.

    A server that fails again and again mostly says two or three things in turn, for ever.
    """

    def __init__(self) -> None:
        self._last: State | None = None
        self._since_well: deque[State] = deque(maxlen=32)

    def is_news(self, state: State) -> bool:
        """Whether the state is another one, and was not told since the server was well."""
        if state == self._last:
            return False
        self._last = state
        if state.phase in ("Ready", "Refused"):
            self._since_well.clear()
        elif state in self._since_well:
            return False
        else:
            self._since_well.append(state)
        return True


@dataclass
class _Running:
    plan: LocalPlan
    folder: ServerFolder
    sidecar: LocalSidecar
    task: asyncio.Task[None]


class LocalServers:
    """Everything that runs."""

    def __init__(
        self,
        *,
        load: Callable[[], Plans],
        look: Callable[[], Signature],
        folder: Path,
        ports: Ports,
        reporter: Reporter,
        session_key: Callable[[], bytes],
    ) -> None:
        """`load` reads the files anew (raises ConfigError); `look` is cheap and differs where they do."""
        self._load = load
        self._look = look
        self._folder = folder
        self._ports = ports
        self._reporter = reporter
        self._session_key = session_key
        self._keys: dict[Key, bytes] = {}
        self._running: dict[Key, _Running] = {}
        self._shown: dict[Key, _Shown] = {}

    def reserve(self, plans: Plans) -> None:
        """Give each server of `plans` its port. Raises PortsTakenError."""
        for key, wanted in plans.items():
            if isinstance(wanted, LocalPlan):
                self._ports.of(key)

    async def run(self, plans: Plans, ended: asyncio.Event) -> None:
        """Run `plans`, and what the files say later, until `ended` is set; then nothing of it runs any more."""
        seen = self._look()
        async with asyncio.TaskGroup() as tasks:
            try:
                await self._apply(plans, tasks)
                while not ended.is_set():
                    seen = await self._next_change(seen, ended)
                    if not ended.is_set():
                        await self._reload(tasks)
            finally:
                await self._stop([*self._running])

    def hurry(self) -> None:
        """End without waiting for calls in flight."""
        for one in self._running.values():
            one.sidecar.hurry()

    async def _next_change(self, seen: Signature, ended: asyncio.Event) -> Signature:
        """Wait for the files to change and to rest; or for the end."""
        before = seen
        while not ended.is_set():
            try:
                async with asyncio.timeout(POLL):
                    await ended.wait()
            except TimeoutError:
                now = self._look()
                if now == before and now != seen:
                    return now
                before = now
        return seen

    async def _reload(self, tasks: asyncio.TaskGroup) -> None:
        try:
            plans = await asyncio.to_thread(self._load)
        except ConfigError as error:
            self._reporter.problems(error)
            return
        await self._apply(plans, tasks)

    async def _apply(self, plans: Plans, tasks: asyncio.TaskGroup) -> None:
        gone = [key for key in self._running if isinstance(plans.get(key, None), Refused | None)]
        renewed = [
            key
            for key, running in self._running.items()
            if key not in gone
            and isinstance(plan := plans[key], LocalPlan)
            and (plan.generation, plan.scheme) != (running.plan.generation, running.plan.scheme)
        ]
        removed = {key: self._running[key].plan for key in gone if key not in plans}
        await self._stop([*gone, *renewed])
        for key, plan in removed.items():
            self._shown.pop(key, None)
            self._reporter.server(plan, "", State("Ended", "stopped: it is not in the files any more"))
            self._ports.release(key)
        for key, wanted in plans.items():
            if isinstance(wanted, Refused):
                self._show(wanted, "", State("Refused", f"cannot run here: {wanted.why}"))
            elif key in self._running:
                self._change(self._running[key], wanted)
            elif wanted.missing:
                self._show(wanted, "", State("Refused", f"not started: {'; '.join(wanted.missing)}"))
            else:
                self._start(key, wanted, tasks)

    def _start(self, key: Key, plan: LocalPlan, tasks: asyncio.TaskGroup) -> None:
        try:
            port = self._ports.of(key)
        except PortsTakenError as error:
            self._show(plan, "", State("Refused", str(error)))
            return
        folder = ServerFolder(self._folder / f"{plan.namespace}.{plan.name}")
        url = f"{plan.scheme}://127.0.0.1:{port}/mcp"
        folder.write(self._files(key, plan, folder))
        sidecar = LocalSidecar(
            name=plan.name,
            config=folder.path / ServerFolder.CONFIG,
            port=port,
            environ=plan.environment(str(folder.path)),
            grace=_grace(plan),
            on_state=lambda state: self._show(self._running[key].plan, url, state),
            on_line=lambda line: self._reporter.line(plan.name, line),
            on_config=lambda file_hash: self._confirm(key, file_hash),
        )
        self._shown.pop(key, None)
        self._show(plan, url, sidecar.state)
        self._running[key] = _Running(plan, folder, sidecar, tasks.create_task(self._own(sidecar, plan, url)))

    async def _own(self, sidecar: LocalSidecar, plan: LocalPlan, url: str) -> None:
        try:
            await sidecar.run()
        except OSError as error:
            self._show(plan, url, State("Ended", f"the sidecar cannot be started: {error.strerror or error}"))

    def _change(self, running: _Running, plan: LocalPlan) -> None:
        """Write what has changed; the sidecar finds it."""
        key = plan.key
        files = self._files(key, plan, running.folder)
        before = running.plan
        running.plan = plan
        if not running.folder.write(files):
            return
        self._shown.pop(key, None)
        if plan.config != before.config:
            self._reporter.line(plan.name, "a new config is written")

    def _confirm(self, key: Key, file_hash: str) -> None:
        """A sidecar says which config it runs."""
        running = self._running.get(key)
        if running is None:
            return
        text = running.plan.placed(str(running.folder.path))
        if file_hash == hashlib.sha256(text.encode()).hexdigest()[:16]:
            self._reporter.line(running.plan.name, f"config {file_hash} is in use")

    def _files(self, key: Key, plan: LocalPlan, folder: ServerFolder) -> dict[str, bytes]:
        own = self._keys.setdefault(key, self._session_key())
        config = plan.placed(str(folder.path)).encode()
        return {SESSION_KEY: own, **plan.files, ServerFolder.CONFIG: config}

    async def _stop(self, keys: Sequence[Key]) -> None:
        stopped = [self._running[key] for key in keys]
        for one in stopped:
            one.task.cancel()
        if stopped:
            await asyncio.wait([one.task for one in stopped])
        for key, one in zip(keys, stopped, strict=True):
            one.folder.remove()
            del self._running[key]

    def _show(self, plan: LocalPlan | Refused, url: str, state: State) -> None:
        key = (plan.namespace, plan.name)
        if self._shown.setdefault(key, _Shown()).is_news(state):
            self._reporter.server(plan, url, state)


def _grace(plan: LocalPlan) -> float:
    period = json.loads(plan.config).get("shutdown", {}).get("gracePeriod", 25.0)
    return float(parse_duration(period))
