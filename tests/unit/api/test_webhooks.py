"""Webhooks over HTTP: secrets go in and never come out, what is wrong is told, what was given up can be asked for."""

from datetime import timedelta
from typing import Any

import pytest

from dragonfly.api.context import Webhooks
from dragonfly.model.swarm import Claim
from dragonfly.model.webhook import DeadLetter, Webhook, WebhookState
from dragonfly.store import keys, records
from dragonfly.store.values import Put
from dragonfly.webhooks.sender import Verdict
from tests.unit.api.replicas import ANY, MERGE, SEAL, Replica, World, answer_of, fields_of, problem_of

_HOOKS = "/api/v1/webhooks"


def document(name: str = "alerts", **spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": name}, "spec": {"url": "https://example.com/hook", **spec}}


def stored(replica: Replica, name: str = "alerts") -> Webhook:
    held = replica.mirror.get(keys.webhook(name))
    assert held is not None
    assert isinstance(held.object, Webhook)
    return held.object


def opened(replica: Replica) -> list[str]:
    secrets = stored(replica).secrets
    return [SEAL.open(f"webhooks/alerts/spec.secret/{secret.id}", secret.sealed) for secret in secrets]


async def test_a_secret_is_made_and_shown_once(replica: Replica) -> None:
    headers = {"Idempotency-Key": "k"}
    first = answer_of(await replica.http.post(_HOOKS, json=document(), headers=headers), 201)
    again = answer_of(await replica.http.post(_HOOKS, json=document(), headers=headers), 201)

    secret = first["spec"]["secret"]
    assert len(secret) >= 32
    assert opened(replica) == [secret]
    assert "secret" not in again["spec"]
    assert first["metadata"] == again["metadata"]
    for held in replica.mirror.under(""):
        assert secret.encode() not in records.encode(held.object)
    shown = await replica.http.get(f"{_HOOKS}/alerts")
    assert secret not in shown.text
    assert shown.headers["etag"] == f'"{first["metadata"]["revision"]}"'


async def test_a_secret_that_was_sent_is_not_shown_at_all(replica: Replica) -> None:
    said = "a-secret-that-was-sent"
    answer = await replica.http.post(_HOOKS, json=document(secret=said))

    assert answer.status_code == 201
    assert said not in answer.text
    assert opened(replica) == [said]


async def test_a_new_secret_leaves_the_old_one_a_day_and_the_same_one_changes_nothing(replica: Replica) -> None:
    await replica.post(_HOOKS, document(secret="the-old-secret-of-it"), 201)
    headers = {"Content-Type": MERGE, **ANY}
    change = {"spec": {"secret": "the-new-secret-of-it"}}
    first = answer_of(await replica.http.patch(f"{_HOOKS}/alerts", json=change, headers=headers), 200)
    again = answer_of(await replica.http.patch(f"{_HOOKS}/alerts", json=change, headers=headers), 200)

    assert opened(replica) == ["the-new-secret-of-it", "the-old-secret-of-it"]
    assert stored(replica).secrets[1].until == replica.clock.now() + timedelta(hours=24)
    assert first["metadata"]["revision"] == again["metadata"]["revision"]
    rotated = await replica.post(f"{_HOOKS}/alerts/rotate", {}, 201)
    assert opened(replica) == [rotated["spec"]["secret"], "the-new-secret-of-it"]


async def test_a_replacement_without_a_secret_keeps_it(replica: Replica) -> None:
    made = await replica.post(_HOOKS, document(), 201)
    answer = await replica.http.put(f"{_HOOKS}/alerts", json=document(kinds=["Machine"]), headers=ANY)

    changed = answer_of(answer, 200)
    assert (changed["spec"]["kinds"], opened(replica)) == (["Machine"], [made["spec"]["secret"]])


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"url": "http://example.com"}, "spec.url"),
        ({"url": "ftp://example.com"}, "spec.url"),
        ({"url": "https://"}, "spec.url"),
        ({"url": "https://user:hunter2@example.com"}, "spec.url"),
        ({"url": "https://example.com/#there"}, "spec.url"),
        ({"url": "https://example.com/a b"}, "spec.url"),
        ({"url": "https://example.com:99999/"}, "spec.url"),
        ({"secret": "short"}, "spec.secret"),
        ({"secret": "with blanks in between"}, "spec.secret"),
        ({"kinds": ["Machine", "Replica"]}, "spec.kinds[1]"),
        ({"labelSelector": "a=(b"}, "spec.labelSelector"),
        ({"tags": [""]}, "spec.tags[0]"),
        ({"caBundle": "none"}, "spec.caBundle"),
        ({"colour": "red"}, "spec.colour"),
    ],
)
async def test_what_is_wrong_is_told_without_the_secret(replica: Replica, spec: dict[str, Any], field: str) -> None:
    answer = await replica.http.post(_HOOKS, json=document(**spec))

    assert fields_of(problem_of(answer, 422, "invalid")) == [field]
    assert "hunter2" not in answer.text
    assert spec.get("secret", "nothing at all") not in answer.text


