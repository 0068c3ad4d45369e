"""Kubeconfigs that are handed over: to every replica, by somebody who is somewhere else.

One in a file is its owner's own program and files. One that was sent must not make replicas run programs (`exec`) or
read their own files, so what is taken of it is one context, and of that only what is data: the rest is refused, told by
name. `flattened` makes of a kubeconfig in files one that can be sent.
"""

import base64
import binascii
import json
import ssl
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

import yaml

from dragonfly.kube import client_certificate, contexts
from dragonfly.kube.contexts import Entry
from dragonfly.kube.errors import KubeError
from dragonfly.model.values import FieldError, Invalid

FIELD: Final = "spec.kubeconfig"
_MOST_BYTES: Final = 64 * 1024
_DEEPEST: Final = 16
_HTTPS: Final = 443
# The parser in C, where there is one: 64 KiB in Python would hold up everybody.
_LOADER: Final[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_CLUSTER: Final = ("server", "certificate-authority-data", "tls-server-name", "proxy-url")
_USER: Final = ("token", "client-certificate-data", "client-key-data", "username", "password")
_FILES: Final = ("certificate-authority", "client-certificate", "client-key", "tokenFile")
_REFUSED: Final[Mapping[str, str]] = {
    "insecure-skip-tls-verify": "must not be set: anybody in between would get the credentials. "
    "Give certificate-authority-data instead",
    "exec": "is not taken: every replica would run the program. Give a token (kubectl create token) or a client "
    "certificate instead",
    "auth-provider": "is not taken: give a token or a client certificate instead",
    "as": "is not taken: give the credentials of the user that is meant",
}


class Handed(NamedTuple):
    """What is kept of a kubeconfig."""

    text: str
    """A kubeconfig with one context, as JSON."""
    context: str
    server: str
    server_side: str
    """A fingerprint of all that says which API server it is; the same in whatever form it is written, with any user."""

    def __repr__(self) -> str:
        return f"Handed({self.context!r}, {self.server!r})"


def handed(text: str, now: datetime, context: str = "") -> Handed:
    """Return one context of a kubeconfig that was sent; the current one if `context` is empty.

    Raises:
        Invalid: it cannot be read, or has what is not taken from others, or a client certificate that has expired at
            `now`.
    """
    document = _parsed(text)
    name = context or str(document.get("current-context") or "")
    if not name:
        raise _invalid("has no current-context: name one in spec.context", "spec.context")
    place = _named(document, "context", name)
    cluster = _named(document, "cluster", str(place.get("cluster", "")))
    user = _named(document, "user", str(place["user"])) if place.get("user") else {}
    errors = [*_errors("cluster", cluster, _CLUSTER), *_errors("user", user, _USER)]
    errors += [FieldError(FIELD, f"cluster: server {wrong}") for wrong in _server_errors(cluster.get("server"))]
    if errors:
        raise Invalid(errors)
    only = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": name,
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
        "clusters": [{"name": name, "cluster": _taken(cluster, _CLUSTER)}],
        "users": [{"name": name, "user": _taken(user, _USER)}],
    }
    try:
        _check_certificate(contexts.chosen(only).user, now)
    except KubeError as error:
        raise _invalid(f"cannot be used: {error.message}") from error
    return Handed(json.dumps(only, sort_keys=True), name, str(cluster["server"]), _server_side(cluster))


def flattened(paths: Sequence[Path], now: datetime, context: str = "") -> str:
    """Return a kubeconfig of one context with everything inline, out of files as in KUBECONFIG.

    Raises:
        Invalid: it needs what cannot be handed over, or has a client certificate that has expired at `now`.
        KubeError: the files are no kubeconfig, there is no such context, a file that it names cannot be read, or its
            user does not say who it is.
    """
    name, cluster, user = contexts.referred(contexts.merged(paths), context)
    handed_user = _inlined(user)
    if not any(user.body.get(field) for field in _REFUSED) and (error := contexts.without_credentials(user)):
        raise error
    single = {
        "current-context": name,
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
        "clusters": [{"name": name, "cluster": _inlined(cluster)}],
        "users": [{"name": name, "user": handed_user}],
    }
    return handed(json.dumps(single), now, name).text


def server_side_of(text: str) -> str:
    """Return the fingerprint of a kubeconfig that `handed` returned."""
    [cluster] = json.loads(text)["clusters"]
    return _server_side(cluster["cluster"])


def _check_certificate(user: Entry, now: datetime) -> None:
    """As every replica does at its login, where it would only be logged: the former login goes on."""
    if certificate := contexts.contents(user, "client-certificate"):
        key = contexts.contents(user, "client-key")
        client_certificate.present(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), user, certificate, key, now)


