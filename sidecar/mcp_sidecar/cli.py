"""The command line `outrigger-sidecar`: parses arguments and says what went wrong. The work is done elsewhere.

Everything is imported when its command runs: `--help` must be quick, and the running sidecar must not carry the client.
Exit codes: 0 done, 1 it failed, 2 the input was bad.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NoReturn

from mcp_sidecar import __version__
from mcp_sidecar.errors import ConfigError, OutriggerError, SecretError

if TYPE_CHECKING:
    pass

PROGRAM = "outrigger-sidecar"

_OVERRIDES = {
    "host": "OUTRIGGER__FRONT__HOST",
    "port": "OUTRIGGER__FRONT__PORT",
    "admin_host": "OUTRIGGER__FRONT__ADMIN_HOST",
    "admin_port": "OUTRIGGER__FRONT__ADMIN_PORT",
    "log_level": "OUTRIGGER__LOG__LEVEL",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code."""
    arguments = _parser().parse_args(argv)
    command: Callable[[argparse.Namespace], int] = arguments.command
    try:
        return command(arguments)
    except ConfigError as error:
        return _config_failed(error)
    except SecretError as error:
        return fail(str(error))
    except OutriggerError as error:
        return fail(str(error), code=1)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", "mcp_sidecar"):
            raise
        extra = "client" if package in ("mcp", "httpx2") else "sidecar"
        return fail(f"the package {package} is not installed: pip install 'outrigger-mcp[{extra}]'", code=1)
    except BrokenPipeError:
        sys.stdout = None  # who reads has left; nothing is to be flushed at exit
        return 1
    except KeyboardInterrupt:
        return 130


def fail(message: str, code: int = 2) -> int:
    """Say what went wrong, on stderr; the exit code."""
    print(f"{PROGRAM}: {message}", file=sys.stderr)
    return code


def _config_failed(error: ConfigError) -> int:
    where = f"{error.source}: " if error.source else ""
    if len(error.problems) == 1 and not error.problems[0].path:
        return fail(f"{where}{error.problems[0].message}")
    count = len(error.problems)
    fail(f"{where}{count} problem{'s'[: count > 1]}")
    for problem in error.problems:
        print(f"  {problem.path}: {problem.message}" if problem.path else f"  {problem.message}", file=sys.stderr)
    return 2


def _environ(arguments: argparse.Namespace) -> dict[str, str]:
    """The environment with the flags that stand for single settings."""
    environ = dict(os.environ)
    for name, variable in _OVERRIDES.items():
        if getattr(arguments, name, None) is not None:
            environ[variable] = str(getattr(arguments, name))
    return environ


def _run(arguments: argparse.Namespace) -> int:
    from mcp_sidecar.config.apart import load_apart

    loaded = load_apart(arguments.config, environ=_environ(arguments))
    from mcp_sidecar.daemon import run

    return run(loaded)


def _check(arguments: argparse.Namespace) -> int:
    from mcp_sidecar.cli_check import check
    from mcp_sidecar.config import load
    from mcp_sidecar.secrets import server_tokens

    environ = _environ(arguments)
    loaded = load(arguments.config, environ=environ)
    server_tokens(loaded.config, environ)  # what `run` would refuse, `check` must tell
    return check(loaded, values=arguments.values)


def _schema(arguments: argparse.Namespace) -> int:
    import json

    from mcp_sidecar.config import schema

    print(json.dumps(schema(), indent=2))
    return 0


def _status(arguments: argparse.Namespace) -> int:
    from mcp_sidecar.cli_status import status

    return status(arguments.url, as_json=arguments.json, everything=arguments.all)


def _tools(arguments: argparse.Namespace) -> int:
    from mcp_sidecar.cli_client import Connection, tools

    return tools(Connection.of(arguments), as_json=arguments.json)


def _call(arguments: argparse.Namespace) -> int:
    from mcp_sidecar.cli_client import Connection, call

    return call(Connection.of(arguments), arguments.tool, arguments.arguments, as_json=arguments.json)


def _seal(arguments: argparse.Namespace) -> int:
    from mcp_sidecar.cli_values import seal

    return seal(arguments.name, arguments.key_file)


def _unseal(arguments: argparse.Namespace) -> int:
    from mcp_sidecar.cli_values import unseal

    return unseal(arguments.name, arguments.key_file)


def _rotate(arguments: argparse.Namespace) -> int:
    from mcp_sidecar.cli_values import rotate

    return rotate(arguments.key_file)


def _keygen(arguments: argparse.Namespace) -> int:
    from mcp_sidecar.cli_values import keygen

    return keygen(arguments.file)


