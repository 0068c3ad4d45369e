"""Looks at what `detection` decides from: this computer, the cluster, etcd; each look with a deadline of its own."""

import asyncio
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from dragonfly.install import k3s
from dragonfly.install.detection import (
    NEEDED,
    TINK_SYSTEM,
    TINKERBELL,
    ClusterFacts,
    Detection,
    EtcdFound,
    Facts,
    Namespace,
    Trouble,
    detect,
)
from dragonfly.install.journal import Journal
from dragonfly.install.search import Found, Route, in_words, problem_of, search
from dragonfly.kube import resources
from dragonfly.kube.channel import Limits
from dragonfly.kube.connection import Connection
from dragonfly.kube.contexts import chosen, merged, without_credentials
from dragonfly.kube.credentials import InCluster, Kubeconfig, Source
from dragonfly.kube.errors import ABSENT, PLUGIN, UNTRUSTED, Forbidden, Invalid, KubeError, NotFound
from dragonfly.kube.resources import HARDWARE, Ref
from dragonfly.settings import Settings

DIRECTORY: Final = Path("/var/lib/dragonfly")
"""What an installation on this computer leaves."""
JOURNAL: Final = "install"
"""The directory in it that has the journal."""
KUBECONFIG: Final = Path(k3s.KUBECONFIG)
"""Of the cluster that is installed here."""

_SERVICE_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")
_LIMITS: Final = Limits(qps=50, burst=50, in_flight=8, deadline=9.0, attempts=1)
"""The deadline leaves an exec plugin its time."""
_FRESH: Final = 10.0
"""Seconds for which a survey is good enough for the next who asks."""


class Surveyed(NamedTuple):
    detection: Detection
    route: Route | None = None
    """To etcd, if no setting says one and it answers there."""


class Taken(NamedTuple):
    """The way to etcd that a replica has found, and goes."""

    route: Route
    found: EtcdFound


async def survey(
    settings: Settings, env: Mapping[str, str], *, directory: Path = DIRECTORY, taken: Taken | None = None
) -> Surveyed:
    """Look, and tell what was found; raises nothing for what is not there or does not answer.

    Args:
        settings: as they were given.
        env: of this process.
        directory: what an installation on this computer leaves.
        taken: the way to etcd that is gone already; no other is looked for then.
    """
    facts = _here(settings, directory, env)
    if taken is not None:
        problem = await asyncio.to_thread(problem_of, *taken.route)
        facts = facts._replace(taken=taken.found, endpoints_problem=problem)
    elif settings.etcd_endpoints:
        facts = facts._replace(endpoints_problem=await asyncio.to_thread(problem_of, settings))
    source = source_of(settings, env)
    if source is None:
        return Surveyed(detect(facts))
    cluster, etcd = await _cluster(source, settings, wants_etcd=taken is None and not settings.etcd_endpoints)
    if etcd is None:
        return Surveyed(detect(facts._replace(cluster=cluster)))
    return Surveyed(detect(facts._replace(cluster=cluster, secret=etcd.secret, relay=etcd.relay)), etcd.route)


def source_of(settings: Settings, env: Mapping[str, str]) -> Source | None:
    """Return the way to the cluster; None if there is no kubeconfig and this is no pod."""
    if settings.kubeconfig:
        return Kubeconfig.from_variable(settings.kubeconfig, settings.context)
    return InCluster() if env.get("KUBERNETES_SERVICE_HOST") and _SERVICE_ACCOUNT.exists() else None


def with_own_cluster(
    settings: Settings, env: Mapping[str, str], *, directory: Path = DIRECTORY, kubeconfig: Path = KUBECONFIG
) -> Settings:
    """Return the settings with the kubeconfig of what is installed here, where none is said and it can be read."""
    is_local = not settings.installed and directory.is_dir()
    if is_local and source_of(settings, env) is None and os.access(kubeconfig, os.R_OK):
        return msgspec.structs.replace(settings, kubeconfig=str(kubeconfig))
    return settings


def _here(settings: Settings, directory: Path, env: Mapping[str, str]) -> Facts:
    usual = Path(env["HOME"], ".kube", "config") if env.get("HOME") else None
    return Facts(
        installed=settings.installed,
        directory=str(directory),
        has_directory=directory.is_dir(),
        namespace=settings.namespace,
        endpoints=settings.etcd_endpoints,
        installation=Journal(directory / JOURNAL).stage() if directory.is_dir() else None,
        own_kubeconfig=str(KUBECONFIG),
        usual=str(usual) if usual is not None and usual.is_file() else "",
    )


