"""The fast path by itself: a count is one store, which no thread and no signal handler interrupts."""

from __future__ import annotations

import dis
import signal
import sys
import threading
import time
from array import array
from typing import TYPE_CHECKING, Any

import pytest
from brakit_sidecar.client import counting
from brakit_sidecar.client import producer as producing
from brakit_sidecar.client.counting import HAS_ATOMIC_STEP, CellCounter
from brakit_sidecar.client.place import Place
from brakit_sidecar.client.producer import Producer
from brakit_sidecar.core import counter_layout
from brakit_sidecar.core.counter_layout import NO_CONFIG
from brakit_sidecar.core.counter_snapshot import CounterSnapshot
from brakit_sidecar.core.destination import NOWHERE

from tests.harness import PATIENCE_S, new_id

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

FULL = 2**64 - 1


class Slow(list[Any]):
    """The numbers that the fast path did not count."""

    def __call__(self, n: Any) -> None:
        self.append(n)


def cells(*values: int) -> memoryview:
    return memoryview(array("Q", values))


@pytest.fixture
def slow() -> Slow:
    return Slow()


@pytest.fixture
def counter(slow: Slow) -> CellCounter:
    return CellCounter(slow)


# --- bound, rebound, unbound ----------------------------------------------------------------------------------


def test_a_counter_that_was_never_bound_counts_slowly(counter: CellCounter, slow: Slow) -> None:
    counter.inc()
    counter.inc(3)
    assert slow == [1, 3]


def test_a_bound_counter_writes_its_own_cell_only(counter: CellCounter, slow: Slow) -> None:
    target = cells(10, 20, 30)
    counter.bind(target, 1)
    counter.inc()
    counter.inc()
    assert target.tolist() == [10, 22, 30]
    assert slow == []


def test_a_counter_starts_from_the_value_of_its_cell(counter: CellCounter) -> None:
    target = cells(0)
    counter.bind(target, 0)
    counter.inc()
    target[0] = 100
    counter.bind(target, 0)
    counter.inc()
    assert target[0] == 101


def test_a_rebound_counter_does_not_write_its_former_cell(counter: CellCounter) -> None:
    first, second = cells(0), cells(0)
    counter.bind(first, 0)
    counter.inc()
    counter.bind(second, 0)
    counter.inc()
    counter.inc()
    assert (first[0], second[0]) == (1, 2)


def test_an_unbound_counter_counts_slowly_again(counter: CellCounter, slow: Slow) -> None:
    target = cells(0)
    counter.bind(target, 0)
    counter.inc()
    counter.bind((), 0)
    counter.inc()
    assert (target[0], slow) == (1, [1])


@pytest.mark.parametrize("n", [1, 2, 0, -1, True, 1.0, "1", (), object()])
def test_a_count_with_an_argument_is_validated_first(counter: CellCounter, slow: Slow, n: Any) -> None:
    target = cells(0)
    counter.bind(target, 0)
    counter.inc(n)
    assert (target[0], slow) == (0, [n])


def test_add_adds_to_the_earlier_counts(counter: CellCounter) -> None:
    target = cells(0)
    counter.bind(target, 0)
    counter.inc()
    counter.add(5)
    counter.inc()
    assert target[0] == 7


def test_a_full_cell_stays_full_without_an_exception(counter: CellCounter, slow: Slow) -> None:
    target = cells(FULL - 1)
    counter.bind(target, 0)
    for _ in range(3):
        counter.inc()
    assert (target[0], slow) == (FULL, [])


# --- one step -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["inc", "add"])
def test_no_thread_switch_can_happen_between_loading_and_storing_the_count(counter: CellCounter, path: str) -> None:
    """CPython switches threads and runs signal handlers only at calls and at backward jumps."""
    steps = [(step.opname, step.argval) for step in dis.get_instructions(getattr(counter, path))]
    loaded = max(at for at, step in enumerate(steps) if step == ("LOAD_DEREF", "count"))
    stored = steps.index(("STORE_DEREF", "count"))
    between = [name for name, _ in steps[loaded:stored]]
    assert "STORE_SUBSCR" in between
    assert not [name for name in between if "CALL" in name or "JUMP" in name or name in {"RESUME", "YIELD_VALUE"}]


