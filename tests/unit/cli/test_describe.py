from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from dragonfly.cli import times

ENDS = {"startedAt": "2026-01-01T00:00:00Z", "finishedAt": "2026-01-01T00:01:30Z"}


def test_a_machine_with_everything(swarm: Any, at_swarm: Any) -> None:
    machine = swarm.machine(
        "m-1",
        "Failed",
        power="on",
        os={"template": "debian", "revision": 7, "installedAt": "2026-01-01T00:00:00Z"},
        conditions=[{"type": "Reachable", "status": "False", "reason": "NoRoute", "since": "2026-01-01T00:00:00Z"}],
        hardware={"cpu": {"cores": 64}},
    )
    machine["spec"]["locked"] = {"reason": "disk", "by": "ada", "at": "2026-01-01T00:00:00Z"}
    machine["spec"]["bmc"] = {"host": "10.9.0.1", "username": "root"}
    error = {"reason": "ActionFailed", "message": "write exited with 1"}
    swarm.provision("01JD", "m-1", phase="Failed", error=error, **ENDS)

    done = at_swarm("describe", "machine", "m-1")

    assert done.code == 0
    fields = dict(line.split(":", 1) for line in done.lines if ":" in line and not line.startswith(" "))
    assert fields["Phase"].strip() == "Failed,Locked"
    assert fields["Locked"].strip().startswith("disk (by ada, ")
    assert fields["Installed"].strip().startswith("debian (revision 7, ")
    assert fields["BMC"].strip() == "redfish at 10.9.0.1"
    assert "Maintenance" not in fields
    sections = done.out.split("\n\n")
    assert [section.splitlines()[0] for section in sections[1:]] == [
        "Interfaces",
        "Conditions",
        "Hardware",
        "Last provisions",
    ]
    assert "ActionFailed: write exited with 1" in sections[-1]
    assert "1m30s" in sections[-1]


def test_a_machine_that_no_replica_drives_says_so(swarm: Any, at_swarm: Any) -> None:
    swarm.machine("m-1", owner="")

    assert "claimed by no replica" in at_swarm("describe", "m", "m-1").out


LOST = {"reachable": False, "since": "2026-01-01T00:00:00.5Z"}


def test_a_cluster_that_nobody_reaches_holds_up_its_machines_and_their_provisions(swarm: Any, at_swarm: Any) -> None:
    swarm.machine("m-1", owner="", cluster=LOST)
    swarm.provision("01JD", "m-1")
    swarm.provision("01JE", "m-1", phase="Succeeded")
    said = "Held up:  cluster local is not reachable since 2026-01-01T00:00:00Z"

    machine, running, ended = (
        at_swarm("describe", "m", "m-1"),
        *(at_swarm("describe", "p", n) for n in ("01JD", "01JE")),
    )

    for shown in (machine, running):
        assert said.split() in [line.split() for line in shown.lines]
    assert "Held up" not in ended.out


def test_times_are_to_the_second(swarm: Any, at_swarm: Any) -> None:
    swarm.machine("m-1", observedAt="2026-01-01T00:00:00.123456Z")

    assert "2026-01-01T00:00:00Z (" in at_swarm("describe", "m", "m-1").out


def test_a_provision_with_its_actions(swarm: Any, at_swarm: Any) -> None:
    swarm.provision(
        "01JD",
        "m-1",
        phase="Running",
        progress=50,
        currentAction="write",
        actions=[
            {"name": "wipe", "state": "Succeeded", "seconds": 12.4},
            {"name": "write", "state": "Running", "startedAt": "2026-01-01T00:00:00Z"},
            {"name": "kexec"},
        ],
        workflow={"cluster": "local", "namespace": "tinkerbell", "name": "df-01jd"},
    )["spec"]["parameters"] = {"disk": "/dev/sda"}

    out = at_swarm("describe", "p", "01JD").out

    assert "Template:     ubuntu-2404 (revision 7)\n" in out
    assert "Workflow:     local/tinkerbell/df-01jd\n" in out
    rows = [line.split() for line in out.splitlines()]
    assert ["wipe", "Succeeded", "12s"] in rows
    assert ["kexec", "Pending", "-"] in rows
    assert "Parameters\ndisk: /dev/sda\n" in out


def test_a_template_with_its_parameters(swarm: Any, at_swarm: Any) -> None:
    swarm.add(
        "templates",
        {
            "kind": "Template",
            "metadata": {"name": "debian"},
            "spec": {
                "os": {"family": "debian", "version": "13"},
                "globalTimeout": 1800,
                "parameters": {
                    "required": ["disk"],
                    "properties": {
                        "disk": {"type": "string", "description": "where to"},
                        "retries": {"type": "integer", "default": 3},
                    },
                },
                "actions": [{"name": "write", "image": "quay.io/x:1", "timeout": 90}],
            },
        },
    )

    rows = [line.split() for line in at_swarm("describe", "t", "debian").lines]

    assert ["Timeout:", "30m00s"] in rows
    assert ["write", "1m30s", "quay.io/x:1"] in rows
    assert ["disk", "string", "required", "where", "to"] in rows
    assert ["retries", "integer", "3", "-"] in rows


def test_a_missing_one_is_exit_code_3(at_swarm: Any) -> None:
    assert at_swarm("describe", "m", "nope").code == 3


@given(st.floats(min_value=0, max_value=1e10))
def test_ages_are_short(seconds: float) -> None:
    assert len(times.short(seconds)) <= 4


def test_ages_read_like_kubectls() -> None:
    wanted = {0: "0s", 119: "119s", 120: "2m", 7199: "119m", 7200: "2h", 172_800: "2d", 63_072_000: "2y"}

    assert {seconds: times.short(seconds) for seconds in wanted} == wanted


def test_durations_can_be_compared() -> None:
    wanted = {0.42: "0.4s", 12.4: "12s", 59.6: "1m00s", 185: "3m05s", 3720: "1h02m"}

    assert {seconds: times.exact(seconds) for seconds in wanted} == wanted
