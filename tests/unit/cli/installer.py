"""A host of the installer's commands that is values alone: what it is like, and hands that say what they were told."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dragonfly.cli import install as cli_install
from dragonfly.cli import uninstall as cli_uninstall
from dragonfly.cli import upgrade as cli_upgrade
from dragonfly.install import host_survey
from dragonfly.install.carriers import Carriers
from dragonfly.install.execution import RecordChanged, StepFailed
from dragonfly.install.host_facts import HostFacts
from dragonfly.install.images import Lacking
from dragonfly.install.journal import Journal
from dragonfly.install.recorded import Seen, text_of
from dragonfly.install.steps import (
    Action,
    ApplyObjects,
    DeleteObjects,
    KeepRecord,
    MakeDirectory,
    RemoveTree,
    SelfTest,
    StartService,
    StopService,
    Undo,
    names_of,
)

GOOD = HostFacts(address="10.0.0.1", network="10.0.0.0/24", interface="eth0")
IMAGE = ("--image", "x/y:1")


class NoHands:
    """Hands that only say what they were told to do."""

    def __init__(self) -> None:
        self.done: list[Action] = []
        self.undone: list[Undo] = []
        self.fails_at: type | None = None
        self.secrets = self
        self.carried_by = Carriers("host-1")
        self.lacking: tuple[str, ...] = ()
        self.away: tuple[str, ...] = ()
        self.said = ""
        self.kept = ""
        self.nodes: tuple[str, ...] = ("node-1",)
        self.answers = True
        self.swarms_data = False
        self.clusters_data = False
        self.former: list[Any] = []
        self.cannot_undo: type | None = None
        self.meanwhile = ""
        """The record that another server makes before a step fails."""

    def carriers(self) -> Carriers:
        return self.carried_by

    def admin_token(self) -> str:
        return "df_secret"

    def etcd_access(self) -> dict[str, Any]:
        return {}

    def found(self, names: object) -> list[Any]:
        return self.former

    def put_back(self, former: object, added: object, say: object) -> None:
        pass

    def has_swarms_data(self) -> bool:
        return self.swarms_data

    def has_clusters_data(self) -> bool:
        return self.clusters_data

    def installation(self) -> Seen:
        if not self.answers:
            raise StepFailed("the API server does not answer")
        return Seen(self.kept, self.nodes)

    def remark(self) -> str:
        return self.said

    def others_lacking(self, image: str) -> Lacking:
        assert image in {"dragonfly:0.1.0", "x/y:1", "x/y:2"}
        return Lacking(self.lacking, self.away)

    def is_done(self, action: Action, proof: str) -> bool:
        return action in self.done

    def undo_of(self, step: str, action: Action) -> tuple[Undo, ...]:
        match action:
            case MakeDirectory(path, is_data=is_data):
                return (RemoveTree(path, is_data),)
            case StartService(unit):
                return (StopService(unit),)
            case ApplyObjects(objects):
                return (DeleteObjects(names_of(objects)),)
            case KeepRecord(record):
                return (DeleteObjects(names_of((record,))),)
        return ()

    def carry_out(self, action: Action, say: Callable[[str], None]) -> str:
        if self.fails_at and isinstance(action, self.fails_at):
            self.kept = self.meanwhile or self.kept
            raise StepFailed("the load balancer has no address yet", "Look at kube-vip.")
        if isinstance(action, KeepRecord):
            if action.before not in {None, self.kept}:
                raise RecordChanged
            self.kept = text_of(action.object)
        self.done.append(action)
        if isinstance(action, KeepRecord):
            return self.kept
        return "http://10.0.0.50:3000" if isinstance(action, SelfTest) else ""

    def take_back(self, undo: Undo, say: Callable[[str], None]) -> str:
        if self.cannot_undo and isinstance(undo, self.cannot_undo):
            raise StepFailed("a member does not answer")
        self.undone.append(undo)
        return ""


class Here:
    """Where the commands run."""

    def __init__(self, directory: Path) -> None:
        self.facts = GOOD
        self.hands = NoHands()
        self.journal = Journal(directory / "dragonfly" / "install")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Here:
    here = Here(tmp_path)
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    monkeypatch.setattr("os.geteuid", lambda: 0)
    for module in (cli_install, cli_uninstall, cli_upgrade):
        monkeypatch.setattr(module, "JOURNAL", here.journal.directory)
        monkeypatch.setattr(module, "installed_hands", lambda journal: here.hands)
    monkeypatch.setattr(cli_upgrade, "check_schema", lambda secret: None)
    monkeypatch.setattr(host_survey, "survey", lambda options, journal, **_: here.facts)
    monkeypatch.setattr(cli_install, "open_page", lambda *_, **__: contextlib.nullcontext())
    return here
