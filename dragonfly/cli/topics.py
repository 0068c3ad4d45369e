"""A group of commands that knows each by name and topic, and imports it only when it is run."""

import difflib
import importlib
from collections.abc import Mapping
from typing import NamedTuple

import click


class Entry(NamedTuple):
    """A command: where it is, and what the group's help says of it (so that help imports nothing)."""

    module: str
    attribute: str
    summary: str


Topics = Mapping[str, Mapping[str, Entry]]


class TopicGroup(click.Group):
    """Shows its commands below the topics that they belong to; suggests the nearest for an unknown one."""

    topics: Topics = {}

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return [name for commands in self.topics.values() for name in commands]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        for commands in self.topics.values():
            if cmd_name in commands:
                entry = commands[cmd_name]
                command: click.Command = getattr(importlib.import_module(entry.module), entry.attribute)
                return command
        return None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if self.get_command(ctx, name) is None and not name.startswith("-"):
            near = difflib.get_close_matches(name, self.list_commands(ctx), n=1, cutoff=0.5)
            ask = f". Did you mean {near[0]}?" if near else ""
            raise click.UsageError(f"there is no command {name!r}{ask}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(len(name) for name in self.list_commands(ctx))
        for topic, commands in self.topics.items():
            with formatter.section(topic):
                formatter.write_dl([(name.ljust(width), entry.summary) for name, entry in commands.items()])
