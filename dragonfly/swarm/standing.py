"""What a replica may do at this moment, in one word, and since when.

`standing` is pure. A replica whose writes etcd does not take is read-only, whatever else; one whose lease may have
ended is fenced: what it had claimed may be somebody else's. Otherwise it acts if it drives something, and follows if
it does not. One that was told to look on claims nothing, so it is never fenced: it observes. For the first moments
without etcd a lease is still held: read-only says that people's changes are refused, `held` whether work on clusters
goes on.
"""

from collections.abc import Callable
from datetime import datetime
from typing import Final, Literal, NamedTuple

State = Literal["acting", "following", "observing", "fenced", "read-only"]
STATES: Final[tuple[State, ...]] = ("acting", "following", "observing", "fenced", "read-only")


_OBSERVES: Final = "it was told to observe, so it claims nothing"
_UNHELD: Final = "it has no lease that it could rely on, so it does not work on clusters"


class Facts(NamedTuple):
    """What decides a replica's standing."""

    refusal: str
    """Why no write can be made; empty if one can."""
    held: bool
    """Whether the lease cannot have ended."""
    owned: int
    """Shards that it drives, by its mirror."""
    idle: str = ""
    """Why it drives nothing, if there is a reason beside the others having everything."""
    observes: bool = False
    """Whether it was told to look on, and drive nothing ever."""


class Standing(NamedTuple):
    """The word, and a sentence for people."""

    state: State
    reason: str


class Fenced(NamedTuple):
    """Time without a lease that could be relied on, the start of the replica not counted, and how often that began."""

    seconds: float
    times: int


def standing(facts: Facts) -> Standing:
    if facts.refusal:
        tells_all = facts.held or facts.observes
        return Standing("read-only", facts.refusal if tells_all else f"{facts.refusal}; {_UNHELD}")
    if facts.observes:
        return Standing("observing", _OBSERVES)
    if not facts.held:
        return Standing("fenced", _UNHELD)
    if facts.owned:
        return Standing("acting", f"it drives {facts.owned} shard{'s' if facts.owned != 1 else ''}")
    return Standing("following", facts.idle or "the other replicas drive everything")


class Sentry:
    """Looks at the facts, remembers since when they have been so, and adds up the time that was spent fenced."""

    def __init__(self, facts: Callable[[], Facts], *, clock: Callable[[], float], now: Callable[[], datetime]) -> None:
        """Make it, fenced as every replica is that has no lease yet.

        Args:
            facts: as they are now.
            clock: monotonic seconds.
            now: the time, in UTC.
        """
        self._facts = facts
        self._clock = clock
        self._now = now
        self._standing = standing(facts())
        self._since = now()
        self._held = False
        self._ever_held = False
        self._looked_at = clock()
        self._fenced = Fenced(0.0, 0)

    @property
    def since(self) -> datetime:
        """Since when it has been in the state that `look` returned last."""
        return self._since

    def look(self) -> Standing:
        facts = self._facts()
        self._count(facts.held or facts.observes)
        found = standing(facts)
        if found.state != self._standing.state:
            self._since = self._now()
        self._standing = found
        return found

    def take_fenced(self) -> Fenced:
        """Return what has come together since this was asked last."""
        fenced, self._fenced = self._fenced, Fenced(0.0, 0)
        return fenced

    def _count(self, held: bool) -> None:
        now = self._clock()
        seconds, times = self._fenced
        if self._ever_held and not self._held:
            seconds += now - self._looked_at
        if self._held and not held:
            times += 1
        self._fenced = Fenced(seconds, times)
        self._ever_held |= held
        self._held, self._looked_at = held, now
