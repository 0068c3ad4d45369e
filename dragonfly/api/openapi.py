"""OpenAPI 3.1, generated from the types that decode and encode, and from what each route declares of itself."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from dragonfly.api.operations import MIN_REVISION, Operation, Parameter
from dragonfly.api.problems import MEDIA_TYPE, PROBLEMS, ProblemDocument

_REF: Final = "#/components/schemas/{name}"
_WRITE_ONLY: Final = (("Bmc", "password"), ("WebhookSpecInput", "secret"), ("ClusterSpecInput", "kubeconfig"))
"""Taken, never shown."""

_OPEN: Final[Mapping[str, tuple[str, Mapping[int, str], str]]] = {
    "/healthz": ("The process lives; never asks etcd", {200: "It does."}, "application/json"),
    "/readyz": (
        "The replica can do its work",
        {200: "It can.", 503: "It cannot: the checks say why."},
        "application/json",
    ),
    "/metrics": ("Prometheus metrics", {200: "Text in Prometheus' format."}, "text/plain"),
    "/openapi.json": ("This document", {200: "OpenAPI 3.1."}, "application/json"),
    "/": ("The page for people", {200: "HTML."}, "text/html"),
}


def document(operations: Sequence[Operation], version: str) -> dict[str, Any]:
    """Return the description of the whole API."""
    types = _types(operations)
    found, schemas = msgspec.json.schema_components(types, ref_template=_REF)
    schema_of = dict(zip(map(repr, types), found, strict=True))
    for name, field in _WRITE_ONLY:
        schemas[name]["properties"][field]["writeOnly"] = True
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        described = _operation(operation, schema_of, schemas)
        paths.setdefault(operation.path, _shared(operation.path))[operation.method.lower()] = described
    for path, (summary, answers, media_type) in _OPEN.items():
        paths[path] = {"get": _open(path, summary, answers, media_type)}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Dragonfly",
            "version": version,
            "description": (
                "Provisions bare metal through Tinkerbell. Every answer carries `Dragonfly-Revision`. "
                "`/etcd/v3/` speaks etcd's gateway to other replicas and is no part of this API (docs/relay.md)."
            ),
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{"bearer": []}],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
            "headers": _HEADERS,
        },
    }


_HEADERS: Final = {
    "X-Request-Id": {"description": "The request's id, as sent or made up.", "schema": {"type": "string"}},
    "Dragonfly-Replica": {"description": "Which replica answered.", "schema": {"type": "string"}},
    "Dragonfly-Revision": {"description": "The revision that the answer reflects.", "schema": {"type": "integer"}},
    "Dragonfly-Stale": {
        "description": "Seconds since the replica last heard from etcd; absent while it does.",
        "schema": {"type": "number"},
    },
    "ETag": {"description": "The resource's revision, for `If-Match`.", "schema": {"type": "string"}},
    "Location": {"description": "Where the resource is.", "schema": {"type": "string"}},
    "Retry-After": {"description": "Seconds to wait before trying again.", "schema": {"type": "integer"}},
}
_ALWAYS: Final = ("X-Request-Id", "Dragonfly-Replica", "Dragonfly-Revision")


def _types(operations: Sequence[Operation]) -> list[Any]:
    found: list[Any] = [ProblemDocument]
    for operation in operations:
        found += [operation.body] if operation.body is not None else []
        found += [_item(kind) for kind in operation.answers.values() if kind is not None]
    return list({repr(kind): kind for kind in found}.values())


def _item(kind: Any) -> Any:
    return kind[0] if isinstance(kind, list) else kind


def _operation(operation: Operation, schema_of: Mapping[str, Any], schemas: dict[str, Any]) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": operation.handler.__name__,
        "summary": operation.summary,
        "tags": [operation.tag],
        "parameters": _parameters(operation),
        "responses": {
            str(status): _answer(operation, kind, schema_of, schemas) for status, kind in operation.answers.items()
        }
        | _problems(operation),
    }
    if operation.body is not None:
        schema = schema_of[repr(operation.body)]
        content = {operation.media_type: {"schema": schema}}
        described["requestBody"] = {"required": not operation.body_optional, "content": content}
    return described


def _answer(operation: Operation, kind: Any, schema_of: Mapping[str, Any], schemas: dict[str, Any]) -> dict[str, Any]:
    names = [*_ALWAYS, *(["Location"] if operation.method == "POST" else [])]
    if kind is None:
        return {"description": "Done.", "headers": _header_refs(names)}
    schema = schema_of[repr(_item(kind))]
    if isinstance(kind, list):
        schema = _list_of(schema, schemas)
    else:
        names.append("ETag")
    content: dict[str, Any] = {"application/json": {"schema": schema}}
    if operation.streams:
        content[operation.streams] = {"schema": {"type": "string"}}
    return {"description": operation.summary + ".", "headers": _header_refs(names), "content": content}


def _list_of(item: Mapping[str, Any], schemas: dict[str, Any]) -> dict[str, Any]:
    kind = item["$ref"].rsplit("/", 1)[1].removesuffix("View")
    name = f"{kind}List"
    schemas[name] = {
        "title": name,
        "type": "object",
        "properties": {
            "kind": {"const": name},
            "revision": {"type": "integer", "description": "The revision that the list reflects."},
            "total": {"type": "integer", "description": "How many there are on all pages."},
            "items": {"type": "array", "items": item},
            "cursor": {"type": "string", "description": "For the next page; absent on the last one."},
        },
        "required": ["kind", "revision", "total", "items"],
    }
    return {"$ref": _REF.format(name=name)}


def _problems(operation: Operation) -> dict[str, Any]:
    kinds = {"unauthenticated", "store-unavailable" if not operation.is_read else "not-synced", *operation.problems}
    kinds |= {"revision-not-reached"} if operation.is_read else {"outcome-unknown", "store-full", "contended"}
    kinds |= (
        {"malformed", "body-too-large", "unsupported-media-type", "invalid"} if operation.body is not None else set()
    )
    kinds |= {"if-match-required", "revision-mismatch", "malformed"} if operation.conditional else set()
    kinds |= {"idempotency-key-reused", "malformed"} if operation.method == "POST" and operation.takes_key else set()
    kinds |= {"invalid"}
    by_status: dict[str, list[str]] = {}
    for kind in sorted(kinds):
        by_status.setdefault(str(PROBLEMS[kind].status), []).append(kind)
    return {status: _problem(names) for status, names in sorted(by_status.items())}


def _problem(names: Sequence[str]) -> dict[str, Any]:
    words = "; ".join(f"`/problems/{name}`: {PROBLEMS[name].title}" for name in names)
    content = {MEDIA_TYPE: {"schema": {"$ref": _REF.format(name="ProblemDocument")}}}
    return {"description": words, "headers": _header_refs(_ALWAYS), "content": content}


def _header_refs(names: Sequence[str]) -> dict[str, Any]:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _parameters(operation: Operation) -> list[dict[str, Any]]:
    query = [*operation.query, *([MIN_REVISION] if operation.is_read else [])]
    return [*map(_query_parameter, query), *_header_parameters(operation)]


def _query_parameter(parameter: Parameter) -> dict[str, Any]:
    schema = {"type": "array", "items": dict(parameter.schema)} if parameter.repeated else dict(parameter.schema)
    return {"name": parameter.name, "in": "query", "description": parameter.description, "schema": schema}


def _header_parameters(operation: Operation) -> list[dict[str, Any]]:
    text = {"type": "string"}
    found = []
    if operation.conditional:
        words = 'The revision that is changed, `"42"`, or `*` for any.'
        found.append({"name": "If-Match", "in": "header", "required": True, "description": words, "schema": text})
    if operation.method == "POST" and operation.takes_key:
        words = "The same key gives the same answer for 24 hours, on every replica."
        found.append({"name": "Idempotency-Key", "in": "header", "description": words, "schema": text})
    return found


def _shared(path: str) -> dict[str, Any]:
    names = re.findall(r"\{(\w+)\}", path)
    if not names:
        return {}
    return {
        "parameters": [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names]
    }


def _open(path: str, summary: str, answers: Mapping[int, str], media_type: str) -> dict[str, Any]:
    content: dict[str, Any] = {media_type: {}}
    return {
        "operationId": path.strip("/").replace(".", "_") or "page",
        "summary": summary,
        "tags": ["replica"],
        "security": [],
        "responses": {
            str(status): {"description": words, "headers": _header_refs(_ALWAYS), "content": content}
            for status, words in answers.items()
        },
    }
