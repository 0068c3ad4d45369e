"""Label selectors in Kubernetes' syntax: `a=b`, `a==b`, `a!=b`, `a in (b,c)`, `a notin (b,c)`, `a`, `!a`.

https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#label-selectors
"""

import re
from typing import NamedTuple

from dragonfly.model.values import FieldError, Invalid

_KEY = r"[A-Za-z0-9]([-A-Za-z0-9_./]*[A-Za-z0-9])?"
_VALUE = r"[-A-Za-z0-9_.]*"
_EXISTS = re.compile(rf"(?P<no>!?)\s*(?P<key>{_KEY})")
_EQUALS = re.compile(rf"(?P<key>{_KEY})\s*(?P<op>==|=|!=)\s*(?P<value>{_VALUE})")
_SET = re.compile(rf"(?P<key>{_KEY})\s+(?P<op>in|notin)\s*\((?P<values>[^()]*)\)")
_COMMA = re.compile(r",(?![^(]*\))")
"""A comma that is not within parentheses."""


class Requirement(NamedTuple):
    """One term: the key has one of the values, or it has not. One that excludes holds where the key is absent, too."""

    key: str
    values: frozenset[str] | None
    """None asks for the key alone."""
    wanted: bool


def requirements(text: str) -> tuple[Requirement, ...]:
    """Return the terms of a selector, all of which must hold.

    Raises:
        Invalid: a term is in none of the forms.
    """
    return tuple(_requirement(term.strip()) for term in _COMMA.split(text)) if text.strip() else ()


def _requirement(term: str) -> Requirement:
    if match := _SET.fullmatch(term):
        values = frozenset(value.strip() for value in match["values"].split(","))
        return Requirement(match["key"], values, match["op"] == "in")
    if match := _EQUALS.fullmatch(term):
        return Requirement(match["key"], frozenset({match["value"]}), match["op"] != "!=")
    if match := _EXISTS.fullmatch(term):
        return Requirement(match["key"], None, not match["no"])
    message = "must be terms such as a=b, a!=b, a in (b,c), a notin (b,c), a, !a, joined by commas"
    raise Invalid([FieldError("?labelSelector", message, term)])
