"""Where one cluster leads, found out before anything is done there.

Two registrations may lead to one namespace of one API server although neither was refused: nobody who took them reached
it, or knew it by another address. Who comes first has it; the other is not worked on, and says why.
"""

import asyncio
from functools import partial
from http import HTTPStatus
from typing import Final

import structlog

from dragonfly.intent.places import settle
from dragonfly.intent.plan import carry_out
from dragonfly.intent.refusals import Refused
from dragonfly.kube.errors import Forbidden, KubeError, NotFound
from dragonfly.kube.port import Kube
from dragonfly.kube.resources import NAMESPACE, Ref
from dragonfly.store.errors import StoreError
from dragonfly.store.mirror import Mirror
from dragonfly.store.port import Store

_log = structlog.get_logger(__name__)

_AGAIN: Final = 2.0
"""Seconds between two tries."""


async def uid_of(kube: Kube, namespace: str) -> str:
    """Return the uid of a namespace, which is the same by whatever way it is reached, and after a restore.

    Raises:
        KubeError: it is not to be had.
    """
    found = await kube.get(Ref(NAMESPACE, "", namespace))
    return str(found["metadata"]["uid"])


class Whereabouts:
    """Of one connection to one cluster.

    Attributes:
        trouble: why nothing may be done there, for people; empty once something may, and before that is known.
    """

    def __init__(
        self, cluster: str, kube: Kube, namespace: str, *, server_side: str, store: Store, mirror: Mirror
    ) -> None:
        """Make it.

        Args:
            cluster: its name.
            kube: the connection.
            namespace: Tinkerbell's.
            server_side: a fingerprint of where its kubeconfig leads; empty if it has none.
            store: where it is written down.
            mirror: where it is read.
        """
        self._cluster = cluster
        self._kube = kube
        self._namespace = namespace
        self._server_side = server_side
        self._store = store
        self._mirror = mirror
        self.trouble = ""

    async def settle(self) -> None:
        """Return once it is written down that no other cluster leads there."""
        while not await self._is_settled():  # noqa: ASYNC110 - it is another cluster, or an API server, that changes
            await asyncio.sleep(_AGAIN)
        self.trouble = ""

    async def _is_settled(self) -> bool:
        try:
            uid = await self._uid()
            decide = partial(settle, name=self._cluster, server_side=self._server_side, uid=uid)
            other = (await carry_out(self._store, self._mirror, decide)).outcome
        except KubeError as error:
            self.trouble = error.message
            return False
        except (StoreError, Refused) as error:
            self.trouble = f"where it leads could not be written down: {error}"
            return False
        if other and f"cluster {other} " not in self.trouble:
            _log.error("cluster.registered_twice", cluster=self._cluster, other=other)
        self.trouble = (
            f"it leads to the same API server and namespace as cluster {other} does, so nothing is done in it. "
            "Remove one of the two"
            if other
            else ""
        )
        return not other

    async def _uid(self) -> str:
        """Return the uid; empty where it is not to be had at all: without, only the same kubeconfig is told."""
        try:
            return await uid_of(self._kube, self._namespace)
        except NotFound:
            return ""
        except Forbidden as error:
            if error.status == HTTPStatus.UNAUTHORIZED:
                raise
            return ""
