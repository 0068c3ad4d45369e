"""What a decision is given beside the facts and the request."""

from collections.abc import Set as AbstractSet
from datetime import datetime
from typing import NamedTuple

from dragonfly.intent.plan import Sealer
from dragonfly.intent.refusals import Changed


class Terms(NamedTuple):
    """Who asks, when, and what this swarm has."""

    now: datetime
    by: str
    clusters: AbstractSet[str]
    """Names of the clusters that machines may be in."""
    sealer: Sealer | None = None
    """None when no secret key is configured: then no secret is taken."""


class Match(NamedTuple):
    """The revisions that an `If-Match` admits; None admits any."""

    revisions: frozenset[int] | None = None

    def check(self, kind: str, name: str, revision: int) -> None:
        """Pass, or raise `Changed`."""
        if self.revisions is not None and revision not in self.revisions:
            raise Changed(kind, name, revision)


ANY = Match()
