"""The SDK's everything server over HTTP, in an image, at the mercy of a file: to be slow, to refuse, to hang.

`everything_http.py serve [--host H] [--port N]`, and in the same container `everything_http.py fault none` (or
`slow SECONDS`, `status CODE`, `hang`), which holds for every request from then on. Both eras. Ends at once on TERM.
"""

import argparse
import asyncio
import logging
from pathlib import Path

FAULT = Path("/tmp/fault")


def fault(words):
    """Set the fault, in one step: requests read it all the time."""
    partial = FAULT.with_suffix(".partial")
    partial.write_text(" ".join(words))
    partial.replace(FAULT)


def current_fault():
    """(kind, value); the file is small and in memory."""
    kind, _, value = FAULT.read_text().partition(" ") if FAULT.exists() else ("none", "", "")
    return kind, value


def afflicted(app):
    """The application behind what the file says."""

    async def wrapped(scope, receive, send):
        kind, value = current_fault()
        if scope["type"] == "http":
            if kind == "slow":
                await asyncio.sleep(float(value))
            elif kind == "hang":
                await asyncio.Event().wait()
            elif kind == "status":
                await send({"type": "http.response.start", "status": int(value), "headers": []})
                await send({"type": "http.response.body", "body": b"as asked"})
                return
        await app(scope, receive, send)

    return wrapped


def serve(host, port):
    """Until TERM; open streams do not hold it up."""
    import uvicorn
    from mcp_everything_server.server import event_store, mcp

    app = mcp.streamable_http_app(event_store=event_store, retry_interval=100, host=host)
    config = uvicorn.Config(afflicted(app), host=host, port=port, log_level="warning", timeout_graceful_shutdown=1)
    uvicorn.Server(config).run()


def main():
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(dest="command", required=True)
    serving = commands.add_parser("serve")
    serving.add_argument("--host", default="127.0.0.1")
    serving.add_argument("--port", type=int, default=8000)
    commands.add_parser("fault").add_argument("words", nargs="+")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    if arguments.command == "fault":
        fault(arguments.words)
    else:
        serve(arguments.host, arguments.port)


if __name__ == "__main__":
    main()
