"""`dragonfly swarm` and `status`: who is there, who drives what, and whether all is well."""

from collections import Counter
from collections.abc import Iterable, Sequence
from http import HTTPStatus
from typing import Any

import click
from rich.text import Text

from dragonfly.cli import documents, times
from dragonfly.cli.client import Answer
from dragonfly.cli.connection import NoSwarm
from dragonfly.cli.errors import CliError, Exit
from dragonfly.cli.kinds import MACHINES, PHASE_STYLE, Cell, Document, text_at
from dragonfly.cli.reach import cluster_line, is_well, missing_fence
from dragonfly.cli.remarks import BAD, WARNING, remarks, takes_writes, why
from dragonfly.cli.session import Session, connected, console, opened, told_where
from dragonfly.cli.sites import by_site
from dragonfly.cli.table import print_table

_CLUSTERS = ("CLUSTER", "SITES", "REACHED FROM", "NOT FROM", "DRIVEN")
_PHASES = ("Available", "Provisioning", "Deployed", "Failed", "Discovered", "Deleting")


@click.command
@click.option("-o", "--output", type=documents.OUTPUT, default="table")
@connected
def swarm(session: Session, output: str) -> int:
    """List the replicas and the shards that each of them drives, and from where each cluster is reached.

    Exit code 1 if a shard has no owner, a cluster is reached by nobody, or etcd takes no writes.
    """
    document = session.client.get("swarm").document
    if output != "table":
        session.write(documents.written(document, output))
    else:
        _print_swarm(session, document)
    return Exit.OK if _is_whole(document) else Exit.FAILED


def _is_whole(swarm: Document) -> bool:
    clusters = all(is_well(cluster) for cluster in swarm.get("clusters") or [])
    return not swarm.get("unowned") and clusters and takes_writes(swarm)


def _print_swarm(session: Session, document: Document) -> None:
    claims = document.get("claims") or []
    now = session.now()
    rows = [
        [
            Cell(text_at(member, "id")),
            Cell(text_at(member, "site")),
            Cell(text_at(member, "version")),
            Cell(text_at(member, "address")),
            Cell(times.age(member.get("started"), now)),
            Cell(_heard(member)),
            Cell("observes" if member.get("observes") else _driven(claims, text_at(member, "id"))),
        ]
        for member in document.get("members") or []
    ]
    print_table(("REPLICA", "SITE", "VERSION", "ADDRESS", "AGE", "HEARD", "SHARDS"), rows, session.out)
    if clusters := document.get("clusters"):
        session.out.print()
        print_table(_CLUSTERS, [_reached(cluster, document.get("members") or []) for cluster in clusters], session.out)
        session.out.print()
    for line, style in remarks(document):
        session.out.print(Text(line, style=style), soft_wrap=True)


def _reached(cluster: Document, members: Sequence[Document]) -> list[Cell]:
    """Return a row of `_CLUSTERS`."""
    name = text_at(cluster, "name")
    drivers = [member for member in members if not member.get("observes")]
    told = [
        (text_at(member, "site"), text_at(member, "id"), name in (member.get("clusters") or [])) for member in drivers
    ]
    is_reached = cluster.get("reachable") is not False
    return [
        Cell(name),
        Cell(",".join(cluster.get("sites") or [])),
        Cell(
            by_site((site, replica) for site, replica, reaches in told if reaches) or "nobody",
            "" if is_reached else BAD,
        ),
        Cell(by_site((site, replica) for site, replica, reaches in told if not reaches)),
        Cell(f"{cluster.get('shards', 0) - cluster.get('unowned', 0)}/{cluster.get('shards', 0)}"),
    ]


def _heard(member: Document) -> str:
    """Return how long ago etcd heard of the replica; empty where nobody knows."""
    age = member.get("keepaliveAge")
    return f"{times.short(age)} ago" if isinstance(age, int | float) else ""


