"""kill -9 at each moment of an installation, and of taking it off: it goes on, and ends as if nothing had been."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.e2e.install.bare_host import BareHost, Moment
from tests.e2e.install.installed import ALL, finished, members
from tests.e2e.waiting import eventually_equal

pytestmark = [pytest.mark.cluster, pytest.mark.etcd, pytest.mark.slow, pytest.mark.timeout(900)]


def killed_everywhere(
    host: BareHost,
    *arguments: str,
    look: Callable[[Moment], None] = lambda _: None,
    look_after: Callable[[Moment], None] = lambda _: None,
) -> set[Moment]:
    """Say it again and again, killing it at the first moment where it was not killed yet, until it comes to its end."""
    seen: set[Moment] = set()
    while moment := host.killed_at(lambda moment: moment not in seen, *arguments, look=look):
        look_after(moment)
        seen.add(moment)
    return seen


def told(host: BareHost) -> str:
    """What the host tells of itself."""
    return host.dragonfly("status", "--local").out


def page(host: BareHost) -> dict[str, Any]:
    """What the page shows that the installer serves while it runs."""
    done = host.run("curl", "-sf", "-m", "20", "http://127.0.0.1:3001/progress")
    found: dict[str, Any] = json.loads(done.out)
    return found


def test_killed_at_each_moment_of_each_step_it_becomes_the_same_swarm(host: BareHost) -> None:
    """kill -9 as each step begins, in it and as it ends, each time going on; then while taking everything back."""
    before = host.state()
    planned = json.loads(host.install(*ALL, "--dry-run").out)["steps"]

    def look(moment: Moment) -> None:
        states = {step["name"]: step["state"] for step in page(host)["steps"]}
        assert list(states) == [step["name"] for step in planned]
        assert [name for name, state in states.items() if state == "started"] == [moment.step]

    def look_after(moment: Moment) -> None:
        if moment == Moment("config", "begun"):
            # One is enough: the status takes its second.
            assert "an installation has begun and stopped at step config" in (now := told(host))
            assert "To do:         Go on with it: dragonfly install. Or take it back: dragonfly uninstall." in now

    killed = killed_everywhere(host, *host.installing(*ALL), look=look, look_after=look_after)

    # Ready as soon as k3s is, or by the time that a killed installation is said again: then there is nothing to do.
    # On one host there is nothing to spread.
    steps = {step["name"] for step in planned} - {"node", "replicas", "spread"}
    assert {moment.step for moment in killed if moment.name == "begun"} >= steps
    # One that was killed when it had told all that it does has nothing left to carry out.
    assert {moment.step for moment in killed if moment.name != "begun"} >= steps
    assert {Moment("manifests", f"told {number}") for number in (1, 2, 3)} <= killed
    done = finished(host.dragonfly("install", "--yes", "-o", "json"))
    assert f"installed; answers at {done['address']}" in (now := told(host))
    assert "kubeconfig /etc/rancher/k3s/k3s.yaml: reaches Kubernetes" in now
    assert members(host, done["address"], host.secret("dragonfly", "admin-token"))
    assert len(killed_everywhere(host, "uninstall", "--yes", "--delete-data", "-o", "json")) > 15
    eventually_equal(host.state, before, within=60)
