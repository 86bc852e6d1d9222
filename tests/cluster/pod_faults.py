"""What a kubelet and a scheduler write into a pod's status when something is wrong, in their own words.

The texts are those of Kubernetes 1.36 with containerd; `{pod}`, `{namespace}`, `{uid}`, `{image}` are filled in.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any


@dataclass(frozen=True)
class Fault:
    """The state of one container (`container`), or of the pod before it has a node (`container=""`)."""

    container: str
    waiting: str = ""
    """The reason of its waiting state."""
    message: str = ""
    terminated: dict[str, Any] = field(default_factory=dict)
    """Its last state, where it has run."""
    restarts: int = 0

    def of(self, container: str) -> Fault:
        """The same fault of another container."""
        return replace(self, container=container)

    def status(self, container: dict[str, Any], pod: dict[str, Any]) -> dict[str, Any]:
        """The container's status."""
        metadata = pod["metadata"]
        words = {
            "container": self.container,
            "image": container["image"],
            "namespace": metadata["namespace"],
            "pod": metadata["name"],
            "uid": metadata["uid"],
        }
        status: dict[str, Any] = {
            "name": self.container,
            "image": container["image"],
            "imageID": "",
            "ready": False,
            "started": False,
            "restartCount": self.restarts,
            "state": {"waiting": {"reason": self.waiting, "message": self.message.format(**words)}},
        }
        if self.terminated:
            status["lastState"] = {"terminated": {**self.terminated, "containerID": "containerd://" + "0" * 64}}
        return status


UNSCHEDULABLE = Fault(
    "",
    "Unschedulable",
    "0/1 nodes are available: 1 Insufficient memory. no new claims to deallocate, preemption: 0/1 nodes are available: "
    "1 Preemption is not helpful for scheduling.",
)
IMAGE_MISSING = Fault(
    "server",
    "ErrImagePull",
    'failed to pull and unpack image "{image}": failed to resolve reference "{image}": {image}: not found',
)
IMAGE_BACK_OFF = Fault(
    "server",
    "ImagePullBackOff",
    'Back-off pulling image "{image}": ErrImagePull: failed to pull and unpack image "{image}": failed to resolve '
    'reference "{image}": {image}: not found',
)
IMAGE_NAME_INVALID = Fault(
    "server", "InvalidImageName", 'Failed to apply default image tag "{image}": couldn\'t parse image name "{image}"'
)
IMAGE_NEVER_PULLED = Fault(
    "server", "ErrImageNeverPull", 'Container image "{image}" is not present with pull policy of Never'
)
ROOT_IMAGE = Fault(
    "server",
    "CreateContainerConfigError",
    'container has runAsNonRoot and image will run as root (pod: "{pod}_{namespace}({uid})", container: {container})',
)
NAMED_USER_IMAGE = Fault(
    "server",
    "CreateContainerConfigError",
    "container has runAsNonRoot and image has non-numeric user (node), cannot verify user is non-root "
    '(pod: "{pod}_{namespace}({uid})", container: {container})',
)
NO_SUCH_COMMAND = Fault(
    "server",
    "CrashLoopBackOff",
    "back-off 10s restarting failed container={container} pod={pod}_{namespace}({uid})",
    {
        "exitCode": 128,
        "reason": "StartError",
        "message": "failed to create containerd task: failed to create shim task: OCI runtime create failed: runc "
        'create failed: unable to start container process: exec: "no-such-server": executable file not found in $PATH: '
        "unknown",
        "startedAt": "1970-01-01T00:00:00Z",
        "finishedAt": "2026-11-23T00:00:00Z",
    },
    restarts=3,
)
CRASHING = Fault(
    "server",
    "CrashLoopBackOff",
    "back-off 40s restarting failed container={container} pod={pod}_{namespace}({uid})",
    {
        "exitCode": 1,
        "reason": "Error",
        "startedAt": "2026-11-23T00:00:00Z",
        "finishedAt": "2026-11-23T00:00:01Z",
    },
    restarts=5,
)
OUT_OF_MEMORY = Fault(
    "server",
    "CrashLoopBackOff",
    "back-off 10s restarting failed container={container} pod={pod}_{namespace}({uid})",
    {
        "exitCode": 137,
        "reason": "OOMKilled",
        "startedAt": "2026-11-23T00:00:00Z",
        "finishedAt": "2026-11-23T00:00:09Z",
    },
    restarts=2,
)


def secret_missing(name: str, container: str = "server") -> Fault:
    """An environment variable from a Secret that is not there."""
    return Fault(container, "CreateContainerConfigError", f'secret "{name}" not found')


def secret_key_missing(namespace: str, name: str, key: str, container: str = "server") -> Fault:
    """An environment variable from a key that the Secret lacks."""
    message = f"couldn't find key {key} in Secret {namespace}/{name}"
    return Fault(container, "CreateContainerConfigError", message)
