"""Sealed session tokens: nobody makes, reads, stretches or borrows one, and what was ended stays ended."""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_sidecar.errors import SecretError, SessionLost
from mcp_sidecar.front.sessions import MAX_TOKEN_BYTES, Session, Sessions, SessionSettings, load_key

KEY = bytes(range(32))
ME = b"identity of me"
LOST: set[str] = set()
"""What callers were told; one message for every cause: what is wrong with a token helps only who forges them."""


class WallClock:
    """Time that passes when told."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.5

    def __call__(self) -> float:
        return self.now


def sessions(
    key: bytes = KEY, *, clock: WallClock | None = None, file: Path | None = None, address: str = "", **settings: Any
) -> Sessions:
    wall = clock or WallClock()
    return Sessions(key, SessionSettings(**settings), deleted_file=file, address=address, wall_clock=wall)


def opened(own: Sessions, **fields: Any) -> Session:
    return own.open(**{"server": "s", "version": "2025-06-18", "identity": ME, **fields})


def lost(own: Sessions, token: str, *, server: str = "s", identity: bytes = ME) -> bool:
    try:
        own.find(token, server=server, identity=identity)
    except SessionLost as error:
        LOST.add(error.message)
        return True
    return False


def test_another_life_of_the_sidecar_knows_everything_of_a_session() -> None:
    session = opened(
        sessions(address="10.0.0.1"),
        upstream="up-1",
        capabilities=b'{"roots":{}}',
        client_info=b'{"name":"c"}',
        instance="i",
        address="10.0.0.1",
    )
    found = sessions(address="10.0.0.1").find(session.token, server="s", identity=ME)
    for name in (
        "server",
        "version",
        "identity",
        "upstream_session",
        "capabilities",
        "client_info",
        "instance",
        "address",
    ):
        assert getattr(found, name) == getattr(session, name), name
    assert found.log_id == session.log_id
    assert found.state is None
    assert session.expires - 1 <= found.expires <= session.expires


def test_a_token_tells_nothing_and_fits_a_header() -> None:
    session = opened(sessions(), upstream="secret-upstream", client_info=b'{"name":"secret-client"}')
    assert session.token.isascii()
    assert session.token.replace("-", "").replace("_", "").isalnum()
    assert b"secret" not in base64.urlsafe_b64decode(session.token + "==")
    assert session.log_id not in session.token
    huge = opened(sessions(), capabilities=b"{%b}" % (b" " * 100_000), client_info=b" " * 100_000)
    assert len(huge.token) < MAX_TOKEN_BYTES
    assert huge.capabilities == b"{}"


def test_two_sessions_have_two_tokens() -> None:
    own = sessions()
    assert len({opened(own).token for _ in range(100)}) == 100


def test_a_token_is_of_one_server_and_one_caller() -> None:
    own = sessions()
    token = opened(own).token
    for other in (own, sessions()):
        assert lost(other, token, server="other")
        assert lost(other, token, identity=b"somebody else")
        assert lost(other, token, identity=b"")
        assert not lost(other, token)


def test_a_stranger_keeps_no_session_awake() -> None:
    clock = WallClock()
    own = sessions(clock=clock)
    session = opened(own)
    clock.now += 100
    assert lost(own, session.token, identity=b"somebody else")
    assert own.idle_since(60) == [session]
    assert not lost(own, session.token)
    assert own.idle_since(60) == []


def test_a_token_expires_in_memory_and_out_of_it() -> None:
    clock = WallClock()
    own = sessions(clock=clock, lifetime=100)
    token = opened(own).token
    clock.now += 99
    assert not lost(own, token)
    assert not lost(sessions(clock=clock, lifetime=100), token)
    clock.now += 1.5
    assert lost(own, token)
    assert lost(sessions(clock=clock, lifetime=100), token)


def test_a_session_of_another_pod_is_found_there_and_nowhere_else() -> None:
    clock = WallClock()
    here = sessions(address="10.0.0.1", clock=clock, lifetime=100)
    there = sessions(address="10.0.0.2", clock=clock, lifetime=100)
    token = opened(there, address="10.0.0.2").token
    assert here.elsewhere(token, server="s", identity=ME) == "10.0.0.2"
    assert there.elsewhere(token, server="s", identity=ME) is None
    assert lost(here, token), "its own server may know another session by the same name"
    assert lost(sessions(), token), "nor does who has no address serve it"
    assert not lost(there, token)
    anywhere = opened(there).token
    assert here.elsewhere(anywhere, server="s", identity=ME) is None
    assert not lost(here, anywhere)
    # whoever is not its caller learns nothing, and nobody is asked
    assert here.elsewhere(token, server="other", identity=ME) is None
    assert here.elsewhere(token, server="s", identity=b"somebody else") is None
    assert here.elsewhere("x" + token, server="s", identity=ME) is None
    assert sessions(bytes(32), address="10.0.0.1").elsewhere(token, server="s", identity=ME) is None
    clock.now += 101
    assert here.elsewhere(token, server="s", identity=ME) is None


def test_another_key_opens_nothing() -> None:
    assert lost(sessions(bytes(32)), opened(sessions()).token)


def test_what_was_deleted_stays_deleted(tmp_path: Path) -> None:
    file = tmp_path / "deleted"
    clock = WallClock()
    own = sessions(file=file, clock=clock, lifetime=1000)
    kept, ended = opened(own), opened(own)
    own.delete(ended)
    assert lost(own, ended.token)
    clock.now += 10
    again = sessions(file=file, clock=clock, lifetime=1000)
    assert lost(again, ended.token)
    assert not lost(again, kept.token)
    assert ended.token not in file.read_text()
    clock.now += 2000
    sessions(file=file, clock=clock)
    assert file.read_text() == "", "what has expired needs no memory"


def test_a_disk_that_cannot_be_written_fails_no_delete(tmp_path: Path) -> None:
    own = sessions(file=tmp_path / "no" / "such" / "directory")
    session = opened(own)
    own.delete(session)
    assert lost(own, session.token)


def test_rubbish_in_the_file_is_passed_over(tmp_path: Path) -> None:
    file = tmp_path / "deleted"
    own = sessions(file=file)
    session = opened(own)
    own.delete(session)
    file.write_text("\n\nx y z\nabc\nabc -5\n" + file.read_text() + "half a li")
    assert lost(sessions(file=file), session.token)


TOKEN = opened(sessions()).token


@given(st.integers(0, len(TOKEN) - 1), st.characters(codec="latin-1"))
def test_no_character_of_a_token_can_be_another(place: int, character: str) -> None:
    forged = TOKEN[:place] + character + TOKEN[place + 1 :]
    assert lost(sessions(), forged) == (forged != TOKEN)


@given(st.text(max_size=300))
def test_any_text_is_no_token(text: str) -> None:
    assert lost(sessions(), text)


@given(st.binary(max_size=300))
def test_any_bytes_are_no_token(box: bytes) -> None:
    assert lost(sessions(), base64.urlsafe_b64encode(box).rstrip(b"=").decode())


@pytest.mark.parametrize(
    "spell", [lambda t: t + "=", lambda t: t + "==", lambda t: " " + t, lambda t: t + "\n", str.swapcase]
)
def test_a_token_has_one_spelling(spell: Any) -> None:
    own = sessions()
    ended = opened(own)
    own.delete(ended)
    assert lost(own, spell(ended.token))
    assert lost(sessions(), spell(TOKEN))


def test_loose_bits_at_the_end_are_no_second_spelling() -> None:
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    for _ in range(8):
        token = opened(sessions(), upstream="x" * (_ % 4)).token
        same = [c for c in alphabet if not lost(sessions(), token[:-1] + c)]
        assert same == [token[-1]]


def test_a_long_text_is_not_even_decoded() -> None:
    assert lost(sessions(), "A" * (MAX_TOKEN_BYTES + 1))


def test_memory_is_bounded_and_a_forgotten_session_comes_back() -> None:
    own = sessions(max_sessions=5)
    tokens = [opened(own).token for _ in range(50)]
    assert len(own) <= 5
    assert not any(lost(own, token) for token in tokens)
    assert len(own) <= 5


def test_a_key_must_have_its_length() -> None:
    with pytest.raises(SecretError, match="32 bytes"):
        sessions(b"short")


@pytest.mark.parametrize(
    "write", [lambda key: key, lambda key: key.hex().encode() + b"\n", base64.b64encode, base64.urlsafe_b64encode]
)
def test_a_key_file_may_be_raw_hex_or_base64(tmp_path: Path, write: Any) -> None:
    key = bytes(range(200, 232))
    file = tmp_path / "key"
    file.write_bytes(write(key))
    assert load_key(file, None) == key


def test_a_key_that_cannot_be_used_says_where_and_not_what(tmp_path: Path) -> None:
    file = tmp_path / "key"
    with pytest.raises(SecretError, match=str(file)):
        load_key(file, None)
    file.write_text("very secret but too short")
    with pytest.raises(SecretError) as caught:
        load_key(file, None)
    assert "secret" not in str(caught.value)


def test_a_key_is_made_once_and_kept_for_its_owner_only(tmp_path: Path) -> None:
    state = tmp_path / "state" / "outrigger"
    key = load_key(None, state)
    assert load_key(None, state) == key
    assert [path.name for path in state.iterdir()] == ["session.key"]
    assert (state / "session.key").stat().st_mode & 0o777 == 0o600
    assert load_key(None, None) != load_key(None, None)


@pytest.mark.skipif(
    os.geteuid() == 0 and not Path("/proc/self").exists(), reason="needs a place that cannot be written"
)
def test_a_state_directory_that_cannot_be_made_is_an_error() -> None:
    with pytest.raises(SecretError, match="cannot be kept"):
        load_key(None, Path("/proc/self/outrigger"))


def test_nobody_is_told_what_is_wrong_with_a_token() -> None:
    own, clock = sessions(), WallClock()
    ended, old = opened(own), opened(sessions(clock=clock, lifetime=1))
    own.delete(ended)
    clock.now += 10
    LOST.clear()
    assert lost(own, ended.token)
    assert lost(sessions(clock=clock, lifetime=1), old.token)
    assert lost(own, "forged")
    assert lost(own, opened(own).token, identity=b"")
    assert len(LOST) == 1
