"""The programs that the chart is tested with: helm and kubeconform, found in the cache or built there.

The module in `tools/` names and pins them; `go_programs` builds. Both take about two minutes once.

    cd tests && PYTHONPATH=. python -m chart.tools [NAME…]     builds what is missing, prints the paths
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from go_programs import GoModule, ProgramsMissing

MODULE = Path(__file__).resolve().parent / "tools"
PACKAGES = {
    "helm": "helm.sh/helm/v4/cmd/helm",
    "kubeconform": "github.com/yannh/kubeconform/cmd/kubeconform",
}
"""Program → the Go package that makes it."""


def helm() -> Path:
    """The path of helm, built first where it is missing. Raises ProgramsMissing."""
    return _module().programs("helm")["helm"]


def kubeconform() -> Path:
    """The path of kubeconform, built first where it is missing. Raises ProgramsMissing."""
    return _module().programs("kubeconform")["kubeconform"]


def _module() -> GoModule:
    version = GoModule(MODULE, PACKAGES, cache_name="chart").required("helm.sh/helm/v4")
    return GoModule(
        MODULE,
        PACKAGES,
        cache_name="chart",
        stamps={"helm.sh/helm/v4/internal/version.version": version, "main.version": "development"},
    )


def main(names: Sequence[str] = tuple(sys.argv[1:])) -> int:
    """Build what is missing and print where it is."""
    try:
        print(*_module().programs(*names).values(), sep="\n")
    except ProgramsMissing as error:
        print(f"chart: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
