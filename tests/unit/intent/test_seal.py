"""Sealed secrets open in their own place, with a key of the file, and nowhere else."""

import base64
import hashlib
import hmac
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragonfly.store.seal import BadSecretKey, Seal, Unsealable, read_seal

OLD, NEW = b"o" * 32, b"n" * 32


@given(st.text(st.characters(exclude_categories=["Cs"])), st.text(st.characters(exclude_categories=["Cs"])))
def test_what_is_sealed_opens_in_its_place(place: str, secret: str) -> None:
    seal = Seal([NEW])

    sealed = seal.seal(place, secret)

    assert seal.open(place, sealed) == secret
    assert sealed.isascii()
    assert sealed != seal.seal(place, secret), "each has a nonce of its own"


def test_it_does_not_open_in_another_place_or_altered() -> None:
    seal = Seal([NEW])
    sealed = seal.seal("machines/m-1", "secret")
    altered = sealed[:-6] + ("A" if sealed[-6] != "A" else "B") + sealed[-5:]

    for place, text in (
        ("machines/m-2", sealed),
        ("machines/m-1", altered),
        ("machines/m-1", sealed[:-8]),
        ("machines/m-1", sealed.replace("v1", "v2")),
        ("machines/m-1", ""),
        ("machines/m-1", sealed[:12] + "!"),
    ):
        with pytest.raises(Unsealable):
            seal.open(place, text)


def test_after_a_rotation_the_old_key_opens_and_the_new_one_seals() -> None:
    before = Seal([OLD]).seal("p", "secret")
    rotated = Seal([NEW, OLD])

    assert rotated.open("p", before) == "secret"
    assert Seal([NEW]).open("p", rotated.seal("p", "secret")) == "secret"
    with pytest.raises(Unsealable, match="lacks"):
        Seal([NEW]).open("p", before)


def test_a_fingerprint_tells_data_apart_and_needs_the_first_key() -> None:
    data = b'{"password": "calvin"}'
    print_ = Seal([NEW]).fingerprint(data)

    assert print_ == Seal([NEW, OLD]).fingerprint(data), "on every replica the same"
    assert len({print_, Seal([NEW]).fingerprint(data + b" "), Seal([OLD]).fingerprint(data)}) == 3
    assert print_ not in {hashlib.sha256(data).digest(), hmac.digest(NEW, data, "sha256")}, "a key for this use alone"


def test_a_key_file_has_base64_or_a_long_text(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(base64.b64encode(NEW).decode() + "\n\n" + "a long text that nobody can guess easily\n")

    sealed = Seal([NEW]).seal("p", "secret")

    assert read_seal(file).open("p", sealed) == "secret"
    file.write_text("a long text that nobody can guess easily")
    derived = read_seal(file)
    assert derived.open("p", read_seal(file).seal("p", "secret")) == "secret"
    with pytest.raises(Unsealable):
        derived.open("p", sealed)


@pytest.mark.parametrize(
    ("content", "words"), [(b"", "is empty"), (b"\n", "is empty"), (b"short", "line 1"), (b"\xff", "cannot be read")]
)
def test_a_bad_key_file_says_what_it_should_hold(tmp_path: Path, content: bytes, words: str) -> None:
    file = tmp_path / "key"
    file.write_bytes(content)

    with pytest.raises(BadSecretKey, match=words):
        read_seal(file)
    with pytest.raises(BadSecretKey, match="cannot be read"):
        read_seal(tmp_path / "none")
