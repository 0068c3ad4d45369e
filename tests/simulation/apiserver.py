"""A model of the Kubernetes API server, strict where Dragonfly leans on it; it keeps the contract of the real one.

One counter of resourceVersions for all types, uids, merge patch and server-side apply with preconditions and field
ownership, the status subresource, and watches that go on from a resourceVersion as long as history reaches back to it.
Objects are never changed in place, so they are handed out as they are.
"""

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, Literal, NamedTuple, TypeAlias

from dragonfly.kube.errors import AlreadyExists, Conflict, Gone, Invalid, NotFound
from dragonfly.kube.port import FIELD_MANAGER, EventType, Listing, WatchEvent
from dragonfly.kube.resources import (
    BMC_JOB,
    BMC_MACHINE,
    BMC_TASK,
    HARDWARE,
    TEMPLATE,
    WORKFLOW,
    Object,
    Ref,
    Resource,
    ref_of,
)
from dragonfly.kube.tinkerbell import EPOCH
from tests.admission import refusal

Verb = Literal["create", "apply", "patch", "status", "delete"]
Path: TypeAlias = tuple[str, ...]

_FIELDS: Mapping[Resource, frozenset[str]] = {
    HARDWARE: frozenset({"agentID", "bmcRef", "disks", "interfaces", "metadata", "userData", "vendorData"}),
    TEMPLATE: frozenset({"data"}),
    WORKFLOW: frozenset({"disabled", "templateRef", "hardwareRef", "hardwareMap", "bootOptions"}),
    BMC_MACHINE: frozenset({"connection"}),
    BMC_JOB: frozenset({"machineRef", "tasks"}),
    BMC_TASK: frozenset({"connection", "task"}),
}
"""What the schema of each type knows below `spec`: the types that the simulated histories and the contract use."""


class Write(NamedTuple):
    """A write that changed something, as observers get it."""

    verb: Verb
    by: str
    key: Ref
    before: Object | None
    after: Object | None


class _Event(NamedTuple):
    version: int
    type: EventType
    key: Ref
    object: Object
    before: Object | None


class _Kept(NamedTuple):
    """What became of one object, as a backup of that moment has it."""

    version: int
    key: Ref
    object: Object | None
    owners: dict[str, set[Path]]


