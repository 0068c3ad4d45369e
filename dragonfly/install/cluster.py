"""The cluster that an installation makes, as its admin sees it: objects put there, looked at, waited for, taken out."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from dragonfly.install.carriers import ETCD_ROLE
from dragonfly.install.execution import Refused, StepFailed
from dragonfly.install.images import Lacking, lacking
from dragonfly.install.rollouts import pods_trouble, rollout_problem
from dragonfly.install.spread import Spread, spread_of
from dragonfly.install.steps import Gone
from dragonfly.kube.channel import Limits
from dragonfly.kube.connection import Connection
from dragonfly.kube.credentials import Kubeconfig
from dragonfly.kube.errors import KubeError, NotFound, ServerFailed, Throttled, Unreachable
from dragonfly.kube.resources import DEPLOYMENT, NODE, POD, SERVICE, Object, Ref, Resource, ref_of

Say = Callable[[str], None]

_LIMITS: Final = Limits(qps=50, burst=50, in_flight=8, deadline=15.0, attempts=1)
_PAUSE: Final = 0.5
_APPLY_SECONDS: Final = 180
"""For types that k3s's own controllers bring a while after the API server is there."""
_DELETE_SECONDS: Final = 120


_PASSING: Final = (Unreachable, Throttled, ServerFailed)
"""What says nothing against what was asked."""


class ApiSilent(StepFailed):
    """The API server does not answer right now, or not with what was asked for; nothing is wrong with that."""


