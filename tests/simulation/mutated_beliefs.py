"""Guards of what a replica believes taken out: that it owns a shard, what etcd holds, what a cluster has."""

from typing import Any

import pytest

from dragonfly.controllers import leftovers, power_steps, steps
from dragonfly.controllers.cluster import ClusterController
from dragonfly.controllers.dispatch import Dispatch
from dragonfly.controllers.hardware import HardwareLoop
from dragonfly.controllers.power_steps import AskForJob, PowerSeen, PowerStep, RecordJobArming
from dragonfly.controllers.provisions import ProvisionRun
from dragonfly.controllers.twins import Twins
from dragonfly.kube import reflector
from dragonfly.kube.reflector import Reflector
from dragonfly.kube.resources import is_older
from dragonfly.model.swarm import Member
from dragonfly.store import keys
from dragonfly.store.mirror import Mirror
from dragonfly.store.values import Batch
from dragonfly.swarm import moves, ownership
from dragonfly.swarm.ownership import Ownership
from dragonfly.swarm.shards import rankings
from dragonfly.swarm.vacancies import Vacancies
from tests.simulation.etcd import Following


def prefer_no_site(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ownership, "rankings", lambda shards, members: rankings(dict.fromkeys(shards, ()), members))


def compute_claims(patch: pytest.MonkeyPatch) -> None:
    def take_stock(self: Any) -> None:
        members = [held.object for held in self._mirror.under(keys.MEMBERS) if isinstance(held.object, Member)]
        mine = {
            shard: (self._claimed()[shard].epoch if shard in self._claimed() else 1)
            for shard, rank in rankings(self._shards(), members).items()
            if rank[:1] == (self._me,)
        }
        before, self._owned, self._owned_under = self._owned, mine, self._lease.id
        for shard in before.keys() - mine.keys():
            self._listener.lost(shard)
        for shard in mine.keys() - before.keys():
            self._listener.gained(shard)

    patch.setattr(Ownership, "_take_stock", take_stock)


def ignore_lease_clock(patch: pytest.MonkeyPatch) -> None:
    def holds(self: Any, shard: Any) -> int | None:
        found: int | None = self._owned.get(shard)
        return found

    patch.setattr(Ownership, "holds", holds)


def new_lease_vouches(patch: pytest.MonkeyPatch) -> None:
    def holds(self: Any, shard: Any) -> int | None:
        found: int | None = self._owned.get(shard)
        return found if self._lease.held() else None

    patch.setattr(Ownership, "holds", holds)


def resume_too_late(patch: pytest.MonkeyPatch) -> None:
    resume_at = Following.resume_at
    patch.setattr(Following, "resume_at", lambda self: resume_at(self) + 2)


def resume_after_what_is_known(patch: pytest.MonkeyPatch) -> None:
    resume_at = Following.resume_at
    patch.setattr(Following, "resume_at", lambda self: resume_at(self) + 1)


def take_twice(patch: pytest.MonkeyPatch) -> None:
    def apply(self: Any, batch: Batch) -> None:
        updates = [
            self._put(change.item) if change.item is not None else self._delete(change.key, change.revision)
            for change in batch.changes
            if change.item is not None or change.key in self._held
        ]
        self._revision = batch.revision
        self._tell(updates, reset=False)

    patch.setattr(Mirror, "apply", apply)


def believe_the_copies(patch: pytest.MonkeyPatch) -> None:
    remove = HardwareLoop.remove

    async def remove_what_shows(self: Any, fence: Any, machine: Any) -> None:
        if machine.name in self._twins.hardware.store:
            await remove(self, fence, machine)

    patch.setattr(HardwareLoop, "remove", remove_what_shows)


def release_at_once(patch: pytest.MonkeyPatch) -> None:
    async def quiesce(self: Any, shard: Any) -> None:
        return

    patch.setattr(ClusterController, "quiesce", quiesce)
    patch.setattr(
        Ownership,
        "epoch",
        lambda self, shard: (
            self._owned.get(shard) if self._lease.held() and self._lease.id == self._owned_under else None
        ),
    )


def leave_it_to_the_best(patch: pytest.MonkeyPatch) -> None:
    claims = moves._claims

    def late(me: str, view: Any, settle: float) -> Any:
        return claims(me, view, settle) if min(view.unowned_for.values(), default=0) > 60 else ()

    patch.setattr(moves, "_claims", late)


def hide_unowned(patch: pytest.MonkeyPatch) -> None:
    """And let nobody take it, so that there is something to show."""
    leave_it_to_the_best(patch)
    patch.setattr(Vacancies, "look", lambda self: {})


def begin_nothing(patch: pytest.MonkeyPatch) -> None:
    """User changes are seen only when something else wakes the machine."""
    patch.setattr(Dispatch, "_wake", lambda self, machine, priority: None)


def see_nothing_rewound(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(steps, "is_rewound", lambda provision, workflow, *, seen_armed: False)


def see_no_job_rewound(patch: pytest.MonkeyPatch) -> None:
    def rewound(seen: PowerSeen) -> PowerStep:
        return RecordJobArming(seen.job) if seen.asked and seen.job else AskForJob()

    patch.setattr(power_steps, "_rewound", rewound)


def stop_nothing_of_the_past(patch: pytest.MonkeyPatch) -> None:
    fate_of = leftovers.fate_of
    patch.setattr(
        leftovers,
        "fate_of",
        lambda workflow, **known: fate_of(workflow, **known) if workflow.staged else leftovers.Fate.STAY,
    )


def go_on_in_another_history(patch: pytest.MonkeyPatch) -> None:
    """A watch is taken up again however long the API server was away, and what it lacks is not seen."""
    patch.setattr(reflector, "_BLINK", float("inf"))


def take_what_was_observed_for_newer(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(
        Reflector,
        "_is_ahead",
        lambda self, name, listing: is_older(listing.resource_version, self.store[name]["metadata"]["resourceVersion"]),
    )


def doubt_nothing(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Reflector, "doubt", lambda self: None)


def look_at_nothing_of_the_gone(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Twins, "mentions", lambda self, machine: False)


def past_is_in_the_way(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ProvisionRun, "_past", lambda self, others: frozenset())
