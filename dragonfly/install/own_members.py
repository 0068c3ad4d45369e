"""What is to be done next for a host to have a member of the swarm's own etcd, or to have none any more. Pure.

Nothing is remembered between two moves: each follows from what etcd, the cluster and the host's disk say right then. So
whoever is killed between any two goes on with the next one, and a member that was added is found by its peer URL and
never added twice.

Invariants, which hold before and after each move:

- A member gets its vote only after it has caught up and while it answers, so a host that joins never costs the others
  their quorum.
- etcd has one learner at most, and only the host of that one says how members start. So hosts join one after the other.
- A member that is added finds no data of a former one: what was there is set aside before, and never deleted.
- No member with a vote is taken out unless those that stay are a quorum of themselves, and answer.
"""

from collections.abc import Collection, Mapping
from typing import Final, NamedTuple, TypeAlias
from urllib.parse import urlsplit

import msgspec

from dragonfly.store.members import Member

CLIENT_PORT: Final = 12379
PEER_PORT: Final = 12380


class Place(NamedTuple):
    """A host, as a place for a member."""

    host: str
    """By its node's name, which is the member's, too."""
    address: str
    is_labelled: bool
    """Whether its node is told to run a member."""
    has_pod: bool
    """Whether one is there, be it that it is on its way out."""
    has_data: bool
    """Whether there is anything of a member on its disk."""
    is_told: bool
    """Whether a member that starts there now would find all that there are, and a certificate for its address."""
    nodes: Mapping[str, str] = {}
    """The names of all nodes of the cluster, with their addresses."""
    answering: Collection[int] = ()
    """The ids of the members that answer."""
    is_blank: bool = False
    """Whether all that is on its disk is what a member makes that starts, and nothing has got to it yet."""
    keeps_ending: bool = False
    """Whether its pod's container has ended again and again, and is not started right now."""

    @property
    def peer(self) -> str:
        """The URL by which the other members know the one here."""
        return f"https://{self.address}:{PEER_PORT}"


class Unlabel(msgspec.Struct, frozen=True):
    """Have the node run no member any more."""


class SetAside(msgspec.Struct, frozen=True):
    """Move the data of a former member out of the way of the next."""


class Add(msgspec.Struct, frozen=True):
    """Add a member, without a vote."""

    peer: str


class Tell(msgspec.Struct, frozen=True):
    """Say in the Secret how a member starts: with which others, and with which certificate."""


class Label(msgspec.Struct, frozen=True):
    """Have the node run a member."""


class Promote(msgspec.Struct, frozen=True):
    """Give the member its vote; etcd refuses until it has caught up once."""

    member: int


class Remove(msgspec.Struct, frozen=True):
    """Take a member out."""

    member: int
    why: str


class Wait(msgspec.Struct, frozen=True):
    """Look again later."""

    problem: str


Move: TypeAlias = Unlabel | SetAside | Add | Tell | Label | Promote | Remove | Wait


def joining(members: Collection[Member], place: Place) -> Move | None:
    """Return the next move by which the host gets a member that has a vote and answers; None if it has."""
    if lost := next((one for one in members if _is_lost(one, place)), None):
        return _removal(members, lost, place, "has no node any more, and does not answer")
    mine = of_host(members, place)
    if mine is None:
        return _entering(members, place)
    if _has_lost_data(mine, place):
        return _removal(members, mine, place, "has lost its data")
    if not (mine.is_started or place.is_told):
        return Tell()
    if not place.is_labelled:
        return Label()
    if not mine.is_started:
        return Wait("its member has not started yet")
    if mine.is_learner:
        # etcd goes by what it has acknowledged once (`isLearnerReady`, 3.7), be it that it is down or lost since.
        answers = mine.id in place.answering
        return Promote(mine.id) if answers else Wait("its member does not answer yet, so it gets no vote")
    if mine.id in place.answering:
        return None
    return Wait(
        "its member does not answer; if it never does again, take this host out of the cluster and join it anew: "
        "dragonfly uninstall, and then dragonfly install --join"
    )


def of_host(members: Collection[Member], place: Place) -> Member | None:
    """Return the member of a host, also one that was added and has never started."""
    return next((one for one in members if place.peer in one.peers or one.name == place.host), None)


