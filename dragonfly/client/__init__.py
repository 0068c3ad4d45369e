"""A small client of Dragonfly's HTTP API for other programs; docs/client.md shows how it is used.

`Client` is synchronous, `AsyncClient` is for asyncio; they have the same methods. Both try again what may be tried
again, read what they wrote whichever replica answers, and follow changes across replicas, restarts and resets.
"""

from dragonfly.client.aio import AsyncClient
from dragonfly.client.errors import ApiError, ClientError, Unreachable
from dragonfly.client.stream import Event
from dragonfly.client.sync import Client

__all__ = ["ApiError", "AsyncClient", "Client", "ClientError", "Event", "Unreachable"]
