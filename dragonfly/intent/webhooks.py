"""Webhooks: create, replace, patch, delete; another try for what was given up. Secrets are sealed on their way in."""

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import msgspec

from dragonfly.intent.documents import as_input, merged
from dragonfly.intent.facts import Facts
from dragonfly.intent.plan import Plan
from dragonfly.intent.refusals import AlreadyExists
from dragonfly.intent.resource import check_same_name, document_of, given_name, is_same, matching, no_key
from dragonfly.intent.terms import Match, Terms
from dragonfly.model.machine import metadata_of
from dragonfly.model.values import FieldError, Invalid
from dragonfly.model.webhook import (
    ROTATION,
    DeadLetter,
    Webhook,
    WebhookInput,
    WebhookSecret,
    WebhookSpec,
    WebhookSpecInput,
    secret_errors,
    validated,
)
from dragonfly.store import keys, records
from dragonfly.store.values import Absent, Delete, Put, Unchanged

_KIND: Final = "Webhook"


class WebhookTerms(NamedTuple):
    """What a decision about webhooks is given beside the facts and the request; the same while it is decided anew."""

    common: Terms
    secret: str
    """Made up for this request; used where none is sent and one is needed."""
    id: str
    """Of a secret that is stored by this request."""
    plain_http: bool
    """Whether URLs without TLS are allowed."""


def secret_place(webhook: str, secret: str) -> str:
    """What a sealed secret of a webhook is bound to."""
    return f"{keys.webhook(webhook)}/spec.secret/{secret}"


def create(facts: Facts, sent: WebhookInput, terms: WebhookTerms) -> Plan[Webhook]:
    """Make a webhook; it begins with what changes after it was made.

    Raises:
        Invalid: the document breaks rules, or no secret can be kept.
        AlreadyExists: the name is taken.
    """
    metadata = metadata_of(sent.metadata, given_name(sent.metadata), terms.common.now)
    spec = _accepted(sent.spec, terms)
    secret = _sealed(metadata.name, sent.spec.secret or terms.secret, terms)
    webhook = Webhook(metadata=metadata, spec=spec, secrets=(secret,))
    key = keys.webhook(webhook.name)
    if facts.get(key, Webhook) is not None:
        raise AlreadyExists(_KIND, webhook.name)
    return Plan(webhook, (Put(key, records.encode(webhook)),), (Absent(key),))


def replace(facts: Facts, name: str, sent: WebhookInput, match: Match, terms: WebhookTerms) -> Plan[Webhook]:
    """Make the webhook what was sent; a new secret replaces the present one, which signs too for a day.

    Raises:
        NotFound, Changed, Invalid: as they say.
    """
    return _replace(facts, _matching(facts, name, match), sent, terms)


def patch(facts: Facts, name: str, change: dict[str, Any], match: Match, terms: WebhookTerms) -> Plan[Webhook]:
    """Apply a JSON Merge Patch (RFC 7396) to the webhook; raises as `replace`."""
    webhook = _matching(facts, name, match)
    sent = as_input(merged(document_of(webhook.metadata, webhook.spec), change), WebhookInput)
    return _replace(facts, webhook, sent, terms)


def rotate(facts: Facts, name: str, terms: WebhookTerms) -> Plan[Webhook]:
    """Give the webhook a new secret; the present one signs too for a day.

    Raises:
        NotFound, Invalid: as they say.
    """
    webhook = _matching(facts, name, Match())
    secrets = _replaced(webhook, terms.secret, terms)
    metadata = msgspec.structs.replace(webhook.metadata, updated_at=terms.common.now)
    return _written(facts, msgspec.structs.replace(webhook, metadata=metadata, secrets=secrets))


def delete(facts: Facts, name: str, match: Match) -> Plan[Webhook]:
    """Forget the webhook; whoever delivers removes what is left of it.

    Raises:
        NotFound, Changed: as they say.
    """
    webhook = _matching(facts, name, match)
    key = keys.webhook(name)
    return Plan(webhook, (Delete(key),), (Unchanged(key, facts.revision_of(key)),))


def retry_dead_letters(facts: Facts, name: str, most: int = 100) -> Plan[int]:
    """Ask for one more attempt of each dead letter; the outcome is how many there are.

    Raises:
        NotFound: there is no such webhook.
    """
    _matching(facts, name, Match())
    found = [(key, facts.get(key, DeadLetter)) for key in facts.keys_under(keys.dead_letters_of(name), most)]
    letters = {key: letter for key, letter in found if letter is not None}
    asked = {key: letter for key, letter in letters.items() if not letter.retry}
    writes = [Put(key, records.encode(msgspec.structs.replace(letter, retry=True))) for key, letter in asked.items()]
    given = [Unchanged(key, facts.revision_of(key)) for key in asked]
    return Plan(len(letters), tuple(writes), tuple(given))


def _matching(facts: Facts, name: str, match: Match) -> Webhook:
    return matching(facts, Webhook, keys.webhook(name), name, match)


def _replace(facts: Facts, webhook: Webhook, sent: WebhookInput, terms: WebhookTerms) -> Plan[Webhook]:
    check_same_name(_KIND, sent.metadata, webhook.name)
    metadata = metadata_of(sent.metadata, webhook.name, terms.common.now, webhook.metadata.created_at)
    spec = _accepted(sent.spec, terms)
    secrets = _replaced(webhook, sent.spec.secret, terms) if sent.spec.secret else webhook.secrets
    because = "" if spec.enabled else webhook.disabled_because
    changed = Webhook(metadata=metadata, spec=spec, secrets=secrets, disabled_because=because)
    if is_same(changed, webhook):
        return Plan(webhook, revision=facts.revision_of(keys.webhook(webhook.name)))
    return _written(facts, changed)


def _written(facts: Facts, webhook: Webhook) -> Plan[Webhook]:
    key = keys.webhook(webhook.name)
    return Plan(webhook, (Put(key, records.encode(webhook)),), (Unchanged(key, facts.revision_of(key)),))


def _accepted(sent: WebhookSpecInput, terms: WebhookTerms) -> WebhookSpec:
    """Return the spec as it is stored: without the secret."""
    errors = list(_secret_errors(sent.secret, terms))
    if errors:
        raise Invalid(errors)
    fields = {name: getattr(sent, name) for name in WebhookSpec.__struct_fields__}
    return validated(WebhookSpec(**fields), plain_http=terms.plain_http)


def _secret_errors(secret: str, terms: WebhookTerms) -> Iterator[FieldError]:
    if terms.common.sealer is None:
        yield no_key("spec.secret")
    if secret:
        yield from secret_errors(secret)


def _replaced(webhook: Webhook, secret: str, terms: WebhookTerms) -> tuple[WebhookSecret, ...]:
    present, *_ = webhook.secrets
    sealed = _sealed(webhook.name, secret, terms)
    if sealed.mark == present.mark:
        return webhook.secrets
    return (sealed, msgspec.structs.replace(present, until=terms.common.now + ROTATION))


def _sealed(webhook: str, secret: str, terms: WebhookTerms) -> WebhookSecret:
    sealer = terms.common.sealer
    if sealer is None:
        raise Invalid(_secret_errors("", terms))
    sealed = sealer.seal(secret_place(webhook, terms.id), secret)
    return WebhookSecret(id=terms.id, sealed=sealed, mark=sealer.fingerprint(secret.encode()).hex())
