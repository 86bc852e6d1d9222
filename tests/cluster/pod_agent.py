"""A node without a kubelet: binds the pods of MCPServers, runs them or says that they run, and tells of their faults.

What the tests of group *api* have in a kubelet's place. In the namespaces it serves it acts on every pod of an
MCPServer: by default it writes the status of one that runs and is ready; with `real=True` it starts the pod's
containers as processes of this machine (`container_process`) on a loopback address of the pod's own, probes them, and
refreshes their ConfigMaps as the kubelet does: when the pod's annotations change, else once in `refresh` seconds.
Faults come from `pod_faults`; they are all that is made up.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import http.client
import itertools
import os
import queue
import shutil
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cluster.api import Api, ApiError
from cluster.background_process import BackgroundProcess
from cluster.container_process import ConfigError, environment, process
from cluster.control_plane import Cluster
from cluster.pod_faults import Fault
from cluster.pod_volumes import VolumeMissing, materialise
from images.contents import recipes

Object = dict[str, Any]
Key = tuple[str, str]

NODE = "test-node"
SELECTOR = "app.kubernetes.io/name=mcpserver"
TICK = 0.1
WATCH_SECONDS = 3
_numbers = itertools.count(1)


class _Pod:
    """What the agent knows of one pod."""

    def __init__(self, pod: Object, directory: Path) -> None:
        number = next(_numbers)
        self.pod = pod
        # a network of this process: another run may be under way
        self.ip = f"127.{2 + os.getpid() % 250}.{number // 250}.{number % 250 + 1}"
        self.directory = directory
        self.processes: dict[str, BackgroundProcess] = {}
        self.finished: set[str] = set()
        """Init containers that are done."""
        self.restarts: dict[str, int] = {}
        self.again: dict[str, float] = {}
        """When a crashed container may start again (monotonic)."""
        self.refused: dict[str, str] = {}
        """Containers that cannot be made, and why."""
        self.volumes: dict[str, Path] = {}
        self.refreshed = 0.0
        self.seen_annotations: Any = None
        self.missed: dict[str, int] = {}
        """Readiness probes that failed in a row; at its start a container's threshold, for it is not ready yet."""
        self.written: Object | None = None
        self.ready_since: dict[str, str] = {}

    @property
    def key(self) -> Key:
        return self.pod["metadata"]["namespace"], self.pod["metadata"]["name"]

    @property
    def server(self) -> Key:
        """The MCPServer it is of."""
        return self.pod["metadata"]["namespace"], self.pod["metadata"]["labels"]["app.kubernetes.io/instance"]

    @property
    def init(self) -> list[Object]:
        return list(self.pod["spec"].get("initContainers", ()))

    @property
    def main(self) -> list[Object]:
        return list(self.pod["spec"]["containers"])


