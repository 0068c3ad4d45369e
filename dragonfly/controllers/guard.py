"""Keeps the admission policy of one cluster installed: the fence inside the API server (P4, `kube.policy`).

The owner of the cluster's first shard keeps it, so that one replica writes; what it writes is the same for all. It
looks every few minutes and sets right what somebody has changed or deleted, less and less often if that happens again
and again. Where it may not, or the API server is too old, the swarm works on, and says that it has no such fence.
"""

import asyncio
from collections.abc import Callable
from datetime import datetime
from http import HTTPStatus
from typing import Final, NamedTuple

import structlog

from dragonfly.controllers.fence import OF_NO_OBJECT, NotOwner
from dragonfly.kube.errors import Forbidden, Invalid, KubeError, NotFound
from dragonfly.kube.policy import binding, binding_ref, correction, policy, policy_ref
from dragonfly.kube.port import FIELD_MANAGER, MAY_SEND, Kube
from dragonfly.kube.resources import Object, Ref
from dragonfly.model.swarm import AdmissionPolicy

_log = structlog.get_logger(__name__)

_GLANCE: Final = 1.0
"""Seconds between two looks at the own claims, which cost nothing."""

_EVERY: Final = 300.0
"""Seconds between two looks at a policy that is as it should be."""

_AGAIN: Final = 15.0
"""Seconds until the next look after an answer that says nothing about the policy."""

_RAREST: Final = 3600.0

_CONTESTED: Final = 2
"""Looks in a row that found it changed, from which on it counts as contested."""


class Found(NamedTuple):
    """What became of one look."""

    installed: bool
    reason: str
    message: str = ""


def pause_after(repairs: int) -> float:
    """Return the seconds until the next look, after that many looks in a row that found it changed."""
    return min(_EVERY * 2.0 ** max(0, repairs - 1), _RAREST)


def verdict(repairs: int, editor: str) -> Found:
    """Say how the policy is after a look that left it as it should be, `repairs` as in `pause_after`.

    Args:
        editor: who changed it last, by its field manager; empty if nobody knows.
    """
    if not repairs:
        return Found(True, "Installed")
    by = f" by {editor}" if editor else ""
    if repairs < _CONTESTED:
        return Found(True, "Restored", f"The admission policy was changed or deleted{by}; it was set back.")
    message = (
        f"The admission policy is changed or deleted again and again{by}. It is set back ever less often, so do not "
        "count on it; find out who does that."
    )
    return Found(False, "Contested", message)


def trouble(error: KubeError) -> Found | None:
    """Say what an error tells of the policy; None if it tells nothing."""
    if isinstance(error, Forbidden) and error.status != HTTPStatus.UNAUTHORIZED:
        missing = f"{error.verb} {error.resource}" if error.verb else error.message
        message = (
            f"Dragonfly may not keep its admission policy ({missing}). Grant it with deploy/k3s/base/rbac-fence.yaml."
        )
        return Found(False, "Forbidden", message)
    if isinstance(error, NotFound):
        message = (
            "The API server has no ValidatingAdmissionPolicy in admissionregistration.k8s.io/v1 (Kubernetes 1.30)."
        )
        return Found(False, "Unsupported", message)
    if isinstance(error, Invalid):
        return Found(False, "Refused", f"The API server does not take the admission policy: {error.message}")
    return None


