"""What one client follows: which objects, and which of those it may see. Pure.

An object that comes into a view is created there, one that leaves it is deleted, whatever became of it otherwise. What
a client is told of a deleted object is its last state in the view: nothing that it may not see.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple, TypeAlias

from dragonfly.feed.changes import Change, ChangeType
from dragonfly.feed.shown import Ref, Shown
from dragonfly.model.selectors import Requirement

MaySee: TypeAlias = Callable[[Shown], bool]
"""Whether a client may see an object as it is at some revision; a function of the object alone."""


def everything(_: Shown) -> bool:
    """What an administrator may see."""
    return True


class Filter(NamedTuple):
    """Conditions that must all hold; empty ones do. An object without a facet that is asked for is left out."""

    kinds: frozenset[str] = frozenset()
    names: frozenset[str] = frozenset()
    selector: tuple[Requirement, ...] = ()
    tags: frozenset[str] = frozenset()
    facets: tuple[tuple[str, frozenset[str]], ...] = ()
    """Each with the values of which one will do: `phase`, `cluster`, `machine`, `template`."""
    words: tuple[str, ...] = ()
    """In lower case; each occurs somewhere in the object."""

    def takes(self, shown: Shown) -> bool:
        if self.kinds and shown.ref.kind not in self.kinds:
            return False
        if self.names and shown.ref.name not in self.names:
            return False
        if any(shown.facets.get(name) not in values for name, values in self.facets):
            return False
        if self.tags and not self.tags.issubset(shown.tags):
            return False
        if not all(_holds(requirement, shown.labels) for requirement in self.selector):
            return False
        return not self.words or all(word in text for text in (shown.words(),) for word in self.words)


class Seen(NamedTuple):
    """A change as it looks in a view."""

    type: ChangeType
    shown: Shown
    """As it is now; of a deleted object, as it was last."""
    revision: int


class View(NamedTuple):
    """Equal views share their work."""

    filter: Filter = Filter()
    may_see: MaySee = everything

    def shows(self, shown: Shown | None) -> bool:
        return shown is not None and self.filter.takes(shown) and self.may_see(shown)

    def seen(self, change: Change) -> Seen | None:
        """Return what a change looks like; None if it happens outside."""
        before, after = change.before, change.after
        if after is not None and self.shows(after):
            return Seen("updated" if self.shows(before) else "created", after, change.revision)
        if before is not None and self.shows(before):
            return Seen("deleted", before, change.revision)
        return None


def net(changes: Iterable[Seen]) -> list[Seen]:
    """Return what changes altogether: one for each object at most, in order of their last revisions.

    Args:
        changes: all of one view between two revisions, in order.
    """
    left: dict[Ref, Seen] = {}
    for seen in changes:
        earlier = left.pop(seen.shown.ref, None)
        if earlier is None:
            left[seen.shown.ref] = seen
        elif merged := _merged(earlier, seen):
            left[seen.shown.ref] = merged
    return list(left.values())


def _merged(earlier: Seen, later: Seen) -> Seen | None:
    """Both in one; None if nothing is left of them."""
    if earlier.type == "created":
        return None if later.type == "deleted" else later._replace(type="created")
    return later._replace(type="updated") if later.type == "created" else later


def _holds(requirement: Requirement, labels: Mapping[str, str]) -> bool:
    key, values, wanted = requirement
    found = key in labels if values is None else labels.get(key) in values
    return found == wanted
