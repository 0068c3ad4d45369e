"""Machines that are provisioned end to end: the Service, a replica's pod, the API server, Tinkerbell, and agents."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from dragonfly.sandbox.fate import Behaviour
from tests.e2e.api import Api
from tests.e2e.fleet import ACTIONS, ENDS, two_actions
from tests.e2e.site import Agents, Machine
from tests.e2e.waiting import eventually
from tests.node.deployed import Deployed

_BEHAVIOUR: Final = Behaviour(seed=3, shortest=0.1, longest=0.5)


def succeed_once(
    deployed: Deployed,
    machines: Sequence[Machine],
    directory: Path,
    *,
    api: Api | None = None,
    template: str = "ubuntu-2404",
) -> None:
    """Register the machines and provision them; see that each succeeds, and that agents ran each action once.

    Args:
        api: who is asked; the Service if nobody is named.
        template: the name of a new one.
    """
    api = api or deployed.api
    api.post("templates", {"metadata": {"name": template}, "spec": two_actions()})
    for machine in machines:
        api.post("machines", machine.document())
    agents = Agents(directory, deployed.tinkerbell.tink_server, machines, _BEHAVIOUR)
    agents.service.start()
    try:
        asked = [_ask(api, machine, template) for machine in machines]
        eventually("all have ended", lambda: _phases(api, asked) <= ENDS, within=180, every=0.5)
    finally:
        agents.service.stop()

    assert _phases(api, asked) == {"Succeeded"}
    started = sorted((step.agent, step.action) for step in agents.trace() if step.event == "started")
    assert started == sorted((machine.mac, action) for machine in machines for action in ACTIONS)


def _ask(api: Api, machine: Machine, template: str) -> str:
    found: Any = api.post(f"machines/{machine.name}/provision", {"template": template})
    return str(found["metadata"]["name"])


def _phases(api: Api, provisions: Sequence[str]) -> set[str]:
    return {api.get(f"provisions/{name}")["status"]["phase"] for name in provisions}
