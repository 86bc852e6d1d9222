"""A legacy caller on a modern server: what the server needs to know is asked of the caller in its own way.

A modern server answers `input_required` and is asked again with the responses (2026-07-28 `basic/patterns/mrtr`); a
legacy caller is sent requests on the stream of its call and posts the responses (2025-11-25 `client/*`).
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import Final

from msgspec import Raw

from mcp_sidecar.errors import Delivery, Reason, UpstreamError
from mcp_sidecar.pipeline.call import Call, Event, Reply
from mcp_sidecar.protocol import envelope, translate
from mcp_sidecar.upstream.audience import SharedSession
from mcp_sidecar.upstream.multiplexer import Multiplexer

MAX_ROUNDS: Final = 10
"""As the SDK's client: a server that asks for ever must not hold a call for ever."""

_serial = itertools.count(1)


async def answer_inputs(
    call: Call, state: SharedSession, multiplexer: Multiplexer, clock: Callable[[], float]
) -> Reply:
    """Send a legacy caller's request to a modern server, with as many rounds of input as it needs."""
    capabilities = call.session.capabilities
    client_info = call.session.client_info or None
    params = call.params
    for _ in range(MAX_ROUNDS):
        sent = translate.modern_params(
            params, capabilities=capabilities, client_info=client_info, log_level=state.level
        )
        reply = await multiplexer.request(call.method, sent, call=call)
        if reply.result is None or envelope.result_head(reply.result).result_type != "input_required":
            return reply
        parts = envelope.members(reply.result)
        requests = _requests(parts.get("inputRequests"))
        responses = await _ask(call, state, requests, clock)
        if isinstance(responses, Reply):
            return responses
        params = translate.input_params(call.params, responses, parts.get("requestState"))
    raise UpstreamError(
        Reason.PROTOCOL_ERROR, f"the server asked for input more than {MAX_ROUNDS} times", delivery=Delivery.ANSWERED
    )


def _requests(raw: Raw | None) -> dict[str, Raw]:
    if raw is None:
        return {}
    try:
        return envelope.members(raw)
    except envelope.EnvelopeError:
        raise _illegible() from None


async def _ask(
    call: Call, state: SharedSession, requests: dict[str, Raw], clock: Callable[[], float]
) -> dict[str, bytes] | Reply:
    """Ask the caller all of it at once; time stands still meanwhile.

    A caller that answers by an error gets that error as the answer to its call: a modern server cannot be told of it,
    and asked again without the response it would ask again.
    """
    loop = asyncio.get_running_loop()
    waiting: dict[str, tuple[bytes, asyncio.Future[Reply]]] = {}
    try:
        for key, raw in requests.items():
            method, params = _request(raw)
            id = b'"outrigger-%d"' % next(_serial)
            future: asyncio.Future[Reply] = loop.create_future()
            state.asked[id] = future
            waiting[key] = (id, future)
            call.emit(Event(envelope.request(id, method, params)))
        call.pause(clock())
        responses = {}
        for key, (_, future) in waiting.items():
            reply = await future
            if reply.result is None:
                return reply
            responses[key] = reply.result
        return responses
    finally:
        call.resume(clock())
        for id, future in waiting.values():
            state.asked.pop(id, None)
            if not future.done():
                future.cancel()
            elif not future.cancelled():
                future.exception()


def _request(raw: Raw) -> tuple[str, bytes | None]:
    """Method and params of one of `inputRequests`. Raises UpstreamError where it is none."""
    try:
        parts = envelope.members(raw)
        return envelope.text(parts["method"]), bytes(parts["params"]) if "params" in parts else None
    except (KeyError, ValueError):
        raise _illegible() from None


def _illegible() -> UpstreamError:
    return UpstreamError(
        Reason.PROTOCOL_ERROR, "the server asked for input in no legible way", delivery=Delivery.ANSWERED
    )
