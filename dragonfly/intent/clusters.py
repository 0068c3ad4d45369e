"""Clusters: register, replace, patch, remove. Kubeconfigs are checked and sealed on their way in.

Removal takes two transactions, for no condition can say "no machine refers to it": after `close` no machine can come
in, since each that does is written on the condition that the cluster is as it was; whoever then looks at a mirror that
has seen that sees every machine there is, and may `remove`.
"""

from collections.abc import Iterable, Iterator
from typing import Any, Final, NamedTuple

import msgspec

from dragonfly.intent.documents import as_input, merged
from dragonfly.intent.facts import Facts
from dragonfly.intent.places import hold
from dragonfly.intent.plan import Plan
from dragonfly.intent.refusals import AlreadyExists, ClusterInUse, OwnCluster
from dragonfly.intent.resource import check_same_name, document_of, given_name, is_same, matching, no_key
from dragonfly.intent.terms import Match, Terms
from dragonfly.kube.kubeconfig import FIELD, Handed, handed
from dragonfly.model.cluster import (
    IN_CLUSTER,
    NAMESPACE,
    SHARDS,
    Cluster,
    ClusterInput,
    ClusterSpec,
    ClusterSpecInput,
    validated,
)
from dragonfly.model.machine import metadata_of
from dragonfly.model.values import LOCAL, FieldError, Invalid, is_uid
from dragonfly.store import keys, records
from dragonfly.store.values import Absent, Delete, Put, Unchanged

_KIND: Final = "Cluster"


class Named(NamedTuple):
    """A cluster and its name, which its record does not have."""

    name: str
    cluster: Cluster


def kubeconfig_place(cluster: str) -> str:
    """What the sealed kubeconfig of a cluster is bound to."""
    return f"{keys.cluster(cluster)}/spec.kubeconfig"


def create(facts: Facts, sent: ClusterInput, terms: Terms, uid: str = "") -> Plan[Named]:
    """Register a cluster.

    Args:
        uid: of Tinkerbell's namespace there; empty if it could not be asked for.

    Raises:
        Invalid: the document breaks rules, or its kubeconfig cannot be taken.
        AlreadyExists: the name is taken.
        ClusterRegistered: another cluster leads there.
    """
    metadata = metadata_of(sent.metadata, given_name(sent.metadata), terms.now)
    name, spec = metadata.name, sent.spec
    key = keys.cluster(name)
    if facts.get(key, Cluster) is not None:
        raise AlreadyExists(_KIND, name)
    if not spec.kubeconfig and not spec.in_cluster:
        raise Invalid(
            [FieldError(FIELD, "is required, or spec.inCluster for the one of the pods that replicas run in")]
        )
    if errors := list(_contradictions(name, spec)):
        raise Invalid(errors)
    new = Cluster(
        metadata=metadata,
        spec=validated(
            ClusterSpec(
                shards=SHARDS if spec.shards is None else spec.shards,
                in_cluster=spec.in_cluster,
                namespace=spec.namespace or NAMESPACE,
                sites=spec.sites,
                qps=spec.qps,
                in_flight=spec.in_flight,
            )
        ),
    )
    cluster = msgspec.structs.replace(_led(name, new, spec, terms), uid=uid or spec.namespace_uid)
    held = hold(facts, name, cluster, None)
    return Plan(Named(name, cluster), (Put(key, records.encode(cluster)), *held.writes), (Absent(key), *held.given))


def replace(  # noqa: PLR0917 - as every decision, and what was learned from the cluster
    facts: Facts, name: str, sent: ClusterInput, match: Match, terms: Terms, uid: str = ""
) -> Plan[Named]:
    """Make the cluster what was sent; without a kubeconfig it keeps the one that it has.

    Args:
        uid: of Tinkerbell's namespace where it is to lead, if that changes and it could be asked for.

    Raises:
        NotFound, Changed, Invalid, ClusterRegistered: as they say.
    """
    return _replace(facts, name, _matching(facts, name, match), sent, terms, uid)


