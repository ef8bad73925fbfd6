from __future__ import annotations

from brakit_sidecar.core import counter_layout, rules
from brakit_sidecar.core.counter_layout import COUNTER_CELLS, FIRST_ROW, MAX_ROUTES, ROW, SIZE
from brakit_sidecar.core.schema import EXIT_REASONS

from tests.core import page

COUNTS = [name for name, promise in page.SESSION.items() if promise.rule in {"sum", "distinct"}]


def test_the_layout_of_version_1_never_changes() -> None:
    assert (counter_layout.VERSION, counter_layout.MAGIC.to_bytes(8, "big"), SIZE) == (
        1,
        b"brakslb1",
        8 * (16 + 8 * 1024),
    )
    assert COUNTER_CELLS == {
        "request_count": 2,
        "error_count": 3,
        "query_count": 4,
        "fetch_count": 5,
        "insight_count": 6,
        "finding_count": 7,
    }


def test_every_count_of_the_session_has_a_cell() -> None:
    assert {*COUNTER_CELLS} == {*COUNTS}


def test_the_counters_end_before_the_rows_begin() -> None:
    assert max(COUNTER_CELLS.values()) < FIRST_ROW == counter_layout.row_cell(0)


def test_the_last_row_ends_at_the_end_of_the_file() -> None:
    assert counter_layout.CELL * (counter_layout.row_cell(MAX_ROUTES) + ROW) == SIZE


def test_a_row_has_an_id_a_sum_and_six_buckets_and_fits_into_one_cache_line() -> None:
    assert 1 + len(rules.EMPTY_ROW) == ROW
    assert counter_layout.CELL * ROW == 64
    assert counter_layout.CELL * counter_layout.row_cell(0) % 64 == 0


def test_every_end_is_an_exit_reason() -> None:
    assert {end for end in counter_layout.ENDS if end} <= set(EXIT_REASONS)


def test_the_anonymous_id_cell_holds_the_first_half_of_the_id() -> None:
    assert counter_layout.anonymous_id_cell("0123abcd-89ef-4000-8000-000000000001") == 0x0123ABCD89EF4000
    assert counter_layout.anonymous_id_cell(None) == 0
