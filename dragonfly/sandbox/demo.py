"""The demo: a whole swarm on this computer, with everything real but the machines, which are simulated.

etcd, kube-apiserver and Tinkerbell; replicas of Dragonfly behind HAProxy; machines and templates registered through
Dragonfly's own API, as a user would. Everything stops with Ctrl-C, and nothing stays behind.
"""

import shutil
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Final, Never

import msgspec
from rich.console import Console

from dragonfly.sandbox import apt, toolchain
from dragonfly.sandbox.apiclient import ApiClient, ApiRefused
from dragonfly.sandbox.cache import DamagedCache
from dragonfly.sandbox.controlplane import ControlPlane
from dragonfly.sandbox.demofiles import DemoFile, DemoRuns, Home, Listed, ReplicaEntry, default_home
from dragonfly.sandbox.demotext import Told, text
from dragonfly.sandbox.fate import Behaviour
from dragonfly.sandbox.haproxy import MOST_REPLICAS, LoadBalancer
from dragonfly.sandbox.inventory import machines, templates
from dragonfly.sandbox.keeper import Death, Keepers
from dragonfly.sandbox.ports import LOOPBACK, PortLease, is_free, listener
from dragonfly.sandbox.process import ProcessFailed, Program, Service
from dragonfly.sandbox.progress import Shown
from dragonfly.sandbox.swarm import Swarm, replica_environment

_PROGRAMS: Final = ("etcd", "kube-apiserver", "tinkerbell")
_WORK_SECONDS: Final = (1.5, 5.0)  # of an action: long enough to watch, short enough to wait for


class DemoOptions(msgspec.Struct, frozen=True):
    """What `dragonfly demo` may be told."""

    machines: int = 24
    replicas: int = 3
    seed: int = 0
    fail_rate: float = 0.02  # of the simulated machines' actions: one or two of 24 machines
    port: int = 3000
    keep: Path | None = None
    simulate: bool = True
    restart: bool = True


class DemoFailed(Exception):
    """The demo can't start; the message is for people and says what to do."""


def run_demo(options: DemoOptions, console: Console) -> None:
    """Run until SIGINT or SIGTERM; must be called in the main thread.

    Raises:
        DemoFailed: it could not start.
    """
    with _signals_interrupt():
        with ExitStack() as stack:
            try:
                _check(options)
                Demo(options, console, stack).run()
            except KeyboardInterrupt:
                console.print("Stopping everything ...")
            except (ProcessFailed, toolchain.ToolMissing, DamagedCache, DemoRuns, ApiRefused) as error:
                raise DemoFailed(str(error)) from error
            finally:
                _ignore_signals()
        console.print("Stopped.")


