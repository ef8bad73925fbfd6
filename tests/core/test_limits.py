from __future__ import annotations

import pytest
from brakit_sidecar.core import limits

from tests.core import page


@pytest.mark.parametrize(
    ("raw", "admitted"),
    [
        (1, 1),
        (page.COUNT_MAX, page.COUNT_MAX),
        (page.COUNT_MAX + 1, None),
        (0, None),
        (-1, None),
        (1.0, None),
        (True, None),
        ("1", None),
        (None, None),
    ],
)
def test_an_increment_is_an_integer_from_1_to_the_largest_count(raw: object, admitted: int | None) -> None:
    assert limits.admit_increment(raw) == admitted


@pytest.mark.parametrize("raw", [0, 0.0, 0.25, 12.5, 86_400_000, 86_400_000.0])
def test_a_valid_duration_is_returned_unchanged(raw: float) -> None:
    assert limits.admit_duration(raw) == raw


@pytest.mark.parametrize(
    "raw", [-1, -0.001, 86_400_000.001, 86_400_001, 10**400, float("nan"), float("inf"), True, "1", None, [1]]
)
def test_a_duration_that_is_above_a_day_or_below_zero_or_not_a_number_is_refused(raw: object) -> None:
    assert limits.admit_duration(raw) is None


@pytest.mark.parametrize(
    ("duration_ms", "bucket"),
    [
        (0, "<200ms"),
        (199.999999, "<200ms"),
        (200, "200-500ms"),
        (499.999999, "200-500ms"),
        (500, "500-1000ms"),
        (1000, "1000-2000ms"),
        (2000, "2000-5000ms"),
        (4999.999999, "2000-5000ms"),
        (5000, ">5000ms"),
        (86_400_000, ">5000ms"),
    ],
)
def test_a_bucket_includes_its_lower_edge(duration_ms: float, bucket: str) -> None:
    assert limits.BUCKETS[limits.bucket_of(duration_ms)] == bucket


def test_the_name_of_the_overflow_row_is_not_an_opaque_id() -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        int(limits.OVERFLOW_ROUTE, 16)
