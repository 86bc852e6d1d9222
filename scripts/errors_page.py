"""Writes docs/errors.md: every error of the sidecar's own, from `errors.Reason` and `front.refusal.Fault`.

Codes, statuses and flags come from the enumerations. What a reason means to a caller and to whoever is on call stands
here: a reason without a text is a KeyError, so that none can be forgotten. The examples are compared by
tests/integration/test_error_examples.py with what a sidecar really answers.
"""

# ruff: noqa: E501 rows of tables and captured examples are single lines

from mcp_sidecar.errors import Reason
from mcp_sidecar.front.refusal import Fault
from mcp_sidecar.telemetry.outcomes import side

MEANINGS: dict[str, tuple[str, str]] = {
    "rate_limited": (
        "More calls than `limits.rate` allows this server, caller or tool.",
        "Caller: wait as long as `Retry-After` says. On call: raise the rate, or find who calls so much (audit log).",
    ),
    "queue_full": (
        "All places (`limits.maxConcurrent`, or the pool's waiting room) and the queue (`limits.maxQueue`) are taken.",
        "Caller: try again later. On call: the server is slower than the traffic; look at `outrigger_queue_length`.",
    ),
    "queue_timeout": (
        "No place became free within `limits.queueTimeout`.",
        "As `queue_full`.",
    ),
    "breaker_open": (
        "The server failed too often: it is left alone until a probe finds it back, or for a while longer where it answers "
        "probes and fails calls.",
        "Caller: wait for `Retry-After`. On call: `lastErrors` in `/status` says what the server fails with.",
    ),
    "shutting_down": (
        "This sidecar is ending; with `maybeExecuted`, a call that did not end within `shutdown.gracePeriod`.",
        "Caller: try again, another replica answers. On call: only where it happens outside of rollouts.",
    ),
    "tool_not_allowed": (
        "`allowedTools`, `deniedTools` or the tools of the caller's bearer token leave this tool out.",
        "Caller: do not repeat. On call: change the lists if it should be allowed.",
    ),
    "request_too_large": (
        "The request is larger than `front.maxRequestBytes`.",
        "Caller: send less. On call: raise the bound if such requests are meant to be.",
    ),
    "server_not_ready": (
        "A secret cannot be read or opened, the server was taken out of the config, or its process may not start yet.",
        "Caller: try again later. On call: `problem` of the server in `/status` names the place.",
    ),
    "too_many_streams": (
        "`pool.maxStreams` listen or GET streams to the server are open already.",
        "Caller: close streams that are not needed. On call: look for callers that leak them.",
    ),
    "duplicate_id": (
        "A call with the same id is in flight in the same legacy session.",
        "Caller: a defect of the client; ids must be unique in a session.",
    ),
    "too_many_sessions": (
        "`front.maxSessions`, or `maxSessions` of a `PerSession` server, sessions are open.",
        "Caller: try again later. On call: clients that never DELETE; shorten `sessions.idleTimeout`.",
    ),
    "deadline_exceeded": (
        "The whole call took longer than `totalTimeout`, waits and retries included.",
        "Caller: repeat only if that does no harm. On call: a slow server, or too small a total.",
    ),
    "attempt_timeout": (
        "The server showed no sign of life for `timeout`: no answer, no progress.",
        "As `deadline_exceeded`. Servers that report progress are given more time.",
    ),
    "acquire_timeout": (
        "No connection or process became free within `pool.acquireTimeout` or `startTimeout`.",
        "Caller: try again. On call: compare `outrigger_connections` with `pool.max`; look for leaks.",
    ),
    "connect_failed": (
        "No connection: name not found, refused, unreachable, `connectTimeout`, a proxy that says no.",
        "Caller: try again later. On call: is the server there, and may this pod reach it (NetworkPolicy)?",
    ),
    "start_failed": (
        "The server's process did not start, or ended before its first answer.",
        "On call: `stderr` of the process in `/status` and in the log; command, image, permissions.",
    ),
    "connection_lost": (
        "The connection ended in the middle of the call.",
        "Caller: repeat only if that does no harm. On call: the server's own log at that moment.",
    ),
    "child_exited": (
        "The server's process ended in the middle of the call.",
        "As `connection_lost`; `outrigger_child_exit_total` tells crashes from kills (out of memory).",
    ),
    "protocol_error": (
        "What the server sent is not the protocol: garbage, no JSON-RPC, an answer to another request.",
        "On call: a defect of the server; a sample is in the log (`the server sent what is not understood`).",
    ),
    "result_too_large": (
        "The answer is larger than `limits.maxResponseBytes`.",
        "Caller: ask for less. On call: raise the bound; memory is bound × calls in flight.",
    ),
    "upstream_status": (
        "The server, or a proxy before it, answered with an HTTP status that is no answer (5xx mostly).",
        "Caller: repeat only if that does no harm. On call: the status is in the message.",
    ),
    "upstream_throttled": (
        "The server answered 429 and retries did not get through.",
        "Caller: wait for `Retry-After`. On call: set `limits.rate` below what the server grants.",
    ),
    "upstream_unauthorized": (
        "The server does not accept the sidecar's credentials (401, 403).",
        "On call: the secret in `headers` or `MCP_TOKEN_…` is wrong, expired, or lacks rights.",
    ),
    "session_lost": (
        "The legacy session is gone: expired, ended, another life of the server or of its process.",
        "Caller: send `initialize` again, as the specification says for 404; SDK clients do.",
    ),
    "tls_failed": (
        "The TLS handshake with the server failed: certificate not trusted, expired, for another name.",
        "On call: `tls.caFile`, `tls.serverName`, the server's certificate. Never `verify: false`.",
    ),
    "slow_caller": (
        "The caller does not read its stream; its connection is closed.",
        "Caller: read, or ask for less. On call: a hung client or a proxy that buffers.",
    ),
    "cancelled": (
        "The caller cancelled, or its connection was lost. Sent with HTTP 200, and seldom seen: most who cancel have left.",
        "Nothing.",
    ),
    "internal": (
        "A defect of the sidecar.",
        "On call: the log has the traceback (`a request was not handled`); please report it.",
    ),
}

