"""Webhooks as the API shows them: what people set, and how the deliveries go."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, Literal

import msgspec
from msgspec.structs import asdict

from dragonfly.api.catalog import Catalog, Row
from dragonfly.api.lists import Listing
from dragonfly.feed.shown import haystack
from dragonfly.feed.views import MetadataView
from dragonfly.model.values import Value
from dragonfly.model.webhook import DeadLetter, Webhook, WebhookSpec, WebhookState
from dragonfly.store import keys
from dragonfly.store.mirror import Held, Mirror
from dragonfly.swarm.claims import owner_of
from dragonfly.webhooks.courier import DUTY
from dragonfly.webhooks.sender import Verdict

WEBHOOKS: Final = Listing("Webhook", (), ("name", "createdAt", "updatedAt"), "name")

_encode = msgspec.json.Encoder().encode


class WebhookSpecView(WebhookSpec, frozen=True, kw_only=True):
    enabled: bool
    secret: str = ""
    """In the answer to the request that had it made, and never again."""


class WebhookSecretView(Value, frozen=True, kw_only=True):
    id: str
    until: datetime | None = None
    """When it stops signing; absent for the present one."""


class WebhookStatusView(Value, frozen=True, kw_only=True):
    owner: str
    """The replica that delivers; empty if none does."""
    cursor: int
    delivered: int
    pending: int
    dead_letters: int
    secrets: tuple[WebhookSecretView, ...]
    failing_since: datetime | None = None
    last_attempt: datetime | None = None
    last_success: datetime | None = None
    last_error: str = ""
    disabled_because: str = ""


class WebhookView(Value, frozen=True, kw_only=True):
    """A webhook: where changes are sent, and how that goes."""

    kind: Literal["Webhook"]
    metadata: MetadataView
    spec: WebhookSpecView
    status: WebhookStatusView


class DeadLetterView(Value, frozen=True, kw_only=True):
    """A delivery that was given up."""

    id: str
    event: str
    revision: int
    attempts: int
    failed_since: datetime
    given_up_at: datetime
    error: str
    retry: bool
    """Another attempt was asked for, and has not been made yet."""
    change: dict[str, Any]
    """What would have been sent."""


class WebhookTestView(Value, frozen=True, kw_only=True):
    """What came of a test delivery."""

    kind: Literal["WebhookTest"]
    delivery: str
    delivered: bool
    seconds: float
    status: int
    """What the receiver answered; 0 without an answer."""
    error: str
    answer: str
    """The first kilobyte of the answer's body."""


class DeadLetterRetryView(Value, frozen=True, kw_only=True):
    """How many dead letters will be tried once more."""

    kind: Literal["DeadLetterRetry"]
    asked: int


def webhook_view(webhook: Webhook, revision: int, mirror: Mirror | None = None) -> WebhookView:
    """Return the webhook as it is shown; without a mirror, as one that was just made."""
    state = state_of(mirror, webhook.name) if mirror is not None else None
    status = WebhookStatusView(
        owner=deliverer(mirror) if mirror is not None and webhook.spec.enabled else "",
        cursor=state.cursor if state is not None else revision,
        delivered=state.delivered if state is not None else 0,
        pending=state.pending if state is not None else 0,
        dead_letters=len(dead_letters(mirror, webhook.name)) if mirror is not None else 0,
        secrets=tuple(WebhookSecretView(id=secret.id, until=secret.until) for secret in webhook.secrets),
        failing_since=state.failing_since if state is not None else None,
        last_attempt=state.last_attempt if state is not None else None,
        last_success=state.last_success if state is not None else None,
        last_error=state.last_error if state is not None else "",
        disabled_because=webhook.disabled_because,
    )
    return WebhookView(
        kind="Webhook",
        metadata=MetadataView(**asdict(webhook.metadata), revision=revision),
        spec=WebhookSpecView(**asdict(webhook.spec)),
        status=status,
    )


def test_view(delivery: str, verdict: Verdict) -> WebhookTestView:
    return WebhookTestView(
        kind="WebhookTest",
        delivery=delivery,
        delivered=not verdict.error,
        seconds=verdict.seconds,
        status=verdict.status,
        error=verdict.error,
        answer=verdict.answer,
    )


def dead_letter_view(letter: DeadLetter) -> DeadLetterView:
    return DeadLetterView(
        id=letter.id,
        event=letter.event,
        revision=letter.revision,
        attempts=letter.attempts,
        failed_since=letter.failed_since,
        given_up_at=letter.given_up_at,
        error=letter.error,
        retry=letter.retry,
        change=msgspec.json.decode(letter.body),
    )


def dead_letters(mirror: Mirror, webhook: str) -> list[DeadLetter]:
    """Return what was given up of a webhook, the oldest change first."""
    life = _life(mirror.get(keys.webhook(webhook)))
    found = (held.object for held in mirror.under(keys.dead_letters_of(webhook)))
    letters = [letter for letter in found if isinstance(letter, DeadLetter) and letter.webhook == life]
    return sorted(letters, key=lambda letter: (letter.revision, letter.id))


def state_of(mirror: Mirror, webhook: str) -> WebhookState | None:
    """Return how far a webhook has got; None if nothing was saved of it yet."""
    held = mirror.get(keys.webhook_state(webhook))
    state = held.object if held is not None else None
    life = _life(mirror.get(keys.webhook(webhook)))
    return state if isinstance(state, WebhookState) and state.webhook == life else None


def deliverer(mirror: Mirror) -> str:
    """Return the replica that delivers; empty if none does."""
    return owner_of(mirror, keys.duty(DUTY))


def webhook_catalog(mirror: Mirror) -> Catalog:
    def build(name: str) -> Row | None:
        found = mirror.get(keys.webhook(name))
        if found is None or not isinstance(found.object, Webhook):
            return None
        webhook = found.object
        metadata = webhook.metadata
        return Row(
            name,
            {"createdAt": metadata.created_at.isoformat(), "updatedAt": metadata.updated_at.isoformat()},
            lambda: _encode(webhook_view(webhook, found.mod_revision, mirror)),
            labels=metadata.labels,
            tags=metadata.tags,
            haystack=haystack(metadata, webhook.spec.url),
        )

    made_of: Mapping[str, Any] = {
        keys.WEBHOOKS: lambda key: keys.name_in(key, keys.WEBHOOKS),
        keys.WEBHOOK_STATES: lambda key: keys.name_in(key, keys.WEBHOOK_STATES),
        keys.DEAD_LETTERS: lambda key: pair.first if (pair := keys.pair_in(key, keys.DEAD_LETTERS)) else None,
    }
    return Catalog(mirror, build, made_of, shown_with=(keys.duty(DUTY),))


def _life(held: Held | None) -> int:
    return held.create_revision if held is not None else 0
