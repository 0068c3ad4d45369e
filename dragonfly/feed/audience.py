"""Whom a change may concern, found without asking each: followers are filed by what their views ask for. Pure.

Of all that a view asks for, the condition that the fewest objects meet decides where it is filed. An object has one
value, or a few, in each dimension; who is not filed under one of them has no use for it. So a change costs what those
cost that it may concern, however many follow something else.
"""

from collections.abc import Collection, Hashable, Iterable, Iterator
from typing import Final, Generic, Literal, NamedTuple, TypeVar

from dragonfly.feed.changes import Change
from dragonfly.feed.shown import Shown
from dragonfly.feed.view import Filter

Follower = TypeVar("Follower", bound=Hashable)


class Dimension(NamedTuple):
    """Something that objects have and views may ask for; `key` tells labels and facets apart."""

    what: Literal["name", "facet", "label", "tag", "kind", "any"]
    key: str = ""

    def of(self, shown: Shown) -> Collection[str]:
        """The values that an object has in this dimension."""
        match self.what:
            case "name":
                return (shown.ref.name,)
            case "facet":
                return (shown.facets[self.key],) if self.key in shown.facets else ()
            case "label":
                return (shown.labels[self.key],) if self.key in shown.labels else ()
            case "tag":
                return shown.tags
            case "kind":
                return (shown.ref.kind,)
            case _:
                return _ANYTHING

    def among(self, change: Change) -> Collection[str]:
        """The values that the object has before or after."""
        before, after = change.before, change.after
        if before is None or after is None:
            shown = before or after
            return self.of(shown) if shown is not None else ()
        left, now = self.of(before), self.of(after)
        return now if left == now else {*left, *now}


class Wanted(NamedTuple):
    """What an object must have, one of several values in a dimension, to be of any use to a view."""

    dimension: Dimension
    values: frozenset[str]


_ANYTHING: Final = ("",)
_ALL: Final = Wanted(Dimension("any"), frozenset(_ANYTHING))
_FACETS: Final = ("machine", "template", "phase", "cluster")
"""Those that few objects share before those that many do."""


def wanted(asked: Filter) -> Wanted:
    """Return what the fewest objects have of all that a filter asks for."""
    return next(_conditions(asked), _ALL)


def _conditions(asked: Filter) -> Iterator[Wanted]:
    facets = dict(asked.facets)
    if asked.names:
        yield Wanted(Dimension("name"), asked.names)
    yield from (Wanted(Dimension("facet", name), facets[name]) for name in _FACETS[:1] if name in facets)
    for key, values, has in asked.selector:
        if has and values is not None:
            yield Wanted(Dimension("label", key), values)
    yield from (Wanted(Dimension("tag"), frozenset({tag})) for tag in sorted(asked.tags))
    yield from (Wanted(Dimension("facet", name), facets[name]) for name in _FACETS[1:] if name in facets)
    if asked.kinds:
        yield Wanted(Dimension("kind"), asked.kinds)


class Audience(Generic[Follower]):
    """Followers, each filed under what it wants."""

    def __init__(self) -> None:
        self._filed: dict[Dimension, dict[str, set[Follower]]] = {}

    def add(self, follower: Follower, wants: Wanted) -> None:
        for value in wants.values:
            self._filed.setdefault(wants.dimension, {}).setdefault(value, set()).add(follower)

    def discard(self, follower: Follower, wants: Wanted) -> None:
        """Forget a follower; it must have been added as what it is."""
        for value in wants.values:
            under = self._filed[wants.dimension]
            under[value].discard(follower)
            if not under[value]:
                del under[value]
            if not under:
                del self._filed[wants.dimension]

    def of(self, change: Change) -> Iterable[Follower]:
        """Yield whom a change may concern; one follower more than once at times."""
        for dimension, under in self._filed.items():
            for value in dimension.among(change):
                yield from under.get(value, ())
