import io
import json
from typing import Any

import pytest
import yaml
from rich.console import Console
from rich.text import Text

from dragonfly.cli.kinds import Cell
from dragonfly.cli.session import console
from dragonfly.cli.table import print_table
from tests.unit.cli.conftest import told


def test_a_table_for_people(swarm: Any, at_swarm: Any) -> None:
    active = {"name": "01JD", "template": "ubuntu-2404", "phase": "Running", "progress": 43}
    swarm.machine("m-1", "Provisioning", activeProvision=active)
    swarm.machine("storage-7", "Deployed", os={"template": "debian-13"})["spec"]["locked"] = {"reason": "disk"}

    done = at_swarm("get", "machines")

    assert done.code == 0
    assert done.err == ""
    rows = [line.split() for line in done.lines]
    assert rows[0] == ["NAME", "PHASE", "OS", "PROVISION", "OWNER", "AGE"]
    assert rows[1][:-1] == ["m-1", "Provisioning", "-", "ubuntu-2404", "43%", "b"]
    assert rows[2][:-1] == ["storage-7", "Deployed,Locked", "debian-13", "-", "b"]
    assert {line.index("b   ") for line in done.lines[1:]} == {done.lines[0].index("OWNER")}


@pytest.mark.parametrize("kind", ["m", "machine", "machines", "Machines"])
def test_a_kind_has_several_names(swarm: Any, at_swarm: Any, kind: str) -> None:
    swarm.machine("m-1")

    assert at_swarm("get", kind, "-o", "name").out == "machine/m-1\n"


def test_wide_shows_more(swarm: Any, at_swarm: Any) -> None:
    swarm.machine("m-1")

    header, row = at_swarm("get", "m", "-o", "wide").lines

    assert "MAC" in header
    assert "02:00:00:00:00:00" in row
    assert "site=fra" in row


def test_one_by_name_is_as_the_api_gave_it(swarm: Any, at_swarm: Any) -> None:
    machine = swarm.machine("m-1", hardware={"größe": 1.5})

    assert json.loads(at_swarm("get", "m", "m-1", "-o", "json").out) == machine
    assert yaml.safe_load(at_swarm("get", "m", "m-1", "-o", "yaml").out) == machine
    assert "größe" in at_swarm("get", "m", "m-1", "-o", "json").out


def test_several_by_name_are_a_list(swarm: Any, at_swarm: Any) -> None:
    swarm.machine("m-1")
    swarm.machine("m-2")
    swarm.machine("m-3")

    listed = json.loads(at_swarm("get", "m", "m-1", "m-3", "-o", "json").out)

    assert listed["kind"] == "MachineList"
    assert [item["metadata"]["name"] for item in listed["items"]] == ["m-1", "m-3"]


def test_a_missing_one_is_exit_code_3(at_swarm: Any) -> None:
    assert at_swarm("get", "m", "nope") == (3, "", "dragonfly: there is no nope\n")


def test_missing_ones_are_told_after_those_that_are_there(swarm: Any, at_swarm: Any) -> None:
    swarm.machine("m-1")
    swarm.machine("m-3")

    done = at_swarm("get", "m", "m-1", "nope", "m-3", "-o", "name")

    assert done == (3, "machine/m-1\nmachine/m-3\n", "dragonfly: there is no nope\n")


@pytest.mark.parametrize("said", [("m", "m-1"), ("machine/m-1",), ("m/m-1",), ("machines", "machine/m-1")])
@pytest.mark.parametrize("command", ["get", "describe"])
def test_names_as_get_prints_them_are_taken(swarm: Any, at_swarm: Any, command: str, said: tuple[str, ...]) -> None:
    swarm.machine("m-1")

    done = at_swarm(command, *said)

    assert done.code == 0
    assert "m-1" in done.out


def test_a_name_of_another_kind_is_a_usage_error(swarm: Any, at_swarm: Any) -> None:
    done = at_swarm("get", "m", "template/debian")

    assert (done.code, swarm.requests) == (2, [])
    assert done.err.startswith("dragonfly: invalid value: 'template/debian' is a template; it must be a machine\n")


@pytest.mark.parametrize("name", ["..", "a/b", "", "a b", "x?y=z"])
def test_what_can_be_no_name_asks_nobody(swarm: Any, at_swarm: Any, name: str) -> None:
    done = at_swarm("get", "m", name)

    assert (done.code, swarm.requests) == (3, [])
    assert done.err == f"dragonfly: there is no machine {name!r}: a name is made of letters, digits and -\n"


