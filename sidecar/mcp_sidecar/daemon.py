"""The sidecar as a process: event loop, signals, orphans, what it must not leave behind.

SIGTERM and SIGINT end it in good order, a second one at once; SIGHUP reads the config again. What starts and ends is
`app`'s business.
"""

from __future__ import annotations

import asyncio
import os
import resource
import signal
from typing import Final

from mcp_sidecar.app import Sidecar
from mcp_sidecar.config import LoadedConfig
from mcp_sidecar.errors import ConfigError
from mcp_sidecar.reaper import Reaper, become_subreaper, end_all_children
from mcp_sidecar.telemetry.lines import LineWriter
from mcp_sidecar.telemetry.log import Level, Log, bridge, open_log

PR_SET_DUMPABLE: Final = 4
_M_MMAP_THRESHOLD: Final = -3
_LARGE_BLOCK: Final = 256 * 1024


def run(loaded: LoadedConfig) -> int:
    """Run until SIGTERM or SIGINT. Returns the exit status: 0, 1 where a port cannot be had or a second signal came."""
    import uvloop

    keep_memory_private()
    return_large_blocks()
    log, writer = open_log(level=Level[loaded.config.log.level.upper()])
    undo = bridge(log)
    try:
        uvloop.run(_main(loaded, log, writer))
    except asyncio.CancelledError:
        return 1
    except OSError as error:
        log.error("cannot serve", error=error.strerror or str(error))
        return 1
    finally:
        end_all_children()
        undo()
        writer.close()
    return 0


def keep_memory_private() -> None:
    """No core dumps, and no reading of our memory by other processes of the same user: it holds secrets.

    The limit is inherited by the servers' processes, whose environment holds some too.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, hard))
    import ctypes  # costs a megabyte: only who needs it

    try:
        ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
    except (AttributeError, OSError):
        return  # not Linux


def return_large_blocks() -> None:
    """Give the memory of large messages back to the system when they are gone.

    The C library raises its threshold with every large block that is freed, and keeps the next ones: after 100 messages
    of 4 MiB at once the process would stay at 800 MiB.
    """
    import ctypes

    try:
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE_BLOCK)
    except (AttributeError, OSError):
        return  # another C library


async def _main(loaded: LoadedConfig, log: Log, writer: LineWriter) -> None:
    loop = asyncio.get_running_loop()
    whole = asyncio.current_task()
    assert whole is not None
    ended = asyncio.Event()

    def end() -> None:
        if ended.is_set():
            log.warning("second signal: ending at once")
            whole.cancel()
        ended.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end)
    sidecar = Sidecar(loaded, log, writer)

    async def reload() -> None:
        try:
            await sidecar.reload()
        except ConfigError:
            return  # told in the log, in /status and by a metric

    loop.add_signal_handler(signal.SIGHUP, lambda: sidecar.tasks(reload(), "reload"))
    if os.getpid() != 1:
        become_subreaper()
    reaper = Reaper()
    reaper.start()
    try:
        await sidecar.start()
        await ended.wait()
    finally:
        try:
            await sidecar.stop()
        finally:
            reaper.stop()
            sidecar.close_writers()
