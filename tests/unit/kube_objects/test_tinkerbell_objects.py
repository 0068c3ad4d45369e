"""Hardware, Template and Workflow as Dragonfly writes them, and as it reads them back."""

import copy
from base64 import b64decode
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from dragonfly.kube import bmc
from dragonfly.kube.resources import Object
from dragonfly.kube.tinkerbell import (
    differs,
    hardware,
    hardware_map,
    is_managed,
    staged_workflow,
    template_object,
    workflow_view,
)
from dragonfly.model.machine import Bmc, Disk, Interface, Machine, MachineSpec
from dragonfly.model.provision import ActionProgress, Provision, ProvisionSpec
from dragonfly.model.template import Action, TemplateSpec
from dragonfly.model.values import Metadata

NOW = datetime(2026, 1, 1, tzinfo=UTC)
MAC = "02:00:00:00:00:0a"
TEMPLATE = TemplateSpec(actions=(Action(name="a", image="x", timeout=1, command=("{{ machine.ip }}",)),))


def machine(**changes: Any) -> Machine:
    interface = Interface(mac=MAC, address="10.0.0.17/24", gateway="10.0.0.1", nameservers=("1.1.1.1",), vlan=7)
    known: dict[str, Any] = {"interfaces": (interface,)}
    return Machine(
        metadata=Metadata(name="m-1", created_at=NOW, updated_at=NOW),
        spec=MachineSpec(**(known | changes)),
        sealed_password="sealed",
    )


def provision(**parameters: Any) -> Provision:
    spec = ProvisionSpec(machine="m-1", template="ubuntu", template_revision=5, parameters=parameters)
    return Provision(metadata=Metadata(name="01JDABC", created_at=NOW, updated_at=NOW), spec=spec)


def live(desired: Object) -> Object:
    """The object as the API server shows it to somebody who asks later."""
    found = copy.deepcopy(desired)
    found["metadata"] |= {"uid": "u", "resourceVersion": "5", "generation": 1, "creationTimestamp": "x"}
    found["metadata"]["annotations"]["tinkerbell.org/agent-attributes"] = "{}"
    found["metadata"]["labels"]["team"] = "storage"
    found["spec"]["references"] = {"somebody": "elses"}
    found["spec"].setdefault("auto", {"enrollmentEnabled": False})
    return found


class TestHardware:
    def test_the_whole_of_it(self) -> None:
        found = hardware(
            machine(
                hostname="node.example.com",
                disks=(Disk(device="/dev/nvme0n1"), Disk(min_size="1Ti")),
                user_data="#cloud-config",
                ssh_keys=("ssh-ed25519 AAAA",),
                arch="aarch64",
                firmware="bios",
                bmc=Bmc(host="10.0.1.1"),
            ),
            "tinkerbell",
            netboot=True,
            epoch=9,
        )

        fingerprint = found["metadata"]["annotations"].pop("dragonfly.io/spec")
        assert len(fingerprint) == 16
        assert found == {
            "apiVersion": "tinkerbell.org/v1alpha1",
            "kind": "Hardware",
            "metadata": {
                "name": "m-1",
                "namespace": "tinkerbell",
                "labels": {"app.kubernetes.io/managed-by": "dragonfly", "dragonfly.io/machine": "m-1"},
                "annotations": {"dragonfly.io/epoch": "9"},
            },
            "spec": {
                "agentID": MAC,
                "interfaces": [
                    {
                        "dhcp": {
                            "mac": MAC,
                            "hostname": "node.example.com",
                            "arch": "aarch64",
                            "uefi": False,
                            "ip": {
                                "address": "10.0.0.17",
                                "netmask": "255.255.255.0",
                                "family": 4,
                                "gateway": "10.0.0.1",
                            },
                            "name_servers": ["1.1.1.1"],
                            "vlan_id": "7",
                        },
                        "disableDhcp": False,
                        "netboot": {"allowPXE": True, "allowWorkflow": True},
                    }
                ],
                "disks": [{"device": "/dev/nvme0n1"}],
                "userData": "#cloud-config",
                "metadata": {"instance": {"id": MAC, "hostname": "node.example.com", "ssh_keys": ["ssh-ed25519 AAAA"]}},
                "bmcRef": {"apiGroup": "bmc.tinkerbell.org", "kind": "Machine", "name": "m-1"},
            },
        }

    def test_a_machine_with_dhcp_says_no_address(self) -> None:
        found = hardware(machine(interfaces=(Interface(mac=MAC, dhcp=True),)), "ns", netboot=False, epoch=1)

        (interface,) = found["spec"]["interfaces"]
        assert interface["dhcp"] == {"mac": MAC, "hostname": "m-1", "arch": "x86_64", "uefi": True}
        assert set(found["spec"]) == {"agentID", "interfaces", "metadata"}

    def test_ipv6(self) -> None:
        found = hardware(
            machine(interfaces=(Interface(mac=MAC, address="2001:db8::7/64"),)), "ns", netboot=False, epoch=1
        )

        ip = found["spec"]["interfaces"][0]["dhcp"]["ip"]
        assert (ip["address"], ip["family"]) == ("2001:db8::7", 6)

    def test_netboot_is_open_or_closed_on_every_interface(self) -> None:
        both = machine(interfaces=(Interface(mac=MAC), Interface(mac="02:00:00:00:00:0b")))

        for netboot in (True, False):
            found = hardware(both, "ns", netboot=netboot, epoch=1)["spec"]["interfaces"]
            assert [interface["netboot"]["allowPXE"] for interface in found] == [netboot, netboot]


