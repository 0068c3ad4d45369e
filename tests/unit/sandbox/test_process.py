import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dragonfly.sandbox.process import ProcessFailed, Program, Service

FOREVER = "import time; time.sleep(3600)"
DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(3600)"

Start = Callable[..., Service]


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Start]:
    made: list[Service] = []

    def make(code: str, ready: Callable[[], bool] = lambda: True, *, within: float = 60) -> Service:
        program = Program("child", (sys.executable, "-c", code), tmp_path / "child.log", {"COLOUR": "green"})
        made.append(Service(program, ready, within=within))
        return made[-1]

    yield make
    for child in made:
        child.kill()


def test_what_ends_before_it_is_ready_fails_at_once_with_its_last_words(service: Start) -> None:
    child = service("import sys; print('no such file'); sys.exit(3)", lambda: False, within=60)

    with pytest.raises(ProcessFailed, match=r"child ended with exit code 3 before it was ready(.|\n)*no such file"):
        child.start()


def test_what_is_killed_before_it_is_ready_is_told_by_the_signals_name(service: Start) -> None:
    with pytest.raises(ProcessFailed, match="child ended with SIGKILL"):
        service("import os; os.kill(os.getpid(), 9)", lambda: False, within=60).start()


def test_what_is_never_ready_fails_at_the_deadline(service: Start) -> None:
    with pytest.raises(ProcessFailed, match=r"child was not ready within 0\.1 s"):
        service(FOREVER, lambda: False, within=0.1).start()


def test_stop_ends_what_does_not_obey(service: Start, tmp_path: Path) -> None:
    child = service(DEAF, lambda: "deaf" in (tmp_path / "child.log").read_text())
    child.start()

    child.stop(grace=0.1)

    assert child.exit_code == -signal.SIGKILL


def test_stop_ends_what_is_paused(service: Start) -> None:
    child = service(FOREVER)
    child.start()
    child.signal(signal.SIGSTOP)

    child.stop()

    assert child.exit_code == -signal.SIGTERM


def test_stopping_twice_or_what_never_ran_does_nothing(service: Start) -> None:
    child = service(FOREVER)
    child.stop()
    child.start()
    child.stop()
    child.stop()

    assert not child.running


def test_it_can_be_started_again(service: Start) -> None:
    child = service(FOREVER)
    child.start()
    first = child.pid
    child.spawn()
    assert child.pid == first, "it runs already"
    child.kill()
    child.start()

    assert child.pid != first
    assert child.running


def test_the_environment_is_ours_and_its_own(service: Start, tmp_path: Path) -> None:
    child = service("import os; print(os.environ['COLOUR'], os.environ['PATH'])")
    child.start()

    assert child.wait(60)
    assert (tmp_path / "child.log").read_text().strip() == f"green {os.environ['PATH']}"


def test_a_child_dies_with_the_process_that_started_it(service: Start, tmp_path: Path) -> None:
    """Even with kill -9, which gives it no chance to stop its children."""
    code = f"""
import sys, threading
from pathlib import Path
from dragonfly.sandbox.process import Program, Service
child = Service(Program("grandchild", (sys.executable, "-c", {FOREVER!r}), Path({str(tmp_path / "grand.log")!r})),
                lambda: True, within=5)
starter = threading.Thread(target=child.start)  # a thread that ends must not take the child with it
starter.start()
starter.join()
Path({str(tmp_path / "pid")!r}).write_text(str(child.pid))
threading.Event().wait()
"""
    written = tmp_path / "pid"
    parent = service(code, lambda: written.exists() and written.read_text() != "")
    parent.start()
    grandchild = Path(f"/proc/{written.read_text()}")
    assert grandchild.exists()

    parent.kill()

    deadline = time.monotonic() + 60
    while _is_alive(grandchild):
        assert time.monotonic() < deadline, "it outlived its parent"
        time.sleep(0.02)


def _is_alive(process: Path) -> bool:
    """Neither gone nor a zombie that nobody has waited for yet."""
    try:
        return (process / "stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
