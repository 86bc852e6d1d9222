"""The benchmark: the sidecar and its peers side by side, on this machine, in turn. `python -m bench --help`."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# The compiled programs are built by the module that the tests use.
sys.path.insert(0, str(ROOT / "tests"))
