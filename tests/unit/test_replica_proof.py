"""What a replica proves, and what others cannot."""

from __future__ import annotations

import pytest

from mcp_sidecar.front.replica_proof import ReplicaProof

KEY = bytes(range(32))
CERTIFICATE = bytes(32)


def test_only_the_key_proves() -> None:
    asks, answers = ReplicaProof(KEY), ReplicaProof(KEY)
    challenge = asks.challenge()
    proof = answers.prove(challenge, "10.0.0.1", b"")
    assert proof is not None
    assert asks.holds(proof, challenge, "10.0.0.1", b"")
    assert not ReplicaProof(bytes(32)).holds(proof, challenge, "10.0.0.1", b"")
    assert KEY.hex().encode() not in proof


def test_a_proof_is_of_one_challenge_one_address_and_one_certificate() -> None:
    asks = ReplicaProof(KEY)
    challenge = asks.challenge()
    proof = asks.prove(challenge, "10.0.0.1", CERTIFICATE)
    assert proof is not None
    assert asks.holds(proof, challenge, "10.0.0.1", CERTIFICATE)
    assert not asks.holds(proof, asks.challenge(), "10.0.0.1", CERTIFICATE), "an old proof says nothing"
    assert not asks.holds(proof, challenge, "10.0.0.2", CERTIFICATE), "another replica cannot be made to answer"
    assert not asks.holds(proof, challenge, "10.0.0.1", b""), "nor one who ends the TLS on the way"
    assert not asks.holds(proof, challenge, "10.0.0.1", bytes(31) + b"x")
    assert not asks.holds(b"", challenge, "10.0.0.1", CERTIFICATE)


@pytest.mark.parametrize("challenge", [b"", b"x" * 64, b"0" * 63, b"0" * 65, b"0" * 64 + b"\n", b"A" * 64])
def test_nothing_else_is_answered(challenge: bytes) -> None:
    assert ReplicaProof(KEY).prove(challenge, "10.0.0.1", b"") is None