class Cluster:
    """Each call has a connection of its own: between two, k3s may be another."""

    def __init__(self, kubeconfig: Path) -> None:
        self._kubeconfig = kubeconfig

    @property
    def is_known(self) -> bool:
        """Whether there is a way to it at all."""
        return self._kubeconfig.exists()

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[Connection]:
        async with Connection(Kubeconfig((self._kubeconfig,)), _LIMITS) as kube:
            yield kube

    def node_problem(self, hostname: str) -> str:
        """Return why this host is no ready node yet; empty if it is."""
        return asyncio.run(self._node_problem(hostname))

    async def _node_problem(self, hostname: str) -> str:
        if not self.is_known:
            return "k3s has no API server yet"
        try:
            async with self._open() as kube:
                node = await kube.get(Ref(NODE, "", hostname))
        except NotFound:
            return "the API server answers, and the node is not registered yet"
        except KubeError as error:
            return f"the API server does not answer: {error.message}"
        conditions = {one["type"]: one for one in node.get("status", {}).get("conditions", ())}
        ready = conditions.get("Ready", {})
        return "" if ready.get("status") == "True" else f"the node is not ready: {ready.get('message', 'no word yet')}"

    def has(self, objects: Iterable[Object]) -> bool:
        """Whether the cluster has them as they are."""
        return self.is_known and asyncio.run(self._has(list(objects)))

    async def _has(self, objects: list[Object]) -> bool:
        try:
            async with self._open() as kube:
                for obj in objects:
                    live = await kube.get(ref_of(obj))
                    if _essence(await kube.apply(obj, force=True, dry_run=True)) != _essence(live):
                        return False
        except KubeError:
            return False
        return True

    def apply(self, objects: Iterable[Object], say: Say) -> None:
        """Put them there.

        Raises:
            Refused: the API server refuses one; those before it are there.
            StepFailed: it does not answer.
        """
        asyncio.run(self._apply(list(objects), say))

    async def _apply(self, objects: list[Object], say: Say) -> None:
        async with self._open() as kube:
            deadline = time.monotonic() + _APPLY_SECONDS
            for obj in objects:
                await self._apply_one(kube, obj, deadline, say)

    async def _apply_one(self, kube: Connection, obj: Object, deadline: float, say: Say) -> None:
        name = f"{obj['kind']} {obj['metadata']['name']}"
        while True:
            try:
                await kube.apply(obj, force=True)
            except (NotFound, *_PASSING) as error:
                if time.monotonic() > deadline:
                    raise StepFailed(f"{name}: {error.message}") from error
                say(f"{name}: {error.message}")
                await asyncio.sleep(_PAUSE)
            except KubeError as error:
                raise Refused(f"{name} is refused: {error.message}") from error
            else:
                say(name)
                return

    def get(self, ref: Ref) -> Object | None:
        """Return an object; None if it is not there.

        Raises:
            StepFailed: the API server does not answer.
        """
        return asyncio.run(self._get(ref))

    def found(self, names: Iterable[Gone]) -> list[Object]:
        """Return those of these objects that are there.

        Raises:
            StepFailed: the API server does not answer.
        """
        return asyncio.run(self._found([_ref(name) for name in names]))

    async def _found(self, refs: list[Ref]) -> list[Object]:
        async with self._open() as kube:
            found = [await _read(kube, ref) for ref in refs]
        return [obj for obj in found if obj is not None]

    async def _get(self, ref: Ref) -> Object | None:
        async with self._open() as kube:
            return await _read(kube, ref)

    def patch(self, ref: Ref, body: Mapping[str, Any]) -> bool:
        """Merge into an object, and return whether it is there.

        Raises:
            StepFailed: the API server refuses it, or does not answer.
        """

        async def patched() -> bool:
            try:
                async with self._open() as kube:
                    await kube.patch(ref, body)
            except NotFound:
                return False
            except KubeError as error:
                raise failed(f"{ref} cannot be changed", error) from error
            return True

        return asyncio.run(patched())

    def delete(self, names: Iterable[Gone]) -> str:
        """Delete objects and wait until they are gone; return a remark if that can't be told."""
        try:
            return asyncio.run(self._delete([_ref(name) for name in names])) if self.is_known else ""
        except StepFailed as error:
            return str(error)

    def leave(self, hostname: str) -> str:
        """Take a node out and wait until it is gone; return a remark if the cluster does not answer.

        Raises:
            StepFailed: it is not gone: k3s lets it go only once etcd has no member there any more, and without that
                member the others may be too few.
        """
        return asyncio.run(self._delete([Ref(NODE, "", hostname)])) if self.is_known else ""

    async def _delete(self, refs: list[Ref]) -> str:
        """Raises StepFailed if one is not gone in time."""
        deadline = time.monotonic() + _DELETE_SECONDS
        try:
            async with self._open() as kube:
                for ref in refs:
                    while await _is_there(kube, ref):
                        if time.monotonic() > deadline:
                            raise StepFailed(f"{ref} was not gone within {_DELETE_SECONDS} s")
                        await asyncio.sleep(_PAUSE)
        except KubeError as error:
            return f"the cluster does not answer, so what was in it was left there: {error.message}"
        return ""

    def etcd_addresses(self) -> tuple[str, ...]:
        """Return the addresses of the servers with a member of k3s's etcd, in order.

        Raises:
            StepFailed: the API server does not answer.
        """
        return self.labelled_addresses(ETCD_ROLE, "true")

    def node_count(self) -> int:
        """Return how many hosts the cluster has.

        Raises:
            StepFailed: the API server does not answer.
        """
        return len(self.node_names())

    def node_names(self) -> tuple[str, ...]:
        """Return the names of the nodes, in order.

        Raises:
            StepFailed: the API server does not answer.
        """
        return tuple(str(node["metadata"]["name"]) for node in self._list(NODE, "", {}))

    def labelled_addresses(self, label: str, value: str) -> tuple[str, ...]:
        """Return the addresses of the nodes with a label, in order.

        Raises:
            StepFailed: the API server does not answer.
        """
        return tuple(_internal_address(node) for node in self._list(NODE, "", {label: value}))

    def labelled_names(self, label: str, value: str) -> tuple[str, ...]:
        """Return the names of the nodes with a label, in order.

        Raises:
            StepFailed: the API server does not answer.
        """
        return tuple(str(node["metadata"]["name"]) for node in self._list(NODE, "", {label: value}))

    def hosts(self) -> Mapping[str, str]:
        """Return the addresses of all nodes by their names.

        Raises:
            StepFailed: the API server does not answer.
        """
        return {str(node["metadata"]["name"]): _internal_address(node) for node in self._list(NODE, "", {})}

    def pods(self, namespace: str, labels: Mapping[str, str], host: str) -> list[Object]:
        """Return the pods with these labels that are on a node.

        Raises:
            StepFailed: the API server does not answer.
        """
        return [pod for pod in self._list(POD, namespace, labels) if pod["spec"].get("nodeName") == host]

    def lacking(self, image: str) -> Lacking:
        """Return the nodes that do not have an image.

        Raises:
            StepFailed: the API server does not answer.
        """
        return lacking(self._list(NODE, "", {}), image)

    def _list(self, resource: Resource, namespace: str, labels: Mapping[str, str]) -> list[Object]:
        """Return the objects with these labels, by name.

        Raises:
            StepFailed: the API server does not answer.
        """

        async def listed() -> list[Object]:
            try:
                async with self._open() as kube:
                    selector = ",".join(f"{key}={value}" for key, value in labels.items())
                    found = await kube.list(resource, namespace, label_selector=selector)
            except KubeError as error:
                raise failed(f"{resource.plural} cannot be listed", error) from error
            return sorted(found.items, key=lambda obj: str(obj["metadata"]["name"]))

        return asyncio.run(listed())

    def rollout_problem(self, namespace: str, name: str) -> str:
        """Return why a Deployment is not rolled out yet, in the words of its pods too; empty if it is."""
        try:
            found = self.get(Ref(DEPLOYMENT, namespace, name))
            if found is None:
                return f"Deployment {name} is not there"
            if not (problem := rollout_problem(found)):
                return ""
            trouble = pods_trouble(self._list(POD, namespace, found["spec"]["selector"]["matchLabels"]))
        except StepFailed as error:
            return str(error)
        return f"{problem}; {trouble}" if trouble else problem

    def spread(self, namespace: str, name: str) -> Spread:
        """Return how the replicas of a Deployment are spread over the hosts.

        Raises:
            StepFailed: the API server does not answer.
        """
        found = self.get(Ref(DEPLOYMENT, namespace, name))
        if found is None:
            return Spread(f"Deployment {name} is not there")
        pods = self._list(POD, namespace, found["spec"]["selector"]["matchLabels"])
        return spread_of(found, pods, self._list(NODE, "", {}))

    def evict(self, namespace: str, name: str) -> str:
        """Have a pod go as a drain does, and return why it may not yet; empty if it goes, or is gone.

        Raises:
            StepFailed: the API server refuses it for ever, or does not answer.
        """

        async def evicted() -> str:
            try:
                async with self._open() as kube:
                    await kube.evict(Ref(POD, namespace, name))
            except NotFound:
                return ""
            except Throttled as error:
                return error.message
            except KubeError as error:
                raise failed(f"pod {name} cannot be evicted", error) from error
            return ""

        return asyncio.run(evicted())

    def service_address(self, namespace: str, name: str) -> str:
        """Return where the load balancer serves a Service; empty if it does not yet."""
        try:
            found = self.get(Ref(SERVICE, namespace, name))
        except StepFailed:
            return ""
        ingress = _ingress(found or {}) or [{}]
        return str(ingress[0].get("ip") or ingress[0].get("hostname") or "")

    def balanced(self) -> frozenset[str]:
        """Return the addresses of all load balancers of the cluster.

        Raises:
            StepFailed: the API server does not answer.
        """
        services = self._list(SERVICE, "", {})
        return frozenset(one["ip"] for service in services for one in _ingress(service) if "ip" in one)


