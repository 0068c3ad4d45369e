"""`dragonfly cluster`: put a Kubernetes cluster under the swarm's care, check it, and take it out again."""

import os
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from dragonfly.cli import documents
from dragonfly.cli.asking import ask, is_somebody_there
from dragonfly.cli.errors import CliError, Exit
from dragonfly.cli.kinds import CLUSTERS, Document, at, text_at
from dragonfly.cli.names import NameType
from dragonfly.cli.session import Session, connected


class _Uid(click.ParamType[str]):
    """What Kubernetes tells one object from another by: metadata.uid."""

    name = "uid"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        from dragonfly.model.values import is_uid

        text = str(value).strip().lower()
        if not is_uid(text):
            self.fail(
                f"{value!r} is no uid such as 3cc31835-97f2-483b-88d2-272ba65a1ef9; kubectl get namespace tinkerbell "
                "-o jsonpath={.metadata.uid} tells it",
                param,
                ctx,
            )
        return text


@click.group
def cluster() -> None:
    """Register a Kubernetes cluster with the swarm (add), see what it lacks (check), or take it out (remove).

    locate says which one the cluster `local` is, after it was built anew.
    """


@cluster.command
@click.argument("name")
@click.option("--context", metavar="NAME", default="", help="Which context; the current one without it.")
@click.option(
    "--kubeconfig",
    metavar="FILE",
    help="Where it is described; KUBECONFIG or ~/.kube/config without it.",
)
@click.option("--in-cluster", is_flag=True, help="No kubeconfig: the cluster of the pods that replicas run in.")
@click.option("--namespace", metavar="NAME", default="", help="Tinkerbell's namespace there; tinkerbell without it.")
@click.option("--shards", metavar="N", type=click.IntRange(1, 256), help="Slices of its machines; 8 without it.")
@click.option("--site", "sites", metavar="SITE", multiple=True, help="Replicas there come first; may be repeated.")
@click.option("--qps", metavar="N", type=click.IntRange(1, 10_000), help="Calls a second of each replica at most.")
@click.option(
    "--in-flight", metavar="N", type=click.IntRange(1, 1_000), help="Calls of each replica under way at once at most."
)
@connected
def add(  # noqa: PLR0917 - click passes what the user said
    session: Session,
    name: str,
    context: str,
    kubeconfig: str | None,
    in_cluster: bool,
    namespace: str,
    shards: int | None,
    sites: tuple[str, ...],
    qps: int | None,
    in_flight: int | None,
) -> int:
    """Register the cluster of a kubeconfig as NAME, or give the one of that name new credentials.

    One context is sent, with its certificates and token inline; the swarm keeps it encrypted. Give it a service account
    of its own there, with deploy/k3s/base/rbac.yaml. Exec plugins (of cloud providers, of OIDC) cannot be registered,
    since every replica would run them: take a token (kubectl create token) or a client certificate.
    """
    if in_cluster and (context or kubeconfig):
        raise click.UsageError("--in-cluster needs no kubeconfig: leave --kubeconfig and --context out")
    spec: dict[str, Any] = {"inCluster": True} if in_cluster else {"kubeconfig": _kubeconfig(kubeconfig, context)}
    wanted = {"namespace": namespace, "shards": shards, "sites": list(sites), "qps": qps, "inFlight": in_flight}
    spec |= {field: value for field, value in wanted.items() if value}
    present = _present(session, name)
    if present is None:
        session.client.post("clusters", body={"metadata": {"name": name}, "spec": spec})
        session.write(f"cluster {name}: added")
        return Exit.OK
    ways = {"context", "inCluster"}
    kept = {field: value for field, value in (at(present, "spec") or {}).items() if field not in ways}
    body = {"metadata": at(present, "metadata"), "spec": kept | spec}
    session.client.put("clusters", name, body=body, revision=at(present, "metadata.revision"))
    session.write(f"cluster {name}: changed")
    return Exit.OK


@cluster.command
@click.argument("name", type=NameType(CLUSTERS))
@click.option("-o", "--output", type=documents.OUTPUT, default="table")
@connected
def check(session: Session, name: str, output: str) -> int:
    """Ask the cluster NAME which types of Tinkerbell's and which rights it lacks; exit code 1 if it lacks some."""
    found = session.client.post("clusters", name, "check").document
    if output != "table":
        session.write(documents.written(found, output))
        return Exit.OK if found["ok"] and not found["error"] else Exit.FAILED
    return _tell_checkup(session, name, found)


