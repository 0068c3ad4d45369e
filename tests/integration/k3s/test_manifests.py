"""deploy/k3s: kustomize and Helm make the same of it, and an API server takes it word for word."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from dragonfly import __version__
from dragonfly.install.manifests import manifests
from dragonfly.install.options import ExternalEtcd, Options
from dragonfly.sandbox import toolchain
from dragonfly.sandbox.controlplane import ControlPlane
from dragonfly.settings import SETTINGS
from tests.integration.k3s.rendered import (
    K3S,
    KUBERNETES,
    MODES,
    Name,
    Object,
    helm,
    kustomized,
    name_of,
    templated,
)

pytestmark = pytest.mark.cluster

OWN = ("Namespace", "", "dragonfly")


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> str:
    value: str = request.param
    return value


def test_helm_makes_what_kustomize_makes(mode: str) -> None:
    """But for the namespace, which Helm needs to be there before."""
    expected = kustomized(K3S / "overlays" / mode)
    assert OWN in expected

    found = templated("--set", f"etcd.mode={mode}")

    assert _comparable(found) == _comparable({name: object_ for name, object_ in expected.items() if name != OWN})


def test_more_ports_are_allowed_as_the_installer_allows_them() -> None:
    """An etcd at ports that the manifests do not have."""
    ports = (4001, 4002)
    endpoints = tuple(f"https://10.0.0.9:{port}" for port in ports)
    external = ExternalEtcd(endpoints=endpoints, ca_file="/ca", username="dragonfly", password_file="/pw")
    expected = {name_of(obj): obj for obj in manifests(Options(etcd="external", external=external))}

    found = templated("--set", "etcd.mode=external", "--set", "egressPorts={4001,4002}")

    assert _comparable(found) == _comparable({name: object_ for name, object_ in expected.items() if name != OWN})
    (rule,) = [rule for rule in _egress(found) if rule not in _egress(templated("--set", "etcd.mode=external"))]
    assert [port["port"] for port in rule["ports"]] == list(ports)


def test_the_flag_for_prometheus_is_the_component(tmp_path: Path) -> None:
    shutil.copytree(K3S, tmp_path / "k3s", symlinks=True)
    overlay = tmp_path / "k3s" / "overlays" / "shared"
    with (overlay / "kustomization.yaml").open("a") as file:
        file.write("components: [../../components/servicemonitor]\n")
    expected = kustomized(overlay)

    found = templated("--set", "serviceMonitor.enabled=true")

    monitor = ("ServiceMonitor", "dragonfly", "dragonfly")
    assert found[monitor] == expected[monitor]
    assert {name for name in expected if name not in found} == {OWN}
    assert monitor not in templated()


def test_the_api_server_takes_all_of_it_strictly(control_plane: ControlPlane, mode: str, tmp_path: Path) -> None:
    """Nothing unknown, nothing refused, and not a word of Pod Security's about the namespace that it restricts."""
    objects = kustomized(K3S / "overlays" / mode)
    spaces = [object_ for object_ in objects.values() if object_["kind"] == "Namespace"]
    _apply(control_plane, tmp_path, spaces)

    said = _apply(control_plane, tmp_path, list(objects.values()), "--dry-run=server")

    assert len(said.stdout.splitlines()) == len(objects)
    assert said.stderr == ""


def test_pod_security_is_what_refuses_less(control_plane: ControlPlane, tmp_path: Path) -> None:
    objects = kustomized(K3S / "overlays" / "shared")
    _apply(control_plane, tmp_path, [objects[OWN]])
    deployment = objects["Deployment", "dragonfly", "dragonfly"]
    del deployment["spec"]["template"]["spec"]["containers"][0]["securityContext"]

    said = _apply(control_plane, tmp_path, [deployment], "--dry-run=server")

    assert 'would violate PodSecurity "restricted:latest"' in said.stderr


def test_nothing_claims_a_volume_and_replicas_have_no_disk(mode: str) -> None:
    objects = kustomized(K3S / "overlays" / mode)

    assert not [name for name in objects if "PersistentVolume" in name[0] or name[0] == "StatefulSet"]
    volumes = objects["Deployment", "dragonfly", "dragonfly"]["spec"]["template"]["spec"]["volumes"]
    assert [set(volume) for volume in volumes] == [{"name", "secret"}] * 2


