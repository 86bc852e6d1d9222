"""Enforces NetworkPolicies on machines of nodes: follows pods, namespaces and policies, and loads the rules anew.

A thread of the test process, as no enforcer can be had without a container registry. As everywhere, a pod may be
reached for a moment before its rules are there. What the rules are is left to `network_policies`.
"""

from __future__ import annotations

import http.client
import logging
import subprocess
import threading
from collections.abc import Sequence
from typing import Any

from cluster.api import Api, ApiError, path
from cluster.network_policies import ruleset
from cluster.node_machine import Machine

RESOURCES = ("namespaces", "networkpolicies", "pods")
WATCH_SECONDS = 60
RETRY_SECONDS = 0.5
TOGETHER_SECONDS = 0.05
"""Changes within so long are loaded at once."""

logger = logging.getLogger(__name__)


class PolicyEnforcer:
    """Runs from `start` to `close`. The API server must be there; it may go and come back."""

    def __init__(self, api: Api, machines: Sequence[Machine]) -> None:
        self._api = api
        self._machines = machines
        # what nodes send: their own addresses, and this side of their links
        self._nodes = [address for machine in machines for address in (machine.address, machine.host_address)]
        self._objects: dict[str, dict[str, dict[str, Any]]] = {}
        self._lock = threading.Lock()
        self._changed = threading.Event()
        self._closing = threading.Event()
        self._failure = ""
        self._threads = [
            threading.Thread(target=self._follow, args=(resource,), name=f"watch-{resource}", daemon=True)
            for resource in RESOURCES
        ]
        self._threads.append(threading.Thread(target=self._load, name="network-policies", daemon=True))

    def start(self) -> None:
        """In the background."""
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Its watches end with the API server, at the latest."""
        self._closing.set()
        self._changed.set()

    def describe(self) -> str:
        """What went wrong last."""
        return f"network policies: {self._failure or 'loaded'}"

    def _follow(self, resource: str) -> None:
        version = ""
        while not self._closing.is_set():
            try:
                if not version:
                    found = self._api.request("GET", path(resource))
                    with self._lock:
                        self._objects[resource] = {one["metadata"]["uid"]: one for one in found["items"]}
                    self._changed.set()
                    version = found["metadata"]["resourceVersion"]
                for kind, one in self._api.watch(resource, seconds=WATCH_SECONDS, resourceVersion=version):
                    version = one["metadata"]["resourceVersion"]
                    with self._lock:
                        if kind == "DELETED":
                            self._objects[resource].pop(one["metadata"]["uid"], None)
                        else:
                            self._objects[resource][one["metadata"]["uid"]] = one
                    self._changed.set()
            except ApiError:
                version = ""
                self._closing.wait(RETRY_SECONDS)
            except (OSError, http.client.HTTPException, ValueError):
                self._closing.wait(RETRY_SECONDS)

    def _load(self) -> None:
        loaded = ""
        while not self._closing.is_set():
            self._changed.wait()
            self._closing.wait(TOGETHER_SECONDS)
            self._changed.clear()
            with self._lock:
                if len(self._objects) < len(RESOURCES):
                    continue
                namespaces, policies, pods = (list(self._objects[resource].values()) for resource in RESOURCES)
            rules = ruleset(policies, pods, namespaces, self._nodes)
            if rules == loaded or self._closing.is_set():
                continue
            try:
                for machine in self._machines:
                    machine.run("nft", "-f", "-", input=rules)
            except (subprocess.SubprocessError, OSError) as error:
                self._failure = f"{error}: {getattr(error, 'stderr', '')}"
                logger.warning("network policies were not loaded: %s", self._failure)
                self._closing.wait(RETRY_SECONDS)
                self._changed.set()
            else:
                loaded, self._failure = rules, ""
