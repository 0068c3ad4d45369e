"""Asks the server that a host is to join for what it tells anybody, before the host has any part in its cluster.

k3s knows the cluster by its authority, of which a whole token has the hash. So that authority is taken from whoever
answers and compared with the hash; what is believed after that comes from a server with a certificate of its.
"""

import hashlib
import http.client
import ssl
import time
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from dragonfly.install import k3s
from dragonfly.install.etcd_mode import noticed
from dragonfly.install.options import API_PORT, JoinedMode, Options

_ANSWER_SECONDS: Final = 5
_MOST: Final = 1 << 20


class Told(NamedTuple):
    """What a server tells."""

    problem: str
    """Why it cannot be joined; empty if it can."""
    skew: float = 0.0
    """Seconds that this clock is ahead of its."""
    etcd: JoinedMode = ""
    """Whose etcd the swarm of its cluster uses; empty if it does not tell, as an older Dragonfly's."""


class _Answer(NamedTuple):
    status: int
    body: bytes
    date: str


def asked(options: Options) -> Told:
    """Return what the server tells that these options name to join."""
    url = k3s.server_url(options.join)
    try:
        answer = _get(url, "/cacerts", _anybody())
    except (OSError, http.client.HTTPException) as error:
        return Told(f"does not answer: {error}")
    skew = time.time() - parsedate_to_datetime(answer.date).timestamp() if answer.date else 0.0
    problem = token_problem(_token(options.token_file), answer.body)
    return Told(problem, skew, "" if problem else _etcd(url, answer.body))


def token_problem(token: str, authority: bytes) -> str:
    """Return why a token is none of the cluster with this authority; empty if it is. Pure.

    A whole token is `K10<SHA-256 of the authority>::<user>:<password>`; one without that says nothing of the cluster.
    """
    if not token.startswith("K10"):
        return ""
    digest = token.removeprefix("K10").partition("::")[0]
    if digest == hashlib.sha256(authority).hexdigest():
        return ""
    return "the token is another cluster's"


def _etcd(url: str, authority: bytes) -> JoinedMode:
    try:
        answer = _get(url, k3s.NOTICE_PATH, _of_the_cluster(authority))
    except (OSError, http.client.HTTPException, ValueError):
        return ""
    return noticed(answer.body) if answer.status == http.client.OK else ""


def _anybody() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _of_the_cluster(authority: bytes) -> ssl.SSLContext:
    """Raises OSError or ValueError if it is no authority."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False  # any server of the cluster will do, by whichever name
    context.load_verify_locations(cadata=authority.decode("ascii"))
    return context


def _get(url: str, path: str, context: ssl.SSLContext) -> _Answer:
    parts = urlsplit(url)
    connection = http.client.HTTPSConnection(
        parts.hostname or "", parts.port or API_PORT, timeout=_ANSWER_SECONDS, context=context
    )
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return _Answer(answer.status, answer.read(_MOST), answer.getheader("Date", ""))
    finally:
        connection.close()


def _token(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""
