"""`dragonfly server`: gathers what is said about a replica, and runs it."""

import os
import secrets
import socket
import string
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from dragonfly.cli.errors import CliError, Exit
from dragonfly.settings import CONFIG_VARIABLE, SETTINGS, ConfigFile, Host, Settings, SettingsError, load


def _with_settings(command: Callable[..., Any]) -> Callable[..., Any]:
    for setting in reversed(SETTINGS):
        default = f"; default: {setting.default}" if setting.default else ""
        text = f"{setting.help}  [env: {setting.env}{default}]"
        # `--observe` alone is a yes; `--observe no` takes back what the file says.
        alone: dict[str, Any] = {"is_flag": False, "flag_value": "yes"} if setting.switch else {}
        command = click.option(setting.flag, setting.field, metavar="VALUE", help=text, **alone)(command)
    return command


@click.command
@click.option("--config", metavar="FILE", help=f"YAML or TOML with any of these settings.  [env: {CONFIG_VARIABLE}]")
@_with_settings
def server(config: str | None, **flags: str | None) -> int:
    """Run one replica until SIGTERM or Ctrl-C.

    Each setting is a flag, a variable, or a line of the file; the first of these that says something wins.
    """
    settings = gathered(config, {name: value for name, value in flags.items() if value is not None})
    if settings.etcd_endpoints:
        from dragonfly.replica import run

        return run(settings)
    from dragonfly.cli.installation import run_with_etcd_found

    return run_with_etcd_found(settings)


def gathered(config: str | None, flags: dict[str, str]) -> Settings:
    """Return the settings of a replica that is started here and now.

    Raises:
        CliError: with every mistake in them.
    """
    path = config or os.environ.get(CONFIG_VARIABLE)
    try:
        return load(flags, os.environ, _file(path) if path else None, _host())
    except SettingsError as error:
        problems = "\n".join(f"  {problem}" for problem in error.problems)
        raise CliError(f"these settings cannot be used:\n{problems}", Exit.USAGE) from error


def _file(path: str) -> ConfigFile:
    try:
        return ConfigFile(path, Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise CliError(f"cannot read {path}: {error.strerror}", Exit.USAGE) from error
    except UnicodeDecodeError as error:
        raise CliError(f"cannot read {path}: it is no text in UTF-8", Exit.USAGE) from error


def _host() -> Host:
    letters = string.ascii_lowercase + string.digits
    suffix = "".join(secrets.choice(letters) for _ in range(5))
    return Host(socket.gethostname(), suffix, terminal=sys.stderr.isatty())