def _server_side(cluster: Mapping[str, Any]) -> str:
    url = urlsplit(str(cluster["server"]))
    authority = "".join(str(cluster.get("certificate-authority-data") or "").split())
    said = [url.hostname, url.port or _HTTPS, url.path.rstrip("/"), base64.b64decode(authority).decode().split()]
    said += [cluster.get(name) or "" for name in ("tls-server-name", "proxy-url")]
    return sha256(json.dumps(said).encode()).hexdigest()[:32]


def _parsed(text: str) -> dict[str, Any]:
    if len(text) > _MOST_BYTES:
        raise _invalid(f"must have at most {_MOST_BYTES // 1024} KiB")
    try:
        _check_depth(text)
        document = yaml.load(text, _LOADER)  # noqa: S506 - both are safe
    except (yaml.YAMLError, ValueError):
        # The parser's own message may quote the file.
        raise _invalid("is neither YAML nor JSON") from None
    if not isinstance(document, dict):
        raise _invalid("is no kubeconfig")
    return document


def _check_depth(text: str) -> None:
    """Refuse what is nested deeply: there PyYAML's composer in C overruns the stack and ends the process (6.0.3)."""
    depth = 0
    for event in yaml.parse(text, _LOADER):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _DEEPEST:
            raise _invalid("is nested too deep")


def _named(document: Mapping[str, Any], kind: str, name: str) -> dict[str, Any]:
    entries = document.get(f"{kind}s")
    for entry in entries if isinstance(entries, list) else []:
        if isinstance(entry, dict) and entry.get("name") == name and isinstance(entry.get(kind) or {}, dict):
            return dict(entry.get(kind) or {})
    field = "spec.context" if kind == "context" else FIELD
    raise _invalid(f"names a {kind} {name!r} that the kubeconfig does not have", field)


def _errors(kind: str, values: Mapping[str, Any], known: tuple[str, ...]) -> Iterator[FieldError]:
    for name, message in _REFUSED.items():
        if values.get(name):
            yield FieldError(FIELD, f"{kind}: {name} {message}")
    for name in _FILES:
        if values.get(name):
            yield FieldError(FIELD, f"{kind}: {name} is a file, which replicas do not have: put its content inline")
    for name in known:
        if (wrong := _wrong(name, values.get(name))) is not None:
            yield FieldError(FIELD, f"{kind}: {name} {wrong}")


def _wrong(name: str, value: Any) -> str | None:
    """What is wrong with a value; never the value itself."""
    if value is None:
        return None
    if not isinstance(value, str):
        return "must be a text"
    if not name.endswith("-data"):
        return None
    try:
        pem = base64.b64decode("".join(value.split()), validate=True)
        if name == "certificate-authority-data":
            ssl.create_default_context(cadata=pem.decode())
    except (binascii.Error, UnicodeDecodeError):
        return "must be base64 of PEM"
    except (ssl.SSLError, ValueError):
        return "has no certificates in it"
    return None if b"-----BEGIN " in pem else "must be base64 of PEM"


def _server_errors(server: Any) -> Iterator[str]:
    try:
        url = urlsplit(server) if isinstance(server, str) else None
        usable = url is not None and bool(url.hostname) and url.port != 0
    except ValueError:
        url, usable = None, False
    if url is None or not usable:
        yield "must be a URL such as https://10.0.0.1:6443"
    elif url.scheme != "https":
        yield "must begin with https://: credentials are sent there"
    elif url.username is not None or url.password is not None:
        yield "must have no user and password in it"


def _taken(values: Mapping[str, Any], known: tuple[str, ...]) -> dict[str, str]:
    return {name: values[name] for name in known if values.get(name)}


def _inlined(entry: Entry) -> dict[str, Any]:
    """Put the content of files where their names were."""
    values = {field: value for field, value in entry.body.items() if field not in _FILES}
    for name in ("certificate-authority", "client-certificate", "client-key"):
        if entry.body.get(name) and not values.get(f"{name}-data"):
            values[f"{name}-data"] = base64.b64encode(contexts.file_of(entry, name)).decode()
    if entry.body.get("tokenFile"):
        values["token"] = _token(entry)
    return values


def _token(user: Entry) -> str:
    try:
        return contexts.file_of(user, "tokenFile").decode("ascii").strip()
    except UnicodeDecodeError:
        raise user.wrong("tokenFile", "must hold one word of printable ASCII") from None


def _invalid(message: str, field: str = FIELD) -> Invalid:
    return Invalid([FieldError(field, message)])
