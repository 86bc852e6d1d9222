"""The examples that `--help` of each command ends with. Text only; every example is run by a test or the demo."""

from __future__ import annotations

MAIN_EPILOG = """\
a first try:
  echo '{"servers": {"time": {"command": "uvx", "args": ["mcp-server-time"]}}}' > config.json
  outrigger-sidecar check --config config.json
  outrigger-sidecar run --config config.json
  outrigger-sidecar tools http://127.0.0.1:8080/mcp
  outrigger-sidecar status

A file of a desktop client (mcpServers) is a config as it is.
'outrigger-sidecar COMMAND --help' shows more examples. Exit codes: 0 done, 1 it failed, 2 the input was bad.
"""

EPILOGS = {
    "run": """\
examples:
  outrigger-sidecar run --config config.json
  outrigger-sidecar run --config ~/Library/.../claude_desktop_config.json --port 8081
  MCP_CONFIG_JSON='{"servers": {"docs": {"url": "https://example.com/mcp"}}}' outrigger-sidecar run

With one server the endpoint is http://127.0.0.1:8080/mcp; always http://127.0.0.1:8080/servers/NAME/mcp. The admin port
(9090) has /livez, /startupz, /readyz, /metrics and /status. The config is read again when it changes and on SIGHUP; a
bad one is refused and the old one kept. SIGTERM lets calls in flight end first. Any single setting can also come from
the environment: OUTRIGGER__FRONT__PORT=8081, OUTRIGGER__SERVERS__TIME__TIMEOUT=5s.
""",
    "check": """\
examples:
  outrigger-sidecar check --config config.json
  outrigger-sidecar check --config config.json --values     also opens files, variables and sealed values

Exit code 2 and all problems, each with its path, when the config cannot be used.
""",
    "schema": """\
example:
  outrigger-sidecar schema > config.schema.json       then "$schema": "./config.schema.json" in the config
""",
    "tools": """\
examples:
  outrigger-sidecar tools http://127.0.0.1:8080/mcp
  outrigger-sidecar tools http://127.0.0.1:8080/servers/time/mcp --legacy --json
  outrigger-sidecar tools https://example.com/mcp --header 'Authorization: Bearer ${TOKEN}'

In single quotes the shell leaves ${TOKEN} alone, so that no secret stands in the list of processes.
""",
    "call": """\
examples:
  outrigger-sidecar call http://127.0.0.1:8080/mcp echo '{"text": "hello"}'
  outrigger-sidecar call http://127.0.0.1:8080/mcp import - < arguments.json

The text of the result goes to stdout. A tool that reports an error: its text on stderr and exit code 1.
""",
    "status": """\
examples:
  outrigger-sidecar status
  outrigger-sidecar status --all
  outrigger-sidecar status http://10.0.0.7:9090 --json
""",
    "seal": """\
examples:
  outrigger-sidecar keygen --file keys
  printf %s "$TOKEN" | outrigger-sidecar seal --for github --key-file keys
  outrigger-sidecar seal --for github --key-file keys < token.txt

The result (fernet:v1:...) goes into env or headers of that server, a variable or a file. It opens for that server only.
The value is read from stdin, never from the arguments, which anyone on the machine can read.
""",
    "unseal": """\
example:
  outrigger-sidecar unseal --for github --key-file keys < sealed.txt
""",
    "rotate": """\
examples:
  outrigger-sidecar keygen --file keys                                        the new key comes first
  outrigger-sidecar rotate --key-file keys < config.json > config.new.json

The text may be anything; what is sealed in it is sealed anew, the rest stays. Then the old key can be taken out.
""",
    "keygen": """\
examples:
  outrigger-sidecar keygen
  outrigger-sidecar keygen --file keys
""",
}
