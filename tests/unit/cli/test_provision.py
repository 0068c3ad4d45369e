import io
import json
import os
import signal
import subprocess
import sys
from typing import Any

import pytest

from tests.unit.cli.conftest import CREATED, ping, told

RESET = 'event: reset\ndata: {{"revision":{},"reason":"{}"}}\n\n'
RUNNING = {"phase": "Running", "progress": 40, "currentAction": "write-image"}
SUCCEEDED = {"phase": "Succeeded", "progress": 100}
FAILED = {
    "phase": "Failed",
    "progress": 40,
    "error": {"reason": "ActionFailed", "message": "write-image exited with 1"},
}


def provision(status: dict[str, Any]) -> dict[str, Any]:
    """The first one that is asked for, as it is in that status."""
    metadata = {"name": "01JD0000000000000000000000", "createdAt": CREATED}
    return {"kind": "Provision", "metadata": metadata, "spec": {"machine": "m-1"}, "status": status}


def test_a_provision_is_asked_for_once_and_named(swarm: Any, at_swarm: Any) -> None:
    swarm.machine("m-1")

    done = at_swarm("provision", "m-1", "ubuntu-2404", "--reason", "new disk")

    assert done == (0, "m-1: provision 01JD0000000000000000000000 Pending\n", "")
    assert swarm.bodies("POST", "/api/v1/machines/m-1/provision") == [{"template": "ubuntu-2404", "reason": "new disk"}]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("answer", "code", "asked"), [("y\n", 0, 1), ("\n", 130, 0)])
def test_a_machine_in_use_is_replaced_only_after_a_yes(
    swarm: Any, at_swarm: Any, monkeypatch: pytest.MonkeyPatch, answer: str, code: int, asked: int
) -> None:
    swarm.machine("m-1", "Deployed", os={"template": "debian", "installedAt": "2026-01-01T00:00:00Z"})
    monkeypatch.setattr("sys.stdin", Terminal(answer))

    done = at_swarm("provision", "machine/m-1", "template/ubuntu-2404")

    assert done.code == code
    question = "m-1 runs debian since 2026-01-01T00:00:00Z; everything on its disks will be replaced. Go on? [y/N]: "
    assert done.err.startswith(question)
    assert ("nothing was done" in done.err) is (code == 130)
    assert swarm.count("POST", "/api/v1/machines/m-1/provision") == asked


