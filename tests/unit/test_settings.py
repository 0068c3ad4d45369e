import contextlib
import re
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragonfly.model.values import is_dns_label
from dragonfly.settings import SETTINGS, Address, ConfigFile, Host, Settings, SettingsError, load

HOST = Host("node-7.example.org", "x4k2p")
DOCS = Path(__file__).parents[2] / "docs" / "configuration.md"


def problems(flags: dict[str, str], env: dict[str, str], file: ConfigFile | None = None) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        load(flags, env, file, HOST)
    assert str(caught.value) == "\n".join(str(problem) for problem in caught.value.problems)
    return [str(problem) for problem in caught.value.problems]


def test_nothing_said_gives_the_defaults() -> None:
    settings = load({}, {}, None, HOST)

    assert settings == Settings(
        replica="node-7-example-org-x4k2p",
        advertise=Address("node-7.example.org", 3000),
        listen=Address("0.0.0.0", 3000),
        log_format="json",
    )


def test_a_terminal_gets_logs_for_people() -> None:
    assert load({}, {}, None, Host("n", "x", terminal=True)).log_format == "console"
    assert load({}, {"DRAGONFLY_LOG_FORMAT": "json"}, None, Host("n", "x", terminal=True)).log_format == "json"


@pytest.mark.parametrize("name", ["dragonfly.yaml", "dragonfly.toml"])
def test_a_flag_wins_over_a_variable_and_a_variable_over_the_file(name: str) -> None:
    lines = {"site": '"file"', "namespace": '"file"', "shards": "16"}
    sign = " = " if name.endswith(".toml") else ": "
    file = ConfigFile(name, "".join(f"{key}{sign}{value}\n" for key, value in lines.items()))
    env = {"DRAGONFLY_SITE": "variable", "DRAGONFLY_NAMESPACE": "variable", "KUBECONFIG": "/k"}

    settings = load({"site": "flag"}, env, file, HOST)

    assert (settings.site, settings.namespace, settings.shards, settings.kubeconfig) == ("flag", "variable", 16, "/k")


def test_an_empty_variable_counts_as_not_given() -> None:
    file = ConfigFile("d.yaml", "site: fra1\n")

    assert load({}, {"DRAGONFLY_SITE": ""}, file, HOST).site == "fra1"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("d.yaml", "etcd_endpoints:\n- https://10.0.0.1:2379\n- https://10.0.0.2:2379/\ninstalled: true\nsite: no\n"),
        (
            "d.toml",
            'etcd_endpoints = ["https://10.0.0.1:2379", "https://10.0.0.2:2379"]\ninstalled = true\nsite = "no"\n',
        ),
    ],
)
def test_a_file_may_have_lists_and_words_that_look_like_booleans(name: str, text: str) -> None:
    settings = load({}, {}, ConfigFile(name, text), HOST)

    assert settings.etcd_endpoints == ("https://10.0.0.1:2379", "https://10.0.0.2:2379")
    assert settings.installed
    assert settings.site == "no"


def test_null_in_a_file_is_not_given() -> None:
    assert load({}, {}, ConfigFile("d.yaml", "site: ~\nshards:\n"), HOST).shards == 8
    assert load({}, {}, ConfigFile("d.yaml", "# nothing\n"), HOST).shards == 8


def test_every_mistake_is_told_at_once_with_its_source() -> None:
    file = ConfigFile("/etc/d.yaml", "shards: many\n\nleasettl: 3\nlog_level: {a: 1}\n")
    env = {"DRAGONFLY_LEASE_TTL": "1", "DRAGONFLY_SITE": "Fra_1"}

    assert problems({"listen": "3000"}, env, file) == [
        "/etc/d.yaml line 3, leasettl: is no setting; did you mean lease_ttl?",
        "/etc/d.yaml line 4, log_level: must be one value or a list of values",
        "--listen: '3000' must be HOST:PORT, such as 0.0.0.0:3000 or [::]:3000, with a port of 1 to 65535",
        "DRAGONFLY_SITE: 'Fra_1' must be a DNS label: 1 to 63 of a-z, 0-9 and -, beginning and ending with a-z or 0-9",
        "/etc/d.yaml line 1, shards: 'many' must be a whole number of 1 to 256",
        "DRAGONFLY_LEASE_TTL: '1' must be a whole number of seconds of 2 to 60",
    ]


def test_a_line_of_toml_is_found() -> None:
    file = ConfigFile("d.toml", 'site = "a"\n# lease_ttl\n\nlease_ttl = 61\n')

    assert problems({}, {}, file) == ["d.toml line 4, lease_ttl: '61' must be a whole number of seconds of 2 to 60"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("d.yaml", "site: [a\n", "d.yaml: is no valid YAML: line 2, column 1: "),
        ("d.yaml", "just words\n", "d.yaml: is no valid YAML: the file must hold"),
        ("d.yaml", "site: a\nsite: b\n", "d.yaml line 2, site: 'b' is given twice in this file"),
        ("d.toml", "site = a\n", "d.toml: is no valid TOML: "),
        ("d.yaml", "zzzz: 1\n", "d.yaml line 1, zzzz: is no setting; docs/configuration.md lists them"),
        ("d.toml", "[etcd]\nprefix = 1\n", "d.toml line 1, etcd: is no setting"),
    ],
)
def test_a_broken_file_is_told(name: str, text: str, message: str) -> None:
    (problem,) = problems({}, {}, ConfigFile(name, text))

    assert problem.startswith(message)


