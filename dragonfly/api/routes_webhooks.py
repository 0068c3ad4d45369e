"""Webhooks over HTTP: decode, one call, encode."""

import secrets
from functools import partial
from typing import Final

import msgspec
from starlette.responses import Response

from dragonfly.api.calls import JSON, Call
from dragonfly.api.desk import Desk, removed, resource, written
from dragonfly.api.operations import Collection
from dragonfly.api.webhook_views import (
    WEBHOOKS,
    DeadLetterRetryView,
    DeadLetterView,
    WebhookTestView,
    WebhookView,
    dead_letter_view,
    dead_letters,
    test_view,
    webhook_view,
)
from dragonfly.intent import webhooks
from dragonfly.intent.idempotency import Answer
from dragonfly.intent.plan import Decide
from dragonfly.intent.refusals import NotFound
from dragonfly.intent.webhooks import WebhookTerms
from dragonfly.model.webhook import Webhook, WebhookInput
from dragonfly.store import keys

_KIND: Final = "Webhook"
_SECRET_BYTES: Final = 32

_encode = msgspec.json.encode


async def list_webhooks(desk: Desk, call: Call) -> Response:
    return await desk.list(call, desk.webhook_rows, WEBHOOKS)


async def get_webhook(desk: Desk, call: Call) -> Response:
    webhook, revision = _found(desk, call)
    return resource(_encode(webhook_view(webhook, revision, desk.context.mirror)), revision)


async def create_webhook(desk: Desk, call: Call) -> Response:
    sent = await call.input(WebhookInput)
    terms = _terms(desk, call)
    decide = partial(webhooks.create, sent=sent, terms=terms)
    return await _post(desk, call, decide, terms, shown=not sent.spec.secret)


async def rotate_webhook_secret(desk: Desk, call: Call) -> Response:
    terms = _terms(desk, call)
    decide = partial(webhooks.rotate, name=call.name(_KIND), terms=terms)
    return await _post(desk, call, decide, terms, shown=True)


async def replace_webhook(desk: Desk, call: Call) -> Response:
    match = call.match()
    sent = await call.input(WebhookInput)
    decide = partial(webhooks.replace, name=call.name(_KIND), sent=sent, match=match, terms=_terms(desk, call))
    return await desk.change(decide, partial(webhook_view, mirror=desk.context.mirror))


async def patch_webhook(desk: Desk, call: Call) -> Response:
    match = call.match()
    change = await call.patch()
    decide = partial(webhooks.patch, name=call.name(_KIND), change=change, match=match, terms=_terms(desk, call))
    return await desk.change(decide, partial(webhook_view, mirror=desk.context.mirror))


async def delete_webhook(desk: Desk, call: Call) -> Response:
    name, match = call.name(_KIND), call.match()
    done = await desk.write(partial(webhooks.delete, name=name, match=match))
    return removed(done.revision)


async def test_webhook(desk: Desk, call: Call) -> Response:
    webhook, _ = _found(desk, call)
    delivery = f"{webhook.name}.{desk.context.new_ulid()}.test"
    verdict = await desk.context.webhooks.test(webhook, delivery)
    return Response(_encode(test_view(delivery, verdict)), media_type=JSON)


async def list_dead_letters(desk: Desk, call: Call) -> Response:
    webhook, _ = _found(desk, call)
    mirror = desk.context.mirror
    found = dead_letters(mirror, webhook.name)
    items = [dead_letter_view(letter) for letter in found]
    body = {"kind": "DeadLetterList", "revision": mirror.revision, "total": len(items), "items": items}
    return Response(_encode(body), media_type=JSON)


async def retry_dead_letters(desk: Desk, call: Call) -> Response:
    decide = partial(webhooks.retry_dead_letters, name=call.name(_KIND))
    done = await desk.once(decide, _asked, await call.once(desk.context.sealer))
    headers = {"Dragonfly-Revision": str(done.revision)} if done.revision else {}
    return Response(done.outcome.body, done.outcome.status, headers, JSON)


def _found(desk: Desk, call: Call) -> tuple[Webhook, int]:
    name = call.name(_KIND)
    held = desk.context.mirror.get(keys.webhook(name))
    if held is None or not isinstance(held.object, Webhook):
        raise NotFound(_KIND, name)
    return held.object, held.mod_revision


def _terms(desk: Desk, call: Call) -> WebhookTerms:
    context = desk.context
    secret = secrets.token_urlsafe(_SECRET_BYTES)
    return WebhookTerms(desk.terms(call), secret, context.new_ulid(), context.webhooks.plain_http)


async def _post(desk: Desk, call: Call, decide: Decide[Webhook], terms: WebhookTerms, *, shown: bool) -> Response:
    """Carry out a POST, and show the secret that was made for it: in this answer alone, never in one that is kept."""
    done = await desk.once(decide, _answer, await call.once(desk.context.sealer))
    view = msgspec.json.decode(done.outcome.body, type=WebhookView)
    if shown and view.status.secrets[0].id == terms.id:
        view = msgspec.structs.replace(view, spec=msgspec.structs.replace(view.spec, secret=terms.secret))
    return written(_encode(view), done.revision, done.outcome.status, done.outcome.location)


def _answer(webhook: Webhook) -> Answer:
    body = _encode(webhook_view(webhook, 0)).decode()
    return Answer(status=201, location=f"/api/v1/webhooks/{webhook.name}", body=body)


def _asked(many: int) -> Answer:
    return Answer(status=202, body=_encode(DeadLetterRetryView(kind="DeadLetterRetry", asked=many)).decode())


_WEBHOOKS: Final = Collection("webhooks", WebhookView, WebhookInput)

OPERATIONS = (
    _WEBHOOKS.list(list_webhooks, "List webhooks", WEBHOOKS),
    _WEBHOOKS.create(create_webhook, "Create a webhook; the answer has its secret if one was made, this once"),
    _WEBHOOKS.read(get_webhook, "Read a webhook and how its deliveries go"),
    _WEBHOOKS.replace(replace_webhook, "Replace a webhook; without a secret it keeps the one that it has"),
    _WEBHOOKS.patch(patch_webhook, "Change some of a webhook"),
    _WEBHOOKS.delete(delete_webhook, "Delete a webhook and what it has not delivered"),
    _WEBHOOKS.act(
        "rotate",
        rotate_webhook_secret,
        "Make a new secret, shown this once; the present one signs too for 24 hours",
        {201: WebhookView},
    ),
    _WEBHOOKS.act(
        "test", test_webhook, "Send a delivery now, and tell what came of it", {200: WebhookTestView}
    )._replace(takes_key=False),
    _WEBHOOKS.below("deadletters", list_dead_letters, "List deliveries that were given up", DeadLetterView),
    _WEBHOOKS.act(
        "deadletters/retry",
        retry_dead_letters,
        "Try each delivery that was given up once more",
        {202: DeadLetterRetryView},
    ),
)
