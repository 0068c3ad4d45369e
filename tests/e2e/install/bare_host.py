"""A bare host: namespaces of its own for its files, processes, name and network, and what an installer finds there.

Its /etc, /run, /var/lib, /var/log, /opt and /usr/local/bin are its own, in memory; all else is this computer's. There
is no systemd in it but a stand-in for systemctl. Whatever runs there ends with it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

from dragonfly.sandbox import toolchain
from dragonfly.sandbox.process import Program, Service
from tests.chaos.netns import Node
from tests.e2e.install.bundled import script
from tests.node.place import Place

_HERE: Final = Path(__file__).parent
_ROOT: Final = _HERE.parents[2]
_PLACES: Final = ("etc", "run", "var/lib", "var/log", "opt", "usr/local/bin")
_LAST: Final = 120
"""Seconds for one command."""


class Done(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]

    def states(self) -> dict[str, str]:
        """The last state of each step."""
        return {event["step"]: event["state"] for event in self.events if event["event"] == "step"}


class Moment(NamedTuple):
    """Where `lockstep` waited."""

    step: str
    name: str


class BareHost:
    """One host on the test's network. Nothing starts before `running`."""

    def __init__(self, name: str, node: Node, directory: Path, bundle: Path) -> None:
        self.name = name
        self.address = str(node.cluster)
        self.logs = directory / f"{name}-logs"
        self.bundle = bundle
        self.management = str(node.management)
        """Where the test itself reaches it."""
        self._services: list[Service] = []
        self._directory = directory
        self.place = Place(name, node, directory / f"{name}-place", own=("/usr/local/bin",), copied=("/etc",))

    @contextmanager
    def running(self) -> Iterator[BareHost]:
        self.logs.mkdir()
        with self.place.running():
            self._furnish()
            try:
                yield self
            finally:
                self.place.fail()
                for service in self._services:
                    service.kill()

    @property
    def tree(self) -> Path:
        """Its files, as the test sees them."""
        return self.place.root

    @property
    def lockstep_log(self) -> Path:
        """What command lines that were run to a moment have said beside their events."""
        return self._directory / f"{self.name}-lockstep.log"

    def dragonfly(self, *arguments: str) -> Done:
        """Run the command line on the host."""
        return self.run(sys.executable, "-m", "dragonfly", *arguments)

    def install(self, *arguments: str) -> Done:
        return self.dragonfly(*self.installing(*arguments))

    def installing(self, *arguments: str) -> tuple[str, ...]:
        return ("install", "--airgap", str(self.bundle), "--yes", "-o", "json", *arguments)

    def fail(self) -> None:
        """Take its power away: all that runs there is gone at once, and nothing is tidied up."""
        self.place.fail()

    def killed_at(
        self,
        is_it: Callable[[Moment], bool],
        *arguments: str,
        look: Callable[[Moment], None] = lambda _: None,
        code: int = 0,
    ) -> Moment | None:
        """Run the command line to the first moment that is one, look around, and kill -9 it there.

        None if it came to its end, which must be a good one, or with this code.
        """
        with self._in_lockstep(*arguments) as child:
            assert child.stdin is not None
            assert child.stdout is not None
            doing = ""
            for line in child.stdout:
                event = json.loads(line)
                doing = event["step"] if event["event"] == "step" else doing
                if event["event"] != "moment":
                    continue
                moment = Moment(event["step"] or doing, event["moment"])
                if is_it(moment):
                    look(moment)
                    return moment
                child.stdin.write("go on\n")
                child.stdin.flush()
            assert child.wait() == code, f"it ended with {child.returncode}: {arguments}"
        return None

    @contextmanager
    def _in_lockstep(self, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        """A process that waits at each moment, killed with its children at the block's end if it still runs."""
        command = (sys.executable, "-m", "tests.e2e.install.lockstep", *arguments)
        with (
            self.lockstep_log.open("ab") as log,
            subprocess.Popen(
                self._inside(*command),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=_environment() | {"PYTHONPATH": str(_ROOT)},
                start_new_session=True,
            ) as child,
        ):
            try:
                yield child
            finally:
                if child.poll() is None:
                    os.killpg(child.pid, signal.SIGKILL)

    def run(self, *command: str) -> Done:
        """Run a program on the host to its end."""
        done = subprocess.run(
            self._inside(*command),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=_LAST * 4,
            env=_environment(),
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def service(self, name: str, *command: str, ready: Callable[[], bool], within: float) -> Service:
        """A program that runs on the host, to the end of that one at most."""
        program = Program(name, tuple(self._inside(*command)), self.logs / f"{name}.log")
        service = Service(program, ready, within=within)
        self._services.append(service)
        return service

    def kubectl(self, *arguments: str) -> Done:
        """Run it as this host's admin, in the swarm's namespace."""
        kubectl = (str(toolchain.binary("kubectl")), "--kubeconfig", "/etc/rancher/k3s/k3s.yaml")
        return self.run(*kubectl, "--namespace", "dragonfly", *arguments)

    def objects(self, *query: str) -> Any:
        """What `kubectl get` finds in the swarm's namespace, as this host's API server has it."""
        done = self.kubectl("get", *query, "--output", "json")
        assert done.code == 0, done.err
        return json.loads(done.out)

    def pods(self) -> list[Any]:
        """The pods of the swarm, those that drain too; none while the API server does not answer."""
        done = self.kubectl("get", "pods", "--output", "json")
        found: list[Any] = json.loads(done.out)["items"] if done.code == 0 else []
        return found

    def secret(self, name: str, key: str) -> str:
        """What a Secret in the swarm's namespace says."""
        return base64.b64decode(self.objects("secret", name)["data"][key]).decode()

    def files(self) -> dict[str, str]:
        """Everything in the host's own directories: kinds, modes, targets of links, content."""
        tree = self.tree
        found = (path for place in _PLACES for path in (tree / place).rglob("*"))
        return {str(path.relative_to(tree)): _look(path) for path in sorted(found)}

    def state(self) -> dict[str, str]:
        """Its files, and what the kernel has for it: processes, mounts, networks, rules of the packet filter."""
        rules = self.run("iptables-save").out.splitlines()
        processes = (line.split(maxsplit=1) for line in self.run("ps", "-e", "-o", "stat=,args=").out.splitlines())
        return self.files() | {
            # Chains of the packet filter's own are there from the first look at them on.
            "rules": _lines(line for line in rules if line.startswith("-A") or " - [" in line),
            # One that has ended shows as a zombie until its last thread is gone, too.
            "processes": _lines(command for state, command in processes if not state.startswith("Z")),
            "mounts": _lines(line.split()[1] for line in self.run("cat", "/proc/mounts").out.splitlines()),
            "addresses": self.run("ip", "-brief", "address").out,
            "routes": self.run("ip", "route").out,
            "networks": self.run("ip", "netns").out,
        }

    def _inside(self, *command: str) -> list[str]:
        return [*self.place.enter, *command]

    def _furnish(self) -> None:
        """Bring what an ordinary host has besides."""
        tree = self.tree
        (tree / "run/systemd/system").mkdir(parents=True)
        script(tree / "usr/local/bin/systemctl", f"exec {sys.executable} {_HERE / 'standin_systemctl.py'}")
        # k3s has a containerd of its own; Debian's keeps some of its files here whatever it is told.
        (tree / "run/containerd").symlink_to("/run/k3s/containerd")
        # Where programs that mount and unmount keep notes; the packet filter has its lock once anybody looks at it.
        (tree / "run/mount").mkdir()
        # Nobody resolves names here, and nobody waits for that.
        (tree / "etc/resolv.conf").unlink(missing_ok=True)
        (tree / "etc/resolv.conf").write_text("nameserver 127.0.0.1\n")
        self.place.run("iptables", "--list")
        self.place.run("ip", "route", "add", "default", "via", "192.0.2.254", "dev", "cluster")


def _lines(found: Iterable[str]) -> str:
    return "\n".join(sorted(found))


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("DRAGONFLY_", "KUBE"))}
    return kept | {"PATH": f"/usr/local/bin:{os.environ['PATH']}"}


def _look(path: Path) -> str:
    if path.is_symlink():
        return f"link to {path.readlink()}"
    mode = f"{path.stat().st_mode:o}"
    return f"{mode} {hashlib.sha256(path.read_bytes()).hexdigest()}" if path.is_file() else mode