def leaving_problem(members: Collection[Member], place: Place) -> str:
    """Return why the swarm's own etcd cannot do without the member of a host; empty if it can, or there is none."""
    mine = of_host(members, place)
    return "" if mine is None else _removal_problem(members, mine, place.answering)


def voters(members: Collection[Member]) -> list[Member]:
    """Return those that count, by name."""
    return sorted((one for one in members if not one.is_learner), key=lambda one: one.name)


def endpoints(members: Collection[Member]) -> tuple[str, ...]:
    """Return where clients are served, by the members' names: a learner serves nobody."""
    return tuple(url for one in voters(members) for url in one.clients)


def initial_cluster(members: Collection[Member], place: Place) -> str:
    """Return all members as the one here wants to be told of them when it starts for the first time."""
    names = {f"https://{address}:{PEER_PORT}": name for name, address in place.nodes.items()} | {place.peer: place.host}
    told = [(one.name or names.get(url, f"member-{one.id:x}"), url) for one in members for url in one.peers]
    return ",".join(f"{name}={url}" for name, url in sorted(told))


def addresses(members: Collection[Member]) -> tuple[str, ...]:
    """Return the addresses of all members."""
    return tuple(sorted({urlsplit(url).hostname or "" for one in members for url in one.peers}))


def tolerance(count: int) -> str:
    """Return what so many members mean for those who rely on them, as a sentence."""
    lost = (count - 1) // 2
    if count == 1:
        return "The swarm's own etcd has one member: with its host, the swarm's data is lost. Join two more hosts."
    what = f"The swarm's own etcd has {count} members and tolerates the loss of {lost or 'none'}"
    return f"{what}." if count % 2 else f"{what}, as {count - 1} would; with one more host, of {lost + 1}."


def _entering(members: Collection[Member], place: Place) -> Move:
    if place.is_labelled:
        return Unlabel()
    if place.has_pod:
        return Wait("the pod of its former member is still there")
    if place.has_data:
        return SetAside()
    if other := next((one for one in members if one.is_learner), None):
        return Wait(
            f"{_named(other)} joins the swarm's own etcd first; if that was ended there, say on that host: "
            "dragonfly install, or dragonfly uninstall"
        )
    if silent := next((one for one in members if one.id not in place.answering), None):
        return Wait(
            f"{_named(silent)} does not answer, and etcd takes no further member before it does; if its host is lost "
            f"for ever, delete its node: k3s kubectl delete node {silent.name or 'NAME'}"
        )
    return Add(place.peer)


def _named(member: Member) -> str:
    return member.name or " ".join(member.peers)


def _is_lost(member: Member, place: Place) -> bool:
    """Whether nobody will ever start it again: as k3s has it for its own, a node that was deleted is gone for good."""
    has_node = member.name in place.nodes or bool(set(addresses((member,))) & set(place.nodes.values()))
    return not has_node and member.id not in place.answering


def _has_lost_data(mine: Member, place: Place) -> bool:
    """Whether it came up on an empty disk, or will: with a vote it had more before, and never answers again.

    Without a vote, its first snapshot may be on its way still, which can take long: its name is known by then. One that
    ends again and again gets none, be it lost or not, and to make it anew costs nobody a quorum.
    """
    is_blank = place.is_blank and mine.id not in place.answering and (not mine.is_learner or place.keeps_ending)
    return mine.is_started and (is_blank or not place.has_data)


def _removal(members: Collection[Member], member: Member, place: Place, why: str) -> Move:
    if problem := _removal_problem(members, member, place.answering):
        return Wait(f"{_named(member)} {why}, and cannot be taken out: {problem}")
    return Remove(member.id, f"{_named(member)} {why}")


def _removal_problem(members: Collection[Member], member: Member, answering: Collection[int]) -> str:
    if member.is_learner:
        return ""
    staying = [one for one in voters(members) if one.id != member.id]
    if not staying:
        return "it is the only member of the swarm's own etcd"
    needed = len(staying) // 2 + 1
    silent = [_named(one) for one in staying if one.id not in answering]
    if len(staying) - len(silent) < needed:
        return f"of the members that would stay, {', '.join(silent)} does not answer, and {needed} must"
    return ""
