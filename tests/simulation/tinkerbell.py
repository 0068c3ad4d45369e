"""Tinkerbell and its machines as one actor: tink-controller, tink-server and the agents, of version 0.25.

Modelled from what was read and measured of it: a staged Workflow gets only its agent's id; one that runs is rendered,
or fails to be, again and again; an agent is served by the first Workflow of its id that has tasks, in any order, and
only after the action stands in `currentState`; reports are taken in any order and write the Workflow's state, even
over an end; an action that was served and not finished is served again after a restart of the agent.
"""

from collections.abc import Callable
from random import Random
from typing import Any, NamedTuple

from dragonfly.kube.errors import KubeError
from dragonfly.kube.resources import HARDWARE, TEMPLATE, WORKFLOW, Object, Ref
from dragonfly.kube.tinkerbell import WORKER
from tests.simulation.apiserver import ApiServer, Write
from tests.simulation.loop import SimLoop

BY = "tinkerbell"
ACTIONS = ("stream", "finish")

_TERMINAL = ("SUCCESS", "FAILED", "TIMEOUT")


class Fate(NamedTuple):
    """How one machine behaves."""

    is_silent: bool = False
    """It never asks for anything."""
    fails_at: str = ""
    """The action that fails."""
    cannot_render: bool = False
    reboots: bool = False
    """It starts over in the middle of an action, once."""
    seconds: float = 1.0
    """How long its actions take, about."""


class Served(NamedTuple):
    """An action that was handed to an agent: what P1 is about."""

    at: float
    agent: str
    workflow: str
    uid: str
    action: str


