"""The command line `outrigger`: parses arguments and says what went wrong. The work is done elsewhere.

Everything is imported when its command runs: `--help` must be quick, and `render` needs neither kopf nor a cluster.
Exit codes: 0 done, 1 it failed, 2 the input was bad.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from mcp_operator import __version__
from mcp_operator.errors import OperatorError, SettingsError
from mcp_sidecar.config import ConfigError

PROGRAM = "outrigger"

_FLAGS = {
    "kubeconfig": ("kubeconfig",),
    "context": ("context",),
    "namespace": ("namespace",),
    "watch_namespaces": ("watchNamespaces",),
    "admin_host": ("admin", "host"),
    "admin_port": ("admin", "port"),
    "log_level": ("log", "level"),
    "log_format": ("log", "format"),
}
"""The flags of `run` and the settings they stand for."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code."""
    arguments = _parser().parse_args(argv)
    command: Callable[[argparse.Namespace], int] = arguments.command
    try:
        return command(arguments)
    except ConfigError as error:
        return _problems(error)
    except SettingsError as error:
        return fail(str(error))
    except OperatorError as error:
        return fail(str(error), code=1)
    except BrokenPipeError:
        sys.stdout = None  # who reads has left; nothing is to be flushed at exit
        return 1
    except KeyboardInterrupt:
        return 130
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", "mcp_operator", "mcp_sidecar"):
            raise
        return fail(f"the package {package} is not installed: pip install 'outrigger-mcp[operator]'", code=1)


def fail(message: str, code: int = 2) -> int:
    """Say what went wrong, on stderr; the exit code."""
    print(f"{PROGRAM}: {message}", file=sys.stderr)
    return code


def _problems(error: ConfigError) -> int:
    where = f"{error.source}: " if error.source else ""
    if len(error.problems) == 1:
        path, message = error.problems[0]
        return fail(f"{where}{path}: {message}" if path else f"{where}{message}")
    fail(f"{where}{len(error.problems)} problems")
    for path, message in error.problems:
        print(f"  {path}: {message}" if path else f"  {message}", file=sys.stderr)
    return 2


# The commands


def _run(arguments: argparse.Namespace) -> int:
    import uvloop

    from mcp_operator.config_loading import load

    given = {path: getattr(arguments, name) for name, path in _FLAGS.items()}
    config = load(arguments.config, flags={path: value for path, value in given.items() if value is not None})
    from mcp_operator.runtime import run

    return uvloop.run(run(config)) or 0


def _render(arguments: argparse.Namespace) -> int:
    from mcp_operator.cli_render import render
    from mcp_operator.config_loading import load

    return render(
        arguments.file,
        namespace=arguments.namespace,
        output=arguments.output,
        session_keys=arguments.session_keys,
        config=load(arguments.config),
    )


def _up(arguments: argparse.Namespace) -> int:
    from mcp_operator.cli_up import up

    return up(
        arguments.file,
        namespace=arguments.namespace,
        port=arguments.port,
        stand_ins=dict(arguments.server),
        without_images=arguments.without_images,
        verbose=arguments.verbose,
    )


def _crds(arguments: argparse.Namespace) -> int:
    from mcp_operator.cli_render import crds

    return crds(arguments.output)


def _rbac(arguments: argparse.Namespace) -> int:
    from mcp_operator.cli_render import rbac

    return rbac(
        arguments.output,
        namespaces=arguments.namespaces,
        operator_namespace=arguments.operator_namespace,
        service_account=arguments.service_account,
    )


def _status(arguments: argparse.Namespace) -> int:
    from mcp_operator.cli_status import status

    return status(
        kubeconfig=arguments.kubeconfig,
        context=arguments.context,
        namespace=None if arguments.all_namespaces else arguments.namespace,
        output=arguments.output,
        check=arguments.check,
    )


def _version(arguments: argparse.Namespace) -> int:
    print(f"{PROGRAM} {__version__}")
    return 0


# The arguments


