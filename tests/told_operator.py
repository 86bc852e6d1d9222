"""The operator's metrics page without an operator: the real catalogue over figures that a test tells it.

For dashboards in tests that need no cluster; that the operator itself feeds these metrics is tested in tests/cluster.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from mcp_operator.metrics import OperatorMetrics, Sources
from mcp_operator.reasons import REASONS, Reason

GOOD = (
    ("Ready", "Ready"),
    ("Available", "ReplicasAvailable"),
    ("Progressing", "RolloutComplete"),
    ("ServerReachable", "Reachable"),
    ("SecretsResolved", "Resolved"),
    ("ConfigApplied", "Applied"),
)


class ToldOperator:
    """A context manager; everything counts up with each scrape, as of an operator that is busy and has some trouble."""

    def __init__(self, conditions: dict[tuple[str, str], Sequence[Reason]], *, leads: bool = True) -> None:
        self.conditions = conditions
        self._leads = leads
        self._scrapes = 0
        requests = {("get", "deployments", "200"): 3, ("patch", "services", "200"): 2, ("patch", "services", "409"): 1}
        self._metrics = OperatorMetrics(
            Sources(
                leading=lambda: leads,
                queue_depth=lambda: self._scrapes % 3,
                queue_oldest=lambda: self._scrapes % 3 / 10,
                queue_working=lambda: 1,
                queue_added=lambda: 4 * self._scrapes,
                queue_retries=lambda: self._scrapes,
                repaired=lambda: self._scrapes // 3,
                rollouts=lambda: 1,
                rollouts_failed=lambda: 0,
                pod_polls=lambda: 5 * self._scrapes,
                conditions=lambda: self.conditions,
                requests=lambda: {key: each * self._scrapes for key, each in requests.items()},
                request_seconds=lambda: {key[:2]: each * self._scrapes / 50 for key, each in requests.items()},
                watch_silence=lambda: {"pods": self._scrapes % 30, "mcpservers": self._scrapes % 50},
            )
        )
        metrics = self

        class Page(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = metrics.scrape()
                self.send_response(200)
                self.send_header("Content-Type", "text/plain; version=0.0.4")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *arguments: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Page)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._server.server_port}"

    def scrape(self) -> bytes:
        """The page, one more time."""
        self._scrapes += 1
        if self._leads:
            for result in self._metrics.results:
                self._metrics.results[result] += 3 if result == "success" else 1
            self._metrics.duration.observe(0.02 * (self._scrapes % 4 + 1))
        return self._metrics.scrape()

    def __enter__(self) -> ToldOperator:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def conditions(**wrong: str) -> tuple[Reason, ...]:
    """All six conditions as they should be, but those that are named: `conditions(Ready="ServerUnreachable")`."""
    named: dict[str, str] = {**dict(GOOD), **wrong}
    return tuple(REASONS[kind, reason] for kind, reason in named.items())  # type: ignore[index]
