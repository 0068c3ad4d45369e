"""A model of an API server: the `Kube` port in memory, as strict about uid and resourceVersion as the real one.

And Tinkerbell 0.25 beside it, a step at a time, so that a test decides what it does when.
"""

import asyncio
import copy
from collections import defaultdict
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, NamedTuple

from dragonfly.kube.errors import AlreadyExists, Conflict, KubeError, NotFound, Unreachable
from dragonfly.kube.port import Listing, WatchEvent
from dragonfly.kube.resources import HARDWARE, WORKFLOW, Object, Ref, Resource, ref_of
from tests.admission import refusal


class Call(NamedTuple):
    """One write that was carried out."""

    verb: str
    kind: str
    name: str
    body: Object


class Backup(NamedTuple):
    """What the API server's etcd had at one moment."""

    objects: dict[Ref, Object]
    version_number: int


class KubeModel:
    """Faults are taken from `faults[verb]` one by one; a verb in `gates` waits until its gate opens."""

    def __init__(self) -> None:
        self.objects: dict[Ref, Object] = {}
        self.version_number = 1  # as of an etcd in which nothing was written yet
        self.calls: list[Call] = []
        self.faults: dict[str, list[KubeError]] = defaultdict(list)
        self.gates: dict[str, asyncio.Event] = {}
        self.waiting: set[str] = set()
        self.refuses_older_epochs = False
        """Whether the admission policy is in force."""
        self.silent: KubeError | None = None
        """What a question for the version gets, if anything; all other calls, too, if it was stopped."""
        self._stopped: KubeError | None = None
        self._broken: dict[Resource, Exception] = {}
        self._uids = 0
        self._histories = 0
        self._events: list[tuple[int, Resource, WatchEvent]] = []
        self._changed = asyncio.Event()

    # The port.

    async def get(self, ref: Ref) -> Object:
        await self._enter("get")
        return copy.deepcopy(self._held(ref))

    async def list(self, resource: Resource, namespace: str, *, label_selector: str = "") -> Listing:
        self._check_there()
        items = [obj for ref, obj in self.objects.items() if ref.resource == resource and ref.namespace == namespace]
        return Listing(
            [copy.deepcopy(obj) for obj in items if _selected(obj, label_selector)], str(self.version_number)
        )

    async def create(self, obj: Object) -> Object:
        await self._enter("create")
        ref = ref_of(obj)
        if ref in self.objects:
            raise AlreadyExists(f"{ref} exists", status=409)
        return self._made("create", ref, obj)

    async def apply(self, obj: Object, *, force: bool = False, dry_run: bool = False) -> Object:
        await self._enter("apply")
        ref = ref_of(obj)
        held = self.objects.get(ref)
        if held is None and obj["metadata"].get("uid"):
            raise Conflict(f"{ref} has gone", status=409)
        if held is None:
            return self._made("apply", ref, obj)
        _check(ref, held, obj["metadata"].get("uid", ""), obj["metadata"].get("resourceVersion", ""))
        kept = _without_what_was_applied(held["metadata"], obj["metadata"])
        changed = {**held, "metadata": _merged(kept, _without_preconditions(obj["metadata"]))}
        changed |= {key: value for key, value in obj.items() if key != "metadata"}
        self._admit(ref, held, changed)
        return self._store("apply", ref, changed, obj)

    async def patch(self, ref: Ref, body: Mapping[str, Any], *, subresource: str = "") -> Object:
        await self._enter("patch")
        held = self._held(ref)
        metadata = body.get("metadata", {})
        _check(ref, held, metadata.get("uid", ""), metadata.get("resourceVersion", ""))
        change = dict(body) | {"metadata": _without_preconditions(metadata)}
        changed = _merged(held, change)
        if not subresource:
            self._admit(ref, held, changed)
        return self._store("patch", ref, changed, change)

    async def delete(self, ref: Ref, *, uid: str = "", resource_version: str = "") -> None:
        await self._enter("delete")
        held = self._held(ref)
        _check(ref, held, uid, resource_version)
        self.remove(ref)
        self.calls.append(Call("delete", ref.resource.kind, ref.name, held))

    async def version(self) -> str:
        if "version" in self.gates:
            await self.gates["version"].wait()
        if self.silent:
            raise self.silent
        return "v1.36.3"

    async def can(
        self, verb: str, resource: Resource, namespace: str, *, name: str = "", subresource: str = ""
    ) -> bool:
        return True

    async def watch(
        self,
        resource: Resource,
        namespace: str,
        resource_version: str,
        *,
        label_selector: str = "",
        timeout: float = 300,
        silence: float = 70,
    ) -> AsyncGenerator[WatchEvent, None]:
        self._check_watch(resource)
        history = self._histories
        yield WatchEvent("BOOKMARK", {"metadata": {"resourceVersion": resource_version}})
        seen = int(resource_version)
        while True:
            self._changed.clear()
            for version, of, event in tuple(self._events):
                if version > seen and of == resource and _selected(event.object, label_selector):
                    seen = version
                    yield WatchEvent(event.type, copy.deepcopy(event.object))
            if "watch" in self.gates:
                await self.gates["watch"].wait()
            await self._changed.wait()
            self._check_watch(resource)
            if history != self._histories:
                raise Unreachable("cut", maybe_done=False)

    # For tests.

    def gate(self, verb: str) -> asyncio.Event:
        """Hold every call of the verb until the event is set; "watch" holds events."""
        return self.gates.setdefault(verb, asyncio.Event())

    def break_watch(self, resource: Resource, error: Exception) -> None:
        """End the watches of the type, and refuse new ones."""
        self._broken[resource] = error
        self._changed.set()

    def mend_watch(self, resource: Resource) -> None:
        del self._broken[resource]

    def put(self, ref: Ref, **changes: Any) -> Object:
        """Write as somebody else does: no preconditions, maps merged."""
        held = self.objects.get(ref)
        base = held or {"apiVersion": ref.resource.api_version, "kind": ref.resource.kind, "metadata": _named(ref)}
        if held is None:
            return self._made("", ref, _merged(base, changes))
        return self._store("", ref, _merged(held, changes), {})

    def remove(self, ref: Ref) -> None:
        held = self.objects.pop(ref)
        self.version_number += 1
        gone = {**held, "metadata": {**held["metadata"], "resourceVersion": str(self.version_number)}}
        self._tell(ref.resource, WatchEvent("DELETED", gone))

    def backup(self) -> Backup:
        return Backup(copy.deepcopy(self.objects), self.version_number)

    async def restore(self, backup: Backup, *, within: float = 5) -> None:
        """Stop, and go on from what the backup has, as an API server that is started again on a restored etcd.

        Nobody is told what is another way then. A watch from a resourceVersion that is not reached again yet is silent.
        """
        self.silent = self._stopped = Unreachable("the API server was stopped", maybe_done=False)
        self._histories += 1
        self._changed.set()
        await asyncio.sleep(within)
        self.objects, self.version_number = copy.deepcopy(backup.objects), backup.version_number
        self._events = [event for event in self._events if event[0] <= self.version_number]
        self.silent = self._stopped = None

    def of(self, resource: Resource) -> dict[str, Object]:
        return {ref.name: obj for ref, obj in self.objects.items() if ref.resource == resource}

    def writes(self) -> Sequence[tuple[str, str]]:
        return [(call.verb, call.kind) for call in self.calls]

    def _check_there(self) -> None:
        if self._stopped:
            raise self._stopped

    def _check_watch(self, resource: Resource) -> None:
        self._check_there()
        if error := self._broken.get(resource):
            raise error

    async def _enter(self, verb: str) -> None:
        if verb in self.gates:
            self.waiting.add(verb)
            await self.gates[verb].wait()
            self.waiting.discard(verb)
        await asyncio.sleep(0.001)
        self._check_there()
        if self.faults[verb]:
            raise self.faults[verb].pop(0)

    def _admit(self, ref: Ref, before: Object, after: Object) -> None:
        if self.refuses_older_epochs and (refused := refusal(ref, before, after)):
            raise refused

    def _held(self, ref: Ref) -> Object:
        if ref not in self.objects:
            raise NotFound(f"{ref} not found", status=404)
        return self.objects[ref]

    def _made(self, verb: str, ref: Ref, obj: Object) -> Object:
        self._uids += 1
        uid = f"uid-{self._uids}"
        metadata = {**_without_preconditions(obj["metadata"]), "uid": uid}
        return self._store(verb, ref, {**obj, "metadata": metadata}, obj, event="ADDED")

    def _store(self, verb: str, ref: Ref, obj: Object, body: Object, *, event: Any = "MODIFIED") -> Object:
        if verb:
            self.calls.append(Call(verb, ref.resource.kind, ref.name, copy.deepcopy(body)))
        self.version_number += 1
        stored = copy.deepcopy(obj)
        stored["metadata"]["resourceVersion"] = str(self.version_number)
        self.objects[ref] = stored
        self._tell(ref.resource, WatchEvent(event, stored))
        return copy.deepcopy(stored)

    def _tell(self, resource: Resource, event: WatchEvent) -> None:
        self._events.append((self.version_number, resource, event))
        self._changed.set()


