"""The settings of a replica: from flags, then the environment, then a file, into one frozen value.

Pure: the edges (`dragonfly.cli.server`) read the file and ask the computer for its name. Each field of `Settings` has
one name in three spellings: `lease_ttl` in the file, `--lease-ttl`, `DRAGONFLY_LEASE_TTL`. Everything wrong is told at
once, each with the place where it was said, so that nobody starts a replica five times to find five mistakes.
"""

import difflib
import ipaddress
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, NamedTuple
from urllib.parse import urlsplit

import msgspec
import yaml

from dragonfly.model.values import is_dns_label

LogFormat = Literal["json", "console"]
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
LogLevel = Literal["debug", "info", "warning", "error"]

CONFIG_VARIABLE = "DRAGONFLY_CONFIG"
"""Names the file; not a setting itself."""

DEFAULT_PREFIX = "/dragonfly/"


class Address(NamedTuple):
    """A host and a TCP port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a replica is told. Files are named here and read by what needs them."""

    listen: Address = Address("0.0.0.0", 3000)  # noqa: S104 - a replica stands behind a load balancer
    advertise: Address
    """Where other replicas reach this one."""
    replica: str
    site: str = ""
    etcd_endpoints: tuple[str, ...] = ()
    etcd_prefix: str = DEFAULT_PREFIX
    etcd_username: str = ""
    etcd_password_file: str = ""
    etcd_ca_file: str = ""
    etcd_cert_file: str = ""
    etcd_key_file: str = ""
    replica_token_file: str = ""
    """What replicas show each other at the relay."""
    kubeconfig: str = ""
    """Empty: the pod's own service account."""
    context: str = ""
    """Of the kubeconfig; empty: its current-context."""
    namespace: str = "tinkerbell"
    shards: int = 8
    lease_ttl: int = 3
    """Seconds without a sign of life after which a replica's claims pass to others."""
    secret_key_file: str = ""
    admin_password_file: str = ""
    admin_token_file: str = ""
    webhook_allow: tuple[Network, ...] = ()
    """Networks that webhooks may send to although such addresses are forbidden."""
    webhook_http: bool = False
    """Whether webhooks may send without TLS."""
    installed: bool = False
    observe: bool = False
    """Whether this replica only looks on: it claims nothing, and connects to no cluster."""
    log_format: LogFormat = "json"
    log_level: LogLevel = "info"


class Host(NamedTuple):
    """What the computer says about itself; some defaults come from it."""

    name: str
    suffix: str
    """Random letters that tell apart two replicas on one computer."""
    terminal: bool = False


class ConfigFile(NamedTuple):
    """A file that was read; `.toml` is TOML, anything else YAML."""

    path: str
    text: str


class SettingProblem(NamedTuple):
    """One wrong setting: where it was said, what was said, and what is allowed."""

    source: str
    value: str | None
    message: str

    def __str__(self) -> str:
        said = "" if self.value is None else f" {self.value!r}"
        return f"{self.source}:{said} {self.message}"


class SettingsError(Exception):
    """No replica can be started with these settings; `problems` has each of them."""

    def __init__(self, problems: tuple[SettingProblem, ...]) -> None:
        self.problems = problems
        super().__init__("\n".join(str(problem) for problem in problems))


class Setting(NamedTuple):
    """How one field of `Settings` is given."""

    field: str
    parse: Callable[[str], Any]
    """Raises ValueError with what is allowed."""
    help: str
    default: str = ""
    """As people read it; empty for none."""
    variable: str = ""
    switch: bool = False
    """Whether the flag without a value means yes."""

    @property
    def flag(self) -> str:
        return "--" + self.field.replace("_", "-")

    @property
    def env(self) -> str:
        return self.variable or f"DRAGONFLY_{self.field.upper()}"


