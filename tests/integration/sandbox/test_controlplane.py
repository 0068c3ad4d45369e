"""The control plane is a real one: it refuses what it should, carries out Workflows, and leaves nothing behind."""

import asyncio
import json
import signal
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from dragonfly.sandbox import toolchain
from dragonfly.sandbox.agents import Step, read_trace, run_agents
from dragonfly.sandbox.controlplane import NAMESPACE, ControlPlane
from dragonfly.sandbox.fate import Behaviour, Outcome, first_trouble
from dragonfly.sandbox.inventory import mac
from dragonfly.sandbox.kubeapi import KubeApi
from dragonfly.sandbox.process import Program, Service
from tests.integration.sandbox.waiting import eventually

pytestmark = pytest.mark.cluster

WORKFLOWS = f"/apis/tinkerbell.org/v1alpha1/namespaces/{NAMESPACE}/workflows"
_BY_HAND = "by-hand-"
ACTIONS = ("first", "second")
TEMPLATE = """
version: "0.1"
name: two-actions
global_timeout: 600
tasks:
- name: install
  worker: "{{ .device_1 }}"
  actions:
  - {name: first, image: example.org/first, timeout: 60}
  - {name: second, image: example.org/second, timeout: 60}
"""


@pytest.fixture
def dragonfly(control_plane: ControlPlane) -> KubeApi:
    """The API server as Dragonfly's ServiceAccount sees it."""
    kubeconfig = yaml.safe_load(control_plane.kubeconfig.read_text())
    return control_plane.apiserver.as_bearer(kubeconfig["users"][0]["user"]["token"])


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/v1/namespaces/kube-system/secrets"),
        ("GET", "/api/v1/secrets"),
        ("GET", "/apis/tinkerbell.org/v1alpha1/workflows"),
        ("GET", f"/api/v1/namespaces/{NAMESPACE}/configmaps"),
        ("GET", "/api/v1/nodes"),
        ("DELETE", f"/api/v1/namespaces/{NAMESPACE}"),
        ("DELETE", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/workflows.tinkerbell.org"),
        ("DELETE", WORKFLOWS),
        ("PUT", f"{WORKFLOWS}/any"),
        ("GET", f"/api/v1/namespaces/{NAMESPACE}/secrets"),
        ("GET", "/api/v1/namespaces/kube-system"),
        ("GET", "/api/v1/namespaces"),
        ("GET", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"),
        ("POST", f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts/tinkerbell/token"),
    ],
)
def test_dragonfly_is_refused_what_is_none_of_its_business(dragonfly: KubeApi, method: str, path: str) -> None:
    body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest"} if method == "POST" else None

    assert dragonfly.request(method, path, body).status == 403


@pytest.mark.parametrize(
    ("group", "resource", "needed"),
    [
        ("tinkerbell.org", "hardware", "get list watch create patch delete"),
        ("tinkerbell.org", "workflows", "get list watch create patch delete"),
        ("tinkerbell.org", "workflows/status", "patch"),
        ("tinkerbell.org", "templates", "get list watch create patch"),
        ("tinkerbell.org", "hardware/status", ""),
        ("bmc.tinkerbell.org", "machines", "get list watch create patch delete"),
        ("bmc.tinkerbell.org", "jobs", "get list watch create patch delete"),
        ("bmc.tinkerbell.org", "tasks", "list delete"),
        ("", "secrets", "get create patch delete"),
        ("", "events", "create patch"),
        ("events.k8s.io", "events", ""),
        ("", "configmaps", ""),
        ("coordination.k8s.io", "leases", ""),
    ],
)
def test_dragonfly_may_do_what_it_needs_and_nothing_else(
    dragonfly: KubeApi, group: str, resource: str, needed: str
) -> None:
    verbs = ("get", "list", "watch", "create", "update", "patch", "delete", "deletecollection")

    assert [verb for verb in verbs if _may(dragonfly, verb, group, resource)] == [
        verb for verb in verbs if verb in needed.split()
    ]


@pytest.mark.parametrize(
    "path",
    [
        WORKFLOWS,
        f"/apis/tinkerbell.org/v1alpha1/namespaces/{NAMESPACE}/hardware",
        f"/apis/tinkerbell.org/v1alpha1/namespaces/{NAMESPACE}/templates",
        f"/apis/bmc.tinkerbell.org/v1alpha1/namespaces/{NAMESPACE}/machines",
        f"/apis/bmc.tinkerbell.org/v1alpha1/namespaces/{NAMESPACE}/jobs",
        "/version",
    ],
)
def test_dragonfly_may_read_what_it_works_with(dragonfly: KubeApi, path: str) -> None:
    assert dragonfly.request("GET", path).status == 200


def test_nobody_comes_in_without_a_name(control_plane: ControlPlane) -> None:
    assert control_plane.apiserver.as_bearer("no-such-token").request("GET", "/api").status == 401


def test_etcd_wants_a_certificate_and_serves_the_json_gateway_to_who_has_one(control_plane: ControlPlane) -> None:
    url = f"{control_plane.etcd_endpoints[0]}/v3/maintenance/status"
    stranger = ssl.create_default_context(cafile=control_plane.etcd_ca)
    friend = ssl.create_default_context(cafile=control_plane.etcd_ca)
    friend.load_cert_chain(control_plane.etcd_cert, control_plane.etcd_key)

    with pytest.raises((urllib.error.URLError, ssl.SSLError, ConnectionError)):
        urllib.request.urlopen(url, b"{}", context=stranger)
    with urllib.request.urlopen(url, b"{}", context=friend) as answer:
        assert json.load(answer)["version"].startswith("3.")


def test_kubectl_works_with_the_kubeconfig(control_plane: ControlPlane) -> None:
    command = [str(toolchain.binary("kubectl")), "--kubeconfig", str(control_plane.kubeconfig), "get", "hardware"]
    # Other tests have theirs in the same control plane.
    command += ["--field-selector", "metadata.name=nobody-has-this-name"]

    assert subprocess.run(command, capture_output=True, text=True, check=True).stderr.startswith("No resources")


async def test_agents_carry_out_workflows_as_their_seed_says(control_plane: ControlPlane, tmp_path: Path) -> None:
    machines = [mac(number) for number in range(12)]
    behaviour = Behaviour(seed=7, fail_rate=0.2, timeout_rate=0.1, shortest=0.0, longest=0.2)
    expected = {machine: first_trouble(behaviour, machine, ACTIONS) for machine in machines}
    assert {None, Outcome.FAILED, Outcome.TIMEOUT} <= {end and end[1] for end in expected.values()}

    async with asyncio.timeout(240):
        playing = asyncio.create_task(
            run_agents(control_plane.tink_server, machines, behaviour, trace=tmp_path / "trace")
        )
        states = await asyncio.to_thread(_carry_out, control_plane, machines)
    playing.cancel()
    with suppress(asyncio.CancelledError):
        await playing

    words = {None: "SUCCESS", Outcome.FAILED: "FAILED", Outcome.TIMEOUT: "TIMEOUT"}
    assert states == {machine: words[end and end[1]] for machine, end in expected.items()}
    assert _actions_started(read_trace(tmp_path / "trace")) == {
        (machine, action): 1
        for machine, end in expected.items()
        for action in (ACTIONS if end is None else ACTIONS[: ACTIONS.index(end[0]) + 1])
    }


def test_the_audit_log_has_the_bodies_of_writes_to_tinkerbell_and_not_of_secrets(control_plane: ControlPlane) -> None:
    admin = control_plane.apiserver.admin
    template = _template("audited")
    admin.apply(template)
    secret = {"metadata": {"name": "audited"}, "stringData": {"password": "not-for-the-log"}}
    assert admin.request("POST", f"/api/v1/namespaces/{NAMESPACE}/secrets", secret).status == 201

    lines = control_plane.audit_log.read_text().rpartition("\n")[0].splitlines()  # the last may be half written
    entries = [entry for entry in map(json.loads, lines) if entry.get("objectRef", {}).get("name") == "audited"]
    by_resource = {entry["objectRef"]["resource"]: entry for entry in entries}
    assert by_resource["templates"]["requestObject"]["spec"] == template["spec"]
    assert by_resource["templates"]["user"]["username"] == "admin"
    assert "requestObject" not in by_resource.get("secrets", {})
    assert "not-for-the-log" not in control_plane.audit_log.read_text()


@pytest.mark.slow
def test_nothing_is_left_after_stop() -> None:
    with ControlPlane(etcd_members=3) as plane:
        pids = [process.pid for process in plane.processes]
        assert len(pids) == 5
        assert all(_is_alive(pid) for pid in pids)

    assert not any(_is_alive(pid) for pid in pids)
    assert not plane.directory.exists()


@pytest.mark.slow
def test_nothing_is_left_when_the_owner_is_killed(tmp_path: Path) -> None:
    """kill -9 leaves no chance to clean up: the kernel does it."""
    script = tmp_path / "owner.py"
    script.write_text(
        "import sys, threading\n"
        "from pathlib import Path\n"
        "from dragonfly.sandbox.controlplane import ControlPlane\n"
        "with ControlPlane(Path(sys.argv[1]) / 'plane') as plane:\n"
        "    (Path(sys.argv[1]) / 'pids').write_text(' '.join(str(p.pid) for p in plane.processes) + ' ready')\n"
        "    threading.Event().wait()\n"
    )
    pids = tmp_path / "pids"
    owner = Service(
        Program("owner", (sys.executable, str(script), str(tmp_path)), tmp_path / "owner.log"),
        lambda: pids.exists() and pids.read_text().endswith("ready"),
        within=180,
    )
    try:
        owner.start()
        children = [int(pid) for pid in pids.read_text().split()[:-1]]
        assert all(_is_alive(pid) for pid in children)
    finally:
        owner.kill()

    eventually(lambda: not any(_is_alive(pid) for pid in children))


def test_a_part_can_be_killed_and_started_again(tmp_path: Path) -> None:
    with ControlPlane(tmp_path / "plane", with_tinkerbell=False) as plane:
        plane.apiserver.admin.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "kept"}})
        etcd, apiserver = plane.services
        etcd.signal(signal.SIGKILL)
        assert etcd.wait(60)
        etcd.start()
        apiserver.kill()
        apiserver.start()

        assert plane.apiserver.admin.request("GET", "/api/v1/namespaces/kept").status == 200
    assert plane.directory.exists(), "a directory that the caller named stays"


