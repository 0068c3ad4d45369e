"""What is to be said of a swarm beside the table of its replicas: what this one may do, and whatever is wrong."""

from collections.abc import Iterator, Sequence
from typing import Any, Final

from dragonfly.cli.kinds import Document, text_at
from dragonfly.cli.reach import missing_fence, served_elsewhere, since

BAD: Final = "bold red"
WARNING: Final = "yellow"


def takes_writes(swarm: Document) -> bool:
    return text_at(swarm, "etcd.state", "ok") in {"ok", "degraded"}


def remarks(document: Document) -> Iterator[tuple[str, str]]:
    """Yield what is to be said beside the table, each with its style; what is wrong comes last."""
    own = document.get("self") or {}
    if own.get("state"):
        style = "" if own["state"] in {"acting", "following", "observing"} else BAD
        yield f"Replica {text_at(own, 'id')}, which answers, is {own['state']}{since(own)}{why(own)}", style
    for drain in document.get("drains") or []:
        yield f"Replica {text_at(drain, 'askedBy')} asks {text_at(drain, 'owner')} to give up {_shard(drain)}", ""
    state = text_at(document, "etcd.state", "ok")
    if state != "ok":
        etcd = document["etcd"]
        yield f"etcd is {state}{since(etcd)}{why(etcd)}", WARNING if state == "degraded" else BAD
    elsewhere = served_elsewhere(document)
    for member in document.get("members") or []:
        for lost in member.get("unreachable") or []:
            name = text_at(lost, "cluster")
            if text_at(member, "site") in elsewhere.get(name, ()):
                continue
            text = f"{text_at(member, 'id')} does not reach cluster {name}{since(lost)}{why(lost)}"
            yield f"Replica {text}", WARNING
    for cluster in document.get("clusters") or []:
        if cluster.get("reachable") is False:
            yield f"Cluster {text_at(cluster, 'name')} is not reachable{since(cluster)}{why(cluster)}", BAD
        if missing := missing_fence(cluster):
            yield missing, WARNING
    for reason, shards in _grouped(document.get("unowned") or []).items():
        yield f"Without owner: {', '.join(shards)}{reason}", BAD


def _grouped(unowned: Sequence[Any]) -> dict[str, list[str]]:
    """Return the shards without owner by what is to be said of them."""
    groups: dict[str, list[str]] = {}
    for item in unowned:
        reason = f"{since(item)}{why(item)}" if isinstance(item, dict) else ""
        groups.setdefault(reason, []).append(_shard(item))
    return groups


def why(item: Document) -> str:
    reason = text_at(item, "reason")
    return f": {reason}" if reason else ""


def _shard(item: Any) -> str:
    if isinstance(item, dict):
        return f"{item.get('cluster', '')}/{item.get('shard', '')}"
    return str(item)
