"""How etcd is, as this replica finds it: one word that programs may act on, and a sentence for people.

`judge` is pure: facts go in, a verdict comes out. Nothing here asks etcd for anything: the facts are what the lease's
keepalives, the watch, the calls that had to be made anyway and the last inquiry have brought.
"""

from collections.abc import Callable
from datetime import datetime
from typing import Final, Literal, NamedTuple

from dragonfly.store.errors import Behind, Denied, NoSpace, OtherEtcd, StoreError
from dragonfly.store.values import MemberStatus

EtcdState = Literal["ok", "degraded", "unknown", "unreachable", "no-quorum", "behind", "full", "denied", "changed"]

STATES: Final[tuple[EtcdState, ...]] = (
    "ok",
    "degraded",
    "unknown",
    "unreachable",
    "no-quorum",
    "behind",
    "full",
    "denied",
    "changed",
)
_WRITABLE: Final = frozenset({"ok", "degraded"})

_FAR: Final = 5_000
"""Revisions by which a member may trail the others without being called bad: a second or so of a busy etcd."""


class Verdict(NamedTuple):
    """How etcd is. `degraded` means that it works and that a member of it does not; `unknown` that nobody asked yet."""

    state: EtcdState
    reason: str = ""

    @property
    def writable(self) -> bool:
        return self.state in _WRITABLE


class Facts(NamedTuple):
    """What is known of etcd at one moment."""

    heard: bool
    """Whether it has ever answered."""
    silence: Exception | None = None
    """Why it does not answer this replica's keepalives; None while it does."""
    watch: Exception | None = None
    """Why there is no watch; None while there is one."""
    write: StoreError | None = None
    """Why the last write failed; None after one that succeeded."""
    members: tuple[MemberStatus, ...] = ()
    """What each endpoint said when all of them were asked last."""


def judge(facts: Facts) -> Verdict:
    """Tell how etcd is: first what a restart or a person must mend, then what may pass by itself."""
    errors = [error for error in (facts.silence, facts.write, facts.watch) if error is not None]
    for kind, state in _LASTING:
        if error := next((error for error in errors if isinstance(error, kind)), None):
            return Verdict(state, str(error))
    if full := next((member for member in facts.members if "NOSPACE" in member.error), None):
        return Verdict("full", f"{full.endpoint}: {full.error}")
    if (silence := facts.silence or facts.write) is not None:
        return _silent(silence, facts.members)
    if not facts.heard:
        return _silent(facts.watch, facts.members) if facts.watch else Verdict("unknown", "etcd was not asked yet")
    bad = [f"{member.endpoint}: {reason}" for member in facts.members if (reason := _trouble(member, facts.members))]
    return Verdict("degraded", "; ".join(bad)) if bad else Verdict("ok")


_LASTING: Final[tuple[tuple[type[StoreError], EtcdState], ...]] = (
    (OtherEtcd, "changed"),
    (Denied, "denied"),
    (NoSpace, "full"),
    (Behind, "behind"),
)


def _silent(error: Exception, members: tuple[MemberStatus, ...]) -> Verdict:
    there = [member for member in members if member.reachable]
    leaderless = bool(there) and not any(member.leader_id for member in there)
    return Verdict("no-quorum" if leaderless or "no leader" in str(error) else "unreachable", str(error))


def _trouble(member: MemberStatus, members: tuple[MemberStatus, ...]) -> str:
    """Return what is wrong with one member; empty if nothing is."""
    if not member.reachable:
        return member.error or "it does not answer"
    if not member.leader_id:
        return "it knows no leader"
    behind = max(other.revision for other in members) - member.revision
    return f"it is {behind} revisions behind" if behind > _FAR else member.error


class Health:
    """Collects the facts, and remembers since when the verdict stands. Belongs to one event loop."""

    def __init__(
        self,
        *,
        now: Callable[[], datetime],
        silence: Callable[[], Exception | None],
        watch: Callable[[], Exception | None],
    ) -> None:
        """Make it, with nothing known.

        Args:
            now: the time, in UTC.
            silence: why etcd does not answer keepalives; None while it does.
            watch: why there is no watch; None while there is one.
        """
        self._now = now
        self._silence = silence
        self._watch = watch
        self._write: StoreError | None = None
        self._members: tuple[MemberStatus, ...] = ()
        self._heard = False
        self._verdict = judge(Facts(heard=False))
        self._since = now()

    @property
    def since(self) -> datetime:
        """Since when etcd has been in the state that `look` returned last."""
        return self._since

    @property
    def members(self) -> tuple[MemberStatus, ...]:
        """Every endpoint, as it answered the last inquiry."""
        return self._members

    @property
    def silence(self) -> Exception | None:
        """Why etcd does not answer at all, so that a call would only wait; None if it may be tried."""
        return self._silence()

    @property
    def refuses_writes(self) -> bool:
        """Whether the last write failed, so that only another one can tell when they work again."""
        return self._write is not None

    def answered(self, *, wrote: bool) -> None:
        """A call had an answer, be it a conflict.

        Args:
            wrote: something was put: deletes are taken by an etcd that is full.
        """
        self._heard = True
        if wrote:
            self._write = None
            self._members = tuple(member for member in self._members if "NOSPACE" not in member.error)

    def failed(self, error: StoreError, *, wrote: bool) -> None:
        """A call failed for a reason that lies with etcd."""
        if wrote:
            self._write = error

    def asked(self, members: tuple[MemberStatus, ...]) -> None:
        """Every endpoint was asked how it is."""
        self._members = members
        if any(member.reachable for member in members):
            self._heard = True

    def look(self) -> Verdict:
        """Judge what is known now."""
        verdict = judge(Facts(self._heard, self._silence(), self._watch(), self._write, self._members))
        if verdict.state != self._verdict.state:
            self._since = self._now()
        self._verdict = verdict
        return verdict
