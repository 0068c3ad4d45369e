"""An installation that is killed at any moment goes on, and uninstalling leaves the host as it was."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

from dragonfly.install.carriers import Carriers
from dragonfly.install.cluster import Cluster
from dragonfly.install.execution import Event, StepFailed, Stopped, install, uninstall, way_back
from dragonfly.install.hands import RealHands
from dragonfly.install.host import Host
from dragonfly.install.journal import Busy, Journal, UnknownJournal
from dragonfly.install.options import Options
from dragonfly.install.steps import (
    Action,
    CopyFile,
    DeleteObjects,
    FoundEtcd,
    Gone,
    JoinEtcd,
    LeaveCluster,
    LeaveEtcd,
    MakeDirectory,
    MakeSecrets,
    Plan,
    StartService,
    Step,
    StopService,
    Undo,
    WriteFile,
    in_words,
)
from tests.unit.install.crashes import killed_at, tree

UNIT = "k3s.service"


class TreeHost(Host):
    """A tree with a systemd of its own: a unit that runs has a file, and makes what k3s would make."""

    def systemctl(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        running = self.path("/run/units")
        match arguments:
            case ("restart", unit):
                running.mkdir(parents=True, exist_ok=True)
                (running / unit).touch()
                for place in ("/var/lib/rancher/db", "/var/lib/kubelet/pods"):
                    self.path(place).parent.mkdir(parents=True, exist_ok=True)
                    self.path(place).touch()
            case ("is-active", _, unit):
                return subprocess.CompletedProcess(arguments, 0 if (running / unit).exists() else 3, "", "")
            case _:
                pass
        return subprocess.CompletedProcess(arguments, 0, "", "")

    def stop(self, unit: str) -> None:
        (self.path("/run/units") / unit).unlink(missing_ok=True)


class TreeHands(RealHands):
    """The cluster is a file for each Secret."""

    def __init__(self, host: Host, saved: Path) -> None:
        super().__init__(host, saved)
        self._tree = host

    def _secret(self, name: str) -> Path:
        return self._tree.path(f"/var/lib/rancher/secret-{name}")

    def is_done(self, action: Action, proof: str) -> bool:
        return self._secret(action.name).exists() if isinstance(action, MakeSecrets) else super().is_done(action, proof)

    def carry_out(self, action: Action, say: Callable[[str], None]) -> str:
        if not isinstance(action, MakeSecrets):
            return super().carry_out(action, say)
        self._secret(action.name).touch()
        return ""


class World:
    """A host that was in use before: one of the files to be written is there already."""

    def __init__(self, directory: Path) -> None:
        self.root = directory / "root"
        (self.root / "etc").mkdir(parents=True)
        (self.root / "var/lib").mkdir(parents=True)
        (self.root / "run/units").mkdir(parents=True)
        unit = self.root / "etc/systemd/system" / UNIT
        unit.parent.mkdir(parents=True)
        unit.write_text("somebody's")
        unit.chmod(0o640)
        archive = directory / "images.tar"
        archive.write_bytes(b"image" * 1000)
        self.before = tree(self.root)
        self.journal = Journal(self.root / "var/lib/dragonfly/install")
        self.hands = TreeHands(TreeHost(self.root), self.journal.saved)
        self.told: list[Event] = []
        self.plan = Plan(tuple(_steps(archive)))

    def install(self) -> None:
        install(self.plan, self.hands, self.journal, self.told.append)

    def uninstall(self, *, delete_data: bool = True) -> None:
        remains = uninstall(
            self.hands, self.journal, self.told.append, carriers=self.hands.carriers(), delete_data=delete_data
        )
        if not remains.kept:
            self.journal.remove()

    def installed(self) -> dict[str, tuple[int, bytes]]:
        """The tree without the journal."""
        return {name: found for name, found in tree(self.root).items() if "dragonfly" not in name}

    def states(self) -> set[str]:
        return {event.state for event in self.told if event.event == "step"}


def _steps(archive: Path) -> Iterator[Step]:
    def step(name: str, action: Action) -> Step:
        return Step(name, name, name, "", action)

    yield step("data", MakeDirectory("/var/lib/rancher", is_tree=True, is_data=True))
    yield step("config", WriteFile("/etc/rancher/k3s/config.yaml", "a: 1\n", 0o600))
    yield step("image", CopyFile(str(archive), "/var/lib/rancher/images/images.tar"))
    yield step("unit", WriteFile(f"/etc/systemd/system/{UNIT}", "ours"))
    yield step("k3s", StartService(UNIT, files=(f"/etc/systemd/system/{UNIT}",), trees=("/var/lib/kubelet",)))
    yield step("secrets", MakeSecrets("dragonfly", "dragonfly"))


@pytest.fixture(autouse=True)
def without_a_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that is killed loses nothing of what it wrote; only a power cut would."""
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture
def finished(tmp_path: Path) -> dict[str, tuple[int, bytes]]:
    """What a host looks like on which nothing went wrong."""
    world = World(tmp_path / "finished")
    world.install()
    return world.installed()


