"""The promises P1 to P10 as checks of what really happened at the servers, made the moment that it happens.

The checker sees every transaction, every Kubernetes write, every request when it is sent, and every action that an
agent was handed. It believes no replica: who owns a shard is what the claim in etcd says at that instant.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from dragonfly.kube.resources import BMC_JOB, BMC_MACHINE, BMC_TASK, HARDWARE, TEMPLATE, WORKFLOW, Object, Ref, ref_of
from dragonfly.kube.tinkerbell import MACHINE, PROVISION
from dragonfly.model.machine import InstalledOs, Machine, Observed
from dragonfly.model.power import PowerRequest
from dragonfly.model.provision import TRANSITIONS, Provision, seen_armed, workflow_name
from dragonfly.model.values import LOCAL
from dragonfly.store import keys, records
from dragonfly.store.values import Batch, Put
from dragonfly.store.values import Write as EtcdWrite
from dragonfly.swarm.shards import ShardId, shard_of, shards_of
from tests.netboot import allows_netboot
from tests.simulation.apiserver import Write, epoch_of
from tests.simulation.etcd import EtcdServer
from tests.simulation.history import BrokenPromise, History, Lazily, Violation
from tests.simulation.loop import Process, SimLoop
from tests.simulation.powercheck import PowerChecker, PowerExcuses
from tests.simulation.replica import LIMITS
from tests.simulation.rufio import Ran
from tests.simulation.shadow import Shadow
from tests.simulation.tinkerbell import BY as TINKERBELL
from tests.simulation.tinkerbell import Fate, Served

PERSON = "person"
"""Who writes to Kubernetes by hand."""


class Excuses(NamedTuple):
    """What in the world may fail a provision (P7), as it came about."""

    locked: set[str]
    """Machines that somebody tried to lock."""
    deleted_by_hand: set[str]
    """Workflows and Jobs that somebody deleted by hand, or a replica that took itself for their owner."""
    clock_jumped: list[float]
    broken_bmcs: set[str]
    rewound: set[str]
    """Workflows, Jobs and other objects that a restored backup had in another state, or not at all."""


class Checker:
    """Watches one history."""

    def __init__(self, loop: SimLoop, history: History, etcd: EtcdServer, shards: int) -> None:
        self._loop = loop
        self._history = history
        self._etcd = etcd
        self._shards = shards
        self.is_off = False
        """What happens while a finished world is taken down proves nothing."""
        self.fates: dict[str, Fate] = {}
        self.excuses = Excuses(set(), set(), [], set(), set())
        self.accepted: set[str] = set()
        """Provisions that the API answered with 2xx."""
        self.provisions: dict[str, Provision] = {}
        self.machines: dict[str, Machine] = {}
        self.power = PowerChecker(etcd, self.machines, PowerExcuses(*self.excuses), self.broken)
        self._left_behind: set[Ref] = set()
        """What a late request made for a machine after its owner had looked for the last time, to delete it. Nothing
        but a look at the machine's record at the moment of the write could prevent that, and a create has no earlier
        epoch for a policy to compare; whoever swept it could not tell it from what is another swarm's."""
        self._looked_for: set[Ref] = set()
        self._locked_at: dict[str, float] = {}
        """When each machine that is locked was, as etcd has it."""
        self._cancelled_at: dict[str, float] = {}
        """When each provision that is cancelled was."""
        self.unowned_since: dict[ShardId, float] = {ShardId(LOCAL, shard): 0.0 for shard in range(shards)}
        self._installed: dict[str, InstalledOs | None] = {}
        self._claimed_by: dict[int, Process] = {}
        self._armed: dict[str, str] = {}
        self._served: dict[str, str] = {}
        self._mirrors: dict[str, Shadow] = {}

    def broken(self, promise: str, words: str) -> None:
        violation = Violation(promise, self._loop.time(), words)
        if self.is_off:
            return
        self._history.note(self._loop.time(), "checker", "BROKEN", violation.promise, words)
        self._loop.fatal = BrokenPromise(violation)
        raise self._loop.fatal

    # etcd.

    def committed(self, part: str, process: Process, revision: int, writes: Sequence[EtcdWrite]) -> None:
        who = process.name
        for write in writes:
            self._history.note(self._loop.time(), who, f"etcd {part}", Lazily(_summary, write), revision)
            if isinstance(write, Put) and part == "swarm" and keys.claim_in(write.key):
                self._claimed_by[revision] = process
            self._check_write(part, process, write)

    def changed(self, batch: Batch) -> None:
        """Any change of etcd's keys, the end of leases among them."""
        now = self._loop.time()
        for change in batch.changes:
            if place := keys.claim_in(change.key):
                shard = ShardId(*place)
                if change.item is None:
                    self.unowned_since[shard] = now
                    self._history.note(now, "etcd", "unowned", shard.shard)
                else:
                    self.unowned_since.pop(shard, None)
            elif change.item is None and (name := keys.name_in(change.key, keys.MACHINES)):
                self._check_machine_gone(name)

    def _check_write(self, part: str, process: Process, write: EtcdWrite) -> None:
        if part == "controller":
            self._check_claim("P4", process, self._shard_of_key(write.key), f"wrote {write.key}")
        if not isinstance(write, Put):
            return
        record = records.decode(write.key, write.value)
        if isinstance(record, Provision):
            self._check_provision(record)
        elif isinstance(record, Machine):
            self.machines[record.name] = record
            if record.spec.locked is None:
                self._locked_at.pop(record.name, None)
            else:
                self._locked_at.setdefault(record.name, self._loop.time())
        elif isinstance(record, PowerRequest):
            self.power.recorded(record)
        elif isinstance(record, Observed):
            self.power.told(record.last_power_action)
            self._check_latch(write.key.removeprefix(keys.OBSERVED), record)

    def _check_provision(self, new: Provision) -> None:
        old = self.provisions.get(new.name)
        machine = self.machines[new.spec.machine]
        if old is None:
            if machine.spec.locked is not None:
                self.broken("P3", f"{new.name} was accepted while {machine.name} was locked")
        elif old.ended:
            self.broken("P1", f"{new.name} was changed after it had ended as {old.status.phase}")
        elif new.status.phase not in TRANSITIONS[old.status.phase]:
            self.broken("P1", f"{new.name} went from {old.status.phase} to {new.status.phase}")
        if new.arming is not None and (old is None or seen_armed(old).arming != seen_armed(new).arming):
            self._check_arming_record(new, old, machine)
        self.provisions[new.name] = new
        if new.status.cancel is not None:
            self._cancelled_at.setdefault(new.name, self._loop.time())
        if new.ended:
            self._check_reason(new)

    def _check_arming_record(self, new: Provision, old: Provision | None, machine: Machine) -> None:
        if machine.spec.locked is not None:
            self.broken("P3", f"arming of {new.name} was recorded after {machine.name} had been locked")
        if old is not None and old.arming is not None and old.arming.uid != (new.arming and new.arming.uid):
            self.broken("P1", f"{new.name} is to be armed a second time, as another Workflow")
        if old is not None and (old.status.cancel is not None or old.ended):
            self.broken("P1", f"arming of {new.name} was recorded after it had been cancelled")

    def _check_latch(self, machine: str, observed: Observed) -> None:
        """What counts as installed is what a provision that succeeded has put there, until another one begins."""
        before, now, last = self._installed.get(machine), observed.os, observed.last_provision
        if last is not None and last.phase != "Succeeded" and last.name in self._served and now is not None:
            self.broken("P2", f"{machine} counts as installed by {now.provision}, and {last.name} has run since")
        if now == before:
            return
        if now is None:
            # Of an armed Workflow that is no longer there nobody can say whether it ran.
            if last is None or self.provisions[last.name].arming is None:
                self.broken("P2", f"{machine} no longer counts as installed, and nothing can have run on it")
        elif self.provisions[now.provision].status.phase != "Succeeded":
            self.broken("P2", f"{machine} counts as installed by {now.provision}, which did not succeed")
        self._installed[machine] = now

    def _check_reason(self, provision: Provision) -> None:
        """P7: what fails a provision is in the world, never in the swarm."""
        status = provision.status
        if status.error is None:
            return
        machine = provision.spec.machine
        agent = self.machines[machine].agent_id
        fate, reason = self.fates.get(agent, Fate()), status.error.reason
        late, workflow = bool(self.excuses.clock_jumped), workflow_name(provision.name)
        allowed = {
            "Cancelled": status.cancel is not None,
            "MachineLocked": machine in self.excuses.locked,
            "WorkflowGone": workflow in self.excuses.deleted_by_hand | self.excuses.rewound,
            "WorkflowRewound": workflow in self.excuses.rewound,
            "ActionFailed": bool(fate.fails_at),
            "TemplateRenderingFailed": fate.cannot_render,
            "MachineSilent": fate.is_silent or late,
            "NotPrepared": late,
            "Overran": late,
        }
        if not allowed.get(reason, False):
            self.broken("P7", f"{provision.name} is {status.phase}: {reason}: {status.error.message}")

    def _check_machine_gone(self, name: str) -> None:
        machine = self.machines.get(name)
        if machine is not None and (machine.spec.locked is not None or machine.deleting_since is None):
            self.broken("P3", f"{name} was removed though it was locked or nobody had asked for it")
        self._installed.pop(name, None)

    # Kubernetes.

    def sent(self, process: Process, verb: str, what: Ref | Object) -> None:
        """P4, P10: whoever sends a write owns the shard at that instant, by the claim in etcd itself.

        The lease rule makes that certain: a replica stops acting before its lease can have ended, and it releases a
        shard only when nothing of it is under way. Who is deluded about its lease must be stopped by what comes after.
        """
        ref = what if isinstance(what, Ref) else ref_of(what)
        self._history.note(self._loop.time(), process.name, f"send {verb}", ref)
        machine = self._machine_of(ref, what)
        if process.is_deluded:
            if verb == "delete":
                # It carries no epoch. No machine is at work on it (`_check_removal`); whose it was is told so (P7).
                self.excuses.deleted_by_hand.add(ref.name)
        elif machine:
            shard = ShardId(LOCAL, shard_of(machine, self._shards))
            self._check_claim("P10", process, shard, f"sent {verb} of {ref}")
        if verb == "arm":
            self._check_arming_sent(process, ref, machine)

    def _check_arming_sent(self, process: Process, ref: Ref, machine: str) -> None:
        """P3: what etcd had when the arming was recorded is believed for a moment, not for as long as tries take."""
        provision = next((name for name in self._cancelled_at if workflow_name(name) == ref.name), "")
        stands = {
            f"{machine} was locked": self._locked_at.get(machine),
            f"{provision} was cancelled": self._cancelled_at.get(provision),
        }
        for words, since in stands.items():
            if since is not None and (late := self._loop.time() - since) > LIMITS.vouched:
                self.broken("P3", f"{process.name} sent the arming of {ref.name} {late:.3f} s after {words}")

    def written(self, write: Write) -> None:
        resource, _, name = write.key
        now = self._loop.time()
        self._history.note(now, write.by, f"kube {write.verb}", resource.kind, name, Lazily(_told, write))
        if write.by in {TINKERBELL, PERSON}:
            return
        if write.before is not None and write.after is not None and write.verb != "status":
            was, is_ = epoch_of(write.before), epoch_of(write.after)
            if is_ < was:
                self.broken("P4", f"{write.by} wrote {name} under epoch {is_} over what epoch {was} had written")
        if write.after is not None and write.verb != "status":
            self._check_epoch(write.by, epoch_of(write.after), name)
        if resource == WORKFLOW:
            self._check_workflow(write)
        is_twin = resource in {HARDWARE, BMC_MACHINE} and write.before is None
        if is_twin and (write.key in self._looked_for or self._etcd.item(keys.machine(name)) is None):
            self._left_behind.add(write.key)

    def _check_epoch(self, by: str, epoch: int, name: str) -> None:
        """P4: whoever writes an object leaves its own epoch there, and never a predecessor's."""
        owner = self._claimed_by.get(epoch)
        if owner is None or owner.name != by:
            whose = f"{owner.name}'s" if owner else "nobody's"
            self.broken("P4", f"{by} wrote {name} and left epoch {epoch} there, which is {whose}")

    def looked(self, ref: Ref) -> None:
        """A replica asks for an object: of a machine that is being deleted, whatever is there must go.

        One that asks late, of a machine that is gone by now, may delete nothing any more.
        """
        machine = self.machines.get(ref.name)
        is_there = self._etcd.item(keys.machine(ref.name)) is not None
        if machine is not None and machine.deleting_since is not None and is_there:
            self._looked_for.add(ref)
            self._left_behind.discard(ref)

    def _check_workflow(self, write: Write) -> None:
        obj = write.after or write.before
        assert obj is not None
        name, provision = obj["metadata"]["name"], obj["metadata"]["labels"][PROVISION]
        if name != workflow_name(provision):
            self.broken("P1", f"Workflow {name} is not the one of {provision}")
        if write.verb == "create" and not obj["spec"]["disabled"]:
            self.broken("P1", f"Workflow {name} was created ready to run")
        if write.verb == "delete":
            self._check_removal(name, provision, obj)
        if write.before is not None and write.after is not None:
            was, is_ = write.before["spec"]["disabled"], write.after["spec"]["disabled"]
            if was and not is_:
                self._check_armed(name, provision, write.after["metadata"]["uid"])

    def _check_removal(self, name: str, provision: str, obj: Object) -> None:
        status = obj.get("status", {})
        runs = status.get("currentState") and status.get("agentID") and not _is_over(status)
        known = self.provisions.get(provision)
        if runs and (known is None or not known.ended):
            self.broken("P7", f"Workflow {name} was removed while its machine was at work")

    def _check_armed(self, name: str, provision: str, uid: str) -> None:
        known = self.provisions.get(provision)
        if known is None:
            self.broken("P2", f"Workflow {name} was armed, and nobody has asked for {provision}")
            return
        if provision in self._armed:
            self.broken("P1", f"{provision} was armed twice: {self._armed[provision]}, {uid}")
        self._armed[provision] = uid
        if known.ended:
            self.broken("P1", f"{provision} was armed after it had ended as {known.status.phase}")
        if known.arming is None or known.arming.uid != uid:
            self.broken("P1", f"{provision} was armed without a record of that: {known.arming}")

    # The cluster as a whole.

    def claimed_by(self, epoch: int) -> Process | None:
        return self._claimed_by.get(epoch)

    def is_told(self) -> bool:
        """Whether etcd knows of every machine that has begun that its Workflow was armed.

        A cluster that is put back to before that, in the moment before anybody wrote it down, shows nothing of it.
        """
        running = [self.provisions[name] for name in self._served]
        return all(found.ended or (found.arming is not None and found.arming.armed) for found in running)

    def restored(self, before: Mapping[Ref, Object], after: Mapping[Ref, Object]) -> None:
        """The cluster has come back from a backup."""
        changed = {ref for ref in before.keys() | after.keys() if before.get(ref) is not after.get(ref)}
        self.excuses.rewound.update(ref.name for ref in changed)
        self._left_behind.update(ref for ref in changed & after.keys() if self._is_past_looking(ref))
        for name in [name for name in self._armed if name not in self._served]:
            # What no machine was given and nobody has written down yet is armed for the first time.
            known, found = self.provisions[name], _named(after, workflow_name(name))
            is_noted = known.ended or (known.arming is not None and known.arming.armed)
            if not is_noted and found is not None and found["spec"]["disabled"]:
                del self._armed[name]

    def _is_past_looking(self, ref: Ref) -> bool:
        """Whether it is of a machine that was deleted: nobody could tell it from what is another swarm's."""
        is_twin = ref.resource in {HARDWARE, BMC_MACHINE}
        return is_twin and (ref in self._looked_for or self._etcd.item(keys.machine(ref.name)) is None)

    # Machines.

    def served(self, served: Served) -> None:
        self._history.note(served.at, served.agent, "serves", served.workflow, served.action)
        provision = next((p for p in self.provisions.values() if workflow_name(p.name) == served.workflow), None)
        if provision is None:
            self.broken("P2", f"{served.agent} runs {served.workflow}, and nobody has asked for it")
            return
        first = self._served.setdefault(provision.name, served.uid)
        if first != served.uid:
            self.broken("P1", f"{provision.name} runs twice: as {first} and as {served.uid}")
        if provision.arming is None or provision.arming.uid != served.uid:
            self.broken("P1", f"{provision.name} runs, and its arming was not recorded")
        if provision.ended:
            self.broken("P1", f"{provision.name} runs on after it ended as {provision.status.phase}")
        if any(action.name == served.action and action.state == "Succeeded" for action in provision.status.actions):
            self.broken("P1", f"{provision.name} begins {served.action} again, which had succeeded")

    def ran(self, ran: Ran) -> None:
        self._history.note(ran.at, "rufio", "runs", ran.task)
        self.power.ran(ran)

    # The end.

    def unfinished(self, kube_objects: Sequence[Object]) -> str:
        """What is not as it must be some time after the faults have ended, or nothing."""
        for provision in self.provisions.values():
            if not provision.ended:
                return f"P5: {provision.name} is still {provision.status.phase}"
        for shard in self.unowned_since:
            return f"P6: shard {shard.shard} has no owner"
        return self.power.unfinished(kube_objects) or self._unfinished_objects(kube_objects)

    def _unfinished_objects(self, kube_objects: Sequence[Object]) -> str:
        hardware = {obj["metadata"]["name"]: obj for obj in kube_objects if obj["kind"] == HARDWARE.kind}
        for name, obj in hardware.items():
            if ref_of(obj) in self._left_behind and self._etcd.item(keys.machine(name)) is None:
                continue
            if allows_netboot(obj):
                return f"P2: netboot of {name} is open"
            if self._etcd.item(keys.machine(name)) is None:
                return f"P2: Hardware of {name} is there, and the machine is not"
        for obj in kube_objects:
            name = obj["metadata"]["name"]
            is_gone = obj["kind"] == BMC_MACHINE.kind and self._etcd.item(keys.machine(name)) is None
            if is_gone and ref_of(obj) not in self._left_behind:
                return f"P2: the bmc Machine of {name} is there, and the machine is not"
        for obj in kube_objects:
            if obj["kind"] == WORKFLOW.kind and (words := self._left_over(obj)):
                return words
        for name, machine in self.machines.items():
            if self._etcd.item(keys.machine(name)) is None:
                continue
            if machine.deleting_since is not None or name not in hardware:
                return f"P5: {name} is still being deleted, or has no Hardware"
        return ""

    def held_by(self, replicas: Collection[str]) -> str:
        """What of the shards is still with one of these, which others come before."""
        for shard in shards_of(LOCAL, self._shards):
            item = self._etcd.item(keys.claim(*shard))
            owner = self._claimed_by.get(item.create_revision) if item else None
            if owner is not None and owner.name in replicas:
                return f"P6: shard {shard.shard} is with {owner.name}, and the cluster prefers another site"
        return ""

    def finish(self) -> None:
        """P5: what was accepted is there."""
        lost = [name for name in sorted(self.accepted) if name not in self.provisions] + self.power.lost()
        if lost:
            self.broken("P5", f"accepted and lost: {lost}")

    def check_mirror(self, process: Process, mirror: Any) -> None:
        """P9: a mirror never goes back, and holds exactly what etcd held at its revision."""
        shadow = self._mirrors.setdefault(f"{process.name}/{id(process)}", Shadow(self._etcd))
        if words := shadow.differs(mirror):
            self.broken("P9", f"{process.name}: {words}")

    def _left_over(self, obj: Object) -> str:
        name, status = obj["metadata"]["name"], obj.get("status", {})
        machine = obj["metadata"].get("labels", {}).get(MACHINE, "")
        if self._etcd.item(keys.machine(machine)) is None:
            return ""
        if obj["spec"].get("disabled") and not status.get("state"):
            return f"P1: staged Workflow {name} was not swept"
        if status.get("agentID") and not _is_over(status):
            return f"P1: Workflow {name} still runs"
        return ""

    def _check_claim(self, promise: str, process: Process, shard: ShardId | None, words: str) -> None:
        if shard is None:
            return
        item = self._etcd.item(keys.claim(*shard))
        owner = self._claimed_by.get(item.create_revision) if item else None
        if owner is not process:
            whose = f"{owner.name}'s" if owner else "nobody's"
            self.broken(promise, f"{process.name} {words}, and shard {shard.shard} is {whose}")

    def _shard_of_key(self, key: str) -> ShardId | None:
        kind, _, rest = key.partition("/")
        if kind not in {"machines", "provisions", "active", "observed", "power"}:
            return None
        return ShardId(LOCAL, shard_of(rest.partition("/")[0], self._shards))

    def _machine_of(self, ref: Ref, what: Ref | Object) -> str:
        if ref.resource == TEMPLATE:
            return ""
        if ref.resource in {BMC_JOB, BMC_TASK}:
            request = self.power.request_of(ref.name.partition("-task-")[0])
            return request.machine if request else ""
        if ref.resource != WORKFLOW:
            return ref.name
        if not isinstance(what, Ref):
            return str(what["metadata"]["labels"][MACHINE])
        provision = next((p for p in self.provisions.values() if workflow_name(p.name) == ref.name), None)
        return provision.spec.machine if provision else ""


