"""What the intents of every kind of resource have in common: names, conditions, what counts as a change."""

from typing import Any, TypeVar

import msgspec

from dragonfly.intent.facts import Facts
from dragonfly.intent.refusals import NotFound
from dragonfly.intent.terms import Match
from dragonfly.model.cluster import Cluster
from dragonfly.model.machine import Machine
from dragonfly.model.template import Template
from dragonfly.model.values import FieldError, Invalid, Metadata, MetadataInput
from dragonfly.model.webhook import Webhook

R = TypeVar("R", Machine, Template, Cluster, Webhook)


def given_name(sent: MetadataInput) -> str:
    """Return the name of a new resource of a kind whose names are not made up.

    Raises:
        Invalid: there is none.
    """
    if not sent.name:
        raise Invalid([FieldError("metadata.name", "is required")])
    return sent.name


def check_same_name(kind: str, sent: MetadataInput, name: str) -> None:
    """Pass, or raise `Invalid`: the name in a document is that of its resource, or left out."""
    if sent.name not in {"", name}:
        message = f"must be {name}: a {kind.lower()} cannot be renamed"
        raise Invalid([FieldError("metadata.name", message, sent.name)])


def matching(facts: Facts, kind: type[R], key: str, name: str, match: Match) -> R:
    """Return the resource.

    Raises:
        NotFound: there is none.
        Changed: it is none that `match` admits.
    """
    found = facts.get(key, kind)
    if found is None:
        raise NotFound(kind.__name__, name)
    match.check(kind.__name__, name, facts.revision_of(key))
    return found


def is_same(changed: R, stored: R) -> bool:
    """Whether nothing would change but the time of the last change."""
    return msgspec.structs.replace(changed, metadata=_as_late_as(stored.metadata, changed.metadata)) == stored


def document_of(metadata: Metadata | None, spec: msgspec.Struct) -> dict[str, Any]:
    """Return what people may set of a resource, as the JSON that a patch is written against."""
    shown = {"labels": metadata.labels, "tags": list(metadata.tags)} if metadata is not None else {}
    return {"metadata": shown, "spec": msgspec.to_builtins(spec)}


def no_key(field: str, what: str = "secrets") -> FieldError:
    """Return what is wrong with a field that has to be sealed where no secret key is configured."""
    message = (
        f"cannot be stored: {what} are kept encrypted, and no key is configured. "
        "Set DRAGONFLY_SECRET_KEY_FILE on every replica"
    )
    return FieldError(field, message)


def _as_late_as(before: Metadata | None, metadata: Metadata | None) -> Metadata | None:
    if before is None or metadata is None:
        return metadata
    return msgspec.structs.replace(metadata, updated_at=before.updated_at)
