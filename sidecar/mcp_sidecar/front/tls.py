"""TLS of the MCP port: a server context from files, made anew when they change.

A new context rather than new keys in the old one: `load_cert_chain` in place may leave a certificate without its key.
The listener asks `context()` for each new connection; open ones keep what they have.
"""

from __future__ import annotations

import hashlib
import re
import ssl
from dataclasses import dataclass
from pathlib import Path

from mcp_sidecar.errors import SecretError

_BLOCK = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files. With `client_ca_file` callers must show a certificate of one of its authorities."""

    cert_file: Path
    key_file: Path
    client_ca_file: Path | None = None


class ServerTls:
    """The context for new connections. Raises SecretError when the files cannot be used at the start."""

    def __init__(self, files: TlsFiles) -> None:
        self._files = files
        self._fingerprint = self._read_fingerprint()
        self._context, self._client, self.certificate = _load(files)
        """SHA-256 of the leaf that is shown."""
        self.problem = ""
        """Why the latest change of the files was not taken; empty when it was."""
        self.reloads = 0

    def context(self) -> ssl.SSLContext:
        """The context of now."""
        return self._context

    def client_context(self) -> ssl.SSLContext:
        """The context of now for connections to other replicas. It accepts any certificate: whose it is must be found
        out otherwise. It shows ours where callers must show one, so that one has to be of the same authority."""
        return self._client

    def reload(self) -> bool:
        """Look at the files; True when a new context is in use. What cannot be used is kept out: see `problem`."""
        try:
            fingerprint = self._read_fingerprint()
            if fingerprint == self._fingerprint:
                return False
            loaded = _load(self._files)
        except SecretError as error:
            self.problem = str(error)
            return False
        self._context, self._client, self.certificate = loaded
        self._fingerprint, self.problem = fingerprint, ""
        self.reloads += 1
        return True

    def _read_fingerprint(self) -> bytes:
        digest = hashlib.sha256()
        files = self._files
        for path in (files.cert_file, files.key_file, files.client_ca_file):
            if path is not None:
                try:
                    digest.update(hashlib.sha256(path.read_bytes()).digest())
                except OSError as error:
                    raise SecretError(f"TLS: {path}: {error.strerror}") from None
        return digest.digest()


def _load(files: TlsFiles) -> tuple[ssl.SSLContext, ssl.SSLContext, bytes]:
    """The contexts of a server and of a client, and the digest of the certificate. Raises SecretError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.minimum_version = ssl.TLSVersion.TLSv1_2
    client.set_alpn_protocols(["http/1.1"])
    client.check_hostname = False
    client.verify_mode = ssl.CERT_NONE  # replicas prove themselves with the key of sessions (replica_proof.py)
    try:
        context.load_cert_chain(files.cert_file, files.key_file, password=_refuse_password)
        if files.client_ca_file is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(files.client_ca_file)
            client.load_cert_chain(files.cert_file, files.key_file, password=_refuse_password)
        leaf = _BLOCK.search(files.cert_file.read_text("ascii", "replace"))
        if leaf is None:
            raise SecretError(f"TLS: {files.cert_file}: there is no certificate in it")
        certificate = hashlib.sha256(ssl.PEM_cert_to_DER_cert(leaf[0])).digest()
    except OSError as error:  # ssl.SSLError is one
        reason = getattr(error, "reason", None) or error.strerror or "unusable"
        raise SecretError(f"TLS: {files.cert_file} and {files.key_file}: {reason}") from None
    return context, client, certificate


def _refuse_password() -> str:
    raise SecretError("TLS: the key file is encrypted; OpenSSL would ask for a password on the terminal")
