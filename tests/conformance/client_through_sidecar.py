"""Runs a client against a sidecar in front of the URL it is given: `client_through_sidecar.py CLIENT URL`.

The suite's client scenarios start a mock server and call a client with its URL. With this between the two, every
message of the client passes the sidecar on its way. The exit code is the client's; 97 where the sidecar failed.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from sidecar_process import SidecarFailed, SidecarProcess


def main(client: str, url: str) -> int:
    """Start the sidecar, run the client, stop the sidecar."""
    try:
        with SidecarProcess({"servers": {"mock": {"url": url}}}) as sidecar:
            done = subprocess.run([sys.executable, client, sidecar.url()], timeout=60, stdin=subprocess.DEVNULL)
            if os.environ.get("OUTRIGGER_CONFORMANCE_LOG"):
                Path(os.environ["OUTRIGGER_CONFORMANCE_LOG"]).write_bytes(b"\n".join(sidecar.stderr))
    except (SidecarFailed, subprocess.TimeoutExpired) as error:
        print(error, file=sys.stderr)
        return 97
    return done.returncode


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1], sys.argv[2]))
