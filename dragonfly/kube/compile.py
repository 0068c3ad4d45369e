"""Dragonfly's actions made into the YAML that Tinkerbell renders. Pure.

The result is JSON, which is YAML: every string of the template is quoted here, and every value that a person gave is
handed over escaped for the inside of such a string, so no parameter can add an action or break the document. What is
in `{{ … }}` and not Dragonfly's own is left as it is for Tinkerbell's template language.
"""

import json
import re
from collections.abc import Mapping
from typing import Any, Final

from dragonfly.model.template import PLACEHOLDER, Action, TemplateSpec, placeholders

_EXPRESSION: Final = re.compile(r"\{\{.*?\}\}", re.DOTALL)
# Line breaks and what is not printable to YAML, though both to JSON.
_BREAKS: Final = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")


def tinkerbell_yaml(name: str, spec: TemplateSpec, *, worker: str) -> str:
    """Return the template's data: one task on the machine's own agent, with all actions.

    Args:
        worker: the hardwareMap entry that names the agent.
    """
    actions = ",\n".join(f"    {_action(action)}" for action in spec.actions)
    return (
        f'{{"version": "0.1", "name": {_quoted(name)}, "global_timeout": {spec.global_timeout}, "tasks": [\n'
        f'  {{"name": "install", "worker": "{{{{ .{worker} }}}}", "actions": [\n{actions}\n  ]}}\n]}}\n'
    )


def map_values(spec: TemplateSpec, machine: Mapping[str, str], parameters: Mapping[str, Any]) -> dict[str, str]:
    """Return the hardwareMap entries for every placeholder; a raw template gets all parameters, unescaped, by name."""
    if spec.raw:
        return {name: _text(value) for name, value in parameters.items()} | {
            _key("machine", name): value for name, value in machine.items()
        }
    sources: Mapping[str, Mapping[str, Any]] = {"machine": machine, "parameters": parameters}
    asked = sorted(placeholders(spec))
    return {_key(source, name): _escaped(_text(sources[source].get(name, ""))) for source, name in asked}


def _action(action: Action) -> str:
    fields = [
        f'"name": {_quoted(action.name)}',
        f'"image": {_quoted(action.image)}',
        f'"timeout": {action.timeout}',
    ]
    if action.command:
        fields.append(f'"command": [{", ".join(_quoted(part) for part in action.command)}]')
    if action.environment:
        pairs = (f"{_quoted(key)}: {_quoted(value)}" for key, value in sorted(action.environment.items()))
        fields.append(f'"environment": {{{", ".join(pairs)}}}')
    if action.volumes:
        fields.append(f'"volumes": [{", ".join(_quoted(volume) for volume in action.volumes)}]')
    return "{" + ", ".join(fields) + "}"


def _quoted(text: str) -> str:
    """Quote `text` for YAML, without touching the template expressions in it."""
    parts, end = [], 0
    for match in _EXPRESSION.finditer(text):
        parts.append(_escaped(text[end : match.start()]))
        parts.append(_expression(match[0]))
        end = match.end()
    return f'"{"".join(parts)}{_escaped(text[end:])}"'


def _expression(text: str) -> str:
    own = PLACEHOLDER.fullmatch(text)
    return f"{{{{ .{_key(own[1], own[2])} }}}}" if own else text


def _key(source: str, name: str) -> str:
    return f"{source}_{name}"


def _escaped(text: str) -> str:
    plain = json.dumps(text, ensure_ascii=False)[1:-1]
    return _BREAKS.sub(lambda match: f"\\u{ord(match[0]):04x}", plain)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