def _named(objects: Mapping[Ref, Object], workflow: str) -> Object | None:
    return next((obj for ref, obj in objects.items() if ref.resource == WORKFLOW and ref.name == workflow), None)


def _is_over(status: Object) -> bool:
    return status.get("state") in {"SUCCESS", "FAILED", "TIMEOUT"}


def _summary(write: EtcdWrite) -> str:
    if not isinstance(write, Put):
        return f"-{write.key}"
    record = records.decode(write.key, write.value)
    if isinstance(record, Provision):
        marks: list[str] = [record.status.phase]
        marks += [f"arming={record.arming.uid}/{record.arming.resource_version}"] if record.arming else []
        marks += [f"stopping={record.stopping.phase}"] if record.stopping else []
        marks += ["cancel"] if record.status.cancel else []
        return f"+{write.key} {' '.join(marks)}"
    return f"+{write.key}"


def _told(write: Write) -> str:
    obj = write.after or write.before
    assert obj is not None
    metadata, status = obj["metadata"], obj.get("status", {})
    parts = [f"rv={metadata['resourceVersion']}", f"uid={metadata['uid']}", f"epoch={epoch_of(obj)}"]
    if obj["kind"] == WORKFLOW.kind:
        parts += [f"disabled={obj['spec'].get('disabled')}", f"state={status.get('state', '')!r}"]
        parts += [f"agent={status.get('agentID', '')!r}"]
    if obj["kind"] == HARDWARE.kind:
        parts.append(f"netboot={allows_netboot(obj)}")
    return " ".join(parts)
