"""The pages for contributors say what is there: every requirement has its row, every test and module named exists."""

from __future__ import annotations

import ast
import importlib.util
import re
import tomllib
from functools import cache
from pathlib import Path
from types import ModuleType

from mcp_sidecar.errors import Reason
from mcp_sidecar.front.refusal import Fault

ROOT = Path(__file__).resolve().parents[2]
SIDECAR = ROOT / "sidecar" / "mcp_sidecar"
OPERATOR = ROOT / "operator" / "mcp_operator"
REQUIREMENTS = ROOT / "docs" / "requirements.md"
ARCHITECTURE = ROOT / "docs" / "architecture.md"
SEED = "test_seed_requirements"


@cache
def known_tests() -> dict[str, frozenset[str]]:
    """Module -> what can be run in it: test functions, and classes that hold tests."""
    found = {}
    for path in (ROOT / "tests").rglob("test_*.py"):
        names = set()
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                names.add(node.name)
            elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                names.add(node.targets[0].id)
        assert path.stem not in found, f"two test modules are called {path.stem}"
        found[path.stem] = frozenset(names)
    return found


@cache
def rows() -> dict[str, list[str]]:
    """Number (R1, F72, O30, K20) -> the cells of its row."""
    found: dict[str, list[str]] = {}
    for line in REQUIREMENTS.read_text(encoding="utf-8").splitlines():
        if match := re.match(r"\| ([RFOK]\d+) \|", line):
            assert match[1] not in found, f"two rows of {match[1]}"
            found[match[1]] = [cell.strip() for cell in line.strip("|").split(" | ")]
    return found


def named_tests(text: str) -> list[tuple[str, str]]:
    """(module, test or nothing) for each test that a text names."""
    named = []
    for module, test in re.findall(r"`(test_\w+)(?:::(\w+))?`", text):
        named.append((SEED, module) if re.match(r"test_r\d\d_", module) else (module, test))
    return named


def test_every_requirement_and_every_flaw_has_a_row() -> None:
    cells = {"R": (25, 6), "F": (72, 5), "O": (30, 3), "K": (20, 3)}
    wanted = [f"{kind}{n}" for kind, (last, _) in cells.items() for n in range(1, last + 1)]
    assert list(rows()) == wanted
    assert {number: len(row) for number, row in rows().items()} == {n: cells[n[0]][1] for n in wanted}


def test_every_requirement_has_a_test_named_after_it() -> None:
    by_number = {name[5:8]: name for name in known_tests()[SEED] if name.startswith("test_")}
    assert sorted(by_number) == [f"r{n:02}" for n in range(1, 26)]
    for number, row in rows().items():
        if number.startswith("R"):
            assert row[4] == f"`{by_number[f'r{int(number[1:]):02}']}`", number


def test_every_test_that_a_page_names_exists() -> None:
    for page in (REQUIREMENTS, ARCHITECTURE):
        for module, test in named_tests(page.read_text(encoding="utf-8")):
            assert module in known_tests(), f"{page.name}: there is no {module}.py"
            assert not test or test in known_tests()[module], f"{page.name}: there is no {module}::{test}"
    for number, row in rows().items():
        assert named_tests(row[-1]), f"no test for {number}"
    in_go = {
        name
        for path in (ROOT / "bridge").glob("*_test.go")
        for name in re.findall(r"^func (Test\w+)", path.read_text(), re.M)
    }
    assert set(re.findall(r"`bridge::(\w+)`", REQUIREMENTS.read_text(encoding="utf-8"))) <= in_go


def test_every_module_that_a_page_names_exists() -> None:
    for number, row in rows().items():
        if number.startswith("F") and row[3] != "–":
            assert (SIDECAR / row[3].strip("`")).is_file(), f"{number}: there is no {row[3]}"
    named = set(re.findall(r"`([a-z_]+(?:/\w+)*\.py)`", ARCHITECTURE.read_text(encoding="utf-8")))
    assert {name for name in named if not any((root / name).is_file() for root in (SIDECAR, OPERATOR, ROOT))} == set()


def test_the_architecture_knows_every_package() -> None:
    page = ARCHITECTURE.read_text(encoding="utf-8")
    assert page.count("\n") <= 250
    of_sidecar, of_operator = page.split("\n## The operator\n")
    for package, part in ((SIDECAR, of_sidecar), (OPERATOR, of_operator)):
        packages = {path.parent.name for path in package.glob("*/__init__.py")}
        assert {name for name in packages if f"| `{name}/` |" not in part} == set()
        alone = {path.name for path in package.glob("*.py") if path.name != "__init__.py"}
        assert {name for name in alone if f"`{name}`" not in part} == set()


def test_settings_that_the_requirements_name_exist() -> None:
    reference = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    settings = set(re.findall(r"^\| `(\w+)` \|", reference, re.M))
    for number, row in rows().items():
        if number.startswith("R"):
            for name in re.findall(r"`([^`]+)`", row[3]):
                assert {step for step in name.split(".") if step != "*"} - {"front"} <= settings, (number, name)


def script(name: str) -> ModuleType:
    """A module of scripts/."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_of_errors_is_up_to_date() -> None:
    errors_page = script("errors_page")
    page = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    assert page == errors_page.errors_page(), "run make generate"
    assert set(errors_page.MEANINGS) == {reason.label for reason in Reason}
    assert set(errors_page.REFUSALS) == {fault.label for fault in Fault}


def calls_of(path: Path) -> set[str]:
    """The dotted names that a module calls: `time.time`, `loop.time`."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}


def test_no_duration_is_measured_with_the_wall_clock() -> None:
    # It may be injected, for what is shown to people or compared with others' dates; the pipeline has no use for it.
    assert {path.name for path in SIDECAR.rglob("*.py") if "time.time" in calls_of(path)} <= {"process.py"}
    assert {path.name for path in (SIDECAR / "pipeline").glob("*.py") if "time.time" in path.read_text()} == set()


def test_no_test_asserts_about_a_mock() -> None:
    imports = re.compile(r"^\s*(?:from|import) (?:unittest\.mock|unittest import mock|mock\b|pytest_mock)", re.M)
    paths = [*(ROOT / "tests").rglob("*.py"), *SIDECAR.rglob("*.py")]
    assert {path.name for path in paths if imports.search(path.read_text(encoding="utf-8"))} == set()


def test_no_test_is_hidden_from_the_runner() -> None:
    options = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]
    assert options["asyncio_mode"] == "auto"
    assert "--strict-markers" in options["addopts"]
    for path in (ROOT / "tests").rglob("test_*.py"):
        bodies = [ast.parse(path.read_text(encoding="utf-8")).body]
        for body in bodies:
            # of two of one name only the last is run
            names = [node.name for node in body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
            assert len(names) == len(set(names)), path.name
            bodies += [node.body for node in body if isinstance(node, ast.ClassDef)]
