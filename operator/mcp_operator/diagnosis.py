"""What is wrong with the pods, in words: from what the API and the sidecars show to one cause that a user can mend.

Only the ReplicaSet with the Deployment's pod template is asked: what an older one suffers from is over when it is gone.
Of several causes the one that stands first in `PRECEDENCE` is told, since it mostly is what the others come from. Words
that change by themselves (back-off times, generated pod names, counts) are left out, so that a status at rest is never
written again. Which condition a cause ends in is left to status.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from mcp_operator.observed import ContainerView, DeploymentView, Ended, PodView, ReplicaSetView
from mcp_operator.sidecar_status import Report, ServerReport, SidecarReport, clean

PRECEDENCE = (
    "PodRefused",
    "Unschedulable",
    "PodNotPrepared",
    "ImagePullFailed",
    "ImageUserNotAllowed",
    "SecretMissing",
    "ConfigMapMissing",
    "KeyMissing",
    "ContainerRefused",
    "PortInUse",
    "CommandNotFound",
    "ConfigRefused",
    "ServerCrashing",
    "SidecarCrashing",
    "ContainerCrashing",
    "SecretUnusable",
    "ServerUnreachable",
    "PodEvicted",
    "RolloutStuck",
)
"""Reasons of `Ready`, the first that is found wins. What keeps a pod from starting comes before what happens in it."""

CRASH_MEMORY = 600.0
"""Seconds that a restarted container must run before its crash is past: then the kubelet forgets its back-off, too."""

_DEADLINE, _NO_REPLICA_SET = "ProgressDeadlineExceeded", "ReplicaSetCreateError"
_PULL = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError")
_PULL_MORE = ("RegistryUnavailable", "SignatureValidationFailed", "ErrImageUnpack")
_REFUSED = ("CreateContainerConfigError", "CreateContainerError", "RunContainerError")
_REFUSED_BY_HOOK = ("PreCreateHookError", "PreStartHookError", "PostStartHookError")
_ID = re.compile(r"\b[0-9a-f]{32,64}\b")
"""Of a sandbox: another one with each try."""
_POD = re.compile(r" ?\(pod: [^()]*(\([^()]*\))?[^()]*\)")
_PULL_PREFIX = re.compile(r'^Back-off pulling image "[^"]*"(: \w+: |$)')
_ROOT = re.compile(r"runAsNonRoot and image|breaks non-root policy")
_NOT_FOUND = re.compile(r'^(secret|configmap) "([^"]+)" not found')
_NO_KEY = re.compile(r"[Cc]ouldn't find key (\S+) in (Secret|ConfigMap) (\S+)")
_EXEC = re.compile(
    r"executable file not found|no command specified|exec format error"
    r"|exec:? .*(no such file or directory|permission denied|is a directory)"
)
_PORT = re.compile(r"address (is )?already in use|EADDRINUSE|Errno 98\b", re.IGNORECASE)
_COMMAND = re.compile(r"^the command .* (does not exist|was not found|is not executable|could not be started)")
_ENDED = re.compile(r"^the server did not start|^the server's process |process (exited|was killed)")
_KEYRING = re.compile(r"set MCP_ENCRYPTION_KEY_FILE, MCP_ENCRYPTION_KEY or secrets\.keyFile")
_CONFIG = re.compile(r"config\.json: \d+ problems?")
_GENERATED = re.compile(r'(pods ")[^"]+(")')
_CREDENTIALS = (
    (re.compile(r"(\w+://)[^/\s@]+@"), r"\1…@"),
    (re.compile(r"(?i)\b(bearer|basic)\s+[\w.~+/=-]{8,}"), r"\1 …"),
    (re.compile(r"(?i)(\w*(?:password|passwd|secret|token|api[-_]?key)\w*[\"']?\s*[=:]\s*[\"']?)[^\s\"',;]+"), r"\1…"),
)
_LAST_WORDS = 300


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """A cause. `reason` is one of `PRECEDENCE`."""

    reason: str
    message: str


def current_replica_set(deployment: DeploymentView, replica_sets: Iterable[ReplicaSetView]) -> ReplicaSetView | None:
    """The ReplicaSet that has the Deployment's pod template; None before the controller made it."""
    mine = [
        each
        for each in replica_sets
        if each.owner is not None and each.owner.uid == deployment.uid and each.template == deployment.template
    ]
    return max(mine, key=lambda each: (not each.deleting, each.revision, each.created, each.name), default=None)


def pods_of(replica_set: ReplicaSetView, pods: Iterable[PodView]) -> tuple[PodView, ...]:
    """Its pods that are not on their way out, the oldest first."""
    mine = (pod for pod in pods if pod.owner is not None and pod.owner.uid == replica_set.uid and not pod.deleting)
    return tuple(sorted(mine, key=lambda pod: (pod.created, pod.name)))


