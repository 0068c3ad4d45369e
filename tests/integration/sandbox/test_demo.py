"""The demo starts, tells where everything is, lives through a death, and leaves nothing; replicas are stand-ins."""

import json
import os
import signal
import stat
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dragonfly.sandbox import toolchain
from dragonfly.sandbox.demo import DemoOptions
from dragonfly.sandbox.ports import PortLease
from dragonfly.sandbox.process import ProcessFailed, Program, Service
from tests.integration.sandbox.waiting import eventually

pytestmark = pytest.mark.cluster


class World:
    """A computer with a cache of its own, on which demos are started."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.home = directory / "cache" / "dragonfly" / "demo"
        self.journal = directory / "journal"
        (directory / "unready").mkdir()
        self._demos: list[Service] = []
        self._environment = {
            "XDG_CACHE_HOME": str(directory / "cache"),
            "DRAGONFLY_SANDBOX_BIN": str(toolchain.binary("etcd").parent),
            "STANDIN_JOURNAL": str(self.journal),
            "STANDIN_UNREADY": str(directory / "unready"),
        }

    def demo(self, options: DemoOptions, home: Path | None = None) -> Service:
        script = Path(__file__).with_name("standin_demo.py")
        command = (sys.executable, str(script), msgspec.json.encode(options, enc_hook=str).decode())
        name = f"demo-{len(self._demos)}"
        program = Program(name, command, self.directory / f"{name}.log", self._environment)
        file = (home or self.home) / "demo.json"
        service = Service(program, lambda: file.exists() and "Ctrl-C" in program.log.read_text(), within=180)
        self._demos.append(service)
        return service

    def told(self, home: Path | None = None) -> dict[str, Any]:
        content: dict[str, Any] = json.loads(((home or self.home) / "demo.json").read_bytes())
        return content

    def stop(self) -> None:
        for demo in self._demos:
            demo.stop(grace=90)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.stop()


@pytest.fixture
def port() -> Iterator[int]:
    with PortLease() as ports:
        yield ports.take()


def test_a_demo_from_start_to_end(world: World, port: int) -> None:
    demo = world.demo(DemoOptions(machines=6, port=port))
    demo.start()
    told = world.told()

    assert set(told) == {
        "url", "tokenFile", "kubeconfig", "etcd", "tinkServer", "auditLog", "replicas", "processes",
    }  # fmt: skip
    assert told["url"] == f"http://127.0.0.1:{port}"
    assert stat.S_IMODE((world.home / "demo.json").stat().st_mode) == 0o600
    assert stat.S_IMODE(Path(told["tokenFile"]).stat().st_mode) == 0o600
    assert Path(told["tokenFile"]).read_text().startswith("df_")
    assert Path(told["auditLog"]).stat().st_size > 0
    assert [process["name"] for process in told["processes"]] == [
        "etcd-0", "kube-apiserver", "tinkerbell", "haproxy", "machines",
    ]  # fmt: skip
    for replica in told["replicas"]:
        assert urllib.request.urlopen(replica["url"]).read().decode() == replica["id"]
    assert sorted(line.split()[1] for line in world.journal.read_text().splitlines()) == [
        *["/api/v1/machines"] * 6,
        *["/api/v1/templates"] * 2,
    ]

    _replica_comes_back(world)
    _second_demo_is_refused(world, demo, port)
    pids = [entry["pid"] for entry in (*world.told()["replicas"], *world.told()["processes"])]
    demo.stop(grace=90)

    assert demo.exit_code == 0
    assert demo.program.log.read_text().endswith("Stopping everything ...\nStopped.\n")
    eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))
    assert not world.home.exists()


def test_a_port_that_is_taken_is_told_with_who_has_it(world: World, port: int) -> None:
    taking = (sys.executable, "-m", "http.server", "--bind", "127.0.0.1", str(port))
    other = Service(Program("other", taking, world.directory / "other.log"), lambda: _answers(port), within=60)
    other.start()
    try:
        with pytest.raises(ProcessFailed) as failure:
            world.demo(DemoOptions(port=port)).start()
    finally:
        other.stop()

    assert f"Port {port} of 127.0.0.1 is taken by" in str(failure.value)
    assert f"(pid {other.pid})" in str(failure.value)
    assert f"--port {port + 1}" in str(failure.value)
    assert not world.home.exists()


def test_what_is_kept_and_what_is_not(world: World, port: int) -> None:
    home = world.directory / "kept"
    options = DemoOptions(machines=1, replicas=1, port=port, keep=home, simulate=False, restart=False)
    demo = world.demo(options, home)
    demo.start()
    replica = world.told(home)["replicas"][0]
    os.kill(replica["pid"], signal.SIGKILL)
    eventually(lambda: "not started again" in demo.program.log.read_text())
    assert "machines" not in [process["name"] for process in world.told(home)["processes"]]
    demo.stop(grace=90)

    assert demo.exit_code == 0
    assert (home / "state" / "kubernetes" / "audit.log").exists()
    assert not (home / "demo.json").exists()
    with pytest.raises(ProcessFailed, match="holds what another demo kept"):
        world.demo(options, home).start()


def test_ctrl_c_while_it_starts_leaves_nothing(world: World, port: int) -> None:
    demo = world.demo(DemoOptions(port=port))
    demo.spawn()
    log = demo.program.log
    eventually(lambda: "kube-apiserver" in log.read_text(), seconds=90)
    started = world.home / "state" / "etcd"
    assert started.exists()

    demo.signal(signal.SIGINT)

    assert demo.wait(90)
    assert demo.exit_code == 0
    assert not world.home.exists()


def _replica_comes_back(world: World) -> None:
    before = world.told()["replicas"]
    os.kill(before[1]["pid"], signal.SIGKILL)
    eventually(lambda: world.told()["replicas"][1]["pid"] != before[1]["pid"])
    after = world.told()["replicas"]
    assert after == [before[0], {**before[1], "pid": after[1]["pid"]}, before[2]]


def _second_demo_is_refused(world: World, first: Service, port: int) -> None:
    with pytest.raises(ProcessFailed) as failure:
        world.demo(DemoOptions(port=port)).start()
    assert f"A demo runs already: pid {first.pid}, at http://127.0.0.1:{port}." in str(failure.value)


def _answers(port: int) -> bool:
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}").close()
    except OSError:
        return False
    return True
