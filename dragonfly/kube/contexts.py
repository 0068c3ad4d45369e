"""Kubeconfig files read as kubectl reads them, and judged: what is wrong is told with its file and its field.

As kubectl: the first of several files wins, for current-context too; relative paths are relative to the file that they
stand in, an exec plugin's command too. Unlike kubectl: `insecure-skip-tls-verify` is refused; `auth-provider` as well,
since exec plugins have taken its place; and impersonation, because to leave it out would be to act with other rights.

No message has a value that may be a secret in it: it ends in logs and in other replicas' answers.
"""

import base64
import binascii
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

import yaml

from dragonfly.kube.errors import ABSENT, Invalid

_SECTIONS: Final = (("clusters", "cluster"), ("users", "user"), ("contexts", "context"))
_FILE_FIELDS: Final = {
    "cluster": ("certificate-authority",),
    "user": ("client-certificate", "client-key", "tokenFile"),
}
_CREDENTIALS: Final = ("token", "tokenFile", "client-certificate", "client-certificate-data", "username", "exec")
_EXEC_VERSIONS: Final = ("client.authentication.k8s.io/v1", "client.authentication.k8s.io/v1beta1")


class Entry(NamedTuple):
    """A cluster, a user or a context, and where it stands."""

    name: str
    body: dict[str, Any]
    place: str
    """Such as `/etc/config: users[admin].user`."""

    def wrong(self, field: str, words: str) -> Invalid:
        return wrong(f"{self.place}.{field}", words)


class Chosen(NamedTuple):
    """What one context refers to; all of it is of the types that it must be."""

    context: str
    cluster: Entry
    user: Entry


def wrong(place: str, words: str) -> Invalid:
    return Invalid(f"{place}: {words}", reason="Kubeconfig")


def merged(paths: Sequence[Path]) -> dict[str, Any]:
    """Return one kubeconfig out of several, its `files`, with absolute paths in it; each entry has its `file`.

    Raises:
        Invalid: none of the files is there, or one is no kubeconfig.
    """
    found = [path for path in paths if path.exists()]
    if not found:
        raise Invalid(f"no kubeconfig at {':'.join(map(str, paths)) or '(no path given)'}", reason=ABSENT)
    result: dict[str, Any] = {"apiVersion": "v1", "kind": "Config", "clusters": [], "users": [], "contexts": []}
    result["files"] = [str(path) for path in found]
    for path in found:
        _merge_file(result, path)
    return result


def chosen(config: Mapping[str, Any], context: str = "") -> Chosen:
    """Return what `context` refers to in what `merged` has made; without one, current-context.

    Raises:
        Invalid: something is not there, is of the wrong type, or is refused.
    """
    found = referred(config, context)
    _judge(found.cluster, _CLUSTER)
    _judge(found.user, _USER)
    _judge_together(found.cluster, found.user)
    return found


def referred(config: Mapping[str, Any], context: str = "") -> Chosen:
    """Return the same, whatever is in its cluster and its user.

    Raises:
        Invalid: something is not there.
    """
    name = context or config["current-context"]
    if not name:
        files = ":".join(config.get("files", ())) or "kubeconfig"
        raise wrong(f"{files}: current-context", f"is empty; {_choices(config['contexts'], 'context')}")
    found = _named(config, "contexts", "context", name)
    for field in ("cluster", "user"):
        if not isinstance(found.body.get(field, ""), str):
            raise found.wrong(field, "must be text")
    cluster = _named(config, "clusters", "cluster", found.body.get("cluster", ""))
    user = Entry("", {}, f"{found.place}.user")
    if found.body.get("user"):
        user = _named(config, "users", "user", found.body["user"])
    return Chosen(name, cluster, user)


def without_credentials(user: Entry) -> Invalid | None:
    """Return what is wrong if the user does not say who it is: an API server takes it for system:anonymous then."""
    if any(user.body.get(field) for field in _CREDENTIALS):
        return None
    return wrong(user.place, "has no credentials: it needs a token, a client certificate, or username and password")


