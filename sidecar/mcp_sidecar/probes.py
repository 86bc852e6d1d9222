"""What the admin port tells: whether the sidecar lives, serves and is ready, and everything else it knows.

`/startupz` never waits for an upstream, or the kubelet would restart the pod for ever; a pod becomes ready only after
the upstream answered once, so that a rollout with a broken secret never replaces good pods, and stays ready when the
upstream fails later (design.md, "Readiness"). The truth about the upstream is in `/status` and the metrics.
"""

from __future__ import annotations

import asyncio
import os
import platform
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mcp_sidecar import __version__
from mcp_sidecar.front.admin import loop_turns
from mcp_sidecar.protocol.revisions import MODERN_VERSIONS, STREAMABLE_VERSIONS

if TYPE_CHECKING:
    from mcp_sidecar.app import Sidecar
    from mcp_sidecar.unit import ServerUnit


class SidecarProbes:
    """See front/admin.py `Probes`."""

    def __init__(self, sidecar: Sidecar, clock: Callable[[], float] = time.monotonic) -> None:
        self._sidecar = sidecar
        self._clock = clock
        self._began = clock()

    def live(self) -> tuple[bool, str]:
        """The event loop turns."""
        return loop_turns(self._sidecar.lag, self._clock())

    def started(self) -> tuple[bool, str]:
        """The ports are open."""
        return (True, "serving") if self._sidecar.serving else (False, "the ports are not open yet")

    def ready(self) -> tuple[bool, str]:
        """Not shutting down, and the upstreams have answered (mode Startup) or answer (mode Upstream)."""
        sidecar = self._sidecar
        if sidecar.shutting_down:
            return False, "shutting down"
        if not sidecar.serving:
            return False, "the ports are not open yet"
        readiness = sidecar.config.readiness
        states = {}
        for name, unit in sidecar.units.items():
            health = unit.health
            follows = readiness.mode == "Upstream"
            good = health.up and unit.refusal is None if follows else health.answered
            states[name] = (good, unit.refusal or health.last_error or "no answer yet")
        good_ones = [name for name, (good, _) in states.items() if good]
        enough = len(good_ones) == len(states) if readiness.require == "All" else bool(good_ones) or not states
        if enough:
            return True, f"{len(good_ones)} of {len(states)} servers"
        waiting = "; ".join(f"{name}: {why}" for name, (good, why) in states.items() if not good)
        return False, sidecar.redactor.redact(waiting)

    def status(self) -> dict[str, Any]:
        """All of it, redacted as a whole."""
        sidecar = self._sidecar
        ready, why = self.ready()
        reload = sidecar.reloading
        status = {
            "version": __version__,
            "python": platform.python_version(),
            "pid": os.getpid(),
            "uptimeSeconds": round(self._clock() - self._began, 1),
            "ready": ready,
            "reason": why,
            "shuttingDown": sidecar.shutting_down,
            "protocolVersions": [*MODERN_VERSIONS, *STREAMABLE_VERSIONS],
            "config": {
                "hash": sidecar.config.config_hash(),
                "fileHash": sidecar.loaded.file_hash,
                "source": sidecar.loaded.source,
                "reloads": reload.succeeded,
                "refusedReloads": reload.refused,
                "lastRefusal": reload.last_refusal,
                "needsRestart": sorted(reload.needs_restart),
            },
            "front": {
                "connections": sidecar.listener.open_connections,
                "requests": sidecar.listener.open_requests,
                "streams": sidecar.endpoint.open_streams,
                "sessions": len(sidecar.endpoint.sessions),
                "forwarding": len(sidecar.endpoint.replicas) if sidecar.endpoint.replicas is not None else None,
                "refusals": dict(sidecar.gate.refusals + sidecar.listener.refusals),
            },
            "tasks": len(asyncio.all_tasks()),
            "servers": {name: self._server(name, unit) for name, unit in sidecar.units.items()},
        }
        redacted: dict[str, Any] = _redacted(status, sidecar.redactor.redact)
        return redacted

    def _server(self, name: str, unit: ServerUnit) -> dict[str, Any]:
        secrets = self._sidecar.store.servers[name]
        age = self._sidecar.store.age(name)
        return {
            **unit.status(),
            "secrets": {
                "generation": secrets.generation,
                "ageSeconds": round(age, 1) if age is not None else None,
                "problem": secrets.failure,
            },
        }

    async def metrics(self) -> bytes | None:
        """Prometheus text exposition, None where it is switched off."""
        sidecar = self._sidecar
        return await sidecar.registry.scrape() if sidecar.config.metrics.enabled else None


def _redacted(value: Any, redact: Callable[[str], str]) -> Any:
    """Plain values with every known secret taken out, wherever it may have come from."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {key: _redacted(item, redact) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_redacted(item, redact) for item in value]
    return value
