"""What the page of results says of machines that were installed, and of those that were not."""

from collections import Counter

from benchmarks.installed import Installed, rows

ALL = Installed(
    machines=3,
    conflicts=0.25,
    phases=Counter({"Succeeded": 3}),
    seconds=6.0,
    each=(1.0, 2.0, 5.0),
    waited=(0.1, 0.2, 0.3),
    prepared=(0.4, 0.8, 3.0),
    ran=(0.5, 1.0, 1.7),
    not_once=0,
    started=Counter({1: 6}),
    cpu={"replicas": 3.0, "tinkerbell": 1.5},
)


def test_all_that_succeeded_are_counted_and_timed() -> None:
    told = {row.what: (row.value, row.ratio) for row in rows(ALL)}

    assert told["3 machines provisioned: Succeeded"] == ("3", "all of them")
    assert told["from the first request until the last succeeded"] == ("6.0 s", "0.5 provisions/s")
    assert told["intent → Succeeded"][0] == "p50 2.0 s, p99 5.0 s, max 5.0 s"
    assert told["actions started once, by the machines"] == ("6 of 6", "0 more often")
    assert told["cores at work"] == ("replicas 0.50, tinkerbell 0.25", "0.75 in all, 1500 ms a machine")


def test_what_did_not_succeed_or_was_started_twice_is_told() -> None:
    found = ALL._replace(phases=Counter({"Succeeded": 1, "TimedOut": 2}), not_once=2, started=Counter({1: 4, 2: 1}))

    told = {row.what: (row.value, row.ratio) for row in rows(found)}

    assert told["3 machines provisioned: Succeeded"] == ("1", "2 TimedOut")
    assert told["Workflows not created once and armed once, by the audit logs"][0] == "2"
    assert told["actions started once, by the machines"] == ("4 of 6", "1 more often")
