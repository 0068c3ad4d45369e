"""Several clusters for one swarm: control planes, namespaces of Tinkerbell in them, and their registration."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

import aiohttp
import yaml

from dragonfly.sandbox import toolchain
from dragonfly.sandbox.controlplane import NAMESPACE, TOKEN_HOURS, ControlPlane
from dragonfly.sandbox.progress import SILENT
from dragonfly.sandbox.shipped import shipped

_BATCH: Final = 500


@contextmanager
def planes(count: int) -> Iterator[tuple[ControlPlane, ...]]:
    """Start so many control planes, each with an etcd of its own, and stop them."""
    binaries = toolchain.ensure(("etcd", "kube-apiserver", "tinkerbell"), SILENT)
    with ExitStack() as stack:
        yield tuple(stack.enter_context(ControlPlane(binaries=binaries)) for _ in range(count))


def kubeconfig_of(plane: ControlPlane, namespace: str, directory: Path) -> str:
    """Make a namespace with all of Dragonfly's rights in it, as `deploy/k3s/base` gives them; its kubeconfig."""
    admin = plane.apiserver.admin
    admin.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
    for name in ("rbac.yaml", "rbac-fence.yaml"):
        for document in yaml.safe_load_all(shipped(name).read_text()):
            admin.apply(_moved(document, namespace))
    path = directory / f"{namespace}.kubeconfig"
    return plane.apiserver.kubeconfig(path, namespace, "dragonfly", token_hours=TOKEN_HOURS).read_text()


class Api:
    """Dragonfly's API for those who set the stage: what is refused ends the benchmark."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self.session = session
        self._url = f"{url}/api/v1/"

    async def get(self, path: str) -> Any:
        async with self.session.get(self._url + path) as answer:
            return await _good(answer, path)

    async def post(self, path: str, body: Mapping[str, Any]) -> Any:
        async with self.session.post(self._url + path, json=body) as answer:
            return await _good(answer, path)

    async def register_cluster(self, name: str, **spec: Any) -> None:
        await self.post("clusters", {"metadata": {"name": name}, "spec": spec})

    async def register_machines(self, bodies: list[dict[str, Any]]) -> None:
        for start in range(0, len(bodies), _BATCH):
            operations = [{"op": "create", "body": body} for body in bodies[start : start + _BATCH]]
            done = await self.post("machines:batch", {"operations": operations})
            refused = [result for result in done["results"] if result["status"] >= HTTPStatus.MULTIPLE_CHOICES]
            if refused:
                raise RuntimeError(f"a machine was refused: {refused[0]}")

    async def all(self, path: str) -> list[Any]:
        """Every item of a list, page by page."""
        items: list[Any] = []
        cursor = ""
        while True:
            page = await self.get(f"{path}{'&' if '?' in path else '?'}limit=1000{cursor}")
            items += page["items"]
            if "cursor" not in page:
                return items
            cursor = f"&cursor={page['cursor']}"


async def _good(answer: aiohttp.ClientResponse, path: str) -> Any:
    if answer.status >= HTTPStatus.MULTIPLE_CHOICES:
        raise RuntimeError(f"{path}: {answer.status} {await answer.text()}")
    return await answer.json()


def _moved(document: dict[str, Any], namespace: str) -> dict[str, Any]:
    """A manifest for Tinkerbell's usual namespace as it is for another one."""
    metadata = document["metadata"]
    metadata["name"] = _renamed(metadata["name"], namespace)
    if "namespace" in metadata:
        metadata["namespace"] = namespace
    for subject in document.get("subjects", ()):
        subject["namespace"] = namespace
    if "roleRef" in document:
        document["roleRef"]["name"] = _renamed(document["roleRef"]["name"], namespace)
    for rule in document.get("rules", ()):
        if "resourceNames" in rule:
            rule["resourceNames"] = [_renamed(name, namespace) for name in rule["resourceNames"]]
    return document


def _renamed(name: str, namespace: str) -> str:
    """What is not in a namespace has its namespace's name at the end of its own."""
    return name.removesuffix(f".{NAMESPACE}") + f".{namespace}" if name.endswith(f".{NAMESPACE}") else name
