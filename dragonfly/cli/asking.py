"""Questions before something is gone: only to people at a terminal, never to a pipe."""

import sys

import click

from dragonfly.cli.errors import CliError, Exit


def is_somebody_there() -> bool:
    return sys.stdin.isatty()


def ask(question: str) -> None:
    """Go on only after a yes.

    Raises:
        CliError: the answer was no, or none.
    """
    if not click.confirm(question, err=True):
        raise CliError("nothing was done", Exit.INTERRUPTED)
