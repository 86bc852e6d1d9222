"""Translates what people write into our names: the seed's snake_case, desktop clients' files, shorthands.

The result uses canonical names only, and remembers for each place where it was written, so that every message names
what stands in the file. Unknown keys are found here, with the nearest right name; values are left to the models.
"""

from __future__ import annotations

import difflib
import re
import types
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from mcp_sidecar.config.document import Config
from mcp_sidecar.config.foreign import FOREIGN, RENAMED, TRANSPORTS
from mcp_sidecar.config.paths import Path, key, show
from mcp_sidecar.config.scalars import Section
from mcp_sidecar.config.server import Server
from mcp_sidecar.errors import Problem

_NOT_IN_NAME = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass
class Translation:
    """A config in canonical names, and where each part of it was written."""

    tree: dict[str, Any] = field(default_factory=dict)
    written: dict[Path, Path] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)

    def place(self, path: Path) -> Path:
        """The path as it was written of a canonical `path`."""
        for length in range(len(path), 0, -1):
            found = self.written.get(path[:length])
            if found is not None:
                return found + path[length:]
        return path

    def refuse(self, path: Path, message: str) -> None:
        """Record an error at a written path."""
        self.problems.append(Problem(show(path), message))

    def warn(self, path: Path, message: str) -> None:
        """Record a warning at a written path."""
        self.warnings.append(Problem(show(path), message))


def translate(raw: dict[str, Any]) -> Translation:
    """The canonical form of a whole config. Never raises: what is wrong is in `problems`."""
    result = Translation()
    result.tree = _section(result, Config, raw, (), ())
    moved = result.tree.pop("healthCheckEnabled", None)  # the seed's switch for all servers
    servers = result.tree.get("servers")
    if isinstance(servers, dict):
        result.tree["servers"] = servers = _named(result, servers)
        for name, server in servers.items():
            if isinstance(server, dict):
                _fill(result, name, server, moved)
    return result


def _section(
    result: Translation, model: type[Section], raw: dict[str, Any], path: Path, written: Path
) -> dict[str, Any]:
    """`raw`, an object that stands for `model`, in canonical names."""
    fields = {info.alias or name: info for name, info in model.model_fields.items()}
    names = {name: info.alias or name for name, info in model.model_fields.items()} | {name: name for name in fields}
    renamed, foreign = RENAMED.get(model, {}), FOREIGN.get(model, {})
    out: dict[str, Any] = {}
    moves: list[tuple[Path, Any, str]] = []
    for name, value in raw.items():
        here = (*written, name)
        if name in names:
            target = names[name]
            if target in out:
                result.refuse(here, f"is the same setting as {key(str(result.place((*path, target))[-1]))}; give one")
                continue
            result.written[*path, target] = here
            out[target] = _value(result, fields[target], value, (*path, target), here)
        elif name in renamed:
            moves.append((renamed[name], value, name))
        elif name in foreign:
            if foreign[name] and value not in (None, [], {}, "", False):
                result.warn(here, foreign[name])
        else:
            known = {field: field for field in fields} | {other: ".".join(at) for other, at in renamed.items()}
            result.refuse(here, "unknown key" + _nearest(name, model, known))
    for target_path, value, name in moves:
        _move(result, out, target_path, value, path, (*written, name))
    return _SPECIAL[model](result, out, path) if model in _SPECIAL else out


def _move(result: Translation, out: dict[str, Any], target: Path, value: Any, path: Path, here: Path) -> None:
    """Put `value`, written at `here` under another name, to its canonical place below `out`."""
    *parents, last = (str(step) for step in target)
    node = out
    for parent in parents:
        node = node.setdefault(parent, {})
        if not isinstance(node, dict):
            return  # reported by the model
    if last in node:
        result.refuse(here, f"is the same setting as {show(result.place((*path, *target)))}; give one")
        return
    if here[-1] == "enabled" and isinstance(value, bool):
        value = not value
    result.written[*path, *target] = here
    info = _field_at(Server if path else Config, target)
    node[last] = value if info is None else _value(result, info, value, (*path, *target), here)
    if here[-1] == "httpUrl":
        out.setdefault("transport", "StreamableHTTP")


def _field_at(model: type[Section], target: Path) -> FieldInfo | None:
    """The field of `model` that a one-step path names."""
    return (
        next((info for info in model.model_fields.values() if info.alias == target[0]), None)
        if len(target) == 1
        else None
    )


