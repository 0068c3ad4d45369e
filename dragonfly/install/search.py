"""Where etcd is if no setting says so: where the Secret says, else behind the pods' relay, if these answer here."""

import asyncio
from typing import Final, NamedTuple

from msgspec.structs import replace

from dragonfly.install.detection import SECRET, RelayFacts, SecretFacts
from dragonfly.install.secret import EtcdAccess, SecretProblem, access, with_access, with_tokens
from dragonfly.install.service_proxy import ServiceProxy, ServiceRef
from dragonfly.kube import resources
from dragonfly.kube.connection import Connection
from dragonfly.kube.credentials import Source
from dragonfly.kube.errors import PLUGIN, Forbidden, KubeError, NotFound
from dragonfly.kube.resources import Ref
from dragonfly.settings import Settings
from dragonfly.store import keys
from dragonfly.store.errors import Denied, StoreError
from dragonfly.store.gateway import Gateway
from dragonfly.store.settings import etcd_settings
from dragonfly.store.ways import Way

_SERVICE: Final = "dragonfly"
_PORT: Final = "http"
_PATIENCE: Final = 2.0
"""Seconds for one endpoint."""
_NOTHING_TO_SHOW: Final = "there is no replica token: no replicaToken in the Secret, and no --replica-token-file"


class Route(NamedTuple):
    """A way to etcd on which it answers."""

    settings: Settings
    """With it."""
    way: Way | None = None
    """None: the endpoints in the settings say it all."""


class Found(NamedTuple):
    secret: SecretFacts
    relay: RelayFacts | None = None
    route: Route | None = None


async def search(kube: Connection, source: Source, namespace: str, settings: Settings) -> Found:
    """Look; raises nothing for what is not there or does not answer.

    Args:
        kube: a connection to the cluster.
        source: what that is made of.
        namespace: Tinkerbell's.
        settings: of a replica, without endpoints of etcd.

    Raises:
        KubeError: the cluster does not answer.
    """
    facts, said = await _secret(kube, namespace)
    if said is not None and said.endpoints:
        with_etcd = with_access(settings, said)
        problem = await asyncio.to_thread(problem_of, with_etcd)
        facts = facts._replace(problem=problem)
        if not problem:
            return Found(facts, None, Route(with_etcd))
    if facts.present and said is None:
        return Found(facts)  # who cannot read what it says would join another swarm perhaps
    relay, route = await _relay(source, namespace, settings, said or EtcdAccess())
    return Found(facts, relay, route)


def problem_of(settings: Settings, way: Way | None = None) -> str:
    """Return why no endpoint answers as it should; empty if one does. Blocks for seconds at most."""
    try:
        patience = {"timeout": _PATIENCE, "attempt_timeout": _PATIENCE}
        gateway = Gateway.open(replace(etcd_settings(settings), **patience), way=way)
    except OSError as error:
        return f"its certificates: {error}"
    try:
        told = []
        for endpoint in gateway.endpoints:
            status = gateway.status(endpoint)
            if status.reachable:
                return _denial(gateway) if endpoint.relay else ""
            told.append(status.error)
        return "; ".join(told)
    finally:
        gateway.close()


def _denial(gateway: Gateway) -> str:
    """Return why a relay that answers passes nothing on: it may be of another swarm."""
    try:
        gateway.read(keys.SCHEMA)
    except Denied as error:
        return f"{error} ({gateway.settings.prefix} here)"
    except StoreError:
        return ""  # it may pass; the replica waits for that
    return ""


async def _secret(kube: Connection, namespace: str) -> tuple[SecretFacts, EtcdAccess | None]:
    place = SecretFacts(f"Secret {namespace}/{SECRET}")
    try:
        found = access(await kube.get(Ref(resources.SECRET, namespace, SECRET)))
    except NotFound:
        return place._replace(problem="not there"), None
    except Forbidden as error:
        return place._replace(problem=in_words(error)), None
    except SecretProblem as error:
        return place._replace(present=True, problem=str(error)), None
    problem = "" if found.endpoints else "has no endpoints, only what leads to the relay"
    return place._replace(present=True, endpoints=found.endpoints, problem=problem), found


async def _relay(
    source: Source, namespace: str, settings: Settings, said: EtcdAccess
) -> tuple[RelayFacts, Route | None]:
    service = said.service or ServiceRef(namespace, _SERVICE, _PORT)
    facts = RelayFacts(f"{service} through the API server")
    with_token = with_tokens(settings, said)
    if not with_token.replica_token_file:
        return facts._replace(problem=_NOTHING_TO_SHOW), None
    try:
        way = await ServiceProxy.open(source, service)
    except KubeError as error:
        return facts._replace(problem=in_words(error)), None
    through = replace(with_token, etcd_endpoints=(way.url,))
    problem = await asyncio.to_thread(problem_of, through, way)
    return facts._replace(url=way.url, problem=problem), None if problem else Route(through, way)


def in_words(error: KubeError) -> str:
    """Return what is to be told of it."""
    if error.status == 401 and error.reason != PLUGIN:
        return "the API server does not accept the credentials: they are wrong, or have expired"
    return error.message