def patch(  # noqa: PLR0917 - as `replace`
    facts: Facts, name: str, change: dict[str, Any], match: Match, terms: Terms, uid: str = ""
) -> Plan[Named]:
    """Apply a JSON Merge Patch (RFC 7396) to the cluster; raises as `replace`."""
    cluster = _matching(facts, name, match)
    document = document_of(cluster.metadata, cluster.spec)
    if _leads_anew(change):
        # A way of its own, with its own context unless one is named.
        document["spec"].pop("context", None)
        document["spec"].pop("inCluster", None)
    return _replace(facts, name, cluster, as_input(merged(document, change), ClusterInput), terms, uid)


def patched_spec(change: dict[str, Any]) -> ClusterSpecInput:
    """Return what a patch says of where a cluster leads, as far as it can be read: `patch` tells what is wrong."""
    spec = change.get("spec")
    said = spec if isinstance(spec, dict) else {}
    kubeconfig, context, namespace = (
        value if isinstance(value := said.get(name), str) else "" for name in ("kubeconfig", "context", "namespace")
    )
    in_cluster = said.get("inCluster") is True
    return ClusterSpecInput(kubeconfig=kubeconfig, in_cluster=in_cluster, context=context, namespace=namespace)


def close(facts: Facts, name: str, match: Match, machines: Iterable[str], terms: Terms) -> Plan[Named]:
    """Let no machine come into the cluster any more; the first half of its removal.

    Args:
        machines: names of those that are known to be in it.

    Raises:
        NotFound, Changed: as they say.
        OwnCluster: it is `local`.
        ClusterInUse: there are machines in it.
    """
    cluster = _matching(facts, name, match)
    if name == LOCAL:
        raise OwnCluster
    check_empty(name, machines)
    if cluster.removing_since is not None:
        return Plan(Named(name, cluster), revision=facts.revision_of(keys.cluster(name)))
    return _written(facts, name, msgspec.structs.replace(cluster, removing_since=terms.now))


def remove(facts: Facts, name: str, revision: int) -> Plan[Named]:
    """Forget the cluster that was closed at `revision`.

    Raises:
        NotFound, Changed: as they say.
    """
    cluster = _matching(facts, name, Match(frozenset({revision})))
    held = hold(facts, name, None, cluster)
    given = (Unchanged(keys.cluster(name), revision), *held.given)
    return Plan(Named(name, cluster), (Delete(keys.cluster(name)), *held.writes), given)


def reopen(facts: Facts, name: str, revision: int) -> Plan[Named]:
    """Take `close` back, if nothing else has happened since."""
    cluster = _matching(facts, name, Match(frozenset({revision})))
    return _written(facts, name, msgspec.structs.replace(cluster, removing_since=None))


def check_empty(name: str, machines: Iterable[str]) -> None:
    """Pass, or raise `ClusterInUse`."""
    if left := sorted(machines):
        raise ClusterInUse(name, left)


def _matching(facts: Facts, name: str, match: Match) -> Cluster:
    return matching(facts, Cluster, keys.cluster(name), name, match)


def _replace(  # noqa: PLR0917 - as `replace`
    facts: Facts, name: str, cluster: Cluster, sent: ClusterInput, terms: Terms, uid: str
) -> Plan[Named]:
    check_same_name(_KIND, sent.metadata, name)
    if errors := list(_fixed(name, cluster, sent.spec)):
        raise Invalid(errors)
    before = cluster.metadata
    metadata = metadata_of(sent.metadata, name, terms.now, before.created_at if before is not None else None)
    spec = validated(
        msgspec.structs.replace(
            cluster.spec,
            namespace=sent.spec.namespace or cluster.spec.namespace,
            sites=sent.spec.sites,
            qps=sent.spec.qps,
            in_flight=sent.spec.in_flight,
        )
    )
    changed = msgspec.structs.replace(cluster, metadata=metadata, spec=spec, removing_since=None)
    if sent.spec.kubeconfig or sent.spec.in_cluster:
        changed = _led(name, changed, sent.spec, terms)
    if uid or _leads_elsewhere(changed, cluster):
        changed = msgspec.structs.replace(changed, uid=uid)
    if sent.spec.namespace_uid:
        changed = msgspec.structs.replace(changed, uid=sent.spec.namespace_uid)
    if is_same(changed, cluster):
        return Plan(Named(name, cluster), revision=facts.revision_of(keys.cluster(name)))
    held, plan = hold(facts, name, changed, cluster), _written(facts, name, changed)
    return plan._replace(writes=(*plan.writes, *held.writes), given=(*plan.given, *held.given))


