"""Who may call the API: whoever has the admin token. Closed by default.

Roles, users and tokens of their own come in here later: the routes only see an `Identity`.
"""

import hashlib
import hmac
from pathlib import Path
from typing import Final, NamedTuple, Protocol

import structlog

from dragonfly.feed.view import MaySee, everything

_log = structlog.get_logger(__name__)

_SHORTEST: Final = 16
"""Characters. A token that can be guessed is no token."""


class Identity(NamedTuple):
    """Who calls; the name stands in `requestedBy` and in locks.

    A stream lasts as long as its token leads to an equal identity, so whoever gets other rights connects anew.
    """

    name: str
    may_see: MaySee = everything
    """What the feed tells it of: everything, for the one token there is. Equal for equal rights: work is shared."""


class Access(Protocol):
    """Tells who a bearer token belongs to."""

    def authenticate(self, token: str) -> Identity | None:
        """Return whose token it is, or None if it is nobody's."""
        ...


class AdminToken:
    """The one token in a file, read again whenever the file changes; without a usable file nobody is let in."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int, int] | None = None
        self._digest: bytes | None = None

    def authenticate(self, token: str) -> Identity | None:
        expected = self._expected()
        # Digests have one length, so that the comparison's time tells nothing, not even the token's length.
        if expected is None or not hmac.compare_digest(_digest(token), expected):
            return None
        return Identity("admin")

    def _expected(self) -> bytes | None:
        try:
            found = self._path.stat()
            now = (found.st_mtime_ns, found.st_size, found.st_ino)
            if now != self._seen:
                self._digest = self._read()
                self._seen = now
        except OSError as error:
            if self._digest is not None or self._seen is None:
                _log.error("access.token_file_unreadable", path=str(self._path), error=str(error))
            self._digest, self._seen = None, (0, 0, 0)
        return self._digest

    def _read(self) -> bytes | None:
        token = self._path.read_text("utf-8", errors="replace").strip()
        if len(token) < _SHORTEST:
            _log.error("access.token_too_short", path=str(self._path), at_least=_SHORTEST)
            return None
        return _digest(token)


class Nobody:
    """Lets nobody in: no token file is configured."""

    def authenticate(self, token: str) -> Identity | None:  # noqa: ARG002 - the protocol's argument
        return None


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
