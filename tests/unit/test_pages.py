"""The pages for users say what is there: links lead somewhere, manifests are accepted, commands and names exist."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from mcp_operator import cli as operator_cli
from mcp_operator.api.crd import crd
from mcp_operator.api.parsing import parse
from mcp_operator.config import OperatorConfig
from mcp_operator.metrics import OperatorMetrics
from mcp_operator.reasons import REASONS
from mcp_operator.status import build
from mcp_operator.yaml_text import load_all
from mcp_sidecar import cli as sidecar_cli
from mcp_sidecar.telemetry.catalogue import Catalogue
from mcp_sidecar.telemetry.metrics import Registry
from prometheus_process import required
from readme import ROOT, Command, commands, fenced, prose, section
from unit.operator.test_status import SITUATIONS
from unit.test_documents import known_tests

SKIPPED = {"node_modules", "dist", "build"}
PAGES = sorted(
    str(path.relative_to(ROOT))
    for path in ROOT.rglob("*.md")
    if not any(part.startswith(".") or part in SKIPPED for part in path.relative_to(ROOT).parts)
)
FOR_USERS = [
    page
    for page in PAGES
    if page in ("README.md", "SECURITY.md", "docs/quickstart.md", "docs/troubleshooting.md", "docs/operator.md")
    or page.startswith(("docs/guides/", "docs/runbooks/"))
]
CHART = ROOT / "charts" / "outrigger"


# links


def anchors(path: Path) -> set[str]:
    """What a link to a heading of the page ends in, as GitHub makes it."""
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    found: set[str] = set()
    for heading in re.findall(r"^#{1,6} (.+)$", text, re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
        slug = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        number = 0
        while (slug if not number else f"{slug}-{number}") in found:
            number += 1
        found.add(slug if not number else f"{slug}-{number}")
    return found


def links(page: str) -> Iterator[str]:
    text = re.sub(r"`[^`\n]*`", "", prose(page))
    for target in re.findall(r"\]\(\s*<?([^)\s>]+)>?[^)]*\)", text):
        if not re.match(r"[a-z]+:", target):
            yield target


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    broken = []
    for target in links(page):
        path, _, anchor = target.partition("#")
        file = (ROOT / page).parent / path if path else ROOT / page
        if not file.exists() or (anchor and file.suffix == ".md" and anchor not in anchors(file)):
            broken.append(target)
    assert not broken


def test_every_page_for_users_is_found_from_the_readme() -> None:
    seen, todo = set(), ["README.md"]
    while todo:
        page = todo.pop()
        if page in seen:
            continue
        seen.add(page)
        for target in links(page):
            file = ((ROOT / page).parent / target.partition("#")[0]).resolve()
            files = file.glob("*.md") if file.is_dir() else [file]
            todo += [
                str(each.relative_to(ROOT)) for each in files if each.suffix == ".md" and each.is_relative_to(ROOT)
            ]
    assert {page for page in PAGES if page.startswith("docs/") and not page.startswith("docs/adr/")} <= seen


# manifests

BLOCKS = [(page, line, text) for page in PAGES for line, text in fenced(page, "yaml")]


@pytest.mark.parametrize("page, line, text", BLOCKS, ids=[f"{page}:{line}" for page, line, _ in BLOCKS])
def test_manifest_is_accepted(page: str, line: int, text: str) -> None:
    first = text.splitlines()[0]
    if named := re.fullmatch(r"# (examples/\S+)", first):
        assert text.partition("\n")[2] in (ROOT / named[1]).read_text(encoding="utf-8"), f"{named[1]} says otherwise"
        return
    contents = [content for _, content in load_all(text) if content is not None]
    assert contents
    if first == "# values.yaml":
        for path in (path for content in contents for path in leaves(content)):
            assert is_known(path, values()), f"the chart has no value {path}"
        return
    for content in contents:
        if content.get("kind") == "MCPServer":
            parse(content)
        elif "kind" in content:
            assert {"apiVersion", "metadata"} <= content.keys()
        elif first != "# prometheus.yml":
            assert set(content) <= set(OperatorConfig.__annotations__), "neither a manifest nor the operator's settings"


# commands

COMMANDS = [command for page in FOR_USERS for command in commands(page)]
LOCAL = {"base64", "cat", "curl", "docker", "kind", "kubectl", "printf"}
"""Programs that no parser of ours knows; what they are given is looked at where it is a file of this repository."""


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_command_is_what_the_program_takes(command: Command) -> None:
    for part in re.split(r" (?:\|\|?|&&|;) ", command.text):
        words = [word for word in shlex.split(re.sub(r" &$| [<>]+ *\S+", "", part)) if not re.match(r"[A-Z_]+=", word)]
        program, arguments = words[0].removeprefix(".venv/bin/"), words[1:]
        if program == "outrigger":
            operator_cli._parser().parse_args(arguments)
        elif program == "outrigger-sidecar":
            sidecar_cli._parser().parse_args(arguments)
        elif program == "make":
            targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
            assert {word for word in arguments if "=" not in word} <= set(targets)
        elif program == "helm":
            ours = "" if "--repo" in arguments else part  # that one brings a chart of others
            for setting in re.findall(r"--set(?:-string|-json)? '?([\w.]+)=", ours):
                assert is_known(setting, values()), f"the chart has no value {setting}"
        else:
            assert program in LOCAL, program
        for word in arguments:
            if re.match(r"(examples|charts|crds|docs)/", word) and "…" not in word:
                assert (ROOT / word).exists(), word


FOLLOWED = {
    "docs/quickstart.md",
    "docs/troubleshooting.md",
    *(f"docs/guides/{name}.md" for name in ("observability", "resilience", "secrets", "security", "upgrading")),
}
"""Pages that test_readme_kubernetes types into a shell, as the README's section on Kubernetes."""
RUN_BY = {
    r"make demo": "test_examples::test_demo",
    r"make test": "test_documents",
    r"(PATH=\S+ )?outrigger up -f examples/": "test_up_examples",
    r"cat examples/mcpservers/notes\.yaml": "test_up_examples::test_guide_shows_what_it_prints",
    r"outrigger render -f examples/": "test_up_examples::test_every_example_is_rendered",
    r"helm install outrigger|kubectl create namespace": "test_readme_kubernetes::test_quickstart",
    r"outrigger crds \||outrigger rbac": "test_up_examples::test_example_of_the_help_that_needs_no_cluster_runs",
    r"outrigger run": "test_readme::test_run",
    r"cat server\.yaml|kubectl apply -f server\.yaml|outrigger status": "test_readme::test_status",
}
"""Other commands, by how they begin: the test that runs them."""


