"""What a template may say, and what parameters it takes."""

import time
from typing import Any

import msgspec
import pytest

from dragonfly.model.template import Action, TemplateSpec, checked_parameters, placeholders, validated
from dragonfly.model.values import Invalid

DECLARED = {"properties": {"image": {"type": "string"}}}


def action(**changes: Any) -> Action:
    known: dict[str, Any] = {"name": "a", "image": "quay.io/x/y:1", "timeout": 60}
    return Action(**(known | changes))


def template(*actions: Action, **changes: Any) -> TemplateSpec:
    known: dict[str, Any] = {"actions": actions or (action(),)}
    return TemplateSpec(**(known | changes))


def told(spec: TemplateSpec) -> list[str]:
    with pytest.raises(Invalid) as caught:
        validated(spec)
    return [error.field for error in caught.value.errors]


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        (template(global_timeout=0), "spec.globalTimeout"),
        (template(global_timeout=31 * 86_400), "spec.globalTimeout"),
        (TemplateSpec(), "spec.actions"),
        (template(raw="version: 1"), "spec.actions"),
        (TemplateSpec(raw="é" * 200_000), "spec.raw"),
        (template(action(name="")), "spec.actions[0].name"),
        (template(action(name="x" * 200)), "spec.actions[0].name"),
        (template(action(), action()), "spec.actions[1].name"),
        (template(action(image="")), "spec.actions[0].image"),
        (template(action(image="not an image")), "spec.actions[0].image"),
        (template(action(image="quay.io/Upper/case")), "spec.actions[0].image"),
        (template(action(timeout=0)), "spec.actions[0].timeout"),
        (template(action(timeout=10**12)), "spec.actions[0].timeout"),
        (template(parameters={"type": "array"}), "spec.parameters.type"),
        (template(parameters={"properties": {"a": {"type": "text"}}}), "spec.parameters.properties.a.type"),
        (template(parameters={"allOf": [{"type": 1}]}), "spec.parameters.allOf[0].type"),
        (template(action(command=("x", "{{ machine.color }}"))), "spec.actions[0].command[1]"),
        (template(action(volumes=("{{ parameters.nope }}:/x",))), "spec.actions[0].volumes[0]"),
        (template(action(environment={"A": "{{parameters.nope}}"})), "spec.actions[0].environment.A"),
        (template(action(environment={"{{machine.nope}}": "x"})), "spec.actions[0].environment"),
        (template(action(name="{{ parameters.nope }}")), "spec.actions[0].name"),
    ],
)
def test_what_breaks_a_rule_is_told_with_its_path(wrong: TemplateSpec, field: str) -> None:
    assert told(wrong) == [field]


@pytest.mark.parametrize(
    "image",
    [
        "alpine",
        "docker.io/library/busybox:1.36",
        "127.0.0.1:5000/x/y:V1",
        "localhost/a__b/c.d-e:1",
        f"quay.io/x@sha256:{'0' * 64}",
        "{{ parameters.image }}",
        "quay.io/x/{{ machine.arch }}:{{ parameters.image }}",
        "quay.io/x:{{ .anything }}",
    ],
)
def test_usual_images_are_taken(image: str) -> None:
    spec = template(action(image=image), parameters=DECLARED)

    assert validated(spec) == spec


@pytest.mark.parametrize("image", ["a" + "." * 5_000 + "!", "a-" * 5_000 + "!", "a/" * 5_000, "{{" * 5_000])
def test_a_hostile_image_is_refused_in_no_time(image: str) -> None:
    """The first pattern took exponential time for dots: one request stopped a replica."""
    began = time.process_time()

    assert told(template(action(image=image))) == ["spec.actions[0].image"]

    assert time.process_time() - began < 1


def test_placeholders_are_found_wherever_an_action_has_text() -> None:
    spec = template(
        action(
            name="on {{ machine.name }}",
            image="{{ parameters.image }}",
            command=("{{machine.mac}}", "{{ .left.to.tinkerbell }}", "{{ machine.disk | quote }}"),
            environment={"{{ parameters.key }}": "{{  parameters.value  }}"},
            volumes=("{{ machine.arch }}:/x",),
        )
    )

    assert placeholders(spec) == {
        ("machine", "name"),
        ("machine", "mac"),
        ("machine", "arch"),
        ("parameters", "image"),
        ("parameters", "key"),
        ("parameters", "value"),
    }


def refused(schema: dict[str, Any], parameters: dict[str, Any]) -> dict[str, str]:
    with pytest.raises(Invalid) as caught:
        checked_parameters(TemplateSpec(parameters=schema), parameters)
    return {error.field: error.message for error in caught.value.errors}


def test_without_a_schema_there_are_no_parameters() -> None:
    assert checked_parameters(TemplateSpec(), {}) == {}
    assert refused({}, {"x": 1}) == {"parameters.x": "is no parameter of this template; it has none"}


def test_defaults_are_filled_in_and_overridden() -> None:
    schema = {"properties": {"a": {"default": 1}, "b": {"default": [2]}, "c": {}, "d": True}}

    assert checked_parameters(TemplateSpec(parameters=schema), {"b": [3]}) == {"a": 1, "b": [3]}


def test_a_default_satisfies_what_is_required() -> None:
    schema = {"properties": {"a": {"default": 1}}, "required": ["a"]}

    assert checked_parameters(TemplateSpec(parameters=schema), {}) == {"a": 1}


def test_every_missing_parameter_is_told_once() -> None:
    schema = {"properties": {"a": {}, "b": {}, "c": {}}, "required": ["a", "b", "c"]}

    assert refused(schema, {"b": 1}) == {
        "parameters.a": "is required by the template",
        "parameters.c": "is required by the template",
    }


def test_what_is_nested_is_told_with_its_path() -> None:
    disk = {"type": "object", "required": ["size"], "properties": {"size": {"type": "integer"}}}
    schema = {"properties": {"disks": {"type": "array", "items": disk}}}

    assert list(refused(schema, {"disks": [{"size": 1}, {}]})) == ["parameters.disks[1].size"]
    assert list(refused(schema, {"disks": [{"size": "big"}]})) == ["parameters.disks[0].size"]


def test_unknown_ones_are_refused_unless_the_schema_takes_others() -> None:
    known: dict[str, Any] = {"properties": {"a": {}, "b": {}}}

    assert list(refused(known, {"q": 1}).values()) == ["is no parameter of this template; it has a, b"]
    assert list(refused(known | {"additionalProperties": False}, {"q": 1})) == ["parameters.q"]
    for others in (True, {}, {"type": "integer"}):
        spec = TemplateSpec(parameters=known | {"additionalProperties": others})
        assert checked_parameters(spec, {"q": 1}) == {"q": 1}
    assert list(refused(known | {"additionalProperties": {"type": "integer"}}, {"q": "x"})) == ["parameters.q"]


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#/$defs/missing"},
        {"properties": {"a": {"$ref": "#/properties/a"}}},
        {"properties": {"a": {"$ref": "http://127.0.0.1:9/schema.json"}}},
    ],
)
def test_a_reference_that_leads_nowhere_is_told_and_nothing_is_fetched(schema: dict[str, Any]) -> None:
    schema = {"properties": {"a": {}}} | schema

    assert list(refused(schema, {"a": 1})) == ["parameters"]


def test_an_action_without_a_timeout_is_no_action() -> None:
    with pytest.raises(msgspec.ValidationError, match="missing required field `timeout`"):
        msgspec.json.decode(b'{"actions": [{"name": "a", "image": "b"}]}', type=TemplateSpec)
