"""Writes the files that are derived from the code, or checks that they are up to date (``--check``).

Each entry of ``GENERATED`` is a path in the repository and the function that makes its text. Such a file is
committed, so that a reader needs no tool to see it and a review shows what a change does to it; ``make lint`` fails
while one is stale.
"""

import argparse
import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT))  # `dashboards` is no installed package


def config_schema() -> str:
    """The JSON Schema of the sidecar's configuration, for editors."""
    from mcp_sidecar.config.json_schema import schema

    return json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"


def config_reference() -> str:
    """Every setting of the sidecar, for people."""
    from mcp_sidecar.config.reference import reference

    return reference()


def operator_config_reference() -> str:
    """Every setting of the operator, for people."""
    from mcp_operator.config_reference import reference

    return reference()


def crd() -> str:
    """The CustomResourceDefinition of the MCPServer."""
    from mcp_operator.api.crd import crd_text

    return crd_text()


def mcpserver_reference() -> str:
    """Every field of the MCPServer, for people."""
    from mcp_operator.api.reference import reference

    return reference()


def conditions() -> str:
    """Every condition of an MCPServer and its reasons, for people."""
    from conditions_page import conditions_page

    return conditions_page()


def errors() -> str:
    """Every error of the sidecar's own, for callers and for whoever is on call."""
    from errors_page import errors_page

    return errors_page()


def chart() -> dict[str, Callable[[], str]]:
    """The files of the Helm chart that are not written by hand: path and what makes it."""
    from chart_files import FILES

    return dict(FILES)


def dashboard(name: str) -> str:
    """One of Grafana's dashboards, as the chart carries it."""
    import dashboards.board
    import dashboards.fleet
    import dashboards.operator
    import dashboards.server

    made = {
        "fleet": dashboards.fleet.fleet,
        "operator": dashboards.operator.operator,
        "server": dashboards.server.server,
    }
    return dashboards.board.text(made[name]())


def rules(name: str) -> str:
    """Recording or alerting rules, as the chart carries them."""
    import dashboards.operator_alerts
    import dashboards.recording
    import dashboards.rules
    import dashboards.server_alerts

    made = {
        "operator": ("operator_alerts.py", dashboards.operator_alerts.GROUPS),
        "recording": ("recording.py", dashboards.recording.GROUPS),
        "servers": ("server_alerts.py", dashboards.server_alerts.GROUPS),
    }
    return dashboards.rules.text(*made[name])


GENERATED: dict[str, Callable[[], str]] = {
    **{
        f"charts/outrigger/files/dashboards/{name}.json": functools.partial(dashboard, name)
        for name in ("fleet", "operator", "server")
    },
    **{
        f"charts/outrigger/files/rules/{name}.yaml": functools.partial(rules, name)
        for name in ("operator", "recording", "servers")
    },
    "crds/outrigger.dev_mcpservers.yaml": crd,
    "docs/conditions.md": conditions,
    "docs/config.schema.json": config_schema,
    "docs/configuration.md": config_reference,
    "docs/errors.md": errors,
    "docs/mcpserver.md": mcpserver_reference,
    "docs/operator-configuration.md": operator_config_reference,
    **chart(),
}


def main() -> int:
    """Write every generated file, or with ``--check`` name the stale ones and return 1."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where a file is stale")
    check = parser.parse_args().check
    stale = 0
    for name, make in GENERATED.items():
        path = ROOT / name
        text = make()
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            continue
        if check:
            print(f"{name} is stale: run 'make generate'", file=sys.stderr)
            stale += 1
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            print(f"wrote {name}")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
