"""The secret that replicas show each other at the relay: a file with a token a line, read again whenever it changes.

All of its tokens are good, the first is the one that is shown. So a new token goes through a swarm without a gap: first
it is added as the last line everywhere, then it becomes the first one everywhere, then the former one is taken out.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from pathlib import Path
from typing import Final

from dragonfly.store.errors import Denied

HEADER: Final = "Dragonfly-Replica-Token"
"""Not `Authorization`, which what stands between replicas may need for itself (the service proxy of Kubernetes)."""

_WORD: Final = re.compile(r"[!-~]{16,512}")
"""A token that can be guessed is no token; one with other characters does not fit into a header."""


class ReplicaTokens:
    """The tokens in a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int, int] | None = None
        self._tokens: tuple[str, ...] = ()

    def shown(self) -> str:
        """The token that says who we are.

        Raises:
            Denied: the file has none that can be used.
        """
        return self._current()[0]

    def accepts(self, token: str) -> bool:
        """Whether it is one of ours; how long that takes tells nothing.

        Raises:
            Denied: the file has none that can be used.
        """
        found = [hmac.compare_digest(_digest(token), _digest(known)) for known in self._current()]
        return any(found)

    def _current(self) -> tuple[str, ...]:
        try:
            found = self._path.stat()
            now = (found.st_mtime_ns, found.st_size, found.st_ino)
            if now != self._seen:
                self._tokens = self._read()
                self._seen = now
        except OSError as error:
            self._seen = None
            raise Denied(f"cannot read the replica token: {error}") from error
        if not self._tokens:
            raise Denied(f"{self._path} has no replica token: a line of 16 to 512 visible ASCII characters")
        return self._tokens

    def _read(self) -> tuple[str, ...]:
        lines = self._path.read_text("utf-8", errors="replace").splitlines()
        return tuple(line.strip() for line in lines if _WORD.fullmatch(line.strip()))


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