class TestDiffers:
    desired = hardware(machine(user_data="x"), "ns", netboot=False, epoch=1)

    def test_nothing_to_write_where_the_server_only_added_its_own(self) -> None:
        assert not differs(self.desired, live(self.desired))

    def test_the_epoch_alone_is_no_reason_to_write(self) -> None:
        assert not differs(hardware(machine(user_data="x"), "ns", netboot=False, epoch=2), live(self.desired))

    @pytest.mark.parametrize(
        "changed",
        [
            machine(user_data="y"),
            machine(user_data="x", hostname="other"),
            machine(user_data="x", interfaces=(Interface(mac=MAC),)),
            machine(user_data="x", bmc=Bmc(host="b")),
        ],
    )
    def test_what_the_machine_says_anew_is_written(self, changed: Machine) -> None:
        assert differs(hardware(changed, "ns", netboot=False, epoch=1), live(self.desired))

    @pytest.mark.parametrize("field", ["user_data", "ssh_keys", "disks", "bmc"])
    def test_what_the_machine_no_longer_says_is_taken_away(self, field: str) -> None:
        values: dict[str, Any] = {
            "user_data": "x",
            "ssh_keys": ("k",),
            "disks": (Disk(device="/dev/sda"),),
            "bmc": Bmc(host="b"),
        }
        before = hardware(machine(**values), "ns", netboot=False, epoch=1)
        del values[field]

        assert differs(hardware(machine(**values), "ns", netboot=False, epoch=1), live(before))

    def test_netboot_left_open_is_closed(self) -> None:
        assert differs(self.desired, live(hardware(machine(user_data="x"), "ns", netboot=True, epoch=1)))

    def test_a_foreign_edit_is_noticed(self) -> None:
        edited = live(self.desired)
        edited["spec"]["interfaces"][0]["netboot"]["allowPXE"] = True
        assert differs(self.desired, edited)
        unlabelled = live(self.desired)
        del unlabelled["metadata"]["labels"]["dragonfly.io/machine"]
        assert differs(self.desired, unlabelled)
        assert is_managed(unlabelled)

    def test_bare_objects_are_read(self) -> None:
        assert differs(self.desired, {"metadata": {"name": "m-1"}})
        assert not is_managed({"metadata": {"name": "m-1"}})


