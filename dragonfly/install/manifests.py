"""What of Dragonfly is put into the cluster: the shipped manifests, and what these options change in them.

Pure but for reading those files.
"""

from collections.abc import Iterable, Iterator
from typing import Any, Final, get_args
from urllib.parse import urlsplit

from dragonfly.install import kustomize
from dragonfly.install.detection import TINKERBELL
from dragonfly.install.options import EtcdMode, Options
from dragonfly.install.shipped import shipped
from dragonfly.install.tinkerbell import KUBE_VIP_CLASS
from dragonfly.kube.resources import Object

NAMESPACE: Final = "dragonfly"
NAME: Final = "dragonfly"
OWN_SECRET: Final = "dragonfly"  # noqa: S105 - its name
ETCD_NAMESPACE: Final = "dragonfly-etcd"
ETCD_DIRECTORY: Final = "/var/lib/dragonfly-etcd"
"""Of each node with a member, as the overlay has it."""
MEMBER_LABEL: Final = "dragonfly.io/etcd"
MEMBER: Final = "member"
"""What it says on a node that has a member."""
_HTTPS: Final = 443


def manifests(options: Options) -> list[Object]:
    """Return everything but the Secrets, namespaces first."""
    objects = kustomize.render(shipped() / "overlays" / options.etcd)
    objects.sort(key=lambda obj: obj["kind"] != "Namespace")
    return [_adapted(obj, options) for obj in objects]


def namespaces(options: Options) -> list[Object]:
    """Return those that Secrets need before anything else is there."""
    shipped_ones = [obj for obj in manifests(options) if obj["kind"] == "Namespace"]
    return [{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": TINKERBELL}}, *shipped_ones]


def replica_image(options: Options) -> str:
    """Return the image that these options have replicas run."""
    (deployment,) = filter(_is_replicas, manifests(options))
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    return str(container["image"])


def images() -> tuple[str, ...]:
    """Return what the containers of all modes are made from, but for the replicas' own image."""
    found = (_images(kustomize.render(shipped() / "overlays" / mode)) for mode in get_args(EtcdMode))
    return tuple(dict.fromkeys(image for images_of_mode in found for image in images_of_mode))


def _images(objects: list[Object]) -> Iterator[str]:
    for obj in objects:
        pod = obj.get("spec", {}).get("template", {}).get("spec", {})
        for container in (*pod.get("initContainers", ()), *pod.get("containers", ())):
            if not (_is_replicas(obj) and container["name"] == NAME):
                yield container["image"]


def _is_replicas(obj: Object) -> bool:
    return (obj["kind"], obj["metadata"]["name"]) == ("Deployment", NAME)


def _adapted(obj: Object, options: Options) -> Object:
    kind, name = obj["kind"], obj["metadata"]["name"]
    if _is_replicas(obj):
        return kustomize.merged(obj, _deployment(options))  # type: ignore[no-any-return] # JSON is JSON
    if (kind, name) == ("Service", NAME) and options.floating_ip:
        return kustomize.merged(obj, _service(options))  # type: ignore[no-any-return] # JSON is JSON
    if (kind, name) == ("NetworkPolicy", NAME) and options.external:
        return allowing(obj, endpoint_ports(options.external.endpoints))
    return obj


def allowing(policy: Object, ports: Iterable[int]) -> Object:
    """Return a NetworkPolicy by which its pods reach these TCP ports of anybody, too; `policy` stays as it is."""
    egress = policy["spec"]["egress"]
    there = {port["port"] for rule in egress for port in rule["ports"] if port["protocol"] == "TCP"}
    more = [{"port": port, "protocol": "TCP"} for port in sorted(set(ports) - there)]
    if not more:
        return policy
    return {**policy, "spec": {**policy["spec"], "egress": [*egress, {"ports": more}]}}


def endpoint_ports(endpoints: Iterable[str]) -> set[int]:
    """Return the ports that these URLs of HTTPS lead to."""
    return {urlsplit(endpoint).port or _HTTPS for endpoint in endpoints}


def _deployment(options: Options) -> dict[str, Any]:
    container: dict[str, Any] = {"name": NAME}
    if options.image:
        container["image"] = options.image
    if options.site:
        container["env"] = [{"name": "DRAGONFLY_SITE", "value": options.site}]
    return {"spec": {"template": {"spec": {"containers": [container]}}}}


def _service(options: Options) -> dict[str, Any]:
    return {
        "metadata": {"annotations": {"kube-vip.io/loadbalancerIPs": options.floating_ip}},
        "spec": {"loadBalancerClass": KUBE_VIP_CLASS, "loadBalancerIP": options.floating_ip},
    }
