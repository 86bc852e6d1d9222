"""Our CRDs on an API server: applied from `crds/`, and waited for."""

from __future__ import annotations

from pathlib import Path

import yaml

from cluster.api import Api, eventually

CRDS = Path(__file__).resolve().parents[2] / "crds"


def install_crds(api: Api) -> None:
    """Apply `crds/`, and wait until the API server serves them."""
    for file in sorted(CRDS.glob("*.yaml")):
        for manifest in yaml.safe_load_all(file.read_text()):
            api.apply(manifest)
            name = manifest["metadata"]["name"]

            def established(name: str = name) -> bool:
                found = api.get("customresourcedefinitions", None, name) or {}
                conditions = {one["type"]: one["status"] for one in found.get("status", {}).get("conditions") or ()}
                return conditions.get("Established") == "True"

            eventually(established, f"the CRD {name} established")
