"""`dragonfly describe`: everything about one machine, template, provision, webhook or cluster, for people."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import click
from rich.text import Text

from dragonfly.cli import documents, times
from dragonfly.cli.errors import CliError, Exit
from dragonfly.cli.kinds import (
    CLUSTERS,
    MACHINES,
    PHASE_STYLE,
    PROVISIONS,
    WEBHOOKS,
    Cell,
    Document,
    Kind,
    at,
    current_action,
    labels,
    machine_phase,
    progress,
    provision_phase,
    text_at,
)
from dragonfly.cli.names import kind_and_names
from dragonfly.cli.reach import obstacle
from dragonfly.cli.session import Session, connected
from dragonfly.cli.table import print_line, print_table
from dragonfly.model.provision import TERMINAL

_HISTORY = 5


class Field(NamedTuple):
    """A line `Title:  value`; without a value it is left out."""

    title: str
    value: str
    style: str = ""


class Section(NamedTuple):
    """A titled table; without rows it is left out."""

    title: str
    titles: Sequence[str]
    rows: Sequence[Sequence[Cell]]


class Block(NamedTuple):
    """A titled text of several lines."""

    title: str
    text: str


Part = Field | Section | Block


@click.command
@kind_and_names(most=1)
@connected
def describe(session: Session, kind: Kind, names: tuple[str, ...]) -> None:
    """Tell everything about one machine (m), template (t), provision (p), webhook (w) or cluster (c)."""
    (name,) = names
    document = session.client.get(kind.plural, name).document
    now = session.now()
    if kind is MACHINES:
        history = session.client.get("machines", name, "history", query={"limit": _HISTORY}).document
        parts = [*machine_parts(document, now), *history_parts(history.get("items", [])[:_HISTORY], now)]
    elif kind is PROVISIONS:
        parts = list(provision_parts(document, now, _held_up(session, document)))
    elif kind is WEBHOOKS:
        parts = list(webhook_parts(document, now))
    elif kind is CLUSTERS:
        parts = list(cluster_parts(document, now))
    else:
        parts = list(template_parts(document, now))
    _print(session, parts)


def machine_parts(machine: Document, now: datetime) -> Iterator[Part]:
    phase = text_at(machine, "status.phase")
    yield Field("Name", text_at(machine, "metadata.name"))
    yield Field("Phase", machine_phase(machine), PHASE_STYLE.get(phase, ""))
    yield Field("Locked", _lock(at(machine, "spec.locked"), now), "yellow")
    yield Field("Maintenance", text_at(machine, "spec.maintenance.reason"), "yellow")
    yield Field("Installed", _installed(at(machine, "status.os") or {}, now))
    yield Field("Provisioning", _summary(at(machine, "status.activeProvision") or {}))
    yield Field("Power", text_at(machine, "status.power"))
    yield Field("Cluster", text_at(machine, "spec.cluster", "local"))
    yield Field("Moving", _move(at(machine, "status.moving"), now), "yellow")
    yield Field("Owner", text_at(machine, "status.owner") or "none")
    yield Field("Held up", obstacle(machine), "red")
    yield Field("Seen", _ago(at(machine, "status.observedAt"), now))
    yield Field("Hostname", text_at(machine, "spec.hostname"))
    yield Field("Platform", f"{text_at(machine, 'spec.arch', 'x86_64')}, {text_at(machine, 'spec.firmware', 'uefi')}")
    yield Field("Boot", text_at(machine, "spec.boot", "none"))
    yield Field("BMC", _bmc(at(machine, "spec.bmc") or {}))
    yield from _metadata(machine, now)
    yield Section("Interfaces", ("MAC", "ADDRESS", "GATEWAY", "VLAN"), _interfaces(machine))
    yield Section("Disks", ("DISK", "SIZE", "TYPE"), _disks(machine))
    yield Section("Conditions", ("TYPE", "STATUS", "REASON", "AGE", "MESSAGE"), _conditions(machine, now))
    hardware = at(machine, "status.hardware")
    if hardware:
        yield Block("Hardware", documents.as_yaml(hardware))


def provision_parts(provision: Document, now: datetime, held_up: str) -> Iterator[Part]:
    phase = provision_phase(provision)
    status = at(provision, "status") or {}
    yield Field("Name", text_at(provision, "metadata.name"))
    yield Field("Machine", text_at(provision, "spec.machine"))
    revision = text_at(provision, "spec.templateRevision")
    yield Field("Template", text_at(provision, "spec.template") + (f" (revision {revision})" if revision else ""))
    yield Field("Phase", phase, PHASE_STYLE.get(phase, ""))
    yield Field("Held up", held_up, "red")
    yield Field("Error", _error(status.get("error")), "red")
    yield Field("Progress", f"{status.get('progress', 0)}%")
    yield Field("Action", current_action(provision))
    yield Field("Expected", _ahead(status.get("eta"), now))
    yield Field("Duration", times.between(status.get("startedAt"), status.get("finishedAt"), now))
    yield Field("Started", _ago(status.get("startedAt"), now))
    yield Field("Finished", _ago(status.get("finishedAt"), now))
    yield Field("Booted", "yes" if status.get("booted") else "")
    yield Field("Cancelled by", text_at(status, "cancel.by"))
    yield Field("Requested by", text_at(provision, "spec.requestedBy"))
    yield Field("Reason", text_at(provision, "spec.reason"))
    yield Field("Workflow", "/".join(_workflow(status.get("workflow") or {})))
    yield from _metadata(provision, now)
    yield Section("Actions", ("ACTION", "STATE", "DURATION"), _actions(status, now))
    if at(provision, "spec.parameters"):
        yield Block("Parameters", documents.as_yaml(at(provision, "spec.parameters")))


def _held_up(session: Session, provision: Document) -> str:
    """Return why a provision that has not ended does not go on."""
    if provision_phase(provision) in TERMINAL:
        return ""
    try:
        return obstacle(session.client.get(MACHINES.plural, text_at(provision, "spec.machine")).document)
    except CliError as error:
        if error.exit_code != Exit.NOT_FOUND:
            raise
        # A machine can be forgotten at once, with its provisions.
        return ""


def template_parts(template: Document, now: datetime) -> Iterator[Part]:
    os = at(template, "spec.os") or {}
    yield Field("Name", text_at(template, "metadata.name"))
    yield Field("OS", " ".join(str(os[key]) for key in ("family", "version", "arch") if os.get(key)))
    yield Field("Timeout", times.exact(float(text_at(template, "spec.globalTimeout", "3600"))))
    yield Field("Boot", text_at(template, "spec.boot"))
    yield from _metadata(template, now)
    actions = at(template, "spec.actions") or []
    rows = [
        [Cell(a.get("name", "")), Cell(times.exact(float(a.get("timeout", 0)))), Cell(a.get("image", ""))]
        for a in actions
    ]
    yield Section("Actions", ("ACTION", "TIMEOUT", "IMAGE"), rows)
    yield Section(
        "Parameters",
        ("PARAMETER", "TYPE", "DEFAULT", "DESCRIPTION"),
        _parameters(at(template, "spec.parameters") or {}),
    )
    if at(template, "spec.raw"):
        yield Block("Tinkerbell's own", text_at(template, "spec.raw"))


def webhook_parts(webhook: Document, now: datetime) -> Iterator[Part]:
    status = at(webhook, "status") or {}
    failing = _ago(status.get("failingSince"), now)
    yield Field("Name", text_at(webhook, "metadata.name"))
    yield Field("URL", text_at(webhook, "spec.url"))
    yield Field("Enabled", "yes" if at(webhook, "spec.enabled") else "no")
    yield Field("Disabled", text_at(status, "disabledBecause"), "red")
    yield Field("Failing since", failing, "red")
    yield Field("Error", text_at(status, "lastError") if failing else "", "red")
    for title, field in (("Kinds", "kinds"), ("Names", "names"), ("With tags", "tags"), ("Clusters", "clusters")):
        yield Field(title, ",".join(at(webhook, f"spec.{field}") or []))
    yield Field("Phases", ",".join(at(webhook, "spec.phases") or []))
    yield Field("With labels", text_at(webhook, "spec.labelSelector"))
    yield Field("Delivered by", text_at(status, "owner") or "none")
    yield Field("Delivered", f"{status.get('delivered', 0)}, up to revision {status.get('cursor', 0)}")
    yield Field("Pending", text_at(status, "pending"))
    yield Field("Dead letters", text_at(status, "deadLetters"))
    yield Field("Last attempt", _ago(status.get("lastAttempt"), now))
    yield Field("Last success", _ago(status.get("lastSuccess"), now))
    yield from _metadata(webhook, now)


def cluster_parts(cluster: Document, now: datetime) -> Iterator[Part]:
    status = at(cluster, "status") or {}
    reached = status.get("reachable")
    yield Field("Name", text_at(cluster, "metadata.name"))
    yield Field("Reachable", "yes" if reached else f"no{_since(status, now)}", "" if reached else "red")
    yield Field("Reason", text_at(status, "reason"), "red")
    yield Field("Server", "of the pods" if at(cluster, "spec.inCluster") else text_at(status, "server"))
    yield Field("Context", text_at(cluster, "spec.context"))
    yield Field("Namespace", text_at(cluster, "spec.namespace"))
    yield Field("Sites", ",".join(at(cluster, "spec.sites") or []))
    yield Field("Calls a second", text_at(cluster, "spec.qps"))
    yield Field("Calls at once", text_at(cluster, "spec.inFlight"))
    yield Field("Machines", text_at(status, "machines"))
    yield Field("Kubernetes", text_at(status, "checkup.version"))
    yield Field("Tinkerbell", text_at(status, "checkup.tinkerbell"))
    yield Field("Lacks", ", ".join(_lacking(at(status, "checkup") or {})), "red")
    yield Field("Does without", ", ".join(_optional(at(status, "checkup") or {})))
    yield Field("Being removed", _ago(status.get("removingSince"), now), "red")
    yield from _metadata(cluster, now)
    owners = sorted((int(shard), owner) for shard, owner in (status.get("owners") or {}).items())
    said = [_said(replica, now) for replica in status.get("replicas") or []]
    yield Section("Replicas", ("REPLICA", "SITE", "REACHES", "REASON"), said)
    yield Section("Shards", ("SHARD", "OWNER"), [[Cell(str(shard)), Cell(owner or "none")] for shard, owner in owners])


def _lacking(checkup: Document) -> Iterator[str]:
    yield from checkup.get("missingTypes") or ()
    for right in checkup.get("missingRights") or ():
        yield f"the right to {right['verb']} {right['resource']}"


def _optional(checkup: Document) -> Iterator[str]:
    for right in checkup.get("missingOptional") or ():
        yield f"the right to {right['verb']} {right['resource']}"


def _said(replica: Document, now: datetime) -> list[Cell]:
    """Return what a replica says of the cluster."""
    reaches = bool(replica.get("reachable"))
    return [
        Cell(text_at(replica, "replica")),
        Cell(text_at(replica, "site")),
        Cell("yes" if reaches else f"no{_since(replica, now)}", "green" if reaches else "red"),
        Cell(text_at(replica, "reason")),
    ]


def _since(status: Document, now: datetime) -> str:
    age = times.age(status.get("since"), now)
    return f", since {age}" if age else ""


def history_parts(provisions: Iterable[Document], now: datetime) -> Iterator[Part]:
    rows = []
    for provision in provisions:
        phase = provision_phase(provision)
        took = times.between(at(provision, "status.startedAt"), at(provision, "status.finishedAt"), now)
        rows.append(
            [
                Cell(text_at(provision, "metadata.name")),
                Cell(text_at(provision, "spec.template")),
                Cell(phase, PHASE_STYLE.get(phase, "")),
                Cell(took),
                Cell(times.age(at(provision, "metadata.createdAt"), now)),
                Cell(_error(at(provision, "status.error"))),
            ]
        )
    yield Section("Last provisions", ("NAME", "TEMPLATE", "PHASE", "DURATION", "AGE", "ERROR"), rows)


def _print(session: Session, parts: Sequence[Part]) -> None:
    width = max(len(part.title) for part in parts if isinstance(part, Field)) + 2
    for part in parts:
        if isinstance(part, Field) and part.value:
            for number, line in enumerate(part.value.splitlines()):
                title = f"{part.title}:" if number == 0 else ""
                session.out.print(Text(title.ljust(width)) + Text(line, style=part.style), soft_wrap=True)
        elif isinstance(part, Section) and part.rows:
            _title(session, part.title)
            print_table(part.titles, part.rows, session.out)
        elif isinstance(part, Block):
            _title(session, part.title)
            session.out.print(Text(part.text.rstrip("\n")), soft_wrap=True)


def _title(session: Session, title: str) -> None:
    session.out.print()
    print_line(Text(title, style="bold underline"), session.out)


def _metadata(document: Document, now: datetime) -> Iterator[Part]:
    yield Field("Labels", labels(document))
    yield Field("Tags", ",".join(at(document, "metadata.tags") or []))
    yield Field("Created", _ago(at(document, "metadata.createdAt"), now))
    yield Field("Changed", _ago(at(document, "metadata.updatedAt"), now))
    yield Field("Revision", text_at(document, "metadata.revision"))


def _ago(moment: Any, now: datetime) -> str:
    past = times.moment(moment)
    return f"{times.utc(past)} ({times.age(moment, now)} ago)" if past else ""


def _ahead(moment: Any, now: datetime) -> str:
    expected = times.moment(moment)
    return f"{times.utc(expected)} (in {times.short((expected - now).total_seconds())})" if expected else ""


def _lock(lock: Document | None, now: datetime) -> str:
    if not lock:
        return ""
    return f"{lock.get('reason', '')} (by {lock.get('by', 'somebody')}, {times.age(lock.get('at'), now)} ago)"


def _move(moving: Document | None, now: datetime) -> str:
    if not moving:
        return ""
    asked = f"by {moving.get('by', 'somebody')}, {times.age(moving.get('since'), now)} ago"
    return f"to cluster {moving.get('to', '')} ({asked})"


def _installed(os: Document, now: datetime) -> str:
    if not os.get("template"):
        return ""
    return f"{os['template']} (revision {os.get('revision', '?')}, {times.age(os.get('installedAt'), now)} ago)"


def _summary(provision: Document) -> str:
    return f"{progress(provision)}, provision {provision.get('name', '')}" if provision else ""


def _bmc(bmc: Document) -> str:
    return f"{bmc.get('protocol', 'redfish')} at {bmc['host']}" if bmc.get("host") else ""


def _error(error: Any) -> str:
    if not isinstance(error, dict):
        return ""
    return ": ".join(str(error[key]) for key in ("reason", "message") if error.get(key))


def _workflow(workflow: Document) -> Iterator[str]:
    yield from (str(workflow[key]) for key in ("cluster", "namespace", "name") if workflow.get(key))


def _interfaces(machine: Document) -> list[list[Cell]]:
    return [
        [
            Cell(text_at(interface, "mac")),
            Cell("dhcp" if interface.get("dhcp") else text_at(interface, "address")),
            Cell(text_at(interface, "gateway")),
            Cell(text_at(interface, "vlan")),
        ]
        for interface in at(machine, "spec.interfaces") or []
    ]


def _disks(machine: Document) -> list[list[Cell]]:
    return [
        [
            Cell(text_at(disk, "device") or text_at(disk, "serial") or text_at(disk, "model")),
            Cell(text_at(disk, "minSize")),
            Cell(text_at(disk, "type")),
        ]
        for disk in at(machine, "spec.disks") or []
    ]


def _conditions(machine: Document, now: datetime) -> list[list[Cell]]:
    return [
        [
            Cell(text_at(condition, "type")),
            Cell(text_at(condition, "status")),
            Cell(text_at(condition, "reason")),
            Cell(times.age(condition.get("since"), now)),
            Cell(text_at(condition, "message")),
        ]
        for condition in at(machine, "status.conditions") or []
    ]


def _actions(status: Document, now: datetime) -> list[list[Cell]]:
    return [
        [
            Cell(text_at(action, "name")),
            Cell(text_at(action, "state", "Pending"), PHASE_STYLE.get(text_at(action, "state"), "")),
            Cell(_took(action, now)),
        ]
        for action in status.get("actions") or []
    ]


def _took(action: Document, now: datetime) -> str:
    if action.get("seconds") is not None:
        return times.exact(float(action["seconds"]))
    return times.between(action.get("startedAt"), action.get("finishedAt"), now)


def _parameters(schema: Document) -> list[list[Cell]]:
    required = schema.get("required") or []
    rows = []
    for name, parameter in (schema.get("properties") or {}).items():
        default = documents.as_json_line(parameter["default"]) if "default" in parameter else ""
        rows.append(
            [
                Cell(name),
                Cell(text_at(parameter, "type")),
                Cell("required" if name in required else default),
                Cell(text_at(parameter, "description")),
            ]
        )
    return rows
