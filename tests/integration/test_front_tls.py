"""TLS on the MCP port: which callers get in, and certificates that change under way."""

from __future__ import annotations

import asyncio
import datetime as dt
import ipaddress
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from front_client import Caller, Front, get, on_both_loops, post, until, within
from mcp_sidecar.errors import SecretError
from mcp_sidecar.front.request import Request
from mcp_sidecar.front.tls import ServerTls, TlsFiles


def _usage(ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(not ca, False, False, False, False, ca, ca, False, False)


class Authority:
    """A certificate authority of the tests'."""

    def __init__(self, name: str) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.certificate = self._builder(self.name, self.key, ca=True).sign(self.key, hashes.SHA256())
        self.pem = self.certificate.public_bytes(serialization.Encoding.PEM)

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, *, ca: bool) -> x509.CertificateBuilder:
        now = dt.datetime.now(dt.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(hours=1))
            .not_valid_after(now + dt.timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            # Python 3.13 verifies strictly (RFC 5280) by default
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
            .add_extension(_usage(ca), critical=True)
        )

    def issue(self, directory: Path, name: str, password: bytes | None = None) -> tuple[Path, Path]:
        """Write a certificate for 127.0.0.1 and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        certificate = self._builder(subject, key, ca=False).add_extension(names, critical=False)
        signed = certificate.sign(self.key, hashes.SHA256())
        paths = directory / "tls.crt", directory / "tls.key"
        encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
        if password:
            encryption = serialization.BestAvailableEncryption(password)
        paths[0].write_bytes(signed.public_bytes(serialization.Encoding.PEM))
        paths[1].write_bytes(
            key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
        )
        return paths

    def trusting(self) -> ssl.SSLContext:
        """A caller's context that trusts it."""
        return ssl.create_default_context(cadata=self.pem.decode())


async def _ask(front: Front, context: ssl.SSLContext) -> None:
    # In TLS 1.3 the caller's handshake is done before the listener judges its certificate: only reading tells.
    async with await front.caller(ssl=context) as caller:
        caller.send(get())
        await caller.exactly(1)


def _common_name(caller: Caller) -> str:
    certificate = caller.writer.get_extra_info("peercert")
    return str(dict(pair[0] for pair in certificate["subject"])["commonName"])


@on_both_loops
async def test_serves_over_tls(tmp_path: Path) -> None:
    authority = Authority("ours")
    tls = ServerTls(TlsFiles(*authority.issue(tmp_path, "first")))
    async with Front(tls=tls.context) as front, await front.caller(ssl=authority.trusting()) as caller:
        assert caller.writer.get_extra_info("ssl_object").version() == "TLSv1.3"
        for body in (b"small", b"x" * 500_000):
            caller.send(post(body))
            assert (await caller.answer()).body == body
        caller.send(b"garbage\r\n\r\n")
        assert (await caller.only_answer()).status == 400


@on_both_loops
async def test_a_rotated_certificate_serves_new_connections_and_drops_none(tmp_path: Path) -> None:
    authority = Authority("ours")
    files = TlsFiles(*authority.issue(tmp_path, "first"))
    tls = ServerTls(files)
    async with Front(tls=tls.context) as front, await front.caller(ssl=authority.trusting()) as old:
        assert tls.reload() is False
        authority.issue(tmp_path, "second")
        assert tls.reload() is True
        async with await front.caller(ssl=authority.trusting()) as new:
            for caller, name in ((old, "first"), (new, "second")):
                assert _common_name(caller) == name
                caller.send(get())
                assert (await caller.answer()).status == 200
        for broken in ("not PEM", ""):
            files.cert_file.write_text(broken)
            assert tls.reload() is False
            assert str(files.cert_file) in tls.problem
        files.key_file.unlink()
        assert tls.reload() is False
        assert "No such file" in tls.problem
        async with await front.caller(ssl=authority.trusting()) as third:
            assert _common_name(third) == "second"
        authority.issue(tmp_path, "third")
        assert tls.reload() is True
        assert tls.problem == ""


