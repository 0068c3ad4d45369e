import os
import re
import subprocess
import sys
from importlib import import_module
from typing import Any

import click
import pytest

from dragonfly import __version__
from dragonfly.cli.main import Dragonfly, cli


def test_without_arguments_the_commands_are_shown_by_topic(dragonfly: Any) -> None:
    shown = dragonfly()

    assert shown.code == 0
    assert re.search(r"^Machines:\n  get  ", shown.out, re.MULTILINE)
    assert re.search(r"^Swarm:\n  status  ", shown.out, re.MULTILINE)
    assert shown.out.index("Machines:") < shown.out.index("Swarm:") < shown.out.index("Shell:")


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_has_two_names(dragonfly: Any, flag: str) -> None:
    assert dragonfly(flag).code == 0
    assert dragonfly("get", flag).out.startswith("Usage: dragonfly get ")


def test_version(dragonfly: Any) -> None:
    assert dragonfly("--version") == (0, f"dragonfly {__version__}\n", "")


def test_an_unknown_command_suggests_the_nearest(dragonfly: Any) -> None:
    assert dragonfly("provison") == (
        2,
        "",
        "dragonfly: there is no command 'provison'. Did you mean provision?\nSee dragonfly --help.\n",
    )


def test_an_unknown_command_like_no_other_leads_to_the_list(dragonfly: Any) -> None:
    assert dragonfly("xyzzy").err == "dragonfly: there is no command 'xyzzy'\nSee dragonfly --help.\n"


def test_an_unknown_option_and_a_missing_argument_are_usage_errors(dragonfly: Any) -> None:
    unknown = dragonfly("get", "machines", "--colour")
    missing = dragonfly("lock")

    assert (unknown.code, missing.code) == (2, 2)
    assert unknown.err.startswith("dragonfly: no such option")
    assert missing.err == "dragonfly: missing argument 'MACHINE'.\nSee dragonfly lock --help.\n"


def test_help_imports_no_command_and_no_library_but_click() -> None:
    program = (
        "import sys; from dragonfly.cli.main import run; code = run(['--help'])\n"
        "late = {'rich', 'urllib3', 'msgspec', 'yaml', 'tenacity', 'asyncio', 'dragonfly.cli.get'} & set(sys.modules)\n"
        "sys.exit(f'{code} {late}' if code or late else 0)"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)

    assert (done.returncode, done.stderr) == (0, "")


def test_each_command_is_where_the_table_says_and_its_summary_is_true() -> None:
    for commands in Dragonfly.topics.values():
        for name, entry in commands.items():
            command = getattr(import_module(entry.module), entry.attribute)
            assert command.name == name
            assert command.help, name


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script(dragonfly: Any, shell: str) -> None:
    done = dragonfly("completion", shell)

    assert done.code == 0
    assert "_DRAGONFLY_COMPLETE" in done.out


def completed(words: str, position: int, **env: str) -> list[str]:
    """Return what a shell would offer for the word at `position`."""
    asked = {"_DRAGONFLY_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(position)}
    done = subprocess.run(
        [sys.executable, "-m", "dragonfly"],
        env={**os.environ, **asked, **env},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stderr == ""
    return [line.partition(",")[2] for line in done.stdout.splitlines() if line]


def test_the_completion_script_completes_commands_and_kinds() -> None:
    assert completed("dragonfly pro", 1) == ["provision"]
    assert completed("dragonfly get m", 2) == ["machines"]


def test_completion_offers_the_names_that_there_are(swarm: Any) -> None:
    for name in ("m-1", "m-2", "x-1"):
        swarm.machine(name)
    swarm.add("templates", {"kind": "Template", "metadata": {"name": "mint"}, "spec": {}})
    env = {"DRAGONFLY_SERVER": swarm.url, "DRAGONFLY_TOKEN": "df_test"}

    assert completed("dragonfly describe m m-", 3, **env) == ["m-1", "m-2"]
    assert completed("dragonfly delete m m-1 m-", 4, **env) == ["m-2"]
    assert completed("dragonfly lock m", 2, **env) == ["m-1", "m-2"]
    assert completed("dragonfly provision m", 2, **env) == ["m-1", "m-2"]
    assert "mint" in completed("dragonfly provision m-1 m", 3, **env)


def test_completion_is_silent_where_nobody_answers() -> None:
    env = {"DRAGONFLY_SERVER": "http://127.0.0.1:1", "DRAGONFLY_TOKEN": "df_test"}

    assert completed("dragonfly describe m m-", 3, **env) == []


def test_a_reader_that_has_seen_enough_is_no_error(swarm: Any) -> None:
    for number in range(3000):
        swarm.machine(f"m-{number}")
    env = {**os.environ, "DRAGONFLY_SERVER": swarm.url, "DRAGONFLY_TOKEN": "df_test"}
    program = f"{sys.executable} -m dragonfly get machines -o json | head -1; echo ${{PIPESTATUS[0]}}"

    done = subprocess.run(["bash", "-c", program], env=env, capture_output=True, text=True, check=True, timeout=60)

    assert done.stdout == "{\n0\n"
    assert done.stderr == ""


def test_every_command_has_help_with_its_options(dragonfly: Any) -> None:
    for name in cli.list_commands(click.Context(cli)):
        shown = dragonfly(name, "--help")
        assert shown.code == 0, name
        assert "--help" in shown.out
