"""How soon an object that somebody else changed is put right: at once, but not for ever as fast as it is changed.

Another controller (a second installation of Outrigger, a policy engine) may want our objects otherwise; then each
repair is answered by another change. The first repairs of an object are immediate, further ones wait ever longer, until
it was left in peace for a while. What drift is, and the repair itself, is `applier`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

Place = tuple[str, str]
"""Kind and name."""

AT_ONCE = 3
LONGEST = 60.0
"""Seconds between two repairs of an object that is changed again and again."""
PEACE = 300.0
"""Seconds without a repair after which the next is immediate again."""


@dataclass(slots=True)
class Repairs:
    """Of the objects of one MCPServer. Times are monotonic seconds."""

    _made: dict[Place, tuple[int, float]] = field(default_factory=dict)

    def made(self, place: Place, now: float) -> int:
        """An object had to be put right; how often that was without peace."""
        times, last = self._made.get(place, (0, now))
        times = 1 if now - last > PEACE else times + 1
        self._made[place] = (times, now)
        return times

    def wait(self, place: Place, now: float) -> float:
        """Seconds until it may be put right again."""
        times, last = self._made.get(place, (0, now))
        if times < AT_ONCE:
            return 0.0
        return max(last + min(2.0 ** min(times - AT_ONCE + 1, 10), LONGEST) - now, 0.0)