@pytest.mark.slow
async def test_agents_go_on_after_tinkerbell_was_killed(tmp_path: Path) -> None:
    machines = [mac(number) for number in range(6)]
    behaviour = Behaviour(shortest=1.0, longest=2.0)
    trace = tmp_path / "trace"
    with ControlPlane() as plane:
        async with asyncio.timeout(360):
            playing = asyncio.create_task(run_agents(plane.tink_server, machines, behaviour, trace=trace))
            carrying = asyncio.create_task(asyncio.to_thread(_carry_out, plane, machines))
            await asyncio.to_thread(eventually, lambda: trace.exists() and len(read_trace(trace)) > 3, 90)
            await asyncio.to_thread(plane.tinkerbell.service.kill)
            await asyncio.to_thread(plane.tinkerbell.service.start)
            states = await carrying
        playing.cancel()
        with suppress(asyncio.CancelledError):
            await playing

    assert states == dict.fromkeys(machines, "SUCCESS")
    ended = {(step.agent, step.action) for step in read_trace(trace) if step.outcome is Outcome.SUCCESS}
    assert ended == {(machine, action) for machine in machines for action in ACTIONS}


def _may(who: KubeApi, verb: str, group: str, resource: str) -> bool:
    plural, _, subresource = resource.partition("/")
    attributes = {
        "namespace": NAMESPACE,
        "verb": verb,
        "group": group,
        "resource": plural,
        "subresource": subresource,
    }
    review = {"spec": {"resourceAttributes": attributes}}
    answer = who.request("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", review)
    assert answer.status == 201
    return bool(answer.body["status"]["allowed"])


