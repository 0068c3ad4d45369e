"""Webhook: where changes of the feed are sent to, which of them, and how that goes."""

import re
import ssl
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from typing import Any, Final, Literal, TypeAlias
from urllib.parse import SplitResult, urlsplit

from dragonfly.model.selectors import requirements
from dragonfly.model.values import FieldError, Input, Invalid, Metadata, MetadataInput, Value

WatchedKind: TypeAlias = Literal["Machine", "Provision", "Template", "Cluster"]

ROTATION: Final = timedelta(hours=24)
"""How long the secret before the present one signs too, so that a receiver can be given the new one without haste."""

_LONGEST_URL: Final = 2048
_SECRET: Final = (16, 256)
_MOST_CA_BYTES: Final = 64 * 1024
_VISIBLE: Final = re.compile(r"[!-~]+")


class WebhookSpec(Value, frozen=True, kw_only=True):
    """What to send where. Conditions must all hold; empty ones do."""

    url: str
    enabled: bool = True
    kinds: tuple[WatchedKind, ...] = ()
    names: tuple[str, ...] = ()
    label_selector: str = ""
    tags: tuple[str, ...] = ()
    """All of them."""
    clusters: tuple[str, ...] = ()
    phases: tuple[str, ...] = ()
    ca_bundle: str = ""
    """PEM; whom to trust instead of the system's certificate authorities."""


class WebhookSpecInput(Input, frozen=True, kw_only=True):
    """The spec as people send it."""

    url: str
    secret: str = ""
    """Taken, never shown; empty keeps the present one, or has one made."""
    enabled: bool = True
    kinds: tuple[WatchedKind, ...] = ()
    names: tuple[str, ...] = ()
    label_selector: str = ""
    tags: tuple[str, ...] = ()
    clusters: tuple[str, ...] = ()
    phases: tuple[str, ...] = ()
    ca_bundle: str = ""


class WebhookInput(Input, frozen=True, kw_only=True):
    """A webhook as people send it."""

    metadata: MetadataInput = MetadataInput()
    spec: WebhookSpecInput
    kind: Literal["Webhook"] = "Webhook"
    status: Any = None


class WebhookSecret(Value, frozen=True, kw_only=True):
    """A secret that signs deliveries."""

    id: str
    """Tells secrets apart, and says nothing of them."""
    sealed: str
    mark: str
    """What tells that the same secret was sent again; nobody can guess the secret from it."""
    until: datetime | None = None
    """When it stops signing; None for the present one."""


class Webhook(Value, frozen=True, kw_only=True):
    """A webhook as it is stored below `webhooks/`."""

    metadata: Metadata
    spec: WebhookSpec
    secrets: tuple[WebhookSecret, ...]
    """The present one first."""
    disabled_because: str = ""
    """Why Dragonfly itself set `spec.enabled` to false."""

    @property
    def name(self) -> str:
        return self.metadata.name


class Stuck(Value, frozen=True, kw_only=True):
    """A lane (the changes of one machine, or of one other object) that is behind the cursor."""

    lane: str
    after: int
    """Everything in the lane up to this revision was delivered or given up."""
    since: datetime | None = None
    """When the oldest change that is left failed first; None if it has not been tried yet."""
    attempts: int = 0


class WebhookState(Value, frozen=True, kw_only=True):
    """How far a webhook has got; stored below `webhook-states/`, written by the owner of the deliveries only."""

    webhook: int
    """create_revision of the webhook that this belongs to: another one of the same name begins anew."""
    cursor: int
    """Every change up to this revision was delivered or given up, but for those of stuck lanes."""
    stuck: tuple[Stuck, ...] = ()
    delivered: int = 0
    """Deliveries that succeeded, ever."""
    pending: int = 0
    """Changes that waited when this was written."""
    failing_since: datetime | None = None
    last_attempt: datetime | None = None
    last_success: datetime | None = None
    last_error: str = ""


class DeadLetter(Value, frozen=True, kw_only=True):
    """A change that was given up; stored below `dead-letters/<webhook>/`."""

    webhook: int
    """As in `WebhookState`."""
    id: str
    """As in `Dragonfly-Delivery`."""
    event: str
    revision: int
    body: str
    attempts: int
    failed_since: datetime
    given_up_at: datetime
    error: str
    retry: bool = False
    """Somebody asked for another attempt, which the owner of the deliveries makes."""


def validated(spec: WebhookSpec, *, plain_http: bool) -> WebhookSpec:
    """Return `spec` if deliveries can be tried.

    Args:
        spec: the spec.
        plain_http: whether this swarm allows URLs without TLS.

    Raises:
        Invalid: with every rule that the spec breaks.
    """
    errors = [*_url_errors(spec.url, plain_http=plain_http), *_filter_errors(spec), *_ca_errors(spec.ca_bundle)]
    if errors:
        raise Invalid(errors)
    return spec


def secret_errors(secret: str) -> Iterator[FieldError]:
    """Tell what is wrong with a secret; never the secret itself."""
    shortest, longest = _SECRET
    if not shortest <= len(secret) <= longest or _VISIBLE.fullmatch(secret) is None:
        yield FieldError("spec.secret", f"must have {shortest} to {longest} printable ASCII characters, without blanks")


def _url_errors(text: str, *, plain_http: bool) -> Iterator[FieldError]:
    url = split_url(text)
    if url is None:
        yield FieldError("spec.url", "must be a URL with a host, such as https://example.com/hook")
        return
    if url.username is not None or url.password is not None:
        # Not told back: it holds a password.
        yield FieldError("spec.url", "must have no user and password in it; the signature says who sends")
        return
    if url.fragment:
        yield FieldError("spec.url", "must have no #fragment: it would never be sent", text)
    if url.scheme == "http" and not plain_http:
        yield FieldError("spec.url", "must begin with https://; DRAGONFLY_WEBHOOK_HTTP=yes allows http", text)


def split_url(text: str) -> SplitResult | None:
    """Return the parts of a URL that can be sent to; None if it is none."""
    if len(text) > _LONGEST_URL or _VISIBLE.fullmatch(text) is None:
        return None
    try:
        url = urlsplit(text)
        usable = url.scheme in {"https", "http"} and bool(url.hostname) and url.port != 0
    except ValueError:
        return None
    return url if usable else None


def _filter_errors(spec: WebhookSpec) -> Iterator[FieldError]:
    try:
        requirements(spec.label_selector)
    except Invalid as error:
        yield from (FieldError("spec.labelSelector", wrong.message, wrong.value) for wrong in error.errors)
    for field in ("kinds", "names", "tags", "clusters", "phases"):
        yield from _empty_ones(f"spec.{field}", getattr(spec, field))


def _empty_ones(field: str, values: Iterable[str]) -> Iterator[FieldError]:
    yield from (FieldError(f"{field}[{index}]", "must not be empty") for index, value in enumerate(values) if not value)


def _ca_errors(bundle: str) -> Iterator[FieldError]:
    if not bundle:
        return
    if len(bundle) > _MOST_CA_BYTES:
        yield FieldError("spec.caBundle", f"must have at most {_MOST_CA_BYTES // 1024} KiB")
        return
    try:
        ssl.create_default_context(cadata=bundle)
    except (ssl.SSLError, ValueError) as error:
        yield FieldError("spec.caBundle", f"must be certificates in PEM: {error}")
