"""Many machines, provisioned at once: what was asked for, and what must have become of it."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple

from dragonfly.sandbox.agents import Step
from dragonfly.sandbox.fate import Behaviour, first_trouble
from tests.e2e.audit import Audit
from tests.e2e.site import Machine, Site
from tests.e2e.waiting import eventually, eventually_equal

ACTIONS: Final = ("stream-image", "write-hostname")
ENDS: Final = frozenset({"Succeeded", "Failed", "TimedOut", "Cancelled"})


def two_actions() -> dict[str, Any]:
    """A template's spec, of the two `ACTIONS`."""
    first, second = ACTIONS
    return {
        "os": {"family": "ubuntu", "version": "24.04"},
        "parameters": {"properties": {"mirror": {"type": "string", "default": "http://10.0.0.1"}}},
        "globalTimeout": 900,
        "actions": [
            {
                "name": first,
                "image": "quay.io/tinkerbell/actions/image2disk:latest",
                "timeout": 300,
                "environment": {"DEST_DISK": "{{ machine.disk }}", "IMG_URL": "{{ parameters.mirror }}/os.raw.gz"},
            },
            {
                "name": second,
                "image": "quay.io/tinkerbell/actions/writefile:latest",
                "timeout": 300,
                "environment": {"CONTENTS": "{{ machine.hostname }}"},
            },
        ],
    }


def ask(site: Site, machines: Sequence[Machine], template: str) -> dict[str, str]:
    """Register the machines and have them provisioned; the name of each one's provision."""
    for machine in machines:
        site.api.post("machines", machine.document())
    return {machine.name: site.provision(machine, template) for machine in machines}


def provisions(site: Site) -> dict[str, Any]:
    """All provisions of the swarm, by name."""
    return {item["metadata"]["name"]: item for item in site.api.get("provisions?limit=1000")["items"]}


def all_ended(site: Site, count: int, *, within: float) -> dict[str, Any]:
    """Wait until that many provisions have their result; all provisions by name."""

    def ended() -> dict[str, Any]:
        found = provisions(site)
        done = [item for item in found.values() if item["status"]["phase"] in ENDS]
        return found if len(done) == len(found) >= count else {}

    return eventually(f"{count} provisions ended", ended, within=within, every=0.5)


class Outcome(NamedTuple):
    """How a provision ended: the phase, the error's reason, and the action that it is about."""

    phase: str
    reason: str = ""
    action: str = ""


def predicted(behaviour: Behaviour, machines: Sequence[Machine]) -> dict[str, Outcome]:
    """What the seed decided beforehand, by machine."""
    troubles = {machine.name: first_trouble(behaviour, machine.mac, ACTIONS) for machine in machines}
    return {
        name: Outcome("Succeeded") if trouble is None else Outcome("Failed", "ActionFailed", trouble[0])
        for name, trouble in troubles.items()
    }


def outcome(provision: dict[str, Any]) -> Outcome:
    """What Dragonfly says of it."""
    status = provision["status"]
    error = status.get("error")
    if error is None:
        return Outcome(status["phase"])
    action = next((name for name in ACTIONS if f"Action {name} " in error["message"]), error["message"])
    return Outcome(status["phase"], error["reason"], action)


def starts(trace: Sequence[Step]) -> Counter[tuple[str, str, str]]:
    """How often each action was started, by agent, provision and action: the machines' own word."""
    return Counter((step.agent, _provision_of(step.workflow), step.action) for step in trace if step.event == "started")


def expected_starts(
    behaviour: Behaviour, machines: Sequence[Machine], asked: dict[str, str]
) -> Counter[tuple[str, str, str]]:
    """Every action once, up to and including the first that fails."""
    counted: Counter[tuple[str, str, str]] = Counter()
    for machine in machines:
        trouble = first_trouble(behaviour, machine.mac, ACTIONS)
        last = ACTIONS.index(trouble[0]) if trouble else len(ACTIONS) - 1
        counted.update((machine.mac, asked[machine.name], action) for action in ACTIONS[: last + 1])
    return counted


def writes_of(audit: Audit, provisions: Sequence[str]) -> dict[str, tuple[int, int]]:
    """How often each provision's Workflow was created and armed: the API server's word."""
    return {name: (len(audit.creates(workflow(name))), len(audit.armings(workflow(name)))) for name in provisions}


def others_than_once(audit: Audit, provisions: Iterable[str]) -> dict[str, tuple[int, int]]:
    """The provisions whose Workflow was not created once and armed once, with how often it was."""
    return {name: counted for name, counted in writes_of(audit, list(provisions)).items() if counted != (1, 1)}


def each_once(look: Callable[[], Audit], provisions: Iterable[str]) -> None:
    """Wait until the log tells of one create and one arming of each: of a request it tells when that is over.

    What was done twice stays so, however long one waits.
    """
    names = list(provisions)

    def others() -> object:
        try:
            return others_than_once(look(), names)
        except LookupError as unexplained:
            return unexplained

    eventually_equal(others, {}, within=60)


def workflow(provision: str) -> str:
    return f"df-{provision.lower()}"


def _provision_of(workflow_id: str) -> str:
    """From tink-server's `namespace/name`."""
    return workflow_id.partition("/")[2].removeprefix("df-").upper()
