from __future__ import annotations

import pytest

from dragonfly.store import keys


def test_what_is_built_is_taken_apart() -> None:
    assert keys.name_in(keys.machine("m-1"), keys.MACHINES) == "m-1"
    assert keys.pair_in(keys.provision("m-1", "01JD"), keys.PROVISIONS) == ("m-1", "01JD")
    assert keys.claim_in(keys.claim("fra", 7)) == ("fra", 7)
    assert keys.drain_in(keys.drain("fra", 7)) == ("fra", 7)


def test_a_mac_is_one_key_in_any_case() -> None:
    assert keys.mac("02:00:00:AA:00:11") == keys.mac("02:00:00:aa:00:11")


@pytest.mark.parametrize(
    "key", ["claims/_swarm/janitor", "claims/fra", "claims/fra/x", "claims/fra/1/2", "machines/m", "claims//1"]
)
def test_no_other_key_is_a_claim(key: str) -> None:
    assert keys.claim_in(key) is None


@pytest.mark.parametrize("key", ["machines/", "machines/a/b", "observed/a", "machines"])
def test_no_other_key_is_a_machine(key: str) -> None:
    assert keys.name_in(key, keys.MACHINES) is None


@pytest.mark.parametrize("name", ["", "a/b", "a\0b"])
def test_a_name_that_would_make_another_key_is_a_mistake(name: str) -> None:
    with pytest.raises(ValueError, match="can't be a name"):
        keys.machine(name)