def test_a_phase_is_known_and_in_any_case(swarm: Any, at_swarm: Any) -> None:
    swarm.machine("m-1", "Failed")

    assert at_swarm("get", "m", "--phase", "failed", "-o", "name").out == "machine/m-1\n"
    wrong = at_swarm("get", "m", "--phase", "Deploying")
    assert (wrong.code, wrong.err.splitlines()[0]) == (
        2,
        "dragonfly: 'Deploying' is no phase of machines. Did you mean Deployed?",
    )


def test_a_selector_that_the_swarm_cannot_read_is_a_usage_error(swarm: Any, at_swarm: Any) -> None:
    error = {"field": "?labelSelector", "message": "must be terms such as a=b", "value": "a="}
    swarm.refuse("GET /api/v1/machines", 422, "invalid", "?labelSelector must be terms such as a=b", error)

    done = at_swarm("get", "m", "-l", "a=")

    assert (done.code, done.err) == (2, "dragonfly: --selector must be terms such as a=b\n")


def test_all_pages_are_read(swarm: Any, at_swarm: Any) -> None:
    for number in range(2100):
        swarm.machine(f"m-{number}")

    done = at_swarm("get", "m", "-o", "json")

    assert len(json.loads(done.out)["items"]) == json.loads(done.out)["total"] == 2100
    assert [request.query.get("cursor") for request in swarm.requests] == [None, "1000", "2000"]
    assert {request.query["limit"] for request in swarm.requests} == {"1000"}


def test_a_limit_reads_no_more_and_says_what_is_left(swarm: Any, at_swarm: Any) -> None:
    for number in range(30):
        swarm.machine(f"m-{number}")

    done = at_swarm("get", "m", "--limit", "10")

    assert len(done.lines) == 11
    assert done.err == "dragonfly: 10 of 30 machines\n"
    assert [request.query["limit"] for request in swarm.requests] == ["10"]


def test_filters_are_the_apis(swarm: Any, at_swarm: Any) -> None:
    at_swarm("get", "m", "-l", "a in (b,c)", "--tag", "t", "--phase", "Failed", "-q", "x y", "--sort", "-name")

    (request,) = swarm.requests
    assert request.query == {
        "labelSelector": "a in (b,c)",
        "tag": "t",
        "phase": "Failed",
        "q": "x y",
        "sort": "-name",
        "limit": "1000",
    }


def test_provisions_are_chosen_by_cluster(swarm: Any, at_swarm: Any) -> None:
    at_swarm("get", "provisions", "--cluster", "fra", "--phase", "Failed")

    (request,) = swarm.requests
    assert request.query == {"cluster": "fra", "phase": "Failed", "limit": "1000"}


def test_a_filter_that_the_kind_does_not_have_is_refused_here(swarm: Any, at_swarm: Any) -> None:
    done = at_swarm("get", "templates", "--phase", "Failed")

    assert (done.code, done.err.splitlines()[0]) == (2, "dragonfly: templates cannot be chosen by --phase")
    assert swarm.requests == []


def test_names_and_filters_do_not_go_together(at_swarm: Any) -> None:
    assert at_swarm("get", "m", "m-1", "--tag", "t").code == 2


def test_nothing_found_is_no_error_and_no_output(at_swarm: Any) -> None:
    assert at_swarm("get", "m") == (0, "", "dragonfly: no machines\n")
    assert json.loads(at_swarm("get", "m", "-o", "json").out)["items"] == []


def test_templates_and_provisions_have_columns_of_their_own(swarm: Any, at_swarm: Any) -> None:
    swarm.add(
        "templates",
        {
            "kind": "Template",
            "metadata": {"name": "ubuntu-2404", "createdAt": "2026-01-01T00:00:00Z"},
            "spec": {
                "os": {"family": "ubuntu", "version": "24.04"},
                "parameters": {"properties": {"disk": {}, "mode": {}}},
                "actions": [{"name": "write"}, {"name": "kexec"}],
            },
        },
    )
    ends = {"startedAt": "2026-01-01T00:00:00Z", "finishedAt": "2026-01-01T00:03:05Z"}
    swarm.provision("01JD", "m-1", phase="Succeeded", progress=100, currentAction="kexec", **ends)

    template = at_swarm("get", "t").lines[1].split()
    provision = at_swarm("get", "p").lines[1].split()

    assert template[:6] == ["ubuntu-2404", "ubuntu", "24.04", "-", "2", "disk,mode"]
    assert provision[:7] == ["01JD", "m-1", "ubuntu-2404", "Succeeded", "100%", "-", "3m05s"]


