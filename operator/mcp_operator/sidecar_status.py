"""What the sidecars say of themselves: `/status` on the admin port of every pod, read without trusting the pod.

Whoever may create a Pod may answer here, so an answer is data of an enemy: it is read for one second and up to
256 KiB, over a connection of its own, without redirects, proxies, cookies or compression; it is parsed strictly, and
every string that is kept is cut and freed of what is not printable. What does not fit is `Unreadable`, with a reason
of ours. A report holds nothing that changes at rest: equal reports mean that there is nothing to write.

When to ask is left to the reconciler; what a report means to the user to status.py and diagnosis.py.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import aiohttp

from mcp_operator.observed import PodView

TIMEOUT = 1.0
MAX_BYTES = 256 * 1024
CONCURRENCY = 32
FIRST_MODERN = "2026-07-28"
"""The protocol's first revision of the modern era. Revisions are dates, so text compares as time does."""
CHECK = "(check)"
"""The method of a health check among a sidecar's last errors."""
FAILING_AFTER = 3
"""Failed checks in a row after which a server that never answered is not merely starting."""

_WORDS, _NAME, _HASH = 256, 128, 64
_MAX_LINES, _MAX_VERSIONS, _MAX_TOOLS = 5, 16, 1_000_000

Era = Literal["Modern", "Legacy"]


@dataclass(frozen=True, slots=True)
class ServerReport:
    """What a sidecar says of the server behind it. Texts are empty where there is nothing to say."""

    up: bool
    """It answers now."""
    answered: bool
    """It answered at least once, which is what makes a pod ready."""
    failing: bool
    """Its checks failed `FAILING_AFTER` times in a row or more."""
    refusing: bool
    """Its circuit breaker refuses calls, but for a few: they failed."""
    problem: str
    """Why the sidecar does not use it at all."""
    last_error: str
    call_error: str = field(compare=False)
    """What a call failed with, where `refusing`. Another one each time is no news."""
    stderr: tuple[str, ...]
    """The last lines of a process that does not run as it should."""
    secrets_problem: str
    secrets_generation: int
    name: str
    version: str
    protocol_versions: tuple[str, ...]
    eras: tuple[Era, ...]
    tools: int | None
    """None while they are not known in full."""


@dataclass(frozen=True, slots=True)
class SidecarReport:
    """What a sidecar says."""

    ready: bool
    reason: str
    shutting_down: bool
    file_hash: str
    """First 16 hex digits of SHA-256 of the text of the configuration that it runs."""
    last_refusal: tuple[str, ...]
    """What is wrong in a newer configuration, which it does not run."""
    server: ServerReport | None
    """None where it has none of the MCPServer's name."""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """No report could be had. `reason` is a phrase that follows "the status cannot be read: "."""

    reason: str


Report: TypeAlias = SidecarReport | Unreadable
Reports: TypeAlias = Mapping[str, Report]
"""By pod uid. A pod that is missing was not asked yet."""


class StatusPoller:
    """Asks pods for their status. `close` it on the loop it was used on."""

    def __init__(self, *, timeout: float = TIMEOUT, concurrency: int = CONCURRENCY, max_bytes: int = MAX_BYTES) -> None:
        """`timeout`: seconds for one pod, from the connect to the last byte. `concurrency`: pods asked at a time."""
        self._timeout = timeout
        self._concurrency = concurrency
        self._max_bytes = max_bytes
        self._session: aiohttp.ClientSession | None = None

    async def poll(self, pods: Iterable[PodView]) -> dict[str, Report]:
        """Ask every pod that can be asked (it has an address and is neither finished nor on its way out)."""
        askable = [pod for pod in pods if pod.ip and not pod.deleting and not pod.finished]
        if not askable:
            return {}
        session = self._session
        if session is None:
            session = self._session = self._open()
        reports: dict[str, Report] = {}
        waiting = iter(askable)
        async with asyncio.TaskGroup() as workers:
            for _ in range(min(self._concurrency, len(askable))):
                workers.create_task(self._work(session, waiting, reports))
        return reports

    async def close(self) -> None:
        """Close what is open."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _open(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            # The workers are the bound. A kept connection would serve one request a minute, to thousands of pods.
            connector=aiohttp.TCPConnector(limit=0, force_close=True),
            timeout=aiohttp.ClientTimeout(total=self._timeout),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            auto_decompress=False,
            headers={"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "outrigger-operator"},
        )

    async def _work(
        self, session: aiohttp.ClientSession, waiting: Iterator[PodView], reports: dict[str, Report]
    ) -> None:
        for pod in waiting:
            reports[pod.uid] = await self._ask(session, pod)

    async def _ask(self, session: aiohttp.ClientSession, pod: PodView) -> Report:
        url = _url(pod)
        if url is None:
            return Unreadable("the pod's address is none")
        try:
            async with session.get(url, allow_redirects=False) as answer:
                if answer.status != 200:
                    return Unreadable(f"the admin port answers with HTTP status {answer.status}")
                body = bytearray()
                async for chunk in answer.content.iter_any():
                    body += chunk
                    if len(body) > self._max_bytes:
                        return Unreadable(f"the answer is longer than {self._max_bytes >> 10} KiB")
        except TimeoutError:
            return Unreadable(f"no answer within {self._timeout:g} s")
        except aiohttp.ClientConnectorError:
            return Unreadable("no connection to the admin port")
        except (aiohttp.ClientError, OSError, ValueError):
            return Unreadable("the admin port does not answer with HTTP as it should be")
        return parse(bytes(body), pod.server)


def parse(body: bytes, server: str) -> Report:
    """The report in an answer. `server`: the name of the MCPServer, under which its sidecars know the server."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return Unreadable("the answer is not JSON")
    try:
        return _report(_object(found, "the answer"), server)
    except _Misfit as misfit:
        return Unreadable(f"the answer is not a sidecar's status: {misfit}")


