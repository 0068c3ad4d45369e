"""What the routes work with: the replica's parts, the catalogues made of its mirror, and the two ways to answer."""

from collections.abc import Callable
from datetime import timedelta
from typing import Final, NamedTuple, TypeVar

import msgspec
from starlette.responses import Response

from dragonfly.api import rows
from dragonfly.api.calls import JSON, Call
from dragonfly.api.catalog import Catalog
from dragonfly.api.cluster_views import Population, cluster_catalog
from dragonfly.api.context import Context
from dragonfly.api.lists import Listing, page, wanted
from dragonfly.api.problems import Fault
from dragonfly.api.webhook_views import webhook_catalog
from dragonfly.intent.idempotency import Answer, HourlyLeases, Once, answered
from dragonfly.intent.plan import Decide, Done, carry_out
from dragonfly.intent.provisions import ProvisionIndex
from dragonfly.intent.terms import Terms
from dragonfly.store.errors import LeaseLost

T = TypeVar("T")

ARRIVAL: Final = timedelta(seconds=5)
"""How long a read waits for a revision that this replica has not seen yet."""


class Desk(NamedTuple):
    """Made once for an application by `desk_of`."""

    context: Context
    provisions: ProvisionIndex
    leases: HourlyLeases
    machine_rows: Catalog
    template_rows: Catalog
    provision_rows: Catalog
    webhook_rows: Catalog
    cluster_rows: Catalog
    population: Population

    def terms(self, call: Call) -> Terms:
        return self.terms_of(call.identity.name)

    def terms_of(self, caller: str) -> Terms:
        context = self.context
        return Terms(context.now(), caller, context.clusters.keys(), context.sealer)

    async def arrived(self, revision: int) -> None:
        """Wait until the mirror shows `revision`.

        Raises:
            Fault: it does not in time.
        """
        try:
            await self.context.mirror.wait_for(revision, ARRIVAL.total_seconds())
        except TimeoutError as error:
            detail = (
                f"This replica is at revision {self.context.mirror.revision} and has not seen {revision} within "
                f"{ARRIVAL.total_seconds():.0f} s. Try again, or ask another replica."
            )
            raise Fault("revision-not-reached", detail) from error

    async def list(self, call: Call, catalog: Catalog, listing: Listing, **fixed: str) -> Response:
        """Answer with a page of a catalogue; `fixed` facets come from the path."""
        query = call.query() | {name: [value] for name, value in fixed.items()}
        wish = wanted(query, listing)
        if wish.cursor is not None:
            await self.arrived(wish.cursor.revision)
        return Response(page(catalog.rows(), wish, listing, self.context.mirror.revision), media_type=JSON)

    async def write(self, decide: Decide[T]) -> Done[T]:
        return await carry_out(self.context.store, self.context.mirror, decide)

    async def change(self, decide: Decide[T], view: Callable[[T, int], object], status: int = 200) -> Response:
        """Carry out a change and answer with the resource as it is then."""
        done = await self.write(decide)
        return written(msgspec.json.encode(view(done.outcome, done.revision)), done.revision, status)

    async def post(self, call: Call, decide: Decide[T], answer: Callable[[T], Answer]) -> Response:
        """Carry out a POST: once only, if it carries an Idempotency-Key."""
        done = await self.once(decide, answer, await call.once(self.context.sealer))
        kept = done.outcome
        return written(kept.body.encode(), done.revision, kept.status, kept.location)

    async def once(self, decide: Decide[T], answer: Callable[[T], Answer], key: tuple[str, str] | None) -> Done[Answer]:
        """Carry out an intent and return what it is answered; once only, if there is a key.

        Args:
            key: the Idempotency-Key, and what tells this request from others.
        """
        try:
            done = await self.write(answered(decide, answer, await self._once(key)))
        except LeaseLost:
            self.leases.forget()
            done = await self.write(answered(decide, answer, await self._once(key)))
        kept = done.outcome
        complete = msgspec.structs.replace(kept, body=_with_revision(kept.body, done.revision))
        return Done(complete, done.revision)

    async def _once(self, key: tuple[str, str] | None) -> Once | None:
        return Once(*key, await self.leases.current()) if key is not None else None


def desk_of(context: Context) -> Desk:
    population = Population(context.mirror)
    return Desk(
        context=context,
        provisions=ProvisionIndex(context.mirror),
        leases=HourlyLeases(context.store, context.now),
        machine_rows=rows.machine_catalog(context),
        template_rows=rows.template_catalog(context),
        provision_rows=rows.provision_catalog(context),
        webhook_rows=webhook_catalog(context.mirror),
        cluster_rows=cluster_catalog(context.mirror, population),
        population=population,
    )


def resource(body: bytes, revision: int, status: int = 200) -> Response:
    """Answer with one resource that was last changed at `revision`."""
    return Response(body, status, {"ETag": f'"{revision}"'}, JSON)


def removed(revision: int) -> Response:
    """Answer that a resource is gone since `revision`."""
    return Response(status_code=204, headers={"Dragonfly-Revision": str(revision)})


def written(body: bytes, revision: int, status: int, location: str = "") -> Response:
    """Answer with a resource as a change has left it."""
    response = resource(body, revision, status)
    response.headers["Dragonfly-Revision"] = str(revision)
    if location:
        response.headers["Location"] = location
    return response


def _with_revision(body: str, revision: int) -> str:
    """Put the revision in that was not known yet when the answer was made: `metadata.revision` stands first of all."""
    return body.replace('"revision":0', f'"revision":{revision}', 1)
