"""One request, read strictly: its body, its `If-Match`, its `Idempotency-Key`, its query."""

import re
from typing import Any, Final, NamedTuple, TypeVar

from starlette.requests import Request

from dragonfly.api.access import Identity
from dragonfly.api.problems import Fault
from dragonfly.intent.documents import as_input, parsed
from dragonfly.intent.idempotency import fingerprint, is_key
from dragonfly.intent.plan import Sealer
from dragonfly.intent.refusals import NotFound
from dragonfly.intent.terms import ANY, Match
from dragonfly.model.values import FieldError, Invalid, is_dns_label

T = TypeVar("T")

JSON: Final = "application/json"
MERGE_PATCH: Final = "application/merge-patch+json"
BODY_LIMIT: Final = 1024 * 1024

_ETAG = re.compile(r'(?P<weak>W/)?"(?P<tag>[^"]*)"')


class Call(NamedTuple):
    """A request whose caller is known."""

    request: Request
    identity: Identity
    id: str
    body_limit: int = BODY_LIMIT
    """Bytes."""

    def name(self, kind: str) -> str:
        """The name in the path.

        Raises:
            NotFound: nothing can have such a name.
        """
        name: str = self.request.path_params["name"]
        if not is_dns_label(name.lower()):
            raise NotFound(kind, name)
        return name

    def query(self) -> dict[str, list[str]]:
        params = self.request.query_params
        return {name: params.getlist(name) for name in params}

    def flag(self, name: str) -> bool:
        """A parameter that is `true` or `false`; false if it is not given."""
        text = self.request.query_params.get(name, "false")
        if text not in {"true", "false"}:
            raise Invalid([FieldError(f"?{name}", "must be true or false", text)])
        return text == "true"

    def match(self) -> Match:
        """The condition that every change of a resource must name.

        Raises:
            Fault: `If-Match` is missing or cannot be read.
        """
        text = ", ".join(self.request.headers.getlist("if-match")).strip()
        if not text:
            detail = 'Say which revision you change: If-Match: "<metadata.revision>" as last read, or * for any.'
            raise Fault("if-match-required", detail)
        if text == "*":
            return ANY
        tags = list(_ETAG.finditer(text))
        if _ETAG.sub("", text).strip(", "):
            detail = 'If-Match must be *, or revisions in double quotes: If-Match: "42".'
            raise Fault("malformed", detail)
        strong = (tag["tag"] for tag in tags if not tag["weak"])  # RFC 9110: a weak tag never matches here
        return Match(frozenset(int(tag) for tag in strong if tag.isascii() and tag.isdigit()))

    async def document(self, media_type: str = JSON) -> Any:
        """The body as JSON, read strictly.

        Raises:
            Fault: the body is too large or of another type.
            Malformed, Invalid: it is no JSON, or has a field twice.
        """
        self._check_media_type(media_type)
        return parsed(await self.body())

    async def input(self, kind: type[T], *, optional: bool = False) -> T:
        """The body as one of the model's input types; if `optional`, none counts as `{}`. Raises as `document`."""
        if optional and not await self.body():
            return as_input({}, kind)
        return as_input(await self.document(), kind)

    async def patch(self) -> dict[str, Any]:
        """The body as a JSON Merge Patch of a resource. Raises as `document`."""
        document = await self.document(MERGE_PATCH)
        if not isinstance(document, dict):
            raise Invalid([FieldError("(body)", "must be an object: a patch of a resource names its fields")])
        return document

    async def body(self) -> bytes:
        """The raw body; read once, then kept.

        Raises:
            Fault: it is larger than `body_limit`, whatever its Content-Length says.
        """
        state = self.request.state
        if not hasattr(state, "body"):
            state.body = await self._read()
        body: bytes = state.body
        return body

    async def once(self, sealer: Sealer | None) -> tuple[str, str] | None:
        """The Idempotency-Key and what tells this request from others; None without the header.

        Raises:
            Fault: the key is not allowed.
        """
        key = self.key()
        if key is None:
            return None
        url = self.request.url
        parts = (self.identity.name, self.request.method, url.path, url.query)
        return key, fingerprint(*(part.encode() for part in parts), await self.body(), sealer=sealer)

    def key(self) -> str | None:
        """The Idempotency-Key, if there is one.

        Raises:
            Fault: the key is not allowed.
        """
        key = self.request.headers.get("idempotency-key")
        if key is not None and not is_key(key):
            detail = "Idempotency-Key must be 1 to 128 printable ASCII characters without blanks and slashes."
            raise Fault("malformed", detail)
        return key

    def _check_media_type(self, wanted: str) -> None:
        headers = self.request.headers
        if headers.get("content-encoding", "identity").lower() != "identity":
            raise Fault("unsupported-media-type", "Send the body as it is, without Content-Encoding.")
        sent = headers.get("content-type", "")
        media_type, _, parameters = sent.partition(";")
        if media_type.strip().lower() != wanted or "charset" in parameters.lower().replace("charset=utf-8", ""):
            detail = f"Content-Type must be {wanted}, in UTF-8; it is {sent or 'missing'}."
            accept = {"Accept-Patch": wanted} if self.request.method == "PATCH" else {"Accept-Post": wanted}
            raise Fault("unsupported-media-type", detail, headers=accept)

    async def _read(self) -> bytes:
        length = self.request.headers.get("content-length", "")
        if length.isdigit() and int(length[:12]) > self.body_limit:
            raise _too_large(self.body_limit)
        body = bytearray()
        async for chunk in self.request.stream():
            body += chunk
            if len(body) > self.body_limit:
                raise _too_large(self.body_limit)
        return bytes(body)


def _too_large(limit: int) -> Fault:
    # The connection stays open: the server reads what is left of the body away. Closed with unread bytes it would be
    # reset, and a load balancer would lose the answer.
    return Fault("body-too-large", f"The body may have at most {limit // 1024**2} MiB ({limit:,} bytes).")
