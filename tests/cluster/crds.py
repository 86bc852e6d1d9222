"""CRDs on an API server: ours from `crds/`, and what stands for those of others; applied, and waited for."""

from __future__ import annotations

from pathlib import Path

import yaml

from cluster.api import Api, eventually

OURS = Path(__file__).resolve().parents[2] / "crds"
POD_MONITOR = Path(__file__).with_name("pod_monitor_crd.yaml")


def install_crds(api: Api, *files: Path) -> None:
    """Apply the CRDs of these files (ours by default), and wait until the API server serves them."""
    for file in files or sorted(OURS.glob("*.yaml")):
        for manifest in yaml.safe_load_all(file.read_text()):
            api.apply(manifest)
            name = manifest["metadata"]["name"]

            def established(name: str = name) -> bool:
                found = api.get("customresourcedefinitions", None, name) or {}
                conditions = {one["type"]: one["status"] for one in found.get("status", {}).get("conditions") or ()}
                return conditions.get("Established") == "True"

            eventually(established, f"the CRD {name} established")
