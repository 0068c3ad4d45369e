"""What all benchmarks share: a swarm on real parts, statistics, and the page of results.

A benchmark prints ratios between things measured in one run on one machine, and puts them into `RESULTS.md` below its
own heading, with the command that made them. Absolute numbers are there to be read beside each other, nowhere else.
"""

import datetime as dt
import os
import platform
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import NamedTuple

from dragonfly.sandbox import apt, toolchain
from dragonfly.sandbox.controlplane import ControlPlane
from dragonfly.sandbox.etcd import Etcd
from dragonfly.sandbox.haproxy import LoadBalancer
from dragonfly.sandbox.pki import Authority
from dragonfly.sandbox.ports import PortLease
from dragonfly.sandbox.progress import SILENT
from dragonfly.sandbox.swarm import Swarm, replica_environment

RESULTS = Path(__file__).parent / "RESULTS.md"
_INTRODUCTION = """# Results

Ratios measured in one run on one machine, everything on it: etcd, kube-apiserver, Tinkerbell, the replicas, HAProxy and
the clients. Written by the benchmarks themselves; each section tells its command.
"""


class Stage(NamedTuple):
    """A running swarm."""

    plane: ControlPlane
    swarm: Swarm
    url: str
    token: str


class Row(NamedTuple):
    """One line of a table of results."""

    what: str
    value: str
    ratio: str = ""


@contextmanager
def stage(replicas: int = 3) -> Iterator[Stage]:
    """Start a control plane, a swarm and a load balancer, and stop them all."""
    binaries = toolchain.ensure(("etcd", "kube-apiserver", "tinkerbell"), SILENT)
    with ControlPlane(binaries=binaries) as plane, swarm_on(plane, plane.directory, replicas=replicas) as running:
        yield running


@contextmanager
def own_etcd(directory: Path) -> Iterator[Etcd]:
    """Start an etcd for a swarm alone, and stop it."""
    with PortLease() as ports:
        authority = Authority(directory, "etcd-ca", dt.datetime.now(dt.UTC))
        etcd = Etcd(toolchain.binary("etcd"), directory, authority, ports)
        etcd.start()
        try:
            yield etcd
        finally:
            etcd.stop()


@contextmanager
def swarm_on(
    plane: ControlPlane,
    directory: Path,
    *,
    replicas: int = 3,
    etcd: Etcd | None = None,
    own: Mapping[str, Mapping[str, str]] | None = None,
    restart: bool = True,
) -> Iterator[Stage]:
    """Start a swarm and a load balancer on a control plane that runs, and stop them.

    Args:
        plane: where they work.
        directory: for their files.
        replicas: how many.
        etcd: a running one that is the swarm's own; if None, it uses the control plane's, as the API server does.
        own: what single replicas are told besides, by id.
        restart: start replicas again that die.
    """
    with ExitStack() as stack:
        ports = stack.enter_context(PortLease())
        environment = replica_environment(plane, directory) | _own(etcd)
        swarm = Swarm(directory / "swarm", ports, environment, replicas=replicas, own=own, restart=restart)
        stack.callback(swarm.stop)
        swarm.start()
        addresses = [replica.url.removeprefix("http://") for replica in swarm.replicas]
        balancer = LoadBalancer(
            apt.program("haproxy", SILENT),
            directory / "haproxy",
            port=ports.take(),
            stats_port=ports.take(),
            replicas=addresses,
        )
        stack.callback(balancer.service.stop)
        balancer.service.start()
        token = Path(environment["DRAGONFLY_ADMIN_TOKEN_FILE"]).read_text().strip()
        yield Stage(plane, swarm, balancer.url, token)


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least `share` (0 to 1) of all values do not exceed."""
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)]


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"


def spread(values: Sequence[float]) -> str:
    return f"p50 {milliseconds(median(values))}, p99 {milliseconds(percentile(values, 0.99))}"


def publish(heading: str, explanation: str, rows: Sequence[Row]) -> None:
    """Print the rows and write them into RESULTS.md, in the place of the section of that heading."""
    section = _section(heading, explanation, rows)
    print(section)
    known = RESULTS.read_text() if RESULTS.exists() else _INTRODUCTION
    before, _, rest = known.partition(f"\n## {heading}\n")
    after = rest.partition("\n## ")[2]
    RESULTS.write_text(before.rstrip() + "\n\n" + section + (f"\n## {after}" if after else ""))


def _own(etcd: Etcd | None) -> dict[str, str]:
    if etcd is None:
        return {}
    return {
        "DRAGONFLY_ETCD_ENDPOINTS": ",".join(etcd.endpoints),
        "DRAGONFLY_ETCD_CA_FILE": str(etcd.access.ca),
        "DRAGONFLY_ETCD_CERT_FILE": str(etcd.access.client.certificate),
        "DRAGONFLY_ETCD_KEY_FILE": str(etcd.access.client.key),
    }


def _section(heading: str, explanation: str, rows: Sequence[Row]) -> str:
    place = f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
    table = "\n".join(f"| {row.what} | {row.value} | {row.ratio} |" for row in rows)
    return (
        f"## {heading}\n\n{explanation}\n\n`{_command()}` on {dt.datetime.now(dt.UTC):%Y-%m-%d}, {place}\n\n"
        f"| what | measured | ratio |\n| --- | --- | --- |\n{table}\n"
    )


def _command() -> str:
    """As one types it in the checkout: after `-m`, `sys.argv` begins with the path of the module's file."""
    spec = sys.modules["__main__"].__spec__
    program = ["-m", spec.name] if spec is not None else [os.path.relpath(sys.argv[0], RESULTS.parents[1])]
    return shlex.join(["python", *program, *sys.argv[1:]])
