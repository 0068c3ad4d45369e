"""A compiled template is what was meant, whatever people put into parameters and machines."""

import re
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from dragonfly.kube.compile import map_values, tinkerbell_yaml
from dragonfly.model.template import Action, TemplateSpec

_ENTRY = re.compile(r"\{\{ \.([A-Za-z_][A-Za-z0-9_]*) \}\}")
HOSTILE = st.one_of(
    st.text(),
    st.sampled_from(
        [
            '"',
            "\\",
            "\\n",
            "a\nb",
            "\r\n",
            "{{",
            "}}",
            "{{ .dragonfly_worker }}",
            '"}, {"name": "evil", "image": "x", "timeout": 1}',
            "- a: b # c",
            "yes",
            "null",
            "0o17",
            "!!python/object:x",
            "&a *a",
            "\u0085\u2028\u2029\ufeff\ufffe\uffff",
            "\x00\x07\x1b\x7f\x9f",
            "\U0001f40d",
            "%YAML 1.2",
            " \t ",
        ]
    ),
)


def rendered(data: str, values: dict[str, str]) -> Any:
    """As Tinkerbell does: Go's template with missingkey=error, then YAML."""
    return yaml.safe_load(_ENTRY.sub(lambda match: values[match[1]], data))


def compiled(spec: TemplateSpec, parameters: dict[str, Any], machine: dict[str, str] | None = None) -> Any:
    values = {"worker": "02:00:00:00:00:01"} | map_values(spec, machine or {}, parameters)
    document = rendered(tinkerbell_yaml("t-r1", spec, worker="worker"), values)
    (task,) = document["tasks"]
    assert (document["name"], task["worker"]) == ("t-r1", "02:00:00:00:00:01")
    return task["actions"]


@given(HOSTILE, HOSTILE)
def test_a_value_arrives_as_it_was_given_wherever_it_is_asked_for(parameter: str, machine: str) -> None:
    spec = TemplateSpec(
        actions=(
            Action(
                name="a",
                image="x/{{ parameters.p }}",
                timeout=1,
                command=("{{ parameters.p }}", "<{{machine.userData}}>", "{{ parameters.p }}{{ machine.userData }}"),
                environment={"P": "{{ parameters.p }}", "M": "-- {{ machine.userData }} --"},
                volumes=("{{ parameters.p }}:/x",),
            ),
        )
    )

    assert compiled(spec, {"p": parameter}, {"userData": machine}) == [
        {
            "name": "a",
            "image": f"x/{parameter}",
            "timeout": 1,
            "command": [parameter, f"<{machine}>", parameter + machine],
            "environment": {"P": parameter, "M": f"-- {machine} --"},
            "volumes": [f"{parameter}:/x"],
        }
    ]


@given(HOSTILE.filter(lambda text: "{{" not in text))
def test_what_the_template_itself_says_arrives_too(text: str) -> None:
    spec = TemplateSpec(actions=(Action(name="a", image="x", timeout=1, command=(text,), environment={"K": text}),))

    (action,) = compiled(spec, {})

    assert (action["command"], action["environment"]) == ([text], {"K": text})


@pytest.mark.parametrize(
    ("value", "text"),
    [(True, "true"), (3, "3"), (1.5, "1.5"), (None, "null"), (["a"], '["a"]'), ({"k": 'q"'}, '{"k": "q\\""}')],
)
def test_a_parameter_that_is_no_text_arrives_as_json(value: Any, text: str) -> None:
    spec = TemplateSpec(actions=(Action(name="a", image="x", timeout=1, command=("{{ parameters.p }}",)),))

    assert compiled(spec, {"p": value})[0]["command"] == [text]


def test_a_parameter_that_was_left_out_is_empty_not_an_error_of_tinkerbells() -> None:
    spec = TemplateSpec(actions=(Action(name="a", image="x", timeout=1, command=("<{{ parameters.p }}>",)),))

    assert compiled(spec, {})[0]["command"] == ["<>"]


def test_names_and_keys_may_ask_for_values() -> None:
    action = Action(name="on {{ machine.name }}", image="x", timeout=1, environment={"{{ parameters.k }}": "v"})
    spec = TemplateSpec(actions=(action,))

    (found,) = compiled(spec, {"k": "KEY"}, {"name": "m-1"})

    assert (found["name"], found["environment"]) == ("on m-1", {"KEY": "v"})


def test_what_is_tinkerbells_is_left_to_tinkerbell() -> None:
    expression = '{{ index .Hardware.Disks 0 | printf "%s" }}'
    spec = TemplateSpec(actions=(Action(name="a", image="x", timeout=1, command=(f'say "{expression}"',)),))

    assert rf'["say \"{expression}\""]' in tinkerbell_yaml("t", spec, worker="w")


def test_actions_keep_their_order_and_the_global_timeout_is_said() -> None:
    actions = tuple(Action(name=name, image="x", timeout=number) for number, name in enumerate("cab", 1))
    spec = TemplateSpec(actions=actions, global_timeout=77)

    document = rendered(tinkerbell_yaml("t", spec, worker="w"), {"w": "agent"})

    assert document["global_timeout"] == 77
    assert [(a["name"], a["timeout"]) for a in document["tasks"][0]["actions"]] == [("c", 1), ("a", 2), ("b", 3)]


def test_a_raw_template_gets_every_parameter_and_the_machines_values() -> None:
    spec = TemplateSpec(raw="version: 1")

    values = map_values(spec, {"mac": "m", "name": "n"}, {"p": "x", "machine_mac": "forged", "list": [1]})

    assert values == {"p": "x", "list": "[1]", "machine_mac": "m", "machine_name": "n"}
