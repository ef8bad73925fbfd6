"""The timers: calls that are due at a given time."""

from __future__ import annotations

from brakit_sidecar.daemon.timers import NEVER, Timers


def test_a_call_is_made_once_at_its_time() -> None:
    timers, calls = Timers(), list[str]()
    timers.call_at(10.0, lambda: calls.append("ten"))
    timers.run(9.9)
    assert calls == []
    timers.run(10.0)
    timers.run(11.0)
    assert calls == ["ten"]


def test_calls_are_made_by_due_time_and_then_in_the_order_in_which_they_were_scheduled() -> None:
    timers, calls = Timers(), list[str]()
    for when, name in ((2.0, "b"), (1.0, "a"), (2.0, "c")):
        timers.call_at(when, lambda name=name: calls.append(name))  # type: ignore[misc]
    timers.run(5.0)
    assert calls == ["a", "b", "c"]


def test_the_next_due_time_is_the_earliest() -> None:
    timers = Timers()
    assert timers.next_due == NEVER
    timers.call_at(2.0, lambda: None)
    timers.call_at(1.0, lambda: None)
    assert timers.next_due == 1.0
    timers.run(1.0)
    assert timers.next_due == 2.0
    timers.run(2.0)
    assert timers.next_due == NEVER


def test_a_call_may_schedule_another_call() -> None:
    timers, calls = Timers(), list[float]()

    def schedule_another() -> None:
        calls.append(1.0)
        timers.call_at(2.0, lambda: calls.append(2.0))

    timers.call_at(1.0, schedule_another)
    timers.run(3.0)
    assert calls == [1.0, 2.0]
