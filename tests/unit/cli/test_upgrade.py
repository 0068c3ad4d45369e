"""`upgrade` as people and programs meet it; hosts and hands are values here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dragonfly.cli import upgrade as cli_upgrade
from dragonfly.cli.errors import Exit
from dragonfly.cli.main import run
from dragonfly.install.carriers import Carriers
from dragonfly.install.execution import StepFailed
from dragonfly.install.options import Options
from dragonfly.install.recorded import Record, as_object, parsed, written
from dragonfly.install.steps import (
    ApplyChart,
    ApplyObjects,
    AwaitImage,
    AwaitReplicas,
    DeleteObjects,
    GiveEtcd,
    ImportImages,
    KeepRecord,
    RemoveTree,
    SelfTest,
)
from tests.unit.cli.installer import IMAGE, Here


def told(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]


@pytest.fixture
def archive(tmp_path: Path) -> str:
    file = tmp_path / "image.tar"
    file.write_bytes(b"")
    return str(file)


FOUNDED = Record(host="host-0", address="10.0.0.9", etcd="shared", image="x/y:1", floating_ip="10.0.0.50", site="fra1")


def joined(here: Here, tmp_path: Path) -> None:
    """Make the host one that has joined the cluster of another, which is there still."""
    here.hands.kept, here.hands.nodes = written(FOUNDED), ("host-0", "node-1")
    joining = ("--image-archive", str(tmp_path / "old.tar"), "--join", "10.0.0.9", "--token-file", str(tmp_path))
    assert run(["install", *joining, "--yes"]) == Exit.OK
    here.hands.done.clear()


def test_a_file_is_taken_away_by_saying_so(here: Here, archive: str) -> None:
    """As with `install`: an empty path is none, and not where the command runs."""
    assert run(["install", "--image-archive", archive, "--yes"]) == Exit.OK

    assert run(["upgrade", "--image", "x/y:2", "--image-archive", "", "--airgap", "", "--yes"]) == Exit.OK

    assert here.journal.options() == Options(image="x/y:2")


def test_replicas_are_not_upgraded_while_another_host_lacks_their_image(
    here: Here, archive: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The host does its own part, and says where to go on; a script that says it on each host ends well."""
    assert run(["install", "--image", "x/y:1", "--yes"]) == Exit.OK
    here.hands.done.clear()
    here.hands.lacking = ("host-2", "host-3")
    brought = ("--image", "x/y:2", "--image-archive", archive, "--yes")

    assert run(["upgrade", *brought]) == Exit.OK

    out = capsys.readouterr().out
    assert "The image x/y:2 is not yet on host-2, host-3, so this is for this host alone:" in out
    assert "This host has the image x/y:2; no replica was replaced yet." in out
    assert "Say the same next on host-2, host-3. The last one replaces the replicas." in out
    assert [type(action) for action in here.hands.done[-2:]] == [ImportImages, AwaitImage]
    assert not [one for one in here.hands.done if isinstance(one, ApplyObjects | ApplyChart | KeepRecord | GiveEtcd)]
    assert here.journal.options() == Options(image="x/y:1", image_archive=archive), "others have no such image yet"
    assert not here.journal.former.exists()
    assert run(["upgrade", *brought, "-o", "json"]) == Exit.OK
    assert told(capsys)[-1] == {"event": "prepared", "image": "x/y:2", "lacking": ["host-2", "host-3"]}
    here.hands.lacking = ()
    assert run(["upgrade", *brought, "-o", "json"]) == Exit.OK
    assert told(capsys)[-1] == {"event": "upgraded", "address": "http://10.0.0.50:3000"}
    assert here.journal.options() == Options(image="x/y:2", image_archive=archive)
    assert parsed(here.hands.kept).image == "x/y:2"