def test_replicas_are_told_settings_that_there_are(mode: str) -> None:
    known = {setting.env for setting in SETTINGS}
    told = _environment(kustomized(K3S / "overlays" / mode))

    assert {name for name in told if name.startswith("DRAGONFLY_")} <= known
    # A reference to a variable is one only if that stands before it.
    assert list(told).index("POD_IP") < list(told).index("DRAGONFLY_ADVERTISE")


def test_versions_are_those_of_the_project() -> None:
    chart = yaml.safe_load((K3S / "chart" / "Chart.yaml").read_text())
    objects = kustomized(K3S / "overlays" / "shared")
    server = objects["Deployment", "dragonfly", "dragonfly"]["spec"]["template"]["spec"]["containers"][0]

    assert chart["version"] == chart["appVersion"] == __version__
    assert server["image"] == f"dragonfly:{__version__}"


def test_values_reach_what_they_name() -> None:
    digest = f"sha256:{'a' * 64}"
    found = templated(
        *("--set", "tinkerbellNamespace=metal,site=fra1,settings.DRAGONFLY_LEASE_TTL=5s,networkPolicy=false"),
        *("--set", f"image.repository=registry.example.com/dragonfly,image.digest={digest},replicas=5"),
        *("--set", "service.type=NodePort,service.port=80,nodeSelector.disk=none,priorityClassName=high"),
        namespace="provisioning",
    )

    pod = found["Deployment", "provisioning", "dragonfly"]["spec"]["template"]["spec"]
    assert pod["containers"][0]["image"] == f"registry.example.com/dragonfly@{digest}"
    assert (pod["nodeSelector"], pod["priorityClassName"]) == ({"disk": "none"}, "high")
    told = _environment(found, "provisioning")
    assert told["DRAGONFLY_NAMESPACE"] == "metal"
    assert (told["DRAGONFLY_SITE"], told["DRAGONFLY_LEASE_TTL"]) == ("fra1", "5s")
    assert found["Service", "provisioning", "dragonfly"]["spec"]["ports"][0]["port"] == 80
    assert not [name for name in found if name[0] == "NetworkPolicy"]
    assert {name[1] for name in found} == {"", "metal", "provisioning"}
    assert "tinkerbell" not in re.sub(r"(bmc\.)?tinkerbell\.org", "", yaml.safe_dump(list(found.values())))
    for kind in ("", "Cluster"):
        (binding,) = [object_ for name, object_ in found.items() if name[0] == f"{kind}RoleBinding"]
        namespace = binding["metadata"].get("namespace", "")
        assert (f"{kind}Role", namespace, binding["roleRef"]["name"]) in found
        assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "dragonfly", "namespace": "provisioning"}]


def test_tolerations_come_to_those_of_a_dead_node_or_replace_one_of_them() -> None:
    gpu = "tolerations[0].key=gpu,tolerations[0].operator=Exists"
    slow = "tolerations[1].key=node.kubernetes.io/not-ready,tolerations[1].tolerationSeconds=90"

    found = templated("--set", f"{gpu},{slow}")

    pod = found["Deployment", "dragonfly", "dragonfly"]["spec"]["template"]["spec"]
    assert {one["key"]: one.get("tolerationSeconds") for one in pod["tolerations"]} == {
        "node.kubernetes.io/unreachable": 30,
        "gpu": None,
        "node.kubernetes.io/not-ready": 90,
    }


@pytest.mark.parametrize("effect", ["NoSchedule", "NoExecute"])
def test_a_toleration_of_another_effect_leaves_fail_over_as_quick(effect: str) -> None:
    """Where none is of NoExecute, Kubernetes adds its own, of five minutes."""
    own = f"key=node.kubernetes.io/not-ready,tolerations[0].operator=Exists,tolerations[0].effect={effect}"

    found = templated("--set", f"tolerations[0].{own}")

    pod = found["Deployment", "dragonfly", "dragonfly"]["spec"]["template"]["spec"]
    leaving = [one["key"] for one in pod["tolerations"] if one.get("tolerationSeconds") == 30]
    assert ("node.kubernetes.io/not-ready" in leaving) == (effect != "NoExecute")
    assert "node.kubernetes.io/unreachable" in leaving


