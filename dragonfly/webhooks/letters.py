"""What is sent of a change, and what is kept of one that was given up. Pure."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Final, TypeAlias

import msgspec

from dragonfly.feed import frames
from dragonfly.feed.view import Filter, View
from dragonfly.intent.webhooks import secret_place
from dragonfly.model.selectors import requirements
from dragonfly.model.webhook import DeadLetter, Webhook, WebhookSpec
from dragonfly.store.mirror import Held
from dragonfly.webhooks.outbox import Message

Unseal: TypeAlias = Callable[[str, str], str]
"""Opens what was sealed for a place; raises Unsealable."""

_MOST_DEAD: Final = 100
_MOST_DEAD_BYTES: Final = 4 * 1024 * 1024


def opened(webhook: Webhook, unseal: Unseal, now: datetime) -> tuple[str, ...]:
    """Return the secrets that sign now, the present one first.

    Raises:
        Unsealable: the swarm's secret key does not open one.
    """
    return tuple(
        unseal(secret_place(webhook.name, secret.id), secret.sealed)
        for secret in webhook.secrets
        if secret.until is None or now < secret.until
    )


def view_of(spec: WebhookSpec) -> View:
    """Return which changes a webhook sends."""
    asked = (("phase", spec.phases), ("cluster", spec.clusters))
    return View(
        Filter(
            kinds=frozenset(spec.kinds),
            names=frozenset(spec.names),
            selector=requirements(spec.label_selector),
            tags=frozenset(spec.tags),
            facets=tuple((name, frozenset(values)) for name, values in asked if values),
        )
    )


def delivery_of(webhook: str, message: Message) -> str:
    """Return the id of a delivery: the same in all attempts, on all replicas."""
    kind, name = message.seen.shown.ref
    return f"{webhook}.{message.seen.revision}.{kind.lower()}.{name}"


def body_of(message: Message) -> bytes:
    """Return the change as the feed tells it."""
    told = frames.item(message.seen)
    return b'{"gap":true,' + told[1:] if message.gap else told


def notice(event: str, **more: Any) -> bytes:
    """Return the body of a delivery that tells no change."""
    return msgspec.json.encode({"type": event, **more})


def without_body(letter: DeadLetter) -> DeadLetter:
    """Return a dead letter that says which change it was, and how many bytes of it are not kept."""
    told = msgspec.json.decode(letter.body)
    note = {name: told[name] for name in ("revision", "type", "kind", "name")}
    body = msgspec.json.encode({**note, "omitted": len(letter.body.encode())})
    return msgspec.structs.replace(letter, body=body.decode())


def superfluous(held: Sequence[Held], size: int) -> list[str]:
    """Return the keys of the oldest dead letters, which make room for one of `size` bytes more."""
    newest = sorted(held, key=lambda one: one.create_revision, reverse=True)
    room = _MOST_DEAD_BYTES - size
    dropped: list[str] = []
    for number, one in enumerate(newest, 1):
        room -= one.size
        if number >= _MOST_DEAD or room < 0:
            dropped.append(one.key)
    return dropped


def disabled(webhook: Webhook, because: str, now: datetime) -> Webhook:
    """Return the webhook as Dragonfly itself switches it off."""
    return msgspec.structs.replace(
        webhook,
        metadata=msgspec.structs.replace(webhook.metadata, updated_at=now),
        spec=msgspec.structs.replace(webhook.spec, enabled=False),
        disabled_because=because,
    )
