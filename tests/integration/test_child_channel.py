"""upstream/child.py with real processes on both loops: what servers do to us, and that nothing is left behind."""

from __future__ import annotations

import asyncio
import functools
import inspect
import itertools
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvloop

from mcp_sidecar.errors import Delivery, Reason, SecretError, UpstreamError
from mcp_sidecar.pipeline.call import Call, Era, Event
from mcp_sidecar.upstream.channel import StartError
from mcp_sidecar.upstream.child import ChildChannel, ChildSettings
from mcp_sidecar.upstream.multiplexer import Multiplexer
from mcp_sidecar.upstream.process import LIVE, child_environment
from process_table import alive, children, descriptors, exists, until

SCRIPT = str(Path(__file__).parent.parent / "children" / "scripted.py")


class Peer:
    def __init__(self) -> None:
        self.closed: list[UpstreamError] = []

    def on_notification(self, method: str, message: bytes) -> None: ...

    def on_request(self, id_raw: bytes, method: str, params: bytes | None, message: bytes) -> None: ...

    def on_closed(self, error: UpstreamError) -> None:
        self.closed.append(error)


class Server:
    """A scripted child with a multiplexer on it."""

    def __init__(self, *args: str, **options: Any) -> None:
        environment = options.pop("environment", {})
        self.log: list[str] = []
        redact = options.pop("redact", None)
        graces = {"stdin_grace": 5.0, "term_grace": 5.0, "kill_grace": 5.0}
        self.channel = ChildChannel(
            ChildSettings(sys.executable, ("-S", "-E", SCRIPT, *args), **{**graces, **options}),
            environment=environment if callable(environment) else lambda: child_environment(environment),
            clock=time.monotonic,
            log=self.log.append,
            redact=redact,
        )
        self.peer = Peer()
        self.mux = Multiplexer(self.channel, ids=itertools.count(1).__next__, clock=time.monotonic, peer=self.peer)

    async def call(self, do: str | None = None, call: Call | None = None, **params: Any) -> Any:
        reply = await self.mux.request("tools/call", json.dumps({"do": do, **params}).encode(), call=call)
        assert reply.result is not None
        return json.loads(reply.result)

    async def fails(self, do: str, **params: Any) -> UpstreamError:
        with pytest.raises(UpstreamError) as caught:
            await self.call(do, **params)
        return caught.value


@asynccontextmanager
async def server(*args: str, **options: Any) -> AsyncIterator[Server]:
    made = Server(*args, **options)
    await made.channel.open()
    try:
        yield made
    finally:
        await made.channel.close("test")