REFUSALS: dict[str, str] = {
    "malformed_http": "The request is not HTTP/1.1 as it must be: both lengths, odd chunking, folded headers, …",
    "unauthorized": "`front.tokens` are configured, and the request shows none of them.",
    "origin_not_allowed": "The `Origin` is not in `front.allowedOrigins`: a web page that may not call.",
    "method_not_allowed": "The HTTP method is not one of this path; `Allow` names them.",
    "request_timeout": "Head or body did not arrive within `front.headerTimeout` or `front.bodyTimeout`.",
    "request_too_large": "See `request_too_large` above.",
    "target_too_long": "The path is too long.",
    "expectation_failed": "An `Expect` other than `100-continue`.",
    "host_not_allowed": "The `Host` is not in `front.allowedHosts` (guards against DNS rebinding).",
    "headers_too_large": "The head is larger than `front.maxHeaderBytes`.",
    "internal": "See `internal` above.",
    "too_many_connections": "`front.maxConnections` connections of callers are open.",
    "shutting_down": "See `shutting_down` above.",
    "too_many_bytes": "All callers together have 256 MiB of long bodies on the way or being served.",
    "version_not_supported": "HTTP/2 or another version the listener does not speak.",
}

HEAD = """\
# Errors

<!-- Generated by `make generate` from errors.py and front/refusal.py by scripts/errors_page.py. Do not edit. -->

What callers get from the sidecar when it has no answer of the server for them, and what to do about it. An error
that the server itself answered (JSON-RPC `error`, `isError: true`) is an answer: it passes unchanged.

An error of the sidecar is a JSON-RPC error under the caller's id. Its code lies outside -32768…-32000, which JSON-RPC
and MCP reserve, one for each reason; `message` is for people and may change. `data` is for programs:

| Member | Meaning |
|---|---|
| `reason` | The name in the table below; also `error_type` in `outrigger_errors_total` and `reason` in the log and the audit. |
| `retryable` | Whether the same call may be tried again, by a caller who knows nothing more. Never true for a call that may have been executed, unless its tool is known to be safe or idempotent (`retry.tools`, trusted hints). |
| `retryAfterMs` | Where known: not before so many milliseconds. The same is in `Retry-After`, in whole seconds. |
| `maybeExecuted` | The request was written to its last byte and no answer came: the server may have done what was asked. |
| `attempts` | How many attempts the sidecar made. |

**Modern callers** (2026-07-28) get the HTTP status of the table. **Legacy callers** get errors of calls with HTTP 200,
because clients on SDK 1.x end their whole session on a 5xx; only a lost session is 404 for them too.

## Errors of calls

*Again*: whether such a call may be tried again at all (`retryable` says it for one call). *Side*: whose fault it is, the
label `side` of `outrigger_errors_total`.

"""