def test_a_host_that_is_away_is_not_waited_for_and_told_before_anything_changes_and_in_the_end(
    here: Here, archive: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """It gets no pods now, but it will, and then lacks their image."""
    assert run(["install", "--image", "x/y:1", "--yes"]) == Exit.OK
    here.hands.away = ("host-3", "host-4")
    brought = ("upgrade", "--image", "x/y:2", "--image-archive", archive)

    assert run([*brought]) == Exit.USAGE, "nobody is there to be asked"

    asked = capsys.readouterr().out
    assert (
        "Not waited for, as not ready or cordoned: host-3, host-4. The image x/y:2 is not known to be there." in asked
    )
    assert parsed(here.hands.kept).image == "x/y:1"
    assert run([*brought, "--yes"]) == Exit.OK
    assert parsed(here.hands.kept).image == "x/y:2"
    end = capsys.readouterr().out.partition("Dragonfly answers at")[2]
    assert "Say the same on host-3, host-4 too, once ready or no longer cordoned" in end
    assert "k3s kubectl delete node NAME" in end


def test_a_program_is_told_who_is_away(here: Here, archive: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["install", "--image", "x/y:1", "--yes"]) == Exit.OK
    brought = ("upgrade", "--image", "x/y:2", "--image-archive", archive, "--yes", "-o", "json")
    here.hands.lacking, here.hands.away = ("host-2",), ("host-3",)
    capsys.readouterr()

    assert run([*brought]) == Exit.OK
    prepared = told(capsys)
    here.hands.lacking = ()
    assert run([*brought]) == Exit.OK
    upgraded = told(capsys)

    for events, last in ((prepared, "prepared"), (upgraded, "upgraded")):
        assert [events[0]["event"], events[-1]["event"]] == ["plan", last]
        assert events[0]["away"] == events[-1]["away"] == ["host-3"]


def test_what_is_pulled_needs_no_other_hosts_word(here: Here, archive: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["install", "--image-archive", archive, "--yes"]) == Exit.OK
    here.hands.lacking, here.hands.away = ("host-2",), ("host-3",)
    capsys.readouterr()

    assert run(["upgrade", "--image", "x/y:2", "--yes"]) == Exit.OK

    assert parsed(here.hands.kept).image == "x/y:2"
    assert "host-" not in capsys.readouterr().out


def test_one_that_pulls_its_image_is_gone_on_with_as_such(here: Here, archive: str) -> None:
    """Though the host keeps an archive of the former image."""
    assert run(["install", "--image-archive", archive, "--yes"]) == Exit.OK
    here.hands.lacking = ("host-2",)
    here.hands.fails_at = KeepRecord
    assert run(["upgrade", "--image", "x/y:2", "--yes"]) == Exit.FAILED
    here.hands.fails_at = None

    assert run(["upgrade", "--yes"]) == Exit.OK

    assert parsed(here.hands.kept) == Record(host="node-1", address="10.0.0.1", etcd="shared", image="x/y:2")


def test_a_host_that_joined_upgrades_the_swarm_as_the_cluster_has_it(
    here: Here, tmp_path: Path, archive: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "old.tar").write_bytes(b"")
    joined(here, tmp_path)

    assert run(["upgrade", "--image", "x/y:2", "--image-archive", archive, "--yes", "-o", "json"]) == Exit.OK

    assert told(capsys)[-1]["event"] == "upgraded"
    assert parsed(here.hands.kept) == msgspec.structs.replace(FOUNDED, image="x/y:2", brought=True)
    applied = [obj for one in here.hands.done if isinstance(one, ApplyObjects) for obj in one.objects]
    (service,) = [obj for obj in applied if obj["kind"] == "Service"]
    assert service["spec"]["loadBalancerIP"] == "10.0.0.50"
    (chart,) = [one.object for one in here.hands.done if isinstance(one, ApplyChart)]
    assert "publicIP: 10.0.0.9" in chart["spec"]["valuesContent"]
    options = here.journal.options()
    assert options is not None
    assert (options.image, options.floating_ip, options.site) == ("x/y:2", "", ""), "what is the cluster's is there"
    here.hands.done.clear()
    assert run(["install", "--yes"]) == Exit.OK
    assert not [one for one in here.hands.done if isinstance(one, ApplyObjects | ApplyChart | KeepRecord)]


@pytest.mark.parametrize("upgrades", [True, False])
def test_a_host_that_joined_takes_off_as_the_last_one_what_it_has_put_there(
    here: Here, tmp_path: Path, *, upgrades: bool
) -> None:
    """One that never upgraded put nothing there; what is there goes with k3s and its data."""
    (tmp_path / "old.tar").write_bytes(b"")
    joined(here, tmp_path)
    if upgrades:
        assert run(["upgrade", "--yes"]) == Exit.OK

    assert run(["uninstall", "--yes", "--delete-data"]) == Exit.OK

    deleted = [name.name for undo in here.hands.undone if isinstance(undo, DeleteObjects) for name in undo.objects]
    assert ("dragonfly-installation" in deleted) == upgrades
    assert RemoveTree("/var/lib/rancher", is_data=True) in here.hands.undone
    assert not here.journal.directory.exists()


def test_a_host_that_joined_leaves_to_the_others_what_it_has_put_there(here: Here, tmp_path: Path) -> None:
    (tmp_path / "old.tar").write_bytes(b"")
    joined(here, tmp_path)
    assert run(["upgrade", "--yes"]) == Exit.OK
    here.hands.carried_by = Carriers("node-1", ("host-0",))

    assert run(["uninstall", "--yes", "--delete-data"]) == Exit.OK

    assert not [undo for undo in here.hands.undone if isinstance(undo, DeleteObjects)]


def test_who_upgrades_takes_tinkerbell_over_from_a_host_that_is_gone(
    here: Here, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "old.tar").write_bytes(b"")
    joined(here, tmp_path)
    here.hands.nodes = ("node-1", "node-2")

    assert run(["upgrade", "--yes"]) == Exit.OK

    assert "with 10.0.0.1 for that of host-0, which is gone" in capsys.readouterr().out
    assert parsed(here.hands.kept) == msgspec.structs.replace(FOUNDED, host="node-1", address="10.0.0.1")


def test_without_a_record_only_the_founder_knows_what_is_installed(
    here: Here, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "old.tar").write_bytes(b"")
    joined(here, tmp_path)
    here.hands.kept = ""

    assert run(["upgrade", "--image", "x/y:2", "--yes"]) == Exit.REFUSED

    err = capsys.readouterr().err
    assert "keeps no record of its installation (ConfigMap dragonfly/dragonfly-installation)" in err
    assert "Say it on the server that founded the cluster" in err
    given = err.partition("--from-literal=installation='")[2].partition("'")[0]
    assert not here.hands.done
    here.hands.kept = given
    assert run(["upgrade", "--image", "x/y:2", "--yes"]) == Exit.OK


def test_a_record_of_a_newer_version_is_left_alone(here: Here, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["install", *IMAGE, "--yes"]) == Exit.OK
    here.hands.done.clear()
    here.hands.kept = '{"version":2}'

    assert run(["upgrade", "--image", "x/y:2", "--yes"]) == run(["install", "--yes"]) == Exit.REFUSED

    assert "has version 2, and this Dragonfly knows 1: a newer one wrote it" in capsys.readouterr().err
    assert not here.hands.done


def test_an_upgrade_that_stopped_is_gone_on_with_by_saying_upgrade(
    here: Here, tmp_path: Path, archive: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was said the first time is what it becomes, also where it stopped before the cluster heard of it."""
    (tmp_path / "old.tar").write_bytes(b"")
    joined(here, tmp_path)
    here.hands.fails_at = ImportImages
    brought = ("--image", "x/y:2", "--image-archive", archive, "--tinkerbell-version", "v0.26.0", "--yes")
    assert run(["upgrade", *brought]) == Exit.FAILED
    assert "To go on from there: dragonfly upgrade" in capsys.readouterr().err
    assert parsed(here.hands.kept) == FOUNDED
    here.hands.fails_at = None

    assert run(["upgrade", "--yes"]) == Exit.OK

    wanted = {"image": "x/y:2", "brought": True, "tinkerbell_version": "v0.26.0"}
    assert parsed(here.hands.kept) == msgspec.structs.replace(FOUNDED, **wanted)
    assert not here.journal.former.exists()


def test_an_upgrade_that_stopped_gives_way_to_one_that_another_server_has_made_since(
    here: Here, tmp_path: Path, archive: str
) -> None:
    (tmp_path / "old.tar").write_bytes(b"")
    joined(here, tmp_path)
    here.hands.fails_at = ImportImages
    assert run(["upgrade", "--image", "x/y:2", "--image-archive", archive, "--yes"]) == Exit.FAILED
    here.hands.fails_at = None
    anothers = msgspec.structs.replace(FOUNDED, image="x/y:3")
    here.hands.kept = written(anothers)

    assert run(["upgrade", "--image", "x/y:3", "--yes"]) == Exit.OK

    assert parsed(here.hands.kept) == anothers


def test_what_it_goes_back_to_is_kept_until_somebody_has_said_yes(here: Here) -> None:
    assert run(["install", *IMAGE, "--yes"]) == Exit.OK
    here.hands.fails_at = KeepRecord
    assert run(["upgrade", "--image", "x/y:2", "--yes"]) == Exit.FAILED
    kept = here.journal.former.read_bytes()
    here.hands.kept = written(msgspec.structs.replace(parsed(here.hands.kept), site="fra9"))

    assert run(["upgrade", "--image", "x/y:2"]) == Exit.USAGE

    assert here.journal.former.read_bytes() == kept


def test_the_founder_takes_up_what_another_server_made_of_the_cluster(here: Here) -> None:
    assert run(["install", *IMAGE, "--yes"]) == Exit.OK
    newer = msgspec.structs.replace(parsed(here.hands.kept), image="x/y:2")
    here.hands.kept = written(newer)

    assert run(["install", "--yes"]) == Exit.OK

    assert parsed(here.hands.kept) == newer
    assert here.journal.options() == Options(image="x/y:2")


def test_a_founder_whose_cluster_does_not_answer_replaces_only_the_record_that_it_knows(here: Here) -> None:
    assert run(["install", *IMAGE, "--yes"]) == Exit.OK
    last = here.hands.kept
    here.hands.done.clear()
    here.hands.answers = False

    assert run(["install", "--site", "fra1", *IMAGE, "--yes"]) == Exit.OK

    assert [one.before for one in here.hands.done if isinstance(one, KeepRecord)] == [last]


def test_one_that_goes_back_leaves_k3s_as_it_has_made_it(here: Here) -> None:
    """What a newer k3s has written an older one may not read: no later `install` may bring the former one."""
    assert run(["install", *IMAGE, "--yes"]) == Exit.OK
    here.hands.former = [{"kind": "Deployment", "apiVersion": "apps/v1", "metadata": {"name": "dragonfly"}}]
    here.hands.fails_at = AwaitReplicas
    here.hands.done.clear()

    assert run(["upgrade", "--image", "x/y:2", "--k3s-version", "v1.40.0+k3s1", "--yes"]) == Exit.FAILED

    assert here.journal.options() == Options(image="x/y:1", k3s_version="v1.40.0+k3s1")


def test_one_that_another_server_has_overtaken_says_so_and_takes_its_word_up(
    here: Here, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["install", *IMAGE, "--yes"]) == Exit.OK
    here.hands.former = [as_object(here.hands.kept)]
    here.hands.fails_at = AwaitReplicas
    here.hands.done.clear()
    anothers = msgspec.structs.replace(parsed(here.hands.kept), image="x/y:3")
    here.hands.meanwhile = written(anothers)

    upgrading = ("upgrade", "--image", "x/y:2", "--k3s-version", "v1.40.0+k3s1", "--yes")
    assert run([*upgrading]) == Exit.FAILED

    err = capsys.readouterr().err
    assert "Another server has changed the installation meanwhile, so nothing was put back" in err
    assert parsed(here.hands.kept) == anothers
    assert here.journal.options() == Options(image="x/y:1", k3s_version="v1.40.0+k3s1")
    here.hands.fails_at = None
    assert run(["install", "--yes"]) == Exit.OK
    assert parsed(here.hands.kept) == anothers


def test_one_that_was_killed_and_goes_back_then_leaves_the_options_of_before_it(here: Here) -> None:
    assert run(["install", *IMAGE, "--yes"]) == Exit.OK
    here.hands.former = [{"kind": "Deployment", "apiVersion": "apps/v1", "metadata": {"name": "dragonfly"}}]
    here.hands.done.clear()
    here.hands.fails_at = KeepRecord
    assert run(["upgrade", "--image", "x/y:2", "--yes"]) == Exit.FAILED
    assert here.journal.options() == Options(image="x/y:2")
    here.hands.fails_at = AwaitReplicas

    assert run(["upgrade", "--yes"]) == Exit.FAILED

    assert here.journal.options() == Options(image="x/y:1")


def test_what_was_kept_of_an_upgrade_and_cannot_be_read_is_told(here: Here, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["install", *IMAGE, "--yes"]) == Exit.OK
    here.journal.former.write_bytes(b"")

    assert run(["upgrade", "--image", "x/y:2", "--yes"]) == Exit.REFUSED

    assert f"{here.journal.former} cannot be read" in capsys.readouterr().err


def test_an_upgrade_tells_what_its_members_mean(here: Here, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["install", *IMAGE, "--yes"]) == Exit.OK
    here.hands.said = "The swarm's own etcd has 2 members."

    assert run(["upgrade", "--image", "x/y:2", "--yes"]) == Exit.OK

    assert "The swarm's own etcd has 2 members." in capsys.readouterr().out


def test_only_what_is_installed_is_upgraded(here: Here, capsys: pytest.CaptureFixture[str]) -> None:

    assert run(["upgrade", "--image", "x/y:2", "--yes"]) == Exit.NOT_FOUND

    assert "See: dragonfly install" in capsys.readouterr().err


def test_a_half_finished_installation_is_not_upgraded_and_neither_is_one_that_was_taken_off(
    here: Here, capsys: pytest.CaptureFixture[str]
) -> None:
    here.hands.fails_at = SelfTest
    run(["install", *IMAGE, "--yes"])
    capsys.readouterr()

    assert run(["upgrade", "--image", "x/y:2", "--yes"]) == Exit.NOT_FOUND

    err = capsys.readouterr().err
    assert "an installation has begun and stopped at step self-test; there is nothing to upgrade yet" in err
    assert "Go on with it: dragonfly install. Or take it back: dragonfly uninstall." in err
    here.hands.fails_at = None
    run(["install", "--yes"])
    run(["uninstall", "--yes"])
    assert run(["upgrade", "--image", "x/y:2", "--yes"]) == Exit.NOT_FOUND
    assert "its data is still here; there is nothing to upgrade yet" in capsys.readouterr().err


def test_a_layout_that_is_not_known_is_refused_before_anything_changes(
    here: Here, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(["install", *IMAGE, "--yes"])
    here.hands.done.clear()

    def unknown(secret: object) -> None:
        raise StepFailed("etcd holds layout version 9, and this Dragonfly knows 1", "Use a newer one.")

    monkeypatch.setattr(cli_upgrade, "check_schema", unknown)

    assert run(["upgrade", "--image", "x/y:2", "--yes"]) == Exit.REFUSED

    assert "etcd holds layout version 9" in capsys.readouterr().err
    assert not here.hands.done
    assert here.journal.options() == Options(image="x/y:1")


def test_an_upgrade_keeps_the_other_options(here: Here, capsys: pytest.CaptureFixture[str]) -> None:
    run(["install", *IMAGE, "--site", "fra1", "--yes"])

    assert run(["upgrade", "--image", "x/y:2", "--yes"]) == Exit.OK

    assert here.journal.options() == Options(image="x/y:2", site="fra1")
    assert capsys.readouterr().out.endswith("\nDragonfly answers at http://10.0.0.50:3000\n")
