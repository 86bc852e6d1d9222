"""Replicas of one server: a session that lives in one pod is found from every other, and its loss is told, not hidden.

The replicas are sidecars on 127.0.0.2 and up; `Spread` sends each request to the next of them, as a Service may.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from callers import eventually
from callers import stdio as tool_server
from certificates import Authority
from mcp_callers import Caller, legacy_server
from mcp_sidecar.front.sessions import Sessions, SessionSettings
from replicas import KEY, Replica, Spread, replicas, sockets
from sidecar_process import SidecarProcess, running
from tool_http_server import ToolHttpServer

LEGACY = "2025-06-18"
ABILITIES = {"sampling": {}, "roots": {}, "elicitation": {}}


def own(**settings: Any) -> dict[str, Any]:
    return {"servers": {"s": legacy_server(isolation="PerSession", **settings)}}


@contextmanager
def spread(config: dict[str, Any], count: int = 2, **options: Any) -> Iterator[tuple[list[Replica], Spread]]:
    with replicas(config, count, **options) as found, Spread(found) as front:
        yield found, front


def at(replica: Replica, caller: Caller) -> Caller:
    """The same caller, connected to a certain replica."""
    caller.url = replica.url()
    return caller


def forwarded(found: list[Replica], outcome: str = "answered") -> float:
    return sum(replica.forwarded(outcome) for replica in found)


def quiet(found: list[Replica]) -> bool:
    return all(replica.status()["front"]["forwarding"] == 0 for replica in found)


def test_a_session_works_through_every_replica() -> None:
    with spread(own(), 3) as (found, front):
        caller = Caller(front.url, version=LEGACY).open(ABILITIES)
        assert [caller.text("echo", text=str(n)) for n in range(9)] == [str(n) for n in range(9)]
        assert caller.told()[0]["params"]["capabilities"] == ABILITIES, "one process hears all of it"
        stream = caller.stream()
        assert stream.headers["content-type"] == "text/event-stream"
        update = {"method": "notifications/resources/updated", "params": {"uri": "test:a"}}
        caller.call("say", messages=[update]).wait()
        assert stream.next()["method"] == update["method"]
        assert [replica.status()["servers"]["s"]["upstream"]["ownSessions"] for replica in found] == [1, 0, 0]
        assert caller.delete().status == 200
        assert stream.wait().failed is None, "ended in good order"
        assert caller.send("ping").wait().status == 404
        assert set(front.seen.values()) <= {4, 5, 6}, "spread over all"
        assert forwarded(found) >= 8
        eventually(lambda: quiet(found))
        line = next(json.loads(raw) for replica in found for raw in replica.stderr if b'"forwarded"' in raw)
        assert (line["outcome"], line["replica"]) == ("answered", "127.0.0.2")
        caller.open()
        assert caller.text("echo", text="anew") == "anew"


def test_a_question_is_answered_through_another_replica() -> None:
    with spread(own(), 3) as (found, front):
        caller = Caller(front.url, version=LEGACY).open(ABILITIES)
        for turn, method in enumerate(["elicitation/create", "sampling/createMessage", "roots/list"] * 2):
            exchange = at(found[turn % 3], caller).call("ask", method=method, params={"n": turn})
            question = exchange.next()
            assert question["method"] == method
            assert at(found[(turn + 1) % 3], caller).respond(question["id"], result={"said": turn}).status == 202
            text = exchange.answer()["result"]["content"][0]["text"]
            assert json.loads(text)["answer"] == {"said": turn}


def test_a_cancel_reaches_the_call_through_another_replica() -> None:
    with spread(own(), 2) as (found, front):
        caller = at(found[0], Caller(front.url, version=LEGACY)).open()
        waiting = at(found[1], caller).call("wait", name="x", id="mine", meta={"progressToken": 1})
        assert waiting.next()["method"] == "notifications/progress"
        assert at(found[1], caller).notify("notifications/cancelled", {"requestId": "mine"}).status == 202
        assert waiting.answer()["error"]["data"]["reason"] == "cancelled"
        assert caller.text("release", name="x") == "no"


def test_a_caller_that_leaves_ends_what_is_passed_on() -> None:
    with spread(own(timeout="1s", totalTimeout="1s", retry={"maxRetries": 0}), 2) as (found, front):
        caller = at(found[0], Caller(front.url, version=LEGACY)).open()
        stream = at(found[1], caller).stream()
        eventually(lambda: found[0].status()["front"]["streams"] == 1)
        stream.disconnect()
        eventually(lambda: found[0].status()["front"]["streams"] == 0)
        waiting = caller.call("wait", name="x", meta={"progressToken": 1})
        waiting.next()
        waiting.disconnect()
        eventually(lambda: quiet(found))
        assert caller.text("echo", text="x") == "x"
        assert found[1].forwarded("cancelled") >= 1


def test_bodies_of_any_size_and_batches_pass() -> None:
    with spread(own(), 2) as (found, front):
        caller = at(found[0], Caller(front.url, version=LEGACY)).open()
        at(found[1], caller)
        text = "é" * 600_000
        assert caller.text("echo", text=text) == text
        exchange = caller.call("big", size=12_000_000)
        assert len(exchange.answer()["result"]["content"][0]["text"]) == 12_000_000
        assert at(found[1], caller).post(b"{").wait().status == 400
        old = at(found[0], Caller(front.url, version="2025-03-26")).open()
        batch = [{"jsonrpc": "2.0", "id": n, "method": "ping"} for n in range(3)]
        assert {message["id"] for message in at(found[1], old).post(batch).wait().rest() if message} == {0, 1, 2}


def test_a_slow_reader_holds_up_only_itself() -> None:
    """What it does not read stays with its server: the replica in between reads no faster than it does."""
    with spread(own(), 2) as (found, front):
        caller = at(found[0], Caller(front.url, version=LEGACY)).open()
        at(found[1], caller)
        body = json.dumps(
            {
                "jsonrpc": "2.0",
                "id": 7,
                "method": "tools/call",
                "params": {"name": "big", "arguments": {"size": 15_000_000}},
            }
        ).encode()
        head = ["POST /mcp HTTP/1.1", f"Host: {found[1].host}", *(f"{k}: {v}" for k, v in caller.headers().items())]
        head.append(f"Content-Length: {len(body)}")
        with socket.socket() as slow:
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
            slow.connect((found[1].host, found[1].port))
            slow.sendall("\r\n".join(head).encode() + b"\r\n\r\n" + body)
            assert slow.recv(100).startswith(b"HTTP/1.1 200")
            before = resident(found[1].pid)
            assert at(found[1], caller).text("echo", text="meanwhile") == "meanwhile"
            assert resident(found[1].pid) - before < 6_000_000
            slow.settimeout(20)
            size = 0
            while size < 15_000_000:
                size += len(slow.recv(1 << 20))


def resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_a_pod_that_is_gone_took_its_sessions_with_it() -> None:
    with spread(own(), 2) as (found, front):
        caller = at(found[0], Caller(front.url, version=LEGACY)).open()
        at(found[1], caller)
        stream = caller.stream()
        waiting = caller.call("wait", name="x", meta={"progressToken": 1})
        waiting.next()
        silent = caller.call("wait", name="y")
        eventually(lambda: found[1].status()["front"]["forwarding"] == 3)
        found[0].kill()
        for exchange in (waiting, silent):
            lost = exchange.answer()["error"]["data"]
            assert (lost["reason"], lost["maybeExecuted"]) == ("connection_lost", True)
            assert exchange.wait().status == 200, "SDK 1.x ends its session on a 5xx"
        assert stream.wait().failed is None
        answer = caller.send("ping").wait()
        assert (answer.status, answer.answer()["error"]["data"]["reason"]) == (404, "session_lost")
        assert caller.stream().status == 404
        assert caller.delete().status == 404
        assert caller.open().text("echo", text="anew") == "anew"
        assert found[1].forwarded("lost") == 2
        assert found[1].forwarded("gone") == 3


def test_a_pod_that_says_nothing_is_gone_too() -> None:
    with spread(own(), 2) as (found, front):
        caller = at(found[0], Caller(front.url, version=LEGACY)).open()
        os.kill(found[0].pid, signal.SIGSTOP)
        try:
            began = time.monotonic()
            assert at(found[1], caller).send("ping").wait().status == 404
            assert time.monotonic() - began < 5
        finally:
            os.kill(found[0].pid, signal.SIGCONT)
        assert caller.result("ping") == {}, "it was only slow"


def test_replicas_with_another_key_know_nothing() -> None:
    with replicas(own(), 1) as (one,), Replica(own(), "127.0.0.9", one.port, key="cd" * 32) as stranger:
        stranger.wait_for("/readyz")
        caller = at(one, Caller("", version=LEGACY)).open()
        assert at(stranger, caller).send("ping").wait().status == 404
        assert not any(stranger.forwarded(outcome) for outcome in ("answered", "gone", "lost", "cancelled"))
        # and one that has the key of tokens by chance, so to speak, is not believed by who has not
        token = Sessions(bytes.fromhex(KEY), SessionSettings()).open(
            server="s", version=LEGACY, identity=b"", instance="x", address="127.0.0.9"
        )
        caller.session = token.token
        assert at(one, caller).send("ping").wait().status == 404
        assert eventually(lambda: detail(one)) == "what answers there is no replica of ours"


def detail(replica: SidecarProcess) -> str | None:
    lines = [json.loads(line) for line in list(replica.stderr) if b'"forwarded"' in line]
    return lines[-1].get("detail") if lines else None


def test_who_has_the_address_now_is_not_given_the_callers_credentials() -> None:
    """The address of a pod that is gone may be another workload's."""
    heard: list[str] = []

    class Stranger(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            heard.append(f"{self.requestline}\n{self.headers}")
            self.send_response(200)
            self.send_header("Content-Length", "64")
            self.end_headers()
            self.wfile.write(b"0" * 64)

        do_POST = do_GET

        def log_message(self, format: str, *args: Any) -> None:
            return

    with replicas(own(), 1) as (one,):
        stranger = ThreadingHTTPServer(("127.0.0.9", one.port), Stranger)
        threading.Thread(target=stranger.serve_forever, args=(0.02,), daemon=True).start()
        try:
            sealed = Sessions(bytes.fromhex(KEY), SessionSettings()).open(
                server="s", version=LEGACY, identity=identity("t0ken"), instance="x", address="127.0.0.9"
            )
            caller = at(one, Caller("", version=LEGACY, token="t0ken"))
            caller.session = sealed.token
            assert caller.call("echo", text="private").wait().status == 404
        finally:
            stranger.shutdown()
            stranger.server_close()
    assert [line.split()[1] for line in heard] == ["/replica"]
    assert not any(word in heard[0] for word in ("t0ken", sealed.token, "private"))


def identity(token: str) -> bytes:
    from mcp_sidecar.front.admission import identity_of

    return identity_of(f"Bearer {token}".encode())


def test_a_request_is_passed_on_once() -> None:
    with spread(own(), 2) as (found, front):
        caller = at(found[0], Caller(front.url, version=LEGACY)).open()
        forged = {"Outrigger-Forwarded": "1"}
        assert caller.send("ping", headers=forged).wait().status == 200, "its own session"
        answer = at(found[1], caller).send("ping", headers=forged).wait()
        assert answer.status == 404
        assert forwarded(found) == 0
        assert caller.send("ping").wait().status == 200


def test_a_token_is_its_callers_own_everywhere() -> None:
    with spread(own(), 2) as (found, front):
        caller = at(found[0], Caller(front.url, version=LEGACY, token="mine")).open()
        assert at(found[1], caller).result("ping") == {}
        before = forwarded(found)
        thief = Caller(found[1].url(), version=LEGACY, token="other")
        thief.session = caller.session
        assert thief.send("ping").wait().status == 404
        nobody = Caller(found[1].url(), version=LEGACY)
        nobody.session = caller.session
        assert nobody.stream().status == 404
        assert nobody.delete().status == 404
        assert forwarded(found) == before, "the holder was not even asked"
        assert caller.result("ping") == {}


def test_bearer_tokens_are_checked_where_they_arrive(tmp_path: Path) -> None:
    for name in ("one", "other"):
        (tmp_path / name).write_text("t0ken")
    port = 0
    config = own()
    with replicas({**config, "front": tokens(tmp_path / "one")}, 1) as (one,):
        port = one.port
        with Replica({**config, "front": tokens(tmp_path / "other")}, "127.0.0.3", port) as other:
            other.wait_for("/readyz")
            caller = at(one, Caller("", version=LEGACY, token="t0ken")).open()
            assert at(other, caller).result("ping") == {}
            (tmp_path / "one").write_text("another")
            eventually(lambda: at(one, caller).send("ping").wait().status == 401)
            answer = at(other, caller).send("ping").wait()
            assert answer.status == 401, "passed back as it is"
            assert "www-authenticate" in answer.headers


def tokens(file: Path) -> dict[str, Any]:
    return {"tokens": [{"name": "t", "file": str(file)}]}


def test_an_unknown_proof_path_is_nothing_without_replicas() -> None:
    with running(own()) as sidecar:
        caller = Caller(sidecar.url().replace("/mcp", "/replica"), version=LEGACY)
        assert caller.stream().status == 404


def test_shared_processes_serve_everywhere() -> None:
    with spread({"servers": {"s": legacy_server()}}, 2) as (found, front):
        caller = at(found[0], Caller(front.url, version=LEGACY)).open()
        assert at(found[1], caller).text("echo", text="x") == "x"
        assert forwarded(found) == 0


def test_stateless_sessions_are_begun_anew_where_they_arrive() -> None:
    with spread(own(sessions="Stateless"), 2) as (found, front):
        caller = at(found[0], Caller(front.url, version=LEGACY)).open()
        assert at(found[1], caller).text("echo", text="x") == "x"
        assert forwarded(found) == 0


@pytest.mark.parametrize("stateless", [False, True])
def test_a_url_in_the_pod_holds_its_sessions(stateless: bool) -> None:
    more = {"sessions": "Stateless"} if stateless else {}
    with ToolHttpServer(modern=False) as first, ToolHttpServer(modern=False) as second:
        configs = [{"servers": {"s": {"url": server.url, **more}}} for server in (first, second)]
        with replicas(configs[0], 1) as (one,), Replica(configs[1], "127.0.0.3", one.port) as other:
            other.wait_for("/readyz")
            caller = at(one, Caller("", version=LEGACY)).open()
            before = len(first.calls())
            assert caller.result("tools/call", {"name": "echo", "arguments": {}})
            assert at(other, caller).result("tools/call", {"name": "echo", "arguments": {}})
            assert len(first.calls()) - before == (1 if stateless else 2)
            assert len(second.calls()) == (1 if stateless else 0)


@pytest.mark.parametrize("clients", [False, True])
def test_over_tls(tmp_path: Path, clients: bool) -> None:
    """Each has a certificate of its own, as for a while when one rotates: the key of sessions says who is who."""
    authority = Authority(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if clients:
        context.load_cert_chain(*authority.issue("caller", client=True))

    def config(name: str) -> dict[str, Any]:
        cert, key = authority.issue(name, names=("front.example",), client=clients)
        tls = {"certFile": str(cert), "keyFile": str(key)}
        return {**own(), "front": {"tls": tls | ({"clientCaFile": str(authority.ca_file)} if clients else {})}}

    with replicas(config("one"), 1) as (one,), Replica(config("other"), "127.0.0.3", one.port) as other:
        other.wait_for("/readyz")
        with Spread([one, other], context) as front:
            caller = Caller(front.url, version=LEGACY).open()
            assert [caller.text("echo", text=str(n)) for n in range(6)] == [str(n) for n in range(6)]
            stream = caller.stream()
            assert caller.delete().status == 200
            assert stream.wait().failed is None
        assert forwarded([one, other]) >= 3


def test_who_stands_between_two_replicas_is_found_out(tmp_path: Path) -> None:
    """It can pass the challenge on, but not have the proof name its own certificate."""
    authority, evil = Authority(tmp_path), Authority(tmp_path, "evil CA")
    cert, key = authority.issue("front", names=("front.example",))
    config = {**own(), "front": {"tls": {"certFile": str(cert), "keyFile": str(key)}}}
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    with replicas(config, 1) as (one,):
        # a replica behind somebody who has its address
        port = one.port
        hidden = Replica(config, "127.0.0.8", port, env={"OUTRIGGER__SESSIONS__ADDRESS": "127.0.0.9"})
        with hidden, Spread([hidden], client, address=("127.0.0.9", port), own=evil.server_context()):
            hidden.wait_for("/readyz")
            sealed = Sessions(bytes.fromhex(KEY), SessionSettings()).open(
                server="s", version=LEGACY, identity=b"", instance="x", address="127.0.0.9"
            )
            with Spread([one], client) as front:
                caller = Caller(front.url, version=LEGACY)
                caller.session = sealed.token
                assert caller.send("ping").wait().status == 404
            assert eventually(lambda: detail(one)) == "what answers there is no replica of ours"


def test_a_replica_that_shuts_down_ends_what_it_passes_on() -> None:
    with spread(own(), 2) as (found, front):
        caller = at(found[0], Caller(front.url, version=LEGACY)).open()
        stream = at(found[1], caller).stream()
        waiting = caller.call("wait", name="x", meta={"progressToken": 1})
        waiting.next()
        eventually(lambda: found[1].status()["front"]["forwarding"] == 2)
        os.kill(found[1].pid, signal.SIGTERM)
        assert stream.wait().failed is None, "in good order"
        assert at(found[0], caller).text("release", name="x") == "yes"
        assert waiting.answer()["result"], "calls may end"
        found[1].process.wait(20)
        assert caller.text("echo", text="x") == "x"


def test_a_connection_that_the_other_side_has_closed_is_not_used_again() -> None:
    config = {**own(), "front": {"idleTimeout": "300ms"}}
    with spread(config, 2) as (found, front):
        caller = at(found[0], Caller(front.url, version=LEGACY)).open()
        at(found[1], caller)
        for _ in range(5):
            assert caller.result("ping") == {}
            eventually(lambda: found[0].status()["front"]["connections"] == 0)
        assert forwarded(found) == 5


@pytest.mark.timeout(120)
def test_nothing_is_left_after_a_load() -> None:
    config = {"servers": {"s": tool_server(isolation="PerSession", maxSessions=64)}}
    with spread(config, 3) as (found, front):
        warm = Caller(front.url, version=LEGACY).open()
        warm.delete()
        eventually(lambda: all(len(replica.children()) == 1 for replica in found))
        before = [(sockets(replica.pid), replica.status()["tasks"]) for replica in found]
        failures: list[str] = []

        def client(number: int) -> None:
            try:
                for turn in range(2):
                    caller = Caller(front.url, version=LEGACY).open()
                    stream = caller.stream()
                    for call in range(6):
                        text = f"{number}-{turn}-{call}"
                        assert json.loads(caller.text("echo", text=text))["text"] == text
                    if turn % 2:
                        stream.disconnect()
                    caller.delete()
            except AssertionError as error:
                failures.append(repr(error))

        threads = [threading.Thread(target=client, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(90)
        assert not failures
        assert forwarded(found) > 50
        eventually(lambda: quiet(found))
        kept = 16  # idle connections to the two others
        for replica, (fds, tasks) in zip(found, before, strict=True):
            eventually(lambda replica=replica, fds=fds: sockets(replica.pid) <= fds + 2 * kept)
            eventually(lambda replica=replica, tasks=tasks: replica.status()["tasks"] <= tasks)
            eventually(lambda replica=replica: len(replica.children()) == 1)
