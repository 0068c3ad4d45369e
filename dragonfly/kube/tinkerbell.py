"""Tinkerbell's objects, built from Dragonfly's resources and read back. Pure.

What is built is exactly what Dragonfly owns in server-side apply: it writes no field that it doesn't mean. Names,
labels and annotations let anybody with kubectl see what belongs to which machine and provision.
"""

import ipaddress
import json
from collections.abc import Mapping
from datetime import datetime
from hashlib import sha256
from typing import Any, Final, Literal, NamedTuple

from dragonfly.kube.compile import map_values, tinkerbell_yaml
from dragonfly.kube.resources import BMC_MACHINE, HARDWARE, TEMPLATE, WORKFLOW, Object
from dragonfly.model.machine import Interface, Machine
from dragonfly.model.provision import ActionProgress, ActionState, Provision, workflow_name
from dragonfly.model.template import TemplateSpec

MANAGED_BY: Final = "app.kubernetes.io/managed-by"
MANAGER: Final = "dragonfly"
MACHINE: Final = "dragonfly.io/machine"
PROVISION: Final = "dragonfly.io/provision"
EPOCH: Final = "dragonfly.io/epoch"
SPEC: Final = "dragonfly.io/spec"
"""Fingerprint of the spec that was applied: tells that a field must go, which comparing what should be there can't."""

WORKER: Final = "dragonfly_worker"
"""The hardwareMap entry that names the machine's agent in a compiled template."""

WorkflowState = Literal["", "PREPARING", "PENDING", "RUNNING", "POST", "SUCCESS", "FAILED", "TIMEOUT"]
TERMINAL: Final = frozenset({"SUCCESS", "FAILED", "TIMEOUT"})

_ACTION_STATES: Final[Mapping[str, ActionState]] = {
    "PENDING": "Pending",
    "RUNNING": "Running",
    "SUCCESS": "Succeeded",
    "FAILED": "Failed",
    "TIMEOUT": "TimedOut",
}


class WorkflowView(NamedTuple):
    """What a Workflow says, of what a decision needs."""

    name: str
    uid: str
    resource_version: str
    machine: str
    provision: str
    """Name of the provision that it belongs to; empty if it is not Dragonfly's."""
    staged: bool
    """Disabled and not begun: no agent is ever served it."""
    state: str
    agent_id: str
    served: bool
    """An agent was given an action: from here on something may run on the machine."""
    rendering_error: str
    """Tinkerbell's own words why the template could not be rendered; empty if it was, or not tried yet."""
    failure: str
    """Tinkerbell's own words for a failure outside of the actions; empty if it gave none."""
    current_action: str
    actions: tuple[ActionProgress, ...]
    agents: tuple[str, ...] = ()
    """Whom each task is for; known once it is rendered."""

    @property
    def terminal(self) -> bool:
        return self.state in TERMINAL

    @property
    def halted(self) -> bool:
        """An agent had it, and it was taken from it: nothing more of it is served, whatever its state says."""
        return self.served and not self.agent_id

    @property
    def under_way(self) -> bool:
        """The machine was given an action, and has not reported its end."""
        return any(
            action.name == self.current_action and action.state in {"Pending", "Running"} for action in self.actions
        )

    @property
    def done(self) -> int:
        """How many actions have succeeded."""
        return sum(action.state == "Succeeded" for action in self.actions)


def hardware(machine: Machine, namespace: str, *, netboot: bool, epoch: int, provision: str = "") -> Object:
    """Return the Hardware that `machine` should have. Only Dragonfly writes `allowPXE`: open while a provision runs.

    Args:
        machine: what people want of it.
        namespace: Tinkerbell's.
        netboot: whether it may boot from the network.
        epoch: that of the claim under which it is written.
        provision: the last one for which it might: here it outlives an etcd that is put back to an earlier state.
    """
    interfaces = [_hardware_interface(machine, interface, netboot) for interface in machine.spec.interfaces]
    spec: Object = {"agentID": machine.agent_id, "interfaces": interfaces}
    disks = [{"device": disk.device} for disk in machine.spec.disks if disk.device]
    if disks:
        spec["disks"] = disks
    if machine.spec.user_data:
        spec["userData"] = machine.spec.user_data
    instance: Object = {"id": machine.agent_id, "hostname": _hostname(machine)}
    if machine.spec.ssh_keys:
        instance["ssh_keys"] = list(machine.spec.ssh_keys)
    spec["metadata"] = {"instance": instance}
    if machine.spec.bmc:
        spec["bmcRef"] = {"apiGroup": BMC_MACHINE.group, "kind": BMC_MACHINE.kind, "name": machine.name}
    metadata = _metadata(machine.name, namespace, epoch, {MACHINE: machine.name})
    metadata["annotations"][SPEC] = fingerprint(spec)
    if provision:
        metadata["annotations"][PROVISION] = provision
    return {"apiVersion": HARDWARE.api_version, "kind": HARDWARE.kind, "metadata": metadata, "spec": spec}


