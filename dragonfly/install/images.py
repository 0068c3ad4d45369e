"""Names of images in full, and on which hosts one is, as their nodes tell. Pure."""

from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from dragonfly.kube.resources import Object

_REGISTRY: Final = "docker.io"
_OFFICIAL: Final = "library"


class Lacking(NamedTuple):
    """The nodes that don't tell of having an image, in order."""

    ready: tuple[str, ...] = ()
    """Pods may be put on them."""
    away: tuple[str, ...] = ()
    """They are not ready, or cordoned, so no pods come there before that has changed."""

    def without(self, name: str) -> "Lacking":
        """Return the others."""
        return Lacking(*(tuple(one for one in names if one != name) for names in self))


def lacking(nodes: Iterable[Object], image: str) -> Lacking:
    """Return the nodes that don't tell of having the image."""
    wanted = full_name(image)
    found = {node["metadata"]["name"]: takes_pods(node) for node in nodes if wanted not in _names(node)}
    return Lacking(
        tuple(sorted(name for name, is_ready in found.items() if is_ready)),
        tuple(sorted(name for name, is_ready in found.items() if not is_ready)),
    )


def full_name(image: str) -> str:
    """Return an image's name as containerd keeps it: with its registry and its tag."""
    path, _, digest = image.partition("@")
    if not digest and ":" not in path.rpartition("/")[2]:
        image = f"{image}:latest"
    return with_registry(image)


def with_registry(image: str) -> str:
    """Return an image's name with its registry, which is Docker's if it names none."""
    first, slash, _ = image.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost"):
        return image
    return f"{_REGISTRY}/{image}" if slash else f"{_REGISTRY}/{_OFFICIAL}/{image}"


def takes_pods(node: Object) -> bool:
    """Whether a node is ready and not cordoned."""
    conditions = {one["type"]: one["status"] for one in _status(node).get("conditions", ())}
    return conditions.get("Ready") == "True" and not node.get("spec", {}).get("unschedulable", False)


def _names(node: Object) -> set[str]:
    return {full_name(name) for one in _status(node).get("images", ()) for name in one.get("names") or ()}


def _status(node: Object) -> dict[str, Any]:
    found: dict[str, Any] = node.get("status", {})
    return found
