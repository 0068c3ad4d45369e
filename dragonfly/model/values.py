"""Small values that every resource is made of, and the errors that a wrong one gets."""

import ipaddress
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, NewType

import msgspec

MachineName = NewType("MachineName", str)
ClusterName = NewType("ClusterName", str)
ReplicaId = NewType("ReplicaId", str)
Revision = NewType("Revision", int)
"""A revision of the swarm's etcd; the same on every replica."""

Epoch = NewType("Epoch", int)
"""The create_revision of a claim: a later owner has a greater one."""

LOCAL = ClusterName("local")
"""The cluster of KUBECONFIG, or of the pod that a replica runs in."""

# RFC 1123; Kubernetes wants the same of a namespace, and a Hardware carries the machine's name.
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
# As the API server makes them (RFC 4122): 36 characters, lower case.
_UID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
# https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#syntax-and-character-set
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
_LABEL_NAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_LABEL_PREFIX = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
_TAG = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.:/ ]{0,61}[A-Za-z0-9])?")


class Value(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """What Dragonfly itself writes: an unknown field is a newer replica's, and is passed over."""


class Input(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True, forbid_unknown_fields=True):
    """What people write: an unknown field is a mistake, and is told."""


class FieldError(Value, frozen=True):
    """One thing wrong with what a person sent."""

    field: str
    """Path of the field in the document, such as `spec.interfaces[0].mac`."""
    message: str
    """What is wrong and what is allowed, in a sentence."""
    value: Any = None


class Invalid(Exception):
    """A document breaks rules that its types cannot express. Nothing was changed."""

    def __init__(self, errors: Iterable[FieldError]) -> None:
        self.errors = tuple(errors)
        super().__init__("; ".join(f"{error.field}: {error.message}" for error in self.errors))


class Metadata(Value, frozen=True, kw_only=True):
    """What every resource has beside its spec. The revision is not stored: it is the key's own."""

    name: str
    labels: dict[str, str] = {}
    tags: tuple[str, ...] = ()
    created_at: datetime
    updated_at: datetime


class MetadataInput(Input, frozen=True, kw_only=True):
    """The part of the metadata that people set. What only Dragonfly sets is accepted as read and otherwise ignored."""

    name: str = ""
    labels: dict[str, str] = {}
    tags: tuple[str, ...] = ()
    revision: int | None = None
    created_at: datetime | None = None
    updated_at: datetime | None = None


def is_dns_label(text: str) -> bool:
    return _LABEL.fullmatch(text) is not None


def is_uid(text: str) -> bool:
    """Whether `text` is a uid in the form in which Kubernetes gives them."""
    return _UID.fullmatch(text) is not None


def is_mac(text: str) -> bool:
    """Whether `text` is a MAC address in the one form that is stored: lower case, six pairs, colons."""
    return _MAC.fullmatch(text) is not None


def canonical_mac(text: str) -> str:
    """Bring the usual spellings (`AA-BB-…`, `aabb.ccdd.eeff`) into the stored form; anything else passes unchanged."""
    digits = re.sub(r"[-:.]", "", text.strip()).lower()
    if len(digits) != 12 or not re.fullmatch(r"[0-9a-f]+", digits):
        return text
    return ":".join(digits[i : i + 2] for i in range(0, 12, 2))


def name_errors(name: str, field: str = "metadata.name") -> list[FieldError]:
    if is_dns_label(name):
        return []
    return [
        FieldError(field, "must be a DNS label: 1 to 63 of a-z, 0-9 and -, beginning and ending with a-z or 0-9", name)
    ]


def metadata_errors(labels: dict[str, str], tags: Iterable[str]) -> list[FieldError]:
    errors = []
    for key, value in labels.items():
        if not _is_label_key(key):
            errors.append(
                FieldError(f"metadata.labels[{key}]", "is no label key: [prefix/]name, as in Kubernetes", key)
            )
        if _LABEL_VALUE.fullmatch(value) is None:
            message = "must be at most 63 of A-Z, a-z, 0-9, -, _ and ., beginning and ending with a letter or digit"
            errors.append(FieldError(f"metadata.labels[{key}]", message, value))
    for index, tag in enumerate(tags):
        if _TAG.fullmatch(tag) is None:
            message = (
                "must be 1 to 63 of letters, digits, blanks and - _ . : /, beginning and ending with a letter or digit"
            )
            errors.append(FieldError(f"metadata.tags[{index}]", message, tag))
    return errors


def _is_label_key(key: str) -> bool:
    prefix, slash, name = key.rpartition("/")
    if slash and _LABEL_PREFIX.fullmatch(prefix) is None:
        return False
    return _LABEL_NAME.fullmatch(name) is not None


def address_error(text: str, field: str) -> FieldError | None:
    """Tell what is wrong with `text` as an IP address, or None."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return FieldError(field, "must be an IPv4 or IPv6 address", text)
    return None


def utc(timestamp: float) -> datetime:
    """Return seconds since the epoch as a time with whole milliseconds: what JSON shows is what is stored."""
    return datetime.fromtimestamp(round(timestamp, 3), tz=UTC)
