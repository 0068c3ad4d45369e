"""Commands that wait: they follow the feed over the death of every replica, and end with the result."""

import os
import subprocess
import sys
from collections.abc import Iterator
from signal import SIGKILL

import pytest

from dragonfly.sandbox.fate import Behaviour
from tests.e2e.conftest import StartSite
from tests.e2e.fleet import two_actions
from tests.e2e.site import Site

pytestmark = [pytest.mark.slow, pytest.mark.cluster]

TEMPLATE = "two-actions"


@pytest.fixture(scope="module")
def site(start_site: StartSite) -> Iterator[Site]:
    with start_site(3) as site:
        site.template(TEMPLATE, two_actions())
        yield site


def test_waiting_goes_on_when_all_replicas_are_killed(site: Site) -> None:
    """P7, P8: what happens meanwhile is told after it, once and in order."""
    machines = site.registered(2)
    names = [machine.name for machine in machines]
    with site.agents(machines, Behaviour(shortest=3.0, longest=3.0)), _waiting(site, names) as command:
        assert command.stderr is not None
        said = []
        for line in command.stderr:
            said.append(line)
            if "Running" in line:
                break
        for replica in site.swarm.replicas:
            site.swarm.kill(replica.id, SIGKILL)
        out, err = command.communicate(timeout=240)

    assert command.returncode == 0, err
    assert [line.split()[-1] for line in out.splitlines()] == ["Succeeded", "Succeeded"]
    lines = [line for line in [*said, *err.splitlines()] if not line.startswith("dragonfly: ")]
    for name in names:
        percents = [int(line.split()[1].removesuffix("%")) for line in lines if line.startswith(f"{name}: ")]
        assert percents == sorted(percents)
        assert percents[-1] == 100


def _waiting(site: Site, machines: list[str]) -> subprocess.Popen[str]:
    environment = {**os.environ, "DRAGONFLY_SERVER": site.balancer.url, "DRAGONFLY_TOKEN": site._token}
    return subprocess.Popen(
        [sys.executable, "-m", "dragonfly", "provision", *machines, TEMPLATE, "--wait", "--yes"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