def both_loops(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run on uvloop and on asyncio; afterwards no process and no descriptor may be left."""

    def run(runner: Callable[[Coroutine[Any, Any, None]], None], **arguments: Any) -> None:
        uvloop.run(asyncio.sleep(0))  # libuv keeps a few descriptors for the whole process
        before, open_before = children(), descriptors()
        runner(asyncio.wait_for(test(**arguments), 30))  # type: ignore[arg-type]
        assert children() == before
        assert descriptors() <= open_before
        assert set() == LIVE

    marked = functools.wraps(test)(run)
    del marked.__wrapped__  # type: ignore[attr-defined]
    names = list(inspect.signature(test).parameters)
    marked.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in ["runner", *names]]
    )
    return pytest.mark.parametrize("runner", [uvloop.run, asyncio.run], ids=["uvloop", "asyncio"])(marked)


@both_loops
async def test_calls_are_answered_and_the_stop_is_clean() -> None:
    async with server() as s:
        answers = await asyncio.gather(*[s.call(n=n) for n in range(200)])
        assert [a["params"]["n"] for a in answers] == list(range(200))
        pid = s.channel.pid
    assert pid is not None
    assert not exists(pid)
    assert s.channel.exit_kind == "stopped"
    assert s.channel.exit_status is not None
    assert s.channel.exit_status.code == 0
    assert len(s.peer.closed) == 1


@pytest.mark.parametrize(
    ("do", "text", "kind"),
    [("exit", "exited with status 3", "error"), ("abort", "was killed by SIGKILL", "signal")],
)
@both_loops
async def test_crash_fails_all_in_flight_at_once(do: str, text: str, kind: str) -> None:
    async with server() as s:
        waiting = [asyncio.ensure_future(s.call("hang")) for _ in range(5)]
        await s.call()
        start = time.monotonic()
        error = await s.fails(do)
        others = await asyncio.gather(*waiting, return_exceptions=True)
        assert time.monotonic() - start < 2
        assert text in error.message
        for each in [error, *others]:
            assert isinstance(each, UpstreamError)
            assert each.reason is Reason.CHILD_EXITED
            assert each.delivery is Delivery.MAYBE
        assert s.channel.exit_kind == kind
        late = await s.fails("hang")
        assert late.delivery is Delivery.NOT_SENT


@both_loops
async def test_request_that_the_dead_process_never_read_was_not_sent() -> None:
    """The kernel had it, but the pipe still holds it when the last reader is gone: surely not executed."""
    async with server() as s:
        busy = asyncio.ensure_future(s.call("stop-reading"))
        first = s.mux._pending
        await until(lambda: sleeping(s.channel.pid))
        unread = asyncio.ensure_future(s.call("hang"))
        await until(lambda: len(first) == 2 and all(p.sent is not None and p.sent.delivered for p in first.values()))
        assert s.channel.pid is not None
        os.kill(s.channel.pid, signal.SIGKILL)
        read_error, unread_error = await asyncio.gather(busy, unread, return_exceptions=True)
        assert isinstance(read_error, UpstreamError)
        assert isinstance(unread_error, UpstreamError)
        assert read_error.delivery is Delivery.MAYBE
        assert unread_error.delivery is Delivery.NOT_SENT


def sleeping(pid: int | None) -> bool:
    """The process is in `time.sleep`, not in a read of its stdin."""
    syscall = Path(f"/proc/{pid}/syscall").read_text().split()
    return syscall[0] in {"230", "115", "35", "101"}  # (clock_)nanosleep on x86-64 and arm64


@both_loops
async def test_requests_beyond_the_pipe_are_not_sent() -> None:
    async with server(stdin_buffer=100_000) as s:
        hung = asyncio.ensure_future(s.call("stop-reading"))
        await until(lambda: sleeping(s.channel.pid))
        large = [asyncio.ensure_future(s.call("hang", text="x" * 60_000)) for _ in range(10)]
        await until(lambda: s.channel.congested)
        assert s.mux.in_flight == 11
        waiting = asyncio.ensure_future(s.call("hang"))
        await asyncio.sleep(0)
        withdrawn = large[-1]
        withdrawn.cancel()
        await asyncio.wait([withdrawn])
        assert s.mux.abandoned == 0
        assert s.channel.pid is not None
        os.kill(s.channel.pid, signal.SIGKILL)
        results = await asyncio.gather(hung, waiting, *large[1:-1], return_exceptions=True)
        deliveries = [r.delivery for r in results if isinstance(r, UpstreamError)]
        assert len(deliveries) == 10
        assert deliveries[0] is Delivery.MAYBE
        assert set(deliveries[1:]) == {Delivery.NOT_SENT}
        assert isinstance(large[0].exception(), UpstreamError)


@both_loops
async def test_noise_on_stdout_is_survived() -> None:
    async with server("--at-start", "banner") as s:
        assert (await s.call("garbage"))["params"]["do"] == "garbage"
        assert s.mux.garbage_lines == 3
        assert (await s.call())["params"] == {"do": None}


@both_loops
async def test_bad_utf8_in_an_answer_fails_that_call_only() -> None:
    async with server() as s:
        error = await s.fails("bad-utf8")
        assert error.reason is Reason.PROTOCOL_ERROR
        await s.call()


@both_loops
async def test_half_a_line_and_then_death() -> None:
    async with server() as s:
        error = await s.fails("half-line")
        assert error.delivery is Delivery.MAYBE


@both_loops
async def test_last_answer_without_newline_is_accepted() -> None:
    async with server() as s:
        assert await s.call("no-newline") == {"last": True}


@pytest.mark.parametrize("do", ["huge", "huge-id-last"])
@both_loops
async def test_answer_beyond_the_limit_fails_its_call_only(do: str) -> None:
    async with server(line_limit=1_048_576) as s:
        other = asyncio.ensure_future(s.call("hang"))
        error = await s.fails(do, kib=102_400 if do == "huge" else 2048)
        assert error.reason is Reason.RESULT_TOO_LARGE
        assert not other.done()
        await s.call()
        other.cancel()
        await asyncio.wait([other])


@both_loops
async def test_large_answer_within_the_limit_passes() -> None:
    async with server() as s:
        assert len((await s.call("huge", kib=8192))["text"]) == 8 * 1024 * 1024


@both_loops
async def test_large_request_passes() -> None:
    async with server() as s:
        text = "x" * 3_000_000
        answers = await asyncio.gather(*[s.call(text=text) for _ in range(3)])
        assert all(a["params"]["text"] == text for a in answers)


@both_loops
async def test_answer_byte_by_byte() -> None:
    async with server() as s:
        assert await s.call("drip") == {"slow": True}


@both_loops
async def test_flood_of_stderr_neither_blocks_nor_fills_the_log() -> None:
    async with server() as s:
        await s.call("stderr", kib=10_240)
        await until(lambda: s.channel.last_lines[-1:] == ["the last words"])
        assert len(s.log) < 1000
        assert s.channel.stderr_dropped > 90_000
        assert len(s.channel.last_lines) <= 20


@both_loops
async def test_stderr_is_logged_by_line_and_redacted() -> None:
    async with server(redact=lambda line: line.replace("words", "***")) as s:
        await s.call("stderr", kib=0)
        await until(lambda: s.log == ["the last ***"])
        assert s.channel.last_lines == ["the last ***"]


@both_loops
async def test_answers_twice_unknown_and_as_string() -> None:
    async with server() as s:
        await s.call("twice")
        assert (await s.call("unknown"))["params"]["do"] == "unknown"
        assert (await s.call("string-id"))["params"]["do"] == "string-id"
        await s.call()
        assert s.mux.unknown_ids == 5


@both_loops
async def test_server_that_ignores_term_is_killed() -> None:
    async with server(stdin_grace=0.05, term_grace=0.05) as s:
        await s.call("ignore-term")
        pid = s.channel.pid
    assert pid is not None
    assert not exists(pid)
    assert str(s.channel.exit_status) == "was killed by SIGKILL"
    assert s.channel.exit_kind == "stopped"


@both_loops
async def test_server_that_reads_no_end_of_stdin_is_asked_by_term() -> None:
    async with server(stdin_grace=0.05) as s:
        await s.call("exit-on-term")
    assert str(s.channel.exit_status) == "exited with status 7"


@both_loops
async def test_rest_of_the_group_is_asked_before_it_is_killed(tmp_path: Path) -> None:
    will = tmp_path / "will"
    async with server(stdin_grace=0.2) as s:
        await s.call("heir", path=str(will))
    assert will.read_text() == "ended in good order"


@both_loops
async def test_stopped_process_is_killed() -> None:
    async with server(stdin_grace=0.05, term_grace=0.05) as s:
        await s.call()
        assert s.channel.pid is not None
        os.kill(s.channel.pid, signal.SIGSTOP)
    assert not exists(s.channel.pid)


@both_loops
async def test_cancelled_close_kills_at_once() -> None:
    s = Server(stdin_grace=600.0)
    await s.channel.open()
    await s.call("ignore-term")
    closing = asyncio.ensure_future(s.channel.close("test"))
    await asyncio.sleep(0.01)
    closing.cancel()
    await asyncio.wait([closing])
    assert closing.cancelled()
    await until(lambda: not exists(s.channel.pid or 0))


@both_loops
async def test_close_twice_waits_for_the_same_end() -> None:
    s = Server()
    await s.channel.open()
    await s.call()
    await asyncio.gather(s.channel.close("one"), s.channel.close("two"))
    await s.channel.close("three")
    assert not exists(s.channel.pid or 0)


@both_loops
async def test_closed_stdout_is_death_and_the_process_is_ended() -> None:
    async with server(stdin_grace=600.0) as s:
        error = await s.fails("close-stdout")
        assert error.reason is Reason.CHILD_EXITED
        assert "closed its output" in error.message
        assert s.channel.pid is not None
        assert alive(s.channel.pid)
    assert not exists(s.channel.pid)


@both_loops
async def test_closed_stdin_delivers_what_was_answered_before() -> None:
    async with server(stdin_grace=600.0) as s:
        await s.call("close-stdin")
        error = await s.fails("hang")
        assert error.delivery is Delivery.NOT_SENT
        await until(lambda: bool(s.peer.closed))


@both_loops
async def test_grandchildren_die_with_a_stopped_server() -> None:
    async with server(stdin_grace=0.3, term_grace=0.05) as s:
        grandchild = (await s.call("grandchild"))["params"]["pid"]
        assert alive(grandchild)
    await until(lambda: not alive(grandchild), 1)


@both_loops
async def test_grandchildren_die_with_a_crashed_server() -> None:
    async with server() as s:
        with pytest.raises(UpstreamError):
            await asyncio.gather(s.call("grandchild-then-exit"), s.call("hang"))
        await until(lambda: not children_of_session(s.channel.pid or 0))


def children_of_session(leader: int) -> list[int]:
    """Living processes of the session that `leader` began."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit() and alive(int(entry)):
            try:
                if os.getsid(int(entry)) == leader:
                    found.append(int(entry))
            except ProcessLookupError:
                continue
    return found


@both_loops
async def test_environment_is_an_allow_list_and_read_at_the_start() -> None:
    os.environ["OUTRIGGER_TEST_SECRET"] = "ours"
    values = {"TOKEN": "first"}
    try:
        for value in ("first", "second"):
            values["TOKEN"] = value
            async with server(environment=lambda: child_environment(values), cwd="/") as s:
                told = (await s.call("environment"))["params"]
                assert told["environment"]["TOKEN"] == value
                assert "OUTRIGGER_TEST_SECRET" not in told["environment"]
                assert told["environment"]["PATH"] == os.environ["PATH"]
                assert told["cwd"] == "/"
                assert told["umask"] == 0o022
    finally:
        del os.environ["OUTRIGGER_TEST_SECRET"]


@both_loops
async def test_child_leads_a_session_dumps_no_core_and_inherits_no_descriptor() -> None:
    leaked = os.open("/dev/null", os.O_RDONLY)
    os.set_inheritable(leaked, True)
    try:
        async with server() as s:
            told = (await s.call("limits"))["params"]
            assert told == {"core": [0, 0], "session": True}
            assert (await s.call("files"))["params"]["files"] == ["0", "1", "2", "3"]
    finally:
        os.close(leaked)


@both_loops
async def test_progress_comes_back_with_the_callers_token() -> None:
    events: list[Any] = []

    class Sink:
        def emit(self, event: Event) -> None:
            events.append(json.loads(event.data)["params"])

    call = Call(
        server="s", id=b"7", method="tools/call", params=None, era=Era.LEGACY, version="2025-11-25", sink=Sink()
    )
    async with server() as s:
        await s.call("progress", call=call, _meta={"progressToken": "mine"})
    assert events == [{"progressToken": "mine", "progress": n} for n in range(3)]
    assert call.last_progress > 0


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        (ChildSettings("no-such-command-here"), "not_found"),
        (ChildSettings("/no/such/file"), "not_found"),
        (ChildSettings("/etc/passwd"), "not_executable"),
        (ChildSettings("/tmp"), "not_executable"),
        (ChildSettings("true", cwd="/no/such/directory"), "no_directory"),
        (ChildSettings("true", ("nul\0byte",)), "invalid"),
        (ChildSettings("true", ("x" * 3_000_000,)), "too_long"),
    ],
)
@both_loops
async def test_failed_start_says_what_failed(settings: ChildSettings, kind: str) -> None:
    environment = {"PATH": os.environ["PATH"], "SECRET": "hunter2"}
    channel = ChildChannel(settings, environment=lambda: environment, clock=time.monotonic)
    with pytest.raises(StartError) as caught:
        await channel.open()
    assert caught.value.kind == kind
    assert caught.value.reason is Reason.START_FAILED
    assert caught.value.delivery is Delivery.NOT_SENT
    assert (settings.cwd or settings.command) in caught.value.message
    assert "hunter2" not in caught.value.message
    await channel.close("never opened")


