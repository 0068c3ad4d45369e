"""Where a cluster is and who we are there: a kubeconfig, or the service account of the pod.

`kubernetes.aio.config` reads the service account; what a kubeconfig says is carried out here, because the library, as
of 37.0, lets the last of several files choose the context, leaves newlines in tokens, writes client keys to temporary
files, where a `kill -9` would leave them, and takes an exec plugin that fails for nobody.

Files are read again every minute: tokens rotate, certificates are renewed.
"""

import asyncio
import base64
import math
import os
import ssl
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
from kubernetes.aio.client.configuration import Configuration
from kubernetes.aio.client.rest import RESTClientObject
from kubernetes.aio.config import ConfigException, load_incluster_config

from dragonfly.kube import client_certificate, contexts, plugin, proxy
from dragonfly.kube.contexts import Chosen, Entry
from dragonfly.kube.errors import Invalid

REREAD: Final = 60.0
"""Seconds after which files are read again."""

_EXPIRY_MARGIN: Final = 30.0


class Kubeconfig(NamedTuple):
    """Kubeconfig files as in the variable KUBECONFIG: the first that names something wins, missing ones are skipped."""

    paths: tuple[Path, ...]
    context: str = ""

    @classmethod
    def from_variable(cls, value: str, context: str = "") -> "Kubeconfig":
        """`value` as in KUBECONFIG: paths separated by colons."""
        return cls(tuple(Path(part).expanduser() for part in value.split(os.pathsep) if part), context)


class InCluster(NamedTuple):
    """The service account that Kubernetes gives to a pod."""


class Inline(NamedTuple):
    """A kubeconfig with everything in it, as `kubeconfig.handed` returns it."""

    text: str

    def __repr__(self) -> str:
        return "Inline(…)"


Source = Kubeconfig | InCluster | Inline


class Login(msgspec.Struct, frozen=True):
    """One reading of a source.

    Attributes:
        server: base URL without a trailing slash.
        authorization: value of the header of that name, or empty.
        identity: tells whether the TLS side (server, authorities, client certificate) is the same as before.
        server_side: tells whether it leads where it led before: server, authorities, and the way there.
        proxy: the URL of the one on the way, of the kubeconfig or of the environment; empty if there is none.
        valid_for: seconds until it should be read again.
    """

    server: str
    authorization: str
    tls: ssl.SSLContext
    identity: int
    server_side: int
    server_hostname: str
    proxy: str
    valid_for: float


async def log_in(source: Source, now: datetime) -> Login:
    """Read `source`, running its exec plugin if it has one.

    Raises:
        Invalid: the files don't make sense, or the proxy in the environment does not; says which file and which field,
            or which variable, and what is allowed.
        Forbidden: the exec plugin gave no credentials.
    """
    if not isinstance(source, InCluster):
        return await _from_kubeconfig(source, now)
    try:
        return _in_cluster()
    except (ConfigException, OSError, ssl.SSLError) as error:
        raise Invalid(f"the pod's service account: {error}", reason="ServiceAccount") from error


def _chosen(source: Kubeconfig | Inline) -> Chosen:
    if isinstance(source, Inline):
        return contexts.chosen(msgspec.json.decode(source.text, type=dict[str, Any]))
    return contexts.chosen(contexts.merged(source.paths), source.context)


async def _from_kubeconfig(source: Kubeconfig | Inline, now: datetime) -> Login:
    _, cluster, user = await asyncio.to_thread(_chosen, source)
    authority = contexts.contents(cluster, "certificate-authority")
    certificate, key = (contexts.contents(user, field) for field in ("client-certificate", "client-key"))
    authorization, valid_for = _own_authorization(user), REREAD
    if user.body.get("exec"):
        granted = await plugin.run(user, cluster)
        authorization = f"Bearer {granted.token.strip()}" if granted.token else ""
        certificate = granted.client_certificate_data.encode() or certificate
        key = granted.client_key_data.encode() or key
        valid_for = _valid_for(granted.expiration_timestamp, now)
    server = cluster.body["server"].rstrip("/")
    server_side = hash((server, authority, *(cluster.body.get(field) for field in _ROUTE)))
    return Login(
        server=server,
        authorization=authorization,
        tls=_tls(cluster, user, authority, certificate, key, now),
        identity=hash((server_side, certificate, key)),
        server_side=server_side,
        server_hostname=cluster.body.get("tls-server-name", ""),
        proxy=cluster.body.get("proxy-url") or proxy.from_environment(server, os.environ),
        valid_for=valid_for,
    )


_ROUTE: Final = ("tls-server-name", "proxy-url")


def _own_authorization(user: Entry) -> str:
    """As kubectl: a file wins over a token beside it, both over a password."""
    if user.body.get("tokenFile"):
        token = contexts.file_of(user, "tokenFile").strip()
        if not token.isascii() or len(token.split()) != 1:
            raise user.wrong("tokenFile", f"{user.body['tokenFile']} must hold one word of printable ASCII")
        return f"Bearer {token.decode()}"
    if token := user.body.get("token", "").strip():
        return f"Bearer {token}"
    if user.body.get("username"):
        words = f"{user.body['username']}:{user.body.get('password', '')}"
        return f"Basic {base64.b64encode(words.encode()).decode()}"
    return ""


def _tls(  # noqa: PLR0917 - what one context says of TLS
    cluster: Entry, user: Entry, authority: bytes, certificate: bytes, key: bytes, now: datetime
) -> ssl.SSLContext:
    try:
        tls = ssl.create_default_context(cadata=authority.decode() if authority else None)
    except (ssl.SSLError, ValueError) as error:
        raise cluster.wrong("certificate-authority", f"holds no certificate: {error}") from error
    if certificate:
        client_certificate.present(tls, user, certificate, key, now)
    return tls


def _in_cluster() -> Login:
    configuration = Configuration()
    load_incluster_config(  # type: ignore[no-untyped-call] # the library's config has no types
        client_configuration=configuration, try_refresh_token=False
    )
    server = configuration.host.rstrip("/")
    server_side = hash((configuration.host, _contents(configuration.ssl_ca_cert)))
    return Login(
        server=server,
        authorization=configuration.api_key["BearerToken"].strip(),
        tls=RESTClientObject(configuration).ssl_context,
        identity=server_side,
        server_side=server_side,
        server_hostname="",
        proxy=proxy.from_environment(server, os.environ),
        valid_for=REREAD,
    )


def _contents(path: str | None) -> bytes:
    return Path(path).read_bytes() if path else b""


def _valid_for(expiry: datetime | None, now: datetime) -> float:
    """Return for how many seconds what an exec plugin gave is good."""
    if expiry is None:
        return math.inf
    return max(1.0, (expiry.astimezone(UTC) - now).total_seconds() - _EXPIRY_MARGIN)
