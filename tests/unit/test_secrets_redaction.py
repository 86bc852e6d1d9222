"""Known secrets are taken out of whatever leaves, in the forms they take there."""

from __future__ import annotations

import base64
import json
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_sidecar.config import Value
from mcp_sidecar.secrets import Redactor
from mcp_sidecar.secrets.redaction import MASK, MIN_LENGTH, looks_secret

SECRET = 's3cr3t/"+&= täg'


def redactor(*values: str) -> Redactor:
    made = Redactor()
    made.know("s", values)
    return made


def test_nothing_known_changes_nothing() -> None:
    line = b"x" * 100
    assert Redactor().redact(line) is line


@pytest.mark.parametrize(
    "form",
    [
        SECRET,
        quote(SECRET),
        quote(SECRET, safe=""),
        quote_plus(SECRET),
        json.dumps(SECRET)[1:-1],
        json.dumps(SECRET, ensure_ascii=False)[1:-1],
    ],
)
def test_forms(form: str) -> None:
    text = f"before {form} after {form}"
    assert redactor(SECRET).redact(text) == f"before {MASK} after {MASK}"
    assert redactor(SECRET).redact(text.encode()) == f"before {MASK} after {MASK}".encode()


@given(st.binary(max_size=8), st.binary(max_size=8))
def test_base64_inside_something_longer(before: bytes, after: bytes) -> None:
    secret = "Tr0ub4dor-and-3"
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        encoded = encode(before + secret.encode() + after).decode()
        redacted = redactor(secret).redact(encoded)
        assert MASK in redacted
        assert secret.encode() not in b"".join(
            base64.b64decode(part[: len(part) // 4 * 4], altchars=b"-_") for part in redacted.split(MASK)
        )


def test_scheme_and_credentials() -> None:
    made = redactor("Bearer abcdef123456")
    assert made.redact("token=abcdef123456") == f"token={MASK}"
    assert made.redact("Bearer abcdef123456") == MASK


def test_lines_of_a_key() -> None:
    lines = ["-----BEGIN KEY-----", "MIIBVgIBADANBgkq", "hkiG9w0BAQEFAASC", "-----END KEY-----"]
    made = redactor("\n".join(lines))
    assert made.redact(f"reading {lines[1]} failed") == f"reading {MASK} failed"


def test_longest_first() -> None:
    assert redactor("abcdefgh", "abcdefghijkl").redact("abcdefghijkl") == MASK


def test_short_values_stay() -> None:
    assert redactor("true", "8080", "a" * (MIN_LENGTH - 1)).redact("true 8080 aaaaa") == "true 8080 aaaaa"


def test_values_before_stay_known_and_others_go() -> None:
    made = redactor("value-one")
    made.know("s", ["value-two"])
    made.know("s", ["value-two"])
    assert made.redact("value-one value-two") == f"{MASK} {MASK}"
    made.know("s", ["value-three"])
    assert made.redact("value-one value-two value-three") == f"value-one {MASK} {MASK}"
    made.know("t", ["other-value"])
    made.forget("s")
    assert made.redact("value-three other-value") == f"value-three {MASK}"


@pytest.mark.parametrize(
    ("value", "name", "text", "secret"),
    [
        ("x", "NODE_ENV", "production", False),
        ("x", "HOME", "/home/somebody", False),
        ("x", "GITHUB_TOKEN", "abc", True),
        ("x", "authorization", "abc", True),
        ("x", "X-Api-Key", "abc", True),
        ("x", "SETTING", "ghp_0123456789abcdefghij", True),
        ("x", "REGION", "europe-west1", False),
        ("${API_KEY}", "SETTING", "abc", True),
        ({"valueFrom": {"file": "/x"}}, "SETTING", "abc", True),
        ("fernet:v1:gAAAA", "SETTING", "abc", True),
    ],
)
def test_what_is_taken_for_a_secret(value: object, name: str, text: str, secret: bool) -> None:
    assert looks_secret(Value.parse(value), name, text) is secret
