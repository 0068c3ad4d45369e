"""Guards of the product taken out, one at a time: the checker must see what they are there for."""

from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec
import pytest

from dragonfly.controllers import fence, leftovers, power_steps, provisions, steps
from dragonfly.controllers.cluster import ClusterController
from dragonfly.controllers.fence import Fence
from dragonfly.controllers.hardware import HardwareLoop
from dragonfly.controllers.leftovers import Leftovers
from dragonfly.controllers.power import PowerRun
from dragonfly.controllers.power_steps import AskForJob, CreateJob, PowerSeen, PowerStep, RecordJobArming
from dragonfly.controllers.provisions import ProvisionRun
from dragonfly.controllers.steps import Arm, AskForWorkflow, CreateWorkflow, RecordArming, Seen, Step
from dragonfly.controllers.twins import Twins
from dragonfly.intent import plan as plans
from dragonfly.intent import provisions as intents
from dragonfly.intent.idempotency import answered
from dragonfly.intent.plan import Done, Plan
from dragonfly.kube import reflector
from dragonfly.kube.reflector import Reflector
from dragonfly.kube.resources import is_older
from dragonfly.model.machine import InstalledOs
from dragonfly.model.power import JobArming
from dragonfly.model.provision import Arming, CancelRequest, Problem, Provision
from dragonfly.model.swarm import Member
from dragonfly.store import keys, records
from dragonfly.store.errors import Unavailable
from dragonfly.store.mirror import Mirror
from dragonfly.store.values import Absent, Batch, Claimed, Put, Unchanged
from dragonfly.swarm import moves, ownership
from dragonfly.swarm.ownership import Ownership
from dragonfly.swarm.shards import rankings
from dragonfly.swarm.vacancies import Vacancies
from tests.simulation import apiserver, replica, users
from tests.simulation.etcd import Following
from tests.simulation.faults import Profile
from tests.simulation.users import Wishes
from tests.simulation.wire import Chances

STOPPED = Profile("stopped", Chances(paused=0.12), ("pause", "kill"), 3)
SLOW = Profile("slow", Chances(waits=0.2), ("cut etcd", "cut etcd", "pause"), 6)
KILLED = Profile("killed", Chances(killed=0.06), ("kill", "stop"), 3)
LATE = Profile("late", Chances(late=0.08, slow=0.05), ("kill", "pause"), 2, Wishes(cancels=0.8))
BLIND = Profile("blind", Chances(paused=0.1), ("pause",), 6, Wishes(repeats=1.0, edits=1.0), blinded=1.0)
HANDS = Profile("hands", Chances(), ("delete workflow",), 3, Wishes(cancels=0.2, locks=0.0), odd=0.0)
LOCKS = Profile("locks", Chances(slow=0.1), ("stall etcd",), 4, Wishes(locks=1.0))
AGAIN = Profile(
    "again", Chances(waits=0.4, slow=0.1), ("stall etcd", "stall etcd"), 6, Wishes(locks=1.0, powers=1.0), powered=1.0
)
CALM = Profile("calm", Chances(), (), 0, Wishes(locks=0.0))
REPEATS = Profile("repeats", Chances(), (), 0, Wishes(cancels=1.0, locks=0.0, repeats=1.0), odd=0.0)
LOST = Profile("lost", Chances(lost=0.1), (), 0)
GONE = Profile(
    "gone",
    Chances(killed=0.1, slow=0.1),
    ("stall kube", "kill"),
    9,
    Wishes(cancels=1.0, locks=0.0, repeats=0.0, deletes=1.0),
    odd=0.0,
    most_machines=3,
    powered=1.0,
)
HANDED = Profile("handed", Chances(slow=0.3), ("stop", "kill"), 8, Wishes(repeats=1.0, edits=1.0))
POWER = Profile("power", Chances(slow=0.05), ("delete job",), 9, Wishes(locks=0.0, powers=1.0), odd=0.0, powered=1.0)
BUSY = Profile(
    "busy", Chances(slow=0.05), (), 0, Wishes(cancels=0.0, locks=0.0, repeats=1.0, powers=1.0), odd=0.0, powered=1.0
)
UNANSWERED = Profile("unanswered", Chances(unanswered=0.2), (), 0, Wishes(powers=1.0), powered=1.0)
OVERTAKEN = Profile(
    "overtaken",
    Chances(slow=0.05),
    ("overtaken",),
    6,
    Wishes(edits=1.0, repeats=1.0, locks=0.0, deletes=0.0),
    has_policy=True,
    most_machines=3,
)
RESTORED = Profile(
    "restored",
    Chances(slow=0.02),
    ("restore kube", "restore kube", "kill"),
    6,
    Wishes(cancels=0.2, locks=0.0, repeats=1.0, deletes=0.0),
    odd=0.0,
)
STALE = RESTORED._replace(
    name="stale", timed=("restore kube", "stall kube", "stall kube"), wishes=Wishes(cancels=0.5, edits=1.0, repeats=1.0)
)
ASLEEP = RESTORED._replace(name="asleep", timed=("restore kube", "pause", "pause"))
DELETED = RESTORED._replace(name="deleted", wishes=Wishes(cancels=0.0, locks=0.0, repeats=0.0, deletes=1.0))
SWITCHED = RESTORED._replace(name="switched", wishes=Wishes(locks=0.0, powers=1.0), powered=1.0)
WATCHES = Profile("watches", Chances(), ("break watches", "compact etcd"), 4)