class _Misfit(Exception):
    """A member is not what a sidecar writes. The message names the member, never its value."""


def _report(found: Mapping[str, Any], server: str) -> SidecarReport:
    config = _object(found.get("config"), "config")
    servers = _object(found.get("servers"), "servers")
    mine = servers.get(server)
    return SidecarReport(
        ready=_flag(found, "ready"),
        reason=_words(found.get("reason"), "reason"),
        shutting_down=_flag(found, "shuttingDown"),
        file_hash=_words(config.get("fileHash"), "config.fileHash", _HASH),
        last_refusal=_lines(config.get("lastRefusal"), "config.lastRefusal"),
        server=_server(_object(mine, "servers.*")) if mine is not None else None,
    )


def _server(found: Mapping[str, Any]) -> ServerReport:
    health = _object(found.get("health"), "health")
    tools = _object(found.get("tools"), "tools")
    secrets = _object(found.get("secrets"), "secrets")
    upstream = _object(found.get("upstream") or {}, "upstream")
    # Over stdio a server is `eras` and one version, over HTTP `era`, the newest, and all versions it named.
    versions = _lines(upstream.get("versions"), "upstream.versions", _HASH, _MAX_VERSIONS)
    if not versions and upstream.get("protocolVersion") is not None:
        versions = (_words(upstream["protocolVersion"], "upstream.protocolVersion", _HASH),)
    eras = set(_lines(upstream.get("eras"), "upstream.eras", _HASH)) | {
        _words(upstream.get("era"), "upstream.era", _HASH)
    }
    info = _object(upstream.get("serverInfo") or {}, "upstream.serverInfo")
    count = _number(tools, "count")
    breaker = _object(found.get("breaker") or {}, "breaker")
    refusing = breaker.get("refuses") is True  # older sidecars do not tell
    return ServerReport(
        up=_flag(found, "up"),
        answered=_flag(found, "answered"),
        failing=_number(health, "failuresInARow") >= FAILING_AFTER,
        problem=_words(found.get("problem"), "problem"),
        refusing=refusing,
        last_error=_words(health.get("lastError"), "health.lastError"),
        call_error=_call_error(found.get("lastErrors")) if refusing else "",
        stderr=_stderr(upstream.get("processes")),
        secrets_problem=_words(secrets.get("problem"), "secrets.problem"),
        secrets_generation=_number(secrets, "generation"),
        name=_words(info.get("name"), "upstream.serverInfo.name", _NAME),
        version=_words(info.get("version"), "upstream.serverInfo.version", _NAME),
        protocol_versions=versions,
        eras=_eras(eras, versions),
        tools=min(count, _MAX_TOOLS) if _flag(tools, "complete") else None,
    )


def _eras(named: set[str], versions: tuple[str, ...]) -> tuple[Era, ...]:
    dates = [version for version in versions if version[:2].isdigit()]
    modern = "modern" in named or any(version >= FIRST_MODERN for version in dates)
    legacy = "legacy" in named or any(version < FIRST_MODERN for version in dates)
    eras: tuple[Era, ...] = (*(("Modern",) if modern else ()), *(("Legacy",) if legacy else ()))
    return eras


def _call_error(errors: object) -> str:
    """The newest of a call. This is for people: what does not fit is left out."""
    found = [each for each in errors if isinstance(each, dict)] if isinstance(errors, list) else []
    message = next((each.get("message") for each in found if each.get("method") != CHECK), None)
    return clean(message, _WORDS) if isinstance(message, str) else ""


def _stderr(processes: object) -> tuple[str, ...]:
    """Of the first process that has any. These are for people: what does not fit is left out."""
    groups = processes.values() if isinstance(processes, dict) else ()
    for group in groups:
        slots = group.get("slots") if isinstance(group, dict) else None
        for slot in slots if isinstance(slots, list) else ():
            lines = slot.get("stderr") if isinstance(slot, dict) else None
            if isinstance(lines, list) and lines:
                return tuple(clean(line, _WORDS) for line in lines[-_MAX_LINES:] if isinstance(line, str))
    return ()


def clean(text: str, limit: int) -> str:
    """Printable text of at most `limit` characters. What would move a cursor or a reading direction becomes a space."""
    shown = "".join(character if character.isprintable() else " " for character in text[: 2 * limit]).strip()
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


def _url(pod: PodView) -> str | None:
    try:
        address = ipaddress.ip_address(pod.ip)
    except ValueError:
        return None
    host = f"[{address}]" if address.version == 6 else str(address)
    return f"http://{host}:{pod.admin_port}/status" if 0 < pod.admin_port < 65536 else None


def _object(value: object, name: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise _Misfit(f"{name} is no object")
    return value


def _flag(value: Mapping[str, Any], name: str) -> bool:
    found = value.get(name)
    if not isinstance(found, bool):
        raise _Misfit(f"{name} is neither true nor false")
    return found


def _number(value: Mapping[str, Any], name: str) -> int:
    found = value.get(name)
    if not isinstance(found, int) or isinstance(found, bool) or found < 0:
        raise _Misfit(f"{name} is no count")
    return found


def _words(value: object, name: str, limit: int = _WORDS) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise _Misfit(f"{name} is no text")
    return clean(value, limit)


def _lines(value: object, name: str, limit: int = _WORDS, most: int = _MAX_LINES) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list):
        raise _Misfit(f"{name} is no list")
    return tuple(_words(each, f"{name}[{index}]", limit) for index, each in enumerate(value[:most]))
