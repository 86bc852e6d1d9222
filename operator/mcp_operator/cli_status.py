"""The command `status`: the MCPServers of a cluster as a table, and what is wrong with those that are not ready.

It shows what the operator wrote into their status, and nothing that it would have to work out itself.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mcp_operator.config_loading import NAMESPACE_FILE, namespace_of_pod
from mcp_operator.yaml_text import YamlError, load_all

Object = Mapping[str, Any]

COLUMNS = ("NAME", "READY", "REASON", "ERA", "TOOLS", "REPLICAS", "URL", "AGE")
WIDE = ("KIND", "SERVER", "CONFIG")

_NO_TROUBLE = ("Progressing",)
"""Conditions that are false in good order."""

_COLOURS = {"True": "32", "False": "31", "Unknown": "33"}


def status(*, kubeconfig: str | None, context: str | None, namespace: str | None, output: str, check: bool) -> int:
    """Print the table. `namespace`: None for all, "" for the context's. 1 with `check` unless all are ready."""
    import asyncio

    if namespace == "":
        namespace = current_namespace(kubeconfig, context)
    objects = asyncio.run(_fetch(kubeconfig, context, namespace))
    if output == "json":
        print(json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}, indent=2, ensure_ascii=False))
    elif not objects:
        print(f"no MCPServers in {f'namespace {namespace}' if namespace else 'any namespace'}", file=sys.stderr)
    else:
        now = dt.datetime.now(dt.UTC)
        colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
        width = shutil.get_terminal_size((120, 24)).columns if sys.stdout.isatty() else 120
        for line in lines(
            objects, now=now, wide=output == "wide", namespaces=namespace is None, colour=colour, width=width
        ):
            print(line)
    return 1 if check and not all(ready(one) == "True" for one in objects) else 0


async def _fetch(kubeconfig: str | None, context: str | None, namespace: str | None) -> list[dict[str, Any]]:
    from mcp_operator.errors import NotFound, SettingsError
    from mcp_operator.kube.client import Client
    from mcp_operator.kube.resources import MCP_SERVERS

    async with await Client.connect(kubeconfig, context) as client:
        try:
            return list(await client.list(MCP_SERVERS, namespace))
        except NotFound:
            raise SettingsError(
                "the cluster does not know MCPServers yet: outrigger crds | kubectl apply --server-side -f -"
            ) from None


def current_namespace(
    kubeconfig: str | None,
    context: str | None,
    *,
    environ: Mapping[str, str] = os.environ,
    namespace_file: Path = NAMESPACE_FILE,
) -> str:
    """The namespace of the context, as kubectl has it; in a pod its own; else `default`."""
    if kubeconfig is None and context is None and environ.get("KUBERNETES_SERVICE_HOST"):
        return namespace_of_pod(namespace_file)
    contexts: dict[str, Any] = {}
    for name in (kubeconfig or environ.get("KUBECONFIG") or "~/.kube/config").split(os.pathsep):
        for config in _kubeconfigs(Path(name).expanduser()):
            context = context or str(config.get("current-context") or "")
            for one in config.get("contexts") or ():
                contexts.setdefault(str(one.get("name")), one.get("context") or {})
    return str(contexts.get(context or "", {}).get("namespace") or "default")


def _kubeconfigs(path: Path) -> list[dict[str, Any]]:
    try:
        return [config for _, config in load_all(path.read_text(encoding="utf-8")) if isinstance(config, dict)]
    except (OSError, UnicodeDecodeError, YamlError):
        return []  # whoever connects tells what is wrong with it


def lines(
    objects: Sequence[Object],
    *,
    now: dt.datetime,
    wide: bool = False,
    namespaces: bool = False,
    colour: bool = False,
    width: int = 120,
) -> list[str]:
    """The table, then why each MCPServer is not ready, or what else is not as it should be; with `wide` all of it."""
    ordered = sorted(objects, key=_place)
    header = [*(["NAMESPACE"] if namespaces else []), *COLUMNS, *(WIDE if wide else ())]
    rows = [header, *(_row(one, now, wide=wide, namespaces=namespaces) for one in ordered)]
    out = []
    column = header.index("READY")
    widths = [max(len(row[index]) for row in rows) for index in range(len(header))]
    for number, row in enumerate(rows):
        cells = [f"{cell:<{cell_width}}" for cell, cell_width in zip(row, widths, strict=True)]
        if colour and number and (code := _COLOURS.get(row[column])):
            cells[column] = f"\033[{code}m{cells[column]}\033[0m"
        out.append("   ".join(cells).rstrip())
    for one in ordered:
        out += _troubles(one, namespaces=namespaces, everything=wide, width=width)
    return out


