"""A small fleet for dashboards to show: real sidecars of several kinds under load, and faults that a test brings about.

    with Scene(directory) as scene:
        Prometheus({"sidecars": scene.scraped(), …}, directory)
        scene.orders_fail = True …

Five MCPServers in two namespaces, seven pods. Each sidecar is told apart as in a cluster: by the labels of its scrape.
"""

from __future__ import annotations

import contextlib
import json
import random
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from callers import stdio
from prometheus_process import Target
from raw_mcp import HttpClient
from replicas import Replica, Spread
from sidecar_process import SidecarProcess, free_ports
from tool_http_server import Answer, Seen, ToolHttpServer

Call = tuple[str, Mapping[str, Any]]
"""A tool and its arguments."""


@dataclass(frozen=True)
class Pod:
    """A sidecar, and where it would run."""

    namespace: str
    server: str
    name: str
    sidecar: Any
    """A SidecarProcess, or what has a `url()`, a `host` and a `port` too."""
    admin_host: str = "127.0.0.1"

    @property
    def admin_address(self) -> str:
        return f"{self.admin_host}:{self.sidecar.admin_port}"


PODS = (
    ("shop", "orders", 0),
    ("shop", "orders", 1),
    ("shop", "search", 0),
    ("data", "reports", 0),
    ("data", "reports", 1),
    ("data", "archive", 0),
    ("data", "legacy-crm", 0),
)
"""Namespace, MCPServer and number of each pod."""
COMMON: dict[str, Any] = {"log": {"calls": False}, "secrets": {"pollInterval": "200ms"}}


class Traffic:
    """Callers of one endpoint, each on a connection and, in the legacy era, a session of its own; ended by `stop`."""

    def __init__(
        self, url: str, choose: Callable[[], Call], *, callers: int, pause: float, modern: bool = True
    ) -> None:
        """`pause`: seconds between the calls of one caller, on average."""
        self.pause = pause
        self._url, self._choose, self._modern = url, choose, modern
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(callers)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(40)

    def _run(self) -> None:
        while not self._stop.is_set():
            # what goes wrong is what the dashboards show
            with contextlib.suppress(Exception), HttpClient(self._url, modern=self._modern, timeout=30) as client:
                self._calls(client)
            self._stop.wait(0.2)

    def _calls(self, client: HttpClient) -> None:
        if not self._modern:
            client.open()
        for number in range(200):
            if self._stop.wait(self.pause * random.uniform(0.2, 1.8)):
                return
            if number % 10 == 0:
                client.request("tools/list")
            elif client.call(*self._choose()).status == 404:
                return  # the session is gone: a new one


