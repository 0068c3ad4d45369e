import datetime as dt
import socket
import ssl
import stat
import threading
from pathlib import Path

import pytest
from cryptography import x509

from dragonfly.sandbox.pki import Authority, KeyPair, service_account_key

NOW = dt.datetime.now(dt.UTC)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ca", "test-ca", NOW)


def handshake(server: ssl.SSLContext, client: ssl.SSLContext, *, address: str = "127.0.0.1") -> str:
    """Make a TLS connection; returns what the server says over it."""
    server_end, client_end = socket.socketpair()

    def serve() -> None:
        try:
            with server.wrap_socket(server_end, server_side=True) as connection:
                connection.sendall(b"hello")
        except (ssl.SSLError, ConnectionError):
            server_end.close()

    serving = threading.Thread(target=serve)
    serving.start()
    try:
        with client.wrap_socket(client_end, server_hostname=address) as connection:
            return connection.recv(5).decode()
    finally:
        client_end.close()
        serving.join()


def serving(authority: Authority, pair: KeyPair) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)
    context.load_verify_locations(authority.ca)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def test_a_client_of_the_authority_gets_in(authority: Authority) -> None:
    server = serving(authority, authority.server("server"))

    assert handshake(server, authority.context(authority.client("me"))) == "hello"


def test_a_server_is_known_at_its_other_addresses_and_at_no_others(authority: Authority) -> None:
    server = serving(authority, authority.server("server", addresses=["192.0.2.1"]))
    me = authority.context(authority.client("me"))

    assert handshake(server, me, address="192.0.2.1") == "hello"
    assert handshake(server, me) == "hello"
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(server, me, address="192.0.2.2")


def test_a_server_that_also_dials_may_be_a_client(authority: Authority) -> None:
    pair = authority.server("etcd", also_client=True)

    assert handshake(serving(authority, pair), authority.context(pair)) == "hello"


def test_a_stranger_does_not(authority: Authority, tmp_path: Path) -> None:
    other = Authority(tmp_path / "other", "test-ca", NOW)
    server = serving(authority, authority.server("server"))
    stranger = authority.context()
    stranger.load_cert_chain(*other.client("me"))

    for client in (stranger, authority.context(), authority.context(authority.server("another-server"))):
        with pytest.raises((ssl.SSLError, ConnectionError)):
            handshake(server, client)


def test_a_server_of_another_authority_is_refused(authority: Authority, tmp_path: Path) -> None:
    other = Authority(tmp_path / "other", "test-ca", NOW)

    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(serving(other, other.server("server")), authority.context(authority.client("me")))


def test_kubernetes_finds_the_user_and_the_groups_in_the_name(authority: Authority) -> None:
    certificate = x509.load_pem_x509_certificate(authority.client("admin", ["system:masters"]).certificate.read_bytes())

    assert certificate.subject.rfc4514_string() == "CN=admin,O=system:masters"


def test_private_keys_are_readable_by_their_owner_only(authority: Authority, tmp_path: Path) -> None:
    for key in (authority.client("me").key, authority.server("it").key, service_account_key(tmp_path)):
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