def load(flags: Mapping[str, str], env: Mapping[str, str], file: ConfigFile | None, host: Host) -> Settings:
    """Return the settings: a flag wins over a variable, a variable over the file, the file over the default.

    Args:
        flags: by the field's name; only those that were given. An empty variable counts as not given.

    Raises:
        SettingsError: with every mistake in every source.
    """
    problems: list[SettingProblem] = []
    said = _said(flags, env, _file_values(file, problems) if file else {})
    values: dict[str, Any] = {}
    for setting in SETTINGS:
        if setting.field not in said:
            continue
        source, text = said[setting.field]
        try:
            values[setting.field] = setting.parse(text)
        except ValueError as error:
            problems.append(SettingProblem(source, _shown(text), str(error)))
    problems += _disagreements(said, values)
    if problems:
        raise SettingsError(tuple(problems))
    return _with_defaults(values, host)


class _Said(NamedTuple):
    source: str
    text: str


def _said(flags: Mapping[str, str], env: Mapping[str, str], file: Mapping[str, _Said]) -> dict[str, _Said]:
    said = dict(file)
    for setting in SETTINGS:
        if env.get(setting.env):
            said[setting.field] = _Said(setting.env, env[setting.env])
        if setting.field in flags:
            said[setting.field] = _Said(setting.flag, flags[setting.field])
    return said


def _with_defaults(values: dict[str, Any], host: Host) -> Settings:
    listen = values.get("listen", Address("0.0.0.0", 3000))  # noqa: S104 - as in Settings
    values.setdefault("replica", _replica_name(host))
    values.setdefault("advertise", Address(host.name, listen.port) if _is_wildcard(listen.host) else listen)
    values.setdefault("log_format", "console" if host.terminal else "json")
    return Settings(**values)


def _replica_name(host: Host) -> str:
    """Make a DNS label of at most 63 characters: it becomes part of an etcd key and of a metric's label."""
    name = re.sub(r"[^a-z0-9]+", "-", host.name.lower())[: 62 - len(host.suffix)].strip("-")
    return f"{name}-{host.suffix}" if name else f"replica-{host.suffix}"


def _is_wildcard(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def _disagreements(said: Mapping[str, _Said], values: Mapping[str, Any]) -> Iterator[SettingProblem]:
    """Tell of settings that make no sense without one another."""
    pairs = (
        ("etcd_cert_file", "etcd_key_file"),
        ("etcd_key_file", "etcd_cert_file"),
        ("etcd_username", "etcd_password_file"),
        ("etcd_password_file", "etcd_username"),
    )
    for field, other in pairs:
        if values.get(field) and not values.get(other) and not (other in said and other not in values):
            needed = next(setting for setting in SETTINGS if setting.field == other)
            message = f"needs {needed.flag} ({needed.env}) too"
            yield SettingProblem(said[field].source, said[field].text, message)
    if any(map(is_relay, values.get("etcd_endpoints", ()))) and "replica_token_file" not in said:
        endpoints = said["etcd_endpoints"]
        message = "leads to a relay, which needs --replica-token-file (DRAGONFLY_REPLICA_TOKEN_FILE) too"
        yield SettingProblem(endpoints.source, endpoints.text, message)


def _file_values(file: ConfigFile, problems: list[SettingProblem]) -> dict[str, _Said]:
    try:
        entries = list(_toml_entries(file.text) if file.path.endswith(".toml") else _yaml_entries(file.text))
    except tomllib.TOMLDecodeError as error:
        problems.append(SettingProblem(file.path, None, f"is no valid TOML: {error}"))
        return {}
    except yaml.YAMLError as error:
        problems.append(SettingProblem(file.path, None, f"is no valid YAML: {_in_one_line(error)}"))
        return {}
    known = {setting.field for setting in SETTINGS}
    values = {}
    for entry in entries:
        source = f"{file.path} line {entry.line}, {entry.key}"
        if entry.key not in known:
            problems.append(SettingProblem(source, None, f"is no setting{_nearest(entry.key, known)}"))
        elif entry.text is None:
            problems.append(SettingProblem(source, None, "must be one value or a list of values"))
        elif entry.key in values:
            problems.append(SettingProblem(source, entry.text, "is given twice in this file"))
        else:
            values[entry.key] = _Said(source, entry.text)
    return values


def _nearest(key: str, known: set[str]) -> str:
    near = difflib.get_close_matches(key.lower().replace("-", "_"), known, n=1)
    return f"; did you mean {near[0]}?" if near else "; docs/configuration.md lists them"


class _Entry(NamedTuple):
    key: str
    text: str | None
    """None for what is neither a value nor a list of values."""
    line: int


def _yaml_entries(text: str) -> Iterator[_Entry]:
    # Nodes, not values: they keep their line, and `no` and `1e3` stay what was written.
    root = yaml.compose(text, yaml.SafeLoader)
    if root is None:
        return
    if not isinstance(root, yaml.MappingNode):
        raise yaml.YAMLError("the file must hold `name: value` lines")
    for key, value in root.value:
        line = key.start_mark.line + 1
        if isinstance(value, yaml.ScalarNode):
            if value.tag != "tag:yaml.org,2002:null":
                yield _Entry(str(key.value), value.value, line)
        elif isinstance(value, yaml.SequenceNode) and all(isinstance(item, yaml.ScalarNode) for item in value.value):
            yield _Entry(str(key.value), ",".join(item.value for item in value.value), line)
        else:
            yield _Entry(str(key.value), None, line)


def _toml_entries(text: str) -> Iterator[_Entry]:
    lines = text.splitlines()
    for key, value in tomllib.loads(text).items():
        pattern = re.compile(rf"""\s*(\[\s*)?["']?{re.escape(key)}\b""")
        line = next((number for number, content in enumerate(lines, 1) if pattern.match(content)), 1)
        yield _Entry(key, _toml_text(value), line)


def _toml_text(value: Any) -> str | None:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str | int | float):
        return str(value)
    if isinstance(value, list) and all(isinstance(item, str | int) for item in value):
        return ",".join(str(item) for item in value)
    return None