REFUSED = """
## Refused before it was a call

Requests that were not read to the end of their JSON-RPC message have no id to answer under: it is `null`. The
body is a JSON-RPC error with the code below; a path that names no server has 404 and -32600. A request of a legacy session that is too
large is answered under its id, with HTTP 200, where the id is found at either end of it.

"""

EXAMPLES = """
## Examples

Taken from a running sidecar; a test compares them with what it answers.

A tool that hangs, asked by a modern caller (`timeout: 300ms`):

```http
HTTP/1.1 504
content-type: application/json

{"jsonrpc":"2.0","id":1,"error":{"code":-31021,"message":"the server showed no sign of life for 0.3 s","data":{"reason":"attempt_timeout","retryable":false,"maybeExecuted":true,"attempts":1}}}
```

The same, asked by a legacy caller:

```http
HTTP/1.1 200
content-type: application/json

{"jsonrpc":"2.0","id":2,"error":{"code":-31021,"message":"the server showed no sign of life for 0.3 s","data":{"reason":"attempt_timeout","retryable":false,"maybeExecuted":true,"attempts":1}}}
```

A server whose secret is missing; a modern caller:

```http
HTTP/1.1 503
content-type: application/json
retry-after: 10

{"jsonrpc":"2.0","id":1,"error":{"code":-31008,"message":"server locked is not ready: env.KEY: there is no file /nowhere/key","data":{"reason":"server_not_ready","retryable":true,"maybeExecuted":false,"attempts":0,"retryAfterMs":10000}}}
```

A tool that the config leaves out; a modern caller:

```http
HTTP/1.1 403
content-type: application/json

{"jsonrpc":"2.0","id":1,"error":{"code":-31006,"message":"this tool is not allowed","data":{"reason":"tool_not_allowed","retryable":false,"maybeExecuted":false,"attempts":0}}}
```

A legacy session that is no more:

```http
HTTP/1.1 404
content-type: application/json

{"jsonrpc":"2.0","id":1,"error":{"code":-31039,"message":"the session is unknown, expired or ended: begin a new one","data":{"reason":"session_lost","retryable":true,"maybeExecuted":false,"attempts":0}}}
```

A Host that is not allowed:

```http
HTTP/1.1 421
content-type: application/json

{"jsonrpc":"2.0","id":null,"error":{"code":-31108,"message":"this Host is not served here; see allowedHosts","data":{"reason":"host_not_allowed","retryable":false,"maybeExecuted":false}}}
```

An error of the server itself, which passes as it is; a modern caller, then a legacy one:

```http
HTTP/1.1 400
content-type: application/json

{"jsonrpc":"2.0","id":1,"error":{"code":-32602,"message":"Unknown tool"}}
```

```http
HTTP/1.1 200
content-type: application/json

{"jsonrpc":"2.0","id":2,"error":{"code":-32602,"message":"Unknown tool"}}
```
"""


def errors_page() -> str:
    """The whole page."""
    lines = ["| Reason | Code | HTTP | Again | Side | Meaning | What to do |", "|---|---|---|---|---|---|---|"]
    for reason in Reason:
        meaning, advice = MEANINGS[reason.label]
        again = "yes" if reason.retryable else "no"
        lines.append(
            f"| `{reason.label}` | `{reason.code}` | {reason.status} | {again} | {side(reason)} | {meaning} | {advice} |"
        )
    refused = ["| Reason | Code | HTTP | Again | Meaning |", "|---|---|---|---|---|"]
    for fault in Fault:
        again = "yes" if fault.retryable else "no"
        refused.append(f"| `{fault.label}` | `{fault.code}` | {fault.status} | {again} | {REFUSALS[fault.label]} |")
    return HEAD + "\n".join(lines) + "\n" + REFUSED + "\n".join(refused) + "\n" + EXAMPLES
