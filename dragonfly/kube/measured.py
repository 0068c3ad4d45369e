"""A connection to a cluster that counts its calls, for /metrics."""

from collections.abc import AsyncGenerator, Awaitable, Mapping
from typing import Any, TypeVar

from prometheus_client import Counter

from dragonfly.kube.errors import KubeError
from dragonfly.kube.port import Kube, Listing, WatchEvent
from dragonfly.kube.resources import Object, Ref, Resource

T = TypeVar("T")


class MeasuredKube:
    """A `Kube` around another one."""

    def __init__(self, kube: Kube, calls: Counter, cluster: str) -> None:
        """Make it.

        Args:
            kube: carries the calls out.
            calls: with the labels cluster, verb and result.
            cluster: the cluster's name.
        """
        self._kube = kube
        self._calls = calls
        self._cluster = cluster

    async def get(self, ref: Ref) -> Object:
        return await self._counted("get", self._kube.get(ref))

    async def list(self, resource: Resource, namespace: str, *, label_selector: str = "") -> Listing:
        return await self._counted("list", self._kube.list(resource, namespace, label_selector=label_selector))

    async def create(self, obj: Object) -> Object:
        return await self._counted("create", self._kube.create(obj))

    async def apply(self, obj: Object, *, force: bool = False, dry_run: bool = False) -> Object:
        return await self._counted("apply", self._kube.apply(obj, force=force, dry_run=dry_run))

    async def patch(self, ref: Ref, body: Mapping[str, Any], *, subresource: str = "") -> Object:
        return await self._counted("patch", self._kube.patch(ref, body, subresource=subresource))

    async def delete(self, ref: Ref, *, uid: str = "", resource_version: str = "") -> None:
        await self._counted("delete", self._kube.delete(ref, uid=uid, resource_version=resource_version))

    async def version(self) -> str:
        return await self._counted("version", self._kube.version())

    async def can(
        self, verb: str, resource: Resource, namespace: str, *, name: str = "", subresource: str = ""
    ) -> bool:
        return await self._counted("can", self._kube.can(verb, resource, namespace, name=name, subresource=subresource))

    def watch(
        self, resource: Resource, namespace: str, resource_version: str, *, label_selector: str = "", **times: float
    ) -> AsyncGenerator[WatchEvent, None]:
        self._calls.labels(self._cluster, "watch", "begun").inc()
        return self._kube.watch(resource, namespace, resource_version, label_selector=label_selector, **times)

    async def _counted(self, verb: str, answer: Awaitable[T]) -> T:
        result = "ok"
        try:
            return await answer
        except KubeError as error:
            result = type(error).__name__
            raise
        finally:
            self._calls.labels(self._cluster, verb, result).inc()
