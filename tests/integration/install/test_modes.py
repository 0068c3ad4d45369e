"""What is detected on a real cluster, and a real replica that finds its etcd through the cluster's Secret."""

import base64
import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from ulid import ULID

from dragonfly.install.detection import Detection
from dragonfly.install.survey import survey
from dragonfly.sandbox.controlplane import NAMESPACE, ControlPlane
from dragonfly.sandbox.ports import PortLease
from dragonfly.sandbox.probes import http_ok
from dragonfly.sandbox.process import Program, Service
from dragonfly.settings import Host, load
from tests.integration.install.answered import once_answered

pytestmark = pytest.mark.cluster

TOKEN = "df_a-token-for-the-test-of-modes"
COMMAND = (sys.executable, "-m", "dragonfly")
SECRETS = f"/api/v1/namespaces/{NAMESPACE}/secrets"


async def detected(env: Mapping[str, str], directory: Path) -> Detection:
    settings = load({}, env, None, Host("h", "abcde"))
    return (await survey(settings, env, directory=directory)).detection


async def test_dragonflys_own_rights_suffice_to_see_tinkerbell(control_plane: ControlPlane, tmp_path: Path) -> None:
    nothing, env = tmp_path / "nothing", {"KUBECONFIG": str(control_plane.kubeconfig)}

    remote = await detected(env, nothing)
    local = await detected(env, tmp_path)
    pod = await detected(env | {"DRAGONFLY_INSTALLED": "1"}, tmp_path)

    assert (remote.mode, local.mode, pod.mode) == ("remote", "local", "pod")
    assert remote.cluster == local.cluster == pod.cluster
    assert remote.cluster is not None
    assert (remote.cluster.namespace, remote.cluster.missing) == (NAMESPACE, ())
    assert remote.cluster.server == control_plane.apiserver.url
    assert remote.cluster.version.startswith("v")
    assert f"Secret {NAMESPACE}/dragonfly-etcd: not there" in remote.etcd.reason
    assert "through the API server: there is no replica token" in remote.etcd.reason


async def test_a_cluster_without_tinkerbell_and_one_where_it_arrives(tmp_path: Path) -> None:
    with ControlPlane(tmp_path / "plane", with_tinkerbell=False) as plane:
        env = {"KUBECONFIG": str(plane.admin_kubeconfig)}
        before = await detected(env, tmp_path / "nothing")
        admin = plane.apiserver.admin
        admin.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "tink-system"}})
        after = await detected(env, tmp_path / "nothing")

    gone = await detected(env, tmp_path / "nothing")

    assert before.mode == "not-installed"
    assert any("Install Tinkerbell in that cluster" in advice for advice in before.advice)
    assert (after.mode, after.cluster and after.cluster.namespace) == ("remote", "tink-system")
    assert any("DRAGONFLY_NAMESPACE=tink-system" in advice for advice in after.advice)
    assert gone.mode == "not-installed"
    assert gone.cluster is not None
    assert gone.cluster.reason.startswith(plane.apiserver.url)


async def test_credentials_that_are_refused_and_a_context_that_is_not_there(
    control_plane: ControlPlane, tmp_path: Path
) -> None:
    document = yaml.safe_load(control_plane.kubeconfig.read_text())
    document["users"][0]["user"] = {"token": "expired"}
    file = tmp_path / "config"
    file.write_text(yaml.safe_dump(document))
    env = {"KUBECONFIG": str(file)}

    refused = await detected(env, tmp_path / "nothing")
    other = await detected(env | {"DRAGONFLY_CONTEXT": "other"}, tmp_path / "nothing")

    assert refused.cluster is not None
    assert "does not accept the credentials" in refused.cluster.reason
    assert other.cluster is not None
    assert (other.cluster.broken, other.cluster.reason) == (
        True,
        "the kubeconfig has no context 'other'; there is sandbox",
    )


@pytest.fixture
def secret(control_plane: ControlPlane) -> Iterator[dict[str, str]]:
    """The Secret of the session's etcd; change it with `put`."""
    yield {
        "endpoints": ",".join(control_plane.etcd_endpoints),
        "prefix": f"/modes-{ULID()}/".lower(),
        "ca": control_plane.etcd_ca.read_text(),
        "cert": control_plane.etcd_cert.read_text(),
        "key": control_plane.etcd_key.read_text(),
    }
    control_plane.apiserver.admin.request("DELETE", f"{SECRETS}/dragonfly-etcd")


