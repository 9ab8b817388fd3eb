"""Downloads from a real TLS server on loopback that misbehaves on request."""

import hashlib
import ssl
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from threading import Thread

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from hardening.errors import DataError, DigestError, HardeningError, ServiceError
from hardening.log import Silent
from tasks.fetch import fetch_file

DATA = b"weights" * 300_000
SHA256 = hashlib.sha256(DATA).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """`/good`, `/cut`, `/endless`, `/gone`, `/down`, `/to-http`, `/to-good`, `/second-try`."""

    asked: list[str] = []  # noqa: RUF012

    def do_GET(self):
        self.asked.append(self.path)
        what = self.path.partition("?")[0].strip("/")
        if what in {"to-http", "to-good", "gone", "down"}:
            self.send_response({"gone": 404, "down": 503}.get(what, 302))
            base = self.headers["Host"]
            self.send_header("Location", f"http://{base}/x" if what == "to-http" else "/good")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        cut = what == "cut" or (what == "second-try" and self.asked.count(self.path) == 1)
        self.send_response(200)
        if what != "endless":
            self.send_header("Content-Length", str(len(DATA)))
        self.end_headers()
        try:
            self.wfile.write(DATA[:1000] if cut else DATA)
        except OSError:
            return  # the client has seen enough
        self.close_connection = True

    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def certificate(tmp_path_factory) -> Path:
    """A key and a certificate for 127.0.0.1 that vouches for itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "loopback")])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    form = serialization.PrivateFormat.PKCS8
    private = key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
    path.write_bytes(private + signed.public_bytes(serialization.Encoding.PEM))
    return path


@pytest.fixture
def server(certificate, monkeypatch):
    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    Handler.asked.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        Thread(target=server.serve_forever).start()
        yield f"https://127.0.0.1:{server.server_port}"
        server.shutdown()


def refused(uri: str, sha256: str, cache: Path) -> HardeningError:
    with pytest.raises(HardeningError) as caught:
        fetch_file(uri, sha256, cache, Silent())
    assert not cache.exists() or list(cache.iterdir()) == []
    return caught.value


@pytest.mark.parametrize("path", ["good", "to-good", "second-try"])
def test_a_file_arrives_whole_and_is_downloaded_once(server, tmp_path, path):
    found = fetch_file(f"{server}/{path}", SHA256, tmp_path, Silent())
    assert found.read_bytes() == DATA
    asked = len(Handler.asked)
    assert fetch_file(f"{server}/{path}", SHA256, tmp_path, Silent()) == found
    assert len(Handler.asked) == asked


def test_a_file_that_is_not_the_promised_one_is_refused(server, tmp_path):
    error = refused(f"{server}/good", "0" * 64, tmp_path / "cache")
    assert isinstance(error, DigestError)
    assert SHA256 in str(error)


def test_a_redirection_out_of_https_is_refused(server, tmp_path):
    error = refused(f"{server}/to-http", SHA256, tmp_path / "cache")
    assert isinstance(error, ServiceError)
    assert "expected an https address" in str(error)
    assert len(Handler.asked) == 1


@pytest.mark.parametrize("path", ["good", "endless"])
def test_a_file_above_the_limit_is_refused(server, tmp_path, monkeypatch, path):
    monkeypatch.setenv("TEMPER_MAX_DOWNLOAD", str(len(DATA) - 1))
    error = refused(f"{server}/{path}", SHA256, tmp_path / "cache")
    assert isinstance(error, DataError)
    assert "TEMPER_MAX_DOWNLOAD" in str(error)


def test_a_refusal_is_not_repeated_and_shows_no_query(server, tmp_path):
    error = refused(f"{server}/gone?signature=hush", SHA256, tmp_path / "cache")
    assert isinstance(error, ServiceError)
    assert "404" in str(error)
    assert "hush" not in str(error)
    assert len(Handler.asked) == 1


@pytest.mark.parametrize("path", ["cut", "down"])
def test_a_failing_server_is_asked_three_times(server, tmp_path, path):
    error = refused(f"{server}/{path}", SHA256, tmp_path / "cache")
    assert isinstance(error, ServiceError)
    assert "3 attempts" in str(error)
    assert len(Handler.asked) == 3


def test_a_server_without_a_trusted_certificate_is_refused(server, tmp_path, monkeypatch):
    monkeypatch.delenv("SSL_CERT_FILE")
    error = refused(f"{server}/good", SHA256, tmp_path / "cache")
    assert "CERTIFICATE_VERIFY_FAILED" in str(error)
    assert Handler.asked == []