def template_object(name: str, spec: TemplateSpec, namespace: str, *, epoch: int) -> Object:
    """Return the Template for one revision of a Dragonfly template; it never changes once it is there."""
    return {
        "apiVersion": TEMPLATE.api_version,
        "kind": TEMPLATE.kind,
        "metadata": _metadata(name, namespace, epoch, {}),
        "spec": {"data": compiled(name, spec)},
    }


def staged_workflow(
    provision: Provision, machine: Machine, template: TemplateSpec, namespace: str, *, epoch: int
) -> Object:
    """Return the provision's Workflow, disabled: tink-server serves no agent a disabled Workflow that has not begun."""
    spec: Object = {
        "disabled": True,
        "templateRef": template_name(provision.spec.template, provision.spec.template_revision),
        "hardwareRef": machine.name,
        "hardwareMap": hardware_map(machine, template, provision.spec.parameters),
    }
    if options := _boot_options(machine, template):
        spec["bootOptions"] = options
    return {
        "apiVersion": WORKFLOW.api_version,
        "kind": WORKFLOW.kind,
        "metadata": _metadata(
            workflow_name(provision.name),
            namespace,
            epoch,
            {MACHINE: machine.name, PROVISION: provision.name},
        ),
        "spec": spec,
    }


def template_name(name: str, revision: int) -> str:
    """Return the name of the Template object for a template at `revision`."""
    return f"{name}-r{revision}"


def halting(workflow: WorkflowView) -> Object:
    """Return the patch of its status after which no agent is served it, whatever its state becomes."""
    return {"status": {"state": workflow.state if workflow.terminal else "FAILED", "agentID": ""}}


def workflow_view(obj: Object) -> WorkflowView:
    """Read a Workflow. Conditions' polarity is unreliable in Tinkerbell 0.25, so `reason: Error` counts as failure."""
    metadata, status = obj["metadata"], obj.get("status", {})
    labels = metadata.get("labels", {})
    owned = labels.get(MANAGED_BY) == MANAGER
    current = status.get("currentState") or {}
    state = status.get("state", "")
    return WorkflowView(
        name=metadata["name"],
        uid=metadata["uid"],
        resource_version=metadata["resourceVersion"],
        machine=labels.get(MACHINE, ""),
        provision=labels.get(PROVISION, "") if owned else "",
        staged=is_staged(obj),
        state=state,
        agent_id=status.get("agentID", ""),
        served=bool(current),
        rendering_error=_rendering_error(status),
        failure=_failure(status),
        current_action=current.get("actionName", ""),
        actions=tuple(_action(action) for task in status.get("tasks", ()) for action in task.get("actions", ())),
        agents=tuple(task.get("agentID", "") for task in status.get("tasks", ())),
    )


def is_staged(workflow: Object) -> bool:
    """Whether a Workflow is disabled and has not begun."""
    return bool(workflow.get("spec", {}).get("disabled")) and not workflow.get("status", {}).get("state")


def differs(desired: Object, live: Object) -> bool:
    """Whether applying `desired` would change `live`; asked first because an apply that changes nothing costs as much.

    The epoch alone is no reason to write.
    """
    wanted, found = desired["metadata"], live["metadata"]
    annotations = {key: value for key, value in wanted["annotations"].items() if key != EPOCH}
    if not _covers(found.get("labels", {}), wanted["labels"]) or not _covers(found.get("annotations", {}), annotations):
        return True
    return not _covers(live.get("spec", {}), desired["spec"])


def fingerprint(spec: Object) -> str:
    return sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()[:16]


def is_foreign_edit(desired: Object, live: Object) -> bool:
    """Whether `live`, which differs, was once just as `desired`: then it was not Dragonfly that changed it."""
    wanted = desired["metadata"]["annotations"].get(SPEC)
    return wanted is not None and live["metadata"].get("annotations", {}).get(SPEC) == wanted


def allows_netboot(hardware: Object) -> bool:
    """Whether a Hardware lets its machine boot from the network, by any interface."""
    interfaces = hardware.get("spec", {}).get("interfaces", ())
    return any(interface.get("netboot", {}).get("allowPXE") for interface in interfaces)


def opened_for(hardware: Object) -> str:
    """Return the last provision for which its machine might boot from the network; empty if there was none."""
    return str(hardware["metadata"].get("annotations", {}).get(PROVISION, ""))


def is_managed(obj: Object) -> bool:
    return bool(obj["metadata"].get("labels", {}).get(MANAGED_BY) == MANAGER)


