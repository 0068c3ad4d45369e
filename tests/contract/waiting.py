"""Waiting for a condition, with a deadline and a message instead of a sleep."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable


async def until(condition: Callable[[], bool], what: str, within: float = 60) -> None:
    """Return once `condition()` holds; fail after `within` seconds."""
    try:
        async with asyncio.timeout(within):
            while not condition():  # noqa: ASYNC110 - what is waited for happens in other threads and processes
                await asyncio.sleep(0.005)
    except TimeoutError:
        raise AssertionError(f"not within {within:g} s: {what}") from None


async def until_async(condition: Callable[[], Awaitable[bool]], what: str, within: float = 60) -> None:
    """As `until`, for a condition that has to ask somebody."""
    try:
        async with asyncio.timeout(within):
            while not await condition():  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"not within {within:g} s: {what}") from None