@pytest.mark.parametrize(
    "endpoints",
    [
        "10.0.0.1:2379",
        "ftp://h:1",
        "http://h",
        "http://h:2379/v3",
        "http://h:99999",
        ",",
        "http://h:1,h:2",
        "http://h/etcd/v3",
        "http://h/etcd?x=1",
        "http://h/etcd#x",
        "http://h/a b/etcd",
        "http://h//etcd",
    ],
)
def test_etcd_endpoints_are_urls(endpoints: str) -> None:
    (problem,) = problems({"etcd_endpoints": endpoints}, {})

    assert problem.startswith(f"--etcd-endpoints: {endpoints!r} must be URLs of etcd's client port")


@pytest.mark.parametrize(
    "endpoint",
    [
        "https://lb/etcd",
        "https://lb:8443/etcd",
        "http://[::1]:1/etcd",
        "https://k/api/v1/services/https:d:p/proxy/etcd",
    ],
)
def test_an_endpoint_with_a_path_is_a_relay_and_needs_a_replica_token(endpoint: str) -> None:
    token = {"replica_token_file": "token"}

    assert load({"etcd_endpoints": f"{endpoint}/", **token}, {}, None, HOST).etcd_endpoints == (endpoint,)
    (problem,) = problems({"etcd_endpoints": f"http://h:2379,{endpoint}"}, {})
    assert problem.endswith("leads to a relay, which needs --replica-token-file (DRAGONFLY_REPLICA_TOKEN_FILE) too")


def test_a_password_in_an_endpoint_is_refused_and_not_shown() -> None:
    (problem,) = problems({}, {"DRAGONFLY_ETCD_ENDPOINTS": "https://root:hunter2@etcd:2379"})

    assert "hunter2" not in problem
    assert "'https://(hidden)@etcd:2379'" in problem


def test_a_certificate_needs_its_key_and_a_user_a_password() -> None:
    assert problems({"etcd_cert_file": "c.pem"}, {"DRAGONFLY_ETCD_USERNAME": "root"}) == [
        "--etcd-cert-file: 'c.pem' needs --etcd-key-file (DRAGONFLY_ETCD_KEY_FILE) too",
        "DRAGONFLY_ETCD_USERNAME: 'root' needs --etcd-password-file (DRAGONFLY_ETCD_PASSWORD_FILE) too",
    ]


@pytest.mark.parametrize(
    ("listen", "advertised"),
    [
        ("0.0.0.0:3001", "node-7.example.org:3001"),
        (":3001", "node-7.example.org:3001"),
        ("[::]:80", "node-7.example.org:80"),
        ("10.0.0.7:3000", "10.0.0.7:3000"),
        ("[2001:db8::7]:3000", "[2001:db8::7]:3000"),
        ("fra:3000", "fra:3000"),
    ],
)
def test_what_others_connect_to_follows_from_listen(listen: str, advertised: str) -> None:
    assert str(load({"listen": listen}, {}, None, HOST).advertise) == advertised


def test_a_wildcard_cannot_be_advertised() -> None:
    (problem,) = problems({"advertise": "0.0.0.0:3000"}, {})

    assert "must be an address that other replicas can connect to" in problem


@pytest.mark.parametrize(("said", "prefix"), [("/a", "/a/"), ("/a/b/", "/a/b/"), ("/dragonfly/", "/dragonfly/")])
def test_a_prefix_ends_with_a_slash(said: str, prefix: str) -> None:
    assert load({"etcd_prefix": said}, {}, None, HOST).etcd_prefix == prefix


@pytest.mark.parametrize("said", ["a/", "/", "//", "/a//b", "/ä/", "/a b/"])
def test_a_prefix_that_would_hold_the_whole_of_etcd_is_refused(said: str) -> None:
    assert len(problems({"etcd_prefix": said}, {})) == 1


@pytest.mark.parametrize(("said", "installed"), [("1", True), ("0.1.0", True), ("No", False), ("0", False)])
def test_installed_is_whatever_is_no_plain_no(said: str, *, installed: bool) -> None:
    assert load({}, {"DRAGONFLY_INSTALLED": said}, None, HOST).installed is installed


@given(st.text(), st.text(alphabet="abcdefghijklmnopqrstuvwxyz0123456789", min_size=5, max_size=5))
def test_any_hostname_gives_a_name_for_a_replica(hostname: str, suffix: str) -> None:
    assert is_dns_label(load({"listen": "127.0.0.1:1"}, {}, None, Host(hostname, suffix)).replica)


@given(
    st.dictionaries(st.sampled_from([s.field for s in SETTINGS]), st.text(max_size=20)),
    st.text(max_size=80),
    st.sampled_from(["d.yaml", "d.toml"]),
)
def test_whatever_is_said_gives_settings_or_problems(flags: dict[str, str], text: str, name: str) -> None:
    with contextlib.suppress(SettingsError):
        assert load(flags, {}, ConfigFile(name, text), HOST).shards in range(1, 257)


def test_every_field_is_a_setting_and_every_setting_a_field() -> None:
    assert sorted(s.field for s in SETTINGS) == sorted(Settings.__struct_fields__)


def test_each_default_that_is_shown_is_the_real_one() -> None:
    defaults = {f.name: f.default for f in msgspec.structs.fields(Settings)}
    for setting in SETTINGS:
        if re.fullmatch(r"\S+", setting.default) and setting.field not in {
            "installed",
            "observe",
            "site",
            "webhook_http",
        }:
            assert str(defaults[setting.field]) == setting.default, setting.field


def test_the_documentation_has_every_setting_with_its_names_and_default() -> None:
    rows = re.findall(r"^\| `(\w+)` \| `(--[\w-]+)` \| `(\w+)` \| (.*?) \|", DOCS.read_text(), re.MULTILINE)

    assert rows == [(s.field, s.flag, s.env, f"`{s.default}`" if s.default else "") for s in SETTINGS]
