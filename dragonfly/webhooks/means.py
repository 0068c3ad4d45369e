"""What deliveries need of the replica."""

from collections.abc import Callable
from datetime import datetime
from typing import NamedTuple

from dragonfly.feed.feed import Feed
from dragonfly.store.mirror import Mirror
from dragonfly.store.port import Store
from dragonfly.telemetry.metrics import WebhookMetrics
from dragonfly.webhooks.letters import Unseal
from dragonfly.webhooks.sender import Sender


class Means(NamedTuple):
    """All of it; made once."""

    store: Store
    mirror: Mirror
    feed: Feed
    sender: Sender
    unseal: Unseal
    metrics: WebhookMetrics
    now: Callable[[], datetime]
    clock: Callable[[], float]
    """Monotonic seconds."""
    chance: Callable[[], float]


class NotOwner(Exception):
    """This replica may not deliver now."""