def _driven(claims: Sequence[Document], replica: str) -> str:
    """Return `local 0,3,6` for each cluster that the replica drives a part of."""
    clusters: dict[str, list[str]] = {}
    for claim in claims:
        if claim.get("owner") == replica:
            clusters.setdefault(text_at(claim, "cluster"), []).append(text_at(claim, "shard"))
    return "; ".join(f"{cluster} {','.join(shards)}" for cluster, shards in sorted(clusters.items()))


@click.command
@click.option("--local", is_flag=True, help="Ask no swarm: tell what is installed here and what is reached from here.")
@click.option("-o", "--output", type=documents.OUTPUT, default="table")
@told_where
def status(server: str | None, token_file: str | None, local: bool, output: str) -> int:
    """Tell whether the swarm is well: the replica that answers, its checks, shards, clusters, machines.

    Without a swarm, or with --local: the mode that a replica would run in here, and why; its cluster, its etcd.

    Exit code 1 if it is not well: a replica is not ready, a shard has no owner, a cluster is reached by nobody, or etcd
    takes no writes; without a swarm, if no replica could work here.
    """
    if local:
        return _local_status(output)
    try:
        with opened(server, token_file) as session:
            return _status(session) if output == "table" else _status_written(session, output)
    except NoSwarm as error:
        console(stderr=True).print(f"dragonfly: {error.message}, so this is what is found here", soft_wrap=True)
        return _local_status(output)


def _local_status(output: str) -> int:
    from dragonfly.cli.installation import tell_local
    from dragonfly.cli.server import gathered

    return tell_local(gathered(None, {}), console(), output)


def _status_written(session: Session, output: str) -> int:
    """Print what the table is made of: `/readyz`, `mode` and `swarm`, and how many machines there are."""
    readiness = session.client.plain("/readyz")
    behind_balancer = readiness.status == HTTPStatus.NOT_FOUND
    answer = session.client.get("version") if behind_balancer else readiness
    ready = not answer.stale if behind_balancer else readiness.status == HTTPStatus.OK
    swarm, mode = _answered(session, "swarm"), _answered(session, "mode")
    is_well = ready and swarm is not None and _is_whole(swarm)
    document = {
        "kind": "Status",
        "ok": is_well,
        "server": session.client.url,
        "replica": answer.replica,
        "ready": ready,
        "checks": None if behind_balancer else (readiness.document or {}).get("checks"),
        "mode": mode,
        "swarm": swarm,
        "machines": {} if swarm is None else _counted(session),
    }
    session.write(documents.written(document, output))
    return Exit.OK if is_well else Exit.FAILED


def _answered(session: Session, path: str) -> Document | None:
    """Return what the replica says; None, with a remark, if it does not know it or cannot say it now."""
    try:
        document: Document = session.client.get(path).document
    except CliError as error:
        if error.exit_code not in {Exit.NOT_FOUND, Exit.UNREACHABLE}:
            raise
        session.remark(error.message)
        return None
    return document


def _counted(session: Session) -> dict[str, int]:
    """Return how many machines are in each phase in which there are some."""
    found = {
        phase: session.client.get(MACHINES.plural, query={"phase": phase, "limit": 1}).document.get("total", 0)
        for phase in _PHASES
    }
    return {phase: count for phase, count in found.items() if count}


def _status(session: Session) -> int:
    readiness = session.client.plain("/readyz")
    _line(session, "Swarm", session.client.url)
    # The load balancer that Dragonfly ships keeps the checks from its clients.
    ready = _print_currency(session) if readiness.status == HTTPStatus.NOT_FOUND else _print_checks(session, readiness)
    _print_mode(session)
    try:
        whole = _print_state(session)
    except CliError as error:
        if error.exit_code != Exit.UNREACHABLE:
            raise
        session.remark(error.message)
        whole = False
    return Exit.OK if ready and whole else Exit.FAILED


def _print_mode(session: Session) -> None:
    try:
        document = session.client.get("mode").document
    except CliError as error:
        if error.exit_code not in {Exit.NOT_FOUND, Exit.UNREACHABLE}:
            raise
        # A replica of a version before this one.
        return
    _line(session, "Mode", _mode(document))


