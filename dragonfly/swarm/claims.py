"""What the claims in a mirror say."""

from dragonfly.model.swarm import Claim
from dragonfly.swarm.members import Records


def owner_of(records: Records, key: str) -> str:
    """Return the replica that holds the claim `key`; empty for nobody, or where there is no claim to be read."""
    held = records.get(key)
    return held.object.owner if held is not None and isinstance(held.object, Claim) else ""