def test_the_second_time_nothing_changes(world: World) -> None:
    world.install()
    before = tree(world.root)
    world.told.clear()

    world.install()

    assert tree(world.root) == before
    assert world.states() == {"unchanged"}


def test_what_somebody_changed_is_repaired_and_what_depends_on_it_started_again(world: World) -> None:
    world.install()
    (world.root / "etc/systemd/system" / UNIT).write_text("meddled with")
    world.told.clear()

    world.install()

    done = [event.step for event in world.told if event.state == "done"]
    assert done == ["unit"]
    assert (world.root / "etc/systemd/system" / UNIT).read_text() == "ours"


def test_a_node_leaves_its_cluster_before_its_k3s_is_stopped(world: World) -> None:
    """However soon it was ready: the undo is that of the step that made it a node."""
    start = StartService(UNIT, leaves="node-2")

    undo = world.hands.undo_of("k3s", start)

    assert [in_words(one) for one in undo] == [
        "take node node-2 out of the cluster",
        f"stop {UNIT} and its containers",
    ]


def test_the_cluster_is_asked_who_carries_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a kubeconfig there is none; one whose k3s does not run is not waited for."""
    assert not world.hands.carriers().goes_on
    host = world.hands.carriers().host
    monkeypatch.setattr(Cluster, "is_known", property(lambda _: True))
    nodes = {"node-role.kubernetes.io/etcd": (host, "other-1", "other-2"), "dragonfly.io/etcd": (host,)}
    monkeypatch.setattr(Cluster, "labelled_names", lambda _, label, value: nodes[label])
    monkeypatch.setattr(world.hands.own_etcd, "leaving_problem", lambda name: f"{name} is the only one")
    assert world.hands.carriers() == Carriers(
        host, ("other-1", "other-2"), (host,), etcd_problem=f"{host} is the only one"
    )

    def refused(*_: str) -> tuple[str, ...]:
        raise StepFailed("nodes cannot be listed: connection refused")

    monkeypatch.setattr(Cluster, "labelled_names", refused)
    assert world.hands.carriers() == Carriers(host, problem="nodes cannot be listed: connection refused")


def test_a_founder_that_leaves_takes_nothing_out_of_the_cluster_and_all_off_itself(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.install()
    taken: list[Undo] = []
    real = world.hands.take_back

    def take(undo: Undo, say: Callable[[str], None]) -> str:
        taken.append(undo)
        return real(undo, say)

    monkeypatch.setattr(world.hands, "take_back", take)
    monkeypatch.setattr(world.hands, "carriers", lambda: Carriers("host-1", ("host-2",)))

    world.uninstall()

    assert tree(world.root) == world.before
    assert not [undo for undo in taken if isinstance(undo, DeleteObjects)]
    assert taken.index(LeaveCluster("host-1")) == taken.index(StopService(UNIT)) - 1


def test_uninstalling_leaves_the_host_as_it_was(world: World) -> None:
    world.install()

    world.uninstall()

    assert tree(world.root) == world.before


def test_data_goes_last_though_its_directory_came_late(world: World) -> None:
    """A host of an older version gets some directories only when k3s runs already, and with it what uses them."""
    late = Step("own", "own", "own", "", MakeDirectory("/var/lib/dragonfly-etcd", is_tree=True, is_data=True))
    world.plan = Plan((*world.plan.steps, late))
    world.install()

    way = way_back(world.journal, Carriers("host-1"), delete_data=True)

    assert [back.step for back in way] == ["secrets", "k3s", "unit", "image", "config", "own", "data"]


def test_killed_at_any_touch_it_goes_on(tmp_path: Path, finished: dict[str, tuple[int, bytes]]) -> None:
    for touch in count(1):
        world = World(tmp_path / str(touch))
        was_killed = killed_at(touch, world.install)

        world.install()

        assert world.installed() == finished, f"killed at touch {touch}"
        world.uninstall()
        assert tree(world.root) == world.before, f"killed at touch {touch}"
        if not was_killed:
            break
    assert touch > 25


def test_killed_at_any_touch_it_can_be_taken_back(tmp_path: Path) -> None:
    for touch in count(1):
        world = World(tmp_path / str(touch))
        was_killed = killed_at(touch, world.install)

        world.uninstall()

        assert tree(world.root) == world.before, f"killed at touch {touch}"
        if not was_killed:
            break


def test_uninstalling_that_is_killed_goes_on_and_so_does_installing_after_it(
    tmp_path: Path, finished: dict[str, tuple[int, bytes]]
) -> None:
    for touch in count(1):
        world, other = World(tmp_path / str(touch)), World(tmp_path / f"{touch}-again")
        for one in (world, other):
            one.install()
        was_killed = killed_at(touch, world.uninstall)
        killed_at(touch, other.uninstall)

        world.uninstall()
        other.install()

        assert tree(world.root) == world.before, f"killed at touch {touch}"
        assert other.installed() == finished, f"killed at touch {touch}"
        other.uninstall()
        assert tree(other.root) == other.before, f"killed at touch {touch}"
        if not was_killed:
            break
    assert touch > 10


def test_data_stays_unless_it_is_to_be_deleted(world: World) -> None:
    world.install()

    world.uninstall(delete_data=False)

    kept = [event.text for event in world.told if event.event == "kept"]
    assert kept == ["delete Secret dragonfly", "remove /var/lib/rancher"]
    assert (world.root / "var/lib/rancher/db").exists()
    assert not (world.root / "var/lib/rancher/images").exists()
    assert not (world.root / "etc/rancher").exists()
    world.uninstall()
    assert tree(world.root) == world.before


def test_an_installation_goes_on_with_data_that_stayed(world: World, finished: dict[str, tuple[int, bytes]]) -> None:
    world.install()
    (world.root / "var/lib/rancher/db").write_text("machines")
    world.uninstall(delete_data=False)

    world.install()

    assert (world.root / "var/lib/rancher/db").read_text() == "machines"
    assert world.installed().keys() == finished.keys()
    world.uninstall()
    assert tree(world.root) == world.before


def test_a_step_that_fails_tells_what_stands_and_what_is_missing(world: World, tmp_path: Path) -> None:
    (tmp_path / "images.tar").unlink()

    with pytest.raises(Stopped) as stopped:
        world.install()

    assert stopped.value.step.name == "image"
    assert "images.tar cannot be copied" in str(stopped.value)
    assert [step.name for step in stopped.value.done] == ["data", "config"]
    assert [step.name for step in stopped.value.missing] == ["image", "unit", "k3s", "secrets"]
    assert world.told[-1].state == "failed"
    world.uninstall()
    assert tree(world.root) == world.before


def test_who_leaves_the_swarms_own_etcd_tells_what_it_waits_for_and_waits_as_long_as_who_joins(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.install()
    answers = iter(["nodes cannot be read: the API server is busy", ""])
    monkeypatch.setattr(world.hands.own_etcd, "leave", lambda *_: next(answers))
    monkeypatch.setattr(world.hands, "carriers", lambda: Carriers("host-1", ("host-2",), ("host-1", "host-2")))

    world.uninstall()

    leaving = in_words(LeaveEtcd("host-1"))
    told = [event.text for event in world.told]
    waiting = told.index(leaving) + 1
    assert told[waiting : waiting + 2] == ["nodes cannot be read: the API server is busy", leaving]
    assert LeaveEtcd("host-1").seconds == JoinEtcd("host-1", "").seconds == FoundEtcd("host-1", "").seconds


def test_what_cannot_be_taken_back_is_tried_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.install()
    real = world.hands.take_back

    def busy(undo: Undo, say: Callable[[str], None]) -> str:
        if in_words(undo) == "remove /var/lib/kubelet":
            raise StepFailed("/var/lib/kubelet cannot be removed: Device or resource busy")
        return real(undo, say)

    monkeypatch.setattr(world.hands, "take_back", busy)
    with pytest.raises(StepFailed):
        world.uninstall()
    monkeypatch.undo()

    world.uninstall()

    assert tree(world.root) == world.before


def test_the_journal_knows_what_was_asked_and_reads_over_a_torn_line(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "a" / "install")
    options = Options(floating_ip="10.0.0.50", image="x/y:1")
    journal.asked(options)
    journal.begun("one", ())
    file = tmp_path / "a" / "install" / "journal"
    file.write_bytes(file.read_bytes() + b'{"type":"done","st')

    assert journal.options() == options
    assert journal.records()["one"].state == "begun"
    journal.done("one", "proof")
    assert Journal(journal.directory).records()["one"].proof == "proof"
    assert file.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "line", ['{"type":"done","st', "\x00\x00", '{"type":"unheard-of"}', '["opened"]', '{"type":"opened","version":"x"}']
)
def test_a_damaged_journal_is_told_with_the_line_and_what_to_do(tmp_path: Path, line: str) -> None:
    journal = Journal(tmp_path)
    journal.begun("one", ())
    file = tmp_path / "journal"
    file.write_text(f"{file.read_text()}{line}\n")

    with pytest.raises(UnknownJournal, match=r"journal, line 3, cannot be read: .*put the file back"):
        journal.records()


def test_a_newer_journal_is_left_alone(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    (tmp_path / "journal").write_text('{"type":"opened","version":99}\n{"type":"unheard-of"}\n')

    with pytest.raises(UnknownJournal):
        journal.records()


def test_only_one_changes_a_host_at_a_time(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "install")

    with journal.alone(), pytest.raises(Busy), Journal(tmp_path / "install").alone():
        pass


def test_what_goes_is_named_as_the_api_has_it(world: World) -> None:
    (undo,) = world.hands.undo_of("secrets", MakeSecrets("dragonfly", "own"))

    assert undo.objects == (Gone("v1", "Secret", "dragonfly", "own"),)  # type: ignore[union-attr] # of all ways back one that has them
