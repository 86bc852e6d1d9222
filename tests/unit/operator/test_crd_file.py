"""The committed CRD and reference are what the models make of themselves."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
import yaml

from mcp_operator.api.crd import crd, crd_text
from mcp_operator.api.reference import reference
from mcp_operator.api.rules import RULES
from mcp_operator.api.schema import places
from mcp_operator.api.v1alpha1 import Change, MCPServerSpec
from mcp_operator.api.v1alpha1.status import MCPServerStatus

ROOT = Path(__file__).parents[3]
FILE = ROOT / "crds" / "outrigger.dev_mcpservers.yaml"
PAGE = ROOT / "docs" / "mcpserver.md"


def test_file_is_fresh() -> None:
    assert FILE.read_text(encoding="utf-8") == crd_text(), "run `make generate`"


def test_file_reads_back_as_the_crd() -> None:
    assert yaml.safe_load(FILE.read_text(encoding="utf-8")) == crd()


def test_page_is_fresh() -> None:
    assert PAGE.read_text(encoding="utf-8") == reference(), "run `make generate`"


@pytest.mark.parametrize("model, path", [(MCPServerSpec, "spec"), (MCPServerStatus, "status")])
def test_page_names_every_field(model: type[MCPServerSpec], path: str) -> None:
    page = PAGE.read_text(encoding="utf-8")
    for place in places(model, path):
        name = place.path if path == "status" else place.path.rpartition(".")[2]
        assert f"| `{name}` | {(place.info.description or '').replace('|', chr(92) + '|')} |" in page, place.path


def test_page_names_every_rule() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for rule in RULES:
        if not rule.id.endswith("/bounds"):  # those are in the column Type
            assert f"{rule.message}.\n  ```cel\n  {rule.rule}\n  ```\n" in page, rule.id


def test_every_field_is_live_or_rolls() -> None:
    changes = {place.path: place.change for place in places(MCPServerSpec, "spec")}
    assert set(changes.values()) == set(get_args(Change))
    assert len(changes) > 250
    assert changes["spec.front.port"] == "Rolls"
    assert changes["spec.front.maxConnections"] == "Live"
    assert changes["spec.stdio.stop.termGrace"] == "Live"
    assert changes["spec.podTemplate.sidecar.env[].value"] == "Rolls"
