"""Certificates of a real set-up, made in milliseconds: an authority, servers on loopback, and clients.

Elliptic-curve keys, but for the key that signs ServiceAccount tokens: RSA, as in every kubeadm and k3s cluster.
"""

import datetime as dt
import ipaddress
import os
import ssl
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from dragonfly.sandbox.ports import LOOPBACK

_VALID: Final = dt.timedelta(days=365)
_CLOCK_SKEW: Final = dt.timedelta(minutes=5)


class KeyPair(NamedTuple):
    """Files of a certificate and its private key, PEM."""

    certificate: Path
    key: Path


class Authority:
    """A certificate authority whose files lie in one directory."""

    def __init__(self, directory: Path, name: str, now: dt.datetime) -> None:
        """Make a new one. `now`: certificates are valid from five minutes before it, for a year."""
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._now = now
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name(name, ())
        unsigned = (
            self._unsigned(self._name, self._key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs_certificates=True), critical=True)
        )
        self._certificate = unsigned.sign(self._key, hashes.SHA256())
        self.ca = directory / "ca.crt"
        self.ca.write_bytes(_pem(self._certificate))

    def server(self, name: str, *, addresses: Iterable[str] = (), also_client: bool = False) -> KeyPair:
        """A server on loopback and other IP addresses.

        Args:
            also_client: it presents the same certificate when it dials (etcd does).
        """
        usages = [ExtendedKeyUsageOID.SERVER_AUTH, *([ExtendedKeyUsageOID.CLIENT_AUTH] if also_client else [])]
        known = dict.fromkeys((LOOPBACK, *addresses))
        numbers = [x509.IPAddress(ipaddress.ip_address(address)) for address in known]
        names = x509.SubjectAlternativeName([x509.DNSName("localhost"), *numbers])
        return self._issue(name, _name(name, ()), usages, names)

    def client(self, name: str, organizations: Sequence[str] = ()) -> KeyPair:
        """A client; Kubernetes takes `name` as the user and `organizations` as its groups."""
        return self._issue(name, _name(name, organizations), [ExtendedKeyUsageOID.CLIENT_AUTH], None)

    def context(self, client: KeyPair | None = None) -> ssl.SSLContext:
        """TLS that trusts this authority alone, and presents `client`."""
        context = ssl.create_default_context(cafile=self.ca)
        if client is not None:
            context.load_cert_chain(client.certificate, client.key)
        return context

    def _issue(
        self,
        file_name: str,
        subject: x509.Name,
        usages: Sequence[x509.ObjectIdentifier],
        names: x509.SubjectAlternativeName | None,
    ) -> KeyPair:
        key = ec.generate_private_key(ec.SECP256R1())
        unsigned = (
            self._unsigned(subject, key.public_key())
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        )
        if names is not None:
            unsigned = unsigned.add_extension(names, critical=False)
        pair = KeyPair(self._directory / f"{file_name}.crt", self._directory / f"{file_name}.key")
        pair.certificate.write_bytes(_pem(unsigned.sign(self._key, hashes.SHA256())))
        write_private(pair.key, _private_pem(key))
        return pair

    def _unsigned(self, subject: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        authority_key = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(self._now - _CLOCK_SKEW)
            .not_valid_after(self._now + _VALID)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(authority_key, critical=False)
        )


def service_account_key(directory: Path) -> Path:
    """The private key that signs ServiceAccount tokens; the API server reads the public half from the same file."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "service-account.key"
    write_private(path, _private_pem(rsa.generate_private_key(public_exponent=65_537, key_size=2_048)))
    return path


def write_private(path: Path, content: bytes) -> None:
    """Write a file that nobody but its owner can read, at no moment."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)


def _name(common: str, organizations: Sequence[str]) -> x509.Name:
    groups = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in organizations]
    return x509.Name([*groups, x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _private_pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
