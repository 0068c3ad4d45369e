"""As much of kustomize as `deploy/k3s` uses, since a bare host has no kubectl: resources and three kinds of patches.

Whatever else stands in a kustomization is refused, so that it can't be passed over; a test compares the outcome with
what the real kustomize makes of the same files.
"""

import copy
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from dragonfly.kube.resources import Object

_KNOWN: Final = {"apiVersion", "kind", "resources", "patches"}
_MERGED_BY_NAME: Final = {"containers", "env", "volumes"}
"""Lists in which Kubernetes tells entries apart by their names."""


class NotUnderstood(Exception):
    """A kustomization wants what is not there; the message names the file."""


def render(directory: Path) -> list[Object]:
    """Return the objects of a kustomization, in the order of its resources.

    Raises:
        NotUnderstood: it has something that is not supported here.
        OSError: one of its files cannot be read.
    """
    file = directory / "kustomization.yaml"
    said = yaml.safe_load(file.read_text(encoding="utf-8"))
    if unknown := said.keys() - _KNOWN:
        raise NotUnderstood(f"{file}: {', '.join(sorted(unknown))}")
    objects = [obj for name in said.get("resources", ()) for obj in _resource(directory / name)]
    for patch in said.get("patches", ()):
        objects = _patched(objects, patch, file)
    return objects


def merged(base: Any, change: Any, *, field: str = "") -> Any:
    """Return `base` with `change` in it as a strategic merge patch; neither is changed."""
    if isinstance(base, dict) and isinstance(change, dict):
        out = dict(base)
        for key, value in change.items():
            out[key] = merged(base[key], value, field=key) if key in base else copy.deepcopy(value)
        return out
    if isinstance(base, list) and isinstance(change, list) and field in _MERGED_BY_NAME:
        changes = {entry["name"]: entry for entry in change}
        kept = [merged(entry, changes.pop(entry["name"], {})) for entry in base]
        return [*kept, *copy.deepcopy(list(changes.values()))]
    return copy.deepcopy(change)


def _resource(path: Path) -> list[Object]:
    if path.is_dir():
        return render(path)
    return [document for document in yaml.safe_load_all(path.read_text(encoding="utf-8")) if document]


def _patched(objects: list[Object], patch: Mapping[str, Any], file: Path) -> list[Object]:
    text = patch.get("patch") or (file.parent / patch["path"]).read_text(encoding="utf-8")
    body = yaml.safe_load(text)
    if isinstance(body, list):
        return _each(objects, _targets(patch["target"]), lambda obj: _replaced(obj, body, file))
    if body.get("$patch") == "delete":
        return [obj for obj in objects if not _targets(patch["target"])(obj)]
    if "target" in patch:
        raise NotUnderstood(f"{file}: a merge with a target")
    return _each(objects, lambda obj: _name(obj) == _name(body), lambda obj: merged(obj, body))


def _each(objects: list[Object], chosen: Callable[[Object], bool], change: Callable[[Object], Object]) -> list[Object]:
    return [change(obj) if chosen(obj) else obj for obj in objects]


def _targets(target: Mapping[str, str]) -> Callable[[Object], bool]:
    def chosen(obj: Object) -> bool:
        metadata = obj["metadata"]
        group = obj["apiVersion"].rpartition("/")[0]
        found = {
            "group": group,
            "kind": obj["kind"],
            "name": metadata["name"],
            "namespace": metadata.get("namespace", ""),
        }
        return all(re.fullmatch(pattern, found[key]) for key, pattern in target.items())

    return chosen


def _replaced(obj: Object, operations: list[Mapping[str, Any]], file: Path) -> Object:
    out = copy.deepcopy(obj)
    for operation in operations:
        if operation["op"] != "replace":
            raise NotUnderstood(f"{file}: {operation['op']}")
        *parents, last = operation["path"].lstrip("/").split("/")
        place: Any = out
        for part in parents:
            place = place[int(part) if isinstance(place, list) else part]
        place[last] = operation["value"]
    return out


def _name(obj: Object) -> tuple[str, str, str, str]:
    metadata = obj["metadata"]
    return obj["apiVersion"], obj["kind"], metadata.get("namespace", ""), metadata["name"]
