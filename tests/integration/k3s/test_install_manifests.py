"""What the installer puts into a cluster: what kustomize makes, and values that Tinkerbell's chart understands."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from dragonfly.install import kustomize, tinkerbell
from dragonfly.install.bundle import images_wanted
from dragonfly.install.options import EtcdMode, Options
from dragonfly.install.shipped import shipped
from tests.integration.k3s.rendered import KUBERNETES, MODES, Name, Object, helm, kustomized, name_of
from tests.integration.k3s.tinkerbell_chart import chart

pytestmark = pytest.mark.cluster


@pytest.mark.parametrize("mode", MODES)
def test_the_installer_makes_what_kustomize_makes(mode: EtcdMode) -> None:
    overlay = shipped() / "overlays" / mode

    found = {name_of(obj): obj for obj in kustomize.render(overlay)}

    assert _comparable(found) == _comparable(kustomized(overlay))


def test_on_one_host_everything_is_on_its_address(tmp_path: Path) -> None:
    found = _tinkerbell(Options(), tmp_path)

    service = found["Service", "tinkerbell", "tinkerbell"]["spec"]
    assert service["loadBalancerIP"] == "10.0.0.1"
    assert "loadBalancerClass" not in service
    assert "loadBalancerClass" not in found["Service", "tinkerbell", "hookos"]["spec"]
    assert not [name for name in found if name[2] == "kube-vip"]
    told = _environment(found)
    assert told["TINKERBELL_PUBLIC_IPV4"] == "10.0.0.1"
    assert told["TINKERBELL_IPXE_HTTP_SCRIPT_OSIE_URL"] == "http://10.0.0.1:7173"
    assert told["TINKERBELL_TRUSTED_PROXIES"] == "10.42.0.0/16"
    assert told["TINKERBELL_BACKEND_KUBE_QPS"] == "-1"
    assert told["TINKERBELL_DHCP_ENABLED"] == "true"
    (volume,) = [obj for name, obj in found.items() if name[0] == "PersistentVolume"]
    assert volume["spec"]["local"]["path"] == tinkerbell.HOOKOS_DIRECTORY


def test_addresses_that_move_are_held_by_kube_vip_which_leaves_all_others_alone(tmp_path: Path) -> None:
    options = Options(floating_ip="10.0.0.50", tinkerbell_ip="10.0.0.51", artifacts_ip="10.0.0.52")

    found = _tinkerbell(options, tmp_path)

    for name, address in {"tinkerbell": "10.0.0.51", "hookos": "10.0.0.52"}.items():
        service = found["Service", "tinkerbell", name]["spec"]
        assert (service["loadBalancerIP"], service["loadBalancerClass"]) == (address, tinkerbell.KUBE_VIP_CLASS)
    holder = found["DaemonSet", "tinkerbell", "kube-vip"]["spec"]["template"]["spec"]["containers"][0]
    told = {variable["name"]: variable["value"] for variable in holder["env"]}
    assert (told["lb_class_only"], told["lb_class_name"]) == ("true", tinkerbell.KUBE_VIP_CLASS)


def test_without_dhcp_and_with_files_elsewhere_the_chart_serves_neither(tmp_path: Path) -> None:
    found = _tinkerbell(Options(dhcp=False, artifacts_url="http://10.0.0.9/hook"), tmp_path)

    assert not [name for name in found if name[2] == "hookos"]
    assert not [name for name in found if name[0].startswith("PersistentVolume")]
    assert "initContainers" not in found["Deployment", "tinkerbell", "tinkerbell"]["spec"]["template"]["spec"]
    told = _environment(found)
    assert told["TINKERBELL_DHCP_ENABLED"] == "false"
    assert told["TINKERBELL_IPXE_HTTP_SCRIPT_OSIE_URL"] == "http://10.0.0.9/hook"


@pytest.mark.parametrize("mode", MODES)
def test_every_image_of_a_mode_is_in_the_bundle_or_is_the_replicas_own(mode: EtcdMode) -> None:
    started = _images(kustomized(shipped() / "overlays" / mode))

    named = {str(image) for image in images_wanted(chart().read_bytes())}
    assert started - named == {"dragonfly:0.1.0"}, "what --image-archive brings"
    assert started & named == ({"gcr.io/etcd-development/etcd:v3.7.1"} if mode == "dedicated" else set())


@pytest.mark.parametrize(
    "options",
    [
        Options(airgap="/bundle"),
        Options(airgap="/bundle", floating_ip="10.0.0.50", tinkerbell_ip="10.0.0.51", artifacts_ip="10.0.0.52"),
    ],
)
def test_every_image_of_tinkerbells_chart_is_in_the_bundle(options: Options, tmp_path: Path) -> None:
    """HookOS is not in it: an airgapped installation has the chart serve none."""
    started = _images(_tinkerbell(options, tmp_path))

    assert started
    assert started <= {str(image) for image in images_wanted(chart().read_bytes())}


def _images(found: object) -> set[str]:
    """Whatever stands under a key `image`, however deep."""
    if isinstance(found, dict):
        own = {found["image"]} if isinstance(found.get("image"), str) else set()
        return own.union(*map(_images, found.values()))
    return set().union(*map(_images, found)) if isinstance(found, list) else set()


def _tinkerbell(options: Options, directory: Path) -> dict[Name, Object]:
    """What the real chart makes of our values; a misspelt key would change nothing there."""
    values = tinkerbell.values(options, "10.0.0.1")
    _known(values, _defaults())
    file = directory / "values.yaml"
    file.write_text(yaml.safe_dump(values))
    command = [str(helm()), "template", "tinkerbell", str(chart()), "--namespace", "tinkerbell", "--values", str(file)]
    done = subprocess.run([*command, *KUBERNETES], capture_output=True, text=True, check=True, timeout=60)
    return {name_of(obj): obj for obj in yaml.safe_load_all(done.stdout) if obj}


def _defaults() -> Any:
    told = subprocess.run([str(helm()), "show", "values", str(chart())], capture_output=True, check=True, timeout=60)
    return yaml.safe_load(told.stdout)


def _known(values: dict[str, Any], defaults: Any, path: str = "") -> None:
    for key, value in values.items():
        assert key in defaults, f"the chart knows no {path}{key}"
        if isinstance(value, dict) and isinstance(defaults[key], dict):
            _known(value, defaults[key], f"{path}{key}.")


def _environment(found: dict[Name, Object]) -> dict[str, str]:
    containers = found["Deployment", "tinkerbell", "tinkerbell"]["spec"]["template"]["spec"]["containers"]
    (server,) = [container for container in containers if container["name"] == "tinkerbell"]
    return {variable["name"]: variable.get("value", "") for variable in server["env"]}


def _comparable(objects: dict[Name, Object]) -> dict[Name, Object]:
    for obj in objects.values():
        pod = obj.get("spec", {}).get("template", {}).get("spec", {})
        for container in pod.get("containers", ()):
            container["env"].sort(key=lambda variable: variable["name"])
        pod.get("volumes", []).sort(key=lambda volume: volume["name"])
    return objects
