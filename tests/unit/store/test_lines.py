from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dragonfly.store.lines import LineSplitter


def test_a_character_cut_in_two_is_whole_again() -> None:
    splitter = LineSplitter()
    first, second = "é\n".encode()[:1], "é\n".encode()[1:]

    assert splitter.feed(first) == []
    assert splitter.feed(second) == ["é".encode()]


@given(
    lines=st.lists(st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\n")).map(str.strip)),
    data=st.data(),
)
def test_lines_come_out_as_they_went_in_wherever_they_are_cut(lines: list[str], data: st.DataObject) -> None:
    sent = "".join(f"{line}\n" for line in lines).encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(sent)), max_size=8)))
    splitter = LineSplitter()

    received = [
        line
        for start, end in zip([0, *cuts], [*cuts, len(sent)], strict=True)
        for line in splitter.feed(sent[start:end])
    ]

    assert received == [line.encode() for line in lines if line.encode().strip()]


def test_what_has_no_newline_yet_is_kept() -> None:
    splitter = LineSplitter()

    assert splitter.feed(b"a\n\r\n\nb") == [b"a"]
    assert splitter.feed(b"") == []
    assert splitter.feed(b"c\nd\n") == [b"bc", b"d"]
