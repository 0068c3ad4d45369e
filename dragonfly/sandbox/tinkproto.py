"""The messages that a machine's agent and tink-server exchange, as far as a simulated machine needs them.

Built from the field numbers of Tinkerbell v0.25.0's WorkflowService, in a pool of its own. Python sees plain values.
"""

import enum
from typing import Any, Final, NamedTuple

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

GET_ACTION: Final = "/proto.WorkflowService/GetAction"
REPORT: Final = "/proto.WorkflowService/ReportActionStatus"

# What Go's zero time is on the wire. tink-agent sends it for "not yet"; an absent one would be stored as 1970-01-01.
_GO_ZERO_SECONDS: Final = -62_135_596_800

_Type = descriptor_pb2.FieldDescriptorProto
_FILE: Final = "dragonfly/sandbox/workflow.proto"


class ActionState(enum.IntEnum):
    """How a report says what an action is doing."""

    RUNNING = 2
    FAILED = 3
    TIMEOUT = 4
    SUCCESS = 5


class Action(NamedTuple):
    """An action that tink-server hands out. `workflow` is `namespace/name`; `timeout` is in seconds."""

    workflow: str
    task: str
    agent: str
    id: str
    name: str
    timeout: int


class Report(NamedTuple):
    """What an agent says about an action; times are seconds since 1970, None for "not yet"."""

    action: Action
    state: ActionState
    started: float | None = None
    finished: float | None = None


def encode_request(agent: str) -> bytes:
    """An ActionRequest."""
    return _encoded(_REQUEST(agent_id=agent))


def decode_action(content: bytes) -> Action:
    """An ActionResponse."""
    message = _RESPONSE.FromString(content)
    return Action(
        message.workflow_id, message.task_id, message.agent_id, message.action_id, message.name, message.timeout
    )


def encode_report(report: Report) -> bytes:
    """An ActionStatusRequest."""
    action = report.action
    is_running = report.state is ActionState.RUNNING
    seconds = 0.0 if report.started is None or report.finished is None else report.finished - report.started
    message = _STATUS(
        workflow_id=action.workflow,
        agent_id=action.agent,
        task_id=action.task,
        action_id=action.id,
        action_name=action.name,
        action_state=int(report.state),
        execution_start=_timestamp(report.started),
        execution_stop=_timestamp(report.finished),
        execution_duration=f"{seconds:.0f}s",
        message=_MESSAGE(message="running action" if is_running else "action completed"),
    )
    return _encoded(message)


def _timestamp(seconds: float | None) -> Any:
    if seconds is None:
        return _TIMESTAMP(seconds=_GO_ZERO_SECONDS)
    whole = int(seconds)
    return _TIMESTAMP(seconds=whole, nanos=int((seconds - whole) * 1e9))


def _encoded(message: Any) -> bytes:
    content: bytes = message.SerializeToString()
    return content


class _Field(NamedTuple):
    name: str
    number: int
    type: "_Type.Type.ValueType" = _Type.TYPE_STRING
    message: str = ""


def _message(name: str, *fields: _Field) -> descriptor_pb2.DescriptorProto:
    message = descriptor_pb2.DescriptorProto(name=name)
    for field in fields:
        message.field.add(
            name=field.name,
            number=field.number,
            type=field.type,
            label=_Type.LABEL_OPTIONAL,
            type_name=f".dragonfly.sandbox.{field.message}" if field.message else None,
        )
    return message


def _definitions() -> descriptor_pb2.FileDescriptorProto:
    return descriptor_pb2.FileDescriptorProto(
        name=_FILE,
        package="dragonfly.sandbox",
        syntax="proto3",
        message_type=[
            _message("Timestamp", _Field("seconds", 1, _Type.TYPE_INT64), _Field("nanos", 2, _Type.TYPE_INT32)),
            _message("Message", _Field("message", 1)),
            _message("Request", _Field("agent_id", 1)),
            _message(
                "Response",
                _Field("workflow_id", 1),
                _Field("task_id", 2),
                _Field("agent_id", 3),
                _Field("action_id", 4),
                _Field("name", 5),
                _Field("image", 6),
                _Field("timeout", 7, _Type.TYPE_INT64),
            ),
            _message(
                "Status",
                _Field("workflow_id", 1),
                _Field("agent_id", 2),
                _Field("task_id", 3),
                _Field("action_id", 4),
                _Field("action_name", 5),
                _Field("action_state", 6, _Type.TYPE_INT32),  # an enum upstream, which is the same on the wire
                _Field("execution_start", 7, _Type.TYPE_MESSAGE, "Timestamp"),
                _Field("execution_stop", 8, _Type.TYPE_MESSAGE, "Timestamp"),
                _Field("execution_duration", 9),
                _Field("message", 10, _Type.TYPE_MESSAGE, "Message"),
            ),
        ],
    )


def _classes() -> dict[str, Any]:
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(_definitions().SerializeToString())
    return message_factory.GetMessageClassesForFiles([_FILE], pool)


_CLASSES: Final = _classes()
_TIMESTAMP: Final = _CLASSES["dragonfly.sandbox.Timestamp"]
_MESSAGE: Final = _CLASSES["dragonfly.sandbox.Message"]
_REQUEST: Final = _CLASSES["dragonfly.sandbox.Request"]
_RESPONSE: Final = _CLASSES["dragonfly.sandbox.Response"]
_STATUS: Final = _CLASSES["dragonfly.sandbox.Status"]
