"""JSON from people: parsed strictly, decoded into the model's types, merged; each mistake is told with its place."""

import json
from collections.abc import Iterator
from typing import Any, Final, TypeVar, get_args

import msgspec

from dragonfly.model.values import FieldError, Invalid

T = TypeVar("T")

_SECRETS: Final = frozenset({"password", "secret", "kubeconfig"})
_LONGEST_TOLD: Final = 200

# How msgspec begins its sentences (0.19 to 0.22); what begins otherwise is passed on as it is.
_UNKNOWN: Final = "Object contains unknown field "
_MISSING: Final = "Object missing required field "
_ENUM: Final = "Invalid enum value "


class Malformed(Exception):
    """The body is no JSON document at all."""


class _Repeated(dict[str, Any]):
    """An object that gives some of its fields more than once."""

    names: tuple[str, ...]


def parsed(body: bytes) -> Any:
    """Return the JSON document in `body`.

    Raises:
        Malformed: it is no JSON, or nested too deep.
        Invalid: an object has a field twice; which of the two was meant cannot be known.
    """
    try:
        msgspec.json.decode(body)  # stricter than the standard library: no NaN, no lone surrogates
        document = json.loads(body, object_pairs_hook=_object)
    except msgspec.DecodeError as error:
        raise Malformed(f"The body is no JSON: {error}.") from error
    except RecursionError as error:
        raise Malformed("The body is nested too deep.") from error
    except ValueError as error:  # integers of more than 4,300 digits
        raise Malformed(f"The body is no JSON that can be read: {error}.") from error
    errors = [FieldError(field, "is given more than once") for field in _repeated(document, "")]
    if errors:
        raise Invalid(errors)
    return document


def as_input(document: Any, kind: type[T]) -> T:
    """Return the document as one of the model's input types.

    Raises:
        Invalid: names the field that does not fit, and what would.
    """
    try:
        return msgspec.convert(document, kind)
    except msgspec.ValidationError as error:
        raise Invalid([_field_error(str(error), document, kind)]) from error


def merged(target: Any, patch: Any) -> Any:
    """Apply a JSON Merge Patch (RFC 7396): null removes, objects merge, everything else replaces. Changes neither."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merged(result.get(name), value)
    return result


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) == len(pairs):
        return fields
    repeated = _Repeated(fields)
    names = [name for name, _ in pairs]
    repeated.names = tuple(name for name in fields if names.count(name) > 1)
    return repeated


def _repeated(document: Any, place: str) -> Iterator[str]:
    if isinstance(document, _Repeated):
        yield from (_join(place, name) for name in document.names)
    if isinstance(document, dict):
        for name, value in document.items():
            yield from _repeated(value, _join(place, name))
    if isinstance(document, list):
        for index, value in enumerate(document):
            yield from _repeated(value, f"{place}[{index}]")


def _field_error(message: str, document: Any, kind: Any) -> FieldError:
    """Turn msgspec's sentence (`Expected … - at `$.spec…``) into a field, a value and what is allowed."""
    what, _, at = message.partition(" - at `")
    place = at.removesuffix("`").removeprefix("$").removeprefix(".")
    if what.startswith(_UNKNOWN):
        name = what.removeprefix(_UNKNOWN).strip("`")
        return FieldError(_join(place, name), f"is unknown; there are {_choices(_fields_at(kind, place))}")
    if what.startswith(_MISSING):
        return FieldError(_join(place, what.removeprefix(_MISSING).strip("`")), "is required")
    place = _with_key(place, document)
    value = _tellable(place, _value_at(document, place))
    if what.startswith(_ENUM):
        return FieldError(place, f"must be one of {_choices(_literals(_type_at(kind, place)))}", value)
    return FieldError(place or "(body)", _lowered(what), value)


def _tellable(place: str, value: Any) -> Any:
    """What was sent, unless it is a secret or too long to help."""
    is_long = isinstance(value, dict | list) or (isinstance(value, str) and len(value) > _LONGEST_TOLD)
    return None if is_long or place.rpartition(".")[2] in _SECRETS else value


def _with_key(place: str, document: Any) -> str:
    """Name the entry of a mapping of texts that msgspec only calls `[...]`."""
    parent = place.removesuffix("[...]")
    entries = _value_at(document, parent) if parent != place else None
    if not isinstance(entries, dict):
        return place
    return next((f"{parent}.{key}" for key, value in entries.items() if not isinstance(value, str)), place)


def _steps(place: str) -> list[str]:
    return [step for step in place.replace("[", ".[").split(".") if step]


def _value_at(document: Any, place: str) -> Any:
    for step in _steps(place):
        if step.startswith("["):
            index = step[1:-1]
            document = document[int(index)] if isinstance(document, list) and index.isdigit() else None
        else:
            document = document.get(step) if isinstance(document, dict) else None
    return document


def _type_at(kind: Any, place: str) -> Any:
    """Follow a path through structs, sequences, mappings and optionals to the type that stands there."""
    for step in _steps(place):
        kind = _inner(kind)
        if step.startswith("["):
            arguments = [argument for argument in get_args(kind) if argument is not Ellipsis]
            kind = arguments[-1] if arguments else Any
        else:
            kind = next((field.type for field in _struct_fields(kind) if field.encode_name == step), Any)
    return _inner(kind)


def _inner(kind: Any) -> Any:
    members = [member for member in get_args(kind) if member is not type(None)]
    return members[0] if type(None) in get_args(kind) and len(members) == 1 else kind


def _struct_fields(kind: Any) -> tuple[msgspec.structs.FieldInfo, ...]:
    return msgspec.structs.fields(kind) if isinstance(kind, type) and issubclass(kind, msgspec.Struct) else ()


def _fields_at(kind: Any, place: str) -> list[str]:
    return [field.encode_name for field in _struct_fields(_type_at(kind, place))]


def _literals(kind: Any) -> list[str]:
    return [str(value) or "(empty)" for value in get_args(kind)]


def _choices(words: list[str]) -> str:
    return ", ".join(words) or "none"


def _join(place: str, name: str) -> str:
    return f"{place}.{name}" if place else name


def _lowered(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:]
