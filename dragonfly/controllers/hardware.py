"""The hardware loop: Hardware, BMC and its Secret are what the machine says, or the machine says why not.

An object of the same name that is not Dragonfly's is never taken over; a foreign edit of Dragonfly's fields is undone.
"""

from collections.abc import Callable
from typing import NamedTuple

import structlog

from dragonfly.controllers.fence import Fence, precondition_of
from dragonfly.controllers.twins import Copy, Twins
from dragonfly.kube import bmc, tinkerbell
from dragonfly.kube.errors import Conflict, NotFound
from dragonfly.kube.events import Note, Subject
from dragonfly.kube.resources import BMC_MACHINE, HARDWARE, SECRET, Object, Ref
from dragonfly.model.machine import Machine
from dragonfly.store.seal import Unsealable

_log = structlog.get_logger(__name__)


class Blocked(Exception):
    """The machine cannot be brought to what it should be until a person acts; the message says what to do."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


class Wanted(NamedTuple):
    """An object that should be, the copy that shows what is, and where it lives."""

    obj: Object
    copy: Copy
    ref: Ref


class _Compared(NamedTuple):
    """What a comparison was made of, and its outcome: what changes is replaced, so the very same need no second one."""

    machine: Machine
    netboot_for: str
    found: tuple[Object | None, Object | None]
    ready: bool

    def is_of(self, machine: Machine, netboot_for: str, found: tuple[Object | None, Object | None]) -> bool:
        is_same = all(one is other for one, other in zip(self.found, found, strict=True))
        return is_same and self.machine is machine and self.netboot_for == netboot_for


class HardwareLoop:
    """Brings one cluster's Hardware to what the machines say."""

    def __init__(
        self,
        twins: Twins,
        namespace: str,
        unseal: Callable[[Machine], str],
        note: Callable[[Note], None] = lambda _: None,
    ) -> None:
        """Make it.

        Args:
            twins: what is in the cluster.
            namespace: Tinkerbell's.
            unseal: returns a machine's BMC password; raises Unsealable.
            note: takes what a kubectl user should see.
        """
        self._twins = twins
        self._namespace = namespace
        self._unseal = unseal
        self._note = note
        self._compared: dict[str, _Compared] = {}

    def ready(self, machine: Machine, *, netboot_for: str) -> bool:
        """Whether everything is as it should be, as far as this replica has seen.

        Args:
            machine: whose twins are looked at.
            netboot_for: the provision for which it may boot from the network; empty if it may not.
        """
        name, twins = machine.name, self._twins
        found = twins.hardware.store.get(name), twins.bmcs.store.get(name)
        last = self._compared.get(name)
        if last is not None and last.is_of(machine, netboot_for, found):
            return last.ready
        ready = not any(self._is_missing(wanted) for wanted in self._wanted(machine, netboot_for, epoch=0))
        self._compared[name] = _Compared(machine, netboot_for, found, ready)
        return ready

    def known(self, machine: Machine) -> bool:
        """Whether the machine has a Hardware of Dragonfly's, be it as it should be or not."""
        live = self._twins.hardware.store.get(machine.name)
        return live is not None and tinkerbell.is_managed(live)

    def last_opened_for(self, machine: Machine) -> str:
        """Return the provision for which netboot was last opened, by the cluster's own word; empty if never."""
        live = self._twins.hardware.store.get(machine.name)
        return tinkerbell.opened_for(live) if live is not None and tinkerbell.is_managed(live) else ""

    async def ensure(self, fence: Fence, machine: Machine, *, netboot_for: str) -> None:
        """Write what differs, Secret first and Hardware last; `netboot_for` as for `ready`.

        Raises:
            Blocked: an object of that name belongs to somebody else, or the BMC's password can't be opened.
        """
        for wanted in self._wanted(machine, netboot_for, epoch=fence.epoch):
            if not self._is_missing(wanted):
                continue
            live = wanted.copy.store.get(wanted.ref.name)
            if live is not None and not tinkerbell.is_managed(live):
                raise _foreign(wanted.ref)
            if wanted.ref.resource == BMC_MACHINE:
                await self.ensure_secret(fence, machine)
            if live is not None and tinkerbell.is_foreign_edit(wanted.obj, live):
                self._tell_repair(live)
            await self._write(fence, wanted, live)

    async def allows_netboot(self, fence: Fence, machine: Machine) -> bool:
        """Ask the API server whether the machine has a Hardware of Dragonfly's that lets it boot from the network."""
        live = await _found(fence, self._hardware_ref(machine.name))
        return live is not None and tinkerbell.is_managed(live) and tinkerbell.allows_netboot(live)

    async def close_netboot(self, fence: Fence, machine: Machine) -> None:
        """Let the machine boot from the network no more; a Hardware that is gone stays gone."""
        live = await _found(fence, self._hardware_ref(machine.name))
        if live is None or not tinkerbell.is_managed(live):
            return
        last = tinkerbell.opened_for(live)
        closed = tinkerbell.hardware(machine, self._namespace, netboot=False, epoch=fence.epoch, provision=last)
        self._twins.hardware.observe(await fence.apply(closed, given=precondition_of(live), force=True))

    def has_secret(self, machine: Machine) -> bool:
        return machine.spec.bmc is not None and bool(machine.sealed_password)

    async def ensure_secret(self, fence: Fence, machine: Machine) -> None:
        """Write the Secret of the machine's BMC, if it has one, unless the one in the cluster says the same.

        The API server is asked: Dragonfly follows no Secrets, for that would take the right to list them all.

        Raises:
            Blocked: a Secret of that name belongs to somebody else, or the password can't be opened.
        """
        if not self.has_secret(machine):
            return
        ref = self._secret_ref(machine.name)
        live = await _found(fence, ref)
        if live is not None and not tinkerbell.is_managed(live):
            raise _foreign(ref)
        secret = bmc.secret(machine, self._namespace, self._password(machine), epoch=fence.epoch)
        if live is not None and live.get("data", {}).items() >= secret["data"].items():
            return
        await fence.apply(secret, given=precondition_of(live) if live else None, force=live is not None)

    async def _write(self, fence: Fence, wanted: Wanted, live: Object | None) -> None:
        """Apply; on a conflict look at what is there, for the copy may be behind as long as its watch is silent."""
        given = precondition_of(live) if live else None
        try:
            written = await fence.apply(wanted.obj, given=given, force=live is not None)
        except Conflict:
            found = await _found(fence, wanted.ref)
            if found is not None:
                wanted.copy.observe(found)
            raise
        wanted.copy.observe(written)

    def _tell_repair(self, live: Object) -> None:
        message = (
            "Somebody changed fields that Dragonfly owns. They are set back; change the machine in Dragonfly instead."
        )
        self._note(Note(Subject.of(live), "Warning", "ForeignEdit", message))
        _log.warning("hardware.foreign_edit", name=live["metadata"]["name"])

    async def tidy(self, fence: Fence, machine: Machine) -> None:
        """Delete the BMC that the machine no longer has: Rufio would go on logging in to it."""
        if self._has_former_bmc(machine):
            await self._remove_bmc(fence, machine.name)

    async def remove(self, fence: Fence, machine: Machine) -> None:
        """Delete what `ensure` made; what is somebody else's stays.

        The API server is asked, not the copies: what one of them does not show yet would be left behind for good, for
        nobody looks after a machine that is gone.
        """
        self._compared.pop(machine.name, None)
        await _delete_ours(fence, self._hardware_ref(machine.name))
        if machine.spec.bmc is not None or self._has_former_bmc(machine):
            await self._remove_bmc(fence, machine.name)

    def _has_former_bmc(self, machine: Machine) -> bool:
        """Whether a BMC that the machine no longer has is still in the cluster."""
        live = self._twins.bmcs.store.get(machine.name)
        return machine.spec.bmc is None and live is not None and tinkerbell.is_managed(live)

    async def _remove_bmc(self, fence: Fence, machine: str) -> None:
        """Delete the Secret before the Machine, which is what tells that there may be one."""
        await _delete_ours(fence, self._secret_ref(machine))
        await _delete_ours(fence, Ref(BMC_MACHINE, self._namespace, machine))

    def _password(self, machine: Machine) -> str:
        try:
            return self._unseal(machine)
        except Unsealable as error:
            message = (
                f"The password of the machine's BMC can't be opened: {error}. Give every replica the swarm's secret "
                "key file and start it again, or set the password anew."
            )
            raise Blocked("SecretUnsealable", message) from error

    def _hardware_ref(self, machine: str) -> Ref:
        return Ref(HARDWARE, self._namespace, machine)

    def _secret_ref(self, machine: str) -> Ref:
        return Ref(SECRET, self._namespace, bmc.secret_name(machine))

    def _wanted(self, machine: Machine, netboot_for: str, *, epoch: int) -> list[Wanted]:
        wanted = []
        if machine.spec.bmc is not None:
            obj = bmc.bmc_machine(machine, self._namespace, epoch=epoch)
            wanted.append(Wanted(obj, self._twins.bmcs, Ref(BMC_MACHINE, self._namespace, machine.name)))
        provision = netboot_for or self.last_opened_for(machine)
        netboot = bool(netboot_for)
        obj = tinkerbell.hardware(machine, self._namespace, netboot=netboot, epoch=epoch, provision=provision)
        wanted.append(Wanted(obj, self._twins.hardware, self._hardware_ref(machine.name)))
        return wanted

    def _is_missing(self, wanted: Wanted) -> bool:
        live = wanted.copy.store.get(wanted.ref.name)
        return live is None or tinkerbell.differs(wanted.obj, live)


async def _found(fence: Fence, ref: Ref) -> Object | None:
    try:
        return await fence.get(ref)
    except NotFound:
        return None


async def _delete_ours(fence: Fence, ref: Ref) -> None:
    live = await _found(fence, ref)
    if live is None or not tinkerbell.is_managed(live):
        return
    try:
        await fence.delete(ref, given=precondition_of(live))
    except NotFound:
        return


def _foreign(ref: Ref) -> Blocked:
    message = (
        f"{ref} exists and is not Dragonfly's, so it was not touched. Delete it there, give this machine another name, "
        f"or hand it over with the label {tinkerbell.MANAGED_BY}={tinkerbell.MANAGER}."
    )
    return Blocked("ForeignObject", message)
