"""The tests of the bridge's own language, with its race detector where there is a C compiler to link it."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

from images.bridge import SOURCES, environment, go, native

COMPILER = shutil.which("gcc") or shutil.which("clang")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_go() -> None:
    command = [go(), "test", "-count=1", "-timeout=300s"]
    variables = environment(native())
    if COMPILER is not None:
        command.append("-race")
        variables |= {"CGO_ENABLED": "1", "CC": COMPILER}
    variables["PATH"] = os.pathsep.join((os.path.dirname(go()), variables["PATH"]))
    done = subprocess.run([*command, "./..."], cwd=SOURCES, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
