"""What a command can end with, and errors as people read them."""

from enum import IntEnum


class Exit(IntEnum):
    """Exit codes; docs/cli.md lists them for scripts."""

    OK = 0
    FAILED = 1
    """The command was carried out and its result is bad: a provision failed, the swarm is not ready."""
    USAGE = 2
    NOT_FOUND = 3
    REFUSED = 4
    """The swarm said no: invalid, locked, changed meanwhile, not allowed."""
    UNREACHABLE = 5
    """Nobody answered, or the swarm cannot serve now. Trying again later may help."""
    RUNNING = 6
    """What was waited for goes on: the time to wait was too short."""
    INTERRUPTED = 130


class CliError(Exception):
    """Ends the command: one sentence, what to do about it, and the exit code."""

    def __init__(self, message: str, exit_code: Exit, advice: str = "") -> None:
        self.message = message
        self.exit_code = exit_code
        self.advice = advice
        super().__init__(message)


class ApiError(CliError):
    """The swarm answered with a problem document (RFC 9457)."""

    def __init__(self, message: str, exit_code: Exit, advice: str, *, status: int, slug: str, retried: bool) -> None:
        super().__init__(message, exit_code, advice)
        self.status = status
        self.slug = slug
        """The last part of the problem's type, such as `machine-locked`."""
        self.retried = retried
        """An earlier try of the same request went unanswered and may have been carried out."""