class _Parser(argparse.ArgumentParser):
    """Says how to get help instead of printing all of the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\nTry '{self.prog} --help'.\n")


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _stand_in(text: str) -> tuple[str, str]:
    name, _, url = text.partition("=")
    if not name or not url.startswith(("http://", "https://")):
        raise argparse.ArgumentTypeError("must be NAME=URL, such as notes=http://127.0.0.1:8000/mcp")
    return name, url


def _parser() -> argparse.ArgumentParser:
    from mcp_operator.cli_help import EPILOGS, MAIN_EPILOG

    parser = _Parser(
        prog=PROGRAM,
        description="Runs MCP servers: on Kubernetes from MCPServer objects, or on this machine from the same files.",
        epilog=MAIN_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def add(name: str, command: Callable[[argparse.Namespace], int], summary: str) -> argparse.ArgumentParser:
        added = commands.add_parser(
            name,
            help=summary,
            description=summary[0].upper() + summary[1:] + ".",
            epilog=EPILOGS[name],
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        added.set_defaults(command=command)
        return added

    def add_files(command: argparse.ArgumentParser) -> None:
        command.add_argument(
            "-f",
            "--file",
            metavar="FILE",
            action="append",
            required=True,
            help="a file or folder of MCPServers, Secrets and ConfigMaps (YAML or JSON), - for stdin; may be repeated",
        )
        command.add_argument(
            "-n", "--namespace", metavar="NS", default="default", help="namespace of objects that name none (default)"
        )

    def add_output(command: argparse.ArgumentParser, choices: Sequence[str], default: str) -> None:
        command.add_argument("-o", "--output", choices=choices, default=default, help=f"how it is written ({default})")

    def add_cluster(command: argparse.ArgumentParser) -> None:
        command.add_argument(
            "--kubeconfig", metavar="FILE", help="in place of the pod's account, $KUBECONFIG or ~/.kube/config"
        )
        command.add_argument("--context", metavar="NAME", help="a context of the kubeconfig")

    def add_config(command: argparse.ArgumentParser) -> None:
        command.add_argument(
            "--config", metavar="FILE", help="the operator's settings, YAML or JSON; else $OUTRIGGER_OPERATOR_CONFIG"
        )

    up = add("up", _up, "run MCPServers on this machine, without a cluster")
    add_files(up)
    up.add_argument(
        "--port", metavar="PORT", type=_port, default=None, help="port of the first server, the others follow (8080)"
    )
    up.add_argument(
        "--server",
        metavar="NAME=URL",
        type=_stand_in,
        action="append",
        default=[],
        help="a server that you run yourself, in place of the container of this MCPServer; may be repeated",
    )
    up.add_argument(
        "--without-images", action="store_true", help="run the command of stdio servers with an image on this machine"
    )
    up.add_argument("-v", "--verbose", action="store_true", help="show the sidecars' logs and audit lines")

    render = add("render", _render, "print the manifests that MCPServers become")
    add_files(render)
    add_output(render, ("yaml", "json"), "yaml")
    add_config(render)
    render.add_argument(
        "--session-keys",
        choices=("placeholder", "random"),
        default="placeholder",
        help="what stands in the session key Secrets (placeholder)",
    )

    run = add("run", _run, "run the operator")
    add_cluster(run)
    run.add_argument("-n", "--namespace", metavar="NS", help="the operator's own namespace (namespace)")
    run.add_argument(
        "--watch-namespaces",
        metavar="NS,NS",
        type=_names,
        help="work for MCPServers in these only; all by default (watchNamespaces)",
    )
    add_config(run)
    run.add_argument("--admin-host", metavar="HOST", help="address of the admin port (admin.host)")
    run.add_argument("--admin-port", metavar="PORT", type=int, help="the admin port, 0 for a free one (admin.port)")
    run.add_argument("--log-level", metavar="LEVEL", help="Debug, Info, Warning or Error (log.level)")
    run.add_argument("--log-format", metavar="FORMAT", help="Json or Text (log.format)")

    status = add("status", _status, "show the MCPServers of a cluster and what is wrong with them")
    add_cluster(status)
    where = status.add_mutually_exclusive_group()
    where.add_argument("-n", "--namespace", metavar="NS", default="", help="this namespace; else the context's")
    where.add_argument("-A", "--all-namespaces", action="store_true", help="all namespaces")
    add_output(status, ("table", "wide", "json"), "table")
    status.add_argument("--check", action="store_true", help="exit with 1 unless every MCPServer is ready")

    crds = add("crds", _crds, "print the custom resource definitions")
    add_output(crds, ("yaml", "json"), "yaml")

    rbac = add("rbac", _rbac, "print a service account with exactly the rights that the operator needs")
    rbac.add_argument(
        "--namespaces",
        metavar="NS,NS",
        type=_names,
        default=[],
        help="rights in these only (watchNamespaces); else all",
    )
    rbac.add_argument("--operator-namespace", metavar="NS", default="outrigger-system", help="(outrigger-system)")
    rbac.add_argument("--service-account", metavar="SA", default="outrigger-operator", help="(outrigger-operator)")
    add_output(rbac, ("yaml", "json"), "yaml")

    add("version", _version, "print the version")
    return parser


def _port(text: str) -> Any:
    if not text.isdigit() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError("must be a port from 1 to 65535")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