def _ingress(service: Object) -> list[Object]:
    return list(service.get("status", {}).get("loadBalancer", {}).get("ingress") or [])


def _ref(gone: Gone) -> Ref:
    return ref_of(
        {
            "apiVersion": gone.api_version,
            "kind": gone.kind,
            "metadata": {"namespace": gone.namespace, "name": gone.name},
        }
    )


def failed(what: str, error: KubeError) -> StepFailed:
    """Return what a step says of a call to the API server that failed."""
    kind = ApiSilent if isinstance(error, _PASSING) else StepFailed
    return kind(f"{what}: {error.message}")


async def _read(kube: Connection, ref: Ref) -> Object | None:
    try:
        return await kube.get(ref)
    except NotFound:
        return None
    except KubeError as error:
        raise failed(f"{ref} cannot be read", error) from error


async def _is_there(kube: Connection, ref: Ref) -> bool:
    """Ask for its deletion; return whether something of it is there still."""
    try:
        await kube.delete(ref)
    except NotFound:
        return False
    return True


def _essence(obj: Object) -> Object:
    """Return an object without what differs from one look to the next."""
    metadata = {
        key: value
        for key, value in obj["metadata"].items()
        if key not in {"managedFields", "resourceVersion", "generation"}
    }
    return obj | {"metadata": metadata}


def _internal_address(node: Object) -> str:
    addresses = node.get("status", {}).get("addresses", ())
    return next((one["address"] for one in addresses if one["type"] == "InternalIP"), "")