def contents(entry: Entry, field: str) -> bytes:
    """Return the certificate or key in `field`, inline or in a file; empty if neither is given.

    Raises:
        Invalid: the file cannot be read.
    """
    if inline := entry.body.get(f"{field}-data"):
        return base64.b64decode("".join(inline.split()))
    return file_of(entry, field) if entry.body.get(field) else b""


def file_of(entry: Entry, field: str) -> bytes:
    """Return what is in the file that `field` names.

    Raises:
        Invalid: it cannot be read.
    """
    path = entry.body[field]
    if not isinstance(path, str):
        raise entry.wrong(field, _PATH.allowed)
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise entry.wrong(field, f"cannot read {path}: {error.strerror}") from error


def _merge_file(result: dict[str, Any], path: Path) -> None:
    document = _document(path)
    if not result.get("current-context"):
        current = document.get("current-context") or ""
        if not isinstance(current, str):
            raise wrong(f"{path}: current-context", "must be text")
        result["current-context"] = current
    for section, kind in _SECTIONS:
        entries = document.get(section) or ()
        if not isinstance(entries, list | tuple):
            raise wrong(f"{path}: {section}", "must be a list")
        taken = {entry["name"] for entry in result[section]}
        for number, entry in enumerate(entries):
            name, body = _entry(entry, kind, f"{path}: {section}[{number}]")
            if name not in taken:
                result[section].append({"name": name, kind: _anchored(kind, body, path), "file": str(path)})


def _document(path: Path) -> dict[str, Any]:
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except OSError as error:
        raise wrong(str(path), f"cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise wrong(str(path), "is no text in UTF-8") from error
    except yaml.YAMLError as error:
        # The library's own words quote the line, which may have a token in it.
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "somewhere"
        raise wrong(str(path), f"is no valid YAML: {where}") from error
    except ValueError as error:  # a date such as 2026-13-01
        raise wrong(str(path), "is no valid YAML: a value is none of its type") from error
    if not isinstance(document, dict):
        raise wrong(str(path), "is not a kubeconfig: it must have clusters, users and contexts")
    return document


def _entry(entry: Any, kind: str, place: str) -> tuple[str, dict[str, Any]]:
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str) or not entry["name"]:
        raise wrong(place, f"must have a name and a {kind}")
    body = entry.get(kind)
    if body is not None and not isinstance(body, dict):
        raise wrong(f"{place}.{kind}", "must have fields")
    return entry["name"], {str(field): value for field, value in (body or {}).items() if value is not None}


def _anchored(kind: str, body: dict[str, Any], path: Path) -> dict[str, Any]:
    """Make relative paths absolute, from the directory of `path`."""
    base = path.absolute().parent
    anchored = dict(body)
    for field in _FILE_FIELDS.get(kind, ()):
        if isinstance(anchored.get(field), str) and anchored[field]:
            anchored[field] = str(base / anchored[field])
    plugin = anchored.get("exec")
    if isinstance(plugin, dict) and isinstance(plugin.get("command"), str) and "/" in plugin["command"]:
        anchored["exec"] = plugin | {"command": str(base / plugin["command"])}
    return anchored


def _named(config: Mapping[str, Any], section: str, kind: str, name: str) -> Entry:
    for entry in config[section]:
        if entry["name"] == name:
            return Entry(name, entry[kind], f"{entry.get('file', 'kubeconfig')}: {section}[{name}].{kind}")
    message = f"the kubeconfig has no {kind} {name!r}; {_choices(config[section], kind)}"
    raise Invalid(message, reason="Kubeconfig")


def _choices(entries: Sequence[Mapping[str, Any]], kind: str) -> str:
    names = ", ".join(sorted(entry["name"] for entry in entries))
    return f"there is {names}" if names else f"there is no {kind} at all"


class _Rule(NamedTuple):
    """What a field must be, and how that is said."""

    holds: Callable[[Any], bool]
    allowed: str


def _judge(entry: Entry, rules: Mapping[str, _Rule]) -> None:
    for field, rule in rules.items():
        if field in entry.body and not rule.holds(entry.body[field]):
            raise entry.wrong(field, rule.allowed)


