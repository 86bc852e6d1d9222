"""What docs/operator.md shows of `outrigger run` and `outrigger status` is what they print."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable

import yaml

from cluster.api import Api, eventually
from cluster.control_plane import Cluster
from cluster.operator_process import OperatorProcess, program
from cluster.servers import wait_for
from readme import shown, words

PAGE = "docs/operator.md"
Start = Callable[..., OperatorProcess]


def alike(line: str) -> str:
    """A line of the log without what is of this run alone."""
    line = re.sub(r"^[-\d]+ [\d:,]+ ", "", line)
    line = re.sub(r"https://127\.0\.0\.1:\d+", "URL", re.sub(r"admin port \d+", "admin port N", line))
    return re.sub(r"\blaptop_[0-9a-f]{8}\b", "laptop", re.sub(r"Lease [-a-z]+/", "Lease NAMESPACE/", line))


def test_run(start_operator: Start) -> None:
    operator = start_operator(name="laptop", settings={"log": {"format": "Text"}}).wait_until_leading()
    expected = [alike(line) for line in shown("outrigger run --log-format text", PAGE) if line]
    found = eventually(
        lambda: lines if len(lines := operator.process.log().splitlines()) >= len(expected) else None, "its log"
    )
    assert [alike(line) for line in found] == expected


def test_status(cluster: Cluster, api: Api, operator: OperatorProcess, namespace: str) -> None:
    manifest = yaml.safe_load("\n".join(shown("cat server.yaml", PAGE)))
    manifest["metadata"]["namespace"] = namespace
    api.create(manifest)
    wait_for(api, namespace, "one", "Available", "False", "NoReplicasAvailable")
    flags = ("--kubeconfig", str(cluster.kubeconfig), "-n", namespace)
    done = subprocess.run(program("status", *flags), capture_output=True, text=True, timeout=60, check=True)
    said = words(re.sub(r"\b\d+s$", "5s", done.stdout.replace(namespace, "default"), flags=re.MULTILINE))
    assert said == words("\n".join(shown("outrigger status", PAGE)))
