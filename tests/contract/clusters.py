"""Where a `Kube` comes from, so that one set of cases runs against a real API server and the simulator's model."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from random import Random
from typing import Any, Protocol, Self

from dragonfly.kube.connection import Connection
from dragonfly.kube.credentials import Kubeconfig
from dragonfly.kube.policy import binding, policy
from dragonfly.kube.port import Kube
from dragonfly.kube.resources import Ref
from dragonfly.sandbox.controlplane import NAMESPACE as TINKERBELL
from dragonfly.sandbox.controlplane import ControlPlane
from tests.admission import until_in_force
from tests.simulation.apiserver import ApiServer
from tests.simulation.kubeclient import KubeClient, Streams
from tests.simulation.loop import Process
from tests.simulation.wire import Chances, Wire

NAMESPACE = TINKERBELL

_EDITOR = "kubectl-edit"


class KubeWorld(Protocol):
    """A cluster, and what others do to it."""

    kube: Kube
    """With Dragonfly's own rights."""
    admin: Kube

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *_: object) -> None: ...

    async def edit(self, ref: Ref, body: dict[str, Any]) -> None:
        """Merge patch by another manager."""
        ...

    async def forget_history(self) -> None:
        """Make the first resourceVersions too old to watch from."""
        ...

    async def enforce_policy(self) -> None:
        """Return once Dragonfly's admission policy is in force."""
        ...


class ModelCluster:
    """The model behind its network, on a real loop: nothing goes wrong, and everything takes some milliseconds."""

    def __init__(self) -> None:
        self._server = ApiServer()
        loop, random = asyncio.get_running_loop(), Random(0)
        wire = Wire(loop, random, Chances())
        self.kube: Kube = KubeClient(self._server, Streams(loop, self._server, wire, random), Process("one"))
        self.admin: Kube = self.kube

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        return

    async def edit(self, ref: Ref, body: dict[str, Any]) -> None:
        self._server.patch(ref, body, by="person", manager=_EDITOR)

    async def forget_history(self) -> None:
        self._server.forget_history()

    async def enforce_policy(self) -> None:
        self._server.refuses_older_epochs = True


class RealCluster:
    """kube-apiserver with Tinkerbell's types."""

    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        self.kube: Kube = await self._stack.enter_async_context(Connection(Kubeconfig((self._plane.kubeconfig,))))
        self.admin: Kube = await self._stack.enter_async_context(
            Connection(Kubeconfig((self._plane.admin_kubeconfig,)))
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def edit(self, ref: Ref, body: dict[str, Any]) -> None:
        target = f"{ref.path}?fieldManager={_EDITOR}"
        request = self._plane.apiserver.admin.request
        await asyncio.to_thread(request, "PATCH", target, body, "application/merge-patch+json")

    async def forget_history(self) -> None:
        """Its watch cache begins where it was filled, which is later than the first version."""

    async def enforce_policy(self) -> None:
        for wanted in (policy(NAMESPACE), binding(NAMESPACE)):
            await self.kube.apply(wanted, force=True)
        await until_in_force(self.kube, NAMESPACE)