class TestBmc:
    def test_redfish(self) -> None:
        found = bmc.bmc_machine(
            machine(
                bmc=Bmc(
                    host="10.0.1.1",
                    port=8443,
                    username="root",
                    options={"systemName": "s", "useBasicAuth": "false"},
                )
            ),
            "ns",
            epoch=3,
        )

        assert found["spec"]["connection"] == {
            "host": "10.0.1.1",
            "insecureTLS": False,
            "providerOptions": {
                "preferredOrder": ["gofish"],
                "redfish": {"useBasicAuth": False, "port": 8443, "systemName": "s"},
            },
            "authSecretRef": {"name": "m-1-bmc", "namespace": "ns"},
        }

    def test_ipmi(self) -> None:
        found = bmc.bmc_machine(machine(bmc=Bmc(host="b", protocol="ipmi", port=624, insecure_tls=True)), "ns", epoch=3)

        connection = found["spec"]["connection"]
        assert connection["providerOptions"] == {"preferredOrder": ["ipmitool"], "ipmitool": {"port": 624}}
        assert connection["insecureTLS"]

    def test_rpc_logs_in_nowhere(self) -> None:
        found = bmc.bmc_machine(
            machine(bmc=Bmc(host="b", protocol="rpc", options={"consumerURL": "http://127.0.0.1:1"})), "ns", epoch=3
        )

        connection = found["spec"]["connection"]
        assert connection["providerOptions"] == {"rpc": {"consumerURL": "http://127.0.0.1:1"}}
        assert "authSecretRef" not in connection

    def test_the_password_is_in_the_secret_alone(self) -> None:
        of = machine(bmc=Bmc(host="b", username="root"))

        secret = bmc.secret(of, "ns", "hunter2", epoch=3)

        data = {name: b64decode(value) for name, value in secret["data"].items()}
        assert data == {"username": b"root", "password": b"hunter2"}
        assert secret["metadata"]["name"] == "m-1-bmc"
        assert "hunter2" not in str(bmc.bmc_machine(of, "ns", epoch=3))

    def test_new_credentials_are_a_difference(self) -> None:
        of = machine(bmc=Bmc(host="b", username="root"))
        before = live(bmc.bmc_machine(of, "ns", epoch=3))

        assert not differs(bmc.bmc_machine(of, "ns", epoch=4), before)
        changed = msgspec.structs.replace(of, sealed_password="sealed anew")
        assert differs(bmc.bmc_machine(changed, "ns", epoch=4), before)
        renamed = machine(bmc=Bmc(host="b", username="admin"))
        assert differs(bmc.bmc_machine(renamed, "ns", epoch=4), before)


class TestWorkflow:
    def test_it_is_made_staged(self) -> None:
        found = staged_workflow(provision(), machine(), TEMPLATE, "tinkerbell", epoch=9)

        assert found == {
            "apiVersion": "tinkerbell.org/v1alpha1",
            "kind": "Workflow",
            "metadata": {
                "name": "df-01jdabc",
                "namespace": "tinkerbell",
                "labels": {
                    "app.kubernetes.io/managed-by": "dragonfly",
                    "dragonfly.io/machine": "m-1",
                    "dragonfly.io/provision": "01JDABC",
                },
                "annotations": {"dragonfly.io/epoch": "9"},
            },
            "spec": {
                "disabled": True,
                "templateRef": "ubuntu-r5",
                "hardwareRef": "m-1",
                "hardwareMap": {"dragonfly_worker": MAC, "device_1": MAC, "machine_ip": "10.0.0.17"},
            },
        }

    @pytest.mark.parametrize(
        ("own", "template", "has_bmc", "options"),
        [
            ("none", "", True, None),
            ("netboot", "", False, None),
            ("netboot", "", True, {"bootMode": "netboot"}),
            ("none", "netboot", True, {"bootMode": "netboot"}),
            ("netboot", "none", True, None),
            ("iso", "", True, {"bootMode": "isoboot", "isoURL": "http://x/i.iso"}),
        ],
    )
    def test_how_it_boots(self, own: str, template: str, has_bmc: bool, options: object) -> None:
        of = machine(boot=own, bmc=Bmc(host="b") if has_bmc else None, iso_url="http://x/i.iso")
        spec = msgspec.convert({"actions": [], "raw": "x", "boot": template}, TemplateSpec)

        found = staged_workflow(provision(), of, spec, "ns", epoch=1)

        assert found["spec"].get("bootOptions") == options

    def test_no_parameter_of_a_raw_template_chooses_the_agent(self) -> None:
        """P3: a Workflow goes to its own machine, whatever a user sends along."""
        forged = {"device_1": "02:00:00:00:00:99", "dragonfly_worker": "02:00:00:00:00:99"}

        values = hardware_map(machine(), TemplateSpec(raw="worker: '{{ .device_1 }}'"), forged)

        assert (values["device_1"], values["dragonfly_worker"]) == (MAC, MAC)

    def test_the_template_of_a_revision(self) -> None:
        assert template_object("ubuntu-r5", TemplateSpec(raw="as it is"), "ns", epoch=1)["spec"] == {"data": "as it is"}
        assert '"worker": "{{ .dragonfly_worker }}"' in template_object("u", TEMPLATE, "ns", epoch=1)["spec"]["data"]


