"""Follows the feed for a command: whole revisions, over broken connections, until Ctrl-C."""

from collections.abc import Iterator, Mapping, Sequence

from dragonfly.cli.errors import CliError, Exit
from dragonfly.cli.session import Session
from dragonfly.client.calls import Value
from dragonfly.client.stream import Event, Follower


def followed(session: Session, filters: Mapping[str, Value], since: int | None) -> Iterator[Sequence[Event]]:
    """Yield what changes after `since` (None: from now on), for ever; after a `reset` it goes on from there.

    Raises:
        CliError: the swarm refuses.
    """
    follower = Follower(filters, since=since)
    told = False
    while True:
        try:
            for data in session.client.stream(follower.request()):
                told = False
                if said := follower.take(data):
                    yield said
        except CliError as error:
            if error.exit_code != Exit.UNREACHABLE:
                raise
            if not told:
                session.remark(f"{error.message}; still watching")
            told = True
        session.pause(follower.pause())
