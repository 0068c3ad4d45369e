"""The kinds of things that people ask for by name, and the columns that a table shows of each."""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, NamedTuple, get_args

import click

from dragonfly.cli import times
from dragonfly.cli.sites import by_site
from dragonfly.model.machine import MachinePhase
from dragonfly.model.provision import ProvisionPhase

Document = Mapping[str, Any]

PHASE_STYLE: Mapping[str, str] = {
    "Available": "green",
    "Deployed": "green",
    "Succeeded": "green",
    "Discovered": "cyan",
    "Provisioning": "yellow",
    "Pending": "yellow",
    "Starting": "yellow",
    "Running": "yellow",
    "Deleting": "magenta",
    "Cancelled": "magenta",
    "Failed": "red",
    "TimedOut": "red",
}


class Cell(NamedTuple):
    text: str
    style: str = ""


class Column(NamedTuple):
    title: str
    cell: Callable[[Document, datetime], Cell]
    wide: bool = False
    """Shown with `-o wide` only."""


class Kind(NamedTuple):
    singular: str
    plural: str
    """Also the name of its route."""
    short: str
    columns: tuple[Column, ...]
    filters: frozenset[str]
    """The query parameters that its list knows beside `q`, `labelSelector`, `tag`, `sort` and `limit`."""
    phases: tuple[str, ...] = ()
    told_in_part: bool = False
    """The feed leaves out what is counted, which a column shows: the whole is what a GET says."""

    @property
    def list_kind(self) -> str:
        return f"{self.singular.capitalize()}List"


