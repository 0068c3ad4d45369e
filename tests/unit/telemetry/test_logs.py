"""Log lines: one an event, in the form asked for, without secrets."""

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from dragonfly.telemetry import logs


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    root = logging.getLogger()
    before = (root.handlers[:], root.level)
    yield
    root.handlers, root.level = before[0], before[1]
    structlog.reset_defaults()


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_json_lines_have_event_level_time_and_values() -> None:
    stream = io.StringIO()
    logs.configure("json", "info", stream)

    structlog.get_logger("dragonfly.test").info("provision.armed", machine="m-17", epoch=48211)
    structlog.get_logger("dragonfly.test").debug("not.shown")

    (line,) = lines(stream)
    assert (line["event"], line["level"], line["logger"]) == ("provision.armed", "info", "dragonfly.test")
    assert (line["machine"], line["epoch"]) == ("m-17", 48211)
    assert line["timestamp"].endswith("Z")


def test_the_standard_library_comes_out_the_same_way() -> None:
    stream = io.StringIO()
    logs.configure("json", "INFO", stream)

    logging.getLogger("uvicorn.error").warning("%s is away", "etcd")
    logging.getLogger("uvicorn.access").info("GET /?password=x")

    (away,) = lines(stream)
    assert (away["event"], away["level"], away["logger"]) == ("etcd is away", "warning", "uvicorn.error")


@pytest.mark.parametrize("form", ["json", "console"])
def test_a_secret_in_an_exception_is_taken_out(form: Any) -> None:
    stream = io.StringIO()
    logs.configure(form, "INFO", stream)

    logging.getLogger("other").error("failed", exc_info=ValueError("Authorization: Bearer abc.def"))
    structlog.get_logger().error("failed", exc_info=ValueError("Authorization: Bearer abc.def"))

    assert stream.getvalue().count("ValueError") == 2
    assert "abc.def" not in stream.getvalue()


@pytest.mark.parametrize("form", ["json", "console"])
def test_secrets_are_taken_out_by_their_names_at_any_depth(form: Any) -> None:
    stream = io.StringIO()
    logs.configure(form, "info", stream)

    structlog.get_logger().info(
        "x",
        password="hunter2",
        headers={"Authorization": "hunter2", "accept": "json", "list": [{"api_token": "hunter2"}]},
        text="curl -H 'Authorization: Bearer hunter2'",
        token_file="/etc/token",
        tokens=3,
        kubeConfig="hunter2",
        sessionCookie="hunter2",
    )

    text = stream.getvalue()
    assert "hunter2" not in text
    assert "/etc/token" in text
    assert "json" in text


def test_the_console_has_one_readable_line() -> None:
    stream = io.StringIO()
    logs.configure("console", "info", stream)

    structlog.get_logger().info("provision.armed", machine="m-17")

    assert "provision.armed" in stream.getvalue()
    assert "machine=m-17" in stream.getvalue()
    assert "\x1b" not in stream.getvalue(), "no colours without a terminal"