def _carry_out(plane: ControlPlane, machines: list[str]) -> dict[str, str]:
    """Create a Workflow for each machine; its final state, by machine."""
    admin = plane.apiserver.admin
    admin.apply(_template("two-actions"))
    for machine in machines:
        admin.apply(_workflow(machine))
    eventually(lambda: all(state in {"SUCCESS", "FAILED", "TIMEOUT"} for state in _states(admin).values()), seconds=200)
    return _states(admin)


def _states(admin: KubeApi) -> dict[str, str]:
    """The states of this test's Workflows: others use the same cluster."""
    found = admin.request("GET", WORKFLOWS).body["items"]
    items = [item for item in found if item["metadata"]["name"].startswith(_BY_HAND)]
    return {item["spec"]["hardwareMap"]["device_1"]: item.get("status", {}).get("state", "") for item in items}


def _template(name: str) -> dict[str, Any]:
    return {
        "apiVersion": "tinkerbell.org/v1alpha1",
        "kind": "Template",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"data": TEMPLATE},
    }


def _workflow(machine: str) -> dict[str, Any]:
    return {
        "apiVersion": "tinkerbell.org/v1alpha1",
        "kind": "Workflow",
        "metadata": {"name": f"{_BY_HAND}{machine.replace(':', '')}", "namespace": NAMESPACE},
        "spec": {"templateRef": "two-actions", "hardwareMap": {"device_1": machine}},
    }


def _actions_started(trace: list[Step]) -> dict[tuple[str, str], int]:
    started = [(step.agent, step.action) for step in trace if step.event == "started"]
    return {key: started.count(key) for key in started}


def _is_alive(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False  # it may go while it is looked at
    return status.rsplit(")", 1)[1].split()[0] != "Z"
