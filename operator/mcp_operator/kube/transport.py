"""One request, one answer: what is the same for all of them, whatever they mean.

Every request must be in `access.ACCESS`, has a time-out, is counted, waits for its turn where too many are under way,
and is stopped at the last moment where it would write and this replica does not lead. A failure is one of `errors`'
exceptions. Nothing is tried again here, but for credentials that have expired (`connection`): the work queue does that,
with a newer view of things. Bodies are never logged. Which requests there are is in `client`.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import msgspec
from yarl import URL

from mcp_operator.errors import NotFound, NotLeading, Unavailable
from mcp_operator.kube.access import ALLOWED
from mcp_operator.kube.answers import decoded, failure
from mcp_operator.kube.connection import Connection
from mcp_operator.kube.pace import Pace
from mcp_operator.kube.resources import LEASES, Resource

logger = logging.getLogger(__name__)

JSON = "application/json"

CONNECT_TIMEOUT = 5.0
"""Seconds until a connection is there, TLS not counted."""
WARNINGS = 256
"""Different warnings of the API server that are remembered, so that each is logged once."""

_METHODS = {
    "get": "GET",
    "list": "GET",
    "watch": "GET",
    "create": "POST",
    "update": "PUT",
    "patch": "PATCH",
    "delete": "DELETE",
}
_READS = ("get", "list", "watch")


@dataclass(frozen=True, slots=True)
class Limits:
    """How much is asked of the API server. Watches and the Lease are not counted."""

    qps: float = 500.0
    burst: int = 1000
    concurrency: int = 16
    timeout: float = 30.0
    """Seconds of one request."""


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked. `verb` is one of Kubernetes' own, as in `access`; `path` is escaped and has its query."""

    verb: str
    resource: Resource
    path: str
    subresource: str = ""
    accept: str = JSON
    body: Any = None
    content_type: str = JSON
    dry_run: bool = False

    @property
    def writes(self) -> bool:
        """Whether it changes something that only the leader may change."""
        return self.verb not in _READS and self.resource is not LEASES and not self.dry_run


class Transport:
    """Sends requests with one identity to one API server."""

    def __init__(self, connection: Connection, limits: Limits, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.fence: Callable[[], bool] = lambda: True
        """Whether this replica may write; asked just before each write."""
        self.requests: Counter[tuple[str, str, str]] = Counter()
        """(verb, resource, HTTP status or `error`) -> how many."""
        self.seconds: defaultdict[tuple[str, str], float] = defaultdict(float)
        """(verb, resource) -> seconds in all, of the requests that are not watches; waiting for a turn not counted."""
        self._server = connection.server
        self._session = connection.session()
        self._pace = Pace(limits.qps, limits.burst, limits.concurrency, clock=clock)
        self._timeout = aiohttp.ClientTimeout(total=limits.timeout, sock_connect=CONNECT_TIMEOUT)
        self._clock = clock
        self._warned: set[str] = set()

    async def close(self) -> None:
        """Close every connection."""
        await self._session.close()

    async def send(self, request: Request, *, timeout: float | None = None) -> dict[str, Any]:
        """The answer's object. `timeout` in seconds, where the usual one does not fit. Raises KubeError, NotLeading."""
        if request.resource is LEASES:  # must never wait behind others
            return await self._exchange(request, timeout)
        async with self._pace:
            return await self._exchange(request, timeout)

    async def _exchange(self, request: Request, timeout: float | None) -> dict[str, Any]:
        limit = self._timeout if timeout is None else aiohttp.ClientTimeout(total=timeout)
        started = self._clock()
        async with self.open(request, limit) as response:
            body = await response.read()
        self.seconds[request.verb, request.resource.plural] += self._clock() - started
        return decoded(body)

    async def discover(self, resource: Resource) -> dict[str, Any]:
        """The discovery document of the resource's group and version; empty where the API server has no such group.

        Needs no right of its own, so it is in no table: Kubernetes grants it to whoever is authenticated.
        """
        request = Request("get", resource, resource.group_path)
        try:
            async with self._pace, self._answer(request, self._timeout) as response:
                return decoded(await response.read())
        except NotFound:
            return {}

    @asynccontextmanager
    async def open(self, request: Request, timeout: aiohttp.ClientTimeout) -> AsyncIterator[aiohttp.ClientResponse]:
        """The answer as it comes: successes only. What breaks while it is read is Unavailable too."""
        verb, resource = request.verb, request.resource
        if (resource, request.subresource, verb) not in ALLOWED:
            raise AssertionError(f"{verb} {resource} {request.subresource} is not in access.ACCESS")
        if request.writes and not self.fence():
            raise NotLeading(f"{verb} {resource} was not sent: this replica does not lead")
        async with self._answer(request, timeout) as response:
            yield response

    @asynccontextmanager
    async def _answer(self, request: Request, timeout: aiohttp.ClientTimeout) -> AsyncIterator[aiohttp.ClientResponse]:
        verb, resource = request.verb, request.resource
        headers = {"Accept": request.accept, "Accept-Encoding": "identity"}  # the network is near, cores are few
        data = None
        if request.body is not None:
            data = msgspec.json.encode(request.body)
            headers["Content-Type"] = request.content_type
        code = "error"
        try:
            async with self._session.request(
                _METHODS[verb],
                URL(self._server + request.path, encoded=True),
                data=data,
                headers=headers,
                timeout=timeout,
                allow_redirects=False,
            ) as response:
                code = str(response.status)
                if not 200 <= response.status < 300:
                    raise failure(response.status, response.headers, await response.read())
                if "Warning" in response.headers:
                    self._warn(request, response.headers.getall("Warning"))
                yield response
        except TimeoutError as error:  # aiohttp's are also ClientErrors
            raise Unavailable(0, "Timeout", f"the API server did not answer {verb} {resource} in time") from error
        except (aiohttp.ClientError, OSError) as error:
            what = str(error) or type(error).__name__
            raise Unavailable(0, "Unreachable", f"the API server cannot be reached: {what}") from error
        finally:
            self.requests[verb, resource.plural, code] += 1

    def _warn(self, request: Request, warnings: list[str]) -> None:
        for warning in warnings:
            if warning not in self._warned and len(self._warned) < WARNINGS:
                self._warned.add(warning)
                logger.warning("the API server warns (%s %s): %s", request.verb, request.resource, warning)