class Surveyor:
    """A survey for whoever asks a replica, at most one in `_FRESH` seconds."""

    def __init__(self, settings: Settings, taken: Taken | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._taken = taken
        self._clock = clock
        self._lock = asyncio.Lock()
        self._last: Detection | None = None
        self._until = 0.0

    async def detection(self) -> Detection:
        async with self._lock:
            if self._last is None or self._clock() >= self._until:
                self._last = (await survey(self._settings, os.environ, taken=self._taken)).detection
                self._until = self._clock() + _FRESH
            return self._last


async def _cluster(source: Source, settings: Settings, *, wants_etcd: bool) -> tuple[ClusterFacts, Found | None]:
    try:
        facts = _named(source)
    except Invalid as error:
        place = f"kubeconfig {settings.kubeconfig}"
        return ClusterFacts(place, settings.context, error=error.message, trouble=_trouble(error)), None
    async with Connection(source, _LIMITS) as kube:
        try:
            facts = facts._replace(version=await kube.version())
            facts = await _looked_at(kube, facts, settings.namespace)
            if not wants_etcd:
                return facts, None
            return facts, await search(kube, source, facts.namespace or settings.namespace, settings)
        except KubeError as error:
            return facts._replace(error=_told(source, error), trouble=_trouble(error)), None


def _told(source: Source, error: KubeError) -> str:
    if error.status == 401 and error.reason != PLUGIN and isinstance(source, Kubeconfig):
        nobody = without_credentials(chosen(merged(source.paths), source.context).user)
        if nobody is not None:
            return nobody.message
    return in_words(error)


def _trouble(error: KubeError) -> Trouble:
    if isinstance(error, Invalid):
        return "absent" if error.reason == ABSENT else "broken"
    if isinstance(error, Forbidden):
        return "plugin" if error.reason == PLUGIN else "refused"
    return "untrusted" if error.reason == UNTRUSTED else "unreachable"


def _named(source: Source) -> ClusterFacts:
    """Return what can be told without asking the cluster."""
    if not isinstance(source, Kubeconfig):
        return ClusterFacts("the pod's service account")
    found = chosen(merged(source.paths), source.context)
    place = f"kubeconfig {':'.join(map(str, source.paths))}"
    return ClusterFacts(place, found.context, found.cluster.body["server"].rstrip("/"))


async def _looked_at(kube: Connection, facts: ClusterFacts, wanted: str) -> ClusterFacts:
    groups = await asyncio.gather(*map(kube.types, NEEDED))
    missing = [
        f"{plural}.{group.partition('/')[0]}"
        for (group, needed), known in zip(NEEDED.items(), groups, strict=True)
        for plural in needed
        if plural not in known
    ]
    names = dict.fromkeys((wanted, TINK_SYSTEM, TINKERBELL))
    namespaces = await asyncio.gather(*(_namespace(kube, name) for name in names))
    found = facts._replace(missing=tuple(missing), namespaces=tuple(namespaces))
    return found._replace(tinkerbell=await _tinkerbell(kube, found.namespace) if found.namespace else "")


async def _namespace(kube: Connection, name: str) -> Namespace:
    try:
        await kube.get(Ref(resources.NAMESPACE, "", name))
    except NotFound:
        return Namespace(name, present=False)
    except Forbidden:
        # Dragonfly's own rights end at the namespace; who was given some in it need not doubt that it is there.
        return Namespace(name, present=True if await kube.can("list", HARDWARE, name) else None)
    return Namespace(name, present=True)


async def _tinkerbell(kube: Connection, namespace: str) -> str:
    """Return the tag of Tinkerbell's image; empty where nobody may look, or nobody can tell."""
    try:
        deployments = await kube.list(resources.DEPLOYMENT, namespace)
    except Forbidden:
        return ""
    return next((tag for deployment in deployments.items if (tag := _tag(deployment))), "")


def _tag(deployment: Mapping[str, Any]) -> str:
    for container in deployment["spec"]["template"]["spec"]["containers"]:
        repository, _, tag = container.get("image", "").partition("@")[0].rpartition(":")
        if repository.endswith(("/tinkerbell", "/tink-controller")):
            return str(tag)
    return ""