class Tinkerbell:
    """tink-controller and tink-server, one step at a time."""

    def __init__(self, kube: KubeModel, namespace: str) -> None:
        self._kube = kube
        self._namespace = namespace
        self.rendering_error = ""
        self.worker = ""
        """Whom the template is for, if not for the machine's own agent."""

    def reconcile(self) -> None:
        """What tink-controller does about every Workflow."""
        for name, workflow in self._kube.of(WORKFLOW).items():
            state = workflow.get("status", {}).get("state", "")
            agent = self.worker or self._kube.of(HARDWARE)[workflow["spec"]["hardwareRef"]]["spec"]["agentID"]
            if state == "POST":
                self._status(name, state="SUCCESS")
            elif state or (workflow["spec"]["disabled"] and workflow.get("status", {}).get("agentID")):
                continue
            elif workflow["spec"]["disabled"]:
                self._status(name, agentID=agent)
            elif self.rendering_error:
                condition = {"type": "TemplateRenderedSuccess", "status": "False", "message": self.rendering_error}
                self._status(name, templateRendering="failed", conditions=[condition])
            else:
                actions = [{"name": "one", "state": "PENDING"}, {"name": "two", "state": "PENDING"}]
                self._status(name, state="PENDING", agentID=agent, tasks=[{"actions": actions}])

    def serves(self, name: str, number: int) -> None:
        """An agent gets an action, and says that it runs."""
        self.reports(name, number, "RUNNING", state="RUNNING")

    def reports(self, name: str, number: int, action: str, *, state: str) -> None:
        actions = copy.deepcopy(self.workflow(name)["status"]["tasks"][0]["actions"])
        actions[number]["state"] = action
        current = {"actionName": actions[number]["name"], "state": action}
        self._status(name, state=state, currentState=current, tasks=[{"actions": actions}])

    def workflow(self, name: str) -> Object:
        return self._kube.of(WORKFLOW)[name]

    def _status(self, name: str, **status: Any) -> None:
        self._kube.put(Ref(WORKFLOW, self._namespace, name), status=status)


