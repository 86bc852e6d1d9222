"""Legacy sessions: ids that are sealed tokens, so that a restart or another replica can serve them.

A token holds which server, the upstream's own session, the caller's version and capabilities, a hash of who opened it,
and when, under AES-GCM (design.md, "Sessions"). Nobody can forge or read one, it expires, and a DELETE is remembered.
What a session means to an upstream (its process, its subscriptions) lives in `Session.state`, owned by the upstream.
"""

from __future__ import annotations

import base64
import hashlib
import os
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from mcp_sidecar.errors import SecretError, SessionLost

_AAD: Final = b"outrigger/session/1"
_LOST: Final = "the session is unknown, expired or ended: begin a new one"
_KEY_BYTES: Final = 32
_NONCE_BYTES: Final = 12
MAX_TOKEN_BYTES: Final = 4096
_LOOKED_AT: Final = 64
"""Sessions that one `initialize` may look at to make room."""
_MAX_DELETED: Final = 50_000
"""DELETEs remembered; past that the oldest is forgotten, and its caller could use its token again."""
_MAX_CAPABILITIES: Final = 1500
"""A header must fit the limits of proxies on the way; capabilities beyond this stay out of the token."""


class _Sealed(msgspec.Struct, array_like=True):
    server: str
    opened: int
    nonce: str
    version: str
    identity: bytes
    upstream: str | None
    capabilities: bytes
    client_info: bytes
    instance: str
    address: str


class Session:
    """One legacy session of one caller with one server."""

    __slots__ = (
        "address",
        "capabilities",
        "client_info",
        "expires",
        "identity",
        "in_flight",
        "instance",
        "last_used",
        "log_id",
        "server",
        "state",
        "streams",
        "token",
        "upstream_session",
        "version",
    )

    def __init__(self, sealed: _Sealed, token: str, expires: float) -> None:
        self.server = sealed.server
        self.version = sealed.version
        self.identity = sealed.identity
        self.upstream_session = sealed.upstream
        self.capabilities = sealed.capabilities
        """The caller's `capabilities` as raw JSON."""
        self.client_info = sealed.client_info
        """The caller's `clientInfo` as raw JSON."""
        self.instance = sealed.instance
        """Which process of a `PerSession` server holds it; empty where any may serve it."""
        self.address = sealed.address
        """The pod that holds it, empty where any replica may serve it."""
        self.token = token
        self.log_id = token_hash(token)[:12]
        """A short hash for logs: the token itself is a credential."""
        self.expires = expires
        """Seconds since the epoch, since it must hold across restarts."""
        self.last_used = 0.0
        """Seconds since the epoch."""
        self.streams = 0
        """GET streams that are open."""
        self.in_flight: dict[bytes, Callable[[], None]] = {}
        """The caller's raw id → how to cancel that call."""
        self.state: object | None = None


def token_hash(token: str) -> str:
    """Hash of a token: what may be kept or shown of it."""
    return hashlib.blake2b(token.encode(), digest_size=16).hexdigest()


@dataclass(frozen=True)
class SessionSettings:
    """lifetime: seconds from opening; max_sessions: kept in memory at once; allow: none forgotten before that."""

    lifetime: float = 86_400.0
    max_sessions: int = 10_000


