"""An MCP server of the modern era only, on stdio. Standard library only: run it with `python -S -E`.

Tools: `echo`, `region` (its argument is mirrored into a header), `ask` (answers `input_required` until it has what it
asked for), `say` (frames for everybody who listens), `wait` and `release`, `told`, `exit`.
"""

import json
import os
import sys

VERSION = "2026-07-28"
PREFIX = "io.modelcontextprotocol/"
TOOLS = ["echo", "ask", "say", "wait", "release", "told", "exit"]


class Server:
    def __init__(self):
        self.told = []
        self.listening = {}
        self.waiting = {}

    def say(self, **message):
        sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
        sys.stdout.flush()

    def result(self, id, **result):
        self.say(id=id, result={"resultType": "complete", **result})

    def text(self, id, value):
        text = value if isinstance(value, str) else json.dumps(value)
        self.result(id, content=[{"type": "text", "text": text}], isError=False)

    def run(self):
        for line in sys.stdin:
            message = json.loads(line)
            self.told.append(message)
            method, id, params = message.get("method"), message.get("id"), message.get("params") or {}
            if method == "notifications/cancelled":
                number = params["requestId"]
                self.listening.pop(number, None)
                self.waiting = {k: v for k, v in self.waiting.items() if v != number}
            elif id is not None:
                meta = params.get("_meta") or {}
                if PREFIX + "protocolVersion" not in meta:
                    self.say(id=id, error={"code": -32602, "message": "params._meta is missing"})
                else:
                    self.request(id, method, params, meta)

    def request(self, id, method, params, meta):
        fresh = {"ttlMs": 60_000, "cacheScope": "public"}
        if method == "server/discover":
            self.result(
                id,
                supportedVersions=[VERSION],
                capabilities={"tools": {"listChanged": True}, "resources": {"subscribe": True, "listChanged": True}},
                instructions="be modern",
                _meta={PREFIX + "serverInfo": {"name": "modern", "version": str(os.getpid())}},
                **fresh,
            )
        elif method == "tools/list":
            tools = [{"name": n, "inputSchema": {"type": "object"}} for n in TOOLS]
            region = {"type": "object", "properties": {"region": {"type": "string", "x-mcp-header": "Region"}}}
            self.result(id, tools=[*tools, {"name": "region", "inputSchema": region}], **fresh)
        elif method == "resources/list":
            self.result(id, resources=[{"uri": "test:a", "name": str(len(self.told))}], **fresh)
        elif method == "subscriptions/listen":
            self.listening[id] = params["notifications"]
            self.frame(id, "notifications/subscriptions/acknowledged", {"notifications": params["notifications"]})
        elif method == "tools/call":
            self.call(id, params, params.get("arguments") or {}, meta)
        else:
            self.say(id=id, error={"code": -32601, "message": "Method not found"})

    def frame(self, id, method, params):
        self.say(method=method, params={**params, "_meta": {PREFIX + "subscriptionId": id}})

    def call(self, id, params, arguments, meta):
        tool = params["name"]
        if tool in ("echo", "region"):
            self.text(id, arguments.get("text", arguments.get("region", "")))
        elif tool == "told":
            self.text(id, self.told)
        elif tool == "ask":
            responses = params.get("inputResponses") or {}
            missing = {key: asked for key, asked in arguments["requests"].items() if key not in responses}
            if missing or (arguments.get("rounds", 1) > len(params.get("requestState", ""))):
                state = params.get("requestState", "") + "x"
                requests = missing or arguments["requests"]
                self.say(
                    id=id, result={"resultType": "input_required", "inputRequests": requests, "requestState": state}
                )
            else:
                self.text(id, {"responses": responses, "state": params.get("requestState"), "meta": meta})
        elif tool == "wait":
            self.waiting[arguments["name"]] = id
            if "progressToken" in meta:
                self.say(
                    method="notifications/progress",
                    params={"progressToken": meta["progressToken"], "progress": 1, "total": 2},
                )
        elif tool == "release":
            waiting = self.waiting.pop(arguments["name"], None)
            if waiting is not None:
                self.text(waiting, "released")
            self.text(id, "yes" if waiting is not None else "no")
        elif tool == "say":
            for number, wanted in self.listening.items():
                for message in arguments["messages"]:
                    if message.get("params", {}).get("uri") in [None, *wanted.get("resourceSubscriptions", [])]:
                        self.frame(number, message["method"], message.get("params", {}))
            self.text(id, "said")
        elif tool == "exit":
            os._exit(3)
        else:
            self.say(id=id, error={"code": -32602, "message": f"Unknown tool: {tool}"})


Server().run()
