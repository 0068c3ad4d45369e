"""Template: how to install an operating system; its twin is a Tinkerbell Template, one for each revision in use."""

import re
from collections.abc import Iterable, Iterator
from typing import Any, Literal

import jsonschema
from jsonschema.exceptions import SchemaError, ValidationError
from referencing import Registry
from referencing.exceptions import Unresolvable

from dragonfly.model.values import FieldError, Input, Invalid, Metadata, MetadataInput, Value

# Tinkerbell's own bounds (pkg/data of v0.25): names of 1 to 199 characters, a rendered template of 256 KiB.
_NAME_LIMIT = 199
_RAW_LIMIT = 256 * 1024
_LONGEST = 30 * 86_400
"""Seconds: what takes a month is a mistake, and much greater numbers are beyond the calendar."""

PLACEHOLDER = re.compile(r"\{\{\s*(machine|parameters)\.([A-Za-z_][A-Za-z0-9_]*)\s*\}\}")
"""A value that Dragonfly fills in; every other `{{ … }}` is left to Tinkerbell."""

MACHINE_VALUES = ("name", "hostname", "mac", "address", "ip", "gateway", "disk", "arch", "firmware", "userData")
"""What `{{ machine.… }}` may name."""

_EXPRESSION = re.compile(r"\{\{[^{}]*\}\}")
# host[:port]/path[:tag][@digest]; looser than OCI's, since what `{{ … }}` stands for is not known here. Each separator
# is of other characters than what it separates, so that no text takes more than linear time.
_IMAGE = re.compile(
    r"([a-zA-Z0-9]+([.-][a-zA-Z0-9]+)*(:[0-9]+)?/)?"
    r"[a-z0-9]+((\.|__?|-+|/)[a-z0-9]+)*(:[a-zA-Z0-9_][a-zA-Z0-9_.-]*)?(@[a-zA-Z0-9_.+:-]+)?"
)


class Os(Input, frozen=True, kw_only=True):
    family: str = ""
    version: str = ""
    arch: str = ""


class Action(Input, frozen=True, kw_only=True):
    """One container that Tinkerbell runs on the machine."""

    name: str
    image: str
    timeout: int
    """Seconds. Tinkerbell ends an action without one at once, so it is required."""
    command: tuple[str, ...] = ()
    environment: dict[str, str] = {}
    volumes: tuple[str, ...] = ()


class TemplateSpec(Input, frozen=True, kw_only=True):
    os: Os = Os()
    parameters: dict[str, Any] = {}
    """JSON Schema of the parameters' object; empty allows none."""
    global_timeout: int = 3600
    """Seconds that the whole installation may take once the machine has begun."""
    actions: tuple[Action, ...] = ()
    raw: str = ""
    """Tinkerbell's own YAML, for what `actions` cannot say."""
    boot: Literal["", "netboot", "iso", "none"] = ""
    """Overrides the machine's way of booting."""


class TemplateInput(Input, frozen=True, kw_only=True):
    """A template as people send it."""

    metadata: MetadataInput = MetadataInput()
    spec: TemplateSpec
    kind: Literal["Template"] = "Template"
    status: Any = None


class Template(Value, frozen=True, kw_only=True):
    """A template as it is stored below `templates/`."""

    metadata: Metadata
    spec: TemplateSpec

    @property
    def name(self) -> str:
        return self.metadata.name


def validated(spec: TemplateSpec) -> TemplateSpec:
    """Return `spec` if Tinkerbell can be expected to run it.

    Raises:
        Invalid: with every rule that the spec breaks.
    """
    errors = list(_errors(spec))
    if errors:
        raise Invalid(errors)
    return spec


def checked_parameters(spec: TemplateSpec, parameters: dict[str, Any]) -> dict[str, Any]:
    """Return `parameters` with the defaults of the template's schema filled in.

    Raises:
        Invalid: they do not fit the schema; each error names its parameter.
    """
    properties = _properties(spec)
    filled = {name: prop["default"] for name, prop in _schemas(properties) if "default" in prop} | parameters
    takes_others = spec.parameters.get("additionalProperties", False) is not False
    unknown = [name for name in parameters if name not in properties and not takes_others]
    errors = [_unknown_parameter(name, parameters[name], properties) for name in unknown]
    schema = {key: value for key, value in spec.parameters.items() if key != "additionalProperties" or takes_others}
    errors += _parameter_errors({"type": "object", **schema}, filled)
    if errors:
        raise Invalid(errors)
    return filled


def placeholders(spec: TemplateSpec) -> set[tuple[str, str]]:
    """Return what the actions ask for, as (`machine` or `parameters`, name)."""
    return {(source, name) for _, text in _texts(spec) for source, name in PLACEHOLDER.findall(text)}