def put(plane: ControlPlane, content: Mapping[str, str]) -> None:
    data = {key: base64.b64encode(value.encode()).decode() for key, value in content.items()}
    body = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "dragonfly-etcd"}, "data": data}
    admin = plane.apiserver.admin
    admin.request("DELETE", f"{SECRETS}/dragonfly-etcd")
    assert admin.request("POST", SECRETS, body).status == 201


def environment(plane: ControlPlane, home: Path, **more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("DRAGONFLY_", "KUBE"))}
    return kept | {"HOME": str(home), "KUBECONFIG": str(plane.kubeconfig), **more}


def run(env: Mapping[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments], env=dict(env), capture_output=True, text=True, check=False, timeout=120
    )


def test_a_replica_that_has_only_a_kubeconfig_finds_its_etcd_in_the_cluster(
    control_plane: ControlPlane, secret: dict[str, str], tmp_path: Path
) -> None:
    put(control_plane, secret)
    (tmp_path / "token").write_text(TOKEN)
    with PortLease() as ports:
        address = f"127.0.0.1:{ports.take()}"
        env = environment(
            control_plane,
            tmp_path,
            DRAGONFLY_LISTEN=address,
            DRAGONFLY_REPLICA="modes",
            DRAGONFLY_ADMIN_TOKEN_FILE=str(tmp_path / "token"),
        )
        program = Program("replica", (*COMMAND, "server"), tmp_path / "replica.log", env)
        service = Service(program, lambda: http_ok(f"http://{address}/readyz"), within=60)
        try:
            service.start()
            asked = urllib.request.Request(
                f"http://{address}/api/v1/mode", headers={"Authorization": f"Bearer {TOKEN}"}
            )
            with urllib.request.urlopen(asked, timeout=30) as answer:
                mode: dict[str, Any] = json.load(answer)
            told = run(
                env | {"DRAGONFLY_TOKEN_FILE": str(tmp_path / "token")}, "status", "--server", f"http://{address}"
            )
        finally:
            service.stop()

    assert mode["mode"] == "remote"
    assert mode["etcd"] == {
        "source": "secret",
        "reachable": True,
        "place": f"Secret {NAMESPACE}/dragonfly-etcd",
        "endpoints": list(control_plane.etcd_endpoints),
        "why": [
            {"lookedAt": "DRAGONFLY_ETCD_ENDPOINTS", "found": "not set"},
            {"lookedAt": f"Secret {NAMESPACE}/dragonfly-etcd", "found": "answers", "decides": True},
        ],
    }
    assert f"Mode:          remote (namespace {NAMESPACE} there)" in told.stdout
    local = once_answered(lambda: run(environment(control_plane, tmp_path), "status"))
    assert f"(from Secret {NAMESPACE}/dragonfly-etcd), answers" in local.stdout
    assert local.returncode == 0
    assert "PRIVATE KEY" not in (tmp_path / "replica.log").read_text() + local.stdout


def test_a_server_that_finds_no_etcd_says_what_to_do(
    control_plane: ControlPlane, secret: dict[str, str], tmp_path: Path
) -> None:
    env = environment(control_plane, tmp_path)

    without = run(env, "server")
    put(control_plane, secret | {"endpoints": "https://127.0.0.1:1"})
    silent = run(env, "server")
    put(control_plane, secret | {"ca": "nonsense"})
    broken = run(env, "server")

    assert [without.returncode, silent.returncode, broken.returncode] == [3, 5, 2]
    assert f"Secret {NAMESPACE}/dragonfly-etcd: not there" in without.stderr
    assert f"the etcd of Secret {NAMESPACE}/dragonfly-etcd does not answer here" in silent.stderr
    assert f"Secret {NAMESPACE}/dragonfly-etcd cannot be used: ca: must be PEM" in broken.stderr
    assert all(done.stderr.endswith("dragonfly demo\n") for done in (without, silent, broken))
