"""The command `up`: MCPServers on this machine, without a cluster. Reads the files, shows a table, ends on Ctrl-C.

What runs and when is in `local_servers`; how an MCPServer becomes a sidecar here is in `local_plan`.
"""

from __future__ import annotations

import asyncio
import importlib.util
import io
import os
import secrets
import signal
import sys
from collections.abc import Mapping, Sequence

from mcp_operator.config import OperatorConfig
from mcp_operator.documents import MAX_BYTES, STDIN, Document, files_of, read
from mcp_operator.local_folder import base_directory, private_folder
from mcp_operator.local_plan import CannotRunError, LocalPlan, plan
from mcp_operator.local_servers import Key, LocalServers, Ports, PortsTakenError, Refused
from mcp_operator.local_sidecar import State
from mcp_sidecar.config import ConfigError, Problem

FIRST_PORT = 8080
SESSION_KEY_BYTES = 32
_NEEDED = ("cryptography", "httptools", "msgspec", "uvloop")
_COLOURS = {"Ready": "32", "Failing": "31", "Ended": "31", "Refused": "33"}


def up(
    places: Sequence[str],
    *,
    namespace: str,
    port: int | None,
    stand_ins: Mapping[str, str],
    without_images: bool,
    verbose: bool,
) -> int:
    """Run the MCPServers of `places` until SIGINT, SIGTERM or SIGHUP. Raises ConfigError with all that is wrong."""
    missing = [package for package in _NEEDED if importlib.util.find_spec(package) is None]
    if missing:
        return _fail(f"the sidecar is not installed ({missing[0]}): pip install 'outrigger-mcp[operator,sidecar]'", 1)
    files = _Files(places, namespace, stand_ins, without_images=without_images)
    plans = files.load()
    if not any(isinstance(one, LocalPlan) for one in plans.values()):
        raise ConfigError([Problem(one.name, one.why) for one in plans.values() if isinstance(one, Refused)])
    table = _Table([one.name for one in plans.values()], verbose=verbose)
    for one in plans.values():
        for note in one.notes if isinstance(one, LocalPlan) else ():
            _say(f"{one.name}: {note}")
    for document in files.ignored:
        _say(f"{document.place} is left out: only MCPServers, Secrets and ConfigMaps have a meaning here")
    try:
        with private_folder(base_directory(os.environ)) as folder:
            servers = LocalServers(
                load=files.load,
                look=files.look,
                folder=folder,
                ports=Ports(port or FIRST_PORT, exact=port is not None),
                reporter=table,
                session_key=lambda: secrets.token_bytes(SESSION_KEY_BYTES),
            )
            servers.reserve(plans)
            asyncio.run(_until_signal(servers, plans))
    except (PortsTakenError, OSError) as error:
        return _fail(getattr(error, "strerror", None) or str(error), 1)
    except ExceptionGroup as group:
        disk, others = group.split(OSError)
        if disk is None or others is not None:
            raise
        return _fail(f"cannot go on: {disk.exceptions[0]}", 1)
    return 0


async def _until_signal(servers: LocalServers, plans: Mapping[Key, LocalPlan | Refused]) -> None:
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()

    def end() -> None:
        if ended.is_set():
            servers.hurry()
        else:
            _say("ending; calls in flight may finish (again: at once)")
        ended.set()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, end)
    await servers.run(plans, ended)


class _Files:
    """The files as they are now, as plans."""

    def __init__(
        self, places: Sequence[str], namespace: str, stand_ins: Mapping[str, str], *, without_images: bool
    ) -> None:
        self._places = places
        self._namespace = namespace
        self._stand_ins = stand_ins
        self._without_images = without_images
        self._stdin = sys.stdin.buffer.read(MAX_BYTES + 1) if STDIN in places else b""
        self._config = OperatorConfig()
        self.ignored: tuple[Document, ...] = ()

    def load(self) -> dict[Key, LocalPlan | Refused]:
        """A plan for each MCPServer, in the order of the files. Raises ConfigError."""
        documents, problems = read(self._places, namespace=self._namespace, stdin=io.BytesIO(self._stdin))
        self.ignored = documents.others
        if not documents.servers and not problems:
            problems.append(Problem("", f"there is no MCPServer in {', '.join(self._places)}"))
        unknown = self._stand_ins.keys() - {document.name for document in documents.servers}
        problems += [Problem(f"--server {name}", "names no MCPServer of the files") for name in sorted(unknown)]
        plans: dict[Key, LocalPlan | Refused] = {}
        for document in documents.servers:
            key = (document.namespace, document.name)
            try:
                plans[key] = plan(
                    document,
                    documents,
                    self._config,
                    stand_in=self._stand_ins.get(document.name),
                    without_images=self._without_images,
                )
            except CannotRunError as error:
                kind = next(iter(document.content["spec"].keys() & {"stdio", "http", "remote"}))
                plans[key] = Refused(document.name, document.namespace, kind, str(error))
            except ConfigError as error:
                problems += error.problems
        if problems:
            raise ConfigError(problems)
        return plans

    def look(self) -> object:
        """Something that differs where the files do."""
        found = []
        for place in self._places:
            try:
                files = files_of(place) if place != STDIN else []
                for path in files:
                    stat = path.stat()
                    found.append((str(path), stat.st_ino, stat.st_size, stat.st_mtime_ns))
            except OSError as error:
                found.append((place, error.errno or 0, 0, 0))
        return tuple(found)


class _Table:
    """Rows as something becomes of a server; log lines between them where they are wanted."""

    def __init__(self, names: Sequence[str], *, verbose: bool) -> None:
        self._width = max(4, *(len(name) for name in names))
        self._verbose = verbose
        self._headed = False
        self._colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")

    def server(self, plan: LocalPlan | Refused, url: str, state: State) -> None:
        """A row."""
        if not self._headed:
            self._headed = True
            self._row("NAME", "KIND", "URL", "STATUS")
        text = _printable(state.text or state.phase.lower())
        if self._colour and (code := _COLOURS.get(state.phase)):
            text = f"\033[{code}m{text}\033[0m"
        self._row(plan.name, plan.kind, url or "-", text)

    def line(self, name: str, line: str) -> None:
        """A line of a log."""
        if self._verbose:
            print(f"{name:<{self._width}} | {_printable(line)}", file=sys.stderr, flush=True)

    def problems(self, error: ConfigError) -> None:
        """Why the files are not used as they are now."""
        _say("the files cannot be used as they are now; what ran before goes on")
        for path, message in error.problems:
            print(f"  {path}: {message}" if path else f"  {message}", file=sys.stderr, flush=True)

    def _row(self, name: str, kind: str, url: str, status: str) -> None:
        print(f"{name:<{self._width}}  {kind:<6}  {url:<26}  {status}", flush=True)


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else " " for character in text)


def _say(text: str) -> None:
    print(f"outrigger: {text}", file=sys.stderr, flush=True)


def _fail(text: str, code: int) -> int:
    _say(text)
    return code
