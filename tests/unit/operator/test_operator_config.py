"""The operator's configuration: which source wins, that everything wrong is told at once, the page about it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from mcp_operator import __version__
from mcp_operator.config import OperatorConfig
from mcp_operator.config_loading import load
from mcp_operator.config_reference import reference
from mcp_sidecar import __version__ as sidecar_version
from mcp_sidecar.config import ConfigError

NOWHERE = Path("/nonexistent")


def problems(tmp_path: Path, text: str, **environ: str) -> list[str]:
    file = tmp_path / "operator.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(str(file), environ=environ, namespace_file=NOWHERE)
    assert caught.value.source == str(file)
    return str(caught.value).splitlines()


def test_defaults() -> None:
    config = load(environ={}, namespace_file=NOWHERE, hostname="host")
    assert config.namespace == "default"
    assert re.fullmatch(r"host_[0-9a-f]{8}", config.identity)
    assert config.model_copy(update={"identity": "outrigger"}) == OperatorConfig()
    assert config.images.sidecar_image == f"outrigger.local/sidecar:{__version__}"
    assert config.images.sidecar_runtime_image == f"outrigger.local/sidecar-runtime:{__version__}"


def test_one_version() -> None:
    assert __version__ == sidecar_version


def test_identities_differ() -> None:
    assert load(environ={}).identity != load(environ={}).identity


def test_pod_tells_its_namespace(tmp_path: Path) -> None:
    file = tmp_path / "namespace"
    file.write_text("outrigger-system\n")
    assert load(environ={}, namespace_file=file).namespace == "outrigger-system"
    environ = {"OUTRIGGER_OPERATOR__NAMESPACE": "other"}
    assert load(environ=environ, namespace_file=file).namespace == "other"


def test_flags_over_variables_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "operator.yaml"
    file.write_text("workers: 2\nadmin: {port: 1, host: 1.1.1.1}\nlog: {level: debug}\nresyncInterval: 15m\n")
    environ = {"OUTRIGGER_OPERATOR__ADMIN__PORT": "2", "OUTRIGGER_OPERATOR__LOG__LEVEL": "warning"}
    config = load(str(file), environ=environ, flags={("log", "level"): "Error", ("watchNamespaces",): ["a", "b"]})
    assert (config.workers, config.admin.port, config.admin.host) == (2, 2, "1.1.1.1")
    assert (config.log.level, config.resync_interval, config.watch_namespaces) == ("Error", 900.0, ("a", "b"))


def test_file_may_be_json_and_named_by_a_variable(tmp_path: Path) -> None:
    file = tmp_path / "operator.json"
    file.write_text('{\n\t"images": {"registry": "r.example/x", "sidecar": "r.example/y@sha256:0"}\n}')
    images = load(environ={"OUTRIGGER_OPERATOR_CONFIG": str(file)}).images
    assert images.sidecar_image == "r.example/y@sha256:0"
    assert images.sidecar_runtime_image == f"r.example/x/sidecar-runtime:{__version__}"


def test_empty_file_is_the_defaults(tmp_path: Path) -> None:
    file = tmp_path / "operator.yaml"
    file.write_text("# nothing yet\n")
    assert load(str(file), environ={}).workers == OperatorConfig().workers


@pytest.mark.parametrize(
    ("name", "text", "path", "value"),
    [
        ("WATCH_NAMESPACES", "a, b", "watch_namespaces", ("a", "b")),
        ("WATCH_NAMESPACES", "", "watch_namespaces", ()),
        ("OPERATOR_LABELS", "app=x,tier=y", "operator_labels", {"app": "x", "tier": "y"}),
        ("LEADER_ELECTION__ENABLED", "false", "leader_election.enabled", False),
        ("LEADER_ELECTION__LEASE_DURATION", "20s", "leader_election.lease_duration", 20.0),
        ("API_SERVER__QPS", "50", "api_server.qps", 50),
        ("IMAGES__SIDECAR", "x:1", "images.sidecar", "x:1"),
        ("KUBECONFIG", "/x", "kubeconfig", "/x"),
    ],
)
def test_variables(name: str, text: str, path: str, value: object) -> None:
    config: Any = load(environ={f"OUTRIGGER_OPERATOR__{name}": text})
    for step in path.split("."):
        config = getattr(config, step)
    assert config == value


def test_everything_wrong_is_told_at_once(tmp_path: Path) -> None:
    text = (
        "namspace: x\nworkers: 0\nadmin: {port: many}\nlog: {level: loud}\nleaderElection: 3\n"
        "watchNamespaces: [A, b]\nimages: {tag: '-'}\n"
    )
    said = problems(tmp_path, text, OUTRIGGER_OPERATOR__NOPE="1", OUTRIGGER_OPERATOR__ADMIN="2")
    assert {line.partition(":")[0] for line in said} == {
        "OUTRIGGER_OPERATOR__NOPE",
        "OUTRIGGER_OPERATOR__ADMIN",
        "namspace",
        "workers",
        "admin.port",
        "log.level",
        "leaderElection",
        "watchNamespaces[0]",
        "images.tag",
    }
    assert "namspace: is no setting; did you mean namespace?" in said
    assert "workers: must be a whole number, from 1 to 64; it is the number 0" in said
    assert "log.level: must be one of Debug, Info, Warning, Error; it is a string of 4 characters" in said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("leaderElection: {leaseDuration: 5s, renewDeadline: 5s}", "leaderElection.renewDeadline: must be below lease"),
        ("leaderElection: {renewDeadline: 2s, retryPeriod: 2s}", "leaderElection.retryPeriod: must be below renew"),
        ("secretPoll: {missing: 2m}", "secretPoll.missing: must not be above missingMax"),
        ("statusPoll: {active: 30s, idle: 20s}", "statusPoll.active: must not be above idle"),
        ("watchNamespaces: [a, b, a]", "watchNamespaces: holds a twice"),
        ("a: [", "is no YAML: line 2, column 1: did not"),
        ("- 1", "must be an object of settings; it is a list of 1"),
        ("a: 1\n---\nb: 2", "holds more than one document"),
    ],
)
def test_what_does_not_fit_together(tmp_path: Path, text: str, said: str) -> None:
    [problem] = problems(tmp_path, text)
    assert problem.startswith(said)


def test_file_that_is_not_there() -> None:
    with pytest.raises(ConfigError, match="no such file"):
        load("/nonexistent/operator.yaml", environ={})


def test_page_is_complete() -> None:
    page = reference()

    def rows(model: Any) -> int:
        inner = [info.annotation for info in model.model_fields.values() if hasattr(info.annotation, "model_fields")]
        return len(model.model_fields) + sum(rows(section) for section in inner)

    assert len(re.findall(r"^\| `", page, re.M)) == rows(OperatorConfig)
    assert "None" not in page