def _check(ref: Ref, held: Object, uid: str, version: str) -> None:
    metadata = held["metadata"]
    if (uid and uid != metadata["uid"]) or (version and version != metadata["resourceVersion"]):
        raise Conflict(f"{ref} has changed", status=409)


def _merged(held: Any, change: Any) -> Any:
    """RFC 7396."""
    if not isinstance(change, dict):
        return change
    merged = dict(held) if isinstance(held, dict) else {}
    for key, value in change.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = _merged(merged.get(key), value)
    return merged


def _without_what_was_applied(held: Object, applied: Object) -> Object:
    """Server-side apply takes away what its manager no longer says; of annotations, Dragonfly's have its name."""
    said = applied.get("annotations", {})
    annotations = held.get("annotations", {})
    kept = {key: value for key, value in annotations.items() if key in said or not key.startswith("dragonfly.io/")}
    return {**held, "annotations": kept}


def _without_preconditions(metadata: Mapping[str, Any]) -> Object:
    return {key: value for key, value in metadata.items() if key not in {"uid", "resourceVersion"}}


def _named(ref: Ref) -> Object:
    return {"name": ref.name, "namespace": ref.namespace}


def _selected(obj: Object, label_selector: str) -> bool:
    if not label_selector:
        return True
    key, _, value = label_selector.partition("=")
    return bool(obj["metadata"].get("labels", {}).get(key) == value)