def _in_one_line(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return str(error)
    return f"line {mark.line + 1}, column {mark.column + 1}: {getattr(error, 'problem', None) or error}"


def _shown(text: str) -> str:
    """Hide a password in a URL: what is wrong with it must not put it into a log."""
    return re.sub(r"//[^/@]*@", "//(hidden)@", text)


def _text(text: str) -> str:
    return text


def parse_address(text: str) -> Address:
    """Return the address that a text such as `0.0.0.0:3000` or `[::]:3000` says.

    Raises:
        ValueError: it says none.
    """
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\s:/\[\]]*)):([0-9]{1,5})", text)
    if match is None or not 1 <= int(match[3]) <= 65535:
        raise ValueError("must be HOST:PORT, such as 0.0.0.0:3000 or [::]:3000, with a port of 1 to 65535")
    return Address(match[1] or match[2] or "0.0.0.0", int(match[3]))  # noqa: S104 - `:3000` means every address


def _reachable_address(text: str) -> Address:
    address = parse_address(text)
    if _is_wildcard(address.host):
        raise ValueError("must be an address that other replicas can connect to, not every address of this computer")
    return address


def _endpoints(text: str) -> tuple[str, ...]:
    endpoints = tuple(dict.fromkeys(part.strip().rstrip("/") for part in text.split(",") if part.strip()))
    if not endpoints or not all(_is_endpoint(endpoint) for endpoint in endpoints):
        raise ValueError(
            "must be URLs of etcd's client port, separated by commas, such as https://10.0.0.1:2379, or of a relay, "
            "which end with /etcd; the user and the password have settings of their own"
        )
    return endpoints


def _is_endpoint(text: str) -> bool:
    try:
        url = urlsplit(text)
        if url.scheme not in {"http", "https"} or not url.hostname:
            return False
        if is_relay(text):
            return re.fullmatch(r"(/[\w.~:%-]+)*/etcd", url.path) is not None and text == _origin(text) + url.path
        return url.port is not None and text == _origin(text)
    except ValueError:
        return False


def _origin(text: str) -> str:
    url = urlsplit(text)
    host = f"[{url.hostname}]" if url.hostname and ":" in url.hostname else url.hostname
    return f"{url.scheme}://{host}:{url.port}" if url.port is not None else f"{url.scheme}://{host}"


def is_relay(endpoint: str) -> bool:
    """Whether other replicas pass calls on there: etcd's own URLs have no path."""
    return bool(urlsplit(endpoint).path.strip("/"))


def _prefix(text: str) -> str:
    if re.fullmatch(r"/[!-~]+", text) is None or "//" in text:
        raise ValueError("must begin with / and have a name, such as /dragonfly/")
    return text.rstrip("/") + "/"


