"""A plain client of the Kubernetes API, for tests: one blocking connection, dicts in and out.

On purpose not the operator's client nor the library it uses: what it sees of the operator's work owes nothing to them.
"""

from __future__ import annotations

import http.client
import json
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar
from urllib.parse import quote, urlencode, urlsplit

Object = dict[str, Any]
T = TypeVar("T")

# plural → (group and version, namespaced)
RESOURCES = {
    "apiservices": ("apiregistration.k8s.io/v1", False),
    "clusterrolebindings": ("rbac.authorization.k8s.io/v1", False),
    "clusterroles": ("rbac.authorization.k8s.io/v1", False),
    "configmaps": ("v1", True),
    "customresourcedefinitions": ("apiextensions.k8s.io/v1", False),
    "deployments": ("apps/v1", True),
    "endpointslices": ("discovery.k8s.io/v1", True),
    "events": ("events.k8s.io/v1", True),
    "horizontalpodautoscalers": ("autoscaling/v2", True),
    "leases": ("coordination.k8s.io/v1", True),
    "limitranges": ("v1", True),
    "mcpservers": ("outrigger.dev/v1alpha1", True),
    "namespaces": ("v1", False),
    "networkpolicies": ("networking.k8s.io/v1", True),
    "nodes": ("v1", False),
    "poddisruptionbudgets": ("policy/v1", True),
    "podmonitors": ("monitoring.coreos.com/v1", True),
    "pods": ("v1", True),
    "replicasets": ("apps/v1", True),
    "resourcequotas": ("v1", True),
    "rolebindings": ("rbac.authorization.k8s.io/v1", True),
    "roles": ("rbac.authorization.k8s.io/v1", True),
    "secrets": ("v1", True),
    "serviceaccounts": ("v1", True),
    "services": ("v1", True),
    "validatingadmissionpolicies": ("admissionregistration.k8s.io/v1", False),
    "validatingadmissionpolicybindings": ("admissionregistration.k8s.io/v1", False),
}
_CLOSED = (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError, ssl.SSLEOFError)
_PLURALS = {
    "APIService": "apiservices",
    "CustomResourceDefinition": "customresourcedefinitions",
    "HorizontalPodAutoscaler": "horizontalpodautoscalers",
    "MCPServer": "mcpservers",
    "NetworkPolicy": "networkpolicies",
    "ValidatingAdmissionPolicy": "validatingadmissionpolicies",
}


