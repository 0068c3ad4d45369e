"""In which mode Dragonfly runs here, and where its etcd is. Pure: findings go in, a verdict with its reasons comes out.

The order is fixed: an installer's word, then the directory that an installation leaves, then Tinkerbell in the cluster
that KUBECONFIG or the pod's service account leads to. What comes later is looked at and told all the same.
"""

from typing import Final, Literal, NamedTuple, TypeAlias

import msgspec

from dragonfly.install.stage import Stage, in_words, next_steps
from dragonfly.model.values import Value

Mode: TypeAlias = Literal["pod", "local", "remote", "not-installed"]

Trouble: TypeAlias = Literal["", "absent", "broken", "refused", "plugin", "untrusted", "unreachable"]
"""Why there is no answer: no kubeconfig is there, it makes no sense, its credentials are refused, its exec plugin gives
none, the server's certificate is another's, or nothing of these."""

TINK_SYSTEM = "tink-system"
TINKERBELL = "tinkerbell"

NEEDED = {
    "tinkerbell.org/v1alpha1": ("hardware", "templates", "workflows"),
    "bmc.tinkerbell.org/v1alpha1": ("jobs", "machines", "tasks"),
}
"""The types of Tinkerbell that Dragonfly writes or reads."""

ENDPOINTS = "DRAGONFLY_ETCD_ENDPOINTS"
SECRET = "dragonfly-etcd"  # noqa: S105 - its name, not its content


class Namespace(NamedTuple):
    name: str
    present: bool | None
    """None: these credentials may not know."""


class ClusterFacts(NamedTuple):
    """What a cluster said, or why it said nothing."""

    place: str
    """Where the way there stands: the kubeconfig's files, or the pod's service account."""
    context: str = ""
    server: str = ""
    error: str = ""
    """Why it was not reached; nothing below was found then."""
    trouble: Trouble = ""
    """What kind of error that is."""
    version: str = ""
    missing: tuple[str, ...] = ()
    """Types of Tinkerbell that the cluster does not know, such as `tasks.bmc.tinkerbell.org`."""
    namespaces: tuple[Namespace, ...] = ()
    """In the order of preference."""
    tinkerbell: str = ""
    """Its version; empty where these credentials may not know."""

    @property
    def broken(self) -> bool:
        """The way there makes no sense: trying again would not help."""
        return self.trouble in {"absent", "broken"}

    @property
    def tells_nothing(self) -> bool:
        """Whether these credentials may not know of any namespace whether it is there."""
        return bool(self.namespaces) and all(namespace.present is None for namespace in self.namespaces)

    @property
    def has_types(self) -> bool:
        return not any(name.endswith(("workflows.tinkerbell.org", "hardware.tinkerbell.org")) for name in self.missing)

    @property
    def namespace(self) -> str:
        """Where Tinkerbell is; empty if it is nowhere."""
        for namespace in self.namespaces:
            if namespace.present and (namespace.name == TINK_SYSTEM or self.has_types):
                return namespace.name
        return ""


class SecretFacts(NamedTuple):
    """The Secret that says where etcd is."""

    place: str
    present: bool = False
    endpoints: tuple[str, ...] = ()
    problem: str = ""
    """Why it leads nowhere; empty if its etcd answers."""


class RelayFacts(NamedTuple):
    """The relay behind the Service `dragonfly`, through the API server."""

    place: str
    url: str = ""
    """Empty if it was not tried."""
    problem: str = ""
    """Why it leads nowhere; empty if it passes calls on to etcd."""


class Facts(NamedTuple):
    """All that the verdict is made of."""

    installed: bool
    directory: str
    has_directory: bool
    namespace: str
    """The one that replicas are told to use."""
    cluster: ClusterFacts | None = None
    """None: there is no kubeconfig, and this is no pod."""
    usual: str = ""
    """kubectl's own kubeconfig, which is not taken by itself; empty if it is not there."""
    endpoints: tuple[str, ...] = ()
    """etcd's, as the settings say; they win over the Secret."""
    endpoints_problem: str = ""
    secret: SecretFacts | None = None
    """None: it was not looked for."""
    relay: RelayFacts | None = None
    """The same."""
    taken: "EtcdFound | None" = None
    """What the replica that asks has found when it was started, if it was not its settings."""
    installation: Stage | None = None
    """What its journal in the directory says; None where there is no directory."""
    own_kubeconfig: str = ""
    """Where an installation on this computer keeps the kubeconfig of its cluster."""


class Finding(Value, frozen=True, kw_only=True):
    """One thing that was looked at."""

    looked_at: str
    found: str
    decides: bool = False


class ClusterFound(Value, frozen=True, kw_only=True):
    """The cluster that this place leads to."""

    source: str
    reachable: bool
    reason: str = ""
    broken: bool = False
    """The kubeconfig makes no sense: trying again would not help."""
    context: str = ""
    server: str = ""
    version: str = ""
    namespace: str = ""
    tinkerbell: str = ""
    missing: tuple[str, ...] = ()


