"""The rate limit: never more than the rate and the burst allow, never less, in a bounded table."""

from __future__ import annotations

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from mcp_sidecar.errors import Reason, Rejected
from mcp_sidecar.pipeline.rate_limit import Per, RateLimit, RateLimitSettings
from mcp_sidecar.pipeline.stack import compose
from pipeline_calls import Script, clock, make_call
from virtual_clock import START, on_virtual_loop


class Clock:
    now = START

    def __call__(self) -> float:
        return self.now


def make(rate: float, burst: int, per: Per = Per.SERVER, **more: int) -> tuple[RateLimit, Clock]:
    time = Clock()
    return RateLimit(RateLimitSettings(rate, burst, per, **more), clock=time), time


def test_burst_then_rate() -> None:
    limit, time = make(2.0, 3)
    assert [limit.take(None) for _ in range(3)] == [0.0, 0.0, 0.0]
    assert limit.take(None) == 0.5
    assert limit.take(None) == 0.5  # a refusal costs nothing
    time.now += 0.5
    assert limit.take(None) == 0.0
    assert limit.take(None) == 0.5
    time.now += 3600
    assert [limit.take(None) for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]


@on_virtual_loop
async def test_who_shares_a_bucket() -> None:
    cases = {
        Per.SERVER: ([{"identity": b"a"}, {"identity": b"b"}], 1),
        Per.CALLER: ([{"identity": b"a", "name": "x"}, {"identity": b"b", "name": "x"}], 2),
        Per.TOOL: ([{"identity": b"a", "name": "x"}, {"identity": b"a", "name": "y"}], 2),
    }
    for per, (callers, admitted) in cases.items():
        script = Script(0.0)
        limit = RateLimit(RateLimitSettings(0.1, 1, per), clock=clock)
        handler = compose([limit], script)
        refused = 0
        for fields in callers * 2:
            try:
                await handler(make_call(**fields))
            except Rejected as error:
                refused += 1
                said = error
        assert (script.attempts, refused, limit.refused) == (admitted, 4 - admitted, 4 - admitted), per
        assert (said.reason, said.retry_after) == (Reason.RATE_LIMITED, 10.0)


@on_virtual_loop
async def test_names_that_are_no_tools_make_no_buckets() -> None:
    limit = RateLimit(RateLimitSettings(100.0, 1000, Per.TOOL), clock=clock)
    handler = compose([limit], Script(0.0))
    for number in range(50):
        await handler(make_call("resources/read", name=f"file:///{number}"))
    assert limit.buckets == 1


def test_the_table_is_bounded() -> None:
    limit, time = make(1.0, 1, max_buckets=100)
    for number in range(10_000):
        assert limit.take(number) == 0.0
        assert limit.buckets <= 100
    assert limit.take(9_999) > 0
    assert limit.take(0) == 0.0  # forgotten long ago
    patient, time = make(10.0, 100, max_buckets=3)
    for number in range(50):
        patient.take("busy")
        patient.take(number)
    assert patient.take("busy") == 0.0
    assert patient._buckets["busy"] == pytest.approx(time.now + 5.1)  # never forgotten while it is used
    time.now += 10
    limit.clock = time
    for number in range(60):
        limit.take(f"new {number}")
    assert limit.buckets <= 60  # rested buckets are dropped as new ones come


def test_settings_change_while_it_works() -> None:
    limit, time = make(1.0, 1)
    limit.take(None)
    limit.reconfigure(RateLimitSettings(1.0, 5))
    assert [limit.take(None) for _ in range(5)] == [0.0, 0.0, 0.0, 0.0, 1.0]
    limit.reconfigure(RateLimitSettings(1.0, 5, Per.CALLER))
    assert limit.buckets == 0
    time.now += 1


class RateMachine(RuleBasedStateMachine):
    """Against an ordinary token bucket with fractions."""

    @initialize(rate=st.sampled_from([0.5, 1.0, 7.0]), burst=st.integers(1, 5))
    def begin(self, rate: float, burst: int) -> None:
        self.limit, self.time = make(rate, burst)
        self.rate, self.burst = rate, burst
        self.tokens = {key: float(burst) for key in "ab"}

    @rule(seconds=st.floats(0, 10))
    def wait(self, seconds: float) -> None:
        self.time.now += seconds
        self.tokens = {key: min(self.burst, each + seconds * self.rate) for key, each in self.tokens.items()}

    @rule(key=st.sampled_from("ab"))
    def take(self, key: str) -> None:
        wait = self.limit.take(key)
        if self.tokens[key] >= 1 + 1e-6:
            assert wait == 0.0
        elif self.tokens[key] <= 1 - 1e-6:
            assert wait == pytest.approx((1 - self.tokens[key]) / self.rate, abs=1e-5)
        if not wait:
            self.tokens[key] -= 1


TestRateMachine = RateMachine.TestCase
TestRateMachine.settings = hypothesis_settings(max_examples=80, stateful_step_count=40, deadline=None)
