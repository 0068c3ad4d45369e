"""Where the swarm is and which token it gets: flags, then the environment, then a demo on this computer."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import msgspec

from dragonfly.cli.errors import CliError, Exit


class Connection(NamedTuple):
    url: str
    token: str
    from_demo: bool


class NoSwarm(CliError):
    """Nothing says where the swarm is."""


class DemoFile(msgspec.Struct, frozen=True, rename="camel"):
    """What a running demo says of itself in its demo.json; more than this is passed over."""

    url: str
    token_file: str


def demo_directory(env: Mapping[str, str]) -> Path:
    """Return where a demo keeps its files unless it is told otherwise."""
    cache = env.get("XDG_CACHE_HOME") or os.path.join(env.get("HOME") or "~", ".cache")  # noqa: PTH118 - HOME is text
    return Path(cache).expanduser() / "dragonfly" / "demo"


def connection(server: str | None, token_file: str | None, env: Mapping[str, str]) -> Connection:
    """Return where to connect to.

    Raises:
        CliError: nothing says where the swarm is, or a file with the token cannot be read.
    """
    url = server or env.get("DRAGONFLY_SERVER")
    demo = _demo(env)
    if not url and demo is None:
        raise NoSwarm(
            "no swarm is given",
            Exit.USAGE,
            "Give its address with --server URL or DRAGONFLY_SERVER, or start one on this computer: dragonfly demo",
        )
    if url:
        url = _checked(url)
    is_demo = demo is not None and url in {None, "", demo.url.rstrip("/")}
    token = _token(token_file, env)
    if token is None and is_demo and demo is not None:
        token = _read(demo.token_file, f"the demo's {demo_directory(env) / 'demo.json'}")
    if token is None:
        raise CliError(
            "no token is given",
            Exit.USAGE,
            "Give the file that holds it with --token-file FILE or DRAGONFLY_TOKEN_FILE.",
        )
    return Connection(url or (demo.url if demo else ""), token, from_demo=not url)


def _demo(env: Mapping[str, str]) -> DemoFile | None:
    directory = demo_directory(env)
    try:
        if not _is_alive(int((directory / "demo.lock").read_text(encoding="ascii"))):
            # It was killed with -9, and has left its files.
            return None
        return msgspec.json.decode((directory / "demo.json").read_bytes(), type=DemoFile)
    except (OSError, ValueError, msgspec.MsgspecError):
        # None runs, or one that is only starting.
        return None


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        # Somebody else's.
        return True
    return True


def _checked(url: str) -> str:
    try:
        parts = urlsplit(url)
        valid = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0 and not parts.query
    except ValueError:
        valid = False
    if valid:
        return url.rstrip("/")
    near = f"Did you mean http://{url}?" if "://" not in url else "Such as https://dragonfly.example.org:3000."
    raise CliError(f"{url!r} is no address of a server", Exit.USAGE, near)


def _token(token_file: str | None, env: Mapping[str, str]) -> str | None:
    if token_file:
        return _read(token_file, "--token-file")
    if env.get("DRAGONFLY_TOKEN_FILE"):
        return _read(env["DRAGONFLY_TOKEN_FILE"], "DRAGONFLY_TOKEN_FILE")
    token = env.get("DRAGONFLY_TOKEN", "").strip()
    return _usable(token, "DRAGONFLY_TOKEN") if token else None


def _read(path: str, source: str) -> str:
    try:
        text = Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise CliError(f"cannot read the token in {path} ({source}): {reason}", Exit.USAGE) from error
    return _usable(text, path)


def _usable(token: str, source: str) -> str:
    """Refuse what cannot stand in a header, without showing it."""
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise CliError(f"{source} holds no token: it must be one word of printable ASCII", Exit.USAGE)
    return token