class EtcdFound(Value, frozen=True, kw_only=True):
    """Where etcd is. `endpoints` are empty where nothing says so."""

    source: Literal["settings", "secret", "relay", "none"]
    reachable: bool
    place: str = ""
    endpoints: tuple[str, ...] = ()
    reason: str = ""
    why: tuple[Finding, ...] = ()
    """The places that were looked at, in their order; where a replica asks that runs, when it was started."""


class Detection(Value, frozen=True, kw_only=True):
    """The verdict, and why it is none other."""

    mode: Mode
    why: tuple[Finding, ...]
    etcd: EtcdFound
    cluster: ClusterFound | None = None
    advice: tuple[str, ...] = ()
    """What to do, most urgent first; empty if nothing is missing."""


def detect(facts: Facts) -> Detection:
    """Return the mode, and what each place that was looked at said."""
    mode = _mode(facts)
    return Detection(
        mode=mode,
        why=tuple(_findings(facts, mode)),
        etcd=_etcd(facts),
        cluster=_cluster(facts.cluster) if facts.cluster else None,
        advice=tuple(_advice(facts, mode)),
    )


def _mode(facts: Facts) -> Mode:
    if facts.installed:
        return "pod"
    if facts.has_directory:
        return "local"
    if facts.cluster and facts.cluster.namespace:
        return "remote"
    return "not-installed"


def _findings(facts: Facts, mode: Mode) -> list[Finding]:
    return [
        Finding(looked_at="DRAGONFLY_INSTALLED", found="set" if facts.installed else "not set", decides=mode == "pod"),
        Finding(
            looked_at=facts.directory, found="there" if facts.has_directory else "not there", decides=mode == "local"
        ),
        *_installation_findings(facts),
        *_cluster_findings(facts, mode),
    ]


def _installation_findings(facts: Facts) -> list[Finding]:
    if facts.installation is None:
        return []
    return [Finding(looked_at=f"{facts.directory}/install", found=in_words(facts.installation))]


def _cluster_findings(facts: Facts, mode: Mode) -> list[Finding]:
    cluster = facts.cluster
    if cluster is None:
        unused = f"; {facts.usual} is there, and is not taken by itself" if facts.usual else ""
        return [Finding(looked_at="KUBECONFIG", found=f"not set, and this is no pod{unused}")]
    context = f", context {cluster.context}" if cluster.context else ""
    if cluster.error:
        return [Finding(looked_at=cluster.place, found=cluster.error)]
    said = [Finding(looked_at=cluster.place, found=f"reaches Kubernetes {cluster.version}{context}")]
    for namespace in cluster.namespaces:
        decides = mode == "remote" and namespace.name == cluster.namespace
        said.append(Finding(looked_at=f"namespace {namespace.name}", found=_words(namespace), decides=decides))
    types = f"missing: {', '.join(cluster.missing)}" if cluster.missing else "there"
    return [*said, Finding(looked_at="Tinkerbell's types", found=types)]


def _words(namespace: Namespace) -> str:
    if namespace.present is None:
        return "these credentials may not see it, nor list Hardware in it"
    return "there" if namespace.present else "not there"


def _cluster(facts: ClusterFacts) -> ClusterFound:
    return ClusterFound(
        source=facts.place,
        reachable=not facts.error,
        reason=facts.error,
        broken=facts.broken,
        context=facts.context,
        server=facts.server,
        version=facts.version,
        namespace=facts.namespace,
        tinkerbell=facts.tinkerbell,
        missing=facts.missing,
    )


def _etcd(facts: Facts) -> EtcdFound:
    if facts.taken is not None:
        problem = facts.endpoints_problem
        return msgspec.structs.replace(facts.taken, reachable=not problem, reason=problem)
    found = _first_etcd(facts)
    return msgspec.structs.replace(found, why=tuple(_etcd_findings(facts, found)))


def _first_etcd(facts: Facts) -> EtcdFound:
    """Return the first that answers; if none does, the first of which somebody said that it is there."""
    if facts.endpoints:
        return _place(facts.endpoints_problem, "settings", ENDPOINTS, facts.endpoints)
    told: list[EtcdFound] = []
    if facts.secret is not None and facts.secret.present:
        told.append(_place(facts.secret.problem, "secret", facts.secret.place, facts.secret.endpoints))
    if facts.relay is not None and facts.relay.url:
        told.append(_place(facts.relay.problem, "relay", facts.relay.place, (facts.relay.url,)))
    for found in told:
        if found.reachable:
            return found
    looked = [f"{ENDPOINTS} is not set", *(f"{place.place}: {place.problem}" for place in _looked_at(facts))]
    return told[0] if told else EtcdFound(source="none", reachable=False, reason=", and ".join(looked))


