"""Bytes as tink-server reads and writes them, written out by hand from the protocol's field numbers."""

from dragonfly.sandbox.tinkproto import (
    Action,
    ActionState,
    Report,
    decode_action,
    encode_report,
    encode_request,
)

ACTION = Action("tinkerbell/w", "task", "02:00:00:00:00:01", "01J", "install", 60)


def field(number: int, content: bytes) -> bytes:
    """A length-delimited field."""
    return bytes([number << 3 | 2, len(content)]) + content


def test_a_request_names_the_agent_in_field_1() -> None:
    assert encode_request("02:00:00:00:00:01") == field(1, b"02:00:00:00:00:01")


def test_an_action_is_read_and_what_is_unknown_is_passed_over() -> None:
    content = (
        field(1, b"tinkerbell/w")
        + field(2, b"task")
        + field(3, b"02:00:00:00:00:01")
        + field(4, b"01J")
        + field(5, b"install")
        + field(6, b"example.org/image")
        + bytes([7 << 3, 60])
        + field(8, b"--verbose")
        + field(10, b"K=V")
        + field(15, b"later")
    )

    assert decode_action(content) == ACTION


def test_a_running_report_has_go_zero_times() -> None:
    """An absent time would be stored as 1970-01-01, where tink-agent leaves none."""
    go_zero = bytes([1 << 3]) + varint(2**64 - 62_135_596_800)

    content = encode_report(Report(ACTION, ActionState.RUNNING))

    assert bytes([6 << 3, 2]) in content
    assert field(7, go_zero) in content
    assert field(8, go_zero) in content
    assert content.endswith(field(10, field(1, b"running action")))


def test_a_final_report_has_real_times() -> None:
    content = encode_report(Report(ACTION, ActionState.SUCCESS, started=100.5, finished=103.0))

    assert content.startswith(field(1, b"tinkerbell/w") + field(2, b"02:00:00:00:00:01") + field(3, b"task"))
    assert bytes([6 << 3, 5]) in content
    assert field(7, bytes([8, 100, 16]) + varint(500_000_000)) in content
    assert field(8, bytes([8, 103])) in content
    assert field(9, b"2s") in content
    assert content.endswith(field(10, field(1, b"action completed")))


def varint(number: int) -> bytes:
    content = bytearray()
    while number > 127:
        content.append(number & 127 | 128)
        number >>= 7
    content.append(number)
    return bytes(content)