def _label(text: str) -> str:
    if not is_dns_label(text):
        raise ValueError("must be a DNS label: 1 to 63 of a-z, 0-9 and -, beginning and ending with a-z or 0-9")
    return text


def _number(low: int, high: int, unit: str) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if re.fullmatch(r"[0-9]{1,9}", text) is None or not low <= int(text) <= high:
            raise ValueError(f"must be a whole number{unit} of {low} to {high}")
        return int(text)

    return parse


def _one_of(*allowed: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in allowed:
            raise ValueError(f"must be one of {', '.join(allowed)}")
        return text

    return parse


def _networks(text: str) -> tuple[Network, ...]:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    try:
        return tuple(map(ipaddress.ip_network, parts))
    except ValueError as error:
        raise ValueError("must be networks, separated by commas, such as 127.0.0.0/8,fd00::/8") from error


def _yes_or_no(text: str) -> bool:
    said = text.strip().lower()
    if said not in {"yes", "true", "1", "no", "false", "0"}:
        raise ValueError("must be yes or no")
    return said in {"yes", "true", "1"}


def _is_set(text: str) -> bool:
    """An installer sets the variable to whatever it likes, such as a version; only a plain no is a no."""
    return text.strip().lower() not in {"", "0", "false", "no"}


SETTINGS: tuple[Setting, ...] = (
    Setting("listen", parse_address, "Address and port to serve HTTP on.", "0.0.0.0:3000"),
    Setting("advertise", _reachable_address, "Address and port that other replicas reach this one at.", "as listen"),
    Setting("replica", _label, "Name of this replica; no other may have it.", "hostname and random letters"),
    Setting("site", _label, "Where this replica runs, such as fra1; it prefers clusters of its own site."),
    Setting("etcd_endpoints", _endpoints, "URLs of etcd's members, or of relays, separated by commas."),
    Setting("etcd_prefix", _prefix, "Prefix of all keys; replicas that share it are one swarm.", DEFAULT_PREFIX),
    Setting("etcd_username", _text, "User of etcd, where its authentication is on."),
    Setting("etcd_password_file", _text, "File with that user's password."),
    Setting("etcd_ca_file", _text, "File with the CA that signed the certificates of these (PEM)."),
    Setting("etcd_cert_file", _text, "File with the client certificate for etcd (PEM)."),
    Setting("etcd_key_file", _text, "File with that certificate's key (PEM)."),
    Setting("replica_token_file", _text, "File with the tokens that let replicas through the relay, one a line."),
    Setting(
        "kubeconfig", _text, "Kubeconfig of the cluster with Tinkerbell.", "the pod's service account", "KUBECONFIG"
    ),
    Setting("context", _text, "Context of the kubeconfig.", "the one it says"),
    Setting("namespace", _label, "Namespace of Tinkerbell's objects.", "tinkerbell"),
    Setting("shards", _number(1, 256, ""), "Slices of a cluster's machines; the same on every replica.", "8"),
    Setting("lease_ttl", _number(2, 60, " of seconds"), "Seconds until a silent replica's work passes on.", "3"),
    Setting("secret_key_file", _text, "File with the key that seals BMC passwords and webhooks' secrets in etcd."),
    Setting("admin_password_file", _text, "File with the password of the user admin; nothing reads it yet."),
    Setting("admin_token_file", _text, "File with a token that may do everything."),
    Setting("webhook_allow", _networks, "Networks that webhooks may send to although they would be refused, as CIDRs."),
    Setting("webhook_http", _yes_or_no, "Whether webhooks may have URLs without TLS.", "no", switch=True),
    Setting(
        "installed",
        _is_set,
        "Whether an installer made this replica, which then says that it is a pod.",
        "no",
        switch=True,
    ),
    Setting("observe", _yes_or_no, "Whether this replica only looks on, and drives nothing.", "no", switch=True),
    Setting("log_format", _one_of("json", "console"), "json or console.", "console on a terminal, else json"),
    Setting("log_level", _one_of("debug", "info", "warning", "error"), "debug, info, warning or error.", "info"),
)
"""Every setting, in the order in which --help and docs/configuration.md show them."""