class KindType(click.ParamType[Kind]):
    """A kind as people write it: machines, machine or m."""

    name = "kind"

    def __init__(self, *, only: tuple[Kind, ...] = ()) -> None:
        self._kinds = only or KINDS

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Kind:
        if isinstance(value, Kind):
            return value
        for kind in self._kinds:
            if str(value).lower() in {kind.singular, kind.plural, kind.short}:
                return kind
        allowed = ", ".join(f"{kind.plural} ({kind.short})" for kind in self._kinds)
        return self.fail(f"{value!r} is no kind; there are {allowed}", param, ctx)

    def shell_complete(self, _ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[Any]:
        from click.shell_completion import CompletionItem

        return [CompletionItem(kind.plural) for kind in self._kinds if kind.plural.startswith(incomplete)]


def at(document: Document, path: str) -> Any:
    """Return what is at `path` (`spec.os.family`), or None where anything on the way is missing."""
    value: Any = document
    for name in path.split("."):
        if not isinstance(value, Mapping):
            return None
        value = value.get(name)
    return value


def text_at(document: Document, path: str, default: str = "") -> str:
    value = at(document, path)
    return default if value is None else str(value)


def name_of(document: Document) -> str:
    return text_at(document, "metadata.name")


def machine_phase(document: Document) -> str:
    """Return the phase with what else keeps people off the machine, as kubectl shows a cordoned node."""
    marks = [text_at(document, "status.phase")]
    if at(document, "spec.locked"):
        marks.append("Locked")
    if at(document, "spec.maintenance"):
        marks.append("Maintenance")
    return ",".join(mark for mark in marks if mark)


def installed_os(document: Document) -> str:
    return text_at(document, "status.os.template")


def progress(status: Document) -> str:
    """Return `ubuntu-2404 43%` of a provision's summary; empty without one."""
    return f"{status['template']} {status.get('progress', 0)}%" if status.get("template") else ""


def labels(document: Document) -> str:
    found = at(document, "metadata.labels") or {}
    return ",".join(f"{key}={value}" for key, value in sorted(found.items()))


def provision_phase(document: Document) -> str:
    """Return the phase; the API may leave out what is as it was at the beginning."""
    return text_at(document, "status.phase", "Pending")


def current_action(document: Document) -> str:
    """Return the action that runs, or at which the provision ended; a success has none."""
    return "" if provision_phase(document) == "Succeeded" else text_at(document, "status.currentAction")


def _plain(title: str, path: str, *, wide: bool = False, default: str = "") -> Column:
    return Column(title, lambda document, _now: Cell(text_at(document, path, default)), wide)


def _made(title: str, make: Callable[[Document], str], *, wide: bool = False) -> Column:
    return Column(title, lambda document, _now: Cell(make(document)), wide)


def _phase(make: Callable[[Document], str]) -> Column:
    def cell(document: Document, _now: datetime) -> Cell:
        phase = make(document)
        return Cell(phase, PHASE_STYLE.get(phase.partition(",")[0], ""))

    return Column("PHASE", cell)


def _age() -> Column:
    return Column("AGE", lambda document, now: Cell(times.age(at(document, "metadata.createdAt"), now)))


def _first_interface(field: str) -> Callable[[Document], str]:
    def make(document: Document) -> str:
        interfaces = at(document, "spec.interfaces") or [{}]
        return text_at(interfaces[0], field)

    return make


def _names(path: str) -> Callable[[Document], str]:
    def make(document: Document) -> str:
        return ",".join(str(item.get("name", "")) for item in at(document, path) or [])

    return make


def _actions(document: Document) -> str:
    return "raw" if at(document, "spec.raw") else str(len(at(document, "spec.actions") or []))


MACHINES = Kind(
    "machine",
    "machines",
    "m",
    (
        _plain("NAME", "metadata.name"),
        _phase(machine_phase),
        _made("OS", installed_os),
        _made("PROVISION", lambda document: progress(at(document, "status.activeProvision") or {})),
        _plain("OWNER", "status.owner"),
        _age(),
        _plain("CLUSTER", "spec.cluster", wide=True, default="local"),
        _made("MAC", _first_interface("mac"), wide=True),
        _made("ADDRESS", _first_interface("address"), wide=True),
        _plain("ARCH", "spec.arch", wide=True, default="x86_64"),
        _plain("POWER", "status.power", wide=True),
        _made("LABELS", labels, wide=True),
        _made("TAGS", lambda document: ",".join(at(document, "metadata.tags") or []), wide=True),
    ),
    frozenset({"phase", "cluster"}),
    get_args(MachinePhase),
)

TEMPLATES = Kind(
    "template",
    "templates",
    "t",
    (
        _plain("NAME", "metadata.name"),
        _made("OS", lambda d: f"{text_at(d, 'spec.os.family')} {text_at(d, 'spec.os.version')}".strip()),
        _plain("ARCH", "spec.os.arch"),
        _made("ACTIONS", _actions),
        _made("PARAMETERS", lambda document: ",".join(at(document, "spec.parameters.properties") or {})),
        _plain("REVISION", "metadata.revision"),
        _age(),
        _made("STEPS", _names("spec.actions"), wide=True),
        _made("LABELS", labels, wide=True),
    ),
    frozenset(),
)


def _duration(document: Document, now: datetime) -> Cell:
    return Cell(times.between(at(document, "status.startedAt"), at(document, "status.finishedAt"), now))


PROVISIONS = Kind(
    "provision",
    "provisions",
    "p",
    (
        _plain("NAME", "metadata.name"),
        _plain("MACHINE", "spec.machine"),
        _plain("TEMPLATE", "spec.template"),
        _phase(provision_phase),
        _made("PROGRESS", lambda document: f"{at(document, 'status.progress') or 0}%"),
        _made("ACTION", current_action),
        Column("DURATION", _duration),
        _age(),
        _plain("ERROR", "status.error.reason", wide=True),
        _plain("BY", "spec.requestedBy", wide=True),
        _plain("REASON", "spec.reason", wide=True),
        _plain("WORKFLOW", "status.workflow.name", wide=True),
    ),
    frozenset({"phase", "cluster", "machine", "template"}),
    get_args(ProvisionPhase),
)


def _deliveries(document: Document, _now: datetime) -> Cell:
    """How the deliveries of a webhook go."""
    if not at(document, "spec.enabled"):
        return Cell("Gone" if at(document, "status.disabledBecause") else "Halted", "magenta")
    return Cell("Failing", "red") if at(document, "status.failingSince") else Cell("Good", "green")


WEBHOOKS = Kind(
    "webhook",
    "webhooks",
    "w",
    (
        _plain("NAME", "metadata.name"),
        _plain("URL", "spec.url"),
        Column("DELIVERIES", _deliveries),
        _plain("PENDING", "status.pending"),
        _plain("DEAD", "status.deadLetters"),
        _age(),
        _plain("DELIVERED", "status.delivered", wide=True),
        _plain("OWNER", "status.owner", wide=True),
        _plain("ERROR", "status.lastError", wide=True),
        _made("KINDS", lambda document: ",".join(at(document, "spec.kinds") or []), wide=True),
    ),
    frozenset(),
)


def _reached(document: Document, now: datetime) -> Cell:
    """Whether a cluster is reached, or for how long it has not been."""
    if at(document, "status.reachable"):
        return Cell("yes", "green")
    return Cell(f"no, {times.age(at(document, 'status.since'), now)}", "red")


def _owned(document: Document) -> str:
    owners = at(document, "status.owners") or {}
    return f"{sum(bool(owner) for owner in owners.values())}/{at(document, 'spec.shards')}"


def _reaching(document: Document) -> str:
    """Return the sites with replicas that reach the cluster, and these."""
    replicas = at(document, "status.replicas") or []
    return by_site((text_at(one, "site"), text_at(one, "replica")) for one in replicas if one.get("reachable"))


CLUSTERS = Kind(
    "cluster",
    "clusters",
    "c",
    (
        _plain("NAME", "metadata.name"),
        Column("REACHABLE", _reached),
        _made("SHARDS", _owned),
        _plain("MACHINES", "status.machines"),
        _made("SITES", lambda document: ",".join(at(document, "spec.sites") or [])),
        _age(),
        _plain("SERVER", "status.server", wide=True),
        _plain("NAMESPACE", "spec.namespace", wide=True),
        _made("REACHED FROM", _reaching, wide=True),
        _plain("REASON", "status.reason", wide=True),
        _made("LABELS", labels, wide=True),
    ),
    frozenset(),
    told_in_part=True,
)

KINDS = (MACHINES, TEMPLATES, PROVISIONS, WEBHOOKS, CLUSTERS)