class Guard:
    """Keeps one cluster's policy while this replica is the one to do so."""

    def __init__(
        self,
        kube: Kube,
        namespace: str,
        *,
        mine: Callable[[], bool],
        clock: Callable[[], float],
        now: Callable[[], datetime],
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        """Make it, not yet running.

        Args:
            kube: the cluster.
            namespace: Tinkerbell's.
            mine: whether this replica is the one that keeps the policy now.
            clock: monotonic seconds.
            now: the time, for people.
            changed: told when `state` is another.
        """
        self.state: AdmissionPolicy | None = None
        """What this replica found; None while it is not its task, or it does not know yet."""
        self._kube = kube
        self._namespace = namespace
        self._mine = mine
        self._clock = clock
        self._now = now
        self._changed = changed
        self._due = 0.0
        self._looking = asyncio.Lock()
        self._repairs = 0
        self._right: dict[Ref, Object] = {}
        """The specs as the API server showed them when they were right, with what it may have filled in."""

    async def run(self) -> None:
        """Keep it until cancelled."""
        while True:
            if not self._mine():
                self._rest()
            elif self._clock() >= self._due:
                async with self._looking:
                    self._due = self._clock() + await self.look()
            await asyncio.sleep(_GLANCE)

    async def quiesce(self) -> None:
        """Return once no look, and so no write of one, is under way: only then may the first shard be given up.

        A next one begins only while the task is this replica's.
        """
        async with self._looking:
            return

    async def look(self) -> float:
        """Set right what is not, and return the seconds until the next look."""
        asked = MAY_SEND.set(self._check)  # a write may wait for its turn until the task is another replica's
        try:
            editors = [await self._keep(ref, wanted) for ref, wanted in self._wanted()]
        except NotOwner:
            return _AGAIN
        except KubeError as error:
            found = trouble(error)
            if found is None:
                _log.info("policy.not_checked", error=error.message)
                return _AGAIN
            self._tell(found)
            return _EVERY
        finally:
            MAY_SEND.reset(asked)
        changes = [editor for editor in editors if editor is not None]
        self._repairs = self._repairs + 1 if changes else 0
        self._tell(verdict(self._repairs, next((editor for editor in changes if editor), "")))
        return pause_after(self._repairs)

    async def _keep(self, ref: Ref, wanted: Object) -> str | None:
        """Bring one object to what it should be; return who has changed it since it was right, None for nobody.

        Raises:
            NotOwner: it is another replica's task by now.
        """
        right = self._right.get(ref)
        try:
            live = await self._kube.get(ref)
        except NotFound:
            # Only creates: one that arrives late overwrites nothing of what the next owner wrote.
            made = {**wanted, "metadata": {**wanted["metadata"], "resourceVersion": OF_NO_OBJECT}}
            written = await self._kube.apply(made)
            editor = ""
        else:
            changes = correction(right or wanted["spec"], live.get("spec", {}))
            if not changes:
                self._right[ref] = live["spec"]
                return None
            body = {"metadata": {"resourceVersion": live["metadata"]["resourceVersion"]}, "spec": changes}
            written = await self._kube.patch(ref, body)
            editor = last_editor(live)
        self._right[ref] = written["spec"]
        return None if right is None else editor

    def _check(self) -> None:
        if not self._mine():
            raise NotOwner("the admission policy is another replica's task")

    def _wanted(self) -> tuple[tuple[Ref, Object], tuple[Ref, Object]]:
        namespace = self._namespace
        return (policy_ref(namespace), policy(namespace)), (binding_ref(namespace), binding(namespace))

    def _rest(self) -> None:
        self._due, self._repairs = 0.0, 0
        self._right.clear()
        if self.state is not None:
            self.state = None
            self._changed()

    def _tell(self, found: Found) -> None:
        state = self.state
        if state is not None and Found(state.installed, state.reason, state.message) == found:
            return
        self.state = AdmissionPolicy(
            installed=found.installed, reason=found.reason, message=found.message, since=self._now()
        )
        report = _log.info if found.installed and not found.message else _log.warning
        report("policy.state", namespace=self._namespace, reason=found.reason, message=found.message)
        self._changed()


def last_editor(live: Object) -> str:
    """Return the field manager other than Dragonfly that wrote the object last; empty for none."""
    others = [
        (entry.get("time", ""), entry["manager"])
        for entry in live["metadata"].get("managedFields", ())
        if entry.get("manager") and entry["manager"] != FIELD_MANAGER
    ]
    return max(others, default=("", ""))[1]
