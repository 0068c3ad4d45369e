"""Why an intent is not carried out. In every case nothing was changed."""

from dragonfly.model.machine import Locked
from dragonfly.model.values import FieldError


class Refused(Exception):
    """An intent that cannot be carried out as things stand; the message is for people and says what to do.

    `errors` names the fields of the request that are to blame, if any are.
    """

    def __init__(self, message: str, errors: tuple[FieldError, ...] = ()) -> None:
        super().__init__(message)
        self.errors = errors


class NotFound(Refused):
    """There is no such resource."""

    def __init__(self, kind: str, name: str) -> None:
        super().__init__(f"There is no {kind.lower()} {name}.")


class AlreadyExists(Refused):
    """The name is taken."""

    def __init__(self, kind: str, name: str) -> None:
        super().__init__(f"{kind} {name} exists already. Change it with PUT or PATCH, or choose another name.")


class Changed(Refused):
    """The resource is no longer the one that `If-Match` names."""

    def __init__(self, kind: str, name: str, revision: int) -> None:
        super().__init__(f"{kind} {name} is now at revision {revision}. Read it again and repeat the change on that.")
        self.revision = revision


class ClusterInUse(Refused):
    """A cluster with machines in it cannot be removed: nobody could tell any more what becomes of them."""

    def __init__(self, name: str, machines: list[str]) -> None:
        few = ", ".join(machines[:3]) + (f" and {len(machines) - 3} more" if len(machines) > 3 else "")
        noun = "machine" if len(machines) == 1 else "machines"
        super().__init__(
            f"Cluster {name} has {len(machines)} {noun}: {few}. Delete them first; where the cluster is gone for good, "
            "with force=true."
        )


class OwnCluster(Refused):
    """`local` belongs to the replicas."""

    def __init__(self) -> None:
        super().__init__("Cluster local is what each replica was started with, so it cannot be removed.")


class ClusterRegistered(Refused):
    """Another cluster leads to the same namespace of the same API server: two of them would drive the same objects."""

    def __init__(self, other: str, namespace: str, server: str) -> None:
        where = f" ({server})" if server else ", which is what the replicas were started with"
        advice = "Use that one" if not server else f"Use that one, change it with PATCH /api/v1/clusters/{other}"
        super().__init__(
            f"Cluster {other} leads to namespace {namespace} of the same API server already{where}. "
            f"{advice}, or name another namespace."
        )
        self.cluster = other


class ClusterClosed(Refused):
    """The cluster is being removed."""

    def __init__(self, name: str) -> None:
        super().__init__(f"Cluster {name} is being removed, so no machine may come into it. Choose another one.")


class ClusterUnreachable(Refused):
    """No replica reaches the cluster now."""

    def __init__(self, name: str, reason: str, advice: str) -> None:
        super().__init__(f"No replica reaches cluster {name}{f' ({reason})' if reason else ''}. {advice}")


class MacInUse(Refused):
    """A MAC belongs to another machine; one field error for each."""


class UnknownTemplate(Refused):
    """A provision asks for a template that does not exist."""


class MachineLocked(Refused):
    """P3: nothing touches a locked machine."""

    def __init__(self, machine: str, locked: Locked) -> None:
        super().__init__(
            f"Machine {machine} is locked by {locked.by} since {locked.at:%Y-%m-%dT%H:%M:%SZ}: {locked.reason}. "
            f"Unlock it first (POST /api/v1/machines/{machine}/unlock)."
        )
        self.locked = locked


class MachineDeleting(Refused):
    """The machine is being deleted; only that can go on."""

    def __init__(self, machine: str) -> None:
        super().__init__(f"Machine {machine} is being deleted. Wait until it is gone, then create it anew.")


class MachineMoving(Refused):
    """The machine is on its way to another cluster."""

    def __init__(self, machine: str, to: str) -> None:
        super().__init__(
            f"Machine {machine} is being moved to cluster {to}. Wait until it is there, or take the move back by "
            "moving it to the cluster that it is in."
        )


class MachineInMaintenance(Refused):
    """The machine is out of service."""

    def __init__(self, machine: str, reason: str) -> None:
        super().__init__(f"Machine {machine} is in maintenance: {reason}. Remove spec.maintenance first.")


class ProvisionActive(Refused):
    """The machine has a running provision, which what was asked for would disturb."""

    def __init__(self, machine: str, provision: str) -> None:
        super().__init__(
            f"Machine {machine} is being provisioned by {provision}. Wait for its end, or cancel it "
            f"(POST /api/v1/provisions/{provision}/cancel)."
        )
        self.provision = provision


class PowerBusy(Refused):
    """The machine has a power action under way, which what was asked for would meet."""

    def __init__(self, machine: str, action: str) -> None:
        super().__init__(f"Machine {machine} has a power action under way: {action}. Wait for its end, then try again.")


class NoBmc(Refused):
    """Nothing can switch the machine."""

    def __init__(self, machine: str) -> None:
        super().__init__(f"Machine {machine} has no BMC, so nothing can switch it. Set spec.bmc first.")


class NotProvisioning(Refused):
    """There is nothing to cancel."""

    def __init__(self, machine: str) -> None:
        super().__init__(f"Nothing is being provisioned on machine {machine}.")


class ProvisionEnded(Refused):
    """A provision that has its result cannot be cancelled."""

    def __init__(self, provision: str, phase: str) -> None:
        super().__init__(f"Provision {provision} has ended already: {phase}.")
        self.phase = phase


class KeyReused(Refused):
    """The Idempotency-Key came with another request before."""

    def __init__(self, key: str) -> None:
        super().__init__(f"Idempotency-Key {key} was used for another request within the last 24 hours. Use a new key.")


class Contended(Refused):
    """Others changed the same things again and again; worth another try."""

    def __init__(self) -> None:
        super().__init__("Others are changing the same resource at this moment. Try again.")


class Unreadable(Refused):
    """What etcd holds at a key is not what this version stores there."""

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(f"The stored value of {key} cannot be read: {reason}.")
