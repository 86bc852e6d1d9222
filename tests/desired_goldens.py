"""The golden files of the operator's manifests: MCPServers in, YAML out.

`tests/unit/operator/golden/NAME.yaml` is an MCPServer, `rendered/NAME.yaml` beside it what it becomes. When a change of
the manifests is wanted, `python tests/desired_goldens.py` writes them anew, and the diff is there to be read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mcp_operator.api.v1alpha1 import MCPServer, parse
from mcp_operator.desired import Cluster, Desired, Images, desired
from mcp_operator.yaml_text import dump_all, load_all

FOLDER = Path(__file__).parent / "unit" / "operator" / "golden"
NAMES = tuple(sorted(path.stem for path in FOLDER.glob("*.yaml")))

CLUSTER = Cluster(
    has_pod_monitor=True,
    cluster_ips=("10.96.0.7", "fd00::7"),
    operator_namespace="outrigger-system",
    operator_labels={"app.kubernetes.io/name": "outrigger-operator"},
)
IMAGES = Images(
    sidecar="outrigger.local/sidecar:0.1.0",
    sidecar_runtime="outrigger.local/sidecar-runtime:0.1.0",
    pull_policy="IfNotPresent",
    pull_secrets=("mirror",),
)
CHECKSUM = "0123456789ab"


def manifest(name: str) -> dict[str, Any]:
    """The MCPServer of a golden file."""
    ((_, found),) = load_all((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    assert isinstance(found, dict)
    return found


def server(name: str) -> MCPServer:
    """The MCPServer of a golden file, parsed."""
    return parse(manifest(name))


def wanted(name: str) -> Desired:
    """What it becomes."""
    return desired(server(name), CLUSTER, IMAGES, checksum=CHECKSUM)


def rendered(name: str) -> str:
    """The text of the golden output."""
    return dump_all(wanted(name).manifests)


def rendered_path(name: str) -> Path:
    """Where the golden output is."""
    return FOLDER / "rendered" / f"{name}.yaml"


def object_of(found: Desired, kind: str) -> dict[str, Any]:
    """The only manifest of a kind."""
    (one,) = (each for each in found.manifests if each["kind"] == kind)
    return one


if __name__ == "__main__":
    for each in NAMES:
        rendered_path(each).parent.mkdir(exist_ok=True)
        rendered_path(each).write_text(rendered(each), encoding="utf-8")
        print(f"wrote {rendered_path(each).relative_to(FOLDER)}")
