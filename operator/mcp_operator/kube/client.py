"""The requests that the operator makes: plain dicts in, plain dicts out.

Not the library's typed models: an object becomes a few hundred Python objects there, and a request costs several times
as much. Writes are server-side applies under one field manager. How a request travels, and how it fails, is in
`transport`; what is to be read again and again is an `informer`'s business.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager, suppress
from types import TracebackType
from typing import Any, NamedTuple, Self
from urllib.parse import urlencode

import aiohttp

from mcp_operator.errors import Conflict, NotFound
from mcp_operator.kube.answers import EventLines, WatchEvent
from mcp_operator.kube.connection import Connection
from mcp_operator.kube.resources import Resource, resource_of
from mcp_operator.kube.transport import CONNECT_TIMEOUT, JSON, Limits, Request, Transport

Object = dict[str, Any]

FIELD_MANAGER = "outrigger"
"""Owner of all fields that the operator applies."""
STATUS_MANAGER = "outrigger-status"
"""Owner of the status of MCPServers: an apply of one never removes what the other set."""

PAGE = 100
"""Objects of one page: a Deployment is 10 KB of JSON, and several times as much as dicts."""
WATCH_TIMEOUT = 300.0
"""Seconds after which the API server is asked to end a watch."""
INACTIVITY = 90.0
"""Seconds without a byte after which a watch is opened anew: it may be dead. Bookmarks, if any, come every minute."""

_APPLY = "application/apply-patch+yaml"  # JSON is YAML
_MERGE = "application/merge-patch+json"
_METADATA = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
_METADATA_LIST = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"


class Page(NamedTuple):
    """Part of a list. `token` asks for the next part; empty at the end."""

    items: list[Object]
    resource_version: str
    token: str


class Client:
    """Requests with one identity to one API server; a context manager that closes its connections.

    Every method raises a KubeError for a refusal or failure, those that write NotLeading where `fence` says so.
    """

    def __init__(
        self, connection: Connection, limits: Limits | None = None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.connection = connection
        self._transport = Transport(connection, limits or Limits(), clock=clock)

    @classmethod
    async def connect(
        cls,
        kubeconfig: str | None = None,
        context: str | None = None,
        *,
        identity: str | None = None,
        limits: Limits | None = None,
    ) -> Self:
        """A client for the given kubeconfig, the pod's service account or the user's kubeconfig: `Connection.load`."""
        return cls(await Connection.load(kubeconfig, context, identity=identity), limits)

    async def close(self) -> None:
        """Close every connection."""
        await self._transport.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def fence(self) -> Callable[[], bool]:
        """Whether this replica may write. Asked at the last moment before each write, but for those to Leases."""
        return self._transport.fence

    @fence.setter
    def fence(self, fence: Callable[[], bool]) -> None:
        self._transport.fence = fence

    @property
    def requests(self) -> Counter[tuple[str, str, str]]:
        """(verb, resource, HTTP status or `error`) -> how many, for metrics."""
        return self._transport.requests

    @property
    def seconds(self) -> Mapping[tuple[str, str], float]:
        """(verb, resource) -> seconds in all, watches not counted, for metrics."""
        return self._transport.seconds

    # Reading

    async def get(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        *,
        metadata_only: bool = False,
        timeout: float | None = None,
    ) -> Object | None:
        """The object, None where there is none. `metadata_only`: no more than apiVersion, kind and metadata."""
        request = Request("get", resource, resource.path(namespace, name), accept=_METADATA if metadata_only else JSON)
        try:
            return await self._transport.send(request, timeout=timeout)
        except NotFound:
            return None

    async def page(
        self,
        resource: Resource,
        namespace: str | None = None,
        *,
        label_selector: str = "",
        field_selector: str = "",
        metadata_only: bool = False,
        limit: int = PAGE,
        token: str = "",
    ) -> Page:
        """Part of a list, as new as can be had. `limit` 0: all of it. Raises Expired where `token` is too old."""
        path = resource.path(namespace) + _query(
            ("labelSelector", label_selector),
            ("fieldSelector", field_selector),
            ("limit", str(limit or "")),
            ("continue", token),
        )
        answer = await self._transport.send(
            Request("list", resource, path, accept=_METADATA_LIST if metadata_only else JSON)
        )
        metadata = answer.get("metadata") or {}
        return Page(answer.get("items") or [], metadata.get("resourceVersion", ""), metadata.get("continue") or "")

    async def list(
        self,
        resource: Resource,
        namespace: str | None = None,
        *,
        label_selector: str = "",
        metadata_only: bool = False,
    ) -> list[Object]:
        """All objects of a kind, in one namespace or in all."""
        items: list[Object] = []
        token = ""
        while True:
            page = await self.page(
                resource, namespace, label_selector=label_selector, metadata_only=metadata_only, token=token
            )
            items += page.items
            token = page.token
            if not token:
                return items

    @asynccontextmanager
    async def watch(
        self,
        resource: Resource,
        namespace: str | None = None,
        *,
        resource_version: str,
        label_selector: str = "",
        metadata_only: bool = False,
        timeout: float = WATCH_TIMEOUT,
        inactivity: float = INACTIVITY,
    ) -> AsyncIterator[AsyncIterator[WatchEvent]]:
        """`async with client.watch(…) as events`: changes after `resource_version`, bookmarks included.

        Entered when the API server has accepted it; the events end when the API server ends it, after `timeout`, or
        when nothing came for `inactivity` seconds. Both raise Expired where the version is too old, Unavailable where
        the connection broke.
        """
        path = resource.path(namespace) + _query(
            ("watch", "1"),
            ("allowWatchBookmarks", "true"),
            ("resourceVersion", resource_version),
            ("labelSelector", label_selector),
            ("timeoutSeconds", str(int(timeout))),
        )
        request = Request("watch", resource, path, accept=_METADATA if metadata_only else JSON)
        limit = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT, sock_read=inactivity)
        async with self._transport.open(request, limit) as response, aclosing(_events(response.content)) as events:
            yield events

    async def serves(self, resource: Resource) -> bool:
        """Whether the API server knows the kind (a CRD of somebody else's may be missing)."""
        document = await self._transport.discover(resource)
        return any(entry.get("name") == resource.plural for entry in document.get("resources") or ())

    # Writing

    async def apply(self, manifest: Mapping[str, Any], *, dry_run: bool = False, metadata_only: bool = False) -> Object:
        """Server-side apply of all fields that we want; those that we applied before and left out now are removed.

        Fields that others own too become ours (`force`): we are a controller. Gives the object as it is then, or its
        metadata only. Where nothing changes, nothing is written and the resourceVersion stays.
        """
        resource, namespace, name = _address(manifest)
        path = resource.path(namespace, name) + _apply_query(FIELD_MANAGER, dry_run)
        accept = _METADATA if metadata_only else JSON
        return await self._transport.send(
            Request("patch", resource, path, accept=accept, body=manifest, content_type=_APPLY, dry_run=dry_run)
        )

    async def apply_status(self, resource: Resource, namespace: str, name: str, status: Mapping[str, Any]) -> Object:
        """Server-side apply of the whole status; gives the metadata. Raises NotFound: it never makes an object."""
        metadata = {"name": name, "namespace": namespace}
        body = {"apiVersion": resource.api_version, "kind": resource.kind, "metadata": metadata, "status": status}
        path = resource.path(namespace, name, "status") + _apply_query(STATUS_MANAGER, dry_run=False)
        return await self._transport.send(
            Request("patch", resource, path, "status", accept=_METADATA, body=body, content_type=_APPLY)
        )

    async def create(self, manifest: Mapping[str, Any], *, timeout: float | None = None) -> Object:
        """The new object. Raises AlreadyExists."""
        resource, namespace, _ = _address(manifest)
        path = resource.path(namespace) + _query(("fieldManager", FIELD_MANAGER))
        return await self._transport.send(Request("create", resource, path, body=manifest), timeout=timeout)

    async def replace(self, manifest: Mapping[str, Any], *, timeout: float | None = None) -> Object:
        """The whole object anew. Raises Conflict where its `metadata.resourceVersion` is not the newest."""
        resource, namespace, name = _address(manifest)
        path = resource.path(namespace, name) + _query(("fieldManager", FIELD_MANAGER))
        return await self._transport.send(Request("update", resource, path, body=manifest), timeout=timeout)

    async def patch(self, resource: Resource, namespace: str, name: str, patch: Mapping[str, Any]) -> Object:
        """A merge patch: for what is not ours as a whole. Gives the metadata."""
        path = resource.path(namespace, name) + _query(("fieldManager", FIELD_MANAGER))
        return await self._transport.send(
            Request("patch", resource, path, accept=_METADATA, body=patch, content_type=_MERGE)
        )

    async def annotate(
        self, resource: Resource, namespace: str, name: str, annotations: Mapping[str, str | None]
    ) -> Object:
        """Set annotations, remove those that are None; gives the metadata."""
        return await self.patch(resource, namespace, name, {"metadata": {"annotations": dict(annotations)}})

    async def delete(self, resource: Resource, namespace: str, name: str, *, uid: str) -> bool:
        """Delete this very object, in the background what it owns. False where it is gone or another has its name."""
        body = {"preconditions": {"uid": uid}, "propagationPolicy": "Background"}
        try:
            await self._transport.send(Request("delete", resource, resource.path(namespace, name), body=body))
        except (NotFound, Conflict):
            return False
        return True


async def _events(content: aiohttp.StreamReader) -> AsyncGenerator[WatchEvent, None]:
    lines = EventLines()
    # Silence is no failure: the API promises no bookmarks, and they were seen to stay away.
    with suppress(aiohttp.SocketTimeoutError):
        while chunk := await content.readany():
            for event in lines.feed(chunk):
                yield event


def _address(manifest: Mapping[str, Any]) -> tuple[Resource, str, str]:
    metadata = manifest["metadata"]
    return resource_of(manifest), metadata["namespace"], metadata.get("name", "")


def _apply_query(manager: str, dry_run: bool) -> str:
    return _query(("fieldManager", manager), ("force", "true"), ("dryRun", "All" if dry_run else ""))


def _query(*parameters: tuple[str, str]) -> str:
    return "?" + urlencode([(name, value) for name, value in parameters if value])
