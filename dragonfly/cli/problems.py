"""Problem documents in the words of the command line: the API's speak of routes and headers, people type commands."""

import json
import re
from collections.abc import Mapping
from typing import Any

Problem = Mapping[str, Any]

_SENTENCES: Mapping[str, str] = {
    "outcome-unknown": "nobody answered, and the change may have happened all the same",
    "unauthenticated": "the swarm does not know this token",
}
"""Instead of what the API says, by the problem's type."""

_ADVICE: Mapping[str | int, str] = {
    "outcome-unknown": "Look at it (dragonfly get) before you repeat the command.",
    "machine-maintenance": "To end the maintenance: dragonfly get machine NAME -o yaml, take it out, dragonfly apply.",
    "unknown-template": "The templates: dragonfly get templates",
    401: "Give a token that the swarm knows: --token-file FILE or DRAGONFLY_TOKEN_FILE.",
    403: "Use a token with a role that may do this.",
    412: "It was changed meanwhile. Look at it again, then repeat the command.",
}
"""By the problem's type, or by the status."""

_COMMANDS: Mapping[str, str] = {
    r"POST /api/v1/machines/([^/\s]+)/unlock": r"dragonfly unlock \1",
    r"POST /api/v1/provisions/([^/\s]+)/cancel": r"dragonfly cancel \1",
    "Change it with PUT or PATCH": "Change it with dragonfly apply",
}

_ROUTE = re.compile(r" ?\((?:GET|POST|PUT|PATCH|DELETE) /[^)]*\)")

_OPTIONS: Mapping[str, str] = {"?labelSelector": "--selector", "?q": "--query"}
"""Where an option's name is not the parameter's."""


def sentence(problem: Problem, status: int) -> str:
    """Return the problem as people read it, with a line for each of several wrong fields."""
    slug = str(problem.get("type", "")).rpartition("/")[2]
    said = problem.get("detail") or problem.get("title") or f"the swarm answered with status {status}"
    told = _errors(problem)
    detail = _SENTENCES.get(slug) or _in_commands(str(said))
    if is_usage(problem):
        detail = _in_options(detail)
    if len(told) == 1 and str(told[0].get("message")) in detail:
        # Of a single mistake the sentence has said everything.
        return detail
    return "\n".join([detail, *(f"  {_field_line(error)}" for error in told)])


def advice(slug: str, status: int) -> str:
    return _ADVICE.get(slug) or _ADVICE.get(status, "")


def is_usage(problem: Problem) -> bool:
    """Whether nothing but the query is to blame, which is what options were made into."""
    told = _errors(problem)
    return bool(told) and all(str(error.get("field", "")).startswith("?") for error in told)


def _errors(problem: Problem) -> list[Problem]:
    errors = problem.get("errors")
    return [error for error in errors if isinstance(error, dict)] if isinstance(errors, list) else []


def _in_commands(detail: str) -> str:
    for route, command in _COMMANDS.items():
        detail = re.sub(route, command, detail)
    return _ROUTE.sub("", detail)


def _in_options(detail: str) -> str:
    return re.sub(r"\?[A-Za-z]+(?= )", lambda found: _option(found[0]), detail)


def _option(parameter: str) -> str:
    return _OPTIONS.get(parameter, f"--{parameter[1:]}")


def _field_line(error: Problem) -> str:
    field = str(error.get("field", ""))
    said = f" (not {json.dumps(error['value'], ensure_ascii=False)})" if error.get("value") not in (None, "") else ""
    return f"{_option(field) if field.startswith('?') else field}: {error.get('message', '')}{said}"
