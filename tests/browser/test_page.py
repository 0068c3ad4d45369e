"""The page at /: it lives from the feed, whichever replica tells, and says when it may be out of date."""

from signal import SIGKILL
from typing import Any

import pytest
from playwright.sync_api import Page, Request, expect

from tests.browser.conftest import Open
from tests.e2e.site import Machine, Site

pytestmark = [pytest.mark.slow, pytest.mark.cluster]

expect.set_options(timeout=60_000)


def sign_in(page: Page, token: str) -> None:
    page.get_by_label("Admin token").fill(token)
    page.get_by_role("button", name="Show machines").click()


def row(page: Page, machine: Machine) -> Any:
    return page.locator(f"#machine-{machine.name}")


def serving(page: Page) -> str:
    """Which replica feeds the page."""
    words = page.locator("#replica").inner_text().split()
    return words[1] if words else ""


def note(site: Site, machine: Machine, text: str) -> None:
    """Change something about a machine that the page shows."""
    body = {"spec": {"maintenance": {"reason": text}}}
    answer = site.api.patiently("PATCH", f"machines/{machine.name}", body, {"If-Match": "*"})
    assert answer.ok, answer


def delete(site: Site, machine: Machine) -> None:
    answer = site.api.patiently("DELETE", f"machines/{machine.name}", headers={"If-Match": "*"})
    assert answer.ok, answer


def test_a_wrong_token_is_refused_in_words(site: Site, opened: Open) -> None:
    page = opened()
    expect(page.get_by_label("Admin token")).to_be_focused()

    sign_in(page, "df-no-such-token-at-all")

    expect(page.locator("#refused")).to_contain_text("token")
    expect(page.get_by_label("Admin token")).to_be_visible()
    expect(page.locator("#list")).to_be_hidden()
    sign_in(page, site._token)
    expect(page.locator("#caption")).to_contain_text("machine")


def test_what_changes_is_shown_without_asking_for_the_list(site: Site, opened: Open) -> None:
    first, second = site.registered(2)
    page = opened()
    asked: list[str] = []
    positions: list[str | None] = []
    page.on("request", lambda request: asked.append(_path(request)))
    page.on("request", lambda request: positions.extend(_positions(request)))
    sign_in(page, site._token)
    expect(row(page, first)).to_contain_text("Available")
    expect(page.locator("#health")).to_contain_text("3 replicas")
    page.evaluate("window.marked = true")

    note(site, first, "a new disk")
    (third,) = site.registered(1)
    delete(site, second)

    expect(row(page, first)).to_contain_text("maintenance: a new disk")
    expect(row(page, third)).to_contain_text("Available")
    expect(row(page, second)).to_have_count(0)
    page.get_by_label("Search machines").fill(third.mac)
    expect(page.locator("#rows tr")).to_have_count(1)
    assert page.evaluate("window.marked"), "the page has not been loaded anew"
    assert set(asked) == {"/api/v1/events", "/api/v1/swarm"}
    assert positions.count(None) == 1, "a stream that breaks is taken up where it was: no state is told again"


def test_a_replica_that_is_killed_costs_no_change(site: Site, opened: Open) -> None:
    """P8: each of the changes is shown, those too that came while the page was between two replicas."""
    machines = site.registered(6)
    for machine in machines:
        site.settled(machine)
    page = opened()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(_path(request)))
    sign_in(page, site._token)
    expect(row(page, machines[-1])).to_contain_text("Available")
    page.evaluate("""() => {
      window.shown = {};
      const note = () => { for (const row of document.querySelectorAll("#rows tr"))
        (window.shown[row.id] = window.shown[row.id] || new Set()).add(row.textContent); };
      new MutationObserver(note).observe(document.getElementById("rows"), { childList: true, subtree: true });
    }""")
    expect(page.locator("#replica")).not_to_be_empty()
    connected = asked.count("/api/v1/events")

    note(site, machines[0], "before")
    expect(row(page, machines[0])).to_contain_text("maintenance: before")
    site.swarm.kill(serving(page), SIGKILL)
    for machine in machines[1:]:
        note(site, machine, f"after {machine.name}")

    for machine in machines[1:]:
        expect(row(page, machine)).to_contain_text(f"maintenance: after {machine.name}")
    assert asked.count("/api/v1/events") > connected, "it was cut off, and came back"
    expect(page.locator("#connection")).to_be_empty()
    texts = page.evaluate(f"[...window.shown['machine-{machines[0].name}']]")
    assert all("before" in text for text in texts[1:]), "what was known was kept meanwhile"


def test_without_any_replica_it_says_that_it_may_be_out_of_date_until_one_answers(site: Site, opened: Open) -> None:
    (machine,) = site.registered(1)
    page = opened()
    sign_in(page, site._token)
    expect(row(page, machine)).to_contain_text("Available")

    site.balancer.service.stop()

    expect(page.locator("#connection")).to_contain_text("what is shown may be out of date")
    expect(row(page, machine)).to_be_visible()
    site.balancer.service.start()
    note(site, machine, "back again")
    expect(row(page, machine)).to_contain_text("maintenance: back again")
    expect(page.locator("#connection")).to_be_empty()


def test_what_etcd_has_forgotten_meanwhile_is_read_anew(site: Site, opened: Open) -> None:
    """A position that is lost is told as `reset`; the page shows the state that follows, and nothing that is gone."""
    kept, gone = site.registered(2)
    page = opened()
    sign_in(page, site._token)
    expect(row(page, gone)).to_contain_text("Available")

    page.evaluate("feed.etcd = 'beef'; feed.stream.abort()")
    delete(site, gone)
    note(site, kept, "after the reset")

    expect(row(page, kept)).to_contain_text("maintenance: after the reset")
    expect(row(page, gone)).to_have_count(0)


def test_a_replica_that_does_not_hear_from_etcd_is_named_until_it_does(site: Site, opened: Open) -> None:
    page = opened()
    sign_in(page, site._token)
    expect(page.locator("#caption")).to_contain_text("machine")

    # In one go: what a replica says meanwhile would take it back.
    told = page.evaluate("""() => {
      feed.take('event: ping\\ndata: {"revision":1,"stale":7.5}');
      return document.getElementById("stale").textContent;
    }""")
    assert "has not heard from etcd for 7.5 s" in told
    page.evaluate("feed.take(':')")

    expect(page.locator("#stale")).to_be_empty()


def _positions(request: Request) -> list[str | None]:
    """From where on the feed is asked for; None for all that there is."""
    return [request.headers.get("last-event-id")] if _path(request) == "/api/v1/events" else []


def _path(request: Request) -> str:
    return "/" + request.url.split("/", 3)[3].partition("?")[0]