class Sessions:
    """Seals, opens and forgets session tokens."""

    def __init__(
        self,
        key: bytes,
        settings: SessionSettings,
        *,
        deleted_file: Path | None = None,
        address: str = "",
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """`address`: the IP address by which the other replicas reach this one, empty where there are none."""
        if len(key) != _KEY_BYTES:
            raise SecretError(f"a session key must have {_KEY_BYTES} bytes, this one has {len(key)}")
        self.address = address
        self._cipher = AESGCM(key)
        self._settings = settings
        self._wall_clock = wall_clock
        self._known: OrderedDict[str, Session] = OrderedDict()
        self._deleted: dict[str, float] = {}
        self._deleted_file = deleted_file
        self._load_deleted()

    def __len__(self) -> int:
        return len(self._known)

    def reconfigure(self, settings: SessionSettings) -> None:
        """Use new bounds: lifetimes of sessions in memory stay as they were."""
        self._settings = settings

    def known(self) -> list[Session]:
        """The sessions in memory, least recently used first."""
        return list(self._known.values())

    def open(
        self,
        *,
        server: str,
        version: str,
        identity: bytes,
        upstream: str | None = None,
        capabilities: bytes = b"{}",
        client_info: bytes = b"",
        instance: str = "",
        address: str = "",
    ) -> Session:
        """A new session with its token."""
        if len(capabilities) > _MAX_CAPABILITIES or len(client_info) > _MAX_CAPABILITIES:
            client_info = b""
            capabilities = capabilities if len(capabilities) <= _MAX_CAPABILITIES else b"{}"
        now = self._wall_clock()
        nonce = os.urandom(_NONCE_BYTES)
        sealed = _Sealed(
            server, int(now), nonce.hex()[:8], version, identity, upstream, capabilities, client_info, instance, address
        )
        box = nonce + self._cipher.encrypt(nonce, msgspec.msgpack.encode(sealed), _AAD)
        token = base64.urlsafe_b64encode(box).rstrip(b"=").decode()
        session = Session(sealed, token, now + self._settings.lifetime)
        self._remember(session)
        return session

    def find(self, token: str, *, server: str, identity: bytes) -> Session:
        """The session of a token. Raises SessionLost for anything but a live one of this server and caller.

        One message for every cause: what is wrong with a token helps only who forges them.
        """
        known = self._known.get(token)
        session = known or self._unseal(token)
        # what another pod holds must never be looked for here: its server's ids might be another caller's with ours
        if session is None or not self._valid(session, server, identity) or session.address not in ("", self.address):
            raise SessionLost(_LOST)
        if known is not None:
            self._known.move_to_end(token)
            session.last_used = self._wall_clock()
        elif token_hash(token) in self._deleted:
            raise SessionLost(_LOST)
        else:
            self._remember(session)
        return session

    def elsewhere(self, token: str, *, server: str, identity: bytes) -> str | None:
        """The address of the other replica that holds the session of a token; None where `find` is to judge it."""
        if not self.address or token in self._known:
            return None
        session = self._unseal(token)
        if session is None or not self._valid(session, server, identity):
            return None
        return session.address if session.address not in ("", self.address) else None

    def _valid(self, session: Session, server: str, identity: bytes) -> bool:
        return session.server == server and session.identity == identity and session.expires > self._wall_clock()

    def delete(self, session: Session) -> None:
        """End a session for good, across restarts where there is a state directory."""
        self._known.pop(session.token, None)
        hashed = token_hash(session.token)
        self._deleted[hashed] = session.expires
        self._expire_deleted()
        if len(self._deleted) > _MAX_DELETED:
            del self._deleted[next(iter(self._deleted))]
        if self._deleted_file is not None:
            try:
                with self._deleted_file.open("a") as file:
                    file.write(f"{hashed} {int(session.expires)}\n")
            except OSError:
                self._deleted_file = None  # memory still knows; a full or read-only disk must not fail the DELETE

    def forget(self, session: Session) -> None:
        """Drop what memory holds of a session; its token stays valid."""
        self._known.pop(session.token, None)

    def make_room(self, rest: Callable[[Session], bool]) -> bool:
        """Whether one more may be opened: forgets the least recently used that `rest` lets go, should it be needed.

        Its token stays valid. Without this whoever sends `initialize` often enough would lock all others out.
        """
        known = self._known
        for _ in range(_LOOKED_AT):
            if len(known) < self._settings.max_sessions:
                return True
            token, session = next(iter(known.items()))
            if session.in_flight or session.streams or not rest(session):
                known.move_to_end(token)  # in use, so not the one to look at next time
            else:
                del known[token]
        return len(known) < self._settings.max_sessions

    def idle_since(self, seconds: float) -> list[Session]:
        """The sessions in memory that nobody used for so long."""
        horizon = self._wall_clock() - seconds
        return [
            session
            for session in self._known.values()
            if session.last_used < horizon and not session.in_flight and not session.streams
        ]

    def _remember(self, session: Session) -> None:
        self._known[session.token] = session
        session.last_used = self._wall_clock()
        if len(self._known) > self._settings.max_sessions:
            for token, old in self._known.items():
                if old.state is None and not old.in_flight:
                    del self._known[token]
                    return

    def _unseal(self, token: str) -> Session | None:
        if len(token) > MAX_TOKEN_BYTES or not token.isascii():
            return None
        try:
            box = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
            if base64.urlsafe_b64encode(box).rstrip(b"=").decode() != token:
                return None  # one token, one spelling: a deleted one must not come back in another
            plain = self._cipher.decrypt(box[:_NONCE_BYTES], box[_NONCE_BYTES:], _AAD)
            sealed = msgspec.msgpack.decode(plain, type=_Sealed)
        except (ValueError, InvalidTag, msgspec.DecodeError):
            return None
        return Session(sealed, token, sealed.opened + self._settings.lifetime)

    def _load_deleted(self) -> None:
        if self._deleted_file is None or not self._deleted_file.exists():
            return
        try:
            for line in self._deleted_file.read_text().splitlines():
                hashed, _, expires = line.partition(" ")
                if expires.isdigit():
                    self._deleted[hashed] = float(expires)
            self._expire_deleted(always=True)
            kept = "".join(f"{hashed} {int(expires)}\n" for hashed, expires in self._deleted.items())
            self._deleted_file.write_text(kept)
        except OSError:
            self._deleted_file = None

    def _expire_deleted(self, *, always: bool = False) -> None:
        if always or len(self._deleted) % 1024 == 0:
            now = self._wall_clock()
            self._deleted = {hashed: expires for hashed, expires in self._deleted.items() if expires > now}


def load_key(key_file: Path | None, state_directory: Path | None) -> bytes:
    """The key that seals sessions: from `sessions.keyFile`, else made once and kept in the state directory.

    The file holds 32 raw bytes, or their base64 or hex form. Raises SecretError where it cannot be read or used.
    """
    if key_file is not None:
        try:
            return _decode_key(key_file.read_bytes(), str(key_file))
        except OSError as error:
            raise SecretError(f"sessions.keyFile {key_file}: {error.strerror}") from None
    if state_directory is None:
        return os.urandom(_KEY_BYTES)
    path = state_directory / "session.key"
    try:
        state_directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists():
            temporary = state_directory / f".session.key.{os.getpid()}"
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(os.urandom(_KEY_BYTES))
            try:
                os.link(temporary, path)  # fails where another process was first: its key counts
            except FileExistsError:
                pass
            finally:
                temporary.unlink()
        return _decode_key(path.read_bytes(), str(path))
    except OSError as error:
        raise SecretError(f"the session key in {state_directory} cannot be kept: {error.strerror}") from None


def _decode_key(data: bytes, path: str) -> bytes:
    if len(data) == _KEY_BYTES:
        return data
    stripped = data.strip()
    for decode in (bytes.fromhex, lambda text: base64.b64decode(text, altchars=b"-_", validate=True)):
        try:
            key = decode(stripped.decode("ascii"))
        except (ValueError, UnicodeDecodeError):
            continue
        if len(key) == _KEY_BYTES:
            return key
    raise SecretError(f"session key {path}: expected {_KEY_BYTES} bytes, raw or as hex or base64")
