"""Answers of a real API server (1.36.3), as they came, and what they mean to a caller."""

import json
from typing import Any

import pytest

from dragonfly.kube.errors import (
    AlreadyExists,
    Conflict,
    FieldConflict,
    Forbidden,
    Gone,
    Invalid,
    KubeError,
    NotFound,
    ServerFailed,
    Throttled,
    from_answer,
)


def answer(code: int, message: str = "", reason: str = "", **details: Any) -> bytes:
    status = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": code}
    return json.dumps(status | {"message": message, "reason": reason, "details": details}).encode()


@pytest.mark.parametrize(
    ("code", "reason", "expected"),
    [
        (400, "BadRequest", Invalid),
        (401, "Unauthorized", Forbidden),
        (403, "Forbidden", Forbidden),
        (404, "NotFound", NotFound),
        (405, "MethodNotAllowed", Invalid),
        (409, "AlreadyExists", AlreadyExists),
        (409, "Conflict", Conflict),
        (410, "Expired", Gone),
        (413, "RequestEntityTooLarge", Invalid),
        (422, "Invalid", Invalid),
        (429, "TooManyRequests", Throttled),
        (500, "InternalError", ServerFailed),
        (503, "ServiceUnavailable", ServerFailed),
        (504, "Timeout", ServerFailed),
        (307, "", Invalid),
    ],
)
def test_each_answer_has_one_type(code: int, reason: str, expected: type[KubeError]) -> None:
    error = from_answer(code, answer(code, "words", reason), write=True)

    assert type(error) is expected
    assert (error.status, error.reason, error.message, str(error)) == (code, reason, "words", "words")


def test_an_unknown_field_in_an_apply_is_invalid_although_it_comes_as_a_500() -> None:
    message = (
        "failed to create typed patch object (tinkerbell/m-1; tinkerbell.org/v1alpha1, Kind=Hardware): "
        ".spec.nonsense: field not declared in schema"
    )

    error = from_answer(500, answer(500, message), write=True)

    assert type(error) is Invalid
    assert "spec.nonsense" in error.message


def test_a_wrong_uid_in_a_patch_is_a_conflict_although_it_comes_as_a_422() -> None:
    cause = {"reason": "FieldValueInvalid", "message": "field is immutable", "field": "metadata.uid"}

    assert type(from_answer(422, answer(422, "", "Invalid", causes=[cause]), write=True)) is Conflict


def test_an_apply_conflict_names_managers_and_fields() -> None:
    causes = [
        {
            "reason": "FieldManagerConflict",
            "message": 'conflict with "kubectl" using tinkerbell.org/v1alpha1',
            "field": field,
        }
        for field in (".spec.userData", ".spec.vendorData")
    ]

    error = from_answer(409, answer(409, "Apply failed with 2 conflicts", "Conflict", causes=causes), write=True)

    assert isinstance(error, Conflict)
    assert error.fields == (FieldConflict("kubectl", ".spec.userData"), FieldConflict("kubectl", ".spec.vendorData"))


def test_forbidden_names_verb_and_resource() -> None:
    message = (
        'workflows.tinkerbell.org is forbidden: User "dragonfly" cannot list resource "workflows" in API group '
        '"tinkerbell.org" in the namespace "tinkerbell"'
    )

    error = from_answer(403, answer(403, message, "Forbidden"), write=False)

    assert isinstance(error, Forbidden)
    assert (error.verb, error.resource) == ("list", "workflows.tinkerbell.org")


def test_forbidden_in_the_core_group_and_without_a_reason() -> None:
    core = 'secrets "a" is forbidden: User "x" cannot get resource "secrets" in API group "" in the namespace "n"'
    error, bare = from_answer(403, answer(403, core), write=False), from_answer(401, answer(401), write=False)

    assert isinstance(error, Forbidden)
    assert (error.verb, error.resource) == ("get", "secrets")
    assert isinstance(bare, Forbidden)
    assert (bare.verb, bare.resource) == ("", "")


def test_the_policy_that_refused_is_named() -> None:
    message = (
        "workflows.tinkerbell.org \"w\" is forbidden: ValidatingAdmissionPolicy 'dragonfly-epoch' with binding "
        "'dragonfly-epoch' denied request: the epoch went back"
    )

    assert from_answer(422, answer(422, message, "Invalid"), write=True).policy == "dragonfly-epoch"
    assert not from_answer(422, answer(422, "spec.x: Invalid value", "Invalid"), write=True).policy


@pytest.mark.parametrize(
    ("header", "details", "seconds"),
    [
        ("7", {}, 7),
        ("", {"retryAfterSeconds": 3}, 3),
        ("", {}, 1),
        ("soon", {}, 1),
        ("²", {}, 1),
        ("3600", {}, 30),
        ("", {"retryAfterSeconds": 3600}, 30),
    ],
)
def test_throttled_says_for_how_long(header: str, details: dict[str, Any], seconds: float) -> None:
    error = from_answer(429, answer(429, "busy", "TooManyRequests", **details), write=True, retry_after=header)

    assert isinstance(error, Throttled)
    assert error.retry_after == seconds


@pytest.mark.parametrize("write", [True, False])
def test_a_server_that_failed_may_have_written(write: bool) -> None:
    error = from_answer(504, answer(504, "etcdserver: request timed out", "Timeout"), write=write)

    assert isinstance(error, ServerFailed)
    assert error.maybe_done is write


def test_a_proxy_that_answers_in_html_is_quoted() -> None:
    error = from_answer(502, b"<html>\xff Bad Gateway</html>", write=True)

    assert isinstance(error, ServerFailed)
    assert "Bad Gateway" in error.message


def test_an_empty_answer_still_has_words() -> None:
    assert from_answer(404, b"", write=False).message == "HTTP 404"
