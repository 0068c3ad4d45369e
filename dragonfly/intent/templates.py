"""Templates: create, replace, patch, delete.

A provision keeps its own copy of the template (`active/<machine>`), so any of these is safe while one runs.
"""

from typing import Any

from dragonfly.intent.documents import as_input, merged
from dragonfly.intent.facts import Facts
from dragonfly.intent.plan import Plan
from dragonfly.intent.refusals import AlreadyExists
from dragonfly.intent.resource import check_same_name, document_of, given_name, is_same, matching
from dragonfly.intent.terms import Match, Terms
from dragonfly.model.machine import metadata_of
from dragonfly.model.template import Template, TemplateInput, validated
from dragonfly.store import keys, records
from dragonfly.store.values import Absent, Delete, Put, Unchanged

_KIND = "Template"


def create(facts: Facts, sent: TemplateInput, terms: Terms) -> Plan[Template]:
    """Make a template.

    Raises:
        Invalid: the document breaks rules.
        AlreadyExists: the name is taken.
    """
    metadata = metadata_of(sent.metadata, given_name(sent.metadata), terms.now)
    template = Template(metadata=metadata, spec=validated(sent.spec))
    key = keys.template(template.name)
    if facts.get(key, Template) is not None:
        raise AlreadyExists(_KIND, template.name)
    return Plan(template, (Put(key, records.encode(template)),), (Absent(key),))


def replace(facts: Facts, name: str, sent: TemplateInput, match: Match, terms: Terms) -> Plan[Template]:
    """Make the template what was sent.

    Raises:
        NotFound, Changed, Invalid: as they say.
    """
    template = _matching(facts, name, match)
    return _replace(facts, template, sent, terms)


def patch(facts: Facts, name: str, change: dict[str, Any], match: Match, terms: Terms) -> Plan[Template]:
    """Apply a JSON Merge Patch (RFC 7396) to the template; raises as `replace`."""
    template = _matching(facts, name, match)
    sent = as_input(merged(document_of(template.metadata, template.spec), change), TemplateInput)
    return _replace(facts, template, sent, terms)


def delete(facts: Facts, name: str, match: Match) -> Plan[Template]:
    """Forget the template.

    Raises:
        NotFound, Changed: as they say.
    """
    template = _matching(facts, name, match)
    key = keys.template(name)
    return Plan(template, (Delete(key),), (Unchanged(key, facts.revision_of(key)),))


def _matching(facts: Facts, name: str, match: Match) -> Template:
    return matching(facts, Template, keys.template(name), name, match)


def _replace(facts: Facts, template: Template, sent: TemplateInput, terms: Terms) -> Plan[Template]:
    check_same_name(_KIND, sent.metadata, template.name)
    metadata = metadata_of(sent.metadata, template.name, terms.now, template.metadata.created_at)
    changed = Template(metadata=metadata, spec=validated(sent.spec))
    key = keys.template(template.name)
    revision = facts.revision_of(key)
    if is_same(changed, template):
        return Plan(template, revision=revision)
    return Plan(changed, (Put(key, records.encode(changed)),), (Unchanged(key, revision),))