@pytest.mark.parametrize("command", [each for each in COMMANDS if "runbooks" not in each.page], ids=str)
def test_command_is_run_by_a_test_or_marked(command: Command) -> None:
    if command.not_run or command.page in FOLLOWED:
        return
    if command.page == "README.md" and command.line in section("README.md", "## Run it on Kubernetes"):
        return
    [by] = [test for begin, test in RUN_BY.items() if re.match(begin, command.text)]
    module, _, test = by.partition("::")
    assert not test or test in known_tests()[module]


@pytest.mark.parametrize("page", FOR_USERS)
def test_commands_in_the_text_are_what_the_programs_take(page: str) -> None:
    parsers = {"outrigger": operator_cli._parser(), "outrigger-sidecar": sidecar_cli._parser()}
    for text in re.findall(r"`(outrigger(?:-sidecar)? [a-z][^`]*)`", prose(page)):
        words = shlex.split(text.replace("\\|", "|").partition(" | ")[0])
        if len(words) > 2:  # else the name of a command, without what it needs
            parsers[words[0]].parse_args(words[1:])


# names


def leaves(content: Any, path: str = "") -> Iterator[str]:
    """The paths of a tree of mappings, those of its inner nodes included."""
    if path:
        yield path
    if isinstance(content, Mapping):
        for name, each in content.items():
            yield from leaves(each, f"{path}.{name}" if path else str(name))


def is_known(path: str, known: frozenset[str]) -> bool:
    """Whether it is one of `known`, or a key of a map in it."""
    maps = (
        match.end()
        for match in re.finditer(
            r"\.(labels|ruleLabels|limits|requests|secretKeyRef|monitoringFrom|config)(?=\.)", path
        )
    )
    return path in known or any(path[:end] in known for end in maps)


@cache
def values() -> frozenset[str]:
    """The paths of the chart's values, and of what its operator.config takes."""
    given = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    return frozenset((*leaves(given), *(f"operator.config.{path}" for path in settings())))


