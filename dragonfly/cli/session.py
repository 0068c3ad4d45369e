"""What a command that talks to a swarm works with: the connection, the two consoles, the clock."""

import contextlib
import functools
import os
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any, NamedTuple

import click
from rich.console import Console

from dragonfly.cli.client import Client
from dragonfly.cli.connection import connection


class Session(NamedTuple):
    client: Client
    out: Console
    """Results: what a script reads."""
    err: Console
    """Remarks and progress: what a person reads beside them."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def pause(self, seconds: float) -> None:
        time.sleep(seconds)

    def remark(self, text: str) -> None:
        self.err.print(f"dragonfly: {text}", soft_wrap=True)

    def write(self, text: str) -> None:
        """Print for scripts: as it is, never wrapped, coloured or shortened."""
        self.out.file.write(text if text.endswith("\n") else f"{text}\n")


def console(*, stderr: bool = False) -> Console:
    """Return a console that prints text as it is; colours and bold only on a terminal and without NO_COLOR."""
    # rich leaves bold and the like to those who say NO_COLOR.
    plain: dict[str, Any] = {"color_system": None} if os.environ.get("NO_COLOR") else {}
    return Console(stderr=stderr, markup=False, highlight=False, emoji=False, **plain)


def connected(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options that say where the swarm is, and the session made of them."""

    @told_where
    @functools.wraps(command)
    def with_session(*args: Any, server: str | None, token_file: str | None, **kwargs: Any) -> Any:
        with opened(server, token_file) as session:
            return command(session, *args, **kwargs)

    return with_session


def told_where(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options that say where the swarm is, and nothing made of them."""
    command = click.option("--token-file", metavar="FILE", help="File with the token.  [env: DRAGONFLY_TOKEN_FILE]")(
        command
    )
    return click.option("--server", metavar="URL", help="Address of the swarm.  [env: DRAGONFLY_SERVER]")(command)


@contextlib.contextmanager
def opened(server: str | None, token_file: str | None) -> Iterator[Session]:
    """Make a session, and end its connections.

    Raises:
        CliError: as `connection`.
    """
    session = _session(server, token_file)
    try:
        yield session
    finally:
        session.client.close()


def _session(server: str | None, token_file: str | None) -> Session:
    found = connection(server, token_file, os.environ)
    out, err = console(), console(stderr=True)
    client = Client(found.url, found.token, notice=lambda text: err.print(f"dragonfly: {text}", soft_wrap=True))
    if found.from_demo and out.is_terminal and err.is_terminal:
        # In a pipe only the last command says so.
        err.print(f"dragonfly: using the demo at {found.url}", soft_wrap=True)
    return Session(client, out, err)