def ready(server: Object) -> str:
    """`True`, `False` or `Unknown`: the condition Ready, where it is about the spec as it is now."""
    condition = _condition(server, "Ready")
    return str(condition.get("status", "Unknown")) if _current(server) else "Unknown"


def _row(server: Object, now: dt.datetime, *, wide: bool, namespaces: bool) -> list[str]:
    said = _section(server, "status")
    condition = _condition(server, "Ready")
    reason = condition.get("reason", "-") if _current(server) else "NotSeenYet"
    row = [
        _place(server)[1],
        ready(server),
        reason,
        said.get("era", "-"),
        said.get("tools", "-"),
        f"{said.get('readyReplicas', 0)}/{said.get('replicas', 0)}" if said else "-",
        said.get("url", "-"),
        age(_section(server, "metadata").get("creationTimestamp"), now),
    ]
    if namespaces:
        row.insert(0, _place(server)[0])
    if wide:
        found = _section(said, "server")
        spec = _section(server, "spec")
        row.append(next((kind for kind in ("stdio", "http", "remote") if kind in spec), "-"))
        row.append(" ".join(str(found[key]) for key in ("name", "version") if found.get(key)) or "-")
        row.append(said.get("configHash", "-"))
    return [_plain(cell) for cell in row]


def _troubles(server: Object, *, namespaces: bool, everything: bool, width: int) -> list[str]:
    namespace, name = _place(server)
    title = f"{namespace}/{name}" if namespaces else name
    if not _current(server):
        text = "the operator has not looked at its newest version: is one running that works for this namespace?"
        return ["", *_wrapped(f"{title}: {text}", width)]
    found = _section(server, "status").get("conditions")
    conditions = [one for one in (found if isinstance(found, list) else []) if isinstance(one, Mapping)]
    bad = [one for one in conditions if one.get("status") != "True" and one.get("type") not in _NO_TROUBLE]
    summary = [one for one in bad if one.get("type") == "Ready"]
    # Ready tells the cause; what else is not true then is mostly what comes of it.
    told = bad if everything else summary or bad
    out = []
    for one in sorted(told, key=lambda one: one.get("type") != "Ready"):
        if one.get("message"):
            out += _wrapped(_plain(f"{title}: {one.get('reason', one.get('type'))}: {one['message']}"), width)
    return ["", *out] if out else []


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, max(40, width), subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def _current(server: Object) -> bool:
    seen = _section(server, "status").get("observedGeneration")
    return isinstance(seen, int) and seen >= _section(server, "metadata").get("generation", 0)


def _condition(server: Object, kind: str) -> Mapping[str, Any]:
    conditions = _section(server, "status").get("conditions")
    for condition in conditions if isinstance(conditions, list) else []:
        if isinstance(condition, Mapping) and condition.get("type") == kind:
            return condition
    return {}


def _section(holder: Object, name: str) -> Mapping[str, Any]:
    found = holder.get(name)
    return found if isinstance(found, Mapping) else {}


def _place(server: Object) -> tuple[str, str]:
    metadata = _section(server, "metadata")
    return str(metadata.get("namespace", "")), str(metadata.get("name", ""))


def _plain(value: object) -> str:
    return "".join(character if character.isprintable() else " " for character in str(value))


def age(created: object, now: dt.datetime) -> str:
    """How long ago `created` (RFC 3339) was, as kubectl says it: `45s`, `12m`, `5h`, `3d`."""
    try:
        seconds = int((now - dt.datetime.fromisoformat(str(created).replace("Z", "+00:00"))).total_seconds())
    except (ValueError, TypeError):
        return "-"
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "m")):
        if seconds >= 2 * size:
            return f"{seconds // size}{unit}"
    return f"{max(0, seconds)}s"
