"""`install` and `uninstall` as people and programs meet them; hosts and hands are values here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dragonfly.cli import uninstall as cli_uninstall
from dragonfly.cli import upgrade as cli_upgrade
from dragonfly.cli.errors import CliError, Exit
from dragonfly.cli.main import run
from dragonfly.install import host_survey
from dragonfly.install.carriers import Carriers
from dragonfly.install.host_facts import HostFacts
from dragonfly.install.journal import Journal
from dragonfly.install.options import Options
from dragonfly.install.recorded import parsed, written
from dragonfly.install.steps import (
    AwaitReplicas,
    DeleteObjects,
    GiveEtcd,
    KeepRecord,
    LeaveCluster,
    LeaveEtcd,
    RemoveTree,
    SelfTest,
    StopService,
)
from tests.unit.cli.installer import GOOD, IMAGE, Here


def test_a_host_that_lacks_something_is_left_alone(here: Here, capsys: pytest.CaptureFixture[str]) -> None:
    here.facts = msgspec.structs.replace(GOOD, cpus=1)

    assert run(["install", *IMAGE, "--yes"]) == Exit.REFUSED

    out, err = capsys.readouterr()
    assert "Give this host 2 CPUs or more." in out
    assert "nothing was changed" in err
    assert not here.hands.done
    assert not here.journal.directory.exists()


def test_without_a_terminal_nobody_can_be_asked(here: Here, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["install", *IMAGE]) == Exit.USAGE

    assert "say --yes" in capsys.readouterr().err
    assert not here.hands.done


def test_a_dry_run_shows_all_and_changes_nothing(here: Here, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["install", *IMAGE, "--dry-run"]) == Exit.OK

    out = capsys.readouterr().out
    assert "Start k3s; to undo: stop it" in out
    assert "cluster-init: true" in out
    assert "kind: HelmChart" in out
    assert "kind: Deployment" in out
    assert not here.hands.done
    assert not here.journal.directory.exists()


def test_a_dry_run_asks_the_wire_only_if_told_to(
    here: Here, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []

    def survey(options: Options, journal: Journal, *, asks_wire: bool = True) -> HostFacts:
        asked.append(asks_wire)
        return msgspec.structs.replace(GOOD, dhcp_servers=None, is_wire_asked=asks_wire)

    monkeypatch.setattr(host_survey, "survey", survey)

    assert run(["install", *IMAGE, "--dry-run"]) == Exit.OK
    assert "the wire was not asked: a dry run sends nothing there" in capsys.readouterr().out
    assert run(["install", *IMAGE, "--dry-run", "--probe"]) == Exit.OK
    assert run(["install", *IMAGE, "--yes"]) == Exit.OK
    assert run(["install", *IMAGE, "--probe", "--yes"]) == Exit.USAGE
    assert asked == [False, True, True]


def test_a_dry_run_for_programs_is_one_object(here: Here, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["install", *IMAGE, "--dry-run", "-o", "json"]) == Exit.OK

    (line,) = capsys.readouterr().out.splitlines()
    found = json.loads(line)
    assert {"checks", "steps", "manifests"} == found.keys()
    assert found["steps"][0]["name"] == "settings"


def test_the_token_is_shown_once(here: Here, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["install", *IMAGE, "--yes"]) == Exit.OK
    first = capsys.readouterr().out
    assert "Dragonfly answers at http://10.0.0.50:3000" in first
    assert "df_secret" in first

    assert run(["install", "--yes"]) == Exit.OK
    second = capsys.readouterr().out
    assert "df_secret" not in second
    assert "unchanged" in second


def test_the_end_says_what_goes_over_the_network_as_it_is(here: Here, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["install", *IMAGE, "--yes"]) == Exit.OK

    out = capsys.readouterr().out
    assert "plain HTTP, and /metrics, /healthz and /readyz need no token" in out
    assert "a load balancer that ends TLS" in out


def test_events_are_an_object_a_line(here: Here, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["install", *IMAGE, "--yes", "-o", "json"]) == Exit.OK

    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {event["event"] for event in events} == {"check", "plan", "step", "installed"}
    assert events[-1]["address"] == "http://10.0.0.50:3000"
    assert events[-1]["token"] == "df_secret"


def test_a_program_gets_the_plan_before_anything_changes(here: Here, capsys: pytest.CaptureFixture[str]) -> None:
    """Of each of the three, also without --yes, where nothing changes at all."""

    def plan(*command: str, code: Exit) -> list[dict[str, Any]]:
        assert run([*command, "-o", "json"]) == code
        events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        (place,) = [place for place, event in enumerate(events) if event["event"] == "plan"]
        assert {event["event"] for event in events[:place]} <= {"check", "carriers"}, (
            "what was looked at alone goes before it"
        )
        steps: list[dict[str, Any]] = events[place]["steps"]
        return steps

    asked = plan("install", *IMAGE, code=Exit.USAGE)
    assert not here.hands.done
    installed = plan("install", *IMAGE, "--yes", code=Exit.OK)
    assert asked == installed
    assert installed[0]["title"] == "Make /etc/rancher"
    done = list(here.hands.done)
    upgraded = plan("upgrade", "--image", "x/y:2", code=Exit.USAGE)
    assert here.hands.done == done
    assert [step["name"] for step in upgraded] == [step["name"] for step in installed]
    back = plan("uninstall", code=Exit.USAGE)
    assert not here.hands.undone
    assert back == plan("uninstall", "--yes", code=Exit.OK)
    assert {"name": "settings", "undo": ["remove /etc/rancher"], "stays": []} in back
    assert back[-1] == {"name": "data", "undo": [], "stays": ["/var/lib/rancher"]}


def test_people_see_what_is_to_be_done_before_they_are_asked(
    here: Here, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(["install", *IMAGE, "--yes"])
    capsys.readouterr()

    def asked(question: str) -> None:
        seen.append(capsys.readouterr().out)
        raise CliError("nothing was done", Exit.INTERRUPTED)

    seen: list[str] = []
    for module in (cli_upgrade, cli_uninstall):
        monkeypatch.setattr(module, "is_somebody_there", lambda: True)
        monkeypatch.setattr(module, "ask", asked)
    assert run(["upgrade", "--image", "x/y:2"]) == Exit.INTERRUPTED
    assert run(["uninstall"]) == Exit.INTERRUPTED
    assert run(["uninstall", "--delete-data"]) == Exit.INTERRUPTED

    upgrading, leaving, deleting = seen
    assert "Put three replicas into the cluster; to undo: delete them" in upgrading
    assert "settings: remove /etc/rancher" in leaving
    assert "data: /var/lib/rancher stays" in leaving
    assert "data: remove /var/lib/rancher" in deleting
    assert not here.hands.undone


def test_a_step_that_fails_says_what_stands_and_how_to_go_on(here: Here, capsys: pytest.CaptureFixture[str]) -> None:
    here.hands.fails_at = SelfTest

    assert run(["install", *IMAGE, "--yes", "--site", "fra1"]) == Exit.FAILED

    err = capsys.readouterr().err
    assert "the load balancer has no address yet" in err
    assert "Look at kube-vip." in err
    assert "What is missing: self-test" in err
    assert "To go on from there: dragonfly install" in err
    here.hands.fails_at = None
    assert run(["install", "--yes"]) == Exit.OK
    assert here.journal.options() == Options(image="x/y:1", site="fra1")


def test_options_that_make_no_sense_are_told(here: Here, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["install", "--floating-ip", "nowhere", "--join", "x", "--yes"]) == Exit.USAGE

    err = capsys.readouterr().err
    assert "--floating-ip: must be" in err
    assert "--token-file: is needed" in err


def test_what_is_not_said_stays_and_an_address_is_taken_away_by_saying_so(here: Here) -> None:
    run(["install", *IMAGE, "--floating-ip", "10.0.0.50", "--no-dhcp", "--yes"])

    assert run(["install", "--site", "fra1", "--yes"]) == Exit.OK
    assert here.journal.options() == Options(image="x/y:1", floating_ip="10.0.0.50", dhcp=False, site="fra1")
    assert run(["install", "--floating-ip", "", "--dhcp", "--yes"]) == Exit.OK
    assert here.journal.options() == Options(image="x/y:1", site="fra1")


def test_with_options_too_what_another_server_has_made_of_the_cluster_stays(here: Here) -> None:
    run(["install", *IMAGE, "--k3s-version", "v1.2.3+k3s1", "--yes"])
    anothers = msgspec.structs.replace(
        parsed(here.hands.kept), image="x/y:2", site="fra1", tinkerbell_version="v0.26.0", floating_ip="10.0.0.60"
    )
    here.hands.kept = written(anothers)

    assert run(["install", "--site", "fra2", "--yes"]) == Exit.OK

    assert parsed(here.hands.kept) == msgspec.structs.replace(anothers, site="fra2")
    assert here.journal.options() == Options(
        image="x/y:2",
        site="fra2",
        tinkerbell_version="v0.26.0",
        floating_ip="10.0.0.60",
        k3s_version="v1.2.3+k3s1",
    )


def test_what_was_said_and_stopped_is_gone_on_with_on_top_of_what_another_has_made(here: Here) -> None:
    """Unless that has changed meanwhile: then what the other server says counts."""
    run(["install", *IMAGE, "--yes"])
    anothers = msgspec.structs.replace(parsed(here.hands.kept), image="x/y:2")
    here.hands.kept = written(anothers)
    here.hands.fails_at = KeepRecord
    assert run(["install", "--site", "fra2", "--yes"]) == Exit.FAILED
    here.hands.fails_at = None

    assert run(["install", "--yes"]) == Exit.OK
    assert parsed(here.hands.kept) == msgspec.structs.replace(anothers, site="fra2")

    here.hands.fails_at = KeepRecord
    assert run(["install", "--site", "fra3", "--yes"]) == Exit.FAILED
    here.hands.fails_at = None
    newest = msgspec.structs.replace(anothers, image="x/y:3")
    here.hands.kept = written(newest)
    assert run(["install", "--yes"]) == Exit.OK
    assert parsed(here.hands.kept) == newest


def test_a_server_that_has_joined_needs_no_join_again_and_says_nothing_of_the_whole_cluster(
    here: Here, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["install", *IMAGE, "--join", "10.0.0.2", "--token-file", str(tmp_path), "--yes"]) == Exit.OK

    assert run(["install", "--k3s-version", "v1.2.3+k3s1", "--yes"]) == Exit.OK
    options = here.journal.options()
    assert options is not None
    assert (options.join, options.k3s_version) == ("10.0.0.2", "v1.2.3+k3s1")
    done = len(here.hands.done)
    assert run(["install", "--site", "fra1", "--no-dhcp", "--yes"]) == Exit.REFUSED
    err = capsys.readouterr().err
    assert "--site, --dhcp: of the whole cluster, which this host has joined; nothing was changed" in err
    assert "dragonfly upgrade, on any server" in err
    assert len(here.hands.done) == done


def test_whose_etcd_it_is_the_cluster_says_to_who_joins(here: Here, tmp_path: Path) -> None:
    """The default is a founder's; said by someone who joins, it is that one's word."""
    joining = (*IMAGE, "--join", "10.0.0.2", "--token-file", str(tmp_path), "--yes")

    assert run(["install", *joining]) == Exit.OK
    (told,) = [action for action in here.hands.done if isinstance(action, GiveEtcd)]
    assert (told.mode, told.joins) == ("", True)
    assert run(["install", *joining, "--etcd", "shared"]) == Exit.OK
    assert [action.mode for action in here.hands.done if isinstance(action, GiveEtcd)] == ["", "shared"]


def test_who_contradicts_whose_etcd_it_is_is_refused_with_nothing_changed(
    here: Here, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here.facts = msgspec.structs.replace(GOOD, told_etcd="dedicated")
    joining = ("install", *IMAGE, "--join", "10.0.0.2", "--token-file", str(tmp_path), "--yes")

    assert run([*joining, "--etcd", "shared"]) == Exit.REFUSED

    out, err = capsys.readouterr()
    assert "the swarm of the cluster of 10.0.0.2 uses etcd 'dedicated'" in " ".join(out.split())
    assert "nothing was changed" in err
    assert not here.hands.done
    assert not here.journal.directory.exists()
    assert run([*joining]) == Exit.OK


@pytest.mark.parametrize("command", [("install",), ("uninstall", "--yes"), ("upgrade", "--yes")])
def test_a_damaged_journal_ends_each_command_with_its_place(
    here: Here, capsys: pytest.CaptureFixture[str], command: tuple[str, ...]
) -> None:
    run(["install", *IMAGE, "--yes"])
    file = here.journal.directory / "journal"
    file.write_bytes(b"{}\n" + file.read_bytes())

    assert run([*command]) == Exit.REFUSED

    assert "journal, line 1, cannot be read" in capsys.readouterr().err
    assert not here.hands.undone


def test_what_stays_is_said(here: Here, capsys: pytest.CaptureFixture[str]) -> None:
    run(["install", *IMAGE, "--yes"])
    capsys.readouterr()

    assert run(["uninstall", "--yes"]) == Exit.OK

    out = capsys.readouterr().out
    assert "stays: /var/lib/rancher" in out
    assert "dragonfly uninstall --delete-data" in out
    assert "What is installed on machines was not touched." in out
    assert RemoveTree("/etc/rancher") in here.hands.undone
    assert run(["uninstall", "--yes", "--delete-data"]) == Exit.OK
    assert not here.journal.directory.exists()
    assert run(["uninstall", "--yes"]) == Exit.NOT_FOUND


def test_a_founder_that_others_survive_leaves_the_cluster_to_them(
    here: Here, capsys: pytest.CaptureFixture[str]
) -> None:
    run(["install", *IMAGE, "--yes"])
    here.hands.carried_by = Carriers("host-1", ("host-2", "host-3"))
    capsys.readouterr()

    assert run(["uninstall", "--yes"]) == Exit.OK

    out = capsys.readouterr().out
    assert out.startswith("host-2, host-3 carry the cluster on: this host leaves it.")
    assert "stays: what step manifests put into the cluster" in out
    assert "Say there, on one of them, so that the replicas hear of it: dragonfly install" in out
    assert not [undo for undo in here.hands.undone if isinstance(undo, DeleteObjects)]
    leave, stop = (here.hands.undone.index(one) for one in (LeaveCluster("host-1"), StopService("k3s.service")))
    assert leave == stop - 1
    assert here.journal.left_to() == ("host-2", "host-3")
    assert run(["uninstall", "--yes", "--delete-data"]) == Exit.OK
    assert not [undo for undo in here.hands.undone if isinstance(undo, DeleteObjects)]
    assert not here.journal.directory.exists()


def test_what_is_in_a_cluster_that_does_not_answer_stays_and_that_is_said(
    here: Here, capsys: pytest.CaptureFixture[str]
) -> None:
    run(["install", *IMAGE, "--yes"])
    here.hands.carried_by = Carriers("host-1", problem="nodes cannot be listed: refused")
    capsys.readouterr()

    assert run(["uninstall", "--yes", "--delete-data"]) == Exit.OK

    out = capsys.readouterr().out
    assert "Nobody can tell whether other servers carry the cluster" in out
    assert "kubectl delete node host-1" in out
    assert not [undo for undo in here.hands.undone if isinstance(undo, DeleteObjects)]
    assert StopService("k3s.service") in here.hands.undone


@pytest.mark.parametrize("etcd", ["shared", "dedicated"])
def test_the_swarms_data_is_not_deleted_where_nobody_can_tell_whether_others_need_it(
    etcd: str, here: Here, capsys: pytest.CaptureFixture[str]
) -> None:
    run(["install", *IMAGE, "--etcd", etcd, "--yes"])
    here.hands.swarms_data, here.hands.clusters_data = etcd == "dedicated", True
    here.hands.carried_by = Carriers("host-1", problem="k3s does not run")

    assert run(["uninstall", "--yes", "--delete-data"]) == Exit.REFUSED

    told = capsys.readouterr().err
    assert "nobody can tell whether other servers carry the cluster on (k3s does not run)" in told
    assert "systemctl start k3s" in told
    assert not here.hands.undone
    assert run(["uninstall", "--yes"]) == Exit.OK
    assert not [undo for undo in here.hands.undone if isinstance(undo, RemoveTree) and undo.is_data]
    assert run(["uninstall", "--yes", "--delete-data"]) == Exit.OK, "one that was begun is gone on with"


def test_what_never_came_to_be_a_swarm_is_deleted_though_k3s_does_not_run(here: Here) -> None:
    here.hands.fails_at = AwaitReplicas
    assert run(["install", *IMAGE, "--yes"]) == Exit.FAILED
    here.hands.clusters_data = True
    here.hands.carried_by = Carriers("host-1", problem="k3s does not run")

    assert run(["uninstall", "--yes", "--delete-data"]) == Exit.OK


def test_a_founder_that_cannot_leave_is_of_its_cluster_still(here: Here) -> None:
    run(["install", *IMAGE, "--etcd", "dedicated", "--yes"])
    here.hands.carried_by = Carriers("host-1", ("host-2",), members=("host-1", "host-2"))
    here.hands.cannot_undo = LeaveEtcd

    assert run(["uninstall", "--yes"]) == Exit.FAILED

    assert not here.journal.left_to()
    here.hands.cannot_undo = LeaveCluster
    assert run(["uninstall", "--yes"]) == Exit.FAILED
    assert here.journal.left_to() == ("host-2",), "it may have left"


def test_a_host_that_the_swarms_own_etcd_cannot_do_without_does_not_leave(
    here: Here, capsys: pytest.CaptureFixture[str]
) -> None:
    run(["install", *IMAGE, "--etcd", "dedicated", "--yes"])
    problem = "it is the only member of the swarm's own etcd"
    here.hands.carried_by = Carriers("host-1", ("host-2",), members=("host-1",), etcd_problem=problem)

    assert run(["uninstall", "--yes", "--delete-data"]) == Exit.REFUSED

    told = capsys.readouterr().err
    assert f"the swarm's own etcd cannot do without this host: {problem}; nothing was changed" in told
    assert "Have more members first: dragonfly install" in told
    assert not here.hands.undone


def test_a_host_takes_its_member_of_the_swarms_own_etcd_out_before_its_node(
    here: Here, capsys: pytest.CaptureFixture[str]
) -> None:
    run(["install", *IMAGE, "--etcd", "dedicated", "--yes"])
    here.hands.carried_by = Carriers("host-1", ("host-2", "host-3"), members=("host-1", "host-2", "host-3"))

    assert run(["uninstall", "--yes", "--delete-data"]) == Exit.OK

    assert here.hands.undone[:3] == [LeaveEtcd("host-1"), LeaveCluster("host-1"), StopService("k3s.service")]
    assert "has 2 members and tolerates the loss of none" in capsys.readouterr().out


def test_what_the_number_of_members_means_is_said_in_the_end(here: Here, capsys: pytest.CaptureFixture[str]) -> None:
    here.hands.said = "The swarm's own etcd has 3 members and tolerates the loss of 1."

    assert run(["install", *IMAGE, "--etcd", "dedicated", "--yes"]) == Exit.OK
    assert here.hands.said in capsys.readouterr().out
    assert run(["install", "--yes", "-o", "json"]) == Exit.OK
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["etcd"] == here.hands.said


def test_uninstalling_asks_too(here: Here, capsys: pytest.CaptureFixture[str]) -> None:
    run(["install", *IMAGE, "--yes"])

    assert run(["uninstall"]) == Exit.USAGE
    assert not here.hands.undone