@pytest.fixture
def until_the_streams_end(swarm: Any, at_swarm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C comes when there is nothing more to follow."""

    def pause(_session: object, _seconds: float) -> None:
        if not swarm.streams and not swarm.faults:
            raise KeyboardInterrupt

    monkeypatch.setattr("dragonfly.cli.session.Session.pause", pause)


@pytest.mark.usefixtures("until_the_streams_end")
def test_watch_prints_everything_and_then_only_what_changes(swarm: Any, at_swarm: Any) -> None:
    first, second = swarm.machine("m-1"), swarm.machine("m-2")
    deployed = {**second, "status": {"phase": "Deployed", "owner": "b"}}
    swarm.streams += [
        told("updated", second, 103) + told("updated", deployed, 104),
        told("deleted", first, 105),
    ]

    done = at_swarm("get", "m", "-w", "--phase", "available")

    assert done.code == 130
    assert [line.split()[:2] for line in done.lines] == [
        ["NAME", "PHASE"],
        ["m-1", "Available"],
        ["m-2", "Available"],
        ["m-2", "Deployed"],
    ]
    assert "dragonfly: machine m-1 is not in the list any more" in done.err
    asked = [request for request in swarm.requests if request.path.endswith("/events")]
    assert [request.headers["last-event-id"] for request in asked] == ["102", "104"]
    assert asked[0].query == {"kind": "Machine", "phase": "Available"}


@pytest.mark.usefixtures("until_the_streams_end")
def test_watch_for_scripts_is_a_document_a_line(swarm: Any, at_swarm: Any) -> None:
    machine = swarm.machine("m-1")
    swarm.machine("m-2")
    swarm.streams.append(told("updated", {**machine, "spec": {}}, 110))

    done = at_swarm("get", "m", "m-1", "-w", "-o", "json")

    assert [json.loads(line)["metadata"]["name"] for line in done.lines] == ["m-1", "m-1"]
    assert swarm.requests[-1].query["name"] == "m-1"


@pytest.mark.usefixtures("until_the_streams_end")
def test_watch_of_clusters_goes_on_to_tell_how_many_machines_they_have(swarm: Any, at_swarm: Any) -> None:
    """The feed does not count them."""
    named = {"kind": "Cluster", "metadata": {"name": "fra"}, "spec": {"shards": 1}}
    status = {"reachable": True, "owners": {"0": "b"}}
    swarm.objects["clusters"] = {}
    swarm.add("clusters", {**named, "status": {"reachable": True, "machines": 41}})
    swarm.reply("GET /api/v1/clusters/fra", 200, {**named, "status": {**status, "machines": 42}})
    taken = {**named, "status": status}
    swarm.streams.append(told("updated", taken, 110))
    swarm.streams.append(told("updated", {**taken, "metadata": {"name": "gone"}}, 111))

    done = at_swarm("get", "clusters", "-w")

    assert [line.split()[:4] for line in done.lines] == [
        ["NAME", "REACHABLE", "SHARDS", "MACHINES"],
        ["fra", "yes", "0/1", "41"],
        ["fra", "yes", "1/1", "42"],
        ["gone", "yes", "1/1", "-"],
    ]
    (asked,) = [request for request in swarm.requests if request.path.endswith("/clusters/fra")]
    assert asked.query == {"minRevision": "110"}


@pytest.mark.usefixtures("until_the_streams_end")
def test_watch_outlives_a_swarm_that_is_away(swarm: Any, at_swarm: Any) -> None:
    swarm.machine("m-1")
    swarm.streams += ["", told("created", swarm.machine("m-2"), 110)]
    swarm.objects["machines"].pop("m-2")

    done = at_swarm("get", "m", "-w", "-o", "name")

    assert done.lines == ["machine/m-1", "machine/m-2"]


@pytest.mark.usefixtures("until_the_streams_end")
def test_watch_looks_again_when_the_feed_cannot_go_on(swarm: Any, at_swarm: Any) -> None:
    swarm.machine("m-1")
    swarm.streams.append('event: reset\ndata: {"revision": 200, "reason": "compacted"}\nid: 200\n\n')

    done = at_swarm("get", "m", "-w", "-o", "name")

    assert done.lines == ["machine/m-1"]
    assert swarm.count("GET", "/api/v1/machines") == 2


@pytest.mark.usefixtures("until_the_streams_end")
def test_events_are_a_line_each(swarm: Any, at_swarm: Any) -> None:
    machine = swarm.machine("m-1")
    swarm.streams.append(told("created", machine, 110) + told("deleted", machine, 111))

    done = at_swarm("events", "--since", "7", "--kind", "machine", "--phase", "Available", "--phase", "Failed")

    assert done.code == 130
    assert [line.split() for line in done.lines] == [
        ["REVISION", "CHANGE", "KIND", "NAME", "PHASE"],
        ["110", "created", "Machine", "m-1", "Available"],
        ["111", "deleted", "Machine", "m-1", "Available"],
    ]
    assert swarm.requests[0].headers["last-event-id"] == "7"
    assert swarm.requests[0].query["kind"] == "Machine"


@pytest.mark.usefixtures("until_the_streams_end")
def test_events_for_scripts_are_documents_and_resets_are_among_them(swarm: Any, at_swarm: Any) -> None:
    reset = 'event: reset\ndata: {"revision": 200, "reason": "too-old"}\nid: 200\n\n'
    swarm.streams.append(reset + told("created", swarm.machine("m-1"), 210))

    done = at_swarm("events", "-o", "json")

    found = [json.loads(line) for line in done.lines]
    assert [(event["type"], event["name"], event["revision"]) for event in found] == [
        ("reset", "too-old", 200),
        ("created", "m-1", 210),
    ]


@pytest.mark.usefixtures("until_the_streams_end")
def test_a_swarm_that_is_away_is_told_once_and_events_go_on(swarm: Any, at_swarm: Any) -> None:
    swarm.fail(503)
    swarm.fail(503)
    swarm.streams.append(told("created", swarm.machine("m-1"), 110))

    done = at_swarm("events", "-o", "json")

    assert len(done.lines) == 1
    assert done.err.count("still watching") == 1


def test_events_that_are_refused_end_the_command(swarm: Any, at_swarm: Any) -> None:
    swarm.refuse("GET /api/v1/events", 422, "invalid", "?labelSelector must be terms")

    done = at_swarm("events", "-l", "a=b=c")

    assert done.code in {2, 4}
    assert "labelSelector" in done.err


def printed(*, terminal: bool, width: int = 30, rows: list[list[Cell]] | None = None) -> str:
    out = io.StringIO()
    console = Console(
        file=out, force_terminal=terminal, width=width, color_system="standard" if terminal else None, markup=False
    )
    print_table(("NAME", "TAGS"), rows or [[Cell("m-1", "red"), Cell("x" * 50)]], console)
    return out.getvalue()


def test_a_terminal_gets_colours_and_lines_that_fit() -> None:
    lines = printed(terminal=True).splitlines()

    assert len(lines) == 2
    assert "\x1b[31m" in lines[1]
    assert "…" in lines[1]


def test_a_pipe_gets_whole_lines_without_colours() -> None:
    assert printed(terminal=False) == f"NAME   TAGS\nm-1    {'x' * 50}\n"


def test_a_narrow_terminal_cuts_ulids_in_the_middle_and_no_phase() -> None:
    out = io.StringIO()
    row = [Cell("01JD4QZV3E5T6Y7K8M9N0P1Q2R"), Cell("Provisioning,Maintenance", "yellow"), Cell("m-1")]

    print_table(("NAME", "PHASE", "M"), [row], Console(file=out, force_terminal=True, width=46, markup=False))

    line = Text.from_ansi(out.getvalue().splitlines()[1]).plain
    assert line == "01JD4Q…0P1Q2R   Provisioning,Maintenance   m-1"


def test_no_color_is_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("FORCE_COLOR", "1")
    out = console()
    assert out.is_terminal

    with out.capture() as capture:
        print_table(("NAME",), [[Cell("m-1", "bold red")]], out)

    assert capture.get() == "NAME\nm-1\n"


def test_wide_letters_and_control_characters_keep_the_columns() -> None:
    rows = [[Cell("機械"), Cell("a\x1b[2Jb\nc")], [Cell("m"), Cell("[bold]")]]

    assert printed(terminal=False, rows=rows) == "NAME   TAGS\n機械   a?[2Jb?c\nm      [bold]\n"
