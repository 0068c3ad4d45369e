"""Client certificates: judged and presented, without leaving the key in a file.

What is wrong with one is told to whoever hands a kubeconfig in; each replica would find it only at its login.
"""

import os
import ssl
import tempfile
from datetime import datetime
from typing import IO

from cryptography import x509

from dragonfly.kube.contexts import Entry


def present(tls: ssl.SSLContext, user: Entry, certificate: bytes, key: bytes, now: datetime) -> None:
    """Make `tls` present a client certificate.

    Raises:
        Invalid: it is none, is not that of the key, or has expired at `now`.
    """
    try:
        expiry = x509.load_pem_x509_certificate(certificate).not_valid_after_utc
        _load(tls, certificate, key)
    except (ssl.SSLError, ValueError) as error:
        message = f"with client-key is no certificate with its key: {error}"
        raise user.wrong("client-certificate", message) from error
    if expiry <= now:
        raise user.wrong("client-certificate", f"expired at {expiry:%Y-%m-%dT%H:%M:%SZ}; get a new one")


def _load(tls: ssl.SSLContext, certificate: bytes, key: bytes) -> None:
    """Python's ssl reads certificates from files only, so it gets one in memory."""
    with _nameless_file() as file:
        file.write(certificate + b"\n" + key)
        file.seek(0)
        # Without a password OpenSSL would ask whoever sits at the terminal for that of an encrypted key.
        tls.load_cert_chain(f"/dev/fd/{file.fileno()}", password="")


def _nameless_file() -> IO[bytes]:
    if hasattr(os, "memfd_create"):  # Linux
        return os.fdopen(os.memfd_create("client-certificate"), "w+b")
    return tempfile.TemporaryFile()