@on_both_loops
async def test_callers_may_have_to_show_a_certificate(tmp_path: Path) -> None:
    authority = Authority("ours")
    (tmp_path / "ca.crt").write_bytes(authority.pem)
    tls = ServerTls(TlsFiles(*authority.issue(tmp_path, "server"), client_ca_file=tmp_path / "ca.crt"))
    (tmp_path / "client").mkdir()
    (tmp_path / "other").mkdir()
    ours = authority.trusting()
    ours.load_cert_chain(*authority.issue(tmp_path / "client", "client"))
    stranger = authority.trusting()
    stranger.load_cert_chain(*Authority("other").issue(tmp_path / "other", "stranger"))
    async with Front(tls=tls.context) as front:
        async with await front.caller(ssl=ours) as caller:
            caller.send(get())
            assert (await caller.answer()).status == 200
        for refused in (authority.trusting(), stranger):
            with pytest.raises((OSError, EOFError)):
                await _ask(front, refused)
        assert front.executed == ["/"]
        await until(lambda: front.listener.failed_handshakes == 2)


@on_both_loops
async def test_a_last_answer_arrives_and_the_connection_ends_at_once(tmp_path: Path) -> None:
    authority = Authority("ours")
    tls = ServerTls(TlsFiles(*authority.issue(tmp_path, "first")))
    async with Front(tls=tls.context, max_body_bytes=1000, linger_timeout=100) as front:
        for data in (post(b"x" * 5_000_000), b"garbage\r\n\r\n", get("/", "Connection: close")):
            async with await front.caller(ssl=authority.trusting()) as caller:
                caller.send(data)
                await caller.only_answer()


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
@on_both_loops
async def test_old_protocols_plain_text_and_silence_are_refused(tmp_path: Path) -> None:
    authority = Authority("ours")
    tls = ServerTls(TlsFiles(*authority.issue(tmp_path, "first")))
    async with Front(tls=tls.context, header_timeout=0.2) as front:
        old = authority.trusting()
        old.minimum_version = ssl.TLSVersion.TLSv1
        old.maximum_version = ssl.TLSVersion.TLSv1_1
        with pytest.raises(OSError):
            await front.caller(ssl=old)
        async with await front.caller() as plain:
            plain.send(get())
            await within(plain.reader.read())
        async with await front.caller() as silent:
            await within(silent.reader.read())
        await until(lambda: front.listener.failed_handshakes == 3)
        assert front.executed == []


@on_both_loops
async def test_a_disconnect_is_noticed_over_tls(tmp_path: Path) -> None:
    gone = asyncio.Event()

    async def handler(request: Request) -> None:
        request.on_disconnect(gone.set)
        request.start_stream()
        await gone.wait()

    authority = Authority("ours")
    tls = ServerTls(TlsFiles(*authority.issue(tmp_path, "first")))
    async with Front(handler, tls=tls.context) as front:
        async with await front.caller(ssl=authority.trusting()) as caller:
            caller.send(get())
            await caller.head()
        await within(gone.wait())
        await until(lambda: front.listener.open_connections == 0)


def test_files_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    authority = Authority("ours")
    certificate, key = authority.issue(tmp_path, "first")
    with pytest.raises(SecretError, match=r"nowhere\.crt: No such file"):
        ServerTls(TlsFiles(tmp_path / "nowhere.crt", key))
    (tmp_path / "bad-ca.crt").write_text("nonsense")
    with pytest.raises(SecretError):
        ServerTls(TlsFiles(certificate, key, tmp_path / "bad-ca.crt"))
    (tmp_path / "other").mkdir()
    _, other_key = authority.issue(tmp_path / "other", "other")
    with pytest.raises(SecretError, match="MISMATCH"):
        ServerTls(TlsFiles(certificate, other_key))


def test_an_encrypted_key_asks_nobody_for_a_password(tmp_path: Path) -> None:
    certificate, key = Authority("ours").issue(tmp_path, "first", password=b"secret")
    with pytest.raises(SecretError, match="encrypted"):
        ServerTls(TlsFiles(certificate, key))