@pytest.fixture
def frequent_switches() -> Iterator[None]:
    """Make threads switch as often as possible."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def in_threads(work: Callable[[], None], number: int = 8) -> None:
    together = threading.Barrier(number)

    def run() -> None:
        together.wait()
        work()

    threads = [threading.Thread(target=run) for _ in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.mark.usefixtures("frequent_switches")
@pytest.mark.skipif(not HAS_ATOMIC_STEP, reason="this Python never binds a cell")
def test_threads_lose_no_count_of_a_bound_counter(counter: CellCounter) -> None:
    target = cells(0)
    counter.bind(target, 0)

    def work() -> None:
        for _ in range(20_000):
            counter.inc()

    in_threads(work)
    assert target[0] == 160_000


def test_a_signal_handler_that_counts_loses_no_count(counter: CellCounter) -> None:
    target, handled, counted = cells(0), 0, 0

    def handler(*_: object) -> None:
        nonlocal handled
        handled += 1
        counter.inc()

    counter.bind(target, 0)
    before = signal.signal(signal.SIGVTALRM, handler)
    signal.setitimer(signal.ITIMER_VIRTUAL, 0.0005, 0.0005)
    deadline = time.monotonic() + PATIENCE_S
    try:
        while handled < 20:
            counter.inc()
            counted += 1
            assert counted % 100_000 or time.monotonic() < deadline
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
    assert target[0] == counted + handled


# --- Pythons without an atomic step -----------------------------------------------------------------------------


def producer_without_daemon(directory: Path) -> Producer:
    session = new_id()
    key = session.encode()[:16]
    place = Place(str(directory / "none.sock"), {"session": session}, key, destination=NOWHERE, stamp=NO_CONFIG)
    return Producer(place, "python")


def counted_by(producer: Producer) -> CounterSnapshot:
    assert producer._link is not None
    contents = CounterSnapshot.of(bytes(producer._link.unsent.counter_file.cells))
    assert contents is not None
    return contents


@pytest.fixture(params=[True, False], ids=["bound cells", "unbound cells"])
def producer(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Producer]:
    if request.param and not HAS_ATOMIC_STEP:
        pytest.skip("this Python never binds a cell")
    monkeypatch.setattr(counting, "HAS_ATOMIC_STEP", request.param)
    producer = producer_without_daemon(tmp_path)
    yield producer
    producer.close()


@pytest.mark.usefixtures("frequent_switches")
def test_threads_lose_no_count_in_any_way_of_counting(producer: Producer) -> None:
    requests, errors = producer.counter("request_count"), producer.counter("error_count")

    def work() -> None:
        for number in range(1000):
            requests.inc()
            errors.inc(2)
            producer.incr("query_count")
            producer.incr("query_count", 2)
            producer.request(f"GET /{number % 5}", 1.5)
            producer.request("GET /untimed")

    in_threads(work)
    found = counted_by(producer)
    assert found.counts == {"request_count": 24_000, "error_count": 16_000, "query_count": 24_000}
    assert [*found.rows.values()] == [(2_400_000_000, 1600, 0, 0, 0, 0, 0)] * 5


def test_without_an_atomic_step_no_cell_is_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counting, "HAS_ATOMIC_STEP", False)
    producer = producer_without_daemon(tmp_path)
    counted = []
    monkeypatch.setattr(producing, "_incr", lambda _unsent, _counts, field, n: counted.append((field, n)))
    producer.counter("request_count").inc()
    producer.incr("request_count")
    assert counted == [("request_count", 1)] * 2
    producer.close()


def test_a_count_after_the_close_is_ignored(producer: Producer) -> None:
    requests = producer.counter("request_count")
    requests.inc()
    producer.close()
    requests.inc()
    producer.incr("request_count")
    producer.request("GET /", 1)
    assert producer._link is None


def test_each_call_after_a_fork_counts_once_in_the_childs_own_file(producer: Producer) -> None:
    """A child is reset first. It then counts in a counter file of its own, and does not write to its parent's file."""
    requests = producer.counter("request_count")
    requests.inc()
    assert producer._link is not None
    parents_cells = producer._link.unsent.counter_file.cells
    producer.reset()
    requests.inc()
    producer.incr("request_count", 2)
    producer.counter("request_count").inc()
    assert counted_by(producer).counts == {"request_count": 4}
    assert parents_cells[counter_layout.COUNTER_CELLS["request_count"]] == 1
