"""A stdio server that answers, and fails on command. Standard library only: run it with `python -S -E`.

Each request is answered by `{"pid": …, "params": <its params>}`, unless `params.do` names a fault below. `--at-start X`
does one fault before anything is read. Not a model of an MCP server: a model of what servers do to their clients.
"""

import json
import os
import signal
import sys
import time

OUT = sys.stdout.buffer


def write(data):
    """Bytes to stdout, at once."""
    OUT.write(data)
    OUT.flush()


def say(message):
    """One message."""
    write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")


def answer(id, params=None):
    """The usual answer."""
    say({"id": id, "result": {"pid": os.getpid(), "params": params}})


def grandchild(new_session):
    """Leave a process behind that ignores TERM and holds stdout; tells its pid."""
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if new_session:
            os.setsid()
            os.close(1)
            os.close(2)
        time.sleep(600)
        os._exit(0)
    return pid


def heir(path):
    """Leave a process behind that holds stdout and, told to end, says so in a file first."""

    def end(number, frame):
        with open(path, "w") as file:
            file.write("ended in good order")
        os._exit(0)

    ready, tell = os.pipe()
    if os.fork() == 0:
        signal.signal(signal.SIGTERM, end)
        os.write(tell, b"x")
        while True:
            time.sleep(600)
    os.read(ready, 1)


def orphan():
    """A grandchild whose parent exits: it is given to init, or to the subreaper, and exits soon."""
    read, put = os.pipe()
    middle = os.fork()
    if middle == 0:
        inner = os.fork()
        if inner == 0:
            os._exit(0)
        os.write(put, str(inner).encode())
        os._exit(0)
    os.waitpid(middle, 0)
    return int(os.read(read, 32))


def act(do, id, params):
    """One fault. Returns True where the request was dealt with."""
    if do == "exit":
        os._exit(params.get("code", 3))
    elif do == "abort":
        os.kill(os.getpid(), signal.SIGKILL)
    elif do == "hang":
        pass
    elif do == "stop-reading":
        time.sleep(600)
    elif do == "garbage":
        write(b"Processing request...\n\xff\xfe garbage\n\n\r\n{\n")
        answer(id, params)
    elif do == "bad-utf8":
        write(b'{"jsonrpc":"2.0","id":%d,"result":{"text":"\xff\xfe"}}\n' % id)
    elif do == "half-line":
        write(b'{"jsonrpc":"2.0","id":%d,"res' % id)
        os._exit(1)
    elif do == "no-newline":
        write(b'{"jsonrpc":"2.0","id":%d,"result":{"last":true}}' % id)
        os._exit(0)
    elif do == "huge":
        write(b'{"jsonrpc":"2.0","id":%d,"result":{"text":"' % id)
        chunk = b"x" * 65536
        for _ in range(params["kib"] // 64):
            OUT.write(chunk)
        write(b'"}}\n')
    elif do == "huge-id-last":
        write(b'{"result":{"text":"')
        chunk = b"x" * 65536
        for _ in range(params["kib"] // 64):
            OUT.write(chunk)
        write(b'"},"jsonrpc":"2.0","id":%d}\n' % id)
    elif do == "drip":
        for byte in json.dumps({"jsonrpc": "2.0", "id": id, "result": {"slow": True}}).encode() + b"\n":
            write(bytes([byte]))
            time.sleep(0.001)
    elif do == "stderr":
        line = b"E" * 99 + b"\n"
        for _ in range(params["kib"] * 1024 // 100):
            os.write(2, line)
        os.write(2, b"the last words\n")
        answer(id, params)
    elif do == "twice":
        answer(id, params)
        answer(id, "second")
    elif do == "unknown":
        for other in (id + 1000, str(id) + "x", None, 1.5):
            say({"id": other, "result": {"not": "yours"}})
        answer(id, params)
    elif do == "string-id":
        answer(str(id), params)
    elif do == "ignore-term":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        answer(id, params)
        while True:
            time.sleep(600)
    elif do == "exit-on-term":
        signal.signal(signal.SIGTERM, lambda number, frame: os._exit(7))
        answer(id, params)
        while True:
            time.sleep(600)
    elif do == "heir":
        heir(params["path"])
        answer(id, params)
    elif do == "close-stdout":
        os.close(1)
        time.sleep(600)
    elif do == "close-stdin":
        os.close(0)
        answer(id, params)
        time.sleep(600)
    elif do == "grandchild":
        answer(id, {"pid": grandchild(False)})
    elif do == "grandchild-then-exit":
        answer(id, {"pid": grandchild(False)})
        os._exit(0)
    elif do == "orphan":
        answer(id, {"pid": orphan()})
    elif do == "environment":
        answer(id, {"environment": dict(os.environ), "cwd": os.getcwd(), "umask": os.umask(0)})
    elif do == "limits":
        import resource

        answer(id, {"core": resource.getrlimit(resource.RLIMIT_CORE), "session": os.getsid(0) == os.getpid()})
    elif do == "files":
        answer(id, {"files": sorted(os.listdir("/proc/self/fd"))})
    elif do == "progress":
        token = params["_meta"]["progressToken"]
        for n in range(3):
            say({"method": "notifications/progress", "params": {"progressToken": token, "progress": n}})
        answer(id, params)
    else:
        return False
    return True


def main():
    """Read requests until stdin ends."""
    if "--at-start" in sys.argv:
        act(sys.argv[sys.argv.index("--at-start") + 1], 0, {"kib": 64})
    log = os.open(os.environ["EXECUTED"], os.O_WRONLY | os.O_APPEND | os.O_CREAT) if "EXECUTED" in os.environ else -1
    for line in sys.stdin.buffer:
        message = json.loads(line)
        if "id" not in message:
            continue
        params = message.get("params") or {}
        if log >= 0 and "key" in params:
            os.write(log, (params["key"] + "\n").encode())
        if not act(params.get("do"), message["id"], params):
            answer(message["id"], params)


main()