async def test_without_a_key_for_secrets_there_are_no_webhooks(world: World) -> None:
    replica = world.replica(sealer=None)
    answer = await replica.http.post(_HOOKS, json=document())

    problem = problem_of(answer, 422, "invalid")
    assert fields_of(problem) == ["spec.secret"]
    assert "DRAGONFLY_SECRET_KEY_FILE" in problem["detail"]


async def test_plain_http_is_a_setting(world: World) -> None:
    async def test(_webhook: Webhook, _delivery: str) -> Verdict:
        return Verdict(0.0)

    replica = world.replica(webhooks=Webhooks(test, plain_http=True))

    await replica.post(_HOOKS, document(url="http://example.com"), 201)


async def test_conditional_and_unique_and_gone(replica: Replica) -> None:
    await replica.post(_HOOKS, document(), 201)

    problem_of(await replica.http.post(_HOOKS, json=document()), 409, "already-exists")
    problem_of(await replica.http.delete(f"{_HOOKS}/alerts"), 428, "if-match-required")
    problem_of(await replica.http.delete(f"{_HOOKS}/alerts", headers={"If-Match": '"1"'}), 412, "revision-mismatch")
    assert (await replica.http.delete(f"{_HOOKS}/alerts", headers=ANY)).status_code == 204
    for path in ("alerts", "alerts/deadletters"):
        problem_of(await replica.http.get(f"{_HOOKS}/{path}"), 404, "not-found")
    for path in ("alerts/test", "alerts/rotate", "alerts/deadletters/retry"):
        problem_of(await replica.http.post(f"{_HOOKS}/{path}"), 404, "not-found")


async def test_the_status_is_that_of_this_webhook_and_of_no_earlier_one(replica: Replica) -> None:
    made = await replica.post(_HOOKS, document(), 201)
    life = made["metadata"]["revision"]
    state = WebhookState(webhook=life, cursor=77, delivered=5, last_error="answered 500")
    duty = Put("claims/_swarm/webhooks", records.encode(Claim(owner="b")))
    await replica.store.commit(Put(keys.webhook_state("alerts"), records.encode(state)), duty)
    status = (await replica.get(f"{_HOOKS}/alerts"))["status"]
    assert (status["owner"], status["cursor"], status["delivered"], status["lastError"]) == ("b", 77, 5, "answered 500")
    assert (await replica.get(_HOOKS))["items"][0]["status"] == status

    await replica.http.delete(f"{_HOOKS}/alerts", headers=ANY)
    await replica.post(_HOOKS, document(), 201)

    assert (await replica.get(f"{_HOOKS}/alerts"))["status"]["delivered"] == 0


async def test_that_nobody_delivers_is_told(replica: Replica) -> None:
    async def unowned() -> str:
        text = (await replica.http.get("/metrics")).text
        return next(line for line in text.splitlines() if line.startswith("dragonfly_webhooks_unowned"))

    assert await unowned() == "dragonfly_webhooks_unowned 0.0"
    await replica.post(_HOOKS, document(), 201)
    assert await unowned() == "dragonfly_webhooks_unowned 1.0"
    await replica.store.commit(Put("claims/_swarm/webhooks", records.encode(Claim(owner="b"))))
    assert await unowned() == "dragonfly_webhooks_unowned 0.0"


async def test_dead_letters_are_listed_and_asked_for_again(replica: Replica) -> None:
    life = (await replica.post(_HOOKS, document(), 201))["metadata"]["revision"]
    for revision in (30, 9):
        letter = DeadLetter(
            webhook=life,
            id=f"alerts.{revision}.machine.m-1",
            event="updated",
            revision=revision,
            body='{"revision":9}',
            attempts=300,
            failed_since=replica.clock.now(),
            given_up_at=replica.clock.now(),
            error="answered 500",
        )
        await replica.store.commit(Put(keys.dead_letter("alerts", letter.id), records.encode(letter)))

    listed = await replica.get(f"{_HOOKS}/alerts/deadletters")
    assert [(item["revision"], item["retry"], item["change"]) for item in listed["items"]] == [
        (9, False, {"revision": 9}),
        (30, False, {"revision": 9}),
    ]
    assert (await replica.get(f"{_HOOKS}/alerts"))["status"]["deadLetters"] == 2
    assert await replica.post(f"{_HOOKS}/alerts/deadletters/retry", {}, 202) == {"kind": "DeadLetterRetry", "asked": 2}
    again = await replica.get(f"{_HOOKS}/alerts/deadletters")
    assert [item["retry"] for item in again["items"]] == [True, True]


async def test_a_test_delivery_tells_what_came_of_it(world: World) -> None:
    asked: list[tuple[str, str]] = []

    async def test(webhook: Webhook, delivery: str) -> Verdict:
        asked.append((webhook.name, delivery))
        return Verdict(0.25, 500, "answered 500", "oh no")

    replica = world.replica(webhooks=Webhooks(test))
    await replica.post(_HOOKS, document(), 201)

    tested = await replica.post(f"{_HOOKS}/alerts/test", {})

    ((name, delivery),) = asked
    assert name == "alerts"
    assert tested == {
        "kind": "WebhookTest",
        "delivery": delivery,
        "delivered": False,
        "seconds": 0.25,
        "status": 500,
        "error": "answered 500",
        "answer": "oh no",
    }
