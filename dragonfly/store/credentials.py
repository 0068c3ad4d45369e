"""Who a replica is to etcd: a user's password turned into tokens that expire.

Once etcd's authentication is on, its gateway ignores a client certificate's common name, so a user and a password are
the only way in (https://etcd.io/docs/v3.5/op-guide/authentication/rbac/#using-tls-common-name).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from dragonfly.store.errors import Denied

Login: TypeAlias = Callable[[str, str], str]
"""Takes the user and the password, returns a token."""


class Credentials:
    """One token for all connections of a process; safe to use from several threads."""

    def __init__(self, username: str, password_file: Path | None) -> None:
        self._username = username
        self._password_file = password_file
        self._token = ""
        self._lock = threading.Lock()

    def token(self, login: Login) -> str:
        """The token; "" without a user. The first call logs in."""
        if not self._username or self._token:
            return self._token
        return self.renewed("", login)

    def renewed(self, refused: str, login: Login) -> str:
        """A token other than the one that was refused; threads that come with the same one share a login.

        Raises:
            Denied: there is no user, its password file can't be read, or etcd knows better.
        """
        if not self._username:
            raise Denied("etcd asks for a user and a password")
        with self._lock:
            if self._token == refused:
                self._token = login(self._username, self._password())
            return self._token

    def _password(self) -> str:
        if self._password_file is None:
            return ""
        try:
            return self._password_file.read_text().rstrip("\r\n")
        except OSError as error:
            raise Denied(f"can't read etcd's password: {error}") from error
