"""The demo as a newcomer meets it: start it, type what it prints, kill a replica under a provision, press Ctrl-C."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from dragonfly.sandbox import toolchain
from dragonfly.sandbox.ports import PortLease
from dragonfly.sandbox.process import Program, Service
from tests.e2e.waiting import eventually, eventually_equal

pytestmark = [pytest.mark.slow, pytest.mark.cluster]

DRAGONFLY: Final = str(Path(sys.executable).parent / "dragonfly")
_MARK: Final = "DRAGONFLY_TEST_MARK"


class Newcomer:
    """Somebody with an empty home directory, who has the program and a directory to keep the demo's files in."""

    def __init__(self, directory: Path, port: int) -> None:
        self.directory = directory
        self.kept = directory / "kept"
        self._mark = uuid.uuid4().hex
        self._environment = {
            "HOME": self._made("home"),
            "XDG_CACHE_HOME": self._made("cache"),
            "TMPDIR": self._made("tmp"),
            "DRAGONFLY_SANDBOX_BIN": str(toolchain.binary("etcd").parent),
            _MARK: self._mark,
        }
        command = (DRAGONFLY, "demo", "--machines", "3", "--port", str(port), "--keep", str(self.kept))
        program = Program("demo", command, directory / "demo.log", self._environment)
        self.demo = Service(program, lambda: "Ctrl-C stops everything" in self.screen, within=180)

    @property
    def screen(self) -> str:
        """What the demo has printed."""
        return self.demo.program.log.read_text()

    @property
    def told(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((self.kept / "demo.json").read_bytes())
        return content

    def printed(self, pattern: str) -> str:
        """The part in parentheses of what is on the screen."""
        found = re.search(pattern, self.screen, re.MULTILINE)
        assert found is not None, self.screen
        return found[1]

    def follows(self) -> None:
        """Do what `export` on the screen says."""
        given = self.printed(r"export (.*)$")
        self._environment |= dict(word.split("=", 1) for word in shlex.split(given))

    def types(self, *command: str) -> subprocess.Popen[str]:
        environment = {**os.environ, **self._environment}
        pipe = subprocess.PIPE
        return subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True)

    def reads(self, *arguments: str, code: int = 0) -> str:
        """What a command of Dragonfly's prints, which must end so."""
        return self.ended(self.types(DRAGONFLY, *arguments), code)

    def ended(self, process: subprocess.Popen[str], code: int = 0) -> str:
        out, err = process.communicate(timeout=180)
        assert process.returncode == code, (process.args, out, err)
        return out

    def json(self, *arguments: str) -> Any:
        return json.loads(self.reads(*arguments, "-o", "json"))

    def processes(self) -> list[str]:
        """The command of every process that the demo, or this newcomer, has started."""
        started = (process for process in Path("/proc").glob("[0-9]*") if self._mark in _of(process, "environ"))
        return [command for command in (_of(process, "cmdline") for process in started) if command]

    def _made(self, name: str) -> str:
        (self.directory / name).mkdir()
        return str(self.directory / name)


@pytest.fixture
def newcomer(tmp_path: Path) -> Iterator[Newcomer]:
    with PortLease() as ports:
        newcomer = Newcomer(tmp_path, ports.take())
        try:
            newcomer.demo.start()
            newcomer.follows()
            yield newcomer
        finally:
            newcomer.demo.stop(grace=30)


def test_a_newcomer_s_first_minute(newcomer: Newcomer) -> None:
    assert len(newcomer.processes()) > len(newcomer.told["processes"]) + len(newcomer.told["replicas"])
    machines = _machines_are_listed(newcomer)
    first = shlex.split(newcomer.printed(r"^ *(\S*dragonfly provision .*)$"))
    assert first[2] == machines[0]
    assert "Succeeded" in newcomer.ended(newcomer.types(*first))

    _a_provision_outlives_its_replica(newcomer, machines[1])
    _the_swarm_is_well(newcomer)
    phases = {item["metadata"]["name"]: item["status"]["phase"] for item in newcomer.json("get", "machines")["items"]}
    assert phases == {machines[0]: "Deployed", machines[1]: "Deployed", machines[2]: "Available"}

    newcomer.demo.signal(signal.SIGINT)
    assert newcomer.demo.wait(90)
    assert newcomer.demo.exit_code == 0
    eventually_equal(newcomer.processes, [], within=60)
    _nothing_is_left_but_what_was_to_be_kept(newcomer)


