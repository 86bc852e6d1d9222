"""Sealed values: opened by the right key for the right server, and never otherwise (seed R11, F45-F49)."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cryptography.fernet import Fernet
from hypothesis import given, settings
from hypothesis import strategies as st

from mcp_sidecar.errors import SecretError
from mcp_sidecar.secrets import Keyring, KeySource, keygen

OLD, NEW = keygen(), keygen()
SECRET = "canary-91d2f0"


def test_sealed_value_opens_for_its_server() -> None:
    keyring = Keyring([OLD])
    sealed = keyring.seal(SECRET, "github")
    assert sealed.startswith("fernet:v1:")
    assert SECRET not in sealed
    assert keyring.unseal(sealed, "github") == SECRET


@settings(max_examples=50, deadline=None)
@given(st.text(min_size=1, max_size=50), st.text(min_size=1, max_size=20))
def test_any_text_comes_back(value: str, name: str) -> None:
    keyring = Keyring([OLD])
    assert keyring.unseal(keyring.seal(value, name), name) == value


def test_it_does_not_open_for_another_server() -> None:
    keyring = Keyring([OLD])
    with pytest.raises(SecretError, match="sealed for 'github', not for 'gitlab'"):
        keyring.unseal(keyring.seal(SECRET, "github"), "gitlab")


def test_wrong_key_truncated_or_changed_value_stays_shut() -> None:
    sealed = Keyring([OLD]).seal(SECRET, "s")
    for keyring, value in (
        (Keyring([NEW]), sealed),
        (Keyring([OLD]), sealed[:-5]),
        (Keyring([OLD]), sealed[:40] + ("A" if sealed[40] != "A" else "B") + sealed[41:]),
        (Keyring([OLD]), "fernet:v1:"),
    ):
        with pytest.raises(SecretError, match="stays shut") as caught:
            keyring.unseal(value, "s")
        assert SECRET not in str(caught.value)
    with pytest.raises(SecretError, match="none of the 2 keys"):
        Keyring([NEW, keygen()]).unseal(sealed, "s")


@pytest.mark.parametrize(
    "plain", [b"raw", b"{}", b"[]", b'{"for": 1, "value": "x"}', b'{"for": "s", "value": null}', b"\xff"]
)
def test_tokens_that_were_not_made_by_seal(plain: bytes) -> None:
    sealed = "fernet:v1:" + Fernet(OLD).encrypt(plain).decode()
    with pytest.raises(SecretError, match="not made by"):
        Keyring([OLD]).unseal(sealed, "s")


def test_an_empty_value_is_refused() -> None:
    with pytest.raises(SecretError, match="empty"):
        Keyring([OLD]).unseal(Keyring([OLD]).seal("", "s"), "s")


@pytest.mark.parametrize("value", ["plain", "fernet:v2:x", "", "fernet:v1:ü"])
def test_what_is_no_sealed_value(value: str) -> None:
    with pytest.raises(SecretError):
        Keyring([OLD]).unseal(value, "s")


def test_rotation() -> None:
    before = Keyring([OLD]).seal(SECRET, "s")
    both = Keyring([NEW, OLD])
    assert both.unseal(before, "s") == SECRET, "the old key still opens"
    after = both.rotate(before)
    assert Keyring([NEW]).unseal(after, "s") == SECRET
    with pytest.raises(SecretError):
        Keyring([OLD]).unseal(after, "s")
    with pytest.raises(SecretError):
        Keyring([NEW]).rotate(before)
    assert abs(both.sealed_at(after) - time.time()) < 60
    assert both.sealed_at(before) == both.sealed_at(after), "rotation keeps the time"


@pytest.mark.parametrize("key", ["", "short", "x" * 44, base64.urlsafe_b64encode(b"x" * 31).decode(), "ü" * 44])
def test_bad_keys_are_named_by_place_only(key: str) -> None:
    with pytest.raises(SecretError, match="the file, key 2 is no key") as caught:
        Keyring([OLD, key], "the file")
    assert key not in str(caught.value) or not key
    assert OLD not in repr(Keyring([OLD]))


def test_there_is_never_a_made_up_key() -> None:
    with pytest.raises(SecretError, match="there is no key"):
        KeySource({}).keyring()
    with pytest.raises(SecretError, match="there is no key"):
        Keyring([])


def test_where_keys_come_from(tmp_path: Path) -> None:
    first, second, third = keygen(), keygen(), keygen()
    named, configured = tmp_path / "named", tmp_path / "configured"
    named.write_text(f"# comment\n{second}\n\n")
    configured.write_text(f"{third}\n{keygen()}\n")
    source = KeySource({"MCP_ENCRYPTION_KEY": first, "MCP_ENCRYPTION_KEY_FILE": str(named)}, configured)
    keyring = source.keyring()
    assert repr(keyring) == "Keyring(4 keys)"
    sealed = keyring.seal("x", "s")
    assert Keyring([first]).unseal(sealed, "s") == "x", "the first one seals"
    for key in (second, third):
        assert keyring.unseal(Keyring([key]).seal("y", "s"), "s") == "y"
    assert KeySource({"MCP_ENCRYPTION_KEY": f"{first},{second} {third}"}).keyring().unseal(sealed, "s") == "x"


def test_a_named_key_file_that_is_missing_or_bad_is_fatal(tmp_path: Path) -> None:
    environ = {"MCP_ENCRYPTION_KEY": OLD, "MCP_ENCRYPTION_KEY_FILE": str(tmp_path / "typo")}
    with pytest.raises(SecretError, match="there is no file"):
        KeySource(environ).keyring()
    (tmp_path / "typo").write_text("garbage\n")
    with pytest.raises(SecretError, match="key 2 is no key") as caught:
        KeySource(environ).keyring()
    assert "garbage" not in str(caught.value)


def test_a_key_file_may_rotate(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(OLD)
    source = KeySource({}, file)
    sealed = Keyring([NEW]).seal("x", "s")
    with pytest.raises(SecretError):
        source.keyring().unseal(sealed, "s")
    file.write_text(f"{NEW}\n{OLD}\n")
    assert source.keyring().unseal(sealed, "s") == "x"
    assert source.keyring() is source.keyring(), "made once"


def test_cryptography_is_imported_for_sealed_values_only() -> None:
    code = (
        "import sys, mcp_sidecar.secrets as s, mcp_sidecar.config as c;"
        "p = c.parse({'servers': {'a': {'command': 'x', 'env': {'A': 'b'}}}}).config;"
        "store = s.SecretStore(p, environ={}); assert store.servers['a'].values().env == {'A': 'b'};"
        "print('cryptography' in sys.modules, 'mcp' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_a_sealed_value_says_its_server_inside() -> None:
    sealed = Keyring([OLD]).seal("x", "s")
    assert json.loads(Fernet(OLD).decrypt(sealed.removeprefix("fernet:v1:"))) == {"for": "s", "value": "x"}
