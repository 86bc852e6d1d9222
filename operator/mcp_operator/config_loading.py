"""Where the operator's configuration comes from, and which source wins.

Flags, then variables `OUTRIGGER_OPERATOR__<PATH>`, then the file that `--config` or OUTRIGGER_OPERATOR_CONFIG names
(YAML or JSON), then the defaults. All problems are told at once. What the settings are is in `config`.
"""

from __future__ import annotations

import difflib
import os
import re
import secrets
import socket
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from mcp_operator.config import OperatorConfig, contradictions
from mcp_operator.yaml_text import YamlError, load_all
from mcp_sidecar.config import ConfigError, Problem, Section
from mcp_sidecar.config.describe import described, field_type, shape
from mcp_sidecar.config.paths import show

PREFIX = "OUTRIGGER_OPERATOR__"
FILE_VARIABLE = "OUTRIGGER_OPERATOR_CONFIG"
NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
"""Where a pod finds the namespace it is in."""

MAX_BYTES = 1 << 20


def load(
    file: str | None = None,
    *,
    flags: Mapping[tuple[str, ...], Any] | None = None,
    environ: Mapping[str, str] | None = None,
    namespace_file: Path = NAMESPACE_FILE,
    hostname: str | None = None,
) -> OperatorConfig:
    """The configuration. `flags`: values by the path of their setting, as in the file. Raises ConfigError."""
    environ = os.environ if environ is None else environ
    problems: list[Problem] = []
    file = file or environ.get(FILE_VARIABLE) or None
    tree = _read(file) if file is not None else {}
    for name in sorted(environ):
        if name.startswith(PREFIX):
            message = _override(tree, OperatorConfig, name[len(PREFIX) :].split("__"), environ[name])
            if message:
                problems.append(Problem(name, message))
    for path, value in (flags or {}).items():
        _place(tree, path, value)
    if tree.get("namespace") is None:
        tree["namespace"] = namespace_of_pod(namespace_file)
    if tree.get("identity") is None:
        tree["identity"] = f"{(hostname or socket.gethostname())[:200]}_{secrets.token_hex(4)}"
    config, more = _checked(tree)
    if config is None or problems or more:
        raise ConfigError([*problems, *more], file or "")
    return config


def namespace_of_pod(file: Path = NAMESPACE_FILE) -> str:
    """The namespace of the pod that this runs in; `default` outside of one."""
    try:
        return file.read_text().strip() or "default"
    except (OSError, UnicodeDecodeError):
        return "default"


def _read(file: str) -> dict[str, Any]:
    try:
        with Path(file).open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError([Problem("", (error.strerror or "cannot be read").lower())], file) from None
    if len(data) > MAX_BYTES:
        raise ConfigError([Problem("", f"is larger than {MAX_BYTES >> 20}MiB")], file)
    try:
        documents = [content for _, content in load_all(data.decode("utf-8-sig").replace("\t", " "))]
    except UnicodeDecodeError as error:
        raise ConfigError([Problem("", f"is not UTF-8 (byte {error.start})")], file) from None
    except YamlError as error:
        raise ConfigError([Problem("", f"is no YAML: {error}")], file) from None
    tree = documents[0] if documents else {}
    if len(documents) > 1:
        raise ConfigError([Problem("", "holds more than one document")], file)
    if not isinstance(tree, dict):
        raise ConfigError([Problem("", f"must be an object of settings; it is {shape(tree)}")], file)
    return tree


def _place(tree: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    for step in path[:-1]:
        below = tree.get(step)
        if not isinstance(below, dict):
            below = tree[step] = {}
        tree = below
    tree[path[-1]] = value


# Variables


def _override(tree: dict[str, Any], model: type[Section], steps: list[str], text: str) -> str | None:
    """Set what a variable names. Returns what is wrong, or None."""
    step, *rest = steps
    for name, info in model.model_fields.items():
        if name.upper() != step:
            continue
        alias = info.alias or name
        section = _section(info.annotation)
        if section is not None:
            if not rest:
                return "names a section, not a setting"
            below = tree.setdefault(alias, {})
            return _override(below, section, rest, text) if isinstance(below, dict) else None
        if rest:
            break
        tree[alias] = _typed(info.annotation, text)
        return None
    return f"names no setting; it is {PREFIX} and the path, such as {PREFIX}LEADER_ELECTION__ENABLED"


def _section(annotation: Any) -> type[Section] | None:
    return annotation if isinstance(annotation, type) and issubclass(annotation, Section) else None


def _typed(annotation: Any, text: str) -> Any:
    """`text` as the file would say it: lists are `a,b`, objects `a=b,c=d`; what does not fit stays text."""
    if get_origin(annotation) in (Union, types.UnionType):
        return _typed(get_args(annotation)[0], text)
    if get_origin(annotation) is tuple:
        return [item.strip() for item in text.split(",") if item.strip()]
    if get_origin(annotation) is dict:
        pairs = [item.partition("=") for item in text.split(",") if item.strip()]
        return {key.strip(): value.strip() for key, _, value in pairs}
    if annotation is bool and text in ("true", "false"):
        return text == "true"
    if annotation in (int, float) and re.fullmatch(r"-?[0-9]{1,18}(\.[0-9]{1,9})?", text):
        return float(text) if "." in text else int(text)
    return text


# Checks


def _checked(tree: dict[str, Any]) -> tuple[OperatorConfig | None, list[Problem]]:
    try:
        config = OperatorConfig.model_validate(tree)
    except ValidationError as error:
        details = error.errors(include_url=False, include_context=True)
        return None, list(dict.fromkeys(Problem(show(detail["loc"]), _message(detail)) for detail in details))
    problems = contradictions(config)
    return (None if problems else config), problems


def _message(detail: ErrorDetails) -> str:
    model, field = _declared(detail["loc"])
    if detail["type"] == "extra_forbidden":
        names = [info.alias or name for name, info in model.model_fields.items()] if model is not None else []
        last = str(detail["loc"][-1])
        close = difflib.get_close_matches(last.lower(), [name.lower() for name in names], n=1, cutoff=0.6)
        hint = next((f"; did you mean {name}?" for name in names if close and name.lower() == close[0]), "")
        return f"is no setting{hint}"
    if field is None:
        wanted = "a value"
    elif isinstance(detail["loc"][-1], int):
        wanted = described(get_args(field.annotation)[0])
    else:
        wanted = field_type(field)
    if detail["type"] == "string_pattern_mismatch":
        wanted += f" like {detail.get('ctx', {}).get('pattern', '')}"
    if detail["type"] == "literal_error" and isinstance(detail["input"], str) and field is not None:
        names = [str(name) for name in _choices(field.annotation)]
        close = [name for name in names if name.lower() == detail["input"].lower()]
        wanted += f"; did you mean {close[0]}?" if close else ""
    return f"must be {wanted}; it is {shape(detail['input'])}"


def _choices(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) is Literal else ()


def _declared(path: tuple[str | int, ...]) -> tuple[type[Section] | None, Any]:
    """The section that holds the setting at `path`, and its field; None where there is none."""
    model: type[Section] | None = OperatorConfig
    field = None
    for index, step in enumerate(path):
        if model is None or isinstance(step, int):
            break
        field = next((info for name, info in model.model_fields.items() if step in (info.alias, name)), None)
        if field is None or index == len(path) - 1:
            return model, field
        model = _section(field.annotation)
    return model, field
