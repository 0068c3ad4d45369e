import json
import os
import pty
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dragonfly.cli.connection import connection
from dragonfly.cli.errors import CliError


def demo(home: Path, url: str, pid: int | None = None) -> dict[str, str]:
    directory = home / ".cache" / "dragonfly" / "demo"
    directory.mkdir(parents=True)
    token = directory / "token"
    token.write_text("df_demo\n")
    (directory / "demo.lock").write_text(str(pid or os.getpid()))
    (directory / "demo.json").write_text(json.dumps({"url": url, "tokenFile": str(token), "kubeconfig": "/k"}))
    return {"HOME": str(home)}


def test_a_flag_wins_over_a_variable_over_a_demo(tmp_path: Path) -> None:
    env = demo(tmp_path, "http://127.0.0.1:3000")
    token = tmp_path / "t"
    token.write_text("df_file\n")

    assert connection(None, None, env) == ("http://127.0.0.1:3000", "df_demo", True)
    env |= {"DRAGONFLY_SERVER": "https://env.example/", "DRAGONFLY_TOKEN": "df_env"}
    assert connection(None, None, env) == ("https://env.example", "df_env", False)
    assert connection("http://flag:3000", str(token), env) == ("http://flag:3000", "df_file", False)
    env["DRAGONFLY_TOKEN_FILE"] = str(token)
    assert connection(None, None, env).token == "df_file"


def test_the_demos_token_goes_nowhere_else(tmp_path: Path) -> None:
    env = demo(tmp_path, "http://127.0.0.1:3000")

    assert connection("http://127.0.0.1:3000/", None, env).token == "df_demo"
    with pytest.raises(CliError, match="no token is given"):
        connection("http://elsewhere:3000", None, env)


def test_the_cache_may_be_elsewhere(tmp_path: Path) -> None:
    demo(tmp_path, "http://127.0.0.1:3000")

    assert connection(None, None, {"XDG_CACHE_HOME": str(tmp_path / ".cache")}).from_demo


def test_without_a_swarm_the_ways_to_one_are_told(dragonfly: Any) -> None:
    done = dragonfly("get", "machines")

    assert done.code == 2
    assert done.err == (
        "dragonfly: no swarm is given\n"
        "Give its address with --server URL or DRAGONFLY_SERVER, or start one on this computer: dragonfly demo\n"
    )


def test_using_a_demo_is_said_on_a_terminal(swarm: Any, alone: Path) -> None:
    demo(alone, swarm.url)
    (alone / ".cache" / "dragonfly" / "demo" / "token").write_text("df_test")
    swarm.machine("m-1")
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "dragonfly", "get", "machines", "-o", "name"]

    with os.fdopen(ours, "rb", buffering=0) as terminal, os.fdopen(theirs, "wb", buffering=0) as end:
        piped = subprocess.run(command, stdout=subprocess.PIPE, stderr=end, check=True, timeout=60)
        subprocess.run(command, stdout=end, stderr=end, check=True, timeout=60)
        said = terminal.read(4096).decode()

    assert piped.stdout == b"machine/m-1\n"
    assert said.splitlines() == [f"dragonfly: using the demo at {swarm.url}", "machine/m-1"]


def test_a_demo_that_was_killed_is_no_demo(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        pass
    env = demo(tmp_path, "http://127.0.0.1:3000", ended.pid)

    with pytest.raises(CliError, match="no swarm is given"):
        connection(None, None, env)


@pytest.mark.parametrize("url", ["localhost:3000", "ftp://h", "http://", "http://h:x", "http://h/?a=b"])
def test_an_address_that_is_none_is_told(url: str) -> None:
    with pytest.raises(CliError, match="is no address of a server"):
        connection(url, None, {"DRAGONFLY_TOKEN": "t"})


def test_a_token_file_that_cannot_be_read_or_holds_none_is_told_without_its_content(tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    bad.write_text("two words")

    with pytest.raises(CliError, match="No such file"):
        connection("http://h", str(tmp_path / "none"), {})
    with pytest.raises(CliError, match="holds no token") as caught:
        connection("http://h", str(bad), {})
    assert "two words" not in caught.value.message


def test_a_broken_demo_file_is_no_demo(tmp_path: Path) -> None:
    env = demo(tmp_path, "http://127.0.0.1:3000")
    file = tmp_path / ".cache" / "dragonfly" / "demo" / "demo.json"
    file.write_text("{")
    assert stat.S_ISREG(file.stat().st_mode)

    with pytest.raises(CliError, match="no swarm is given"):
        connection(None, None, env)
