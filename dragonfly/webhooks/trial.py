"""A delivery that somebody asks for, to see whether the receiver takes it."""

from datetime import datetime

from dragonfly.model.webhook import Webhook
from dragonfly.store.seal import Unsealable
from dragonfly.webhooks.letters import Unseal, notice, opened
from dragonfly.webhooks.sender import Letter, Sender, Verdict


async def try_out(webhook: Webhook, delivery: str, *, sender: Sender, unseal: Unseal, now: datetime) -> Verdict:
    """Send a delivery with the event `test`, signed as all are; also for a webhook that is not enabled."""
    try:
        secrets = opened(webhook, unseal, now)
    except Unsealable as error:
        return Verdict(0.0, error=f"cannot be signed: {error}")
    body = notice("test", webhook=webhook.name, at=now)
    return await sender.send(Letter(webhook.spec.url, "test", delivery, body, secrets, webhook.spec.ca_bundle), now)
