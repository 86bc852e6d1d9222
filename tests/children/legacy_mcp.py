"""An MCP server of the legacy era on stdio, as SDK 1.x has them. Standard library only: run it with `python -S -E`.

`--unknown exit|error|silent`: what it does with a method it does not know. Tools: `echo`; `ask` (asks its caller
`sampling/createMessage`, `elicitation/create` or `roots/list`), `slow` (progress until released or cancelled), `say`
(any message), `wait` (answers when `release` is called), `exit`, `told` (everything it was sent).
"""

import json
import os
import sys

VERSIONS = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")
TOOLS = ["echo", "ask", "wait", "release", "say", "exit", "told", "big"]


class Server:
    def __init__(self):
        self.told = []
        self.waiting = {}
        self.asked = {}
        self.serial = 0
        self.unknown = "error"
        if "--unknown" in sys.argv:
            self.unknown = sys.argv[sys.argv.index("--unknown") + 1]

    def say(self, **message):
        sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
        sys.stdout.flush()

    def text(self, id, value):
        text = value if isinstance(value, str) else json.dumps(value)
        self.say(id=id, result={"content": [{"type": "text", "text": text}], "isError": False})

    def run(self):
        for line in sys.stdin:
            message = json.loads(line)
            self.told.append(message)
            method, id, params = message.get("method"), message.get("id"), message.get("params") or {}
            if method is None:
                caller = self.asked.pop(id, None)
                if caller is not None:
                    self.text(caller, {"answer": message.get("result"), "error": message.get("error")})
            elif id is None:
                if method == "notifications/cancelled":
                    self.waiting = {k: v for k, v in self.waiting.items() if v != params["requestId"]}
            else:
                self.request(id, method, params)

    def request(self, id, method, params):
        if method == "initialize":
            wanted = params["protocolVersion"]
            version = wanted if wanted in VERSIONS else VERSIONS[-1]
            changing = {"listChanged": True}
            self.say(
                id=id,
                result={
                    "protocolVersion": version,
                    "capabilities": {
                        "tools": changing,
                        "prompts": {},
                        "resources": {"subscribe": True, "listChanged": True},
                        "logging": {},
                    },
                    "serverInfo": {"name": "legacy", "version": str(os.getpid())},
                    "instructions": "be kind",
                },
            )
        elif method == "ping":
            self.say(id=id, result={})
        elif method == "tools/list":
            self.say(id=id, result={"tools": [{"name": n, "inputSchema": {"type": "object"}} for n in TOOLS]})
        elif method == "tools/call":
            self.call(id, params["name"], params.get("arguments") or {}, params.get("_meta") or {})
        elif method == "resources/list":
            self.say(id=id, result={"resources": [{"uri": "test:a", "name": str(len(self.told))}]})
        elif method == "resources/read" and params["uri"] == "test:a":
            self.say(id=id, result={"contents": [{"uri": "test:a", "text": str(len(self.told))}]})
        elif method == "resources/read":
            self.say(id=id, error={"code": -32002, "message": "Resource not found", "data": {"uri": params["uri"]}})
        elif method == "resources/subscribe" and params["uri"] == "test:secret":
            self.say(id=id, error={"code": -32602, "message": "not this one"})
        elif method in ("resources/subscribe", "resources/unsubscribe", "logging/setLevel"):
            self.say(id=id, result={})
        elif self.unknown == "exit":
            sys.exit(3)
        elif self.unknown == "error":
            self.say(id=id, error={"code": -32601, "message": "Method not found"})

    def call(self, id, tool, arguments, meta):
        if tool == "echo":
            self.text(id, arguments.get("text", ""))
        elif tool == "big":
            self.text(id, "x" * arguments["size"])
        elif tool == "told":
            self.text(id, self.told)
        elif tool == "ask":
            self.serial += 1
            number = f"ask-{self.serial}"
            self.asked[number] = id
            self.say(id=number, method=arguments["method"], params=arguments.get("params", {}))
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
            for message in arguments["messages"]:
                self.say(**message)
            self.text(id, "said")
        elif tool == "exit":
            os._exit(3)
        else:
            self.say(id=id, error={"code": -32602, "message": f"Unknown tool: {tool}"})


Server().run()