def compiled(name: str, spec: TemplateSpec) -> str:
    """Return the Tinkerbell template: the raw one as it is, or one made from `actions`."""
    return spec.raw or tinkerbell_yaml(name, spec, worker=WORKER)


def hardware_map(machine: Machine, spec: TemplateSpec, parameters: Mapping[str, Any]) -> dict[str, str]:
    """Return the values that the compiled template asks for, as Tinkerbell hands them to it."""
    values = map_values(spec, machine_values(machine), parameters)
    # Last, so that no parameter of a raw template can send the Workflow to another machine's agent.
    return values | {WORKER: machine.agent_id, "device_1": machine.agent_id}


def machine_values(machine: Machine) -> dict[str, str]:
    """Return what `{{ machine.… }}` stands for."""
    first = machine.spec.interfaces[0]
    return {
        "name": machine.name,
        "hostname": _hostname(machine),
        "mac": first.mac,
        "address": first.address,
        "ip": first.address.partition("/")[0],
        "gateway": first.gateway,
        "disk": next((disk.device for disk in machine.spec.disks if disk.device), ""),
        "arch": machine.spec.arch,
        "firmware": machine.spec.firmware,
        "userData": machine.spec.user_data,
    }


def _metadata(name: str, namespace: str, epoch: int, labels: Mapping[str, str]) -> Object:
    return {
        "name": name,
        "namespace": namespace,
        "labels": {MANAGED_BY: MANAGER, **labels},
        "annotations": {EPOCH: str(epoch)},
    }


def _boot_options(machine: Machine, template: TemplateSpec) -> Object:
    """Never `toggleAllowNetboot`: with it Tinkerbell takes over the Hardware's interfaces, and leaves netboot open."""
    boot = template.boot or machine.spec.boot
    if machine.spec.bmc is None or boot == "none":
        return {}
    if boot == "iso":
        return {"bootMode": "isoboot", "isoURL": machine.spec.iso_url}
    return {"bootMode": "netboot"}


def _hostname(machine: Machine) -> str:
    return machine.spec.hostname or machine.name


def _hardware_interface(machine: Machine, interface: Interface, netboot: bool) -> Object:
    dhcp: Object = {
        "mac": interface.mac,
        "hostname": _hostname(machine),
        "arch": machine.spec.arch,
        "uefi": machine.spec.firmware == "uefi",
    }
    if interface.address:
        dhcp["ip"] = _ip(interface)
    if interface.nameservers:
        dhcp["name_servers"] = list(interface.nameservers)
    if interface.vlan is not None:
        dhcp["vlan_id"] = str(interface.vlan)
    # The API server fills in disableDhcp, and lists are atomic: left out, every comparison would find a difference.
    return {"dhcp": dhcp, "disableDhcp": False, "netboot": {"allowPXE": netboot, "allowWorkflow": True}}


def _ip(interface: Interface) -> Object:
    address = ipaddress.ip_interface(interface.address)
    ip: Object = {"address": str(address.ip), "netmask": str(address.netmask), "family": address.version}
    if interface.gateway:
        ip["gateway"] = interface.gateway
    return ip


def _covers(live: Any, desired: Any) -> bool:
    """Whether `live` has all that `desired` says: maps by key, lists (atomic in Tinkerbell's types) as a whole."""
    if isinstance(desired, dict):
        return isinstance(live, dict) and all(_covers(live.get(key), value) for key, value in desired.items())
    equal: bool = live == desired
    return equal


def _rendering_error(status: Object) -> str:
    if status.get("templateRendering") != "failed":
        return ""
    for condition in status.get("conditions", ()):
        if condition.get("type") == "TemplateRenderedSuccess":
            return condition.get("message") or "the template could not be rendered"
    return "the template could not be rendered"


def _failure(status: Object) -> str:
    bad = [c for c in status.get("conditions", ()) if c.get("reason") == "Error" or c.get("type") == "BootJobFailed"]
    return "; ".join(f"{c.get('type')}: {c.get('message', '')}" for c in bad)


def _action(obj: Object) -> ActionProgress:
    started, finished = _time(obj.get("executionStart")), _time(obj.get("executionStop"))
    seconds = (finished - started).total_seconds() if started and finished else None
    state = _ACTION_STATES.get(obj.get("state", ""), "Pending")
    return ActionProgress(name=obj["name"], state=state, started_at=started, finished_at=finished, seconds=seconds)


def _time(text: str | None) -> datetime | None:
    # An agent that has not finished sends the zero time of Go or of protobuf.
    if not text or text.startswith(("0001-", "1970-01-01T00:00:00")):
        return None
    return datetime.fromisoformat(text)