class Tinkerbell:
    """Reacts to Workflows; `fates` tells how the machines behave, by agent id."""

    def __init__(self, loop: SimLoop, server: ApiServer, random: Random, namespace: str) -> None:
        self._loop = loop
        self._server = server
        self._random = random
        self._namespace = namespace
        self._busy: set[str] = set()
        self._rebooted: set[str] = set()
        self.fates: dict[str, Fate] = {}
        self.is_down = False
        self.on_start: list[Callable[[], None]] = []
        self.served: list[Served] = []
        self.on_served: Any = lambda _served: None
        server.observe(self._seen)

    def start_again(self) -> None:
        """After it was away: look at every Workflow and let every agent ask."""
        self.is_down = False
        for obj in self._server.all(WORKFLOW):
            self._look_later(obj["metadata"]["name"])
            self._loop.call_later(0.05, self._post, obj["metadata"]["name"])
            if agent := obj.get("status", {}).get("agentID"):
                self._ask_later(agent)
        for start in self.on_start:
            start()

    def _seen(self, write: Write) -> None:
        if write.key[0] != WORKFLOW or write.after is None:
            return
        status = write.after.get("status", {})
        if not status.get("state"):
            self._look_later(write.after["metadata"]["name"])
        elif agent := status.get("agentID"):
            self._ask_later(agent)

    # tink-controller.

    def _look_later(self, name: str) -> None:
        self._loop.call_later(0.005 + 0.1 * self._random.random(), self._reconcile, name)

    def _reconcile(self, name: str) -> None:
        workflow = self._find(name)
        if workflow is None or self.is_down:
            return
        status, spec = workflow.get("status", {}), workflow["spec"]
        if status.get("state"):
            return
        agent = spec["hardwareMap"][WORKER]
        if spec.get("disabled"):
            if status.get("agentID") != agent:
                self._write_status(name, {"agentID": agent})
            return
        if problem := self._rendering_problem(workflow, agent):
            condition = {"type": "TemplateRenderedSuccess", "status": "False", "reason": "Error", "message": problem}
            self._write_status(name, {"templateRendering": "failed", "conditions": [condition]})
            self._loop.call_later(2.0, self._reconcile, name)
            return
        actions = [{"id": f"{name}-{action}", "name": action, "state": "PENDING"} for action in ACTIONS]
        task = {"id": name, "name": "install", "agentID": agent, "actions": actions}
        rendered = {"state": "PENDING", "agentID": agent, "templateRendering": "successful", "tasks": [task]}
        self._write_status(name, rendered)

    def _rendering_problem(self, workflow: Object, agent: str) -> str:
        spec = workflow["spec"]
        if self.fates.get(agent, Fate()).cannot_render:
            return "template: map has no entry for key"
        for resource, name in ((TEMPLATE, spec["templateRef"]), (HARDWARE, spec["hardwareRef"])):
            if not self._exists(Ref(resource, self._namespace, name)):
                return f"{resource.kind.lower()} not found: name={name}"
        return ""

    # tink-server and the agents.

    def _ask_later(self, agent: str) -> None:
        """An agent asks again within a second: its call is a long poll."""
        if agent in self._busy or self.fates.get(agent, Fate()).is_silent:
            return
        self._busy.add(agent)
        self._loop.call_later(0.05 + self._random.random(), self._ask, agent)

    def _ask(self, agent: str) -> None:
        self._busy.discard(agent)
        if self.is_down:
            return
        workflows = [obj for obj in self._server.all(WORKFLOW) if obj.get("status", {}).get("agentID") == agent]
        self._random.shuffle(workflows)
        with_tasks = next((obj for obj in workflows if obj["status"].get("tasks")), None)
        if with_tasks is None:
            return
        action = _next_action(with_tasks)
        if with_tasks["status"]["state"] not in {"PENDING", "RUNNING"} or action is None:
            # An ended one hides the others; the long poll looks again.
            if len(workflows) > 1:
                self._ask_later(agent)
            return
        self._serve(agent, with_tasks, action)

    def _serve(self, agent: str, workflow: Object, action: str) -> None:
        metadata = workflow["metadata"]
        self._busy.add(agent)
        current = {"agentID": agent, "actionName": action, "state": "PENDING", "taskName": "install"}
        self._write_status(metadata["name"], {"currentState": current})
        if self._random.random() < 0.05:
            # The answer is lost; the agent asks again and is served the same action.
            self._start_over(agent)
            return
        served = Served(self._loop.time(), agent, metadata["name"], metadata["uid"], action)
        self.served.append(served)
        self.on_served(served)
        fate = self.fates.get(agent, Fate())
        reported = self._random.random() * 0.3
        self._loop.call_later(reported, self._report, served, "RUNNING")
        duration = fate.seconds * (0.5 + self._random.random())
        if fate.reboots and agent not in self._rebooted:
            self._rebooted.add(agent)
            self._loop.call_later(reported + duration, self._start_over, agent)
            return
        result = "FAILED" if fate.fails_at == action else "SUCCESS"
        self._loop.call_later(reported + duration, self._finish, served, result)

    def _start_over(self, agent: str) -> None:
        self._busy.discard(agent)
        self._ask_later(agent)

    def _finish(self, served: Served, result: str) -> None:
        if self.is_down:
            self._loop.call_later(1.0, self._finish, served, result)
            return
        self._report(served, result)
        self._busy.discard(served.agent)
        self._ask_later(served.agent)

    def _report(self, served: Served, state: str) -> None:
        workflow = self._find(served.workflow)
        if workflow is None or workflow["metadata"]["uid"] != served.uid:
            return
        if self.is_down:
            self._loop.call_later(1.0, self._report, served, state)
            return
        tasks = workflow.get("status", {}).get("tasks")
        if not tasks:
            return  # the cluster was put back to before it was rendered
        task = tasks[0]
        if state == "RUNNING" and _state_of(task, served.action) not in {"PENDING", "RUNNING"}:
            return
        actions = [{**act, "state": state} if act["name"] == served.action else act for act in task["actions"]]
        status: Object = {"tasks": [{**task, "actions": actions}]}
        status["currentState"] = {
            "agentID": served.agent, "actionName": served.action, "state": state, "taskName": "install"
        }  # fmt: skip
        if state in {"RUNNING", "FAILED", "TIMEOUT"}:
            status["state"] = state
        elif served.action == ACTIONS[-1]:
            status["state"] = "POST"
            self._loop.call_later(0.05, self._post, served.workflow)
        self._write_status(served.workflow, status)

    def _post(self, name: str) -> None:
        workflow = self._find(name)
        if workflow is not None and workflow.get("status", {}).get("state") == "POST" and not self.is_down:
            self._write_status(name, {"state": "SUCCESS"})

    def _write_status(self, name: str, status: Object) -> None:
        self._server.patch(Ref(WORKFLOW, self._namespace, name), {"status": status}, subresource="status", by=BY)

    def _find(self, name: str) -> Object | None:
        try:
            return self._server.get(Ref(WORKFLOW, self._namespace, name))
        except KubeError:
            return None

    def _exists(self, ref: Ref) -> bool:
        try:
            self._server.get(ref)
        except KubeError:
            return False
        return True


def _next_action(workflow: Object) -> str | None:
    """The first action that has not succeeded; one that failed is never served again."""
    for task in workflow["status"]["tasks"]:
        for action in task["actions"]:
            if action["state"] in {"PENDING", "RUNNING"}:
                return str(action["name"])
            if action["state"] != "SUCCESS":
                return None
    return None


def _state_of(task: Object, name: str) -> str:
    return str(next(action["state"] for action in task["actions"] if action["name"] == name))
