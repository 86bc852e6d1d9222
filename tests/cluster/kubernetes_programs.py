"""The programs of a real Kubernetes, found in the cache or built there from the Go module registry.

The module in `kubernetes/` names and pins them; `go_programs` builds. A first build of all of them takes 5 to 10
minutes on two cores, a later run nothing.

    python tests/cluster/kubernetes_programs.py [NAME… | --all]     builds what is missing, prints the directory
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from go_programs import GoModule, ProgramsMissing

__all__ = ["CONTROL_PLANE", "PACKAGES", "ProgramsMissing", "directory", "main", "programs", "version"]

MODULE = Path(__file__).resolve().parent / "kubernetes"
PACKAGES = {
    "etcd": "go.etcd.io/etcd/server/v3",
    "kube-apiserver": "k8s.io/kubernetes/cmd/kube-apiserver",
    "kubectl": "k8s.io/kubernetes/cmd/kubectl",
    "kube-controller-manager": "k8s.io/kubernetes/cmd/kube-controller-manager",
    "kube-scheduler": "k8s.io/kubernetes/cmd/kube-scheduler",
    "kubelet": "k8s.io/kubernetes/cmd/kubelet",
    "kube-proxy": "k8s.io/kubernetes/cmd/kube-proxy",
}
"""Program → the Go package that makes it."""
CONTROL_PLANE = ("etcd", "kube-apiserver", "kubectl", "kube-controller-manager")


def version() -> str:
    """The version of Kubernetes, such as `v1.36.3`."""
    return GoModule(MODULE, PACKAGES, cache_name="kubernetes").required("k8s.io/kubernetes")


def directory() -> Path:
    """Where the programs of this version are, or will be."""
    return _module().directory()


def programs(*names: str) -> dict[str, Path]:
    """The paths of the programs named (all of the control plane by default), built first where they are missing.

    Another process that builds them is waited for. Raises ProgramsMissing.
    """
    return _module().programs(*(names or CONTROL_PLANE))


def _module() -> GoModule:
    stamped = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
    stamps = {f"{package}.gitVersion": version() for package in stamped}
    return GoModule(MODULE, PACKAGES, cache_name="kubernetes", version=version(), stamps=stamps)


def main(arguments: Sequence[str] | None = None) -> int:
    """Build what is missing and print where it is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(PACKAGES)}; by default the control plane")
    parser.add_argument("--all", action="store_true", help="those of nodes too")
    asked = parser.parse_args(arguments)
    names = list(PACKAGES) if asked.all else asked.names
    if unknown := set(names) - PACKAGES.keys():
        parser.error(f"no such program: {', '.join(sorted(unknown))}")
    try:
        programs(*names)
    except ProgramsMissing as error:
        print(f"kubernetes: {error}", file=sys.stderr)
        return 1
    print(directory())
    return 0


if __name__ == "__main__":
    sys.exit(main())
