"""A stdio MCP server for tests of the whole sidecar: its tools do what a test needs. Standard library only.

`python -S -E tool_server.py [--modern] [--journal FILE] [--hold FILE] [--stubborn] [--list-changed] [--say TEXT]`:
legacy, or modern too; writes what happens into the journal; answers nothing before the held file is there; ignores
the end of stdin and TERM; announces list changes; says something on stderr at the start.
"""

import argparse
import json
import os
import signal
import sys
import threading
import time

parser = argparse.ArgumentParser()
parser.add_argument("--modern", action="store_true")
parser.add_argument("--journal")
parser.add_argument("--hold")
parser.add_argument("--stubborn", action="store_true")
parser.add_argument("--ignore-eof", action="store_true")
parser.add_argument("--list-changed", action="store_true")
parser.add_argument("--say")
OPTIONS = parser.parse_args()

LOCK = threading.Lock()
NAMES = ["echo", "pid", "env", "cwd", "wait", "exit", "big", "stderr", "count", "progress", "args"]
RESTARTING = threading.Event()


def note(event):
    """One line in the journal: what, when, who."""
    if OPTIONS.journal:
        with open(OPTIONS.journal, "a") as file:
            file.write(f"{event} {time.monotonic():.6f} {os.getpid()}\n")


def say(message):
    """One message."""
    with LOCK:
        sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
        sys.stdout.flush()


def wait_for(path):
    """Until a file is there."""
    while not os.path.exists(path):
        time.sleep(0.005)


def call(name, arguments, meta):
    """The text a tool answers."""
    if name == "pid":
        return str(os.getpid())
    if name == "env":
        return json.dumps(os.environ.get(arguments["name"]))
    if name == "cwd":
        return os.getcwd()
    if name == "args":
        return json.dumps(sys.argv)
    if name == "wait":
        note("waiting")
        wait_for(arguments["path"])
    elif name == "sleep":
        time.sleep(arguments["ms"] / 1000)
    elif name == "exit":
        note("exiting")
        os._exit(1)
    elif name == "big":
        return "x" * arguments["bytes"]
    elif name == "stderr":
        for number in range(arguments.get("lines", 1)):
            sys.stderr.write(arguments["text"].format(number=number) + "\n")
        sys.stderr.flush()
    elif name == "garbage":
        with LOCK:
            sys.stdout.write("Processing request...\n")
    elif name == "count":
        note("count")
    elif name == "progress":
        for number in range(arguments["times"]):
            wait_for(arguments["path"] + str(number))
            params = {"progressToken": meta["progressToken"], "progress": number}
            say({"method": "notifications/progress", "params": params})
        wait_for(arguments["path"] + "end")
    return json.dumps(arguments)


def answer(message):
    """Answer one request."""
    method, params = message["method"], message.get("params") or {}
    meta = params.get("_meta") or {}
    modern = "io.modelcontextprotocol/protocolVersion" in meta
    capabilities = {"tools": {"listChanged": True} if OPTIONS.list_changed else {}}
    info = {"name": "tool-server", "version": "1"}
    extra = {"resultType": "complete", "ttlMs": 0, "cacheScope": "private"} if modern else {}
    if method == "initialize":
        version = params["protocolVersion"]
        result = {"protocolVersion": version, "capabilities": capabilities, "serverInfo": info}
    elif method == "server/discover" and OPTIONS.modern:
        meta = {"io.modelcontextprotocol/serverInfo": info}
        result = {"supportedVersions": ["2026-07-28"], "capabilities": capabilities, "_meta": meta, **extra}
    elif method == "ping":
        result = {}
    elif method == "tools/list":
        note("list")
        result = {"tools": [{"name": name, "inputSchema": {"type": "object"}} for name in NAMES], **extra}
    elif method == "tools/call":
        text = call(params["name"], params.get("arguments") or {}, meta)
        result = {"content": [{"type": "text", "text": text}], **({"resultType": "complete"} if modern else {})}
    else:
        say({"id": message["id"], "error": {"code": -32601, "message": "no such method"}})
        return
    say({"id": message["id"], "result": result})


def main():
    """Read requests until stdin ends."""
    note("start")
    if OPTIONS.stubborn:
        signal.signal(signal.SIGTERM, lambda number, frame: note("term"))
    elif OPTIONS.ignore_eof:
        signal.signal(signal.SIGTERM, lambda number, frame: (note("term"), os._exit(0)))
    if OPTIONS.say:
        sys.stderr.write(OPTIONS.say + "\n")
        sys.stderr.flush()
    if OPTIONS.hold:
        wait_for(OPTIONS.hold)
    for line in sys.stdin:
        message = json.loads(line)
        if "id" in message and "method" in message:
            threading.Thread(target=answer, args=(message,), daemon=True).start()
    note("eof")
    while OPTIONS.stubborn or OPTIONS.ignore_eof:
        time.sleep(0.05)
    os._exit(0)


main()
