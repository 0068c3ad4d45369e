"""What each key of the swarm's etcd holds: JSON of the model's types, and back.

A value that a newer replica wrote may have fields that this one doesn't know; they are passed over, and a replica
that doesn't know the layout at all refuses to write (`schema`).
"""

from typing import Final, TypeVar

import msgspec

from dragonfly.model.cluster import Cluster
from dragonfly.model.machine import Machine, Observed
from dragonfly.model.power import PowerRequest
from dragonfly.model.provision import Active, Provision
from dragonfly.model.swarm import Claim, DrainRequest, Member
from dragonfly.model.template import Template
from dragonfly.model.webhook import DeadLetter, Webhook, WebhookState

T = TypeVar("T")

_ENCODER: Final = msgspec.json.Encoder()
_DECODERS: Final[dict[str, msgspec.json.Decoder[object]]] = {
    "machines": msgspec.json.Decoder(Machine),
    "templates": msgspec.json.Decoder(Template),
    "clusters": msgspec.json.Decoder(Cluster),
    "provisions": msgspec.json.Decoder(Provision),
    "active": msgspec.json.Decoder(Active),
    "power": msgspec.json.Decoder(PowerRequest),
    "observed": msgspec.json.Decoder(Observed),
    "members": msgspec.json.Decoder(Member),
    "claims": msgspec.json.Decoder(Claim),
    "drains": msgspec.json.Decoder(DrainRequest),
    "webhooks": msgspec.json.Decoder(Webhook),
    "webhook-states": msgspec.json.Decoder(WebhookState),
    "dead-letters": msgspec.json.Decoder(DeadLetter),
}
_ANY: Final[msgspec.json.Decoder[object]] = msgspec.json.Decoder()


def encode(record: object) -> bytes:
    """Return the stored form of one of the model's records."""
    return _ENCODER.encode(record)


def decode(key: str, value: bytes) -> object:
    """Return what is stored at `key`, a key relative to the prefix, as the model's type for it.

    Raises:
        msgspec.DecodeError: the value is not what this layout version stores there.
    """
    kind = key.partition("/")[0]
    return _DECODERS.get(kind, _ANY).decode(value)
