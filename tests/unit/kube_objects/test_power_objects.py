"""Rufio's Job built and read; what Rufio says of a BMC."""

from datetime import UTC, datetime
from typing import Any, Literal, get_args

import pytest

from dragonfly.kube.power import BmcView, arming, bmc_view, failure_of, halting, job_view, looked, looking, staged_job
from dragonfly.kube.resources import Object
from dragonfly.model.machine import Bmc, Interface, Machine, MachineSpec
from dragonfly.model.power import PowerAction, PowerRequest, job_name
from dragonfly.model.values import Metadata, is_dns_label

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ULID = "01JD4QZV3E5T6Y7K8M9N0P1Q2R"


def machine(firmware: Literal["uefi", "bios"] = "uefi") -> Machine:
    interfaces = (Interface(mac="02:00:00:00:00:01"),)
    spec = MachineSpec(interfaces=interfaces, firmware=firmware, bmc=Bmc(host="10.0.1.1"))
    return Machine(metadata=Metadata(name="m-1", created_at=NOW, updated_at=NOW), spec=spec)


def request(action: PowerAction) -> PowerRequest:
    return PowerRequest(name=ULID, machine="m-1", action=action, requested_by="ann", requested_at=NOW)


def job(action: PowerAction = "cycle", **status: Any) -> Object:
    made = staged_job(request(action), machine(), "tinkerbell", epoch=7)
    made["metadata"] |= {"uid": "u", "resourceVersion": "3"}
    return made | {"status": status} if status else made


def condition(kind: str, message: str = "", status: str = "True") -> Object:
    return {"type": kind, "status": status, "message": message}


@pytest.mark.parametrize("action", get_args(PowerAction))
def test_a_job_is_created_for_a_machine_that_cannot_exist(action: PowerAction) -> None:
    made = staged_job(request(action), machine(), "tinkerbell", epoch=7)

    assert not is_dns_label(made["spec"]["machineRef"]["name"])
    assert made["metadata"]["annotations"] == {"dragonfly.io/epoch": "7"}
    assert made["metadata"]["labels"]["dragonfly.io/machine"] == "m-1"


@pytest.mark.parametrize(("firmware", "efi"), [("uefi", True), ("bios", False)])
def test_pxe_boots_from_the_network_as_the_firmware_wants_it(firmware: Literal["uefi", "bios"], efi: bool) -> None:
    tasks = staged_job(request("pxe"), machine(firmware), "tinkerbell", epoch=7)["spec"]["tasks"]

    assert tasks == [
        {"powerAction": "off"},
        {"bootDevice": {"device": "pxe", "efiBoot": efi}},
        {"powerAction": "on"},
    ]


def test_the_names_of_a_job_and_its_tasks_are_labels() -> None:
    assert is_dns_label(f"{job_name(ULID)}-task-2")


def test_a_job_is_staged_then_armed_then_halted() -> None:
    assert job_view(job()).staged
    armed = job() | arming("m-1")
    assert (job_view(armed).staged, job_view(armed).halted) == (False, False)
    assert job_view(job() | halting("m-1")).halted


@pytest.mark.parametrize(
    ("conditions", "state"),
    [
        ([], ""),
        ([condition("Running")], ""),
        ([condition("Running"), condition("Completed")], "Completed"),
        ([condition("Running"), condition("Failed", "task x failed")], "Failed"),
        ([condition("Failed", status="False"), condition("Completed")], "Completed"),
    ],
)
def test_a_job_has_ended_only_if_it_says_so(conditions: list[Object], state: str) -> None:
    assert job_view(job(conditions=conditions)).state == state


def test_somebody_elses_job_belongs_to_no_request() -> None:
    found = job()
    found["metadata"]["labels"] = {"dragonfly.io/power": ULID}

    assert job_view(found).request == ""


def test_the_bmcs_words_are_on_the_tasks() -> None:
    tasks = [
        {"status": {"conditions": [condition("Completed")]}},
        {"status": {"conditions": [condition("Failed", "the fuse is blown")]}},
        {},
    ]

    assert failure_of(tasks) == "the fuse is blown"


def test_what_rufio_has_not_looked_at_is_unknown() -> None:
    assert bmc_view(None) == bmc_view({"spec": {}}) == BmcView("unknown", None, "")


def test_a_bmc_that_is_not_reached_is_told_with_the_reason() -> None:
    contactable = condition("Contactable", "no route to host", "False")

    seen = bmc_view({"status": {"powerState": "unknown", "conditions": [contactable]}})

    assert seen == BmcView("unknown", False, "no route to host")


def test_the_mark_that_makes_rufio_look_is_read_back() -> None:
    assert looked(looking("x", epoch=7)) == "x"
    assert looked({"metadata": {}}) == ""