class _Parser(argparse.ArgumentParser):
    """Says how to get help instead of printing all of the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\nTry '{self.prog} --help'.\n")


def _parser() -> argparse.ArgumentParser:
    from mcp_sidecar.cli_help import EPILOGS, MAIN_EPILOG

    parser = _Parser(
        prog=PROGRAM,
        description="A pooled, resilient MCP endpoint in front of any MCP server.",
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

    def add_config(command: argparse.ArgumentParser) -> None:
        command.add_argument(
            "--config",
            metavar="FILE",
            help="the config; else $MCP_CONFIG_JSON, the file at $MCP_CONFIG_PATH, ~/.mcp/config.json",
        )

    def add_connection(command: argparse.ArgumentParser) -> None:
        command.add_argument("url", metavar="URL", help="the MCP endpoint, such as http://127.0.0.1:8080/mcp")

    def add_client_options(command: argparse.ArgumentParser) -> None:
        command.add_argument(
            "--header",
            metavar="'NAME: VALUE'",
            action="append",
            default=[],
            help="send this header; ${VAR} in it is taken from the environment; may be repeated",
        )
        era = command.add_mutually_exclusive_group()
        era.add_argument("--legacy", action="store_true", help="begin with initialize, as clients before 2026-07-28 do")
        era.add_argument("--modern", action="store_true", help="speak 2026-07-28 without asking first")
        command.add_argument(
            "--timeout", metavar="SECONDS", type=_seconds, default=300.0, help="give up after this (300)"
        )
        command.add_argument("--json", action="store_true", help="print the result as JSON")

    def add_key_file(command: argparse.ArgumentParser) -> None:
        command.add_argument(
            "--key-file",
            metavar="FILE",
            help="file with keys, one a line; after $MCP_ENCRYPTION_KEY and the file at $MCP_ENCRYPTION_KEY_FILE",
        )

    run = add("run", _run, "run the sidecar")
    add_config(run)
    run.add_argument("--host", metavar="HOST", help="address of the MCP port (front.host)")
    run.add_argument("--port", metavar="PORT", type=int, help="the MCP port, 0 for a free one (front.port)")
    run.add_argument("--admin-host", metavar="HOST", help="address of the admin port (front.adminHost)")
    run.add_argument(
        "--admin-port", metavar="PORT", type=int, help="the admin port, 0 for a free one (front.adminPort)"
    )
    run.add_argument("--log-level", metavar="LEVEL", help="Debug, Info, Warning or Error (log.level)")

    check = add("check", _check, "check a config and say everything that is wrong with it")
    add_config(check)
    check.add_argument("--values", action="store_true", help="also read the values: variables, files, sealed values")

    add("schema", _schema, "print the JSON Schema of the config")

    tools = add("tools", _tools, "list the tools of an MCP endpoint")
    add_connection(tools)
    add_client_options(tools)

    call = add("call", _call, "call a tool of an MCP endpoint")
    add_connection(call)
    call.add_argument("tool", metavar="TOOL", help="the tool's name")
    call.add_argument(
        "arguments", metavar="JSON", nargs="?", default="{}", help="its arguments, a JSON object; - reads stdin ({})"
    )
    add_client_options(call)

    status = add("status", _status, "show what a running sidecar knows of its servers")
    status.add_argument(
        "url", metavar="URL", nargs="?", default="http://127.0.0.1:9090", help="its admin port (http://127.0.0.1:9090)"
    )
    status.add_argument("--all", action="store_true", help="print everything it says")
    status.add_argument("--json", action="store_true", help="print /status as it is")

    seal = add("seal", _seal, "seal a value, read from stdin, for one server")
    unseal = add("unseal", _unseal, "open a sealed value, read from stdin")
    for command in (seal, unseal):
        command.add_argument("--for", dest="name", metavar="SERVER", required=True, help="the server it is sealed for")
        add_key_file(command)
    rotate = add("rotate", _rotate, "seal every sealed value in a text anew with the first key")
    add_key_file(rotate)
    keygen = add("keygen", _keygen, "make a key")
    keygen.add_argument(
        "--file", metavar="FILE", help="put it into this file, before the keys that are there, and print nothing"
    )
    return parser


def _seconds(text: str) -> float:
    from mcp_sidecar.config.scalars import parse_duration

    try:
        seconds = float(parse_duration(text) if not text.replace(".", "", 1).isdigit() else text)
    except ValueError:
        raise argparse.ArgumentTypeError("must be seconds, or a duration such as 30s") from None
    if not 0 < seconds < 86_400:
        raise argparse.ArgumentTypeError("must be above 0 and below a day")
    return seconds


if __name__ == "__main__":
    sys.exit(main())
