"""What the demo promises on its first screen is what happens."""

from dragonfly.sandbox.demo import DemoOptions
from dragonfly.sandbox.demotext import Told, doomed, text
from dragonfly.sandbox.fate import Behaviour

TOLD = Told(
    url="http://127.0.0.1:3000",
    token="df_token",
    token_file="/d/token",
    demo_file="/d/demo.json",
    tink_server="127.0.0.1:4",
    program="dragonfly",
    is_elsewhere=False,
    machines=24,
    replica="a",
    replica_pid=7,
    restart=True,
    behaviour=Behaviour(0, DemoOptions().fail_rate),
)


def test_a_plain_demo_has_a_machine_that_fails_and_says_which() -> None:
    names = list(doomed(Behaviour(0, DemoOptions().fail_rate), DemoOptions().machines))

    assert names == ["m-goshawk"]
    assert "2% fail on purpose (--fail-rate, --seed): the first installation of m-goshawk.\n" in text(TOLD)
    assert "provision m-kestrel ubuntu-2404 --wait" in text(TOLD)


def test_other_seeds_fail_other_machines() -> None:
    fates = {tuple(doomed(Behaviour(seed, 0.02), 24)) for seed in range(8)}

    assert len(fates) > 5
    assert "on no machine's first installation" in text(TOLD._replace(behaviour=Behaviour(5, 0.02)))
    assert "fail on purpose" not in text(TOLD._replace(behaviour=Behaviour(0)))


def test_the_agents_address_is_for_those_who_start_their_own() -> None:
    assert "agents" not in text(TOLD)
    assert "Machines' agents   connect to 127.0.0.1:4, and are yours to start\n" in text(TOLD._replace(behaviour=None))


def test_what_to_expect_of_a_kill() -> None:
    assert "started again within 3 s (not with --no-restart)" in text(TOLD)
    assert "stays dead (--no-restart)" in text(TOLD._replace(restart=False))
    assert "while sleep 0.5; do dragonfly swarm; done" in text(TOLD)
    assert "export" not in text(TOLD)
    elsewhere = text(TOLD._replace(is_elsewhere=True))
    assert "    export DRAGONFLY_SERVER=http://127.0.0.1:3000 DRAGONFLY_TOKEN_FILE=/d/token\n" in elsewhere