def _leads_elsewhere(after: Cluster, before: Cluster) -> bool:
    is_other_server = before.server_side not in {"", after.server_side}
    return is_other_server or after.spec.namespace != before.spec.namespace


def _fixed(name: str, cluster: Cluster, sent: ClusterSpecInput) -> Iterator[FieldError]:
    """What cannot be changed, or not in this way."""
    if sent.shards not in {None, cluster.spec.shards}:
        message = (
            f"must stay {cluster.spec.shards}: replicas that count differently would drive the same machine. "
            "Remove the cluster and register it anew"
        )
        yield FieldError("spec.shards", message, sent.shards)
    yield from _contradictions(name, sent)
    if cluster.spec.in_cluster and not sent.in_cluster and not sent.kubeconfig:
        yield FieldError(FIELD, "is required where spec.inCluster is not said any more")
    if name == LOCAL:
        told = {
            "kubeconfig": sent.kubeconfig,
            "inCluster": sent.in_cluster,
            "context": sent.context,
            "namespace": sent.namespace,
        }
        for field in (field for field, value in told.items() if value):
            yield FieldError(f"spec.{field}", "is what each replica was started with: local has none of its own")
    elif not sent.kubeconfig and not sent.in_cluster and sent.context not in {"", cluster.spec.context}:
        yield FieldError("spec.context", "needs spec.kubeconfig with it: only one context of it is kept", sent.context)


def _contradictions(name: str, sent: ClusterSpecInput) -> Iterator[FieldError]:
    """What does not go together."""
    if sent.in_cluster and (sent.kubeconfig or sent.context):
        message = "is for a cluster without a kubeconfig, which replicas reach from their pods. Say one of the two"
        yield FieldError("spec.inCluster", message)
    if sent.namespace_uid and name != LOCAL and not sent.in_cluster:
        message = "is for clusters that replicas find by themselves; where a kubeconfig leads is asked there"
        yield FieldError("spec.namespaceUid", message)
    elif sent.namespace_uid and not is_uid(sent.namespace_uid):
        message = "must be the uid that Kubernetes gave to a namespace, such as 3cc31835-97f2-483b-88d2-272ba65a1ef9"
        yield FieldError("spec.namespaceUid", message, sent.namespace_uid)


def _led(name: str, cluster: Cluster, sent: ClusterSpecInput, terms: Terms) -> Cluster:
    """Lead to the cluster by what was sent: a kubeconfig, or the pods that replicas run in."""
    if not sent.in_cluster:
        return _with_kubeconfig(name, cluster, handed(sent.kubeconfig, terms.now, sent.context), terms)
    spec = msgspec.structs.replace(cluster.spec, in_cluster=True, context="")
    return msgspec.structs.replace(cluster, spec=spec, server="", server_side=IN_CLUSTER, sealed_kubeconfig="", mark="")


def _with_kubeconfig(name: str, cluster: Cluster, given: Handed, terms: Terms) -> Cluster:
    """The same kubeconfig again changes nothing, so that it can be applied over and over."""
    if terms.sealer is None:
        raise Invalid([no_key(FIELD)])
    spec = msgspec.structs.replace(cluster.spec, in_cluster=False, context=given.context)
    mark = terms.sealer.fingerprint(given.text.encode()).hex()
    placed = msgspec.structs.replace(cluster, spec=spec, server=given.server, server_side=given.server_side)
    if mark == cluster.mark:
        return placed
    sealed = terms.sealer.seal(kubeconfig_place(name), given.text)
    return msgspec.structs.replace(placed, sealed_kubeconfig=sealed, mark=mark)


def _written(facts: Facts, name: str, cluster: Cluster) -> Plan[Named]:
    key = keys.cluster(name)
    return Plan(Named(name, cluster), (Put(key, records.encode(cluster)),), (Unchanged(key, facts.revision_of(key)),))


def _leads_anew(change: dict[str, Any]) -> bool:
    spec = change.get("spec")
    return isinstance(spec, dict) and bool(spec.get("kubeconfig") or spec.get("inCluster"))
