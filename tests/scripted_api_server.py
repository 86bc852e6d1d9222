"""An API server that says what a test told it to, for what a real one cannot be made to say: faults.

It knows nothing of Kubernetes. `answers` holds, for a method and a path, what to answer to the next requests, the last
one for ever; each is a status with a JSON body, or a function that answers by itself. What was asked is in `requests`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import web

Answer = tuple[int, Any] | Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True)
class Asked:
    """One request."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: Any


class ScriptedApiServer:
    """A context manager; `kubeconfig(directory)` leads to it, over plain HTTP with a token."""

    def __init__(self) -> None:
        self.answers: dict[tuple[str, str], list[Answer]] = {}
        self.requests: list[Asked] = []
        self.in_flight = self.most_in_flight = 0
        self.release = asyncio.Event()
        """What `held` waits for."""
        self.arrived = asyncio.Event()
        """Set with each request."""
        self._runner: web.ServerRunner | None = None
        self.port = 0

    async def __aenter__(self) -> ScriptedApiServer:
        self._runner = web.ServerRunner(web.Server(self._serve), shutdown_timeout=0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.port = site._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self.release.set()
        await self._runner.cleanup()

    def on(self, method: str, path: str, *answers: Answer) -> None:
        self.answers[method, path] = list(answers)

    def kubeconfig(self, directory: Path, user: dict[str, Any] | None = None) -> str:
        """Path of a kubeconfig for this server."""
        file = directory / "kubeconfig"
        server = f"http://127.0.0.1:{self.port}"
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "c", "cluster": {"server": server}}],
            "users": [{"name": "u", "user": user if user is not None else {"token": "token-1"}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "x",
        }
        file.write_text(json.dumps(document))
        return str(file)

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await request.read()
        path = request.rel_url.raw_path
        self.requests.append(
            Asked(
                request.method,
                path,
                dict(request.rel_url.query),
                dict(request.headers),
                json.loads(body) if body else None,
            )
        )
        self.arrived.set()
        script = self.answers.get((request.method, path))
        if not script:
            return web.json_response(status(404, "NotFound", f"nothing at {path}"), status=404)
        answer = script.pop(0) if len(script) > 1 else script[0]
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            if callable(answer):
                return await answer(request)
            return web.json_response(answer[1], status=answer[0])
        finally:
            self.in_flight -= 1

    async def held(self, request: web.BaseRequest) -> web.StreamResponse:
        """An answer that comes only when `release` is set."""
        await self.release.wait()
        return web.json_response({"kind": "Held"})


def status(code: int, reason: str, message: str, *causes: str) -> dict[str, Any]:
    """A Status object."""
    document: dict[str, Any] = {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "code": code,
        "reason": reason,
        "message": message,
    }
    if causes:
        document["details"] = {"causes": [{"reason": cause, "message": cause} for cause in causes]}
    return document


def streaming(*chunks: bytes, then: Callable[[], Awaitable[None]] | None = None) -> Answer:
    """Chunks of a watch; `then` is awaited before the connection is broken off, without it the stream ends well."""

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        response.enable_chunked_encoding()
        await response.prepare(request)
        for chunk in chunks:
            await response.write(chunk)
        if then is not None:
            await then()
            if request.transport is not None:
                request.transport.abort()
        return response

    return answer
