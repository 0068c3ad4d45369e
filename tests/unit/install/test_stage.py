"""What a host tells of an installation that has begun, stopped, ended, or was taken off."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from dragonfly.install.detection import ClusterFacts, Detection, Facts, Namespace, SecretFacts, detect
from dragonfly.install.journal import Journal
from dragonfly.install.options import Options
from dragonfly.install.stage import JOINED, Stage, in_words, next_steps
from dragonfly.install.steps import RemoveTree
from dragonfly.install.survey import JOURNAL, survey, with_own_cluster
from dragonfly.settings import Address, Settings

ADDRESS = "http://10.0.0.1:3000"
DATA = (RemoveTree("/var/lib/rancher", is_data=True),)
SETTINGS = Settings(advertise=Address("127.0.0.1", 3000), replica="r")


@pytest.fixture(autouse=True)
def _quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


def asked(journal: Journal) -> None:
    journal.asked(Options())


def begun(journal: Journal) -> None:
    asked(journal)
    for step in ("settings", "data"):
        journal.begun(step, DATA)
        journal.done(step, "")
    journal.begun("k3s", ())


def installed(journal: Journal) -> None:
    begun(journal)
    journal.done("k3s", "")
    journal.installed(ADDRESS)


def joined(journal: Journal) -> None:
    begun(journal)
    journal.done("k3s", "")
    journal.installed(JOINED)


def upgrading(journal: Journal) -> None:
    installed(journal)
    journal.former.write_bytes(b"{}")
    journal.begun("manifests", ())


def leaving(journal: Journal) -> None:
    installed(journal)
    journal.undone("k3s", ())


def taken_off(journal: Journal) -> None:
    leaving(journal)
    for step in ("data", "settings"):
        journal.undone(step, DATA)


def again(journal: Journal) -> None:
    taken_off(journal)
    journal.begun("settings", DATA)


STAGES: list[tuple[Callable[[Journal], None], str, str]] = [
    (asked, "an installation has begun and stopped before its first step", "dragonfly install."),
    (begun, "an installation has begun and stopped at step k3s", "dragonfly uninstall."),
    (installed, f"installed; answers at {ADDRESS}", ""),
    (joined, "installed; as one more server of a cluster", ""),
    (
        upgrading,
        f"installed; answers at {ADDRESS}; an upgrade has begun and stopped at step manifests",
        "dragonfly upgrade.",
    ),
    (leaving, "an installation was being taken off, and that stopped at step data", "dragonfly uninstall."),
    (taken_off, "an installation was taken off, and its data is still here", "dragonfly uninstall --delete-data."),
    (again, "an installation has begun and stopped at step settings", "dragonfly install."),
]


@pytest.mark.parametrize(("write", "words", "command"), STAGES)
async def test_a_host_tells_how_far_its_installation_is_and_how_to_go_on(
    write: Callable[[Journal], None], words: str, command: str, tmp_path: Path
) -> None:
    write(Journal(tmp_path / JOURNAL))

    found = await detected(tmp_path)

    assert told(found, tmp_path) == words
    assert command in " ".join(found.advice)
    assert found.mode == "local"
    if command:
        (only,) = found.advice
        assert "Set KUBECONFIG" not in only


async def test_a_directory_without_a_journal_names_what_may_be_done(tmp_path: Path) -> None:
    found = await detected(tmp_path)

    assert told(found, tmp_path) == "no installation is recorded"
    (only,) = found.advice
    assert "dragonfly install" in only


async def test_what_is_installed_names_its_own_kubeconfig_where_that_cannot_be_read(tmp_path: Path) -> None:
    installed(Journal(tmp_path / JOURNAL))

    found = await detected(tmp_path)

    assert found.advice[0] == "The cluster that is installed here: set KUBECONFIG=/etc/rancher/k3s/k3s.yaml, as root."


async def test_one_that_is_at_work_is_not_told_to_have_stopped(tmp_path: Path) -> None:
    journal = Journal(tmp_path / JOURNAL)
    begun(journal)

    with journal.alone():
        found = await detected(tmp_path)
    assert told(found, tmp_path) == "dragonfly is at work on it now at step k3s"
    assert found.advice == ()
    with journal.alone():
        pass


@pytest.mark.parametrize(
    ("place", "count"), [("kubeconfig /etc/rancher/k3s/k3s.yaml", 1), ("kubeconfig /home/ada/.kube/fra", 2)]
)
def test_what_a_half_installed_cluster_lacks_comes_with_the_rest_and_what_another_lacks_does_not(
    place: str, count: int
) -> None:
    facts = Facts(
        installed=False,
        directory="/var/lib/dragonfly",
        has_directory=True,
        namespace="tinkerbell",
        installation=Stage("begun", "manifests"),
        own_kubeconfig="/etc/rancher/k3s/k3s.yaml",
        cluster=ClusterFacts(place, version="v1.36.3", namespaces=(Namespace("tinkerbell", present=True),)),
        secret=SecretFacts("Secret tinkerbell/dragonfly-etcd", problem="not there"),
    )

    advice = detect(facts).advice

    assert advice[0] == "Go on with it: dragonfly install. Or take it back: dragonfly uninstall."
    assert len(advice) == count


async def test_a_journal_that_cannot_be_read_is_told_as_such(tmp_path: Path) -> None:
    installed(Journal(tmp_path / JOURNAL))
    (tmp_path / JOURNAL / "journal").write_text('{"type": "opened", "version": 99}\n')

    assert "was written by a newer Dragonfly" in told(await detected(tmp_path), tmp_path)
    (tmp_path / JOURNAL / "journal").write_text("no JSON\n")
    assert "JSON is malformed" in told(await detected(tmp_path), tmp_path)


async def test_without_a_directory_nothing_is_told_of_it(tmp_path: Path) -> None:
    found = await detected(tmp_path / "nothing")

    assert not [finding for finding in found.why if finding.looked_at.endswith(JOURNAL)]
    assert found.advice[0].startswith("Set KUBECONFIG")


def test_who_is_not_root_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(tmp_path / JOURNAL)
    begun(journal)
    monkeypatch.setattr("os.access", lambda *_: False)

    stage = journal.stage()

    assert in_words(stage) == f"only root may read {tmp_path / JOURNAL}/journal"
    assert "sudo" in next_steps(stage)


def test_the_kubeconfig_of_what_is_installed_is_used_where_none_is_said(tmp_path: Path) -> None:
    own = tmp_path / "k3s.yaml"
    own.write_text("")
    here, nowhere = tmp_path, tmp_path / "nowhere"
    said = msgspec.structs.replace(SETTINGS, kubeconfig="/theirs")
    pod = msgspec.structs.replace(SETTINGS, installed=True)

    assert with_own_cluster(SETTINGS, {}, directory=here, kubeconfig=own).kubeconfig == str(own)
    assert with_own_cluster(said, {}, directory=here, kubeconfig=own).kubeconfig == "/theirs"
    for settings, directory, kubeconfig in ((pod, here, own), (SETTINGS, nowhere, own), (SETTINGS, here, nowhere)):
        assert with_own_cluster(settings, {}, directory=directory, kubeconfig=kubeconfig) == settings


def test_nothing_is_to_be_done_about_what_is_at_work() -> None:
    assert not next_steps(Stage("working", "k3s"))


async def detected(directory: Path) -> Detection:
    return (await survey(SETTINGS, {}, directory=directory)).detection


def told(found: Detection, directory: Path) -> str:
    (words,) = [finding.found for finding in found.why if finding.looked_at == str(directory / JOURNAL)]
    return words
