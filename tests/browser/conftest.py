"""A real Chromium, as Debian ships it, before a site of real parts."""

import shutil
from collections.abc import Callable, Iterator
from typing import Final

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from tests.e2e.conftest import StartSite, ports, start_site
from tests.e2e.site import Site

__all__ = ["ports", "start_site"]

_ARGUMENTS: Final = """
    --headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
    --disable-component-update --disable-sync
""".split()

Open = Callable[[], Page]


@pytest.fixture(scope="module")  # while it lives, its own event loop counts as running: no async test may come
def chromium() -> Iterator[Browser]:
    program = shutil.which("chromium")
    assert program, "there is no chromium: scripts/ensure-test-programs installs it"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=_ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def site(start_site: StartSite) -> Iterator[Site]:
    with start_site(3) as site:
        yield site


@pytest.fixture
def opened(chromium: Browser, site: Site) -> Iterator[Open]:
    """Opens the page behind the load balancer in a tab of its own; a mistake in its script fails the test."""
    with chromium.new_context() as context:
        mistakes: list[str] = []

        def page() -> Page:
            made = context.new_page()
            made.set_default_timeout(60_000)
            made.on("pageerror", lambda error: mistakes.append(str(error)))
            made.goto(site.balancer.url)
            return made

        yield page
        assert mistakes == []
