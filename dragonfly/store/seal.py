"""Secrets at rest: AES-256-GCM with a key that the whole swarm shares and etcd never sees (P11).

A sealed secret is bound to its place (`machines/m-1/spec.bmc.password`) as associated data, so that a ciphertext copied
to another machine does not open there. It names its key, so that keys can be rotated: the first key of the file seals,
every key of the file opens.

The first key also marks what must be told apart but not guessed: a fingerprint of data that may hold a secret.
"""

import base64
import binascii
import hashlib
import hmac
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from dragonfly.store.errors import StoreError

_VERSION: Final = "v1"
_KEY_BYTES: Final = 32
_NONCE_BYTES: Final = 12  # what GCM is specified for; random ones are safe for 2**32 seals a key
_SHORTEST_TEXT: Final = 32


class BadSecretKey(StoreError):
    """The file of the swarm's secret key cannot be used; says what it should hold."""


class Unsealable(StoreError):
    """A stored secret does not open: its key is not in the file, or it was altered or moved. Set the secret again."""


class _Key(NamedTuple):
    id: str
    cipher: AESGCM


class Seal:
    """Seals with the first key, opens with any of them."""

    def __init__(self, secrets: Sequence[bytes]) -> None:
        """Take keys of 32 bytes each, the one that seals first.

        Raises:
            BadSecretKey: there is none, or one has another length.
        """
        if not secrets or any(len(secret) != _KEY_BYTES for secret in secrets):
            raise BadSecretKey(f"a secret key has {_KEY_BYTES} bytes")
        self._keys = {key.id: key for key in map(_key_of, secrets)}
        self._sealing = _key_of(secrets[0])
        self._marking = _derived(secrets[0], b"dragonfly fingerprint")

    def seal(self, place: str, secret: str) -> str:
        """Return `secret` encrypted for `place`, as ASCII text."""
        nonce = os.urandom(_NONCE_BYTES)
        sealed = nonce + self._sealing.cipher.encrypt(nonce, secret.encode(), place.encode())
        return f"{_VERSION}:{self._sealing.id}:{base64.b64encode(sealed).decode()}"

    def open(self, place: str, sealed: str) -> str:
        """Return the secret that was sealed for `place`.

        Raises:
            Unsealable: its key is missing, or it was altered or comes from another place.
        """
        version, _, rest = sealed.partition(":")
        key_id, _, text = rest.partition(":")
        if version != _VERSION:
            raise Unsealable(f"the secret of {place} is sealed in a way that this Dragonfly does not know")
        key = self._keys.get(key_id)
        if key is None:
            raise Unsealable(f"the secret of {place} was sealed with key {key_id}, which the secret key file lacks")
        try:
            raw = base64.b64decode(text, validate=True)
            return key.cipher.decrypt(raw[:_NONCE_BYTES], raw[_NONCE_BYTES:], place.encode()).decode()
        except (binascii.Error, InvalidTag, ValueError) as error:
            raise Unsealable(f"the secret of {place} was altered, or belongs to another place") from error

    def fingerprint(self, data: bytes) -> bytes:
        """Return what tells `data` from other data and, without the key, nothing else: HMAC-SHA256, 32 bytes.

        Another first key makes other fingerprints.
        """
        return hmac.digest(self._marking, data, "sha256")


def read_seal(path: Path) -> Seal:
    """Return the seal of a file with one key a line: 32 bytes as base64, or a text of at least 32 characters.

    Raises:
        BadSecretKey: the file cannot be read, is empty, or a line is neither.
    """
    try:
        lines = [line.strip() for line in path.read_text("utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise BadSecretKey(f"the secret key file {path} cannot be read: {error}") from error
    secrets = [_secret_of(line, path, number) for number, line in enumerate(lines, 1) if line]
    if not secrets:
        raise BadSecretKey(f"the secret key file {path} is empty; make one with: head -c 32 /dev/urandom | base64")
    return Seal(secrets)


def _secret_of(line: str, path: Path, number: int) -> bytes:
    try:
        raw = base64.b64decode(line, validate=True)
    except binascii.Error:
        raw = b""
    if len(raw) == _KEY_BYTES:
        return raw
    if len(line) < _SHORTEST_TEXT:
        raise BadSecretKey(
            f"line {number} of the secret key file {path} is neither {_KEY_BYTES} bytes as base64 nor a text of at "
            f"least {_SHORTEST_TEXT} characters; make one with: head -c 32 /dev/urandom | base64"
        )
    return _derived(line.encode(), b"dragonfly secret key")


def _derived(secret: bytes, label: bytes) -> bytes:
    """A key of its own for each use."""
    return HKDF(SHA256(), _KEY_BYTES, salt=None, info=label).derive(secret)


def _key_of(secret: bytes) -> _Key:
    # The id tells keys apart and tells nothing of the key.
    return _Key(hashlib.sha256(b"dragonfly key id" + secret).hexdigest()[:8], AESGCM(secret))
