"""The Secret `dragonfly-etcd`: where etcd is and how one gets in, for whoever may read Tinkerbell's Secrets.

Straight to etcd lead `endpoints` (as DRAGONFLY_ETCD_ENDPOINTS), `ca`, `cert` and `key` (PEM), `username` and
`password`; to the relay, `replicaToken` (as the file of DRAGONFLY_REPLICA_TOKEN_FILE) and `service`. For both there are
`prefix`, if not the default, and `secretKey`. What was read is never written to a disk: the parts that want files get
files in memory.
"""

import base64
import binascii
import os
import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from dragonfly.install.service_proxy import ServiceRef
from dragonfly.settings import DEFAULT_PREFIX, SETTINGS, Settings

_PARSE: Final = {setting.field: setting.parse for setting in SETTINGS}
_TO_ETCD: Final = ("endpoints", "ca", "cert", "key", "username", "password")
_KNOWN: Final = (*_TO_ETCD, "prefix", "replicaToken", "service", "secretKey")
_PEM: Final = ("ca", "cert", "key")
_PAIRS: Final = (("cert", "key"), ("key", "cert"), ("username", "password"), ("password", "username"))
_SERVICE: Final = re.compile(r"([a-z0-9-]{1,63})/([a-z0-9-]{1,63}):([a-z0-9-]{1,15})")


class SecretProblem(Exception):
    """The Secret makes no sense; the message names the key and what is allowed, and has no value in it."""


class EtcdAccess(msgspec.Struct, frozen=True, kw_only=True):
    """What the Secret says."""

    endpoints: tuple[str, ...] = ()
    """Empty where only the relay leads to etcd."""
    prefix: str = ""
    ca: bytes = b""
    cert: bytes = b""
    key: bytes = b""
    username: str = ""
    password: bytes = b""
    replica_token: bytes = b""
    service: ServiceRef | None = None
    secret_key: bytes = b""

    def __repr__(self) -> str:
        return f"EtcdAccess({', '.join(self.endpoints)}, {self.service})"


def access(secret: Mapping[str, Any]) -> EtcdAccess:
    """Return what `secret`, a Kubernetes object, says.

    Raises:
        SecretProblem: it has not what is needed.
    """
    data = {key: _decoded(key, value) for key, value in (secret.get("data") or {}).items()}
    if unknown := sorted(data.keys() - set(_KNOWN)):
        raise SecretProblem(f"{unknown[0]}: is no key of this Secret; there are {', '.join(_KNOWN)}")
    for key, other in _PAIRS:
        if data.get(key) and not data.get(other):
            raise SecretProblem(f"{key}: needs {other} too")
    for key in _PEM:
        if data.get(key) and b"-----BEGIN" not in data[key]:
            raise SecretProblem(f"{key}: must be PEM")
    leads_to_etcd = any(data.get(key) for key in _TO_ETCD) or not data.get("replicaToken")
    return EtcdAccess(
        endpoints=_parsed("endpoints", data.get("endpoints", b"")) if leads_to_etcd else (),
        prefix=_parsed("prefix", data["prefix"]) if data.get("prefix") else "",
        ca=data.get("ca", b""),
        cert=data.get("cert", b""),
        key=data.get("key", b""),
        username=_text("username", data.get("username", b"")),
        password=data.get("password", b""),
        replica_token=data.get("replicaToken", b""),
        service=_service(_text("service", data["service"])) if data.get("service") else None,
        secret_key=data.get("secretKey", b""),
    )


def with_access(settings: Settings, found: EtcdAccess) -> Settings:
    """Return the settings of a replica that uses the etcd of the Secret; what was set goes before what it says."""
    return msgspec.structs.replace(
        with_tokens(settings, found),
        etcd_endpoints=found.endpoints,
        etcd_ca_file=in_memory(found.ca),
        etcd_cert_file=in_memory(found.cert),
        etcd_key_file=in_memory(found.key),
        etcd_username=found.username,
        etcd_password_file=in_memory(found.password),
    )


def with_tokens(settings: Settings, found: EtcdAccess) -> Settings:
    """Return the settings of a replica that takes of the Secret what needs no etcd; what was set goes before."""
    prefix = found.prefix if found.prefix and settings.etcd_prefix == DEFAULT_PREFIX else settings.etcd_prefix
    return msgspec.structs.replace(
        settings,
        etcd_prefix=prefix,
        replica_token_file=settings.replica_token_file or in_memory(found.replica_token),
        secret_key_file=settings.secret_key_file or in_memory(found.secret_key),
    )


def _decoded(key: str, value: Any) -> bytes:
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError, TypeError) as error:
        raise SecretProblem(f"{key}: must be base64") from error


def _parsed(key: str, value: bytes) -> Any:
    try:
        return _PARSE[f"etcd_{key}"](_text(key, value).strip())
    except ValueError as error:
        raise SecretProblem(f"{key}: {error}") from error


def _text(key: str, value: bytes) -> str:
    try:
        return value.decode().strip()
    except UnicodeDecodeError as error:
        raise SecretProblem(f"{key}: must be text") from error


def _service(text: str) -> ServiceRef:
    match = _SERVICE.fullmatch(text)
    if match is None:
        raise SecretProblem("service: must be NAMESPACE/NAME:PORT, such as dragonfly/dragonfly:http")
    return ServiceRef(*match.groups())


def in_memory(content: bytes) -> str:
    """Return a path that this process alone can open, as often as it likes, until it ends; empty for nothing."""
    if not content:
        return ""
    descriptor = os.memfd_create("dragonfly-etcd")
    os.write(descriptor, content)
    return f"/dev/fd/{descriptor}"
