"""The installer's page in a real Chromium, while an installation goes on and as it fails."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from dragonfly.cli.progress_page import ProgressPage
from dragonfly.install.execution import Event
from dragonfly.install.host_facts import HostFacts
from dragonfly.install.options import Options
from dragonfly.install.plan import plan
from dragonfly.install.progress import planned
from dragonfly.settings import Address

pytestmark = pytest.mark.slow

PLAN = plan(Options(image="x/y:1"), HostFacts(address="10.0.0.1", hostname="node-1"))
LAST_SECONDS = 60_000


@pytest.fixture
def served() -> Iterator[ProgressPage]:
    with ProgressPage(Address("127.0.0.1", 0), planned("node-1", PLAN)) as served:
        yield served


@pytest.fixture(params=["light", "dark"])
def opened(chromium: Browser, served: ProgressPage, request: pytest.FixtureRequest) -> Iterator[Page]:
    with chromium.new_context(color_scheme=request.param, viewport={"width": 800, "height": 900}) as context:
        page = context.new_page()
        page.set_default_timeout(LAST_SECONDS)
        mistakes: list[str] = []
        page.on("pageerror", lambda error: mistakes.append(str(error)))
        page.on("console", lambda message: mistakes.append(message.text) if message.type == "error" else None)
        page.goto(served.url)
        yield page
        assert mistakes == []


def test_one_sees_and_hears_what_goes_on_and_how_to_go_on(served: ProgressPage, opened: Page) -> None:
    settings, data, *_ = PLAN.steps
    steps = opened.get_by_role("list", name="Steps").get_by_role("listitem")
    expect(steps).to_have_count(len(PLAN.steps))
    expect(opened.get_by_role("heading", level=1)).to_have_text("Dragonfly on node-1")

    served(Event("step", settings.name, settings.done, "done", 1, len(PLAN.steps)))
    served(Event("step", data.name, data.title, "started", 2, len(PLAN.steps)))
    served(Event("progress", data.name, "12 MiB"))

    expect(opened.get_by_role("status")).to_have_text(f"Step 2 of {len(PLAN.steps)}: {data.title}")
    expect(steps.nth(0)).to_contain_text("done")
    expect(steps.nth(1)).to_have_text(re.compile("running.*12 MiB", re.DOTALL))
    expect(steps.nth(1)).to_have_attribute("aria-current", "step")
    expect(opened.get_by_role("progressbar", name="Dragonfly on node-1")).to_have_attribute("value", "1")
    expect(opened.get_by_role("alert")).to_be_hidden()
    ground = opened.evaluate("getComputedStyle(document.body).backgroundColor")
    is_dark = opened.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
    assert ground == ("rgb(20, 23, 26)" if is_dark else "rgb(255, 255, 255)")

    served(Event("step", data.name, "no space left on device", "failed", 2, len(PLAN.steps)))
    served.end("failed", f"{data.title}: no space left on device", "To go on from there: dragonfly install")

    expect(steps.nth(1)).to_contain_text("failed")
    expect(opened.get_by_role("alert")).to_contain_text("To go on from there: dragonfly install")
    expect(opened).to_have_title("Stopped: Dragonfly on node-1")
    served.__exit__(None, None, None)
    expect(opened.get_by_role("alert")).to_contain_text("no space left on device")
