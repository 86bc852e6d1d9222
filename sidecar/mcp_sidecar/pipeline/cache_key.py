"""When two calls ask the same: the key of the cache and of single-flight.

Scope (the legacy session or process, by the policy), version, method, caller identity and `params` without `_meta`.
Members are sorted on the first two levels; deeper differences in writing make two keys of one question, which costs a
miss and never a wrong answer. `params` that repeat a member have no key: two readers of them may see two questions.
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any, Final, NamedTuple

import msgspec
from msgspec import Raw

from mcp_sidecar.pipeline.call import Call

_object: Final = msgspec.json.Decoder(dict[str, Raw])
_encode: Final = msgspec.json.Encoder().encode

_SMALL: Final = 1024
"""Bytes of `params` up to which the canonical form is remembered."""
_ONE_TIME: Final = ("inputResponses", "requestState")
"""Members that bind a request to what went before: never cached (2026-07-28 `server/utilities/caching`)."""


class Key(NamedTuple):
    """Equal keys ask the same question. `identity` None: anybody may have the answer."""

    scope: bytes
    version: str
    method: str
    identity: bytes | None
    params: bytes


class _Repeated(ValueError):
    """A JSON object repeats a member."""


def key_of(call: Call, scope: bytes) -> Key | None:
    """The key of a call for its own caller; None where its answer must not be given to another call."""
    params = canonical_params(call.params)
    if params is None:
        return None
    return Key(scope, call.version, call.method, call.identity, params)


def canonical_params(params: bytes | None) -> bytes | None:
    """`params` without `_meta` in one way of writing; None where they must have no key."""
    if params is None:
        return b""
    return _small(params) if len(params) <= _SMALL else _canonical(params)


def _canonical(params: bytes) -> bytes | None:
    members = _members(params)
    if members is None:
        return None
    members.pop("_meta", None)
    if not members:
        return b""
    for name in _ONE_TIME:
        if name in members:
            return None
    parts = []
    for name in sorted(members):
        value = bytes(members[name])
        if value[:1] == b"{":
            inner = _members(value)
            if inner is None:
                return None
            value = b"{" + b",".join(_encode(key) + b":" + bytes(inner[key]) for key in sorted(inner)) + b"}"
        parts.append(_encode(name) + b":" + value)
    return b",".join(parts)


# Clients say the same again and again: the lookup is a quarter of the work.
_small: Final = lru_cache(maxsize=1024)(_canonical)


def wants_progress(call: Call) -> bool:
    """Whether the caller may ask for progress; errs on the side of yes."""
    return call.params is not None and b"progressToken" in call.params


def has_one_time_state(call: Call) -> bool:
    """Whether the call may carry state that a server takes only once; errs on the side of yes."""
    params = call.params
    return params is not None and (b"requestState" in params or b"inputResponses" in params)


def _members(raw: bytes) -> dict[str, Raw] | None:
    """The members of a JSON object; None where it is none, or repeats one."""
    try:
        members = _object.decode(raw)
        # Compact JSON is as long as its parts. Longer: written with spaces or escapes, or a member is repeated.
        compact = 1 + 4 * len(members) if members else 2
        for name, value in members.items():
            compact += len(name) + len(bytes(value))
        if compact != len(raw):
            json.loads(raw, object_pairs_hook=_unique)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return None
    return members


def _unique(pairs: list[tuple[str, Any]]) -> None:
    if len({name for name, _ in pairs}) != len(pairs):
        raise _Repeated
