"""Names as people give them: alone, or with their kind as `get -o name` prints them; offered when a shell completes."""

import functools
import os
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import click

from dragonfly.cli.client import Client, Query
from dragonfly.cli.connection import connection
from dragonfly.cli.errors import CliError
from dragonfly.cli.kinds import KINDS, MACHINES, TEMPLATES, Kind, KindType, name_of

_QUICK = 1.0
"""Seconds that a shell waits for names at most."""


class NameType(click.ParamType[str]):
    """The name of something of one of these kinds: m-17, machine/m-17 or m/m-17."""

    name = "name"

    def __init__(self, *kinds: Kind) -> None:
        self._kinds = kinds

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        prefix, slash, name = str(value).partition("/")
        said = _kind(prefix) if slash else None
        if said is None:
            return str(value)
        if said not in self._kinds:
            wanted = " or a ".join(kind.singular for kind in self._kinds)
            self.fail(f"{value!r} is a {said.singular}; it must be a {wanted}", param, ctx)
        return name

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
        said = ctx.params.get(param.name or "")
        return _items(offered(self._kinds[0], incomplete, ctx), said if isinstance(said, tuple) else ())


class _Chosen(NamedTuple):
    """A kind and a name in one word."""

    kind: Kind
    name: str


class _KindOrChosen(click.ParamType[Any]):
    name = "kind"

    def __init__(self, kinds: KindType) -> None:
        self._kinds = kinds

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Kind | _Chosen:
        prefix, slash, name = str(value).partition("/")
        kind = self._kinds.convert(prefix if slash else value, param, ctx)
        return _Chosen(kind, name) if slash else kind

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
        return self._kinds.shell_complete(ctx, param, incomplete)


def kind_and_names(
    *, only: tuple[Kind, ...] = KINDS, least: int = 1, most: int | None = None
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command `kind` and `names`, from `machine m-1 m-2` or from `machine/m-1 machine/m-2`.

    Args:
        least: fewer names are a usage error, as are more than `most`.
    """
    metavar = {(0, None): "[NAME]...", (1, 1): "NAME"}.get((least, most), "NAME...")

    def with_both(command: Callable[..., Any]) -> Callable[..., Any]:
        @click.argument("kind", type=_KindOrChosen(KindType(only=only)), metavar="KIND")
        @click.argument("names", nargs=-1, metavar=metavar, shell_complete=_complete)
        @functools.wraps(command)
        def resolved(*args: Any, kind: Kind | _Chosen, names: tuple[str, ...], **kwargs: Any) -> Any:
            chosen, said = (kind.kind, (kind.name, *names)) if isinstance(kind, _Chosen) else (kind, names)
            plain = tuple(NameType(chosen).convert(name, None, None) for name in said)
            if len(plain) < least:
                raise click.UsageError(f"missing the name of a {chosen.singular}", click.get_current_context())
            if most is not None and len(plain) > most:
                raise click.UsageError(f"one name at a time, not {len(plain)}", click.get_current_context())
            return command(*args, kind=chosen, names=plain, **kwargs)

        return resolved

    return with_both


def offered(kind: Kind, incomplete: str, ctx: click.Context) -> list[str]:
    """Return names of the swarm that begin like that; none if anything is in the way: a shell shows no errors."""
    try:
        found = connection(ctx.params.get("server"), ctx.params.get("token_file"), os.environ)
        client = Client(found.url, found.token, patience=0, timeout=_QUICK)
        query: Query = {"fields": "metadata.name", "limit": 1000, "q": incomplete or None}
        items = client.get(kind.plural, query=query).document.get("items", [])
    except CliError:
        return []
    return [name for item in items if (name := name_of(item)).startswith(incomplete)]


def complete_machines_or_template(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[Any]:
    """Complete `MACHINE... TEMPLATE`: the last word so far may be either, unless it is the first."""
    first = ctx.params.get("template") is None
    names = offered(MACHINES, incomplete, ctx) + ([] if first else offered(TEMPLATES, incomplete, ctx))
    return _items(names, ctx.params.get("machines") or ())


def _complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
    kind = ctx.params.get("kind")
    if isinstance(kind, _Chosen) or kind is None:
        return []
    return _items(offered(kind, incomplete, ctx), ctx.params.get(param.name or "") or ())


def _items(names: Iterable[str], said: Iterable[str]) -> list[Any]:
    from click.shell_completion import CompletionItem

    return [CompletionItem(name) for name in names if name not in set(said)]


def _kind(word: str) -> Kind | None:
    return next((kind for kind in KINDS if word.lower() in {kind.singular, kind.plural, kind.short}), None)
