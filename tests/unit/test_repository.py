"""What must be true of the repository: layout, locks, no address or path of one machine, documents that agree."""

import ast
import importlib
import os
import re
import subprocess
import tomllib
from functools import cache
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCKS = ("uv", "build", "runtime", "sidecar", "client", "operator", "dev")
MAX_LINES = 400
MAX_BYTES = 2 * 2**20


@cache
def tracked() -> list[Path]:
    """Every file that git tracks and that is still there."""
    said = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    return [
        path for name in said.decode().split("\0") if name and (path := ROOT / name).is_file() and not path.is_symlink()
    ]


@cache
def texts() -> dict[str, str]:
    """Path in the repository -> text, of the tracked files that are text."""
    found = {}
    for path in tracked():
        try:
            found[path.relative_to(ROOT).as_posix()] = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
    return found


def hits(pattern: str, *, inside: tuple[str, ...] = ("",)) -> list[str]:
    """`path:line: text` of every match, in files whose path starts with one of `inside`."""
    expression = re.compile(pattern)
    return [
        f"{name}:{number}: {line.strip()[:100]}"
        for name, text in texts().items()
        if name.startswith(inside)
        for number, line in enumerate(text.splitlines(), 1)
        if expression.search(line)
    ]


def modules(*folders: str) -> dict[str, str]:
    """Path -> source of the Python modules in `folders`."""
    return {name: text for name, text in texts().items() if name.endswith(".py") and name.startswith(folders)}


def pins(lock: str) -> dict[str, str]:
    """Package -> version, as a lock pins them."""
    text = (ROOT / "requirements" / f"{lock}.txt").read_text()
    return {
        canonicalize_name(name): version for name, version in re.findall(r"^([A-Za-z0-9._-]+)==([^ ;\\]+)", text, re.M)
    }


@pytest.mark.parametrize("folder", ["operator", "sidecar"])
def test_folder_of_packages_is_no_package(folder: str) -> None:
    # operator/__init__.py would shadow the standard library's module for whatever runs in the root.
    assert [path.name for path in (ROOT / folder).glob("*.py")] == []


def test_no_package_registry_is_named() -> None:
    hosts = [
        r"pypi\.org",
        r"pythonhosted\.org",
        r"npmjs\.org",
        r"golang\.org/",
        r"crates\.io/",
        r"debian\.org",
        r"maven\.org",
    ]
    assert hits(rf"https?://[a-z0-9.-]*({'|'.join(hosts)})") == []


def test_no_path_of_a_machine_is_named() -> None:
    assert hits(r"(^|[^a-z.])/(wo" + r"rk|fa" + r"rm)/[a-z]") == []
    assert hits(re.escape(f"{ROOT}/")) == []


def test_nothing_is_left_to_do() -> None:
    words = "|".join(("TO" + "DO", "FIX" + "ME", "XX" + "X", "NotImplemented" + "Error"))
    assert (
        hits(
            rf"\b({words})\b", inside=("operator/", "sidecar/", "images/", "bridge/", "bench/", "examples/", "scripts/")
        )
        == []
    )


def test_no_large_file() -> None:
    assert [path for path in tracked() if path.stat().st_size > MAX_BYTES] == []


def test_every_module_says_why_it_exists() -> None:
    silent = [
        name
        for name, source in modules(
            "operator/", "sidecar/", "images/", "bench/", "examples/", "scripts/", "tests/"
        ).items()
        if not ast.get_docstring(ast.parse(source))
    ]
    assert silent == []


def test_no_module_is_two() -> None:
    sources = modules("operator/", "sidecar/", "images/", "bench/", "examples/", "scripts/")
    assert {name: lines for name, text in sources.items() if (lines := text.count("\n")) > MAX_LINES} == {}


def test_no_catch_all_module() -> None:
    vague = {"utils.py", "util.py", "helpers.py", "helper.py", "common.py", "misc.py", "manager.py"}
    assert [name for name in texts() if Path(name).name in vague] == []


# Locks


@pytest.mark.parametrize("lock", LOCKS)
def test_lock_pins_with_hashes(lock: str) -> None:
    text = (ROOT / "requirements" / f"{lock}.txt").read_text()
    entries = [entry for entry in re.split(r"^(?=[A-Za-z0-9])", text, flags=re.M) if "==" in entry]
    assert entries
    assert [entry.split()[0] for entry in entries if "--hash=sha256:" not in entry] == []
    assert "://" not in text