class Mutation(NamedTuple):
    """A guard taken out."""

    name: str
    promises: tuple[str, ...]
    """What may be broken by it; the first thing found counts."""
    profile: Profile
    """A shape of history that needs the guard often."""
    apply: Callable[[pytest.MonkeyPatch], None]
    is_rare: bool = False
    """It takes more than a hundred histories until it is missed."""


def _commit_without_claim(patch: pytest.MonkeyPatch) -> None:
    async def commit(self: Any, *writes: Any, given: Any) -> int:
        self.check()
        return int(await self._store.commit(*writes, given=given))

    patch.setattr(Fence, "commit", commit)


def _commit_whatever_is_there(patch: pytest.MonkeyPatch) -> None:
    async def commit(self: Any, *writes: Any, given: Any) -> int:
        del given
        self.check()
        return int(await self._store.commit(*writes, given=[Claimed(keys.claim(*self._shard), self.epoch)]))

    patch.setattr(Fence, "commit", commit)


def _prefer_no_site(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ownership, "rankings", lambda shards, members: rankings(dict.fromkeys(shards, ()), members))


def _write_without_version(patch: pytest.MonkeyPatch) -> None:
    async def delete(self: Any, ref: Any, *, given: Any) -> None:
        self.check()
        await self._kube.delete(ref)

    patch.setattr(fence, "_with_precondition", lambda obj, given: obj)
    patch.setattr(Fence, "delete", delete)


