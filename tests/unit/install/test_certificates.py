"""Certificates that the installer makes for etcd."""

import datetime as dt

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from dragonfly.install import certificates
from dragonfly.install.certificates import BadAuthority, Pair

NOW = dt.datetime(2026, 11, 28, tzinfo=dt.UTC)
AUTHORITY = certificates.authority("etcd", NOW)


def read(pair: Pair) -> x509.Certificate:
    return x509.load_pem_x509_certificate(pair.certificate)


def test_a_client_is_good_for_as_long_as_its_authority() -> None:
    pair = certificates.client(AUTHORITY, "dragonfly", NOW)

    assert read(pair).not_valid_after_utc == read(AUTHORITY).not_valid_after_utc
    usage = read(pair).extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert certificates.is_good(pair.certificate, AUTHORITY.certificate, NOW)


def test_one_of_another_authority_or_near_its_end_is_not_good() -> None:
    pair = certificates.client(AUTHORITY, "dragonfly", NOW)
    other = certificates.authority("etcd", NOW)

    assert not certificates.is_good(pair.certificate, other.certificate, NOW)
    assert not certificates.is_good(pair.certificate, AUTHORITY.certificate, NOW + dt.timedelta(days=3640))
    assert not certificates.is_good(b"", AUTHORITY.certificate, NOW)


def test_a_member_serves_its_addresses() -> None:
    pair = certificates.member(AUTHORITY, ["10.0.0.1"], NOW)

    names = read(pair).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(name) for name in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "10.0.0.1"]


def test_an_authority_that_is_none_is_told() -> None:
    with pytest.raises(BadAuthority):
        certificates.client(Pair(b"no certificate", b"no key"), "dragonfly", NOW)