class PodAgent:
    """A context manager. What a test sets (`serve`, `fail`, `heal`, `refresh`) holds from the next tick."""

    def __init__(self, cluster: Cluster, *, refresh: float = 60.0) -> None:
        self.refresh = refresh
        self.images: dict[str, Sequence[str]] = {}
        """Image → the command that stands for it; our own images are known."""
        self.programs: dict[str, Path] = {}
        """Path in every container → program that is put there."""
        self._ours = {recipe.reference: recipe.config for recipe in recipes()}
        self._access = cluster.access
        self._directory = Path(tempfile.mkdtemp(prefix="outrigger-pods-"))
        self._served: dict[str, bool] = {}
        self._faults: dict[Key, Fault] = {}
        self._spared: set[Key] = set()
        self._held: frozenset[Key] = frozenset()
        self._pods: dict[Key, _Pod] = {}
        self._dirty: set[Key] = set()
        self._events: queue.SimpleQueue[tuple[str, Object]] = queue.SimpleQueue()
        self._closing = threading.Event()
        self._threads = [threading.Thread(target=run, name="pod-agent") for run in (self._watch, self._run)]
        self.failure: BaseException | None = None
        """What ended the agent, where something did."""

    def __enter__(self) -> PodAgent:
        with contextlib.suppress(ApiError):
            self._access.api().create({"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}})
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        for thread in self._threads:
            thread.join()
        shutil.rmtree(self._directory, ignore_errors=True)
        if self.failure is not None:
            raise AssertionError("the pod agent failed") from self.failure

    # What a test does

    def serve(self, namespace: str, *, real: bool = False) -> None:
        """Act on the pods of this namespace. `real` needs root."""
        self._served[namespace] = real
        self._touch(lambda pod: pod.server[0] == namespace)

    def fail(self, namespace: str, server: str, fault: Fault) -> None:
        """Every pod of this MCPServer has the fault, until `heal`."""
        self._faults[namespace, server] = fault
        self._touch(lambda pod: pod.server == (namespace, server))

    def spare(self, *pods: Key) -> None:
        """These pods, (namespace, name), have no fault, whatever their MCPServer has."""
        self._spared.update(pods)

    def hold_volumes(self, *pods: Key, held: bool = True) -> None:
        """The volumes of these pods stay as they are, as on a node whose kubelet is stuck; until `held=False`."""
        self._held = self._held.union(pods) if held else self._held.difference(pods)

    def heal(self, namespace: str, server: str) -> None:
        """The fault is gone."""
        self._faults.pop((namespace, server), None)
        self._touch(lambda pod: pod.server == (namespace, server))

    def process(self, namespace: str, name: str, container: str = "sidecar") -> BackgroundProcess:
        """The process of a container of a real pod. Raises KeyError."""
        return self._pods[namespace, name].processes[container]

    def address(self, namespace: str, name: str) -> str:
        """The pod's IP address."""
        return self._pods[namespace, name].ip

    def logs(self) -> str:
        """The end of every container's log, for a failure's message."""
        return "\n".join(
            process.describe(f"of {pod.key[1]}, returncode {process.returncode}", 15)
            for pod in list(self._pods.values())
            for process in list(pod.processes.values())
        )

    # The threads

    def _touch(self, which: Any) -> None:
        for pod in list(self._pods.values()):
            if which(pod):
                self._dirty.add(pod.key)

    def _watch(self) -> None:
        """Turns a list and watches into events; a lost connection only begins anew."""
        api = self._access.api(timeout=10.0)
        version = ""
        known: set[Key] = set()
        while not self._closing.is_set():
            try:
                if not version:
                    found = api.request("GET", f"/api/v1/pods?labelSelector={SELECTOR}")
                    version = found["metadata"]["resourceVersion"]
                    now = set()
                    for pod in found["items"]:
                        now.add((pod["metadata"]["namespace"], pod["metadata"]["name"]))
                        self._events.put(("MODIFIED", pod))
                    for namespace, name in known - now:
                        self._events.put(("DELETED", {"metadata": {"namespace": namespace, "name": name}}))
                    known = now
                for kind, pod in api.watch(
                    "pods", seconds=WATCH_SECONDS, resourceVersion=version, labelSelector=SELECTOR
                ):
                    version = pod["metadata"]["resourceVersion"]
                    key = pod["metadata"]["namespace"], pod["metadata"]["name"]
                    (known.discard if kind == "DELETED" else known.add)(key)
                    self._events.put((kind, pod))
            except ApiError:
                version = ""
                self._closing.wait(0.2)
            except (OSError, http.client.HTTPException, ValueError):
                self._closing.wait(0.2)

    def _run(self) -> None:
        api = self._access.api()
        try:
            while not self._closing.is_set():
                self._take_events()
                for pod in list(self._pods.values()):
                    if pod.key in self._dirty or self._lives(pod):
                        self._dirty.discard(pod.key)
                        try:
                            self._sync(api, pod)
                        except ApiError as error:
                            if error.status not in (404, 409):
                                self._dirty.add(pod.key)
                        except OSError:
                            self._dirty.add(pod.key)
        except BaseException as error:  # told when the agent is closed
            self.failure = error
        finally:
            for pod in self._pods.values():
                self._stop(pod)

    def _take_events(self) -> None:
        with contextlib.suppress(queue.Empty):
            event = self._events.get(timeout=TICK)
            while True:
                self._take(*event)
                event = self._events.get_nowait()

    def _take(self, kind: str, pod: Object) -> None:
        key = pod["metadata"]["namespace"], pod["metadata"]["name"]
        known = self._pods.get(key)
        if kind == "DELETED" or (known and "uid" in pod["metadata"] and _uid(known.pod) != _uid(pod)):
            if known:
                self._stop(known)
                del self._pods[key]
            if kind == "DELETED":
                return
            known = None
        if known is None:
            known = self._pods[key] = _Pod(pod, self._directory / f"{key[0]}-{key[1]}")
        known.pod = pod
        self._dirty.add(key)

    def _lives(self, pod: _Pod) -> bool:
        """Whether it has processes to look after."""
        return self._served.get(pod.key[0], False) and pod.server not in self._faults

    # One pod

    def _sync(self, api: Api, pod: _Pod) -> None:
        namespace, name = pod.key
        if namespace not in self._served:
            return
        if "deletionTimestamp" in pod.pod["metadata"]:
            self._stop(pod)
            api.delete("pods", namespace, name, gracePeriodSeconds=0, preconditions={"uid": _uid(pod.pod)})
            return
        fault = None if pod.key in self._spared else self._faults.get(pod.server)
        bound = "nodeName" in pod.pod["spec"]
        if fault is not None and not fault.container and not bound:
            condition = {"type": "PodScheduled", "status": "False", "reason": fault.waiting, "message": fault.message}
            self._write(api, pod, {"phase": "Pending", "conditions": [condition]})
            return
        if not bound:
            target = {"apiVersion": "v1", "kind": "Node", "name": NODE}
            binding = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name}, "target": target}
            try:
                api.request("POST", f"/api/v1/namespaces/{namespace}/pods/{name}/binding", binding)
            except ApiError as error:
                if error.status != 409:
                    raise
            pod.pod["spec"]["nodeName"] = NODE
        if fault is not None and fault.container:
            self._stop(pod)
            statuses = {one["name"]: _waiting(one, "PodInitializing", "") for one in (*pod.init, *pod.main)}
            broken = next((one for one in (*pod.init, *pod.main) if one["name"] == fault.container), None)
            if broken is None:
                raise ValueError(f"{name} has no container {fault.container}: {', '.join(statuses)}")
            for before in pod.init[: pod.init.index(broken) if broken in pod.init else None]:
                statuses[before["name"]] = _running(before, 0) if _stays(before) else _completed(before)
            statuses[fault.container] = fault.status(broken, pod.pod)
        elif self._served[namespace]:
            statuses = self._run_containers(api, pod)
        else:
            statuses = {one["name"]: _running(one, 0) if _stays(one) else _completed(one) for one in pod.init}
            statuses |= {one["name"]: _running(one, 0) for one in pod.main}
        self._write(api, pod, self._status(pod, statuses))

    def _status(self, pod: _Pod, statuses: Mapping[str, Object]) -> Object:
        initialized = all(
            statuses[one["name"]]["started"] if _stays(one) else "terminated" in statuses[one["name"]]["state"]
            for one in pod.init
        )
        ready = initialized and all(one["ready"] for one in statuses.values() if "terminated" not in one["state"])
        truth = {"PodScheduled": True, "Initialized": initialized, "ContainersReady": ready, "Ready": ready}
        conditions = []
        for kind, holds in truth.items():
            since = pod.ready_since.setdefault(f"{kind} {holds}", _now())
            pod.ready_since.pop(f"{kind} {not holds}", None)
            conditions.append({"type": kind, "status": str(holds), "lastTransitionTime": since})
        return {
            "phase": "Running" if initialized else "Pending",
            "conditions": conditions,
            "hostIP": "127.0.0.1",
            "podIP": pod.ip,
            "podIPs": [{"ip": pod.ip}],
            "startTime": pod.pod["metadata"]["creationTimestamp"],
            "initContainerStatuses": [statuses[one["name"]] for one in pod.init],
            "containerStatuses": [statuses[one["name"]] for one in pod.main],
        }

    def _write(self, api: Api, pod: _Pod, status: Object) -> None:
        if status != pod.written:
            api.patch("pods", *pod.key, {"status": status}, subresource="status")
            pod.written = status

    # Real processes

    def _run_containers(self, api: Api, pod: _Pod) -> dict[str, Object]:
        statuses = {one["name"]: _waiting(one, "PodInitializing", "") for one in (*pod.init, *pod.main)}
        try:
            self._refresh(api, pod)
        except VolumeMissing as error:
            return {one["name"]: _waiting(one, "ContainerCreating", str(error)) for one in (*pod.init, *pod.main)}
        for container in pod.init:
            status = statuses[container["name"]] = self._run_container(api, pod, container)
            if not status["started"] and "terminated" not in status["state"]:
                return statuses
        for container in pod.main:
            statuses[container["name"]] = self._run_container(api, pod, container)
        return statuses

    def _refresh(self, api: Api, pod: _Pod) -> None:
        if pod.volumes and pod.key in self._held:
            return
        annotations = pod.pod["metadata"].get("annotations")
        now = time.monotonic()
        if not pod.volumes or annotations != pod.seen_annotations or now - pod.refreshed >= self.refresh:
            pod.volumes = materialise(api, pod.pod, pod.directory / "volumes")
            pod.seen_annotations, pod.refreshed = annotations, now

    def _run_container(self, api: Api, pod: _Pod, container: Object) -> Object:
        name = container["name"]
        if name in pod.finished:
            return _completed(container)
        running = pod.processes.get(name)
        restarts = pod.restarts.get(name, 0)
        if running is not None and running.running:
            return _running(container, restarts, ready=self._ready(pod, container))
        if running is not None:
            code = running.returncode or 0
            if code == 0 and container in pod.init and not _stays(container):
                pod.finished.add(name)
                return _completed(container)
            if name not in pod.again:
                pod.again[name] = time.monotonic() + min(5.0, 0.5 * 2**restarts)
            if time.monotonic() < pod.again[name]:
                return _crashed(container, restarts, code, pod)
            pod.again.pop(name)
            pod.restarts[name] = restarts = restarts + 1
        try:
            started = pod.processes[name] = self._container(api, pod, container)
        except ConfigError as error:
            return _waiting(container, "CreateContainerConfigError", str(error))
        started.start()
        pod.missed[name] = _failure_threshold(container)
        return _running(container, restarts, ready=False)

    def _ready(self, pod: _Pod, container: Object) -> bool:
        """Probe it: it is ready from one that passes until so many fail in a row."""
        missed = 0 if _probe(container, pod.ip) else pod.missed[container["name"]] + 1
        pod.missed[container["name"]] = missed
        return missed < _failure_threshold(container)

    def _container(self, api: Api, pod: _Pod, container: Object) -> BackgroundProcess:
        image = container["image"]
        env = environment(api, pod.pod, container, pod.ip)
        command: Sequence[str] = ()
        if image in self._ours:
            config = self._ours[image]
            command = [*config["Entrypoint"], *container.get("args", config["Cmd"])]
            given = dict(variable.partition("=")[::2] for variable in config["Env"])
            env = {name: value for name, value in given.items() if name.startswith(("MCP_", "OUTRIGGER_"))} | env
            # every pod has the machine's network: each sidecar takes its own address there
            env |= {"OUTRIGGER__FRONT__HOST": pod.ip, "OUTRIGGER__FRONT__ADMIN_HOST": pod.ip}
        elif image in self.images:
            command = [*self.images[image], *container.get("args", ())]
        elif not container.get("command"):
            raise ConfigError(f"the pod agent knows no image {image}")
        if "command" in container:
            command = [*container["command"], *container.get("args", ())]
        return process(container, command, pod.volumes, env, pod.directory, programs=self.programs)

    def _stop(self, pod: _Pod) -> None:
        for container in (*reversed(pod.main), *reversed(pod.init)):
            if (running := pod.processes.pop(container["name"], None)) is not None:
                running.stop(timeout=10.0)
        pod.finished.clear()
        pod.volumes.clear()
        shutil.rmtree(pod.directory, ignore_errors=True)


