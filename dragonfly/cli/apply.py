"""`dragonfly apply`: creates what is missing and replaces what differs, document by document."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import click
import msgspec

from dragonfly.cli import documents
from dragonfly.cli.documents import Source
from dragonfly.cli.errors import ApiError, CliError, Exit
from dragonfly.cli.kinds import KINDS, MACHINES, TEMPLATES, WEBHOOKS, Kind, at, text_at
from dragonfly.cli.session import Session, connected
from dragonfly.model import machine, template, webhook
from dragonfly.model.values import Invalid, MetadataInput, canonical_mac

_TRIES = 3
_KNOWN = frozenset({"kind", "metadata", "spec", "status"})


class _Wanted(NamedTuple):
    kind: Kind
    name: str
    source: Source


@click.command
@click.option(
    "-f", "--filename", "files", multiple=True, required=True, metavar="FILE|-", help="YAML or JSON; - reads stdin."
)
@connected
def apply(session: Session, files: tuple[str, ...]) -> int:
    """Make machines, templates and webhooks as the files say.

    A file may hold several documents, or a list as `get -o yaml` prints it. A document without a difference changes
    nothing; one that is refused keeps no other from being applied. One with a metadata.revision is refused if the
    object has changed since.
    """
    wanted = [_wanted(source) for file in files for source in documents.parse(_text(file), _title(file))]
    if not wanted:
        raise CliError("the files hold no document", Exit.USAGE)
    code = Exit.OK
    for item in wanted:
        try:
            session.write(f"{item.kind.singular} {item.name}: {_apply(session, item)}")
        except CliError as error:
            if error.exit_code == Exit.UNREACHABLE:
                raise
            session.remark(f"{item.source.where}: {item.kind.singular} {item.name}: {error.message}")
            code = code or error.exit_code
    return code


def _text(file: str) -> str:
    try:
        return sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
    except OSError as error:
        raise CliError(f"cannot read {file}: {error.strerror}", Exit.USAGE) from error
    except UnicodeDecodeError as error:
        raise CliError(f"cannot read {file}: it is no text in UTF-8", Exit.USAGE) from error


def _title(file: str) -> str:
    return "standard input" if file == "-" else file


def _wanted(source: Source) -> _Wanted:
    said = source.document.get("kind")
    kind = next((kind for kind in KINDS if said == kind.singular.capitalize()), None)
    if kind not in {MACHINES, TEMPLATES, WEBHOOKS} or kind is None:
        raise CliError(f"{source.where}: kind must be Machine, Template or Webhook, not {said!r}", Exit.USAGE)
    name = text_at(source.document, "metadata.name") or _name_from_mac(kind, source.document)
    if not name:
        raise CliError(f"{source.where}: metadata.name is missing", Exit.USAGE)
    return _Wanted(kind, name, source)


def _name_from_mac(kind: Kind, document: Mapping[str, Any]) -> str:
    """Return the name that the API would make, so that applying twice finds what the first time made."""
    interfaces = at(document, "spec.interfaces")
    if kind is not MACHINES or not isinstance(interfaces, list) or not interfaces:
        return ""
    mac = text_at(interfaces[0], "mac")
    return machine.memorable_name(canonical_mac(mac)) if mac else ""


def _apply(session: Session, wanted: _Wanted) -> str:
    """Create or replace, whichever is right now; decide anew if somebody else is changing it too."""
    for _ in range(_TRIES - 1):
        try:
            return _once(session, wanted)
        except ApiError as error:
            if not _overtaken(error):
                raise
    return _once(session, wanted)


def _overtaken(error: ApiError) -> bool:
    return error.status == 412 or (error.status == 409 and error.retried)


def _once(session: Session, wanted: _Wanted) -> str:
    kind, name, source = wanted
    body = {**source.document, "metadata": {**(source.document.get("metadata") or {}), "name": name}}
    try:
        present = session.client.get(kind.plural, name).document
    except CliError as error:
        if error.exit_code != Exit.NOT_FOUND:
            raise
        made = session.client.post(kind.plural, body=body).document
        secret = text_at(made, "spec.secret")
        return f"created; its secret, shown this once: {secret}" if secret else "created"
    if _same(kind, body, present):
        return "unchanged"
    _check_current(wanted, present)
    session.client.put(kind.plural, name, body=body, revision=at(present, "metadata.revision"))
    return "configured"


def _check_current(wanted: _Wanted, present: Mapping[str, Any]) -> None:
    """Refuse to take back changes that were made after the file was got; one without a revision is meant as it is."""
    said, stored = at(wanted.source.document, "metadata.revision"), at(present, "metadata.revision")
    if isinstance(said, int) and isinstance(stored, int) and said < stored:
        raise CliError(
            f"the file is of revision {said}, and by now there is {stored}. Remove metadata.revision from the file to "
            f"replace that, or get it again and change that",
            Exit.REFUSED,
        )


def _same(kind: Kind, body: dict[str, Any], present: dict[str, Any]) -> bool:
    """Whether a replacement would change nothing. What cannot be told counts as a change: the API judges it."""
    if at(body, "spec.bmc.password") or at(body, "spec.secret"):
        # Write-only: nobody can tell whether it is the same.
        return False
    if not body.keys() <= _KNOWN:
        return False
    try:
        return _essence(kind, body) == _essence(kind, present)
    except (msgspec.ValidationError, Invalid):
        return False


def _essence(kind: Kind, document: dict[str, Any]) -> tuple[Any, dict[str, str], tuple[str, ...]]:
    """Return what people set, in its stored form: defaults written out or not, MACs in any spelling."""
    spec = {key: value for key, value in (at(document, "spec") or {}).items() if key != "locked"}
    metadata = msgspec.convert(at(document, "metadata") or {}, MetadataInput)
    stored: object
    if kind is MACHINES:
        stored = machine.validated(msgspec.convert(spec, machine.MachineSpec))
    elif kind is TEMPLATES:
        stored = template.validated(msgspec.convert(spec, template.TemplateSpec))
    else:
        stored = msgspec.convert(spec, webhook.WebhookSpecInput)
    return stored, metadata.labels, tuple(dict.fromkeys(metadata.tags))
