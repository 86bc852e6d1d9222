"""The JSON Schema accepts what the loader accepts, and the reference page says what the models say."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import client_files
from mcp_sidecar.config import Config, ConfigError, parse, schema
from mcp_sidecar.config.jsonc import decode
from mcp_sidecar.config.reference import reference

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted(
    path
    for path in (ROOT / "examples").rglob("*.json")
    if {"servers", "mcpServers"} & json.loads(path.read_text()).keys()
)


@pytest.fixture(scope="module")
def validator() -> Any:
    made = schema()
    jsonschema.Draft202012Validator.check_schema(made)
    return jsonschema.Draft202012Validator(made)


@pytest.mark.parametrize("name", ["CLAUDE_DESKTOP", "VSCODE", "CURSOR", "CLINE", "WINDSURF", "GEMINI", "SEED"])
def test_files_of_others_are_valid(validator: Any, name: str) -> None:
    validator.validate(decode(getattr(client_files, name).encode(), name))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_examples_are_valid_and_load(validator: Any, path: Path) -> None:
    data = json.loads(path.read_text())
    validator.validate(data)
    parse(data)


FULL: dict[str, Any] = {
    "$schema": "./config.schema.json",
    "servers": {
        "a": {
            "url": "https://a.example/mcp",
            "headers": {"X": {"valueFrom": {"file": "/x"}}, "Y": "${Y}"},
            "timeout": "250ms",
            "limits": {"rate": {"requestsPerSecond": 0.5, "per": "Caller"}, "maxResponseBytes": "1MiB"},
            "cache": {"tools": {"t": "1m", "u": 5}},
            "retry": {"tools": {"t": "Safe"}},
            "allowed_tools": ["a"],
        }
    },
    "front": {"tls": {"certFile": "c", "keyFile": "k"}, "tokens": [{"name": "n", "file": "f"}]},
    "readiness": "Upstream",
}


def test_our_names_are_valid(validator: Any) -> None:
    validator.validate(FULL)
    parse(FULL)


@pytest.mark.parametrize(
    "bad",
    [
        {},
        {"servers": {"a": {"command": "x", "tiemout": 3}}},
        {"servers": {"a": {"command": "x", "timeout": "1 day"}}},
        {"servers": {"a": {"command": "x", "timeout": -1}}},
        {"servers": {"a": {"command": "x", "isolation": "shared"}}},
        {"servers": {"a": {"command": "x", "env": {"A": {"valueFrom": {}}}}}},
        {"servers": {"a": {"command": "x"}}, "front": {"port": 70000}},
        {"servers": {"a": {"command": "x"}}, "metrcs": {}},
    ],
)
def test_what_is_wrong_is_not_valid(validator: Any, bad: dict[str, Any]) -> None:
    assert not validator.is_valid(bad)
    with pytest.raises(ConfigError):
        parse(bad)


def test_every_setting_is_described() -> None:
    made = schema()
    for name, section in {"Config": made, **made["$defs"]}.items():
        for key, value in section.get("properties", {}).items():
            assert value.get("description") or value.get("deprecated") or "anyOf" in value, f"{name}.{key}"


def test_schema_holds_no_titles_of_the_library() -> None:
    assert '"title"' not in json.dumps({key: value for key, value in schema().items() if key != "title"})


def test_reference_is_up_to_date() -> None:
    page = (ROOT / "docs/configuration.md").read_text(encoding="utf-8")
    assert page == reference(), "run 'make generate'"


def test_reference_names_every_setting() -> None:
    page = reference()
    for info in Config.model_fields.values():
        assert f"| `{info.alias}` |" in page
    assert "{foreign}" not in page
    assert "{renamed}" not in page


def test_reference_is_printed_by_its_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mcp_sidecar.config.reference"], capture_output=True, timeout=60, check=True
    )
    assert done.stdout.decode() == reference()