def _mode(document: Document) -> str:
    """Return a replica's mode and what decided, out of its answer."""
    decided = [finding for finding in document.get("why") or [] if finding.get("decides")]
    reasons = "; ".join(f"{text_at(finding, 'lookedAt')} {text_at(finding, 'found')}" for finding in decided)
    mode, trouble = text_at(document, "mode"), text_at(document, "cluster.reason")
    return f"{mode} ({reasons or trouble})" if reasons or trouble else mode


def _print_checks(session: Session, readiness: Answer) -> bool:
    """Print the checks of a replica that was asked directly; return whether it is ready."""
    ready = readiness.status == HTTPStatus.OK
    _print_answerer(session, readiness)
    _line(session, "Ready", "yes" if ready else "no", "green" if ready else "bold red")
    for name, message in _checks(readiness.document).items():
        _line(session, f"  {name}", message)
    return ready


def _print_currency(session: Session) -> bool:
    """Print whether the replica that a load balancer chose sees etcd, and return that."""
    answer = session.client.get("version")
    _print_answerer(session, answer)
    current = f"no, as it was {answer.stale} s ago: etcd is away" if answer.stale else "yes"
    _line(session, "Current", current, "bold red" if answer.stale else "green")
    return not answer.stale


def _print_answerer(session: Session, answer: Answer) -> None:
    _line(session, "Answered by", answer.replica or "a replica that gives no name")


def _print_state(session: Session) -> bool:
    """Print what the swarm says; return whether every cluster is reached and every shard has an owner."""
    document = session.client.get("swarm").document
    unowned = document.get("unowned") or []
    members = document.get("members") or []
    _line(session, "Replicas", _versions(member for member in members if not member.get("observes")) or "none")
    if observers := _versions(member for member in members if member.get("observes")):
        _line(session, "Observers", observers)
    claims = document.get("claims") or []
    is_old = document.get("stale") is not None
    shards = f"{len(claims)} driven, {len(unowned)} without owner{', when etcd was last heard' if is_old else ''}"
    _line(session, "Shards", shards, "bold red" if unowned else "yellow" if is_old else "green")
    if (etcd := document.get("etcd")) is not None:
        style = "green" if text_at(etcd, "state") == "ok" else BAD if not takes_writes(document) else WARNING
        _line(session, "etcd", f"{text_at(etcd, 'state')}{why(etcd)}", style)
    for number, cluster in enumerate(document.get("clusters") or []):
        style = "green" if is_well(cluster) else "bold red"
        _line(session, "Clusters" if number == 0 else "", cluster_line(cluster, session.now()), style)
        if missing := missing_fence(cluster):
            _line(session, "", missing, "yellow")
    for phase, count in _counted(session).items():
        _line(session, phase, f"{count} machine{'s' if count != 1 else ''}", PHASE_STYLE[phase])
    return _is_whole(document)


def _versions(members: Iterable[Document]) -> str:
    counts = Counter(text_at(member, "version") for member in members)
    return ", ".join(f"{count} of version {version}" for version, count in sorted(counts.items()))


def _line(session: Session, title: str, value: str, style: str = "") -> None:
    session.out.print(Text((f"{title}:" if title else "").ljust(15)) + Text(value, style=style), soft_wrap=True)


def _checks(document: Any) -> dict[str, str]:
    """Return each check with its word, in whichever of the usual shapes the replica tells them."""
    checks = document.get("checks") if isinstance(document, dict) else None
    if isinstance(checks, list):
        checks = {text_at(check, "name"): check for check in checks if isinstance(check, dict)}
    if not isinstance(checks, dict):
        return {}
    return {str(name): _check(check) for name, check in checks.items()}


def _check(check: Any) -> str:
    if not isinstance(check, dict):
        return {True: "ok", False: "not ok"}.get(check, str(check)) if isinstance(check, bool) else str(check)
    good = check.get("ok", check.get("ready", check.get("status") in {"ok", "pass", True}))
    message = text_at(check, "message") or text_at(check, "reason") or text_at(check, "detail")
    return ("ok" if good else "not ok") + (f": {message}" if message else "")