def _value(result: Translation, info: FieldInfo, value: Any, path: Path, written: Path) -> Any:
    """`value` of one field, its sections translated too."""
    section, container = inner_section(info.annotation)
    if section is None:
        return value
    if container is None and isinstance(value, dict):
        return _section(result, section, value, path, written)
    if container is dict and isinstance(value, dict):
        return {
            name: _section(result, section, item, (*path, name), (*written, name)) if isinstance(item, dict) else item
            for name, item in value.items()
        }
    if container is tuple and isinstance(value, list):
        return [
            _section(result, section, item, (*path, index), (*written, index)) if isinstance(item, dict) else item
            for index, item in enumerate(value)
        ]
    return value


def inner_section(annotation: Any) -> tuple[type[Section] | None, type | None]:
    """The section an annotation holds, and whether in a dict or tuple."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation, None
    origin = get_origin(annotation)
    if origin in (Union, types.UnionType):
        return inner_section(get_args(annotation)[0])
    if origin is tuple:
        return inner_section(get_args(annotation)[0])[0], tuple
    if origin is dict:
        return inner_section(get_args(annotation)[1])[0], dict
    return None, None


def _nearest(name: str, model: type[Section], known: dict[str, str]) -> str:
    """`; did you mean …?` or nothing. `known`: every spelling, with our name for it."""

    def flat(text: str) -> str:
        return re.sub(r"[^a-z0-9]", "", text.lower())

    by_flat = {flat(spelling): ours for spelling, ours in reversed(known.items())}
    close = difflib.get_close_matches(flat(name)[:64], by_flat, n=1, cutoff=0.6)
    strong = close and difflib.SequenceMatcher(None, flat(name), close[0]).ratio() >= 0.8
    below = next((f"{info.alias}.{inner}" for info, inner in _below(model) if flat(inner) == flat(name)), None)
    if below is not None and not strong:
        return f"; did you mean {below}?"
    return f"; did you mean {by_flat[close[0]]}?" if close else ""


def _below(model: type[Section]) -> list[tuple[FieldInfo, str]]:
    found = []
    for info in model.model_fields.values():
        section, container = inner_section(info.annotation)
        if section is not None and container is None:
            found += [(info, inner.alias or name) for name, inner in section.model_fields.items()]
    return found


def _named(result: Translation, servers: dict[str, Any]) -> dict[str, Any]:
    """The servers under names that fit into a path: `Brave Search` is called `Brave-Search`."""
    out: dict[str, Any] = {}
    for name, server in servers.items():
        fit = _NOT_IN_NAME.sub("-", name).strip("-._")[:100].rstrip("-._") or name
        here = result.place(("servers", name))
        if fit in out:
            result.refuse(here, f"has the same name as another server once it fits into a path: {key(fit)}")
            continue
        if fit != name:
            result.warn(here, f"is called {key(fit)} here, so that the name fits into a path")
            for path in [path for path in result.written if path[:2] == ("servers", name)]:
                result.written["servers", fit, *path[2:]] = result.written[path]
            result.written.setdefault(("servers", fit), here)
        out[fit] = server
    return out


def _fill(result: Translation, name: str, server: dict[str, Any], checks: Any) -> None:
    """Give a server what the top level says for all."""
    if "timeout" not in server and "globalTimeout" in result.tree:
        server["timeout"] = result.tree["globalTimeout"]
        result.written["servers", name, "timeout"] = result.place(("globalTimeout",))
    if checks is not None:
        health = server.setdefault("health", {})
        if isinstance(health, dict) and "enabled" not in health:
            health["enabled"] = checks
            result.written["servers", name, "health", "enabled"] = result.place(("healthCheckEnabled",))


def _special_config(result: Translation, out: dict[str, Any], path: Path) -> dict[str, Any]:
    if isinstance(out.get("readiness"), str):
        result.written["readiness", "mode"] = result.place(("readiness",))
        out["readiness"] = {"mode": out["readiness"]}
    return out


def _special_server(result: Translation, out: dict[str, Any], path: Path) -> dict[str, Any]:
    transport = out.get("transport")
    if isinstance(transport, str):
        out["transport"] = TRANSPORTS.get(re.sub(r"[^a-z]", "", transport.lower()), transport)
    for name in ("command", "url", "socket", "workingDir", "args", "env", "headers"):
        if name in out and out[name] is None:  # clients write null for "not this one"
            del out[name]
    env = out.get("env")
    if isinstance(env, dict):
        for name in [name for name, value in env.items() if value is None]:  # VS Code: null unsets a variable
            result.warn(
                result.place((*path, "env", name)), "null has no effect: a server's environment begins almost empty"
            )
            del env[name]
    return out


_SPECIAL: dict[type[Section], Callable[[Translation, dict[str, Any], Path], dict[str, Any]]] = {
    Config: _special_config,
    Server: _special_server,
}