def locked() -> list[tuple[str, str]]:
    """(lock, requirement) for all that pyproject.toml and requirements/*.in ask for."""
    extras, groups = PROJECT["project"]["optional-dependencies"], PROJECT["dependency-groups"]
    base = PROJECT["project"]["dependencies"]
    asked = {
        "sidecar": base + extras["sidecar"],
        "client": base + extras["sidecar"] + extras["client"],
        "everything": base + extras["client"],
        "operator": base + extras["operator"],
        "dev": base + [one for group in (*extras.values(), *groups.values()) for one in group],
    }
    for path in (ROOT / "requirements").glob("*.in"):
        asked[path.stem] = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    return [(lock, requirement) for lock, requirements in asked.items() for requirement in requirements]


@pytest.mark.parametrize(("lock", "requirement"), locked())
def test_lock_fits_what_is_asked_for(lock: str, requirement: str) -> None:
    wanted = Requirement(requirement)
    version = pins(lock).get(canonicalize_name(wanted.name))
    assert version is not None, f"requirements/{lock}.txt lacks {wanted.name}: run make lock"
    assert wanted.specifier.contains(version, prereleases=True), f"{wanted} is pinned to {version}: run make lock"


def test_images_hold_what_was_tested() -> None:
    dev = pins("dev")
    for lock in ("uv", "build", "runtime", "sidecar", "client", "everything", "operator"):
        for name, version in pins(lock).items():
            assert dev.get(name) == version, f"{name} in requirements/{lock}.txt is not what the tests run with"


def test_sidecar_image_is_lean() -> None:
    assert set(pins("sidecar")) & {"mcp", "kopf", "kubernetes", "aiohttp", "starlette", "prometheus-client"} == set()


def test_operator_image_holds_no_data_plane() -> None:
    assert set(pins("operator")) & {"mcp", "httptools", "cryptography"} == set()


def test_console_scripts_start_something() -> None:
    for target in PROJECT["project"]["scripts"].values():
        module, _, name = target.partition(":")
        assert callable(getattr(importlib.import_module(module), name))


def test_one_version() -> None:
    sidecar = importlib.import_module("mcp_sidecar")
    assert getattr(sidecar, "__version__", PROJECT["project"]["version"]) == PROJECT["project"]["version"]


# What a person and CI run


def targets() -> set[str]:
    return set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.M))


def test_makefile_has_what_is_promised() -> None:
    assert {"demo", "test", "lint", "venv", "bench", "generate", "image", "help"} <= targets()
    pages = "\n".join(text for name, text in texts().items() if name.endswith(".md"))
    # As code: in backticks, or at the start of a line of a block.
    assert set(re.findall(r"(?:`|^ {0,8}(?:\$ )?)make ([a-z][a-z-]+)", pages, re.M)) - targets() == set()


def test_makefile_targets_explain_themselves() -> None:
    explained = set(re.findall(r"^([a-z][a-z-]*):.*## \S", (ROOT / "Makefile").read_text(), re.M))
    assert targets() - explained == set()


@pytest.mark.parametrize("name", [".ci/run", "scripts/environment.sh", "scripts/lock.sh"])
def test_script_runs(name: str) -> None:
    assert os.access(ROOT / name, os.X_OK)
    assert "set -euo pipefail" in (ROOT / name).read_text()
    subprocess.run(["bash", "-n", name], cwd=ROOT, check=True)


# Documents


def test_changelog_has_a_place_for_the_next_change() -> None:
    headings = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert headings[0] == "[Unreleased]"
    assert all(re.fullmatch(r"\[\d+\.\d+\.\d+\] - \d{4}-\d{2}-\d{2}", heading) for heading in headings[1:])


def test_decisions_are_numbered_and_dated() -> None:
    pages = sorted((ROOT / "docs" / "adr").glob("[0-9]*.md"))
    assert [int(page.name[:4]) for page in pages] == list(range(1, len(pages) + 1))
    for page in pages:
        text = page.read_text()
        assert text.startswith(f"# {int(page.name[:4])}. "), page.name
        assert re.search(r"^Date: \d{4}-\d{2}-\d{2}\. Status: (proposed|accepted|superseded by \d+)\.", text, re.M), (
            page.name
        )
        for part in ("Context", "Decision", "Consequences"):
            assert f"\n## {part}\n" in text, f"{page.name} lacks {part}"


def test_links_lead_somewhere() -> None:
    broken = [
        f"{name}: {link}"
        for name, text in texts().items()
        if name.endswith(".md")
        for link in re.findall(r"\]\(([^)\s#]+)(?:#[^)]*)?\)", re.sub(r"```.*?```", "", text, flags=re.S))
        if "://" not in link and not link.startswith("mailto:") and not (ROOT / name).parent.joinpath(link).exists()
    ]
    assert broken == []


def test_licence_is_the_declared_one() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert PROJECT["project"]["license"] == "Apache-2.0"
    assert "Apache License" in text
    assert "END OF TERMS AND CONDITIONS" in text