class Demo:
    """One running demo; every part that it starts is stopped by the stack that it was given."""

    def __init__(self, options: DemoOptions, console: Console, stack: ExitStack) -> None:
        self._options = options
        self._console = console
        self._stack = stack
        self._progress = Shown(console)
        self._publishing = threading.Lock()
        self._is_up = False

    def run(self) -> None:
        """Start, tell, and wait until interrupted."""
        self._start()
        self._tell()
        threading.Event().wait()

    def _start(self) -> None:
        self._home = self._stack.enter_context(
            Home(self._options.keep or default_home(), keep=self._options.keep is not None)
        )
        _check_port(self._options.port)
        binaries = toolchain.ensure(_PROGRAMS, self._progress)
        haproxy = apt.program("haproxy", self._progress)
        self._ports = self._stack.enter_context(PortLease())
        self._plane = ControlPlane(self._home.state, binaries=binaries, progress=self._progress)
        self._stack.enter_context(self._plane)
        self._start_swarm(haproxy)
        self._api = ApiClient(self._balancer.url, self._token.read_text().strip())
        self._register()
        self._simulators = tuple(self._start_simulator())
        self._publish()
        self._is_up = True
        self._stack.enter_context(Keepers(self._parts, restart=self._options.restart, on_death=self._died))

    @property
    def _behaviour(self) -> Behaviour:
        shortest, longest = _WORK_SECONDS
        return Behaviour(self._options.seed, self._options.fail_rate, shortest=shortest, longest=longest)

    @property
    def _parts(self) -> tuple[Service, ...]:
        """All processes but the replicas, which the swarm itself watches over."""
        return (*self._plane.services, self._balancer.service, *self._simulators)

    def _start_swarm(self, haproxy: Path) -> None:
        environment = replica_environment(self._plane, self._home.state)
        self._token = Path(environment["DRAGONFLY_ADMIN_TOKEN_FILE"])
        self._swarm = Swarm(
            self._home.state / "swarm",
            self._ports,
            environment,
            replicas=self._options.replicas,
            restart=self._options.restart,
            on_death=self._died,
        )
        addresses = [replica.url.removeprefix("http://") for replica in self._swarm.replicas]
        self._balancer = LoadBalancer(
            haproxy,
            self._home.state / "haproxy",
            port=self._options.port,
            stats_port=self._ports.take(),
            replicas=addresses,
        )
        self._stack.callback(self._swarm.stop)
        with self._progress.step(f"Starting {self._options.replicas} replicas"):
            self._swarm.start()
        self._stack.callback(self._balancer.service.stop)
        with self._progress.step("Starting HAProxy"):
            self._balancer.service.start()

    def _register(self) -> None:
        with self._progress.step(f"Registering 2 templates and {self._options.machines} machines"):
            for template in templates():
                self._api.create("templates", template)
            for machine in machines(self._options.machines):
                self._api.create("machines", machine)

    def _start_simulator(self) -> Iterator[Service]:
        if not self._options.simulate or self._options.machines == 0:
            return
        state = self._home.state
        command = [sys.executable, "-m", "dragonfly.sandbox", "agents", "--server", self._plane.tink_server]
        behaviour = self._behaviour
        command += ["--count", str(self._options.machines), "--seed", str(behaviour.seed)]
        command += ["--fail-rate", str(behaviour.fail_rate)]
        command += [
            "--seconds",
            str(behaviour.shortest),
            str(behaviour.longest),
            "--trace",
            str(state / "machines.jsonl"),
        ]
        service = Service(Program("machines", tuple(command), state / "machines.log"), lambda: True, within=5)
        self._stack.callback(service.stop)
        service.start()
        yield service

    def _publish(self) -> None:
        """Write demo.json; called again, in another thread, when a replica has a new process."""
        with self._publishing:
            self._home.publish(
                DemoFile(
                    url=self._balancer.url,
                    token_file=str(self._token),
                    kubeconfig=str(self._plane.kubeconfig),
                    etcd=self._plane.etcd_endpoints,
                    tink_server=self._plane.tink_server,
                    audit_log=str(self._plane.audit_log),
                    replicas=tuple(ReplicaEntry(r.id, r.service.pid, r.url) for r in self._swarm.replicas),
                    processes=tuple(Listed(service.name, service.pid) for service in self._parts),
                )
            )

    def _died(self, death: Death) -> None:
        again = f"started again as pid {death.new_pid}" if death.new_pid else "not started again (--no-restart)"
        self._progress.note(f"{death.name} (pid {death.pid}) died: {again}")
        if self._is_up:
            self._publish()

    def _tell(self) -> None:
        first = self._swarm.replicas[0]
        told = Told(
            url=self._balancer.url,
            token=self._token.read_text().strip(),
            token_file=str(self._token),
            demo_file=str(self._home.file),
            tink_server=self._plane.tink_server,
            program=_program(),
            is_elsewhere=self._options.keep is not None,
            machines=self._options.machines,
            replica=first.id,
            replica_pid=first.service.pid,
            restart=self._options.restart,
            behaviour=self._behaviour if self._options.simulate else None,
        )
        self._console.print(text(told), highlight=False, markup=False, soft_wrap=True)


def _program() -> str:
    """What to type for `dragonfly`: its path where it is not the one on PATH, as in a checkout's .venv."""
    own = Path(sys.executable).parent / "dragonfly"
    found = shutil.which("dragonfly")
    if found is not None and Path(found).samefile(own):
        return "dragonfly"
    return str(own.relative_to(Path.cwd())) if own.is_relative_to(Path.cwd()) else str(own)


def _check(options: DemoOptions) -> None:
    if not 1 <= options.replicas <= MOST_REPLICAS:
        raise DemoFailed(f"--replicas must be 1 to {MOST_REPLICAS}, not {options.replicas}")
    if options.machines < 0:
        raise DemoFailed(f"--machines must be 0 or more, not {options.machines}")


def _check_port(port: int) -> None:
    if is_free(port):
        return
    by = listener(port)
    raise DemoFailed(
        f"Port {port} of {LOOPBACK} is taken{f' by {by}' if by else ''}. "
        f"Stop that, or give the demo another port: dragonfly demo --port {port + 1}"
    )


@contextmanager
def _signals_interrupt() -> Iterator[None]:
    """SIGINT and SIGTERM raise KeyboardInterrupt in the block; what was set before comes back after it."""

    def interrupt(number: int, frame: FrameType | None) -> Never:
        del number, frame
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _ignore_signals() -> None:
    """A second Ctrl-C must not keep the first from stopping everything."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
