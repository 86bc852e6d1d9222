"""An MCP server over Streamable HTTP, of one era only. Standard library only: `http_mcp.py PORT legacy|modern`, which
ends with its stdin, or with `forever` by TERM.

Legacy: sessions that `POST /forget` loses, GET streams, DELETE, event ids and resumption. Tools: `echo`; `resume`
(its stream ends before the answer, which a GET with Last-Event-ID fetches); `notices` (says a change on the session's
GET stream); `ask` (elicitation on the call's stream); `seen` (requests so far, as method and session). Both eras: `env`
(a variable).
"""

import json
import os
import queue
import signal
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ERA = sys.argv[2]
PREFIX = "io.modelcontextprotocol/"
SESSIONS = {}
SEEN = []
LATE = {}
ASKED = {}
SERIAL = iter(range(1, 1_000_000))


def text(value):
    return {"content": [{"type": "text", "text": value if isinstance(value, str) else json.dumps(value)}]}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def reply(self, status, body=b"", kind="application/json", **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if body:
            self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def answer(self, id, result=None, error=None, status=200, **headers):
        outcome = {"error": error} if error else {"result": result}
        self.reply(status, json.dumps({"jsonrpc": "2.0", "id": id, **outcome}).encode(), **headers)

    def begin(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True

    def event(self, message, id=None):
        head = f"id: {id}\n" if id is not None else ""
        data = json.dumps({"jsonrpc": "2.0", **message}) if message else ""
        self.wfile.write(f"{head}data: {data}\n\n".encode())
        self.wfile.flush()

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path == "/forget":
            for stream in SESSIONS.values():
                stream.put(None)
            SESSIONS.clear()
            return self.reply(200)
        message = json.loads(body)
        session = self.headers.get("Mcp-Session-Id")
        SEEN.append([message.get("method", "response"), session or ""])
        if ERA == "modern":
            return self.modern(message)
        if self.headers.get("MCP-Protocol-Version", "2025-06-18") > "2026":
            return self.reply(400, b"Bad Request: unsupported protocol version", "text/plain")
        if message.get("method") == "initialize":
            session = f"session-{next(SERIAL)}"
            SESSIONS[session] = queue.Queue()
            capabilities = {"tools": {"listChanged": True}}
            result = {
                "protocolVersion": message["params"]["protocolVersion"],
                "capabilities": capabilities,
                "serverInfo": {"name": "http-legacy", "version": "1"},
            }
            return self.answer(message["id"], result, Mcp_Session_Id=session)
        if session is None:
            return self.reply(400, b"session needed", "text/plain")
        if session not in SESSIONS:
            return self.reply(404, b"no such session", "text/plain")
        if "method" not in message:
            ASKED.pop(message["id"]).put(message)
            return self.reply(202)
        if "id" not in message:
            return self.reply(202)
        return self.legacy(message, session)

    def legacy(self, message, session):
        id, method, params = message["id"], message["method"], message.get("params") or {}
        if method == "tools/list":
            return self.answer(id, {"tools": [{"name": "echo", "inputSchema": {"type": "object"}}]})
        if method != "tools/call":
            return self.answer(id, error={"code": -32601, "message": "Method not found"})
        tool, arguments = params["name"], params.get("arguments") or {}
        if tool == "echo":
            self.answer(id, text(arguments["text"]))
        elif tool == "env":
            self.answer(id, text(os.environ.get(arguments["name"])))
        elif tool == "seen":
            self.answer(id, text(SEEN))
        elif tool == "notices":
            SESSIONS[session].put({"method": "notifications/tools/list_changed"})
            self.answer(id, text("said"))
        elif tool == "resume":
            event = f"event-{next(SERIAL)}"
            LATE[event] = {"id": id, "result": text("late")}
            self.begin()
            self.event(None, event)
        elif tool == "ask":
            number = f"ask-{next(SERIAL)}"
            answers = ASKED[number] = queue.Queue()
            self.begin()
            self.event({"id": number, "method": "elicitation/create", "params": {"message": "?"}})
            self.event({"id": id, "result": text(answers.get(timeout=20)["result"])})
        return None

    def modern(self, message):
        id, params = message.get("id"), message.get("params") or {}
        if PREFIX + "protocolVersion" not in (params.get("_meta") or {}):
            error = {"code": -32020, "message": "MCP-Protocol-Version is missing"}
            return self.answer(id, error=error, status=400)
        if message["method"] == "server/discover":
            result = {
                "resultType": "complete",
                "supportedVersions": ["2026-07-28"],
                "capabilities": {"tools": {}},
                "ttlMs": 0,
                "cacheScope": "private",
            }
            return self.answer(id, result)
        if message["method"] == "tools/call" and params["name"] == "env":
            return self.answer(id, {"resultType": "complete", **text(os.environ.get(params["arguments"]["name"]))})
        if message["method"] == "tools/call":
            return self.answer(id, {"resultType": "complete", **text(params["arguments"].get("text", ""))})
        return self.answer(id, error={"code": -32601, "message": "Method not found"}, status=404)

    def do_GET(self):
        if ERA == "modern":
            return self.reply(405)
        session = self.headers.get("Mcp-Session-Id")
        SEEN.append(["GET", session or ""])
        if session not in SESSIONS:
            return self.reply(404)
        self.begin()
        last = self.headers.get("Last-Event-ID")
        if last is not None:
            self.event(LATE.pop(last), "event-0")
            return None
        stream = SESSIONS[session]
        while (message := stream.get()) is not None:
            self.event(message)
        return None

    def do_DELETE(self):
        session = self.headers.get("Mcp-Session-Id")
        SEEN.append(["DELETE", session or ""])
        stream = SESSIONS.pop(session, None)
        if stream is not None:
            stream.put(None)
        self.reply(200 if stream is not None else 404)


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64


server = Server(("127.0.0.1", int(sys.argv[1])), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
print("ready", flush=True)
if "forever" in sys.argv:  # a container has no stdin, and its first process no default action for TERM
    signal.signal(signal.SIGTERM, lambda number, frame: os._exit(0))
    threading.Event().wait()
sys.stdin.read()
