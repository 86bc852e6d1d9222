"""The command `status`: reads `/status` of a running sidecar and prints it for people.

It prints what it finds, so that a newer sidecar's status is shown by an older command line. The meaning of the fields
is with those who write them.
"""

from __future__ import annotations

import json
import sys
import urllib.error
import urllib.request
from typing import Any

_MAX_BYTES = 16 << 20
_TIMEOUT = 10.0


def status(url: str, *, as_json: bool, everything: bool = False) -> int:
    """Print the status of the sidecar whose admin port is `url`. 1 when it does not answer, 2 when `url` is none."""
    if not url.startswith(("http://", "https://")):
        print("outrigger-sidecar: the URL must begin with http:// or https://", file=sys.stderr)
        return 2
    target = url.rstrip("/")
    target = target if target.endswith("/status") else target + "/status"
    # The admin port is near: a proxy from the environment would only be in the way.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(target, timeout=_TIMEOUT) as response:
            found = json.loads(response.read(_MAX_BYTES))
        if not isinstance(found, dict):
            raise ValueError("no object")
    except urllib.error.HTTPError as error:
        return _failed(target, f"answers {error.code}; is it the admin port?")
    except OSError as error:
        reason = getattr(error, "reason", error)
        return _failed(target, getattr(reason, "strerror", None) or str(reason) or "no answer")
    except ValueError:
        return _failed(target, "does not answer with a status; is it the admin port?")
    print(json.dumps(found, indent=2) if as_json else "\n".join(lines(found, everything=everything)))
    return 0


def _failed(target: str, why: str) -> int:
    print(f"outrigger-sidecar: {target}: {why}", file=sys.stderr)
    return 1


COLUMNS = (
    ("SERVER", ("name",)),
    ("UP", ("up",)),
    ("KIND", ("kind",)),
    ("SPEAKS", ("upstream.protocolVersion", "upstream.eras")),
    ("TOOLS", ("tools.count",)),
    ("BREAKER", ("breaker.state",)),
    ("IN FLIGHT", ("bulkhead.inFlight",)),
    ("QUEUED", ("bulkhead.queued",)),
    ("PROBLEM", ("problem", "health.lastError")),
)
"""What the table shows of a server: the first path that there is."""

SUMMARY = ("version", "ready", "reason", "uptimeSeconds", "config.hash", "config.lastRefusal", "config.needsRestart")


def lines(found: dict[str, Any], *, everything: bool = False) -> list[str]:
    """The status as lines: what is said of the sidecar and a table of its servers; with `everything`, all there is."""
    servers = _servers(found)
    own = [(key, value) for key, value in _flat(found) if not key.startswith("servers")]
    if everything:
        out = _pairs(own, "")
        for name, server in servers:
            out += ["", f"server {name}", *_pairs(_flat(server), "  ")]
        return out
    out = _pairs([(key, value) for key, value in own if key in SUMMARY and value not in _NOTHING], "")
    rows = [[header for header, _ in COLUMNS]]
    for name, server in servers:
        known = {"name": name, **dict(_flat(server))}
        rows.append(
            [next((known[path] for path in paths if known.get(path, "-") not in _NOTHING), "-") for _, paths in COLUMNS]
        )
    return [*out, "", *_columns(rows)] if servers else out


_NOTHING = ("-", "none", "")


def _servers(found: dict[str, Any]) -> list[tuple[str, Any]]:
    servers = found.get("servers")
    if isinstance(servers, dict):
        return list(servers.items())
    if isinstance(servers, list):
        return [(str(server.get("name", "?")), server) for server in servers if isinstance(server, dict)]
    return []


def _flat(value: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Every scalar below `value` with its dotted path; short lists on one line."""
    if isinstance(value, dict):
        return [pair for key, item in value.items() for pair in _flat(item, f"{prefix}.{key}" if prefix else str(key))]
    if isinstance(value, list):
        if all(not isinstance(item, dict | list) for item in value):
            return [(prefix, ", ".join(_text(item) for item in value) or "none")]
        return [pair for index, item in enumerate(value) for pair in _flat(item, f"{prefix}[{index}]")]
    return [(prefix, _text(value))]


def _text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    return "".join(character if character.isprintable() else " " for character in str(value))


def _pairs(rows: list[tuple[str, str]], indent: str) -> list[str]:
    width = max((len(key) for key, _ in rows), default=0)
    return [f"{indent}{key:<{width}}  {value}".rstrip() for key, value in rows]


def _columns(rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))]
    return ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
