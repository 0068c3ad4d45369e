"""The keys of Dragonfly in etcd, built and taken apart; relative to the prefix.

The one place that knows the layout (docs/architecture.md). A name in a key never holds a slash: names are DNS labels,
ULIDs, MACs or replica ids, checked where they come in; a slash here is a bug, and said so.
"""

from __future__ import annotations

from typing import Final, NamedTuple

SCHEMA: Final = "schema"
PROGRESS: Final = "progress"
"""Written by whoever finds its watch quiet, so that all watches prove themselves; never shown."""

MACHINES: Final = "machines/"
TEMPLATES: Final = "templates/"
CLUSTERS: Final = "clusters/"
PROVISIONS: Final = "provisions/"
ACTIVE: Final = "active/"
OBSERVED: Final = "observed/"
POWER: Final = "power/"
MACS: Final = "unique/mac/"
CLUSTER_PLACES: Final = "unique/cluster/"
MEMBERS: Final = "members/"
CLAIMS: Final = "claims/"
DRAINS: Final = "drains/"
IDEMPOTENCY: Final = "idempotency/"
WEBHOOKS: Final = "webhooks/"
WEBHOOK_STATES: Final = "webhook-states/"
DEAD_LETTERS: Final = "dead-letters/"


class Pair(NamedTuple):
    """The two names in a key such as `provisions/<machine>/<name>`."""

    first: str
    second: str


def machine(name: str) -> str:
    return MACHINES + _name(name)


def template(name: str) -> str:
    return TEMPLATES + _name(name)


def cluster(name: str) -> str:
    return CLUSTERS + _name(name)


def provision(machine_name: str, name: str) -> str:
    return f"{provisions_of(machine_name)}{_name(name)}"


def provisions_of(machine_name: str) -> str:
    """The prefix of all provisions of one machine."""
    return f"{PROVISIONS}{_name(machine_name)}/"


def active(machine_name: str) -> str:
    return ACTIVE + _name(machine_name)


def observed(machine_name: str) -> str:
    return OBSERVED + _name(machine_name)


def power(machine_name: str) -> str:
    """The key of the one power action that is under way on a machine."""
    return POWER + _name(machine_name)


def mac(address: str) -> str:
    """The key that makes a MAC unique in the swarm; `address` in any case."""
    return MACS + _name(address.lower())


def cluster_place(place: str) -> str:
    """The key that makes a cluster's place unique in the swarm (`model.cluster.places`)."""
    return CLUSTER_PLACES + _name(place)


def member(replica: str) -> str:
    return MEMBERS + _name(replica)


def claim(cluster_name: str, shard: int) -> str:
    return f"{claims_of(cluster_name)}{shard}"


def claims_of(cluster_name: str) -> str:
    """The prefix of all claims on one cluster's shards."""
    return f"{CLAIMS}{_name(cluster_name)}/"


def drain(cluster_name: str, shard: int) -> str:
    """The key by which a better-ranked replica asks the owner of a shard to give it up."""
    return f"{DRAINS}{_name(cluster_name)}/{shard}"


def duty(name: str) -> str:
    """The claim on a piece of work that one replica does for the whole swarm."""
    return f"{CLAIMS}_swarm/{_name(name)}"


def idempotency(key: str) -> str:
    return IDEMPOTENCY + _name(key)


def webhook(name: str) -> str:
    return WEBHOOKS + _name(name)


def webhook_state(name: str) -> str:
    """The key that says how far the deliveries of a webhook have got."""
    return WEBHOOK_STATES + _name(name)


def dead_letter(webhook_name: str, delivery: str) -> str:
    return f"{dead_letters_of(webhook_name)}{_name(delivery)}"


def dead_letters_of(webhook_name: str) -> str:
    """The prefix of all deliveries of one webhook that were given up."""
    return f"{DEAD_LETTERS}{_name(webhook_name)}/"


def name_in(key: str, prefix: str) -> str | None:
    """The one name after `prefix`, or None if `key` is no `<prefix><name>`."""
    if not key.startswith(prefix):
        return None
    name = key[len(prefix) :]
    return name if name and "/" not in name else None


def pair_in(key: str, prefix: str) -> Pair | None:
    """The two names after `prefix`, or None if `key` is no `<prefix><first>/<second>`."""
    if not key.startswith(prefix):
        return None
    first, slash, second = key[len(prefix) :].partition("/")
    return Pair(first, second) if first and slash and second and "/" not in second else None


def claim_in(key: str) -> tuple[str, int] | None:
    """Cluster and shard of a claim; None for any other key."""
    return _shard_in(key, CLAIMS)


def drain_in(key: str) -> tuple[str, int] | None:
    """Cluster and shard of a drain request; None for any other key."""
    return _shard_in(key, DRAINS)


def _shard_in(key: str, prefix: str) -> tuple[str, int] | None:
    pair = pair_in(key, prefix)
    if pair is None or not (pair.second.isascii() and pair.second.isdigit()):
        return None
    return pair.first, int(pair.second)


def _name(name: str) -> str:
    if not name or "/" in name or "\0" in name:
        raise ValueError(f"{name!r} can't be a name in a key")
    return name