def _place(
    problem: str, source: Literal["settings", "secret", "relay"], place: str, endpoints: tuple[str, ...]
) -> EtcdFound:
    return EtcdFound(source=source, reachable=not problem, place=place, endpoints=endpoints, reason=problem)


def _etcd_findings(facts: Facts, found: EtcdFound) -> list[Finding]:
    if facts.endpoints:
        return [Finding(looked_at=ENDPOINTS, found=facts.endpoints_problem or "answers", decides=True)]
    return [
        Finding(looked_at=ENDPOINTS, found="not set"),
        *(
            Finding(
                looked_at=place.place,
                found=place.problem or "answers",
                decides=found.reachable and found.place == place.place,
            )
            for place in _looked_at(facts)
        ),
    ]


def _looked_at(facts: Facts) -> list[SecretFacts | RelayFacts]:
    return [place for place in (facts.secret, facts.relay) if place is not None]


_LOOK: Final = "Look whether the cluster is there and whether it can be reached from here."
_ADVICE: Final[dict[Trouble, str]] = {
    "absent": "Set KUBECONFIG to a file that is there, and leads to the cluster with Tinkerbell.",
    "broken": "Mend the kubeconfig, or the variable that is named; nothing can be told of the cluster before.",
    "refused": "Get new credentials for that cluster.",
    "plugin": "Let the kubeconfig's exec plugin give credentials to whoever runs Dragonfly, or use a token.",
    "untrusted": "Look whether the kubeconfig's server is the one that is meant, and take its CA into it.",
    "unreachable": _LOOK,
    "": _LOOK,
}


def _local_advice(facts: Facts) -> list[str]:
    here = facts.installation
    if here is None or not (here.is_half or _follows_from_journal(facts)):
        return []
    return [said] if (said := next_steps(here)) else []


def _follows_from_journal(facts: Facts) -> bool:
    """Whether the cluster and its etcd are what the installation here makes of them, or will."""
    here, cluster = facts.installation, facts.cluster
    if here is None or facts.endpoints or facts.taken is not None:
        return False
    if cluster is None:
        return here.state != "installed" or here.is_half
    return cluster.place == f"kubeconfig {facts.own_kubeconfig}" and (here.is_half or here.state == "working")


def _advice(facts: Facts, mode: Mode) -> list[str]:
    here, cluster = facts.installation, facts.cluster
    leads_nowhere = cluster is None and not facts.endpoints and facts.taken is None
    advice = _local_advice(facts) if mode == "local" else []
    if mode == "local" and _follows_from_journal(facts):
        return advice
    if leads_nowhere and here is not None and here.state == "installed":
        advice.append(f"The cluster that is installed here: set KUBECONFIG={facts.own_kubeconfig}, as root.")
    elif leads_nowhere:
        perhaps = f" (KUBECONFIG={facts.usual}, if that does)" if facts.usual else ""
        advice.append(f"Set KUBECONFIG to a file that leads to the cluster with Tinkerbell{perhaps}.")
    elif cluster and cluster.error:
        advice.append(_ADVICE[cluster.trouble])
    elif cluster and mode == "not-installed" and cluster.tells_nothing:
        advice.append(
            "These credentials may not see whether Tinkerbell is there: give them Dragonfly's rights in its namespace "
            "(deploy/k3s/base/rbac.yaml), or take others; if it is in another namespace, set DRAGONFLY_NAMESPACE."
        )
    elif cluster and mode == "not-installed":
        advice.append(
            f"Install Tinkerbell in that cluster (namespace {TINK_SYSTEM} or {TINKERBELL}), or choose another with "
            "--context; if it is in another namespace, set DRAGONFLY_NAMESPACE."
        )
    elif cluster and cluster.namespace and cluster.namespace != facts.namespace:
        advice.append(
            f"Tinkerbell is in namespace {cluster.namespace}, and replicas started so would use {facts.namespace}: set "
            f"DRAGONFLY_NAMESPACE={cluster.namespace} on all of them."
        )
    if not _etcd(facts).reachable:
        advice.append(_etcd_advice(facts))
    return advice


def _etcd_advice(facts: Facts) -> str:
    if facts.relay is not None and facts.relay.url:
        return (
            "Mend one of these ways to etcd (docs/modes.md), or set DRAGONFLY_ETCD_ENDPOINTS to addresses of etcd, "
            "or of a relay, that answer here (docs/relay.md)."
        )
    if facts.endpoints or (facts.secret and facts.secret.present):
        return "Set DRAGONFLY_ETCD_ENDPOINTS to addresses of etcd, or of a relay, that answer here (docs/relay.md)."
    return f"Set DRAGONFLY_ETCD_ENDPOINTS, or make the Secret {SECRET} in Tinkerbell's namespace (docs/modes.md)."
