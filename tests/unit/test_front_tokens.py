"""Bearer tokens from files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mcp_sidecar.front.gate import FrontGate
from mcp_sidecar.front.hosts import HostPolicy
from mcp_sidecar.front.refusal import Fault, Refusal
from mcp_sidecar.front.request import Request
from mcp_sidecar.front.tokens import BearerTokens, TokenFile, challenge


def _name(tokens: BearerTokens, header: bytes | None) -> str | None:
    principal = tokens.authenticate(header)
    return None if principal is None else principal.name


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "alice").write_text("alice-token\n")
    (tmp_path / "bob").write_text("bob-token-old\n\nbob-token-new\n")
    return tmp_path


@pytest.fixture
def tokens(directory: Path) -> BearerTokens:
    return BearerTokens(
        [
            TokenFile("alice", directory / "alice", lambda tool: tool.startswith("read_")),
            TokenFile("bob", directory / "bob"),
        ]
    )


def test_who_shows_a_token(tokens: BearerTokens) -> None:
    assert not tokens.problems
    assert _name(tokens, b"Bearer alice-token") == "alice"
    assert _name(tokens, b"bearer  alice-token ") == "alice"
    assert _name(tokens, b"Bearer bob-token-old") == "bob"
    assert _name(tokens, b"Bearer bob-token-new") == "bob"
    for wrong in (
        None,
        b"",
        b"Bearer",
        b"Bearer ",
        b"alice-token",
        b"Basic alice-token",
        b"Bearer alice-toke",
        b"\xff",
    ):
        assert _name(tokens, wrong) is None


def test_what_its_bearer_may_use(tokens: BearerTokens) -> None:
    alice, bob = tokens.authenticate(b"Bearer alice-token"), tokens.authenticate(b"Bearer bob-token-new")
    assert alice is not None
    assert bob is not None
    assert alice.allows("read_file")
    assert not alice.allows("delete_file")
    assert bob.allows("delete_file")


def test_rotation_and_revocation(tokens: BearerTokens, directory: Path) -> None:
    assert tokens.reload() is False
    (directory / "bob").write_text("bob-token-new\n")
    assert tokens.reload() is True
    assert _name(tokens, b"Bearer bob-token-old") is None
    assert _name(tokens, b"Bearer bob-token-new") == "bob"
    (directory / "alice").unlink()
    assert tokens.reload() is True
    assert _name(tokens, b"Bearer alice-token") is None
    assert tokens.problems == (f"token alice: no file {directory / 'alice'}",)
    (directory / "alice").write_text("alice-again")
    assert tokens.reload() is True
    assert _name(tokens, b"Bearer alice-again") == "alice"
    assert not tokens.problems


@pytest.mark.parametrize("broken", ["", "\n \n", "two words", 'quoted"', "x" * 70_000, "token\0", "tök"])
def test_a_broken_file_keeps_what_was(tokens: BearerTokens, directory: Path, broken: str) -> None:
    (directory / "alice").write_text(broken)
    assert tokens.reload() is False
    assert _name(tokens, b"Bearer alice-token") == "alice"
    (problem,) = tokens.problems
    assert "alice" in problem
    assert broken.strip() == "" or broken not in problem


def test_a_file_that_cannot_be_read_keeps_what_was(tokens: BearerTokens, directory: Path) -> None:
    (directory / "alice").unlink()
    (directory / "alice").mkdir()
    assert tokens.reload() is False
    assert _name(tokens, b"Bearer alice-token") == "alice"


def test_a_broken_file_at_the_start_lets_nobody_in(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("")
    tokens = BearerTokens([TokenFile("empty", tmp_path / "empty"), TokenFile("none", tmp_path / "none")])
    assert len(tokens.problems) == 2
    assert _name(tokens, b"Bearer ") is None
    assert _name(tokens, b"Bearer x") is None


def test_two_names_for_one_token(tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / name).write_text("same")
    tokens = BearerTokens([TokenFile(name, tmp_path / name) for name in ("first", "second")])
    assert _name(tokens, b"Bearer same") == "first"
    assert tokens.problems == ("token second is the same as first, whose tools apply",)


def test_every_token_is_compared(tokens: BearerTokens, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time must not tell which token was near: no early way out."""
    compared: list[bytes] = []

    def compare(known: bytes, shown: bytes) -> bool:
        compared.append(known)
        return known == shown

    monkeypatch.setattr("mcp_sidecar.front.tokens.hmac.compare_digest", compare)
    for header in (b"Bearer alice-token", b"Bearer bob-token-new", b"Bearer wrong"):
        compared.clear()
        tokens.authenticate(header)
        assert len(set(compared)) == 3


def test_no_token_is_kept_in_clear(tokens: BearerTokens) -> None:
    assert b"alice-token" not in repr(vars(tokens)).encode()


def test_challenges() -> None:
    missing, wrong = challenge(None), challenge(b"Bearer x")
    assert missing.status == wrong.status == 401
    assert missing.headers == ((b"WWW-Authenticate", b'Bearer realm="outrigger"'),)
    assert b"invalid_token" in wrong.headers[0][1]


def _request(headers: dict[bytes, bytes], repeated: frozenset[bytes] = frozenset()) -> Request:
    connection: Any = None
    return Request(connection, "POST", "/mcp", "", headers, repeated, b"", True, True)


def test_the_gate_asks_for_a_token(tokens: BearerTokens) -> None:
    gate = FrontGate(HostPolicy(), tokens)
    admitted = gate.principal(_request({b"authorization": b"Bearer alice-token"}))
    assert isinstance(admitted, tuple)
    name, tools = admitted
    assert name == "alice"
    assert tools is not None
    assert tools("read_file")
    for headers in ({}, {b"authorization": b"Bearer no"}):
        refused = gate.principal(_request(headers))
        assert isinstance(refused, Refusal)
        assert (refused.status, refused.fault) == (401, Fault.UNAUTHORIZED)
    twice = frozenset({b"authorization"})
    assert isinstance(gate.principal(_request({b"authorization": b"Bearer alice-token"}, twice)), Refusal)
    assert gate.refusals == {"unauthorized": 3}
