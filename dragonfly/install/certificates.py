"""Certificates for etcd: a client's, signed by the authority of the control plane's etcd; those of an etcd of ours."""

import datetime as dt
import ipaddress
from collections.abc import Iterable
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_SKEW: Final = dt.timedelta(minutes=5)
"""Clocks of a cluster's hosts differ a little."""
_YEARS: Final = dt.timedelta(days=3650)
_SOON: Final = dt.timedelta(days=30)


class Pair(NamedTuple):
    """A certificate with its key, as PEM."""

    certificate: bytes
    key: bytes

    def __repr__(self) -> str:
        return "Pair(…)"


class BadAuthority(Exception):
    """The authority's files are not what they should be."""


def client(authority: Pair, name: str, now: dt.datetime) -> Pair:
    """Return a client's certificate, good for as long as its authority.

    Raises:
        BadAuthority: its certificate or key cannot be used.
    """
    return _issued(authority, name, now, [ExtendedKeyUsageOID.CLIENT_AUTH], ())


def member(authority: Pair, addresses: Iterable[str], now: dt.datetime) -> Pair:
    """Return the certificate that all members of an etcd and its clients share.

    Raises:
        BadAuthority: as `client`.
    """
    usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    return _issued(authority, "etcd", now, usages, ("127.0.0.1", *addresses))


def authority(name: str, now: dt.datetime) -> Pair:
    """Return a new authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _name(name)
    unsigned = _builder(subject, subject, key.public_key(), now, now + _YEARS).add_extension(
        x509.BasicConstraints(ca=True, path_length=0), critical=True
    )
    return Pair(_pem(unsigned.sign(key, hashes.SHA256())), _private(key))


def is_good(certificate: bytes, signed_by: bytes, now: dt.datetime) -> bool:
    """Whether a certificate is of this authority, and lasts for a while yet."""
    try:
        found = x509.load_pem_x509_certificate(certificate)
        found.verify_directly_issued_by(x509.load_pem_x509_certificate(signed_by))
    except (ValueError, TypeError, InvalidSignature):
        return False
    return found.not_valid_after_utc > now + _SOON


def addresses(certificate: bytes) -> set[str]:
    """Return the addresses that a certificate is good for."""
    try:
        extensions = x509.load_pem_x509_certificate(certificate).extensions
        names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, x509.ExtensionNotFound):
        return set()
    return set(map(str, names.get_values_for_type(x509.IPAddress)))


def _issued(
    signer: Pair, name: str, now: dt.datetime, usages: list[x509.ObjectIdentifier], addresses: Iterable[str]
) -> Pair:
    try:
        certificate = x509.load_pem_x509_certificate(signer.certificate)
        signing = serialization.load_pem_private_key(signer.key, None)
    except ValueError as error:
        raise BadAuthority(f"the authority cannot be read: {error}") from error
    if not isinstance(signing, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        raise BadAuthority("the authority's key is neither of an elliptic curve nor RSA")
    key = ec.generate_private_key(ec.SECP256R1())
    until = certificate.not_valid_after_utc
    unsigned = (
        _builder(_name(name), certificate.subject, key.public_key(), now, until)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
    )
    if names := [x509.IPAddress(ipaddress.ip_address(address)) for address in addresses]:
        unsigned = unsigned.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return Pair(_pem(unsigned.sign(signing, hashes.SHA256())), _private(key))


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: dt.datetime, until: dt.datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(until)
    )


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _private(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
