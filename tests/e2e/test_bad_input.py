"""Bad input through the load balancer: a precise problem document, and nothing is changed."""

import json
from collections.abc import Iterator
from typing import Any, Final

import pytest

from dragonfly.sandbox.fate import Behaviour
from tests.e2e.api import Answer
from tests.e2e.conftest import StartSite
from tests.e2e.fleet import ENDS, two_actions, workflow, writes_of
from tests.e2e.site import Machine, Site
from tests.e2e.waiting import eventually

pytestmark = [pytest.mark.slow, pytest.mark.cluster]

TEMPLATE: Final = "needs-a-mirror"
MIB: Final = 1024 * 1024


@pytest.fixture(scope="module")
def site(start_site: StartSite) -> Iterator[Site]:
    with start_site(3) as site:
        parameters = {"properties": {"mirror": {"type": "string"}}, "required": ["mirror"]}
        site.template(TEMPLATE, two_actions() | {"parameters": parameters})
        yield site


@pytest.fixture(scope="module")
def machine(site: Site) -> Machine:
    """Registered, and at rest."""
    [machine] = site.registered()
    site.settled(machine)
    return machine


SWARMS_OWN = ("members/", "claims/", "drains/", "progress")


class Unchanged:
    """Sends requests that must change nothing, neither in etcd nor in the cluster."""

    def __init__(self, site: Site) -> None:
        self._site = site

    def send(self, method: str, path: str, body: Any = None, **how: Any) -> Answer:
        before = self._seen()
        answer = self._site.api.once(method, path, body, **how)
        assert self._seen() == before
        return answer

    def _seen(self) -> tuple[dict[str, int], dict[str, Any], dict[str, Any]]:
        """All but who drives what: a swarm that has just started may still hand shards over, whatever it is asked."""
        stored = {key: revision for key, revision in self._site.stored().items() if not key.startswith(SWARMS_OWN)}
        return stored, self._site.hardware(), self._site.workflows()


@pytest.fixture
def unchanged(site: Site, machine: Machine) -> Unchanged:
    return Unchanged(site)


def check(answer: Answer, status: int, problem: str, **errors: str) -> None:
    """Check the problem document: its type, and of each field the words that its message has."""
    document = answer.document
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert (answer.status, document["status"], document["type"]) == (status, status, f"/problems/{problem}"), document
    assert document["requestId"] == answer.headers["X-Request-Id"]
    told = {error["field"]: error["message"] for error in document.get("errors", [])}
    assert told.keys() == errors.keys()
    assert {field for field, words in errors.items() if words not in told[field]} == set(), told


def test_an_unknown_field(site: Site, unchanged: Unchanged) -> None:
    body = site.machines(1)[0].document()
    body["spec"]["interfaces"][0]["netmask"] = "255.255.255.0"

    check(unchanged.send("POST", "machines", body), 422, "invalid", **{"spec.interfaces[0].netmask": "is unknown"})


def test_a_wrong_mac(site: Site, unchanged: Unchanged) -> None:
    body = Machine(site.machines(1)[0].name, "02:00:00:00:00:0g").document()
    words = "must be a MAC address"

    check(unchanged.send("POST", "machines", body), 422, "invalid", **{"spec.interfaces[0].mac": words})


@pytest.mark.parametrize("write", [str.lower, str.upper])
def test_a_mac_of_another_machine(site: Site, unchanged: Unchanged, machine: Machine, write: Any) -> None:
    """However it is written."""
    body = Machine(site.machines(1)[0].name, write(machine.mac)).document()
    words = f"already belongs to machine {machine.name} in cluster local"

    check(unchanged.send("POST", "machines", body), 409, "mac-in-use", **{"spec.interfaces[0].mac": words})


def test_an_unknown_template(unchanged: Unchanged, machine: Machine) -> None:
    body = {"template": "windows-311"}

    answer = unchanged.send("POST", f"machines/{machine.name}/provision", body)

    check(answer, 422, "unknown-template", template=TEMPLATE)


def test_a_missing_parameter(unchanged: Unchanged, machine: Machine) -> None:
    answer = unchanged.send("POST", f"machines/{machine.name}/provision", {"template": TEMPLATE})

    check(answer, 422, "invalid", **{"parameters.mirror": "is required"})


def test_a_wrong_and_an_unknown_parameter(unchanged: Unchanged, machine: Machine) -> None:
    body = {"template": TEMPLATE, "parameters": {"mirror": 7, "miror": "http://10.0.0.1"}}

    answer = unchanged.send("POST", f"machines/{machine.name}/provision", body)

    check(answer, 422, "invalid", **{"parameters.mirror": "not of type 'string'", "parameters.miror": "has mirror"})


def test_a_machine_that_does_not_exist(unchanged: Unchanged) -> None:
    answer = unchanged.send("POST", "machines/nobody/provision", {"template": TEMPLATE})

    check(answer, 404, "not-found")


