"""Draws the dashboards to PNG: their own JSON, and what a real Prometheus answers after some minutes of a real fleet.

    make dashboards-preview ARGS="--minutes 4 --out docs/images"

The fleet: the operator on a control plane of its own, sidecars as `pod_agent` runs them (root), callers, and faults one
after the other. Drawn by Debian's chromium from the page in dashboards/preview, with uPlot from npm. Not Grafana.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import shutil
import struct
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cluster.control_plane import ControlPlane
from cluster.crds import install_crds
from cluster.dashboard_scene_in_cluster import SceneInCluster
from cluster.operator_process import OperatorProcess, install
from cluster.pod_agent import PodAgent
from conformance.fetched import entry, node, run
from dashboard_files import NAMES, dashboard, filled, panels
from prometheus_process import Prometheus, Target

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "dashboards" / "preview"
JOB, NAMESPACE = "outrigger", "outrigger-system"
CHOSEN: dict[str, dict[str, str]] = {"operator": {"job": JOB}, "server": {"namespace": "shop"}, "fleet": {}}
POINTS = 200
COLOURS = "96"
MOST_BYTES = 400_000
Result = list[dict[str, Any]]


def story(scene: SceneInCluster, seconds: float) -> None:
    """What goes wrong meanwhile, each at its share of the time."""
    ended = threading.Event()
    began = time.monotonic()

    def fail(share: float) -> None:
        scene.orders_fail = share

    def slow(duration: float) -> None:
        scene.orders_take = duration

    plot: list[tuple[float, Callable[[], Any]]] = [
        (0.18, lambda: fail(0.15)),
        (0.27, lambda: fail(1.0)),
        (0.36, lambda: fail(0.0)),
        (0.44, scene.prattle),
        (0.45, scene.crash),
        (0.52, scene.rotate_secret),
        (0.55, scene.reconfigure),
        (0.60, lambda: slow(0.2)),
        (0.63, scene.burst),
        (0.70, scene.burst),
        (0.76, lambda: slow(0.03)),
        (0.80, scene.crash),
        (0.84, scene.prattle),
        (0.88, lambda: fail(1.0)),
    ]
    for share, happens in plot:
        ended.wait(max(0.0, began + share * seconds - time.monotonic()))
        happens()
    ended.wait(max(0.0, began + seconds - time.monotonic()))


def answers(prometheus: Prometheus, name: str, start: float, end: float) -> dict[str, Any]:
    """What the page needs: the dashboard, the moments, and the answers by panel and query."""
    made = dashboard(name)
    step = max(1, math.ceil((end - start) / POINTS))
    first = math.ceil(start)
    times = list(range(first, int(end) + 1, step))
    results: dict[int, dict[str, Result]] = {}
    for panel in panels(made):
        for target in panel["targets"]:
            query = filled(target["expr"], made, interval="10s", span=f"{int(end - start)}s", **CHOSEN[name])
            if target.get("instant"):
                found = prometheus.api("query", query=query, time=str(times[-1]))
            else:
                found = prometheus.api("query_range", query=query, start=str(first), end=str(times[-1]), step=str(step))
            results.setdefault(panel["id"], {})[target["refId"]] = found["result"]
    chosen = {"datasource": "prometheus", **CHOSEN[name]}
    return {"dashboard": made, "results": results, "times": times, "chosen": chosen}


def draw(data: dict[str, Any], out: Path) -> None:
    """The page as a PNG. Raises AssertionError where chromium draws nothing, or not all of it."""
    bottom = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in data["dashboard"]["panels"])
    height = 48 + 8 + bottom * 38 + 30
    with tempfile.TemporaryDirectory(prefix="outrigger-preview-") as directory:
        picture = Path(directory) / "picture.png"
        page = browse(data, Path(directory), f"--window-size=1600,{height}", f"--screenshot={picture}", "--dump-dom")
        assert "<title>drawn</title>" in page, "the page was not drawn to its end: a script of it failed"
        width, drawn = struct.unpack(">II", picture.read_bytes()[16:24])
        assert (width, drawn) == (1600, height), (width, drawn, height)
        out.parent.mkdir(parents=True, exist_ok=True)
        environment = {"NODE_PATH": str(packages())}
        run(str(node()), str(PAGE / "shrink.js"), str(picture), str(out), COLOURS, env=environment)


def browse(data: dict[str, Any], folder: Path, *arguments: str) -> str:
    """Open the page in a browser; what that printed. Raises AssertionError where it fails."""
    for file in (*PAGE.glob("*.*"), *(packages() / "uplot" / "dist").glob("uPlot.*min.*")):
        shutil.copy(file, folder)
    (folder / "data.js").write_text(f"const PREVIEW = {json.dumps(data)};\n", encoding="utf-8")
    flags = (
        *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
        *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
        *("--force-device-scale-factor=1", "--allow-file-access-from-files", "--virtual-time-budget=10000"),
    )
    command = ["chromium", *flags, f"--user-data-dir={folder / 'profile'}", *arguments, (folder / "page.html").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def packages() -> Path:
    """The npm packages of the lock file beside the page."""
    lock = (PAGE / "package-lock.json").read_bytes()

    def make(directory: Path) -> None:
        for name in ("package.json", "package-lock.json"):
            shutil.copy(PAGE / name, directory)
        npm = str(node().parent / "npm")
        run(npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", cwd=directory)

    return entry(f"preview-{hashlib.sha256(lock).hexdigest()[:12]}", make) / "node_modules"


def measure(seconds: float, directory: Path) -> dict[str, dict[str, Any]]:
    """Run the fleet for so long: dashboard → what the page needs."""
    with ControlPlane() as cluster, PodAgent(cluster, refresh=1.0) as agent:
        install_crds(cluster.api)
        operator = OperatorProcess(install(cluster, NAMESPACE), directory, namespace=NAMESPACE).start()
        operator.wait_until_leading()
        try:
            with SceneInCluster(directory, cluster.api, agent) as scene:
                replica = Target(
                    f"127.0.0.1:{operator.port}", {"namespace": NAMESPACE, "pod": "outrigger-6b7d9c5f-x2k4p"}
                )
                with Prometheus({JOB: [replica], "sidecars": scene.scraped()}, interval="1s") as prometheus:
                    prometheus.wait_until_scraped()
                    start = prometheus.now()
                    story(scene, seconds)
                    return {name: answers(prometheus, name, start, prometheus.now()) for name in NAMES}
        finally:
            operator.stop()


def main(arguments: Sequence[str] | None = None) -> None:
    """See the module. `arguments`: those of the command line where none are given."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--minutes", type=float, default=4.0, help="how long the fleet runs")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "images")
    parser.add_argument("--data", type=Path, help="keep what was measured here; draw it again where it is there")
    options = parser.parse_args(arguments)
    if options.data is not None and options.data.is_file():
        measured = json.loads(options.data.read_text())
    else:
        with tempfile.TemporaryDirectory(prefix="outrigger-preview-") as directory:
            measured = measure(options.minutes * 60, Path(directory))
        if options.data is not None:
            options.data.write_text(json.dumps(measured))
    for name, data in measured.items():
        out = options.out / f"dashboard-{name}.png"
        draw(data, out)
        size = out.stat().st_size
        print(f"{out.name}: {size / 1000:.0f} kB")
        assert size < MOST_BYTES, f"{out.name} is larger than {MOST_BYTES} bytes"


if __name__ == "__main__":
    main()
