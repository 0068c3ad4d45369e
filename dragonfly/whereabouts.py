"""Where one cluster leads, found out before anything is done there.

Two registrations may lead to one namespace of one API server although neither was refused: nobody who took them reached
it, or knew it by another address. Who comes first has it; the other is not worked on, and says why.

And one cluster may be two: `local` is what each replica's own kubeconfig leads to, and pods may be in several. The
first replica that reaches one writes down which it is; whoever was led to another one does nothing there.
"""

import asyncio
import random as randomness
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from typing import Final

import structlog

from dragonfly.intent.places import Settled, settle
from dragonfly.intent.plan import carry_out
from dragonfly.intent.refusals import Refused
from dragonfly.kube.errors import Forbidden, KubeError, NotFound, Unreachable
from dragonfly.kube.pacing import Backoff
from dragonfly.kube.port import Kube
from dragonfly.kube.resources import NAMESPACE, Ref
from dragonfly.model.cluster import Cluster, is_found_by_each
from dragonfly.model.values import LOCAL
from dragonfly.store import keys
from dragonfly.store.errors import StoreError
from dragonfly.store.mirror import Mirror
from dragonfly.store.port import Store

_log = structlog.get_logger(__name__)

_AGAIN: Final = 2.0
"""Seconds between two tries."""

_AWAY: Final = Backoff(first=_AGAIN, most=10.0)
"""The same while the API server does not answer: some are of another site, and out of reach for ever."""


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
        self,
        cluster: str,
        kube: Kube,
        namespace: str,
        *,
        server_side: str,
        store: Store,
        mirror: Mirror,
        random: Callable[[], float] = randomness.random,
    ) -> None:
        """Make it.

        Args:
            cluster: its name.
            kube: the connection.
            namespace: Tinkerbell's.
            server_side: a fingerprint of where its kubeconfig leads; empty if it has none.
            store: where it is written down.
            mirror: where it is read.
            random: chance for the pauses between tries.
        """
        self._cluster = cluster
        self._kube = kube
        self._namespace = namespace
        self._server_side = server_side
        self._store = store
        self._mirror = mirror
        self._random = random
        self._is_away = False
        self._uid = ""
        self._unknown = ""
        self._settled = asyncio.Event()
        self.trouble = ""

    async def settle(self) -> None:
        """Return once it is written down that it leads here, and no other cluster does."""
        away = _AWAY
        while not await self._is_settled():
            await asyncio.sleep(away.rest(self._random()) if self._is_away else _AGAIN)
            away = away.worse() if self._is_away else _AWAY
        self.trouble = ""
        self._settled.set()

    async def lost(self) -> None:
        """Return once it was settled, and is written down then that the cluster is another than was found here."""
        await self._settled.wait()
        changed = asyncio.Event()
        unsubscribe = self._mirror.subscribe(keys.cluster(self._cluster), lambda _: changed.set())
        try:
            while not self._is_lost():
                await changed.wait()
                changed.clear()
        finally:
            unsubscribe()

    def _is_lost(self) -> bool:
        held = self._mirror.get(keys.cluster(self._cluster))
        if held is None or not isinstance(held.object, Cluster) or not is_found_by_each(self._cluster, held.object):
            return False
        return held.object.uid not in {"", self._uid}

    async def _is_settled(self) -> bool:
        self._is_away = False
        try:
            self._uid = await self._ask()
            decide = partial(settle, name=self._cluster, server_side=self._server_side, uid=self._uid)
            done = await carry_out(self._store, self._mirror, decide)
        except KubeError as error:
            self._is_away = isinstance(error, Unreachable)
            self.trouble = error.message
            return False
        except (StoreError, Refused) as error:
            self.trouble = f"where it leads could not be written down: {error}"
            return False
        # What was written arrives here as well, and must not be taken for what somebody else has written since.
        await self._mirror.wait_for(done.revision, float("inf"))
        return self._is_ours(done.outcome)

    def _is_ours(self, settled: Settled) -> bool:
        trouble = self._trouble(settled)
        if trouble and trouble != self.trouble:
            event = "cluster.registered_twice" if settled.other else "cluster.is_another"
            _log.error(event, cluster=self._cluster, reason=trouble)
        self.trouble = trouble
        return not trouble

    def _trouble(self, settled: Settled) -> str:
        if settled.other:
            return (
                f"it leads to the same API server and namespace as cluster {settled.other} does, so nothing is done in "
                "it. Remove one of the two"
            )
        if not settled.elsewhere:
            return ""
        is_local = self._cluster == LOCAL
        if not self._uid:
            return (
                f"whether this is the swarm's {self._cluster} cannot be told, so nothing is done in it: namespace "
                f"{self._namespace} has the uid {settled.elsewhere} there, and here {self._unknown}"
            )
        remedy = "Give it the KUBECONFIG and DRAGONFLY_NAMESPACE of the others, or none; if" if is_local else "If"
        return (
            f"this replica was led to another cluster than the swarm's {self._cluster} is, so nothing is done in it: "
            f"namespace {self._namespace} has the uid {self._uid} here, and {settled.elsewhere} there. {remedy} it is "
            f"{self._cluster} that is here from now on, say `dragonfly cluster locate {self._cluster} {self._uid}`"
        )

    async def _ask(self) -> str:
        """Return the uid; empty where it is not to be had at all: without, only the same kubeconfig is told."""
        try:
            return await uid_of(self._kube, self._namespace)
        except NotFound:
            self._unknown = "there is no such namespace"
            return ""
        except Forbidden as error:
            if error.status == HTTPStatus.UNAUTHORIZED:
                raise
            self._unknown = f"the credentials may not read it ({error.message})"
            return ""
