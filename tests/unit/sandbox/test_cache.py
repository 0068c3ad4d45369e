import threading
from pathlib import Path

import pytest

from dragonfly.sandbox.cache import Cache, DamagedCache, entry_key


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "bin" / "key")


def put(cache: Cache, name: str, content: bytes) -> Path:
    with cache.workspace() as workspace:
        (workspace / name).write_bytes(content)
        return cache.put(name, workspace / name)


def test_what_was_put_is_found(cache: Cache) -> None:
    assert cache.path("etcd") is None

    stored = put(cache, "etcd", b"program")
    put(cache, "kubectl", b"another")

    assert cache.path("etcd") == stored
    assert stored.read_bytes() == b"program"
    assert [path.name for path in cache.directory.parent.iterdir()] == ["key"], "no workspace stays"


def test_a_changed_program_is_not_run(cache: Cache) -> None:
    put(cache, "etcd", b"program").write_bytes(b"malware")

    with pytest.raises(DamagedCache, match=f"Delete {cache.directory}"):
        cache.path("etcd")


def test_a_program_that_was_only_copied_counts_as_the_same(cache: Cache) -> None:
    stored = put(cache, "etcd", b"program")
    stored.write_bytes(b"program")  # another time, the same content

    assert cache.path("etcd") == stored


def test_a_file_that_nobody_built_is_not_taken(cache: Cache) -> None:
    cache.directory.mkdir(parents=True)
    (cache.directory / "etcd").write_bytes(b"program")

    assert cache.path("etcd") is None


def test_a_second_builder_waits_and_is_told_so(cache: Cache) -> None:
    told, order = threading.Event(), []

    def second() -> None:
        with cache.locked(told.set):
            order.append("second")

    other = threading.Thread(target=second)
    with cache.locked(lambda: pytest.fail("nobody else builds")):
        other.start()
        assert told.wait(10)
        order.append("first")
    other.join()

    assert order == ["first", "second"]


def test_the_key_is_of_every_pin_and_flag() -> None:
    keys = {
        entry_key([b"mod", b"sum"], ["-trimpath"]),
        entry_key([b"mod", b"sun"], ["-trimpath"]),
        entry_key([b"mods", b"um"], ["-trimpath"]),
        entry_key([b"mod", b"sum"], []),
    }

    assert len(keys) == 4
