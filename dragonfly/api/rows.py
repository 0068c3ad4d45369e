"""Rows of the catalogues: what of each kind can be searched, filtered and sorted, and how it is shown in full."""

from typing import Final

import msgspec

from dragonfly.api.catalog import Catalog, Row
from dragonfly.api.context import Context
from dragonfly.api.lists import Listing
from dragonfly.feed.shown import haystack, machine_words
from dragonfly.feed.views import MachineView, machine_view, provision_view, template_view
from dragonfly.model.machine import Machine, Observed, phase_of
from dragonfly.model.power import PowerRequest
from dragonfly.model.provision import Active, Provision, summary_of
from dragonfly.model.template import Template
from dragonfly.model.values import Metadata
from dragonfly.store import keys
from dragonfly.store.mirror import Mirror
from dragonfly.swarm.members import reach

MACHINES: Final = Listing(
    "Machine", ("phase", "cluster"), ("name", "phase", "cluster", "createdAt", "updatedAt"), "name"
)
TEMPLATES: Final = Listing("Template", (), ("name", "createdAt", "updatedAt"), "name")
PROVISIONS: Final = Listing(
    "Provision",
    ("machine", "phase", "template", "cluster"),
    ("name", "machine", "template", "phase", "createdAt", "updatedAt"),
    "-name",
)

_encode = msgspec.json.Encoder().encode


def machine_catalog(context: Context) -> Catalog:
    mirror = context.mirror

    def build(name: str) -> Row | None:
        found = mirror.get(keys.machine(name))
        if found is None or not isinstance(found.object, Machine):
            return None
        machine = found.object
        observed = observed_of(mirror, name)
        active = active_provision(mirror, name)
        phase = phase_of(machine, observed, summary_of(active) if active is not None else None)
        return Row(
            name,
            {"phase": phase, "cluster": machine.spec.cluster, **_common(machine.metadata)},
            lambda: _encode(composed(context, machine, found.mod_revision)),
            labels=machine.metadata.labels,
            tags=machine.metadata.tags,
            haystack=haystack(machine.metadata, phase, *machine_words(machine, observed)),
        )

    made_of = {
        keys.MACHINES: lambda key: keys.name_in(key, keys.MACHINES),
        keys.OBSERVED: lambda key: keys.name_in(key, keys.OBSERVED),
        keys.POWER: lambda key: keys.name_in(key, keys.POWER),
        keys.ACTIVE: lambda key: keys.name_in(key, keys.ACTIVE),
        keys.PROVISIONS: lambda key: pair.first if (pair := keys.pair_in(key, keys.PROVISIONS)) else None,
    }
    return Catalog(mirror, build, made_of, shown_with=(keys.CLAIMS, keys.MEMBERS))


def template_catalog(context: Context) -> Catalog:
    def build(name: str) -> Row | None:
        found = context.mirror.get(keys.template(name))
        if found is None or not isinstance(found.object, Template):
            return None
        template = found.object
        os = template.spec.os
        return Row(
            name,
            _common(template.metadata),
            lambda: _encode(template_view(template, found.mod_revision)),
            labels=template.metadata.labels,
            tags=template.metadata.tags,
            haystack=haystack(template.metadata, os.family, os.version, os.arch),
        )

    return Catalog(context.mirror, build, {keys.TEMPLATES: lambda key: keys.name_in(key, keys.TEMPLATES)})


def provision_catalog(context: Context) -> Catalog:
    """Rows go by `<machine>/<name>` while they are built; a provision's name alone does not lead to its key."""
    mirror = context.mirror

    def build(place: str) -> Row | None:
        found = mirror.get(keys.PROVISIONS + place)
        if found is None or not isinstance(found.object, Provision):
            return None
        provision = found.object
        spec, phase = provision.spec, provision.status.phase
        words = (spec.machine, spec.template, phase)
        facets = {"machine": spec.machine, "template": spec.template, "phase": phase, "cluster": provision.cluster}
        return Row(
            provision.name,
            {**facets, **_common(provision.metadata)},
            lambda: _encode(provision_view(provision, found.mod_revision)),
            labels=provision.metadata.labels,
            tags=provision.metadata.tags,
            haystack=haystack(provision.metadata, *words, spec.reason, spec.requested_by),
        )

    return Catalog(mirror, build, {keys.PROVISIONS: lambda key: key.removeprefix(keys.PROVISIONS)})


def composed(context: Context, machine: Machine, revision: int) -> MachineView:
    """The machine with what is known of it now."""
    mirror, name = context.mirror, machine.name
    return machine_view(
        machine,
        revision,
        observed=observed_of(mirror, name),
        active=active_provision(mirror, name),
        power=power_request(mirror, name),
        owner=context.owner_of(machine.spec.cluster, name),
        cluster=reach(mirror, machine.spec.cluster),
    )


def observed_of(mirror: Mirror, machine: str) -> Observed | None:
    held = mirror.get(keys.observed(machine))
    return held.object if held is not None and isinstance(held.object, Observed) else None


def active_provision(mirror: Mirror, machine: str) -> Provision | None:
    held = mirror.get(keys.active(machine))
    if held is None or not isinstance(held.object, Active):
        return None
    provision = mirror.get(keys.provision(machine, held.object.provision))
    return provision.object if provision is not None and isinstance(provision.object, Provision) else None


def power_request(mirror: Mirror, machine: str) -> PowerRequest | None:
    held = mirror.get(keys.power(machine))
    return held.object if held is not None and isinstance(held.object, PowerRequest) else None


def _common(metadata: Metadata) -> dict[str, str]:
    return {"createdAt": metadata.created_at.isoformat(), "updatedAt": metadata.updated_at.isoformat()}