def diagnose(
    deployment: DeploymentView | None,
    replica_sets: Iterable[ReplicaSetView],
    pods: Iterable[PodView],
    reports: Mapping[str, Report] | None = None,
    *,
    now: str,
    events: Mapping[str, str] | None = None,
) -> Diagnosis | None:
    """What keeps the newest spec from serving; None where nothing is seen. `now`: RFC 3339; `events`: see PodEvents."""
    if deployment is None:
        return None
    current = current_replica_set(deployment, replica_sets)
    if current is None:
        # The ReplicaSet itself may be refused, by a quota on ReplicaSets for example.
        refused = next((each.message for each in deployment.conditions if each.reason == _NO_REPLICA_SET), None)
        return Diagnosis("PodRefused", _refused(refused)) if refused is not None else None
    found: list[tuple[int, Diagnosis]] = []
    mine = pods_of(current, pods)
    for pod in mine:
        cause = pod_cause(pod, (reports or {}).get(pod.uid), now, (events or {}).get(pod.uid, ""))
        if cause is not None and not (cause.reason == "PodEvicted" and current.available >= deployment.wanted):
            found.append((PRECEDENCE.index(cause.reason), cause))
    failure = next((each.message for each in current.conditions if _fails(each.type, each.status)), "")
    if failure:
        found.append((PRECEDENCE.index("PodRefused"), Diagnosis("PodRefused", _refused(failure))))
    if found:
        return min(found, key=lambda each: each[0])[1]
    if stuck(deployment, current):
        return Diagnosis("RolloutStuck", _stuck(deployment, current, mine))
    return None


def stuck(deployment: DeploymentView, current: ReplicaSetView | None) -> bool:
    """Whether the rollout made no progress for its deadline, or cannot begin. `current`: see `current_replica_set`."""
    reasons = {each.reason for each in deployment.conditions if each.type == "Progressing" and each.status == "False"}
    if current is None:
        return _NO_REPLICA_SET in reasons
    return _DEADLINE in reasons and deployment.observed


def pod_cause(pod: PodView, report: Report | None, now: str, event: str = "") -> Diagnosis | None:
    """What is wrong with one pod; None where it is ready or merely not yet. `event`: why it is not prepared."""
    if pod.finished:
        words = clean(pod.message, _LAST_WORDS) or "its node does not say why"
        return Diagnosis("PodEvicted", f"pod {pod.name} ended ({pod.reason or pod.phase}): {words}")
    if pod.ready:
        return None
    causes = [cause for each in pod.containers if (cause := _container_cause(pod, each, now)) is not None]
    if causes:
        return min(causes, key=lambda each: PRECEDENCE.index(each.reason))
    for each in pod.conditions:
        if each.type == "PodScheduled" and each.status == "False" and each.reason != "SchedulingGated":
            return Diagnosis("Unschedulable", f"no node takes pod {pod.name}: {clean(each.message, 512)}")
    if event:
        words = clean(_without_credentials(_ID.sub("…", _POD.sub("", event))), 512)  # mount options are among them
        return Diagnosis("PodNotPrepared", f"its node cannot prepare pod {pod.name}: {words}")
    if isinstance(report, SidecarReport) and report.server is not None:
        server = report.server
        if not server.answered and (server.failing or server.problem or server.secrets_problem):
            return server_cause(server)
    return None


def server_cause(server: ServerReport) -> Diagnosis:
    """Why a sidecar does not get an answer of its server, by its own words."""
    if server.secrets_problem:
        words = _KEYRING.sub("set spec.secrets.encryptionKey", server.secrets_problem)
        return Diagnosis("SecretUnusable", f"the sidecar cannot use {words}")
    words = server.problem or server.last_error or "no answer yet"
    if _COMMAND.search(words):
        advice = "set spec.stdio.command to a program of the image, or spec.stdio.image to an image that has it"
        return Diagnosis("CommandNotFound", f"{words}; {advice}")
    if _ENDED.search(words):
        said = f"; its last words: {_last_words(chr(10).join(server.stderr))}" if any(server.stderr) else ""
        return Diagnosis("ServerCrashing", f"{words}{said}")
    return Diagnosis("ServerUnreachable", f"the server does not answer: {words}")


def _container_cause(pod: PodView, container: ContainerView, now: str) -> Diagnosis | None:
    where = f"container {container.name} of pod {pod.name}"
    if container.state == "waiting":
        if container.reason in _PULL or container.reason in _PULL_MORE:
            return Diagnosis("ImagePullFailed", _pull(container))
        if container.reason in _REFUSED or container.reason in _REFUSED_BY_HOOK:
            return _start_cause(container, container.message, where)
    if not _crashes(container, now) or container.ended is None:
        return None
    return _crash_cause(container, container.ended, where)


def _pull(container: ContainerView) -> str:
    words = clean(_PULL_PREFIX.sub("", container.message), 512) or container.reason
    if container.name == "server":
        advice = "correct the image, or name a pull secret in spec.podTemplate.imagePullSecrets"
    else:
        advice = "that image comes from the operator's configuration or from the cluster"
    return f"the image {container.image} of container {container.name} cannot be had: {words}; {advice}"