class ApiServer:
    """The objects of one cluster, and their history."""

    def __init__(self) -> None:
        self.version = 1
        self.refuses_older_epochs = False
        """Whether the policy is installed that refuses a write under a lower epoch than the stored one (P4)."""
        self.refused = 0
        """Writes that it has refused."""
        self._objects: dict[Ref, Object] = {}
        self._owners: dict[Ref, dict[str, set[Path]]] = {}
        self._events: list[_Event] = []
        self._kept: list[_Kept] = []
        self._oldest = 0
        self._uids = 0
        self._observers: list[Callable[[Write], None]] = []
        self._watchers: dict[Resource, list[Callable[[_Event], None]]] = {}

    # Reads.

    def get(self, ref: Ref) -> Object:
        found = self._objects.get(ref)
        if found is None:
            raise NotFound(f"{ref} not found", status=404, reason="NotFound", details={"name": ref.name})
        return found

    def listing(self, resource: Resource, namespace: str, label_selector: str = "") -> Listing:
        wanted = _selector(label_selector)
        items = [
            obj
            for key, obj in sorted(self._objects.items(), key=lambda entry: entry[0][1:])
            if key[0] == resource and namespace in {"", key[1]} and wanted(obj)
        ]
        return Listing(items, str(self.version))

    def all(self, resource: Resource) -> list[Object]:
        return [obj for key, obj in self._objects.items() if key[0] == resource]

    def objects(self) -> dict[Ref, Object]:
        return dict(self._objects)

    # Writes.

    def create(self, obj: Object, *, by: str, manager: str = FIELD_MANAGER) -> Object:
        ref = ref_of(obj)
        _check_fields(ref.resource, obj)
        if ref in self._objects:
            raise AlreadyExists(f"{ref} already exists", status=409, reason="AlreadyExists")
        body = {name: value for name, value in obj.items() if name != "status"}
        self._owners[ref] = {f"{manager}/Update": set(_leaves(body))}
        return self._store("create", by, ref, None, body)

    def apply(
        self, obj: Object, *, force: bool, by: str, manager: str = FIELD_MANAGER, dry_run: bool = False
    ) -> Object:
        ref = ref_of(obj)
        _check_fields(ref.resource, obj)
        before = self._objects.get(ref)
        self._check_preconditions(ref, before, obj["metadata"], absent=before is None)
        desired = {name: value for name, value in obj.items() if name != "status"}
        mine = f"{manager}/Apply"
        owners = {name: set(paths) for name, paths in self._owners.get(ref, {}).items()}
        wanted = set(_leaves(desired))
        others = _conflicting(owners, mine, desired, before or {})
        if others and not force:
            raise _field_conflict(ref, others)
        for paths in owners.values():
            paths.difference_update(path for _, path in others)
        dropped = owners.get(mine, set()) - wanted
        for name, paths in owners.items():
            if name != mine:
                dropped -= paths
        owners[mine] = wanted
        after = _merged(before or {}, _without_preconditions(desired))
        for path in sorted(dropped):
            after = _without(after, path)
        if before is not None and _same(after, before):
            self._owners[ref] = owners if not dry_run else self._owners[ref]
            return before
        if dry_run:
            return after
        self._owners[ref] = owners
        return self._store("apply", by, ref, before, after)

    def patch(
        self, ref: Ref, body: Mapping[str, Any], *, subresource: str = "", by: str, manager: str = FIELD_MANAGER
    ) -> Object:
        before = self.get(ref)
        _check_fields(ref.resource, body)
        self._check_preconditions(ref, before, body.get("metadata", {}), absent=False)
        if subresource == "status":
            # Of a custom resource, its status subresource takes the status and nothing else.
            after = _patched(before, {"status": body.get("status", {})})
        else:
            rest = {name: value for name, value in body.items() if name != "status"}
            after = _patched(before, _without_preconditions(rest))
        if _same(after, before):
            return before
        if not subresource:
            changed = set(_leaves({name: value for name, value in body.items() if name != "status"}))
            owners = {name: paths - changed for name, paths in self._owners.get(ref, {}).items()}
            mine = f"{manager}/Update"
            self._owners[ref] = owners | {mine: owners.get(mine, set()) | changed}
        return self._store("status" if subresource else "patch", by, ref, before, after)

    def delete(self, ref: Ref, *, uid: str = "", resource_version: str = "", by: str) -> None:
        before = self.get(ref)
        given = {name: value for name, value in (("uid", uid), ("resourceVersion", resource_version)) if value}
        self._check_preconditions(ref, before, given, absent=False)
        self.version += 1
        del self._objects[ref]
        self._owners.pop(ref, None)
        last = {**before, "metadata": {**before["metadata"], "resourceVersion": str(self.version)}}
        self._tell("delete", by, ref, before, None, last)

    # History.

    def forget_history(self) -> None:
        """Make every resourceVersion before the present one too old to watch from."""
        self._oldest = self.version
        self._events.clear()

    @property
    def moments(self) -> Sequence[int]:
        """The resourceVersions at which something changed, oldest first: of each there may be a backup."""
        return [kept.version for kept in self._kept]

    def restore(self, version: int, *, bump: int = 0) -> None:
        """Put everything back to what it was at `version`, as an API server that is started on etcd's backup has it.

        Objects have the uids and resourceVersions of then, and new ones count on from there: nothing tells them from
        those of the former history. Its watch cache begins here, so what is older is too old to watch from; from a
        resourceVersion that is not reached again yet a watch waits in silence. Nobody is told what is another way.

        Args:
            bump: how much etcd's revision is raised, as Kubernetes advises (etcdutl's `--bump-revision`).
        """
        del self._kept[bisect_right(self._kept, version, key=lambda kept: kept.version) :]
        self._objects, self._owners = {}, {}
        for kept in self._kept:
            self._objects.pop(kept.key, None)
            self._owners.pop(kept.key, None)
            if kept.object is not None:
                self._objects[kept.key], self._owners[kept.key] = kept.object, kept.owners
        self.version = version + bump
        self.forget_history()

    def events_after(self, resource: Resource, namespace: str, version: int, label_selector: str) -> list[WatchEvent]:
        """Raises Gone: `version` is too old."""
        if version < self._oldest:
            raise Gone(f"too old resource version: {version} ({self._oldest})", status=410, reason="Expired")
        start = bisect_right(self._events, version, key=lambda event: event.version)
        found = (self.told(event, resource, namespace, label_selector) for event in self._events[start:])
        return [event for event in found if event is not None]

    def told(self, event: _Event, resource: Resource, namespace: str, label_selector: str) -> WatchEvent | None:
        """What a watch with this selection says of an event: an object that leaves the selection is deleted to it."""
        if event.key[0] != resource or namespace not in {"", event.key[1]}:
            return None
        wanted = _selector(label_selector)
        is_in, was_in = wanted(event.object), event.before is not None and wanted(event.before)
        if event.type == "DELETED":
            return WatchEvent("DELETED", event.object) if was_in else None
        if is_in:
            return WatchEvent("MODIFIED" if was_in else "ADDED", event.object)
        return WatchEvent("DELETED", event.object) if was_in else None

    def observe(self, observer: Callable[[Write], None]) -> None:
        self._observers.append(observer)

    def watch(self, resource: Resource, watcher: Callable[[_Event], None]) -> Callable[[], None]:
        watchers = self._watchers.setdefault(resource, [])
        watchers.append(watcher)

        def stop() -> None:
            if watcher in watchers:
                watchers.remove(watcher)

        return stop

    # How it works.

    def _store(self, verb: Verb, by: str, ref: Ref, before: Object | None, body: Object) -> Object:
        if before is not None and verb != "status":
            self._admit(ref, before, body)
        self.version += 1
        metadata = dict(body["metadata"])
        if before is None:
            self._uids += 1
            metadata["uid"] = f"uid-{self._uids}"
        else:
            metadata["uid"] = before["metadata"]["uid"]
        metadata["resourceVersion"] = str(self.version)
        after = {**body, "metadata": metadata}
        self._objects[ref] = after
        self._tell(verb, by, ref, before, after, after)
        return after

    def _tell(self, verb: Verb, by: str, key: Ref, before: Object | None, after: Object | None, told: Object) -> None:
        event_type: EventType = "DELETED" if after is None else "MODIFIED" if before else "ADDED"
        event = _Event(self.version, event_type, key, told, before)
        self._events.append(event)
        self._kept.append(_Kept(self.version, key, after, self._owners.get(key, {})))
        for observer in self._observers:
            observer(Write(verb, by, key, before, after))
        for watcher in tuple(self._watchers.get(key.resource, ())):
            watcher(event)

    def _check_preconditions(self, ref: Ref, before: Object | None, given: Mapping[str, Any], *, absent: bool) -> None:
        if absent:
            if given.get("uid"):
                raise Conflict(f"{ref}: uid mismatch, there is no such object", status=409, reason="Conflict")
            return
        assert before is not None
        for name in ("uid", "resourceVersion"):
            if given.get(name) and given[name] != before["metadata"][name]:
                raise Conflict(f"{ref}: precondition failed: {name}", status=409, reason="Conflict")

    def _admit(self, ref: Ref, before: Object, after: Object) -> None:
        if self.refuses_older_epochs and (refused := refusal(ref, before, after)):
            self.refused += 1
            raise refused


