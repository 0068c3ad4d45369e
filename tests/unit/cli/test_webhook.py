"""Webhooks at the command line: listed, described, made from files, tried."""

from pathlib import Path
from typing import Any

import pytest

CREATED = "2026-01-01T00:00:00Z"
HOOK: dict[str, Any] = {
    "kind": "Webhook",
    "metadata": {"name": "alerts", "revision": 7, "createdAt": CREATED, "updatedAt": CREATED},
    "spec": {"url": "https://example.com/hook", "enabled": True, "kinds": ["Machine"]},
    "status": {"owner": "a", "cursor": 70, "delivered": 12, "pending": 3, "deadLetters": 1, "secrets": [{"id": "s"}]},
}
ROUTE = "/api/v1/webhooks"


def listed(swarm: Any, **status: Any) -> None:
    hook = {**HOOK, "status": {**HOOK["status"], **status}}
    swarm.reply(f"GET {ROUTE}", 200, {"kind": "WebhookList", "revision": 80, "total": 1, "items": [hook]})
    swarm.reply(f"GET {ROUTE}/alerts", 200, hook)


@pytest.mark.parametrize(("status", "word"), [({}, "Good"), ({"failingSince": CREATED}, "Failing")])
def test_a_list_tells_how_the_deliveries_go(swarm: Any, at_swarm: Any, status: dict[str, Any], word: str) -> None:
    listed(swarm, **status)

    head, row = at_swarm("get", "w").lines

    assert head.split()[:5] == ["NAME", "URL", "DELIVERIES", "PENDING", "DEAD"]
    assert row.split()[:5] == ["alerts", "https://example.com/hook", word, "3", "1"]


def test_they_cannot_be_followed(swarm: Any, at_swarm: Any) -> None:
    done = at_swarm("get", "webhooks", "-w")

    assert (done.code, swarm.requests) == (2, [])
    assert "webhooks cannot be followed" in done.err


def test_described_with_what_is_wrong(swarm: Any, at_swarm: Any) -> None:
    listed(swarm, failingSince=CREATED, lastError="answered 503 Busy")

    out = at_swarm("describe", "webhook", "alerts").out

    assert "answered 503 Busy" in out
    assert "12, up to revision 70" in out


def test_a_file_makes_one_and_its_secret_is_shown(swarm: Any, at_swarm: Any, tmp_path: Path) -> None:
    swarm.refuse(f"GET {ROUTE}/alerts", 404, "not-found", "There is no webhook alerts.")
    swarm.reply(f"POST {ROUTE}", 201, {**HOOK, "spec": {"url": "https://example.com/hook", "secret": "just-made"}})
    file = tmp_path / "hook.yaml"
    file.write_text("kind: Webhook\nmetadata: {name: alerts}\nspec: {url: https://example.com/hook}\n")

    done = at_swarm("apply", "-f", str(file))

    assert done.lines == ["webhook alerts: created; its secret, shown this once: just-made"]


def test_the_same_file_again_changes_nothing(swarm: Any, at_swarm: Any, tmp_path: Path) -> None:
    listed(swarm)
    file = tmp_path / "hook.yaml"
    file.write_text(
        "kind: Webhook\nmetadata: {name: alerts}\nspec: {url: https://example.com/hook, kinds: [Machine]}\n"
    )

    assert at_swarm("apply", "-f", str(file)).lines == ["webhook alerts: unchanged"]


@pytest.mark.parametrize(("delivered", "code"), [(True, 0), (False, 1)])
def test_a_test_ends_with_its_result(swarm: Any, at_swarm: Any, delivered: bool, code: int) -> None:
    error = "" if delivered else "answered 500"
    result = {"delivered": delivered, "seconds": 0.25, "status": 204, "error": error, "answer": ""}
    swarm.reply(f"POST {ROUTE}/alerts/test", 200, {"kind": "WebhookTest", **result})

    done = at_swarm("webhook", "alerts", "test")

    words = "delivered in 0.25 s, answered 204" if delivered else "not delivered: answered 500"
    assert (done.code, done.lines) == (code, [f"webhook alerts: {words}"])


def test_dead_letters_are_listed_and_tried_again(swarm: Any, at_swarm: Any) -> None:
    letter = {
        "id": "alerts.9.machine.m-1",
        "event": "updated",
        "revision": 9,
        "attempts": 300,
        "failedSince": CREATED,
        "givenUpAt": CREATED,
        "error": "answered 500",
        "retry": False,
        "change": {"kind": "Machine", "name": "m-1"},
    }
    swarm.reply(f"GET {ROUTE}/alerts/deadletters", 200, {"items": [letter]})
    swarm.reply(f"POST {ROUTE}/alerts/deadletters/retry", 202, {"kind": "DeadLetterRetry", "asked": 1})

    row = at_swarm("webhook", "alerts", "deadletters").lines[1]
    assert row.split()[:4] == ["9", "updated", "machine/m-1", "300"]
    assert at_swarm("webhook", "alerts", "retry").lines == ["webhook alerts: 1 will be tried once more"]


def test_a_new_secret_is_shown(swarm: Any, at_swarm: Any) -> None:
    swarm.reply(f"POST {ROUTE}/alerts/rotate", 201, {**HOOK, "spec": {"secret": "the-next-one"}})

    (line,) = at_swarm("webhook", "w/alerts", "rotate").lines
    assert line.endswith("its new secret, shown this once: the-next-one")
