"""The operator's metrics are those of its page, and its admin port serves them."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from mcp_operator import __version__
from mcp_operator.admin import AdminServer
from mcp_operator.metrics import OperatorMetrics, Sources
from mcp_operator.reasons import REASONS

PAGE = Path(__file__).resolve().parents[3] / "docs" / "operator.md"
PREFIX = "outrigger_operator_"


def busy() -> OperatorMetrics:
    """Everything that has labels has a value."""
    sources = Sources(
        leading=lambda: True,
        queue_depth=lambda: 7,
        conditions=lambda: {
            ("shop", "web"): (REASONS["Ready", "Ready"], REASONS["ConfigApplied", "Applied"]),
            ("shop", "bad"): (REASONS["Ready", "SecretMissing"], REASONS["ConfigApplied", "NoPods"]),
        },
        requests=lambda: {("patch", "deployments", "200"): 3},
        request_seconds=lambda: {("patch", "deployments"): 0.5},
        watch_silence=lambda: {"pods": 1.5},
    )
    return OperatorMetrics(sources)


def test_page_names_every_metric_and_no_other() -> None:
    scraped = busy().scrape().decode()
    there = set(re.findall(rf"^# TYPE {PREFIX}(\w+) ", scraped, re.M)) - {"reconcile_duration_seconds_created"}
    table = PAGE.read_text().partition("| metric (`outrigger_operator_…`)")[2].partition("\n\n")[0]
    named = {name for row in table.splitlines()[2:] for name in re.findall(r"`(\w+)(?:\{[^`]*)?`", row.split("|")[1])}
    assert named == there


def test_values_are_read_at_the_scrape() -> None:
    scraped = busy().scrape().decode().splitlines()
    for line in (
        "leader 1.0",
        "queue_depth 7.0",
        'reconcile_total{result="success"} 0.0',
        'mcpserver_ready{name="web",namespace="shop",reason="Ready"} 1.0',
        'mcpserver_ready{name="bad",namespace="shop",reason="SecretMissing"} 0.0',
        'mcpserver_condition{name="web",namespace="shop",reason="Applied",status="True",type="ConfigApplied"} 1.0',
        'mcpserver_condition{name="bad",namespace="shop",reason="SecretMissing",status="False",type="Ready"} 1.0',
        'mcpserver_condition{name="bad",namespace="shop",reason="NoPods",status="Unknown",type="ConfigApplied"} 1.0',
        'api_requests_total{code="200",resource="deployments",verb="patch"} 3.0',
        'watch_silence_seconds{resource="pods"} 1.5',
        f'build_info{{version="{__version__}"}} 1.0',
    ):
        assert PREFIX + line in scraped
    assert any(line.startswith("process_resident_memory_bytes ") for line in scraped)


def test_who_does_not_lead_says_nothing_of_mcpservers() -> None:
    metrics = busy()
    metrics.sources.leading = lambda: False
    assert "mcpserver_" not in re.sub(r"(?m)^#.*$", "", metrics.scrape().decode())


@pytest.fixture
async def port() -> AsyncIterator[int]:
    server = AdminServer(lambda: (True, "the loop turns"), lambda: (False, "reading pods"), busy().scrape)
    yield await server.start("127.0.0.1", 0)
    await server.close()


@pytest.mark.parametrize(
    ("path", "status", "text"),
    [
        ("/livez", 200, "the loop turns\n"),
        ("/readyz", 503, "reading pods\n"),
        ("/metrics", 200, f"{PREFIX}leader 1.0\n"),
        ("/", 404, ""),
    ],
)
async def test_admin_port(port: int, path: str, status: int, text: str) -> None:
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}{path}") as answer:
        assert answer.status == status
        assert text in await answer.text()
