"""Bare hosts on a network of their own, and what is asked of an installation that went well."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

from tests.chaos.netns import Network
from tests.e2e.install.bare_host import BareHost, Done
from tests.e2e.install.bundled import bundle
from tests.e2e.waiting import eventually

FLOATING: Final = "192.0.2.100"
"""An address of the hosts' network that nobody has."""
ALL: Final = ("--no-dhcp",)
"""What all installations are told: nothing plays Tinkerbell's DHCP."""

_WAITS: Final = {"node", "replicas"}
"""A replica that a busy computer keeps from answering is not ready for as long."""


@contextmanager
def hosts(directory: Path, count: int) -> Iterator[list[BareHost]]:
    network = Network(directory / "network", nodes=count)
    with ExitStack() as stack:
        stack.enter_context(network.running())
        made = bundle(directory / "bundle", directory)
        yield [
            stack.enter_context(BareHost(f"host-{number}", node, directory, made).running())
            for number, node in enumerate(network.nodes, 1)
        ]


def asked(host: BareHost, address: str, token: str, path: str) -> Any:
    """What the swarm answers to the admin on a host; a load balancer may need a moment to know who does."""
    return eventually(f"{path} is answered", lambda: answered(host, address, token, path), within=120)


def answered(host: BareHost, address: str, token: str, path: str) -> Any:
    """The same, asked once; None if there is no answer."""
    done = host.run("curl", "-sf", "-m", "20", "-H", f"Authorization: Bearer {token}", f"{address}/api/v1/{path}")
    return json.loads(done.out) if done.code == 0 else None


def members(host: BareHost, address: str, token: str) -> set[str]:
    """The replicas of a swarm that is well. It may take a moment after an installation: former ones drain first."""
    found: Any = {}

    def is_whole() -> bool:
        nonlocal found
        found = answered(host, address, token, "swarm") or {"members": ()}
        return len(found["members"]) == 3 and not found.get("unowned")

    eventually("there are three replicas, and they have all shards", is_whole, within=180)
    return {member["id"] for member in found["members"]}


def finished(done: Done) -> dict[str, Any]:
    """The last event of an installation that went well."""
    assert done.code == 0, done.err
    last = done.events[-1]
    assert last["event"] == "installed"
    return last


def changed(done: Done) -> set[str]:
    """The steps that had anything to do, the self-test with them; those that only wait may have, for a moment."""
    return {step for step, state in done.states().items() if state != "unchanged"} - _WAITS


def reaches(host: BareHost, address: str, port: int) -> bool:
    """Whether a replica gets a connection."""
    ask = f"import socket; socket.create_connection(({address!r}, {port}), 5)"
    return host.kubectl("exec", "deployment/dragonfly", "--", "python3", "-c", ask).code == 0


def images(host: BareHost) -> list[str]:
    """What the pods run, those that drain too."""
    return [pod["spec"]["containers"][0]["image"] for pod in host.pods()]