def _start_cause(container: ContainerView, message: str, where: str) -> Diagnosis:
    words = clean(_POD.sub("", message), 512) or container.reason
    if _ROOT.search(message):
        part = "sidecar" if container.name == "sidecar" else "server"
        advice = f"set spec.podTemplate.{part}.securityContext.runAsUser to a user that can run it, such as 1000"
        return Diagnosis("ImageUserNotAllowed", f"image {container.image}: {words}; {advice}")
    missing = _NOT_FOUND.search(message)
    if missing is not None:
        kind = "Secret" if missing[1] == "secret" else "ConfigMap"
        return Diagnosis(f"{kind}Missing", f"{kind} {missing[2]} does not exist, and {where} needs it; create it")
    missing = _NO_KEY.search(message)
    if missing is not None:
        return Diagnosis(
            "KeyMissing", f"{missing[2]} {missing[3]} has no key {missing[1]}, and {where} needs it; add it"
        )
    if _EXEC.search(message):
        return _command(container, words)
    return Diagnosis("ContainerRefused", f"{where} cannot be started: {words}")


def _command(container: ContainerView, words: str) -> Diagnosis:
    if container.name != "server":
        return Diagnosis("ContainerRefused", f"container {container.name} cannot be started: {words}")
    advice = "" if "set spec." in words else "; set the command of the server to a program that its image has"
    return Diagnosis("CommandNotFound", f"{words}{advice}")


def _crashes(container: ContainerView, now: str) -> bool:
    """Whether it ends again and again: also in the moments when it runs or has just ended."""
    if container.state == "waiting":
        return container.reason == "CrashLoopBackOff"
    if container.state == "terminated":
        # An init container that ended well has done its work; after the first failure it is tried again at once.
        return container.restarted and not (
            container.init and container.ended is not None and not container.ended.exit_code
        )
    return container.state == "running" and container.restarted and _seconds(container.since, now) < CRASH_MEMORY


def _crash_cause(container: ContainerView, ended: Ended, where: str) -> Diagnosis:
    words = _last_words(ended.message)
    if ended.reason in ("StartError", "ContainerCannotRun"):
        return _start_cause(container, ended.message, where)
    if _PORT.search(ended.message):
        advice = "the server and the sidecar share one network: choose other ports in spec.http.port, spec.front.port"
        return Diagnosis(
            "PortInUse", f"{where} cannot listen, its port is in use: {words}; {advice}, spec.front.adminPort"
        )
    if container.name == "server":
        if ended.exit_code in (126, 127):
            return _command(container, words or f"the server's command cannot be run (exit code {ended.exit_code})")
        return Diagnosis("ServerCrashing", _crash(where, "server", ended, words))
    if container.name == "sidecar" and ended.exit_code == 2 and _CONFIG.search(ended.message):
        return Diagnosis("ConfigRefused", f"the sidecar does not accept its configuration: {words}")
    if container.name in ("sidecar", "bridge"):
        return Diagnosis("SidecarCrashing", _crash(where, "sidecar", ended, words))
    return Diagnosis("ContainerCrashing", _crash(where, "", ended, words))


def _crash(where: str, part: str, ended: Ended, words: str) -> str:
    if ended.reason == "OOMKilled":
        advice = f"; raise spec.podTemplate.{part}.resources.limits.memory" if part else ""
        return f"{where} was killed, it needed more memory than its limit{advice}"
    how = f"signal {ended.signal}" if ended.signal else f"exit code {ended.exit_code}"
    said = f": {words}" if words else f"; see kubectl logs --previous of {where}"
    return f"{where} ends again and again ({how}){said}"


def _stuck(deployment: DeploymentView, current: ReplicaSetView, pods: tuple[PodView, ...]) -> str:
    count = f"{min(current.available, deployment.wanted)} of {deployment.wanted} new replicas are available"
    for pod in pods:
        if any(each.type == "PodReadyToStartContainers" for each in pod.conditions):
            return (
                f"{count}, and nothing happens any more: pod {pod.name} waits for a volume or its network; "
                f"kubectl describe pod {pod.name} says for which"
            )
    first = next((pod for pod in pods if not pod.ready), None)
    look = f"; kubectl describe pod {first.name} tells more" if first is not None else ""
    return f"{count}, and nothing happens any more{look}"


def _refused(message: str) -> str:
    words = _GENERATED.sub(r"\1…\2", message)
    return f"the API server refuses the pods: {clean(words, 512)}"


def _fails(kind: str, status: str) -> bool:
    return kind == "ReplicaFailure" and status == "True"


def _last_words(message: str) -> str:
    """The last lines of what a container said, short, and without what looks like credentials."""
    lines = [clean(line, _LAST_WORDS) for line in message.strip().splitlines()[-3:]]
    text = _without_credentials(" | ".join(line for line in lines if line))
    return text if len(text) <= _LAST_WORDS else "…" + text[1 - _LAST_WORDS :]


def _without_credentials(text: str) -> str:
    for pattern, replacement in _CREDENTIALS:
        text = pattern.sub(replacement, text)
    return text


def _seconds(since: str, now: str) -> float:
    """From one RFC 3339 time to another; endless where one of them is none."""
    try:
        return (datetime.fromisoformat(now) - datetime.fromisoformat(since)).total_seconds()
    except (ValueError, TypeError):
        return float("inf")