class Scene:
    """See the module. Everything ends with the context."""

    def __init__(self, directory: Path) -> None:
        self.orders_fail = 0.0
        """Share of the calls that the server behind `orders` drops."""
        self.orders_take = 0.02
        """Seconds of such a call."""
        self.pods: list[Pod] = []
        self._stack = contextlib.ExitStack()
        self._over = threading.Event()
        self._directory = directory
        self._token = directory / "token"
        self._rotations = 0

    def __enter__(self) -> Scene:
        with self._stack as stack:
            self._start(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *what: Any) -> None:
        self._over.set()
        self._stack.__exit__(*what)

    def scraped(self) -> list[Target]:
        """What the PodMonitor would find."""
        return [
            Target(
                pod.admin_address,
                {"namespace": pod.namespace, "pod": pod.name, "mcpserver": pod.server},
            )
            for pod in self.pods
        ]

    def pod(self, name: str) -> Any:
        """The sidecar of a pod, by its MCPServer and number."""
        return next(pod.sidecar for pod in self.pods if pod.name == name)

    def everything_happens(self, wait: Callable[[str, str], None]) -> None:
        """All faults, one after the other where one hides the next; `wait(query, what)` until Prometheus saw it."""
        self.prattle()
        self.crash()
        self.rotate_secret()
        self.reconfigure()
        self.orders_fail = 0.3
        wait("sum(rate(outrigger_retries_total[10s])) > 0", "retries")
        wait("sum(rate(outrigger_retries_denied_total[10s])) > 0", "failures that are not retried")
        self.orders_fail = 1.0
        wait('sum(outrigger_breaker_state{server="orders", state="open"}) > 0', "an open breaker")
        wait('sum(rate(outrigger_breaker_rejected_total{server="orders"}[10s])) > 0', "calls that it refuses")
        self.orders_fail = 0.0
        self.crash()
        self.prattle()
        self.rotate_secret()
        self.reconfigure(wrong=True)
        wait('max(outrigger_breaker_state{server="orders", state="open"}) == 0', "breakers that are not open any more")
        self.orders_take = 0.2
        self.burst()
        wait('sum(rate(outrigger_rejected_total{reason="queue_full"}[10s])) > 0', "a full queue")
        wait('sum(outrigger_queue_length{server="orders"}) > 0', "a queue")

    # Faults

    def crash(self) -> None:
        """The process of `search` ends in the middle of its work."""
        self._call("search-0", "exit")

    def prattle(self) -> None:
        """It prints on its stdout, and more on its stderr than the log takes."""
        self._call("search-0", "garbage")
        self._call("search-0", "stderr", text="line {number}", lines=200)

    def rotate_secret(self) -> None:
        """The Secret of `search` changes."""
        self._rotations += 1
        replacement = self._token.with_suffix(".new")
        replacement.write_text(f"token-{self._rotations}")
        replacement.replace(self._token)

    def reconfigure(self, pod: str = "orders-0", *, wrong: bool = False) -> None:
        """Another configuration arrives; a `wrong` one is refused."""
        sidecar = self.pod(pod)
        config = json.loads(sidecar.config_path.read_text())
        config["log"] = {"stderrLinesPerSecond": "many" if wrong else 7}
        sidecar.write_config(config)

    def burst(self, calls: int = 40) -> None:
        """So many calls of `orders` at once that its queue is full."""

        def one() -> None:
            with contextlib.suppress(Exception), HttpClient(self.pod("orders-0").url(), modern=True) as client:
                client.call("report", {})

        threads = [threading.Thread(target=one, daemon=True) for _ in range(calls)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)

    def _call(self, pod: str, tool: str, **arguments: Any) -> None:
        with contextlib.suppress(Exception), HttpClient(self.pod(pod).url(), modern=True, timeout=10) as client:
            client.call(tool, arguments)

    # The fleet

    def _start(self, stack: contextlib.ExitStack) -> None:
        self.rotate_secret()
        behind = stack.enter_context(ToolHttpServer())
        behind.tools = [{"name": name} for name in ("get_order", "list_orders", "cancel_order", "report")]
        behind.behave = self._behave
        slow = stack.enter_context(ToolHttpServer())
        slow.tools = [{"name": name} for name in ("fetch", "index")]
        slow.behave = lambda seen: self._take(random.uniform(0.1, 0.6)) if seen.tool else None
        (nobody,) = free_ports(1)
        health = {"interval": "1s"}
        servers: dict[str, dict[str, Any]] = {
            "orders": {
                "url": behind.url,
                "health": health,
                "retry": {"backoff": {"base": "10ms"}, "tools": {"get_order": "Safe", "list_orders": "Safe"}},
                "circuitBreaker": {"consecutiveFailures": 8, "openDuration": "3s", "maxOpenDuration": "3s"},
                "limits": {"maxConcurrent": 3, "maxQueue": 8, "queueTimeout": "500ms"},
                "pool": {"max": 6, "idleTimeout": "500ms"},
            },
            "search": stdio(
                "--modern",
                env={"SEARCH_TOKEN": {"valueFrom": {"file": str(self._token)}}},
                health=health,
                cache={"tools": {"count": "1500ms"}, "maxBytes": "2KiB"},
                restart={"backoffBase": "300ms", "backoffMax": "1s"},
                limits={"maxConcurrent": 20, "rate": {"requestsPerSecond": 30, "burst": 30}},
            ),
            "reports": stdio(health=health),
            "archive": {"url": slow.url, "health": health},
            "legacy-crm": {
                "url": f"http://127.0.0.1:{nobody}/mcp",
                "health": {**health, "failureThreshold": 1},
            },
        }
        self._deploy(stack, servers)
        replicas = [pod.sidecar for pod in self.pods if pod.server == "reports"]
        self._traffic(stack, stack.enter_context(Spread(replicas)).url)

    def _deploy(self, stack: contextlib.ExitStack, servers: Mapping[str, Mapping[str, Any]]) -> None:
        """Make the pods: the settings of an MCPServer by its name."""
        port = free_ports(1)[0]
        for namespace, server, number in PODS:
            config = {"servers": {server: servers[server]}, **COMMON}
            made = Replica(config, f"127.0.0.{number + 2}", port) if server == "reports" else SidecarProcess(config)
            self.pods.append(Pod(namespace, server, f"{server}-{number}", made))
        for pod in self.pods:
            stack.push(pod.sidecar)
        with ThreadPoolExecutor(4) as starting:
            list(starting.map(lambda pod: pod.sidecar.start(), self.pods))

    def _traffic(self, stack: contextlib.ExitStack, reports: str) -> None:
        def orders() -> Call:
            return random.choices(("get_order", "list_orders", "cancel_order"), (6, 3, 2))[0], {"id": 7}

        def search() -> Call:
            tool = random.choices(("echo", "count", "args"), (3, 6, 1))[0]
            return tool, {"text": "x" * random.choice((10, 400)), "number": random.randrange(6)}

        for pod, choose, callers, pause in (
            ("orders-0", orders, 4, 0.12),
            ("orders-1", orders, 4, 0.12),
            ("search-0", search, 3, 0.12),
            ("archive-0", lambda: (random.choice(("fetch", "index")), {}), 2, 0.3),
            ("legacy-crm-0", lambda: ("lookup", {}), 1, 0.5),
        ):
            stack.callback(Traffic(self.pod(pod).url(), choose, callers=callers, pause=pause).stop)
        stack.callback(Traffic(reports, lambda: ("echo", {"text": "sales"}), callers=4, pause=0.25, modern=False).stop)

    def _behave(self, seen: Seen) -> Answer | None:
        if not seen.tool:
            return Answer(drop=True) if self.orders_fail > 0.9 else None
        self._over.wait(self.orders_take * random.uniform(0.5, 2.5) * (5 if seen.tool == "report" else 1))
        return Answer(drop=True) if random.random() < self.orders_fail else None

    def _take(self, seconds: float) -> None:
        self._over.wait(seconds)
