"""YAML and JSON documents, in and out.

YAML as of version 1.2 in what bites here: PyYAML's own loader takes `52:54:00:12:34:56` for a number of seconds, `no`
for false, and keeps the last of two equal keys.
"""

import json
import re
from collections.abc import Hashable, Iterator
from typing import Any, NamedTuple

import click
import yaml

from dragonfly.cli.errors import CliError, Exit

OUTPUT = click.Choice(["table", "json", "yaml"])
"""How what a command found is printed."""


class Source(NamedTuple):
    """A document and where it came from, for messages."""

    where: str
    document: dict[str, Any]


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = {}

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} is given twice", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _resolves(tag: str, pattern: str, first: str) -> None:
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(f"(?:{pattern})$"), list(first))


_resolves("bool", "true|True|TRUE|false|False|FALSE", "tTfF")
_resolves("null", "~|null|Null|NULL|", "~nN\0")
_resolves("int", "[-+]?(?:0|[1-9][0-9]*)", "-+0123456789")
_resolves("float", r"[-+]?(?:(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+)", "-+.0123456789")
_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile("$"), [""])


def parse(text: str, name: str) -> Iterator[Source]:
    """Yield the documents in `text`, lists such as `get -o yaml` prints taken apart. JSON is YAML.

    Raises:
        CliError: the text is no YAML, or a document is no object.
    """
    try:
        found = list(yaml.load_all(text, _Loader))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error)
        raise CliError(f"{name}{place}: {problem}", Exit.USAGE) from error
    for number, document in enumerate(found, 1):
        if document is not None:
            yield from _flat(document, f"{name}, document {number}" if len(found) > 1 else name)


def _flat(document: Any, where: str) -> Iterator[Source]:
    if not isinstance(document, dict):
        raise CliError(f"{where}: must be an object with kind, metadata and spec", Exit.USAGE)
    items = document.get("items")
    if str(document.get("kind", "")).endswith("List") and isinstance(items, list):
        for number, item in enumerate(items, 1):
            yield from _flat(item, f"{where}, item {number}")
        return
    yield Source(where, document)


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as blocks."""

    def ignore_aliases(self, _data: Any) -> bool:
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    # A reader of YAML 1.1 would take such a MAC for a number; quotes make it a text for everybody.
    style = "|" if "\n" in text else ("'" if re.fullmatch(r"[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+", text) else None)
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)


def as_json(document: Any) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False)


def as_json_line(document: Any) -> str:
    return json.dumps(document, ensure_ascii=False, separators=(",", ":"))


def as_yaml(document: Any) -> str:
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=False)


def written(document: Any, output: str) -> str:
    """Return the document as `-o json` or `-o yaml` asks."""
    return as_json(document) if output == "json" else as_yaml(document)
