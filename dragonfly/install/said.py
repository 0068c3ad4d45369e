"""What is said to a host on top of what is so: what is not said stays as it is. Pure.

The one rule of `install` and `upgrade`. What is this host's own stays as its journal has it; what is the whole
cluster's, as the record there has it: another server may have changed that since this one was told anything.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, TypeAlias

import msgspec

from dragonfly.install.options import ExternalEtcd, Options
from dragonfly.install.recorded import Record, recorded_options

Said: TypeAlias = Mapping[str, Any]
"""The options that were given, empty or not, by the names of `Options`; of an external etcd, by those below."""

_EXTERNAL: Final = {
    "etcd_endpoints": "endpoints",
    "etcd_ca_file": "ca_file",
    "etcd_username": "username",
    "etcd_password_file": "password_file",
}
_NOBODYS: Final = ExternalEtcd(endpoints=(), ca_file="", username="", password_file="")
_BRINGS: Final = ("image_archive", "airgap")
_PATHS: Final = ("token_file", "airgap", "image_archive", "etcd_ca_file", "etcd_password_file")


def said_from(given: Mapping[str, Any], where: Path) -> Said:
    """Return what was said to a command, of its options as they came.

    Args:
        given: by name; None for what was not said. An external etcd's endpoints with commas between them.
        where: what paths are relative to. The journal keeps them, and is read from elsewhere. One that is said to be
            empty is taken away, and stays so.
    """
    said = {name: value for name, value in given.items() if value is not None}
    if "etcd_endpoints" in said:
        parts = (part.strip() for part in said["etcd_endpoints"].split(","))
        said["etcd_endpoints"] = tuple(part for part in parts if part)
    return said | {name: str(where / said[name]) for name in _PATHS if said.get(name)}


def on_top(before: Options | None, said: Said) -> Options:
    """Return the options of a host with what is said now.

    Args:
        before: those of the last time; None if there are none. Told to join instead of founding, or the other way
            round, a host begins anew. Whose etcd the swarm uses, to one that joins the cluster says unless it is said.
    """
    base = before
    if base is None or base.is_first == bool(said.get("join", base.join)):
        base = Options(join=said.get("join", ""))
    if base.join:
        base = msgspec.structs.replace(base, etcd="", external=None)
    return _with(base, said)


def taken_up(own: Options, said: Said, record: Record | None) -> Options:
    """Return the options of a host with the cluster's in their places, but for those that are said.

    Args:
        own: of this host, what is said among them.
        record: what the cluster's are; None where this host's count.

    Raises:
        BadOptions: as `recorded_options`.
    """
    return own if record is None else _with(recorded_options(own, record), said)


def brings_image(said: Said) -> bool | None:
    """Whether the replicas' image comes as a file, so that each host must have been given it; None if nobody says."""
    if "image" in said or any(name in said for name in _BRINGS):
        return any(said.get(name) for name in _BRINGS)
    return None


def _with(base: Options, said: Said) -> Options:
    plain = {name: value for name, value in said.items() if name not in _EXTERNAL}
    return msgspec.structs.replace(base, external=_external(base, said), **plain)


def _external(base: Options, said: Said) -> ExternalEtcd | None:
    parts = {name: said[flag] for flag, name in _EXTERNAL.items() if flag in said}
    if not parts:
        return base.external if said.get("etcd", "external") == "external" else None
    found = msgspec.structs.replace(base.external or _NOBODYS, **parts)
    return None if found == _NOBODYS else found