def epoch_of(obj: Object) -> int:
    """The epoch under which Dragonfly last wrote the object; 0 if it never did."""
    return int(obj["metadata"].get("annotations", {}).get(EPOCH, "0"))


@cache
def _selector(label_selector: str) -> Callable[[Object], bool]:
    if not label_selector:
        return lambda _obj: True
    wanted = dict(part.split("=", 1) for part in label_selector.split(","))
    return lambda obj: wanted.items() <= obj["metadata"].get("labels", {}).items()


def _check_fields(resource: Resource, body: Mapping[str, Any]) -> None:
    known = _FIELDS.get(resource)
    unknown = set(body.get("spec", {})) - known if known else set()
    unknown |= set(body) - {"apiVersion", "kind", "metadata", "spec", "status", "data", "stringData", "type"}
    if unknown:
        raise Invalid(f'strict decoding error: unknown field "{min(unknown)}"', status=400, reason="BadRequest")


def _leaves(body: Mapping[str, Any], path: Path = ()) -> list[Path]:
    """The paths of all values that are owned on their own: maps go by key, lists are atomic."""
    found: list[Path] = []
    for name, value in body.items():
        here = (*path, name)
        if here in _NOT_OWNED:
            continue
        if isinstance(value, dict) and value:
            found += _leaves(value, here)
        else:
            found.append(here)
    return found


