"""Templates over HTTP: decode, one call, encode."""

from functools import partial
from typing import Final

import msgspec
from starlette.responses import Response

from dragonfly.api import rows
from dragonfly.api.calls import Call
from dragonfly.api.desk import Desk, removed, resource
from dragonfly.api.operations import Collection
from dragonfly.feed.views import TemplateView, template_view
from dragonfly.intent import templates
from dragonfly.intent.idempotency import Answer
from dragonfly.intent.refusals import NotFound
from dragonfly.model.template import Template, TemplateInput
from dragonfly.store import keys

_KIND = "Template"


async def list_templates(desk: Desk, call: Call) -> Response:
    return await desk.list(call, desk.template_rows, rows.TEMPLATES)


async def get_template(desk: Desk, call: Call) -> Response:
    name = call.name(_KIND)
    held = desk.context.mirror.get(keys.template(name))
    row = desk.template_rows.get(name)
    if held is None or row is None:
        raise NotFound(_KIND, name)
    return resource(row.json(), held.mod_revision)


async def create_template(desk: Desk, call: Call) -> Response:
    sent = await call.input(TemplateInput)
    return await desk.post(call, partial(templates.create, sent=sent, terms=desk.terms(call)), _created)


async def replace_template(desk: Desk, call: Call) -> Response:
    match = call.match()
    sent = await call.input(TemplateInput)
    terms = desk.terms(call)
    decide = partial(templates.replace, name=call.name(_KIND), sent=sent, match=match, terms=terms)
    return await desk.change(decide, template_view)


async def patch_template(desk: Desk, call: Call) -> Response:
    match = call.match()
    change = await call.patch()
    terms = desk.terms(call)
    decide = partial(templates.patch, name=call.name(_KIND), change=change, match=match, terms=terms)
    return await desk.change(decide, template_view)


async def delete_template(desk: Desk, call: Call) -> Response:
    name, match = call.name(_KIND), call.match()
    done = await desk.write(partial(templates.delete, name=name, match=match))
    return removed(done.revision)


def _created(template: Template) -> Answer:
    body = msgspec.json.encode(template_view(template, 0)).decode()
    return Answer(status=201, location=f"/api/v1/templates/{template.name}", body=body)


_TEMPLATES: Final = Collection("templates", TemplateView, TemplateInput)
_KEPT: Final = "running provisions keep the one they began with"

OPERATIONS = (
    _TEMPLATES.list(list_templates, "List templates", rows.TEMPLATES),
    _TEMPLATES.create(create_template, "Create a template"),
    _TEMPLATES.read(get_template, "Read a template"),
    _TEMPLATES.replace(replace_template, f"Replace a template; {_KEPT}"),
    _TEMPLATES.patch(patch_template, f"Change some of a template; {_KEPT}"),
    _TEMPLATES.delete(delete_template, f"Delete a template; {_KEPT}"),
)