def _judge_together(cluster: Entry, user: Entry) -> None:
    if not cluster.body.get("server"):
        raise cluster.wrong("server", _URL.allowed)
    has = {field: bool(user.body.get(field) or user.body.get(f"{field}-data")) for field in _PAIR}
    for field, other in (_PAIR, _PAIR[::-1]):
        if has[field] and not has[other]:
            raise user.wrong(field, f"needs {other} or {other}-data too")


def _is_url(schemes: tuple[str, ...]) -> Callable[[Any], bool]:
    def holds(value: Any) -> bool:
        try:
            parts = urlsplit(value) if isinstance(value, str) else None
            return bool(parts and parts.scheme in schemes and parts.hostname and parts.port != 0)
        except ValueError:  # a port that is no number
            return False

    return holds


def _is_server(value: Any) -> bool:
    # A password in it would be shown wherever the server is.
    return _is_url(("https", "http"))(value) and "@" not in value


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def is_word(value: Any) -> bool:
    """Whether it can stand in a header."""
    return isinstance(value, str) and re.fullmatch(r"\s*[!-~]*\s*", value) is not None


def _is_pem(value: Any) -> bool:
    try:
        return isinstance(value, str) and b"-----BEGIN" in base64.b64decode("".join(value.split()), validate=True)
    except (binascii.Error, ValueError):
        return False


def _is_plugin(value: Any) -> bool:
    if not isinstance(value, dict) or value.get("apiVersion") not in _EXEC_VERSIONS:
        return False
    arguments, variables = value.get("args") or [], value.get("env") or []
    return (
        isinstance(value.get("command"), str)
        and bool(value["command"])
        and isinstance(arguments, list)
        and all(isinstance(argument, str) and "\0" not in argument for argument in [value["command"], *arguments])
        and isinstance(variables, list)
        and all(map(_is_variable, variables))
    )


def _is_variable(value: Any) -> bool:
    if not isinstance(value, dict) or not isinstance(value.get("name"), str) or not isinstance(value.get("value"), str):
        return False
    return re.fullmatch(r"[^=\0]+", value["name"]) is not None and "\0" not in value["value"]


_PAIR: Final = ("client-certificate", "client-key")
_URL: Final = _Rule(_is_server, "must be the API server's URL, such as https://10.0.0.1:6443")
_PATH: Final = _Rule(_is_text, "must be the path of a file")
_PEM: Final = _Rule(_is_pem, "must be PEM, encoded as base64")
_NOT_SAID: Final = _Rule(lambda value: not value, "impersonation is not supported: give Dragonfly a user of its own")

_CLUSTER: Final[Mapping[str, _Rule]] = {
    "server": _URL,
    "certificate-authority": _PATH,
    "certificate-authority-data": _PEM,
    "insecure-skip-tls-verify": _Rule(
        lambda value: value is False, "is refused: give certificate-authority-data instead"
    ),
    "tls-server-name": _Rule(is_word, "must be the name in the server's certificate"),
    "proxy-url": _Rule(_is_url(("http", "https")), "must be a URL such as http://proxy:3128; SOCKS is not supported"),
}
_USER: Final[Mapping[str, _Rule]] = {
    "token": _Rule(is_word, "must be one word of printable ASCII"),
    "tokenFile": _PATH,
    "client-certificate": _PATH,
    "client-certificate-data": _PEM,
    "client-key": _PATH,
    "client-key-data": _PEM,
    "username": _Rule(_is_text, "must be text"),
    "password": _Rule(_is_text, "must be text"),
    "exec": _Rule(
        _is_plugin,
        "must have command (text), apiVersion (client.authentication.k8s.io/v1), and if need be args (a list of text) "
        "and env (a list of name and value)",
    ),
    "auth-provider": _Rule(lambda value: not value, "is not supported: use an exec plugin or a token"),
    "as": _NOT_SAID,
    "as-uid": _NOT_SAID,
    "as-groups": _NOT_SAID,
    "as-user-extra": _NOT_SAID,
}