@both_loops
async def test_missing_interpreter_is_told_from_a_missing_command(tmp_path: Path) -> None:
    script = tmp_path / "server"
    script.write_text("#!/no/such/interpreter\n")
    script.chmod(0o755)
    channel = ChildChannel(ChildSettings(str(script)), environment=dict, clock=time.monotonic)
    with pytest.raises(StartError, match="interpreter"):
        await channel.open()


def descriptors_beyond(fd: int) -> int:
    """Open descriptors above `fd`. Opens none itself."""
    found = 0
    for candidate in range(fd + 1, fd + 40):
        try:
            os.fstat(candidate)
        except OSError:
            continue
        found += 1
    return found


@both_loops
async def test_no_descriptor_left_is_a_failed_start_and_leaks_none() -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    kinds: list[str] = []
    filled = [os.open("/dev/null", os.O_RDONLY)]
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))
    while filled[-1] <= highest:
        filled.append(os.open("/dev/null", os.O_RDONLY))  # no gap is left below the highest
    for room in range(9):
        channel = ChildChannel(ChildSettings("true"), environment=lambda: dict(os.environ), clock=time.monotonic)
        before = descriptors()
        resource.setrlimit(resource.RLIMIT_NOFILE, (filled[-1] + 1 + room, hard))
        try:
            await channel.open()
        except StartError as error:
            kinds.append(error.kind)
            assert descriptors_beyond(filled[-1]) == 0
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            await channel.close("test")
        await until(lambda before=before: descriptors() <= before)  # type: ignore[misc]
    for fd in filled:
        os.close(fd)
    assert len(kinds) >= 6
    assert set(kinds) == {"no_files"}


@both_loops
async def test_unreadable_secret_is_a_failed_start() -> None:
    def environment() -> dict[str, str]:
        raise SecretError("TOKEN: /secrets/token cannot be read")

    channel = ChildChannel(ChildSettings("true"), environment=environment, clock=time.monotonic)
    with pytest.raises(StartError, match="TOKEN") as caught:
        await channel.open()
    assert caught.value.kind == "secret"


@both_loops
async def test_without_pidfd_a_thread_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "pidfd_open")
    async with server() as s:
        await s.call()
        error = await s.fails("exit")
        assert "status 3" in error.message
    async with server() as s:
        await s.call()
