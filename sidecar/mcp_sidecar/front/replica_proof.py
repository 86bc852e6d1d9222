"""How a replica shows that it is one before it is given a caller's request: it knows the key that seals sessions.

A session's token names the address of the pod that holds it. When that pod is gone, its address may be another
workload's, which must not be sent the caller's credentials. So each connection begins with a challenge. The proof
names the address, so that nobody can have another replica answer for it, and with TLS the certificate, so that nobody
can stand in between: certificates need not be the same on both sides while they rotate.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
from typing import Final

PATH: Final = "/replica"
CHALLENGE: Final = b"outrigger-challenge"
_PERSON: Final = b"outriggerreplica"
_NONCE: Final = re.compile(rb"[0-9a-f]{64}")


class ReplicaProof:
    """Makes and checks proofs with a key of its own, which is derived from the key of sessions."""

    def __init__(self, session_key: bytes) -> None:
        self._key = hashlib.blake2b(key=session_key, person=_PERSON, digest_size=32).digest()

    def challenge(self) -> bytes:
        """A new challenge: 64 hex digits."""
        return os.urandom(32).hex().encode()

    def prove(self, challenge: bytes, address: str, certificate: bytes) -> bytes | None:
        """The answer of the replica at `address` (an IP address) to a challenge; None where it is none.

        `certificate` is the SHA-256 of the leaf that it shows, empty without TLS.
        """
        if not _NONCE.fullmatch(challenge):
            return None
        said = b"\0".join((challenge, address.encode(), certificate.hex().encode()))
        return hmac.new(self._key, said, hashlib.sha256).hexdigest().encode()

    def holds(self, proof: bytes, challenge: bytes, address: str, certificate: bytes) -> bool:
        """Whether `proof` is the answer of the replica at `address` to `challenge`."""
        expected = self.prove(challenge, address, certificate)
        return expected is not None and hmac.compare_digest(expected, proof)
