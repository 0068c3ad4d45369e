"""What the documentation says of the command line is what the command line does."""

import re
import shlex
from pathlib import Path

import click
import pytest
import yaml

from dragonfly.cli.errors import Exit
from dragonfly.cli.main import Dragonfly, cli

ROOT = Path(__file__).parents[3]
CLI = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
DEPLOYMENT = yaml.safe_load((ROOT / "deploy" / "k3s" / "base" / "deployment.yaml").read_text(encoding="utf-8"))
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]


def examples(text: str) -> list[list[str]]:
    """Return the arguments of every `$ dragonfly …` in the text."""
    joined = text.replace("\\\n", " ")
    lines = re.findall(r"^\$ (?:[A-Z_]+=\S+ )*dragonfly (.*)$", joined, re.MULTILINE)
    return [shlex.split(line.partition(" > ")[0], comments=True) for line in lines]


def test_every_command_has_a_section_below_its_topic() -> None:
    sections = re.findall(r"^(##|###) (.*)$", CLI, re.MULTILINE)
    first = sections.index(("##", next(iter(Dragonfly.topics))))
    documented: dict[str, list[str]] = {}
    for level, title in sections[first:]:
        if level == "##":
            documented[title] = []
        else:
            documented[list(documented)[-1]].append(title)

    assert documented == {topic: list(commands) for topic, commands in Dragonfly.topics.items()}


def test_every_command_has_an_example() -> None:
    commands = {name for entries in Dragonfly.topics.values() for name in entries}

    assert {example[0] for example in examples(CLI)} == commands


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_example_is_understood(page: Path) -> None:
    for name, *arguments in examples(page.read_text(encoding="utf-8")):
        # A command keeps the names of its help option from the first context that it meets.
        with click.Context(cli, **cli.context_settings) as root:
            command = cli.get_command(root, name)
            assert command is not None, name
            command.make_context(name, arguments, parent=root)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_kubectl_finds_what_it_is_told_to(page: Path) -> None:
    """Files are there, and the Deployment is in the namespace that it ships with."""
    for line in re.findall(r"(?:^\$ |`)kubectl ([^`\n]*)", page.read_text(encoding="utf-8"), re.MULTILINE):
        for file in re.findall(r"-[fk] (deploy/\S+)", line):
            assert (ROOT / file).exists(), line
        if "deployment dragonfly" in line:
            assert line.startswith(f"--namespace {DEPLOYMENT['metadata']['namespace']} "), line


def test_the_exit_codes_are_those_of_the_program() -> None:
    table = re.findall(r"^\| (\d+) \| ", CLI, re.MULTILINE)

    assert [int(code) for code in table] == [code.value for code in Exit]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target