def test_a_script_is_told_what_it_replaces_and_not_asked(
    swarm: Any, at_swarm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("m-1", "m-2"):
        swarm.machine(name, "Deployed", os={"template": "debian", "installedAt": "2026-01-01T00:00:00Z"})
    swarm.machine("m-3")
    monkeypatch.setattr("sys.stdin", io.StringIO(""))

    done = at_swarm("provision", "m-1", "m-2", "m-3", "ubuntu-2404")

    assert (done.code, len(done.lines)) == (0, 3)
    first, second = done.err.splitlines()
    assert first == "dragonfly: m-1 runs debian since 2026-01-01T00:00:00Z"
    assert second.startswith("dragonfly: m-2 runs debian since 2026-01-01T00:00:00Z; ")
    assert second.endswith("; everything on the disks of these 2 machines is replaced")


def test_yes_neither_asks_nor_looks(swarm: Any, at_swarm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    swarm.machine("m-1", "Deployed", os={"template": "debian"})
    monkeypatch.setattr("sys.stdin", Terminal(""))

    done = at_swarm("provision", "m-1", "ubuntu-2404", "--yes")

    assert (done.code, done.err) == (0, "")
    assert len(swarm.requests) == 1


def test_parameters_are_json_where_they_read_as_json(swarm: Any, at_swarm: Any) -> None:
    swarm.machine("m-1")

    at_swarm(
        *("provision", "m-1", "t", "-p", "n=3", "-p", "on=true", "-p", 'l=["a"]', "-p", "s=24.04.1", "-p", "e="),
        *("-p", "q=a=b", "-p", 't="24.04"'),
    )

    (body,) = swarm.bodies("POST", "/api/v1/machines/m-1/provision")
    assert body["parameters"] == {
        "n": 3,
        "on": True,
        "l": ["a"],
        "s": "24.04.1",
        "e": "",
        "q": "a=b",
        "t": "24.04",
    }


def test_a_parameter_without_a_value_is_a_usage_error(swarm: Any, at_swarm: Any) -> None:
    assert at_swarm("provision", "m-1", "t", "-p", "disk").code == 2
    assert swarm.requests == []


def test_wait_shows_each_step_and_ends_with_the_result(swarm: Any, at_swarm: Any) -> None:
    swarm.machine("m-1")
    swarm.script.extend([{"phase": "Starting"}, RUNNING, RUNNING, SUCCEEDED])

    done = at_swarm("provision", "m-1", "ubuntu-2404", "--wait")

    assert done.code == 0
    assert done.out == "m-1: provision 01JD0000000000000000000000 Succeeded\n"
    assert done.err.splitlines() == [
        "m-1: 0% Pending",
        "m-1: 0% Starting",
        "m-1: 40% Running, write-image",
        "m-1: 100% Succeeded",
    ]


@pytest.mark.parametrize(
    ("last", "sentence"),
    [
        (FAILED, "Failed: write-image exited with 1"),
        ({"phase": "TimedOut"}, "TimedOut"),
        ({"phase": "Cancelled"}, "Cancelled"),
    ],
)
def test_only_success_is_exit_code_0(swarm: Any, at_swarm: Any, last: dict[str, Any], sentence: str) -> None:
    swarm.machine("m-1")
    swarm.script.extend([RUNNING, last])

    done = at_swarm("provision", "m-1", "t", "--wait")

    assert done.code == 1
    assert done.out.endswith(f"{sentence}\n")


def test_waiting_outlives_replicas_that_die(swarm: Any, at_swarm: Any) -> None:
    swarm.machine("m-1")
    swarm.script.extend([RUNNING, RUNNING, SUCCEEDED])
    swarm.lose(carried_out=False)
    swarm.faults.append(None)
    swarm.lose(carried_out=False)
    swarm.fail(503)
    swarm.faults.append(None)
    swarm.fail(503, Retry_After="60")

    done = at_swarm("provision", "m-1", "t", "--wait")

    assert done.code == 0
    assert len(swarm.objects["provisions"]) == 1
    assert "; still waiting\n" in done.err


def test_waiting_gives_up_when_nobody_answers_for_long(
    swarm: Any, at_swarm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dragonfly.cli.waiting._SILENCE", -1.0)
    swarm.machine("m-1")
    swarm.faults.append(None)
    swarm.fail(503, Retry_After="60")

    assert at_swarm("provision", "m-1", "t", "--wait").code == 5


def test_a_replica_that_is_behind_takes_nothing_back(swarm: Any, at_swarm: Any) -> None:
    swarm.machine("m-1")
    running, old, succeeded = (provision(status) for status in (RUNNING, {"phase": "Pending"}, SUCCEEDED))
    swarm.streams.append(ping(150) + told("updated", running, 200))
    swarm.streams.append(RESET.format(180, "future") + told("created", old, 180) + told("updated", succeeded, 201))

    done = at_swarm("provision", "m-1", "t", "--wait")

    assert done.err.splitlines() == ["m-1: 40% Running, write-image", "m-1: 100% Succeeded"]


def test_waiting_follows_the_feed_and_asks_for_nothing_else(swarm: Any, at_swarm: Any) -> None:
    """P9: the state that it is told first has what it asked for, whichever replica tells."""
    swarm.machine("m-1")
    swarm.machine("m-2")
    swarm.script.extend([RUNNING, RUNNING, SUCCEEDED, SUCCEEDED])

    assert at_swarm("provision", "m-1", "m-2", "t", "--wait", "--yes").code == 0

    first, second, followed, *resumed = swarm.requests
    assert (first.method, second.method) == ("POST", "POST")
    # The stream ends after what it tells, and may be asked for again before the command has ended.
    assert {request.path for request in resumed} <= {"/api/v1/events"}
    assert (followed.path, followed.query["kind"], followed.query["snapshot"]) == (
        "/api/v1/events",
        "Provision",
        "true",
    )
    assert followed.names == ["01JD0000000000000000000000", "01JD0000000000000000000001"]
    assert int(followed.query["minRevision"]) == 104


def test_waiting_goes_on_where_a_stream_broke_off(swarm: Any, at_swarm: Any) -> None:
    swarm.machine("m-1")
    swarm.streams.append(ping(150) + told("updated", provision(RUNNING), 200))
    swarm.streams.append(ping(200) + told("updated", provision(SUCCEEDED), 201))

    assert at_swarm("provision", "m-1", "t", "--wait").code == 0

    followed = [request for request in swarm.requests if request.path == "/api/v1/events"]
    assert [request.headers.get("last-event-id") for request in followed[:2]] == [None, "200"]


def test_waiting_begins_anew_after_a_reset(swarm: Any, at_swarm: Any) -> None:
    swarm.machine("m-1")
    swarm.streams.append(ping(150) + told("updated", provision(RUNNING), 200))
    state = told("created", provision(SUCCEEDED), 300, position=False) + ping(300)
    swarm.streams.append(RESET.format(300, "compacted") + state)

    assert at_swarm("provision", "m-1", "t", "--wait").code == 0


def test_another_etcd_counts_from_its_own_beginning(swarm: Any, at_swarm: Any) -> None:
    swarm.machine("m-1")
    swarm.streams.append(ping(150) + told("updated", provision(RUNNING), 200))
    state = told("created", provision(SUCCEEDED), 30, position=False) + ping(30)
    swarm.streams.append(RESET.format(30, "other-etcd") + state)

    assert at_swarm("provision", "m-1", "t", "--wait").code == 0


@pytest.mark.parametrize("last", ["deleted", "missing after a reset"])
def test_what_is_gone_is_not_waited_for(swarm: Any, at_swarm: Any, last: str) -> None:
    swarm.machine("m-1")
    gone = told("deleted", provision(RUNNING), 300) if last == "deleted" else RESET.format(300, "compacted") + ping(300)
    swarm.streams.append(gone)

    done = at_swarm("provision", "m-1", "t", "--wait")

    assert (done.code, done.err) == (3, "dragonfly: there is no provision 01JD0000000000000000000000 any more\n")


def test_more_names_than_one_address_takes_are_followed_by_more_streams(swarm: Any, at_swarm: Any) -> None:
    names = [f"m-{number}" for number in range(250)]
    for name in names:
        swarm.machine(name)
    swarm.refuse("POST /api/v1/machines/m-9/provision", 409, "machine-locked", "m-9 is locked by ada: disk")
    swarm.script.extend([SUCCEEDED] * 249)

    assert at_swarm("provision", *names, "t", "--wait", "--yes").code == 4

    followed = [request.names for request in swarm.requests if request.path == "/api/v1/events"]
    assert {len(asked) for asked in followed} == {200, 49}


def test_a_timeout_has_a_code_of_its_own_and_says_that_it_goes_on(swarm: Any, at_swarm: Any) -> None:
    swarm.machine("m-1", owner="")

    done = at_swarm("provision", "m-1", "t", "--wait", "--timeout", "0.5")

    assert done.code == 6
    assert "dragonfly: not ended within 0.5 s\ndragonfly: m-1 waits: its shard is claimed by no replica\n" in done.err
    assert "goes on; to stop it: dragonfly cancel 01JD0000000000000000000000" in done.err


def test_more_provisions_than_rows_are_told_in_one_line(
    swarm: Any, at_swarm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("LINES", "4")
    names = [f"m-{number}" for number in range(5)]
    for name in names:
        swarm.machine(name)
    swarm.script.extend([RUNNING, SUCCEEDED, SUCCEEDED, FAILED, SUCCEEDED, SUCCEEDED])

    done = at_swarm("provision", *names, "t", "--wait")

    assert done.code == 1
    assert "4 Succeeded, 1 Failed" in done.err
    assert "m-3" not in done.err


def test_waiting_says_once_why_nothing_happens(swarm: Any, at_swarm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dragonfly.cli.waiting.QUIET", -1.0)
    swarm.machine("m-1", owner="", cluster={"reachable": False, "since": "2026-01-01T00:00:00Z"})
    swarm.script.extend([{"phase": "Pending"}, {"phase": "Pending"}, SUCCEEDED])

    done = at_swarm("provision", "m-1", "t", "--wait")

    assert done.code == 0
    said = "dragonfly: m-1 waits: cluster local is not reachable since 2026-01-01T00:00:00Z"
    assert done.err.splitlines().count(said) == 1


def test_a_timeout_without_waiting_is_a_usage_error(swarm: Any, at_swarm: Any) -> None:
    assert at_swarm("provision", "m-1", "t", "--timeout", "3").code == 2
    assert swarm.requests == []


def test_several_machines_one_refused(swarm: Any, at_swarm: Any) -> None:
    swarm.machine("m-1")
    swarm.machine("m-3")
    swarm.refuse("POST /api/v1/machines/m-2/provision", 409, "machine-locked", "m-2 is locked by ada: disk")

    done = at_swarm("provision", "m-1", "m-2", "m-3", "t", "-o", "name")

    assert done.code == 4
    assert len(done.lines) == 2
    assert done.err == "dragonfly: m-2: m-2 is locked by ada: disk\n"


def test_a_refusal_is_one_sentence(swarm: Any, at_swarm: Any) -> None:
    swarm.refuse("POST /api/v1/machines/m-1/provision", 409, "machine-locked", "m-1 is locked by ada: disk")

    assert at_swarm("provision", "m-1", "t", "--wait") == (4, "", "dragonfly: m-1 is locked by ada: disk\n")


def test_the_result_for_scripts(swarm: Any, at_swarm: Any) -> None:
    swarm.machine("m-1")
    swarm.script.append(SUCCEEDED)

    done = at_swarm("provision", "m-1", "t", "--wait", "-o", "json")

    assert json.loads(done.out)["status"] == SUCCEEDED


def test_ctrl_c_leaves_the_provision_and_says_how_to_stop_it(swarm: Any) -> None:
    swarm.machine("m-1")
    env = {**os.environ, "DRAGONFLY_SERVER": swarm.url, "DRAGONFLY_TOKEN": "df_test"}
    with subprocess.Popen(
        # A shell that starts the tests in the background has them ignore SIGINT, and children inherit that.
        ["env", "--default-signal=INT", sys.executable, "-m", "dragonfly", "provision", "m-1", "t", "--wait"],
        env=env,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        with swarm.seen:
            looked = swarm.seen.wait_for(lambda: swarm.count("GET", "/api/v1/events") >= 2, timeout=30)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)

    assert looked
    assert process.returncode == 130
    assert "the provision of m-1 goes on; to stop it: dragonfly cancel 01JD0000000000000000000000" in err
    assert "Traceback" not in err


def test_a_terminal_gets_a_bar_with_the_action_and_the_time_left(
    swarm: Any, at_swarm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("COLUMNS", "120")
    swarm.machine("m-1")
    swarm.script.extend([{**RUNNING, "eta": "2999-01-01T00:00:00Z"}, SUCCEEDED])
    shown: list[str] = []
    monkeypatch.setattr("dragonfly.cli.progress.Progress.update", lambda _s, _t, **f: shown.append(f["activity"]))

    assert at_swarm("provision", "m-1", "t", "--wait").code == 0

    assert shown[1].startswith("Running, write-image, ")
    assert shown[1].endswith("y left")
    assert shown[-1] == "Succeeded"
