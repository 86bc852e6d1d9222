"""Streams that do not end by themselves: a modern caller's `subscriptions/listen`, a legacy caller's GET.

They are counted, have no time-out, and are ended in good order at shutdown: a listen stream by its result
(2026-07-28 `basic/patterns/subscriptions`, "Graceful Closure"), a GET by the end of its stream.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final

from mcp_sidecar.errors import CallError, Reason, Rejected
from mcp_sidecar.front.admission import forwarded
from mcp_sidecar.front.answer import Answer, shutting_down
from mcp_sidecar.front.sessions import Session
from mcp_sidecar.pipeline.call import Call, Reply, Source
from mcp_sidecar.protocol import translate

if TYPE_CHECKING:
    from mcp_sidecar.front.endpoint import Caller, Recorder

_END_TIMEOUT: Final = 5.0
"""Seconds that streams have at shutdown to say their last word."""


class CallerStreams:
    """The open streams of all callers."""

    def __init__(self, recorder: Recorder, clock: Callable[[], float]) -> None:
        self.ending = False
        """The sidecar shuts down: no new ones, and those that end do so in good order."""
        self._recorder = recorder
        self._clock = clock
        self._tasks: set[asyncio.Task[None]] = set()
        self._open: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._tasks)

    async def listen(self, caller: Caller, call: Call, answer: Answer) -> None:
        """Serve `subscriptions/listen` until an end: the caller's, the upstream's, or ours at shutdown."""
        await self._serve(caller, answer, call.id, self._listen(caller, call, answer))

    async def _listen(self, caller: Caller, call: Call, answer: Answer) -> None:
        reply: Reply | None = None
        failure: BaseException | None = None
        try:
            if caller.server.refusal is not None:
                raise Rejected(Reason.SERVER_NOT_READY, caller.server.refusal, retry_after=10.0)
            reply = await caller.server.upstream.listen(call)
            answer.reply(call.id, reply)
        except CallError as error:
            failure = error
            answer.fail(call.id, error, call)
        except asyncio.CancelledError as cancelled:
            failure = cancelled
            if self.ending and not answer.gone:
                reply = Reply(translate.listen_result(call.id), source=Source.SIDECAR)
                answer.reply(call.id, reply)
                failure = None
            raise
        finally:
            self._recorder.finished(call, reply, failure, self._clock())

    async def get(self, caller: Caller, answer: Answer, session: Session | None, version: str) -> None:
        """Serve a legacy GET stream."""
        await self._serve(caller, answer, b"null", self._get(caller, answer, session, version))

    async def _get(self, caller: Caller, answer: Answer, session: Session | None, version: str) -> None:
        request = caller.request
        if session is not None:
            session.streams += 1
        try:
            await caller.server.upstream.stream(
                session,
                answer,
                version=version,
                last_event_id=request.headers.get(b"last-event-id"),
                headers=forwarded(request.headers, authorization=caller.server.settings.forward_authorization),
            )
            answer.end()
        except CallError as error:
            if not request.responded and getattr(error, "status", None) == 405:
                request.respond(405, headers=((b"allow", b"POST, DELETE"),))
            elif request.streaming:
                answer.end()
            else:
                answer.fail(b"null", error)
        except asyncio.CancelledError:
            if self.ending:
                answer.end()
            raise
        finally:
            if session is not None:
                session.streams -= 1

    async def _serve(self, caller: Caller, answer: Answer, id: bytes, stream: Coroutine[Any, Any, None]) -> None:
        """Run a stream in a task of its own, so that its end by us is not the end of the request's task."""
        if self.ending:
            stream.close()
            answer.fail(id, shutting_down())
            return
        server = caller.server
        if self._open[server.name] >= server.settings.max_streams:
            # each holds a connection: without a bound they would leave none for calls
            stream.close()
            bound = server.settings.max_streams
            answer.fail(id, Rejected(Reason.TOO_MANY_STREAMS, f"{bound} streams are open already", retry_after=5.0))
            return
        self._open[server.name] += 1
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(stream, name="caller-stream")
        self._tasks.add(task)
        caller.request.on_disconnect(lambda: _cancel(task))
        try:
            await asyncio.wait((task,))
        finally:
            self._open[server.name] -= 1
            self._tasks.discard(task)
            if not task.done():
                task.cancel()
            elif not task.cancelled():
                task.result()

    async def end(self) -> None:
        """End all of them in good order, and begin no other."""
        self.ending = True
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=_END_TIMEOUT)


def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
