"""The audit: one line on stdout for each `tools/call`, apart from the log.

A line says who called which tool, what was decided and how it ended. Values of arguments are never in it; their names
or a keyed hash by choice. Lines are numbered: a gap in `seq` is a lost line, and lost lines are counted. With the
policy `Block` nothing is executed that could not be written: new calls wait (`admit`) while the queue is full.
"""

from __future__ import annotations

import enum
import hashlib
import secrets
from typing import Final

import msgspec
from msgspec import UNSET, Raw, UnsetType

from mcp_sidecar.errors import Delivery, Reason
from mcp_sidecar.pipeline.call import Call
from mcp_sidecar.telemetry.lines import LineWriter

MAX_ARGUMENT_NAMES: Final = 64
MAX_NAME: Final = 256
"""Characters of a tool's or an argument's name: both are the caller's input."""


class ArgumentMode(enum.Enum):
    """What a line tells of the arguments."""

    NONE = "None"
    NAMES = "Names"
    HASH = "Hash"


class AuditPolicy(enum.Enum):
    """What happens when lines are not read fast enough."""

    BLOCK = "Block"
    DROP = "Drop"


class AuditLine(msgspec.Struct, omit_defaults=True, gc=False):
    """One audit line, members in the order in which they are written."""

    ts: str
    audit: str
    """Always `tools/call`: tells audit lines from others where streams are joined."""
    seq: int
    call: str
    server: str
    tool: str
    who: str
    decision: str
    """`allowed`, `denied` (by policy) or `refused` (by a limit; not sent)."""
    outcome: str
    delivery: str
    """How far it got at worst: `not_sent`, `refused`, `maybe`, `answered`."""
    attempts: int
    duration_ms: float
    source: str
    reason: str = ""
    code: int = 0
    id: str = ""
    era: str = ""
    session: str = ""
    trace: str = ""
    arguments: list[str] | str = ""


class _Arguments(msgspec.Struct, gc=False):
    arguments: dict[str, Raw] | UnsetType = UNSET


_arguments: Final = msgspec.json.Decoder(_Arguments)
_sorted: Final = msgspec.json.Encoder(order="sorted").encode
_DELIVERY: Final = tuple(state.name.lower() for state in Delivery)
_DENIED: Final = frozenset({Reason.TOOL_NOT_ALLOWED.label})


class Audit:
    """Writes audit lines; `seq` starts at 1 with each process."""

    def __init__(
        self,
        writer: LineWriter,
        *,
        arguments: ArgumentMode = ArgumentMode.NONE,
        policy: AuditPolicy = AuditPolicy.DROP,
        key: bytes | None = None,
    ) -> None:
        """`key` keys the hash of arguments, so that short values cannot be guessed; random for this process if None."""
        self._writer = writer
        self.arguments = arguments
        self.policy = policy
        self._key = hashlib.sha256(key).digest() if key else secrets.token_bytes(32)
        self._encode = msgspec.json.Encoder().encode
        self.records = 0
        """Lines made, lost ones included; the latest `seq`."""

    @property
    def dropped(self) -> int:
        """Lines lost so far."""
        return self._writer.dropped

    async def admit(self) -> None:
        """Wait, before a tool is called, until its line will find room; at once unless the policy is BLOCK."""
        if self.policy is AuditPolicy.BLOCK and self._writer.full:
            await self._writer.writable()

    def record(
        self,
        call: Call,
        ts: str,
        outcome: str,
        reason: str,
        code: int,
        rejected: bool,
        duration_ms: float,
        source: str,
        rpc_id: str,
        era: str,
        session: str,
        trace: str,
    ) -> None:
        """Write the line of one finished `tools/call`."""
        self.records += 1
        name = call.name or ""
        line = AuditLine(
            ts,
            "tools/call",
            self.records,
            call.uid,
            call.server,
            name if len(name) <= MAX_NAME else name[:MAX_NAME],
            call.principal or (call.identity.hex()[:16] if call.identity else "anonymous"),
            "allowed" if not rejected else "denied" if reason in _DENIED else "refused",
            outcome,
            _DELIVERY[call.delivery],
            call.attempts,
            duration_ms,
            source,
            reason,
            code,
            rpc_id,
            era,
            session,
            trace,
        )
        if self.arguments is not ArgumentMode.NONE:
            line.arguments = self._told(call.params)
        self._writer.write(self._encode(line) + b"\n", force=self.policy is AuditPolicy.BLOCK)

    def _told(self, params: bytes | None) -> list[str] | str:
        """Names or hash of the arguments; empty where there are none that can be read."""
        if not params:
            return ""
        try:
            arguments = _arguments.decode(params).arguments
            if arguments is UNSET:
                return ""
            if self.arguments is ArgumentMode.NAMES:
                return [name[:MAX_NAME] for name in list(arguments)[:MAX_ARGUMENT_NAMES]]
            # order and white space do not matter to the tool, so not to the hash
            canonical = _sorted(msgspec.json.decode(msgspec.json.encode(arguments)))
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            return ""
        return hashlib.blake2b(canonical, key=self._key, digest_size=16).hexdigest()
