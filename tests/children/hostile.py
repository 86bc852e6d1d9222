"""A stdio server that does to its client whatever `arguments.do` of a tools/call says. Standard library only.

Speaks the legacy era, with `--modern` the modern one. Anything it was not told to spoil is echoed.
"""

import json
import os
import sys

OUT = sys.stdout.buffer
MODERN = "--modern" in sys.argv
ODD = (5, None, [], "x", {"uri": 5}, {"_meta": 5, "uri": "a"}, {"requestId": None}, {"progressToken": {}})
NOTICES = ("tools/list_changed", "resources/updated", "message", "cancelled", "progress", "weird")
NOISE = [b"null", b"5", b"[]", b"[null]", b"[[[]]]", b"{}", b'{"jsonrpc":"2.0","id":[],"result":{}}', b"\x00\x01"]
NOISE += [b'{"jsonrpc":"2.0","id":null,"error":{}}', b'{"jsonrpc":"2.0","method":"\xff"}', b"\xef\xbb\xbf{}"]


def write(data):
    """Bytes to stdout, at once."""
    OUT.write(data)
    OUT.flush()


def say(message):
    """One message."""
    write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")


def tail(id, rest):
    """An answer whose end is given raw."""
    write(b'{"jsonrpc":"2.0","id":%d,%b}\n' % (id, rest))


def spoil(do, id):
    """One fault. Returns whether the right answer is still to be sent."""
    if do == "error-text":
        tail(id, b'"error":"-32002"')
    elif do == "error-empty":
        tail(id, b'"error":{}')
    elif do == "error-odd":
        tail(id, b'"error":{"code":"x","message":5}')
    elif do == "error-deep":
        tail(id, b'"error":{"code":-32002,"message":"x","data":%b%b}' % (b"[" * 980, b"]" * 980))
    elif do == "both":
        tail(id, b'"result":{},"error":{"code":1,"message":"x"}')
    elif do == "neither":
        tail(id, b'"x":1')
    elif do == "deep":
        tail(id, b'"result":{"a":%b%b}' % (b"[" * 100_000, b"]" * 100_000))
    elif do == "utf8":
        tail(id, b'"result":{"x":"\xff\xfe"}')
    elif do == "giant":
        write(b'{"jsonrpc":"2.0","id":%d,"result":{"x":"' % id)
        for _ in range(300):
            OUT.write(b"x" * 1_000_000)
        write(b'"}}\n')
    elif do == "silent":
        pass
    elif do == "exit":
        os._exit(3)
    else:
        return prelude(do, id)
    return False


def prelude(do, id):
    """What comes before the right answer."""
    if do == "wrong-ids":
        for other in (id + 1000, f"{id}x", None, 1.5, -1, 10**30, "", [id], {"id": id}):
            say({"id": other, "result": {"not": "yours"}})
    elif do == "noise":
        for line in NOISE:
            write(line + b"\n")
    elif do == "odd-notices":
        for notice in NOTICES:
            for params in ODD:
                say({"method": f"notifications/{notice}", "params": params})
            say({"method": f"notifications/{notice}"})
    elif do == "others-progress":
        for token in (*range(20), id - 1, id + 1, str(id + 1), None, 10**30):
            if token != id:
                say({"method": "notifications/progress", "params": {"progressToken": token, "progress": 1}})
    elif do == "change-flood":
        for _ in range(20_000):
            OUT.write(b'{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}\n')
    elif do == "large-notices":
        for _ in range(12):
            OUT.write(b'{"jsonrpc":"2.0","method":"notifications/tools/list_changed","params":{"x":"')
            write(b"y" * 10_000_000 + b'"}}\n')
    elif do == "requests":
        for number in range(3000):
            say({"id": number, "method": "sampling/createMessage", "params": {}})
        for odd in (None, {}, [1], 1.5):
            say({"id": odd, "method": "ping"})
    elif do == "giant-line":
        for _ in range(100):
            OUT.write(b"x" * 1_000_000)
        write(b"\n")
    elif do == "stderr":
        for _ in range(50):
            os.write(2, b"\xff\xfe\x1b[31m" + b"E" * 20_000 + b"\n")
    return True


def serve():
    """Until stdin ends."""
    legacy = {"tools": {"listChanged": True}, "resources": {"subscribe": True, "listChanged": True}, "logging": {}}
    for line in sys.stdin.buffer:
        message = json.loads(line)
        if "id" not in message or "method" not in message:
            continue
        id, method, params = message["id"], message.get("method"), message.get("params") or {}
        if method == "server/discover" and MODERN:
            known = {"supportedVersions": ["2026-07-28"], "capabilities": {"tools": {"listChanged": True}}}
            say({"id": id, "result": {"resultType": "complete", **known, "ttlMs": 0, "cacheScope": "private"}})
        elif method == "initialize" and not MODERN:
            info = {"serverInfo": {"name": "hostile", "version": "1"}, "capabilities": legacy}
            say({"id": id, "result": {"protocolVersion": "2025-06-18", **info}})
        elif method == "subscriptions/listen":
            continue
        elif method == "tools/list":
            say({"id": id, "result": {"tools": []}})
        elif method == "tools/call":
            arguments = params.get("arguments") or {}
            if spoil(arguments.get("do"), id):
                say({"id": id, "result": {"content": [{"type": "text", "text": arguments.get("key")}]}})
        else:
            say({"id": id, "error": {"code": -32601, "message": "no"}})


serve()