@cache
def settings() -> frozenset[str]:
    """The paths of the operator's settings."""
    page = (ROOT / "docs" / "operator-configuration.md").read_text(encoding="utf-8")
    found: set[str] = set()
    for heading, body in re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL):
        prefix = heading.strip("`") + "." if heading.startswith("`") else ""
        found.update(prefix + name for name in re.findall(r"^\| `(\w+)` \|", body, re.MULTILINE))
    return frozenset(found)


@cache
def fields() -> frozenset[str]:
    """The paths of an MCPServer's spec and status, lists without their brackets."""

    def walk(schema: Mapping[str, Any], path: str) -> Iterator[str]:
        for name, each in schema.get("properties", {}).items():
            yield (inner := f"{path}.{name}" if path else name)
            yield from walk(each, inner)
            yield from walk(each.get("items", {}), inner)

    schema = crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    whole = set(walk(schema, ""))
    return frozenset(whole | {path.removeprefix("spec.") for path in whole})


@cache
def metrics() -> frozenset[str]:
    """The names of all series that sidecars and the operator tell."""
    registry = Registry()
    catalogue = Catalogue(registry)
    names = {family.name for family in vars(catalogue).values() if hasattr(family, "name")}
    told = OperatorMetrics().scrape().decode() + " ".join(re.findall(r'"(outrigger_\w+)"', _source()))
    names |= set(re.findall(r"\boutrigger_[a-z_]+", told))
    return frozenset((*names, *(f"{name}{end}" for name in names for end in ("_bucket", "_count", "_sum", "_total"))))


def _source() -> str:
    return "".join(
        path.read_text(encoding="utf-8")
        for folder in ("sidecar/mcp_sidecar/telemetry", "operator/mcp_operator")
        for path in (ROOT / folder).glob("*.py")
    )


@pytest.mark.parametrize("page", FOR_USERS)
def test_names_exist(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    assert set(re.findall(r"(?<![:\w])outrigger_[a-z_]+[a-z](?![a-z_]*[*…{])", text)) <= metrics()
    alerts = set(re.findall(r"^ *- alert: (\w+)", "".join(p.read_text() for p in RULES), re.MULTILINE))
    assert set(re.findall(r"\bOutrigger[A-Z]\w+", text)) <= alerts
    known = fields() | values() | settings()
    first = {path.partition(".")[0] for path in known}
    for name in re.findall(r"`([a-z]\w*(?:\[\])?(?:\.\w+(?:\[\])?)+)(?::[^`]*)?`", prose(page)):
        path = name.replace("[]", "")
        if path.partition(".")[0] in first:
            assert is_known(path, known), f"there is no {name}"


RULES = sorted((CHART / "files" / "rules").glob("*.yaml"))


def test_prometheus_takes_the_scrape_configuration(tmp_path: Path) -> None:
    [text] = [text for _, text in fenced("docs/guides/observability.md", "yaml") if text.startswith("# prometheus.yml")]
    (tmp_path / "charts").symlink_to(ROOT / "charts")
    config = yaml.safe_load(text)
    for job in config["scrape_configs"]:  # Debian's Prometheus is built without the service discovery of Kubernetes
        assert [each["role"] for each in job.pop("kubernetes_sd_configs")] == ["pod"]
    file = tmp_path / "prometheus.yml"
    file.write_text(yaml.safe_dump(config))
    command = [required("promtool"), "check", "config", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    assert f"{len(RULES)} rule files found" in done.stdout


# troubleshooting

TROUBLES = ROOT / "docs" / "troubleshooting.md"


def troubles() -> dict[str, str]:
    """Reason -> its section."""
    text = TROUBLES.read_text(encoding="utf-8")
    return dict(re.findall(r"^### (\w+)\n(.*?)(?=^##|\Z)", text, re.MULTILINE | re.DOTALL))


def test_every_reason_that_is_not_good_has_its_section_and_nothing_else_has() -> None:
    assert set(troubles()) == {row.reason for row in REASONS.values() if row.tone != "Good"}


def test_messages_are_those_of_the_operator() -> None:
    said: dict[str, set[str]] = {}
    for facts, _, _ in SITUATIONS.values():
        for each in build(facts)["conditions"]:
            said.setdefault(each["reason"], set()).add(each["message"])
    for reason, body in troubles().items():
        quoted = re.findall(r"^> (.+)$", body, re.MULTILINE)
        assert len(quoted) == 1, f"{reason} quotes no message, or several"
        assert quoted[0] in said[reason], f"{reason}: {sorted(said[reason])}"