def _machines_are_listed(newcomer: Newcomer) -> list[str]:
    names = [item["metadata"]["name"] for item in newcomer.json("get", "machines")["items"]]
    rows = [line.split() for line in newcomer.reads("get", "machines").splitlines()]
    assert rows[0][0] == "NAME"
    assert sorted(row[0] for row in rows[1:]) == sorted(names)
    assert len(names) == 3
    return names


def _a_provision_outlives_its_replica(newcomer: Newcomer, machine: str) -> None:
    provisioning = newcomer.types(DRAGONFLY, "provision", machine, "ubuntu-2404", "--wait")

    def under_way() -> bool:
        """Or running already: each look takes as long as a command."""
        (provision,) = newcomer.json("get", "provisions", "--machine", machine)["items"] or [{}]
        return bool(provision) and provision["status"]["phase"] in {"Starting", "Running"}

    eventually("the provision is under way", under_way, within=60)
    before = {replica["id"]: replica["pid"] for replica in newcomer.told["replicas"]}
    assert int(newcomer.printed(r"kill -9 (\d+)")) in before.values()
    owner = eventually("it has an owner", lambda: _owner(newcomer, machine), within=60)
    os.kill(before[owner], signal.SIGKILL)

    assert "Succeeded" in newcomer.ended(provisioning)
    eventually("it is started again", lambda: _pid(newcomer, owner) != before[owner], within=60)
    assert f"(pid {before[owner]}) died: started again as pid {_pid(newcomer, owner)}" in newcomer.screen


def _owner(newcomer: Newcomer, machine: str) -> str:
    owner: str = newcomer.json("get", "machine", machine)["status"]["owner"]
    return owner


def _the_swarm_is_well(newcomer: Newcomer) -> None:
    """Soon: shards go back to a replica that returns, and for a moment have no owner, which is exit code 1."""
    ids = {replica["id"] for replica in newcomer.told["replicas"]}
    eventually("all replicas are listed", lambda: ids <= _first_words(newcomer, "swarm"), within=60)
    eventually("status tells of them", lambda: "3 of version" in _if_well(newcomer, "status"), within=60)
    told = json.loads(eventually("all shards are driven", lambda: _if_well(newcomer, "swarm", "-o", "json"), within=60))
    assert ({member["id"] for member in told["members"]}, told["unowned"]) == (ids, [])


def _first_words(newcomer: Newcomer, *command: str) -> set[str]:
    return {line.split()[0] for line in _if_well(newcomer, *command).splitlines() if line.strip()}


def _if_well(newcomer: Newcomer, *command: str) -> str:
    """What the command prints, if its exit code says that all is well."""
    process = newcomer.types(DRAGONFLY, *command)
    out, _ = process.communicate(timeout=180)
    return out if process.returncode == 0 else ""


def _nothing_is_left_but_what_was_to_be_kept(newcomer: Newcomer) -> None:
    left = {str(path.relative_to(newcomer.directory)) for path in newcomer.directory.glob("*/*")}
    assert left == {"kept/state"}
    assert (newcomer.kept / "state" / "kubernetes" / "audit.log").exists()


def _pid(newcomer: Newcomer, replica: str) -> int:
    (pid,) = [entry["pid"] for entry in newcomer.told["replicas"] if entry["id"] == replica]
    return int(pid)


def _of(process: Path, what: str) -> str:
    """What the kernel tells of a process, in one line."""
    try:
        return (process / what).read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return ""  # it has just ended, or is somebody else's
