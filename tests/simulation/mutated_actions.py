"""Guards of what a replica does taken out: of its writes, of arming, of results, of what it answers."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from dragonfly.controllers import fence, power_steps, provisions, steps
from dragonfly.controllers.fence import Fence
from dragonfly.controllers.hardware import HardwareLoop
from dragonfly.controllers.leftovers import Leftovers
from dragonfly.controllers.power import PowerRun
from dragonfly.controllers.power_steps import AskForJob, CreateJob, PowerSeen, PowerStep, RecordJobArming
from dragonfly.controllers.provisions import ProvisionRun
from dragonfly.controllers.steps import AskForWorkflow, CreateWorkflow, RecordArming, Seen, Step
from dragonfly.intent import plan as plans
from dragonfly.intent import provisions as intents
from dragonfly.intent.idempotency import answered
from dragonfly.intent.plan import Done, Plan
from dragonfly.model.machine import InstalledOs
from dragonfly.model.power import JobArming
from dragonfly.model.provision import Arming, CancelRequest, Problem, Provision
from dragonfly.store import keys, records
from dragonfly.store.errors import Unavailable
from dragonfly.store.values import Absent, Claimed, Put, Unchanged
from tests.simulation import apiserver, replica, users


def commit_without_claim(patch: pytest.MonkeyPatch) -> None:
    async def commit(self: Any, *writes: Any, given: Any) -> int:
        self.check()
        return int(await self._store.commit(*writes, given=given))

    patch.setattr(Fence, "commit", commit)


def commit_whatever_is_there(patch: pytest.MonkeyPatch) -> None:
    async def commit(self: Any, *writes: Any, given: Any) -> int:
        del given
        self.check()
        return int(await self._store.commit(*writes, given=[Claimed(keys.claim(*self._shard), self.epoch)]))

    patch.setattr(Fence, "commit", commit)


def write_without_version(patch: pytest.MonkeyPatch) -> None:
    async def delete(self: Any, ref: Any, *, given: Any) -> None:
        self.check()
        await self._kube.delete(ref)

    patch.setattr(fence, "_with_precondition", lambda obj, given: obj)
    patch.setattr(Fence, "delete", delete)


def patch_without_epoch(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(fence, "EPOCH", "dragonfly.io/something-else")


def compare_nothing(patch: pytest.MonkeyPatch) -> None:
    """Nothing that is applied or patched says what it was computed from."""
    patch.setattr(fence, "_with_precondition", lambda obj, given: obj)


def compare_nothing_without_policy(patch: pytest.MonkeyPatch) -> None:
    compare_nothing(patch)
    admit_lower_epochs(patch)


def admit_lower_epochs(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(apiserver, "refusal", lambda ref, before, after: None)


def replace_without_asking(patch: pytest.MonkeyPatch) -> None:
    async def stored_epoch(self: Any, ref: Any) -> int:
        return fence._epoch_of(await self._kube.get(ref))

    patch.setattr(Fence, "_epoch_of_another_history", stored_epoch)


def send_however_late(patch: pytest.MonkeyPatch) -> None:
    async def fenced(self: Any, write: Callable[[], Any], _still: Any = None) -> Any:
        self.check()
        return await write()

    patch.setattr(Fence, "_fenced", fenced)


def look_before_waiting_only(patch: pytest.MonkeyPatch) -> None:
    async def checked(self: Any, write: Callable[[], Any], _still: Any) -> Any:
        self.check()
        return await write()

    patch.setattr(Fence, "_checked", checked)


def apply_over_what_is_there(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(fence, "OF_NO_OBJECT", "")


def arm_without_record(patch: pytest.MonkeyPatch) -> None:
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


def arm_without_second_look(patch: pytest.MonkeyPatch) -> None:
    put = ProvisionRun._put

    async def put_alone(self: Any, provision: Provision, *_: Unchanged) -> None:
        await put(self, provision)

    patch.setattr(ProvisionRun, "_put", put_alone)


def believe_an_old_record(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ProvisionRun, "_is_vouched", lambda self: True)


def believe_an_old_record_of_a_job(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(PowerRun, "_is_vouched", lambda self: True)


def create_again(patch: pytest.MonkeyPatch) -> None:
    def gone(seen: Seen) -> Step:
        if not seen.asked:
            return AskForWorkflow()
        return CreateWorkflow() if seen.workflow is None else RecordArming(seen.workflow)

    patch.setattr(steps, "_gone", gone)


def create_job_again(patch: pytest.MonkeyPatch) -> None:
    def gone(seen: PowerSeen) -> PowerStep:
        if not seen.asked:
            return AskForJob()
        return CreateJob() if seen.job is None else RecordJobArming(seen.job)

    patch.setattr(power_steps, "_gone", gone)


def arm_job_without_record(patch: pytest.MonkeyPatch) -> None:
    async def record_arming(self: Any, job: Any) -> None:
        arming = JobArming(
            uid=job.uid, resource_version=job.resource_version, epoch=self._fence.epoch, at=self._place.now()
        )
        self._request = msgspec.structs.replace(self._request, phase="Running", arming=arming)
        self._vouched_at = self._place.monotonic()

    patch.setattr(PowerRun, "_record_arming", record_arming)


def forget_what_was_asked(patch: pytest.MonkeyPatch) -> None:
    """A retry under the same Idempotency-Key is another request."""
    patch.setattr(users, "answered", lambda decide, answer, once: answered(decide, answer, None))


def power_in_an_installation(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(intents, "check_powered_by_nobody", lambda facts, name: None)
    patch.setattr(intents, "Absent", lambda key: Unchanged("none", 0) if key.startswith(keys.POWER) else Absent(key))
    patch.setattr(power_steps, "_refusal", lambda seen, limits: None)


def remove_what_is_served(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(steps, "removable", lambda workflow: not workflow.terminal)


def result_is_no_latch(patch: pytest.MonkeyPatch) -> None:
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


def installed_whatever_came_out(patch: pytest.MonkeyPatch) -> None:
    def installed(provision: Provision, now: Any, *, before: Any) -> InstalledOs:
        spec = provision.spec
        return InstalledOs(
            template=spec.template, revision=spec.template_revision, installed_at=now, provision=provision.name
        )

    patch.setattr(provisions, "_installed", installed)


def leave_netboot_open(patch: pytest.MonkeyPatch) -> None:
    ready = HardwareLoop.ready
    patch.setattr(
        HardwareLoop,
        "ready",
        lambda self, machine, *, netboot_for: not netboot_for or ready(self, machine, netboot_for=netboot_for),
    )


def sweep_nothing(patch: pytest.MonkeyPatch) -> None:
    async def sweep(self: Any, fence: Any, machine: Any) -> list[str]:
        return []

    patch.setattr(Leftovers, "sweep", sweep)


def no_answer_is_a_yes(patch: pytest.MonkeyPatch) -> None:
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


def accept_for_locked(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(intents, "_check_may_be_provisioned", lambda facts, machine: None)
    patch.setattr(steps, "_begin", lambda seen, limits: steps.Start())


def fail_with_the_owner(patch: pytest.MonkeyPatch) -> None:
    run = ProvisionRun.run

    async def run_own(self: Any) -> float | None:
        arming = self._provision.arming
        if arming is not None and arming.epoch != self._fence.epoch and self._provision.stopping is None:
            await self._reject(Problem("OwnerChanged", "its owner has changed"))
        return await run(self)

    patch.setattr(ProvisionRun, "run", run_own)