@pytest.mark.parametrize("size", [MIB + 1, 3 * MIB])
def test_a_body_that_is_too_large(unchanged: Unchanged, size: int) -> None:
    check(unchanged.send("POST", "machines", content=b" " * size), 413, "body-too-large")


def test_the_answer_to_a_body_that_is_too_large_is_never_lost(site: Site) -> None:
    """A connection that is closed under a client that still sends is reset, and the answer may go with it."""
    statuses = {site.api.once("POST", "machines", content=b" " * (MIB + 1)).status for _ in range(20)}

    assert statuses == {413}


def test_a_body_of_just_one_mib_is_read(unchanged: Unchanged) -> None:
    """The limit is where it is said to be: this one is refused for what it says."""
    body = json.dumps({"metadata": {}}).encode()

    answer = unchanged.send("POST", "machines", content=body + b" " * (MIB - len(body)))

    check(answer, 422, "invalid", spec="is required")


def test_what_is_no_json(unchanged: Unchanged) -> None:
    check(unchanged.send("POST", "machines", content=b'{"metadata": '), 400, "malformed")


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE"])
def test_a_stale_if_match(site: Site, unchanged: Unchanged, machine: Machine, method: str) -> None:
    revision = site.api.get(f"machines/{machine.name}")["metadata"]["revision"]
    body = {"PUT": machine.document(), "PATCH": {"spec": {"arch": "aarch64"}}}.get(method)
    stale = {"If-Match": f'"{revision - 1}"'}

    answer = unchanged.send(method, f"machines/{machine.name}", body, headers=stale)

    check(answer, 412, "revision-mismatch")
    assert answer.document["currentRevision"] == revision


def test_no_if_match(unchanged: Unchanged, machine: Machine) -> None:
    answer = unchanged.send("PATCH", f"machines/{machine.name}", {"spec": {"arch": "aarch64"}})

    check(answer, 428, "if-match-required")


def test_a_key_that_was_used_for_another_request(site: Site, unchanged: Unchanged) -> None:
    key = {"Idempotency-Key": f"used-{site.number}"}
    first, second = site.machines(2)
    assert site.api.once("POST", "machines", first.document(), headers=key).status == 201
    site.settled(first)

    check(
        unchanged.send("POST", "machines", second.document(), headers=key),
        422,
        "idempotency-key-reused",
    )


def test_a_wrong_token(site: Site, unchanged: Unchanged, machine: Machine) -> None:
    answer = unchanged.send("GET", f"machines/{machine.name}", headers={"Authorization": "Bearer df_guessed"})

    check(answer, 401, "unauthenticated")


def raw(worker: str) -> dict[str, Any]:
    return {"raw": f'name: x\ntasks: [{{name: a, worker: "{worker}", actions: []}}]'}


def action(argument: str) -> dict[str, Any]:
    return {"actions": [{"name": "a", "image": "example.org/a", "timeout": 60, "command": [argument]}]}


UNRENDERABLE: Final[dict[str, tuple[dict[str, Any], str]]] = {
    "unclosed": ({"raw": "name: {{ .device_1"}, "unclosed action"),
    "unknown-function": (raw("{{ uuidv4 }}"), 'function "uuidv4" not defined'),
    "unknown-value": (raw("{{ .device_9 }}"), 'no entry for key "device_9"'),
    "bad-yaml": ({"raw": 'name: x\ntasks: [{name: a, worker: "{{ .device_1 }}"'}, "yaml"),
    "no-worker": (raw(""), "worker"),
    "bad-expression": (action("{{ .hardware.spec | nothing }}"), 'function "nothing" not defined'),
}


@pytest.mark.parametrize("name", UNRENDERABLE)
def test_a_template_that_tinkerbell_cannot_render_fails_its_provision_in_tinkerbells_words(
    site: Site, name: str
) -> None:
    spec, words = UNRENDERABLE[name]
    [machine] = site.registered()
    site.template(name, spec)

    with site.agents([machine], Behaviour(shortest=0.0, longest=0.0)) as agents:
        provision = site.provision(machine, name)
        eventually("it has ended", lambda: site.phase(provision) in ENDS, within=90)
        status = site.status(provision)
        trace = agents.trace()

    assert (status["phase"], status["error"]["reason"]) == ("Failed", "TemplateRenderingFailed")
    assert words in status["error"]["message"]
    assert trace == []
    assert workflow(provision) not in site.workflows()
    assert writes_of(site.audit(), [provision]) == {provision: (1, 1)}
    assert site.audit().running_deleted() == []
    assert site.api.get(f"machines/{machine.name}")["status"]["phase"] == "Failed"
    eventually("netboot is closed", lambda: site.netboot()[machine.name] == [False], within=60)