class ApiError(Exception):
    """The API server refused; `status` is the HTTP status, `reason` such as `Invalid`."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(f"{status} {reason}: {message}")
        self.status = status
        self.reason = reason
        self.message = message


def plural(manifest: Object) -> str:
    """The resource that a manifest is of."""
    kind = manifest["kind"]
    return _PLURALS.get(kind, kind.lower() + "s")


def path(resource: str, namespace: str | None = None, name: str | None = None, subresource: str | None = None) -> str:
    """Where the API server has it."""
    version, namespaced = RESOURCES[resource]
    parts = ["/api" if version == "v1" else "/apis", version]
    if namespaced and namespace is not None:
        parts += ["namespaces", namespace]
    parts += [resource, *(quote(part, safe="") for part in (name, subresource) if part)]
    return "/".join(parts)


class Api:
    """Somebody's access to an API server. Each thread has its own connection, kept open."""

    def __init__(self, server: str, context: ssl.SSLContext, token: str | None = None, timeout: float = 30.0) -> None:
        self._address = urlsplit(server)
        self._context = context
        self._headers = {"Accept": "application/json", "User-Agent": "outrigger-tests"}
        if token:
            self._headers["Authorization"] = f"Bearer {token}"
        self._timeout = timeout
        self._local = threading.local()

    @property
    def host(self) -> str:
        """The API server's address."""
        return self._address.hostname or ""

    def request(self, method: str, target: str, body: Any = None, content: str = "application/json") -> Any:
        """Any request: the decoded answer (text where it is no JSON). Raises ApiError, OSError."""
        data = None if body is None else json.dumps(body)
        headers = self._headers if data is None else {**self._headers, "Content-Type": content}
        connection: http.client.HTTPSConnection | None = getattr(self._local, "connection", None)
        kept = connection is not None
        if connection is None:
            connection = self._connect()
        try:
            connection.request(method, target, data, headers)
            response = connection.getresponse()
            text = response.read().decode()
        except (http.client.HTTPException, OSError) as error:
            connection.close()
            self._local.connection = None
            # a connection that was kept may have been closed since; nothing of the request was read then
            if kept and isinstance(error, _CLOSED):
                return self.request(method, target, body, content)
            raise error if isinstance(error, OSError) else ConnectionError(repr(error)) from error
        is_json = response.headers.get_content_type() == "application/json"
        answer = json.loads(text) if is_json and text else text
        if response.status >= 400:
            if isinstance(answer, dict):
                raise ApiError(response.status, answer.get("reason", ""), answer.get("message", ""))
            raise ApiError(response.status, response.reason, text[:500])
        return answer

    def get(self, resource: str, namespace: str | None, name: str) -> Object | None:
        """One object, None where there is none."""
        try:
            found: Object = self.request("GET", path(resource, namespace, name))
        except ApiError as error:
            if error.status == 404:
                return None
            raise
        return found

    def list(self, resource: str, namespace: str | None = None, **query: Any) -> list[Object]:
        """All objects, of one namespace or of all; `labelSelector` and the like as keywords."""
        found: list[Object] = self.request("GET", f"{path(resource, namespace)}?{urlencode(query)}")["items"]
        return found

    def create(self, manifest: Object, **query: Any) -> Object:
        """POST; `dryRun="All"` and the like as keywords."""
        where = path(plural(manifest), manifest["metadata"].get("namespace"))
        created: Object = self.request("POST", f"{where}?{urlencode(query)}", manifest)
        return created

    def apply(self, manifest: Object, *, manager: str = "tests", force: bool = True, **query: Any) -> Object:
        """Server-side apply."""
        metadata = manifest["metadata"]
        where = path(plural(manifest), metadata.get("namespace"), metadata["name"])
        query = {"fieldManager": manager, "force": str(force).lower(), "fieldValidation": "Strict", **query}
        target = f"{where}?{urlencode(query)}"
        applied: Object = self.request("PATCH", target, manifest, "application/apply-patch+yaml")
        return applied

    def patch(
        self, resource: str, namespace: str | None, name: str, change: Any, *, subresource: str | None = None
    ) -> Object:
        """A merge patch, or a JSON patch where `change` is a list."""
        content = "application/json-patch+json" if isinstance(change, list) else "application/merge-patch+json"
        changed: Object = self.request("PATCH", path(resource, namespace, name, subresource), change, content)
        return changed

    def update(self, manifest: Object) -> Object:
        """PUT."""
        metadata = manifest["metadata"]
        changed: Object = self.request(
            "PUT", path(plural(manifest), metadata.get("namespace"), metadata["name"]), manifest
        )
        return changed

    def delete(self, resource: str, namespace: str | None, name: str, **options: Any) -> bool:
        """DELETE; whether it was there. `propagationPolicy="Foreground"` and the like as keywords."""
        body = {"kind": "DeleteOptions", "apiVersion": "v1", **options} if options else None
        try:
            self.request("DELETE", path(resource, namespace, name), body)
        except ApiError as error:
            if error.status == 404:
                return False
            raise
        return True

    def watch(
        self, resource: str, namespace: str | None = None, *, seconds: float = 60.0, **query: Any
    ) -> Iterator[tuple[str, Object]]:
        """(type, object) from now or from `resourceVersion`, on a connection of its own, for at most `seconds`."""
        query = {"watch": "true", "timeoutSeconds": int(seconds), **query}
        connection = self._connect(timeout=seconds + 5)
        try:
            connection.request("GET", f"{path(resource, namespace)}?{urlencode(query)}", headers=self._headers)
            response = connection.getresponse()
            if response.status >= 400:
                said = json.loads(response.read())
                raise ApiError(response.status, said.get("reason", ""), said.get("message", ""))
            while line := response.readline():
                event = json.loads(line)
                if event["type"] == "ERROR":
                    status = event["object"]
                    raise ApiError(status["code"], status.get("reason", ""), status.get("message", ""))
                yield event["type"], event["object"]
        finally:
            connection.close()

    def _connect(self, timeout: float | None = None) -> http.client.HTTPSConnection:
        assert self._address.hostname is not None
        connection = http.client.HTTPSConnection(
            self._address.hostname, self._address.port, context=self._context, timeout=timeout or self._timeout
        )
        if timeout is None:
            self._local.connection = connection
        return connection


def eventually(look: Callable[[], T], what: str, timeout: float = 20.0, interval: float = 0.03) -> T:
    """Look until the answer is true, and give it; for what no event tells of.

    An AssertionError of `look` means not yet, as does who cannot be asked: an OSError, an API server that is busy, a
    command (kubectl) that fails. It, or `what`, is the failure after `timeout` seconds. `interval`: seconds between
    looks, more where one is much work.
    """
    until = time.monotonic() + timeout
    while True:
        last: Exception | None = None
        try:
            found = look()
        except (AssertionError, OSError, http.client.HTTPException, subprocess.SubprocessError) as error:
            last = error
        except ApiError as error:
            if error.status < 500 and error.status != 429:
                raise
            last = error
        else:
            if found:
                return found
        if time.monotonic() > until:
            raise AssertionError(f"not within {timeout:g} s: {what}" + (f": {last}" if last else "")) from last
        time.sleep(interval)