def workflow(status: Object | None = None, *, disabled: bool | None = False, labels: Object | None = None) -> Object:
    found: Object = {"metadata": {"name": "df-p", "uid": "u-1", "resourceVersion": "7"}, "spec": {}}
    if disabled is not None:
        found["spec"]["disabled"] = disabled
    if labels is not None:
        found["metadata"]["labels"] = labels
    if status is not None:
        found["status"] = status
    return found


OURS = {"app.kubernetes.io/managed-by": "dragonfly", "dragonfly.io/machine": "m-1", "dragonfly.io/provision": "P"}


class TestView:
    def test_a_bare_one(self) -> None:
        view = workflow_view({"metadata": {"name": "x", "uid": "u", "resourceVersion": "1"}})

        assert (view.provision, view.machine, view.state, view.actions) == ("", "", "", ())
        assert not any((view.staged, view.served, view.terminal, view.halted))

    def test_staged(self) -> None:
        view = workflow_view(workflow({"agentID": MAC}, disabled=True, labels=OURS))

        assert view.staged
        assert (view.provision, view.machine, view.agent_id, view.uid) == ("P", "m-1", MAC, "u-1")

    def test_disabled_after_it_began_is_not_staged(self) -> None:
        """Tinkerbell reads `disabled` only while there is no state: such a one is served."""
        assert not workflow_view(workflow({"state": "PENDING"}, disabled=True)).staged

    def test_a_forged_provision_label_without_the_manager_is_not_ours(self) -> None:
        assert workflow_view(workflow(labels={"dragonfly.io/provision": "P"})).provision == ""

    def test_one_that_runs(self) -> None:
        status = {
            "state": "RUNNING",
            "agentID": MAC,
            "currentState": {"agentID": MAC, "actionName": "b", "state": "RUNNING"},
            "tasks": [
                {
                    "name": "install",
                    "actions": [
                        {
                            "name": "a",
                            "state": "SUCCESS",
                            "executionStart": "2026-01-01T00:00:00Z",
                            "executionStop": "2026-01-01T00:01:30Z",
                        },
                        {"name": "b", "state": "RUNNING", "executionStart": None},
                        {"name": "c", "state": "PENDING", "executionStart": "0001-01-01T00:00:00Z"},
                        {"name": "d", "executionStop": "1970-01-01T00:00:00Z"},
                        {"name": "e", "state": "SOMETHING_NEW"},
                    ],
                }
            ],
        }

        view = workflow_view(workflow(status, labels=OURS))

        stop = NOW + timedelta(seconds=90)
        assert view.actions == (
            ActionProgress(name="a", state="Succeeded", started_at=NOW, finished_at=stop, seconds=90.0),
            ActionProgress(name="b", state="Running"),
            ActionProgress(name="c"),
            ActionProgress(name="d"),
            ActionProgress(name="e"),
        )
        assert (view.current_action, view.done, view.served, view.terminal) == ("b", 1, True, False)

    @pytest.mark.parametrize("state", ["SUCCESS", "FAILED", "TIMEOUT"])
    def test_ends(self, state: str) -> None:
        assert workflow_view(workflow({"state": state})).terminal

    def test_one_that_was_taken_from_its_agent_is_halted_whatever_its_state(self) -> None:
        status = {"state": "RUNNING", "agentID": "", "currentState": {"actionName": "a"}}

        assert workflow_view(workflow(status)).halted

    @pytest.mark.parametrize(
        ("conditions", "words"),
        [
            ([{"type": "TemplateRenderedSuccess", "status": "False", "message": "no key"}], "no key"),
            ([{"type": "TemplateRenderedSuccess", "status": "False"}], "the template could not be rendered"),
            ([], "the template could not be rendered"),
        ],
    )
    def test_a_template_that_could_not_be_rendered(self, conditions: list[Object], words: str) -> None:
        status = {"templateRendering": "failed", "conditions": conditions}

        assert workflow_view(workflow(status)).rendering_error == words
        assert not workflow_view(workflow(status | {"templateRendering": "successful"})).rendering_error

    def test_a_failure_of_the_boot_is_told_whatever_its_polarity(self) -> None:
        conditions = [
            {"type": "TemplateRenderedSuccess", "status": "True", "reason": "Complete", "message": "rendered"},
            {"type": "BootJobSetupFailed", "status": "False", "reason": "Error", "message": "no BMC"},
            {"type": "BootJobFailed", "status": "True", "reason": "x", "message": "job failed"},
        ]

        view = workflow_view(workflow({"state": "FAILED", "conditions": conditions}))

        assert view.failure == "BootJobSetupFailed: no BMC; BootJobFailed: job failed"