def _patch_without_epoch(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(fence, "EPOCH", "dragonfly.io/something-else")


def compare_nothing(patch: pytest.MonkeyPatch) -> None:
    """Nothing that is applied or patched says what it was computed from."""
    patch.setattr(fence, "_with_precondition", lambda obj, given: obj)


def compare_nothing_without_policy(patch: pytest.MonkeyPatch) -> None:
    compare_nothing(patch)
    _admit_lower_epochs(patch)


def _admit_lower_epochs(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(apiserver, "refusal", lambda ref, before, after: None)


def _replace_without_asking(patch: pytest.MonkeyPatch) -> None:
    async def stored_epoch(self: Any, ref: Any) -> int:
        return fence._epoch_of(await self._kube.get(ref))

    patch.setattr(Fence, "_epoch_of_another_history", stored_epoch)


def _send_however_late(patch: pytest.MonkeyPatch) -> None:
    async def fenced(self: Any, write: Callable[[], Any], _still: Any = None) -> Any:
        self.check()
        return await write()

    patch.setattr(Fence, "_fenced", fenced)


def _look_before_waiting_only(patch: pytest.MonkeyPatch) -> None:
    async def checked(self: Any, write: Callable[[], Any], _still: Any) -> Any:
        self.check()
        return await write()

    patch.setattr(Fence, "_checked", checked)


def _apply_over_what_is_there(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(fence, "OF_NO_OBJECT", "")


def _arm_without_record(patch: pytest.MonkeyPatch) -> None:
    async def record_arming(self: Any, workflow: Any) -> None:
        arming = Arming(
            uid=workflow.uid,
            resource_version=workflow.resource_version,
            epoch=self._fence.epoch,
            at=self._cluster.now(),
        )
        self._provision = msgspec.structs.replace(self._provision, arming=arming)
        self._vouched_at = self._cluster.monotonic()

    patch.setattr(ProvisionRun, "_record_arming", record_arming)


def _arm_without_second_look(patch: pytest.MonkeyPatch) -> None:
    put = ProvisionRun._put

    async def put_alone(self: Any, provision: Provision, *_: Unchanged) -> None:
        await put(self, provision)

    patch.setattr(ProvisionRun, "_put", put_alone)


def _believe_an_old_record(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ProvisionRun, "_is_vouched", lambda self: True)


def _believe_an_old_record_of_a_job(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(PowerRun, "_is_vouched", lambda self: True)


def _compute_claims(patch: pytest.MonkeyPatch) -> None:
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


def _ignore_lease_clock(patch: pytest.MonkeyPatch) -> None:
    def holds(self: Any, shard: Any) -> int | None:
        found: int | None = self._owned.get(shard)
        return found

    patch.setattr(Ownership, "holds", holds)


def _new_lease_vouches(patch: pytest.MonkeyPatch) -> None:
    def holds(self: Any, shard: Any) -> int | None:
        found: int | None = self._owned.get(shard)
        return found if self._lease.held() else None

    patch.setattr(Ownership, "holds", holds)


def _resume_too_late(patch: pytest.MonkeyPatch) -> None:
    resume_at = Following.resume_at
    patch.setattr(Following, "resume_at", lambda self: resume_at(self) + 2)


def _resume_after_what_is_known(patch: pytest.MonkeyPatch) -> None:
    resume_at = Following.resume_at
    patch.setattr(Following, "resume_at", lambda self: resume_at(self) + 1)


def _take_twice(patch: pytest.MonkeyPatch) -> None:
    def apply(self: Any, batch: Batch) -> None:
        updates = [
            self._put(change.item) if change.item is not None else self._delete(change.key, change.revision)
            for change in batch.changes
            if change.item is not None or change.key in self._held
        ]
        self._revision = batch.revision
        self._tell(updates, reset=False)

    patch.setattr(Mirror, "apply", apply)


def _create_again(patch: pytest.MonkeyPatch) -> None:
    def gone(seen: Seen) -> Step:
        if not seen.asked:
            return AskForWorkflow()
        return CreateWorkflow() if seen.workflow is None else RecordArming(seen.workflow)

    patch.setattr(steps, "_gone", gone)


def _create_job_again(patch: pytest.MonkeyPatch) -> None:
    def gone(seen: PowerSeen) -> PowerStep:
        if not seen.asked:
            return AskForJob()
        return CreateJob() if seen.job is None else RecordJobArming(seen.job)

    patch.setattr(power_steps, "_gone", gone)


def _arm_job_without_record(patch: pytest.MonkeyPatch) -> None:
    async def record_arming(self: Any, job: Any) -> None:
        arming = JobArming(
            uid=job.uid, resource_version=job.resource_version, epoch=self._fence.epoch, at=self._place.now()
        )
        self._request = msgspec.structs.replace(self._request, phase="Running", arming=arming)
        self._vouched_at = self._place.monotonic()

    patch.setattr(PowerRun, "_record_arming", record_arming)


def _forget_what_was_asked(patch: pytest.MonkeyPatch) -> None:
    """A retry under the same Idempotency-Key is another request."""
    patch.setattr(users, "answered", lambda decide, answer, once: answered(decide, answer, None))


def _power_in_an_installation(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(intents, "check_powered_by_nobody", lambda facts, name: None)
    patch.setattr(intents, "Absent", lambda key: Unchanged("none", 0) if key.startswith(keys.POWER) else Absent(key))
    patch.setattr(power_steps, "_refusal", lambda seen, limits: None)


def _arm_whatever_is_there(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(steps, "_arm", lambda workflow, _recorded, *, asked: Arm(workflow))


def _remove_what_is_served(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(steps, "removable", lambda workflow: not workflow.terminal)


def _result_is_no_latch(patch: pytest.MonkeyPatch) -> None:
    cancel = intents.cancel

    def cancel_whatever(facts: Any, machine: str, name: str, reason: str, terms: Any) -> Plan[Provision]:
        key = keys.provision(machine, name)
        provision = facts.get(key, Provision)
        if provision is None or provision.status.phase != "Succeeded":
            return cancel(facts, machine, name, reason, terms)
        request = CancelRequest(by=terms.by, at=terms.now, reason=reason)
        status = msgspec.structs.replace(provision.status, phase="Cancelled", cancel=request)
        done = msgspec.structs.replace(provision, status=status)
        return Plan(done, (Put(key, records.encode(done)),), (Unchanged(key, facts.revision_of(key)),))

    patch.setattr(intents, "cancel", cancel_whatever)


def _installed_whatever_came_out(patch: pytest.MonkeyPatch) -> None:
    def installed(provision: Provision, now: Any, *, before: Any) -> InstalledOs:
        spec = provision.spec
        return InstalledOs(
            template=spec.template, revision=spec.template_revision, installed_at=now, provision=provision.name
        )

    patch.setattr(provisions, "_installed", installed)


def _leave_netboot_open(patch: pytest.MonkeyPatch) -> None:
    ready = HardwareLoop.ready
    patch.setattr(
        HardwareLoop,
        "ready",
        lambda self, machine, *, netboot_for: not netboot_for or ready(self, machine, netboot_for=netboot_for),
    )


def _believe_the_copies(patch: pytest.MonkeyPatch) -> None:
    remove = HardwareLoop.remove

    async def remove_what_shows(self: Any, fence: Any, machine: Any) -> None:
        if machine.name in self._twins.hardware.store:
            await remove(self, fence, machine)

    patch.setattr(HardwareLoop, "remove", remove_what_shows)


def _release_at_once(patch: pytest.MonkeyPatch) -> None:
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


def _sweep_nothing(patch: pytest.MonkeyPatch) -> None:
    async def sweep(self: Any, fence: Any, machine: Any) -> list[str]:
        return []

    patch.setattr(Leftovers, "sweep", sweep)


def _no_answer_is_a_yes(patch: pytest.MonkeyPatch) -> None:
    carry_out = plans.carry_out

    async def carried_out(store: Any, mirror: Any, decide: Any) -> Any:
        decided: list[Plan[Any]] = []

        def noted(facts: Any) -> Plan[Any]:
            decided.append(decide(facts))
            return decided[-1]

        try:
            return await carry_out(store, mirror, noted)
        except Unavailable:
            return Done(decided[-1].outcome, 0)

    patch.setattr(replica, "carry_out", carried_out)


def _accept_for_locked(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(intents, "_check_may_be_provisioned", lambda facts, machine: None)
    patch.setattr(steps, "_begin", lambda seen, limits: steps.Start())


def _fail_with_the_owner(patch: pytest.MonkeyPatch) -> None:
    run = ProvisionRun.run

    async def run_own(self: Any) -> float | None:
        arming = self._provision.arming
        if arming is not None and arming.epoch != self._fence.epoch and self._provision.stopping is None:
            await self._reject(Problem("OwnerChanged", "its owner has changed"))
        return await run(self)

    patch.setattr(ProvisionRun, "run", run_own)


def _leave_it_to_the_best(patch: pytest.MonkeyPatch) -> None:
    claims = moves._claims

    def late(me: str, view: Any, settle: float) -> Any:
        return claims(me, view, settle) if min(view.unowned_for.values(), default=0) > 60 else ()

    patch.setattr(moves, "_claims", late)


def _hide_unowned(patch: pytest.MonkeyPatch) -> None:
    """And let nobody take it, so that there is something to show."""
    _leave_it_to_the_best(patch)
    patch.setattr(Vacancies, "look", lambda self: {})


def _begin_nothing(patch: pytest.MonkeyPatch) -> None:
    """User changes are seen only when something else wakes the machine."""
    patch.setattr(ClusterController, "_active_changed", lambda self, update: None)
    patch.setattr(ClusterController, "_provision_changed", lambda self, update: None)
    patch.setattr(ClusterController, "_machine_changed", lambda self, update: None)


def _see_nothing_rewound(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(steps, "is_rewound", lambda provision, workflow, *, seen_armed: False)


def _see_no_job_rewound(patch: pytest.MonkeyPatch) -> None:
    def rewound(seen: PowerSeen) -> PowerStep:
        return RecordJobArming(seen.job) if seen.asked and seen.job else AskForJob()

    patch.setattr(power_steps, "_rewound", rewound)


def _stop_nothing_of_the_past(patch: pytest.MonkeyPatch) -> None:
    fate_of = leftovers.fate_of
    patch.setattr(
        leftovers,
        "fate_of",
        lambda workflow, **known: fate_of(workflow, **known) if workflow.staged else leftovers.Fate.STAY,
    )


def _go_on_in_another_history(patch: pytest.MonkeyPatch) -> None:
    """A watch is taken up again however long the API server was away, and what it lacks is not seen."""
    patch.setattr(reflector, "_BLINK", float("inf"))


def _take_what_was_observed_for_newer(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(
        Reflector,
        "_is_ahead",
        lambda self, name, listing: is_older(listing.resource_version, self.store[name]["metadata"]["resourceVersion"]),
    )


def _doubt_nothing(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Reflector, "doubt", lambda self: None)


def _look_at_nothing_of_the_gone(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Twins, "mentions", lambda self, machine: False)


def _past_is_in_the_way(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ProvisionRun, "_past", lambda self: frozenset())


MUTATIONS = (
    Mutation("a commit does not compare the claim", ("P4",), STOPPED, _commit_without_claim),
    Mutation("a commit does not compare the object", ("P1", "P3", "P5"), STOPPED, _commit_whatever_is_there),
    Mutation("a Kubernetes write carries no resourceVersion", ("P4", "P1", "P7"), STOPPED, _write_without_version),
    Mutation("an apply to where nothing was takes what is there", ("P4",), STOPPED, _apply_over_what_is_there),
    Mutation("a patch says nothing of its epoch", ("P4",), STOPPED, _patch_without_epoch),
    Mutation("nothing compares, and no policy", ("P4",), OVERTAKEN, compare_nothing_without_policy),
    Mutation("the policy lets a lower epoch pass", ("P4",), OVERTAKEN, _admit_lower_epochs),
    Mutation("a higher epoch is replaced without etcd's word", ("P4",), OVERTAKEN, _replace_without_asking),
    Mutation("arming is not recorded first", ("P1",), CALM, _arm_without_record),
    Mutation("arming does not compare the machine", ("P3",), LOCKS, _arm_without_second_look),
    Mutation("arming goes by an old record", ("P3",), AGAIN, _believe_an_old_record, is_rare=True),
    Mutation("arming of a Job goes by an old record", ("P3",), AGAIN, _believe_an_old_record_of_a_job),
    Mutation("who owns a shard is computed, not recorded", ("P10", "P4"), KILLED, _compute_claims),
    Mutation("a write waits for its turn beyond the lease", ("P10",), SLOW, _send_however_late),
    Mutation("a write is not looked at again when it is sent", ("P10", "P3"), SLOW, _look_before_waiting_only),
    Mutation("the lease's clock is ignored", ("P10",), STOPPED, _ignore_lease_clock),
    Mutation("a new lease vouches for old claims", ("P10",), BLIND, _new_lease_vouches),
    Mutation("the watch is resumed one revision too late", ("P9",), WATCHES, _resume_too_late),
    Mutation("the watch is resumed after what it knows", ("P9",), WATCHES, _resume_after_what_is_known),
    Mutation("the mirror takes old changes again", ("P9",), WATCHES, _take_twice),
    Mutation("a Workflow is created again after arming", ("P1",), HANDS, _create_again),
    Mutation("a Job is created again after arming", ("P1",), POWER, _create_job_again),
    Mutation("arming of a Job is not recorded first", ("P1",), POWER, _arm_job_without_record),
    Mutation("a retry under one key is another power action", ("P1",), UNANSWERED, _forget_what_was_asked),
    Mutation("a BMC acts in the middle of an installation", ("P7",), BUSY, _power_in_an_installation),
    Mutation("a served Workflow is removed", ("P7",), REPEATS, _remove_what_is_served),
    Mutation("a result can be changed", ("P1",), REPEATS, _result_is_no_latch),
    Mutation("whatever came out counts as installed", ("P2",), REPEATS, _installed_whatever_came_out),
    Mutation("what was armed before a restore is armed again", ("P1",), RESTORED, _see_nothing_rewound),
    Mutation(
        "a Job that was armed before a restore is armed again", ("P1",), SWITCHED, _see_no_job_rewound, is_rare=True
    ),
    Mutation("what has ended runs again after a restore", ("P1", "P2"), RESTORED, _stop_nothing_of_the_past),
    Mutation("a watch goes on in another history", ("P1", "P2", "P5", "P7"), RESTORED, _go_on_in_another_history),
    Mutation("an answer of another history counts", ("P1", "P2", "P5", "P7"), STALE, _take_what_was_observed_for_newer),
    Mutation("a stopped replica's watch goes on after a restore", ("P1", "P2", "P5", "P7"), ASLEEP, _doubt_nothing),
    Mutation("a deleted machine runs after a restore", ("P1",), DELETED, _look_at_nothing_of_the_gone),
    Mutation("what has ended is in the way after a restore", ("P7",), RESTORED, _past_is_in_the_way),
    Mutation("netboot is not closed", ("P2",), CALM, _leave_netboot_open),
    Mutation("a machine is deleted by what the copies show", ("P2",), GONE, _believe_the_copies),
    Mutation("a shard is released in the middle of work", ("P10", "P4"), HANDED, _release_at_once),
    Mutation("nothing is swept", ("P1",), LATE, _sweep_nothing, is_rare=True),
    Mutation("no answer counts as a yes", ("P5",), LOST, _no_answer_is_a_yes),
    Mutation("changes wake nobody", ("P5",), CALM, _begin_nothing),
    Mutation("a locked machine is provisioned", ("P3",), LOCKS, _accept_for_locked),
    Mutation("a provision fails with its owner", ("P7",), KILLED, _fail_with_the_owner),
    Mutation("an unowned shard waits for somebody better", ("P6",), KILLED, _leave_it_to_the_best),
    Mutation("no site is preferred", ("P6",), CALM, _prefer_no_site),
    Mutation("an unowned shard is not shown", ("P6",), CALM, _hide_unowned),
)