_NOT_OWNED = frozenset(
    [("apiVersion",), ("kind",), *(("metadata", name) for name in ("name", "namespace", "uid", "resourceVersion"))]
)


def _conflicting(owners: Mapping[str, set[Path]], mine: str, desired: Object, before: Object) -> list[tuple[str, Path]]:
    found = []
    for name, paths in owners.items():
        if name == mine:
            continue
        found += [(name, path) for path in sorted(paths) if _differs_at(path, desired, before)]
    return found


def _differs_at(path: Path, desired: Object, before: Object) -> bool:
    wanted = _at(desired, path)
    return wanted is not None and wanted != _at(before, path)


def _at(obj: Any, path: Path) -> Any:
    for name in path:
        if not isinstance(obj, dict) or name not in obj:
            return None
        obj = obj[name]
    return obj


def _field_conflict(ref: Ref, others: list[tuple[str, Path]]) -> Conflict:
    causes = [
        {
            "reason": "FieldManagerConflict",
            "message": f'conflict with "{name.partition("/")[0]}"',
            "field": "." + ".".join(path),
        }
        for name, path in others
    ]
    return Conflict(f"Apply to {ref} failed", status=409, reason="Conflict", details={"causes": causes})


def _without_preconditions(body: Mapping[str, Any]) -> Object:
    if "metadata" not in body:
        return dict(body)
    metadata = {name: value for name, value in body["metadata"].items() if name not in {"uid", "resourceVersion"}}
    return {**body, "metadata": metadata}


def _merged(before: Object, desired: Object) -> Object:
    """Maps by key, lists and values as a whole."""
    merged = dict(before)
    for name, value in desired.items():
        old = merged.get(name)
        merged[name] = _merged(old, value) if isinstance(value, dict) and isinstance(old, dict) else value
    return merged


def _patched(before: Object, patch: Mapping[str, Any]) -> Object:
    """RFC 7396."""
    patched = dict(before)
    for name, value in patch.items():
        if value is None:
            patched.pop(name, None)
        elif isinstance(value, dict):
            old = patched.get(name)
            patched[name] = _patched(old if isinstance(old, dict) else {}, value)
        else:
            patched[name] = value
    return patched


def _without(obj: Object, path: Path) -> Object:
    """Without the value at `path`, nor the map that becomes empty by that."""
    name, *rest = path
    if name not in obj:
        return obj
    less = _without(obj[name], tuple(rest)) if rest else {}
    others = {key: value for key, value in obj.items() if key != name}
    return {**others, name: less} if less else others


def _same(left: Object, right: Object) -> bool:
    return left == right