def _uid(pod: Object) -> str:
    return str(pod["metadata"]["uid"])


def _now() -> str:
    return dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _stays(container: Object) -> bool:
    """Whether an init container is a native sidecar."""
    return container.get("restartPolicy") == "Always"


def _base(container: Object, restarts: int) -> Object:
    return {"name": container["name"], "image": container["image"], "imageID": "", "restartCount": restarts}


def _waiting(container: Object, reason: str, message: str) -> Object:
    waiting = {"reason": reason, "message": message} if message else {"reason": reason}
    return _base(container, 0) | {"ready": False, "started": False, "state": {"waiting": waiting}}


def _running(container: Object, restarts: int, *, ready: bool = True) -> Object:
    state = {"running": {"startedAt": "2026-11-23T00:00:00Z"}}
    return _base(container, restarts) | {"ready": ready, "started": True, "state": state}


def _completed(container: Object) -> Object:
    state = {"terminated": {"exitCode": 0, "reason": "Completed", "containerID": "containerd://0"}}
    return _base(container, 0) | {"ready": True, "started": False, "state": state}


def _crashed(container: Object, restarts: int, code: int, pod: _Pod) -> Object:
    namespace, name = pod.key
    code = 128 - code if code < 0 else code
    message = f"back-off 10s restarting failed container={container['name']} pod={name}_{namespace}({_uid(pod.pod)})"
    waiting = {"waiting": {"reason": "CrashLoopBackOff", "message": message}}
    last = {"terminated": {"exitCode": code, "reason": "Error", "containerID": "containerd://0"}}
    return _base(container, restarts) | {"ready": False, "started": False, "state": waiting, "lastState": last}


def _failure_threshold(container: Object) -> int:
    return int(container.get("readinessProbe", {}).get("failureThreshold", 3))


def _probe(container: Object, ip: str) -> bool:
    """One readiness probe by HTTP, as the container asks for; ready where it asks for none."""
    probe = container.get("readinessProbe", {}).get("httpGet")
    if probe is None:
        return True
    ports = {port.get("name"): port["containerPort"] for port in container.get("ports", ())}
    connection = http.client.HTTPConnection(ip, ports.get(probe["port"], probe["port"]), timeout=1)
    try:
        connection.request("GET", probe["path"])
        return 200 <= connection.getresponse().status < 400
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