@pytest.mark.parametrize("mode", ["shared", "external"])
def test_a_setting_goes_before_what_the_chart_says_and_each_is_there_once(mode: str) -> None:
    own = {
        "DRAGONFLY_SITE": "b",
        "DRAGONFLY_ETCD_CA_FILE": "/ca",
        "DRAGONFLY_NAMESPACE": "metal",
        "NO_PROXY": "10.0.0.1",
    }
    said = ",".join(f"settings.{name}={value}" for name, value in own.items())

    found = templated("--set", f"etcd.mode={mode},site=a,{said}")

    (server,) = found["Deployment", "dragonfly", "dragonfly"]["spec"]["template"]["spec"]["containers"]
    names = [one["name"] for one in server["env"]]
    assert len(names) == len(set(names))
    assert own.items() <= {one["name"]: one.get("value") for one in server["env"]}.items()


def test_the_fence_can_be_left_out() -> None:
    assert not [name for name in templated("--set", "fence=false") if name[0].startswith("Cluster")]


@pytest.mark.parametrize(
    "value",
    [
        *("replicas=0", "replica=3", "etcd.mode=own", "egressPorts={0}", "settings.LEASE=1", "image.digest=abc"),
        "resources.limts.memory=1Gi",
    ],
)
def test_a_value_that_makes_no_sense_is_refused(value: str) -> None:
    with pytest.raises(subprocess.CalledProcessError) as refused:
        templated("--set", value)

    assert "values don't meet the specifications of the schema" in refused.value.stderr


def test_who_installs_with_helm_is_told_to_label_the_namespace_before() -> None:
    """Helm makes no namespace with labels; the guide and the chart's notes have the overlay's."""
    labels = kustomized(K3S / "overlays" / "shared")[OWN]["metadata"]["labels"]
    guide, _, _ = (K3S.parents[1] / "docs" / "kubernetes.md").read_text().partition("$ helm install")
    notes = (K3S / "chart" / "templates" / "NOTES.txt").read_text()

    for text in (guide, notes):
        (label,) = re.findall(r"kubectl label namespace .* (pod-security\S+)=(\S+)", text)
        assert label in labels.items()


def test_helm_finds_no_fault_with_the_chart() -> None:
    command = [str(helm()), "lint", "--strict", "--quiet", *KUBERNETES, str(K3S / "chart")]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    assert done.returncode == 0, done.stdout


def _comparable(objects: dict[Name, Object]) -> dict[Name, Object]:
    """The same whatever the order of the containers' variables."""
    for object_ in objects.values():
        pod = object_.get("spec", {}).get("template", {}).get("spec", {})
        for container in pod.get("containers", ()):
            container["env"].sort(key=lambda variable: variable["name"])
    return objects


def _environment(objects: dict[Name, Object], namespace: str = "dragonfly") -> dict[str, Any]:
    server = objects["Deployment", namespace, "dragonfly"]["spec"]["template"]["spec"]["containers"][0]
    return {variable["name"]: variable.get("value") for variable in server["env"]}


def _egress(objects: dict[Name, Object]) -> list[Any]:
    rules: list[Any] = objects["NetworkPolicy", "dragonfly", "dragonfly"]["spec"]["egress"]
    return rules


def _apply(
    plane: ControlPlane, directory: Path, objects: list[Object], *flags: str
) -> subprocess.CompletedProcess[str]:
    file = directory / "objects.yaml"
    file.write_text(yaml.safe_dump_all(objects))
    command = [str(toolchain.binary("kubectl")), "--kubeconfig", str(plane.admin_kubeconfig), "apply", "--server-side"]
    # The sandbox has applied the rights already, for replicas outside.
    done = subprocess.run(
        [*command, "--force-conflicts", "--validate=strict", "--filename", str(file), *flags],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done
