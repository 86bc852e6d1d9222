"""Single settings from the environment: `OUTRIGGER__FRONT__PORT=8081`, `OUTRIGGER__SERVERS__GIT__TIMEOUT=5s`.

A variable names the path of a setting, upper case, steps joined by two underscores and the words of a name by one. Two,
because Kubernetes itself sets variables like OUTRIGGER_PORT for a Service called outrigger. Only scalars can be set:
enough for images and charts to move a port without carrying a config.
"""

from __future__ import annotations

import re
import types
from collections.abc import Mapping
from typing import Any, Literal, Union, get_args, get_origin

from mcp_sidecar.config.document import Config
from mcp_sidecar.config.scalars import Section
from mcp_sidecar.config.values import Value
from mcp_sidecar.errors import Problem

PREFIX = "OUTRIGGER__"


def apply_overrides(tree: object, environ: Mapping[str, str]) -> tuple[object, list[Problem]]:
    """`tree`, raw config data, with what the environment says; and the variables that name no setting."""
    problems: list[Problem] = []
    names = sorted(name for name in environ if name.startswith(PREFIX))
    if not names or not isinstance(tree, dict):
        return tree, problems
    for name in names:
        steps = name[len(PREFIX) :].split("__")
        message = _set(tree, Config, steps, environ[name])
        if message:
            problems.append(Problem(name, message))
    return tree, problems


def _words(name: str) -> str:
    """`adminPort` as `ADMIN_PORT`, `brave-search` as `BRAVE_SEARCH`."""
    return re.sub(r"[^A-Z0-9]", "_", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).upper())


def _set(tree: dict[str, Any], model: type[Section], steps: list[str], text: str) -> str | None:
    """Set one scalar below `tree`. Returns what is wrong, or None."""
    step, rest = steps[0], steps[1:]
    for name, info in model.model_fields.items():
        if name.upper() != step:
            continue
        present = next((key for key in (info.alias or name, name, *_others(name)) if key in tree), info.alias or name)
        section, keyed = _shape(info.annotation)
        if section is None:
            return _scalar(tree, present, info.annotation, rest, text)
        if keyed:
            return _server(tree.get(present), section, rest, text)
        if not rest:
            return "names a section, not a setting"
        below = tree.setdefault(present, {})
        if isinstance(below, str) and name == "readiness":  # the short form
            below = tree[present] = {"mode": below}
        if below is None:
            below = tree[present] = {}
        return _set(below, section, rest, text) if isinstance(below, dict) else None
    return "names no setting; it is OUTRIGGER__ and the path, such as OUTRIGGER__FRONT__ADMIN_PORT"


def _others(name: str) -> tuple[str, ...]:
    return ("mcpServers", "mcp_servers") if name == "servers" else ()


def _server(servers: object, section: type[Section], rest: list[str], text: str) -> str | None:
    if len(rest) < 2 or not isinstance(servers, dict):
        return "names no setting of a server"
    for name, server in servers.items():
        if _words(str(name)) == rest[0] and isinstance(server, dict):
            return _set(server, section, rest[1:], text)
    return "names a server that the config does not have"


def _scalar(tree: dict[str, Any], name: str, annotation: Any, rest: list[str], text: str) -> str | None:
    kind = _plain(annotation)
    if rest or kind is None:
        return "names a setting that cannot be set by a variable: only scalars can"
    tree[name] = _typed(kind, text)
    return None


def _typed(kind: type, text: str) -> object:
    """`text` as a JSON scalar would say it; what does not fit stays text, and the models refuse it."""
    if kind is bool and text in ("true", "false"):
        return text == "true"
    if kind in (int, float) and re.fullmatch(r"-?[0-9]{1,18}(\.[0-9]{1,9})?", text):
        return float(text) if "." in text else int(text)
    return text


def _plain(annotation: Any) -> type | None:
    if get_origin(annotation) in (Union, types.UnionType):
        return _plain(get_args(annotation)[0])
    if get_origin(annotation) is Literal:
        return str
    if isinstance(annotation, type) and issubclass(annotation, Value):
        return str
    return annotation if annotation in (bool, int, float, str) else None


def _shape(annotation: Any) -> tuple[type[Section] | None, bool]:
    """The section an annotation holds, and whether it is an object of sections by name."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation, False
    if get_origin(annotation) in (Union, types.UnionType):
        return _shape(get_args(annotation)[0])
    if get_origin(annotation) is dict:
        return _shape(get_args(annotation)[1])[0], True
    return None, False