def _tell_checkup(session: Session, name: str, found: Document) -> int:
    asked = f"replica {found['replica']} asked"
    if found["error"]:
        session.write(f"cluster {name}: cannot be asked ({asked}): {found['error']}")
        for replica, address in sorted((found.get("reachedBy") or {}).items()):
            session.write(f"cluster {name}: replica {replica} reaches it: ask it with --server http://{address}")
        return Exit.FAILED
    for missing in found["missingTypes"]:
        session.write(f"cluster {name}: has no {missing}: install Tinkerbell, or its CRDs")
    for resource, missing in _by_resource(found["missingRights"]).items():
        session.write(f"cluster {name}: may not {', '.join(missing)} {resource}: grant it (deploy/k3s/base/rbac.yaml)")
    optional = found.get("missingOptional") or []  # a replica of a former version does not tell
    without = {right["resource"]: right["without"] for right in optional}
    for resource, missing in _by_resource(optional).items():
        session.write(f"cluster {name}: optional: {', '.join(missing)} {resource}: without it {without[resource]}")
    if not found["ok"]:
        return Exit.FAILED
    versions = f"Kubernetes {found['version']}"
    if tinkerbell := found.get("tinkerbell"):
        versions += f", Tinkerbell {tinkerbell}"
    place = f" in namespace {found['namespace']}" if found.get("namespace") else ""
    session.write(f"cluster {name}: has all that Dragonfly needs{place} ({asked}, {versions})")
    return Exit.OK


def _by_resource(rights: Iterable[Document]) -> dict[str, list[str]]:
    verbs: dict[str, list[str]] = {}
    for right in rights:
        verbs.setdefault(right["resource"], []).append(right["verb"])
    return verbs


@cluster.command
@click.argument("name", type=NameType(CLUSTERS))
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@connected
def remove(session: Session, name: str, yes: bool) -> int:
    """Take the cluster NAME out of the swarm. It must have no machines; what is in it stays as it is."""
    if not yes and not is_somebody_there():
        raise click.UsageError(f"nobody is there to be asked whether to remove cluster {name}: say --yes")
    present = session.client.get("clusters", name).document
    if not yes:
        ask(f"Remove cluster {name} ({text_at(present, 'status.server')})?")
    session.client.delete("clusters", name, revision=at(present, "metadata.revision"))
    session.write(f"cluster {name}: removed")
    return Exit.OK


@cluster.command
@click.argument("name", type=NameType(CLUSTERS))
@click.argument("uid", type=_Uid())
@connected
def locate(session: Session, name: str, uid: str) -> int:
    """Say that the cluster NAME (local) is, from now on, the one whose namespace of Tinkerbell has UID.

    For one that was built anew, or whose namespace was. Replicas that were given another do nothing there.
    """
    present = session.client.get("clusters", name).document
    body = {"metadata": at(present, "metadata"), "spec": (at(present, "spec") or {}) | {"namespaceUid": uid}}
    session.client.put("clusters", name, body=body, revision=at(present, "metadata.revision"))
    session.write(f"cluster {name}: is the one whose namespace has the uid {uid}")
    return Exit.OK


def _present(session: Session, name: str) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = session.client.get("clusters", name).document
    except CliError as error:
        if error.exit_code != Exit.NOT_FOUND:
            raise
        return None
    return found


def _kubeconfig(file: str | None, context: str) -> str:
    # The Kubernetes client takes a while to import; no other command waits for it.
    from dragonfly.kube.errors import KubeError
    from dragonfly.kube.kubeconfig import flattened
    from dragonfly.model.values import Invalid

    said = file or os.environ.get("KUBECONFIG") or "~/.kube/config"
    paths = [Path(said).expanduser()] if file else [Path(part).expanduser() for part in said.split(os.pathsep) if part]
    try:
        return flattened(paths, datetime.now(UTC), context)
    except Invalid as error:
        reasons = "; ".join(wrong.message for wrong in error.errors)
        raise CliError(f"the kubeconfig {said} cannot be sent: {reasons}", Exit.USAGE) from error
    except KubeError as error:
        raise CliError(f"the kubeconfig {said} cannot be used: {error}", Exit.USAGE) from error