def _errors(spec: TemplateSpec) -> Iterator[FieldError]:
    if not 1 <= spec.global_timeout <= _LONGEST:
        # 0 makes Tinkerbell end the Workflow after its first action.
        yield FieldError("spec.globalTimeout", f"must be 1 to {_LONGEST} seconds", spec.global_timeout)
    yield from _schema_errors(spec.parameters)
    if bool(spec.actions) == bool(spec.raw):
        yield FieldError("spec.actions", "give either actions or raw, and not both")
    if len(spec.raw.encode()) > _RAW_LIMIT:
        yield FieldError("spec.raw", "must be at most 256 KiB: Tinkerbell renders no more")
    yield from _action_errors(spec.actions)
    yield from _placeholder_errors(spec)


def _schema_errors(schema: dict[str, Any]) -> Iterator[FieldError]:
    if not schema:
        return
    try:
        jsonschema.Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        yield FieldError(f"spec.parameters{_path(error)}", f"is no JSON Schema (2020-12): {error.message}")
        return
    if schema.get("type", "object") != "object":
        yield FieldError("spec.parameters.type", "must be object: parameters have names", schema["type"])


def _action_errors(actions: tuple[Action, ...]) -> Iterator[FieldError]:
    seen: set[str] = set()
    for index, action in enumerate(actions):
        field = f"spec.actions[{index}]"
        if not 1 <= len(action.name) <= _NAME_LIMIT:
            yield FieldError(f"{field}.name", f"must have 1 to {_NAME_LIMIT} characters", action.name)
        if action.name in seen:
            yield FieldError(f"{field}.name", "is already the name of another action", action.name)
        seen.add(action.name)
        if _IMAGE.fullmatch(_EXPRESSION.sub("0", action.image)) is None:
            yield FieldError(f"{field}.image", "must be an image reference such as quay.io/org/name:tag", action.image)
        if not 1 <= action.timeout <= _LONGEST:
            yield FieldError(f"{field}.timeout", f"must be 1 to {_LONGEST} seconds", action.timeout)


def _placeholder_errors(spec: TemplateSpec) -> Iterator[FieldError]:
    known = _properties(spec)
    for field, text in _texts(spec):
        for source, name in PLACEHOLDER.findall(text):
            if source == "machine" and name not in MACHINE_VALUES:
                yield FieldError(field, f"machine.{name} is unknown; there are {', '.join(MACHINE_VALUES)}", text)
            if source == "parameters" and name not in known:
                yield FieldError(field, f"parameters.{name} is not declared in spec.parameters.properties", text)


def _texts(spec: TemplateSpec) -> Iterator[tuple[str, str]]:
    for index, action in enumerate(spec.actions):
        field = f"spec.actions[{index}]"
        yield f"{field}.name", action.name
        yield f"{field}.image", action.image
        yield from ((f"{field}.command[{i}]", text) for i, text in enumerate(action.command))
        yield from ((f"{field}.volumes[{i}]", text) for i, text in enumerate(action.volumes))
        for key, text in action.environment.items():
            yield f"{field}.environment", key
            yield f"{field}.environment.{key}", text


def _properties(spec: TemplateSpec) -> dict[str, Any]:
    properties = spec.parameters.get("properties", {})
    return properties if isinstance(properties, dict) else {}


def _unknown_parameter(name: str, value: Any, properties: dict[str, Any]) -> FieldError:
    known = ", ".join(sorted(properties)) or "none"
    return FieldError(f"parameters.{name}", f"is no parameter of this template; it has {known}", value)


def _schemas(properties: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The properties that say something; `true` is a schema too, and says nothing."""
    return ((name, schema) for name, schema in properties.items() if isinstance(schema, dict))


def _parameter_errors(schema: dict[str, Any], parameters: dict[str, Any]) -> list[FieldError]:
    # An empty registry: without one, jsonschema fetches a `$ref` to a URL over the network.
    registry: Registry[Any] = Registry()
    validator = jsonschema.Draft202012Validator(schema, registry=registry)
    try:
        return list(_told(validator.iter_errors(parameters)))
    except (Unresolvable, RecursionError):
        return [FieldError("parameters", "can't be checked: a $ref in the template's spec.parameters leads nowhere")]


def _told(errors: Iterable[ValidationError]) -> Iterator[FieldError]:
    incomplete: set[str] = set()
    for error in errors:
        path = _path(error)
        required = error.validator_value if error.validator == "required" else None
        if not isinstance(required, list) or not isinstance(error.instance, dict):
            yield FieldError(f"parameters{path}", error.message, error.instance)
        elif path not in incomplete:
            # jsonschema makes one error for each name, and only its message tells which.
            incomplete.add(path)
            absent = [name for name in required if name not in error.instance]
            yield from (FieldError(f"parameters{path}.{name}", "is required by the template") for name in absent)


def _path(error: ValidationError | SchemaError) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.absolute_path)
