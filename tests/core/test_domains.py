from __future__ import annotations

from fractions import Fraction
from math import floor
from typing import TYPE_CHECKING, Any

import pytest
from brakit_sidecar.core import domains
from brakit_sidecar.core.domains import BOOL, BUCKET, COUNT, MS, MS_OR_NULL, PORT, OsRelease, Version, Word, Words
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.core import page
from tests.core.strategies import json_values

if TYPE_CHECKING:
    from brakit_sidecar.core.domains import Domain

FRAMEWORK = Word(("flask", "unknown", "other"))
EXIT = Word(("clean", "unknown"))
COMMAND = Word(("run", "other"))
ADAPTERS = Words(("pg", "prisma", "other"))
NODE = Version(None, prefix="v")
BRAKIT = Version("unknown")
OS = OsRelease(("linux", "darwin", "other"))

EVERY: dict[str, Domain] = {
    "framework": FRAMEWORK,
    "exit": EXIT,
    "command": COMMAND,
    "adapters": ADAPTERS,
    "node": NODE,
    "brakit": BRAKIT,
    "os": OS,
    "bool": BOOL,
    "bucket": BUCKET,
    "count": COUNT,
    "seconds": domains.SECONDS,
    "port": PORT,
    "ms": MS,
    "ms or null": MS_OR_NULL,
}
each_domain = pytest.mark.parametrize("domain", EVERY.values(), ids=EVERY.keys())

PRIVATE_TEXTS = st.sampled_from(["/home/ada", "linux-ada", "linux-1.2.3-ada", "1.2.3-ada", "v1.2.3+ada", "flask ada"])


@each_domain
@settings(max_examples=50)  # examples for each of fourteen domains
@given(raw=json_values)
def test_an_admitted_value_is_admitted_again_unchanged(domain: Domain, raw: object) -> None:
    admitted = domain.admit(raw)
    assert admitted is None or domain.admit(admitted) == admitted


@each_domain
@settings(max_examples=50)  # examples for each of fourteen domains
@given(raw=json_values | PRIVATE_TEXTS)
def test_a_domain_admits_only_texts_of_its_own_words_and_numbers(domain: Domain, raw: object) -> None:
    admitted = domain.admit(raw)
    texts = admitted if isinstance(admitted, list) else [admitted] if isinstance(admitted, str) else []
    assert all(text in domain.text or set(text) <= set("v.0123456789") or domain is OS for text in texts)
    assert "ada" not in str(admitted)


@each_domain
def test_null_is_not_admitted_by_any_domain(domain: Domain) -> None:
    assert domain.admit(None) is None


@pytest.mark.parametrize(
    ("domain", "default"),
    [
        (BOOL, False),
        (COUNT, 0),
        (PORT, 0),
        (MS, 0),
        (MS_OR_NULL, None),
        (FRAMEWORK, "unknown"),
        (EXIT, "unknown"),
        (COMMAND, "other"),
        (BUCKET, "none"),
        (ADAPTERS, []),
        (NODE, None),
        (BRAKIT, "unknown"),
        (OS, "other-0.0.0"),
    ],
    ids=lambda case: type(case).__name__,
)
def test_the_default_value_of_each_domain(domain: Domain, default: object) -> None:
    assert domain.default == default


@pytest.mark.parametrize(
    ("domain", "text"),
    [
        (BOOL, "true or false"),
        (COUNT, "count, 0 to 9007199254740991"),
        (domains.SECONDS, "whole seconds, 0 to 9007199254740991"),
        (PORT, "port, 1 to 65535"),
        (MS, "whole ms, 0 to 86400000"),
        (MS_OR_NULL, "whole ms, 0 to 86400000 or null"),
        (EXIT, "one of clean, unknown"),
        (ADAPTERS, "sorted list of pg, prisma, other"),
        (NODE, "vd.d.d or null"),
        (BRAKIT, "d.d.d or unknown"),
        (OS, "one of linux, darwin, other, then -d.d.d"),
    ],
    ids=lambda case: type(case).__name__,
)
def test_the_text_of_a_domain_describes_its_values(domain: Domain, text: str) -> None:
    assert domain.text == text


@pytest.mark.parametrize(("raw", "admitted"), [(True, True), (False, False), (1, None), (0, None), ("true", None)])
def test_only_true_and_false_are_booleans(raw: object, admitted: bool | None) -> None:
    assert BOOL.admit(raw) is admitted


@pytest.mark.parametrize(
    ("raw", "admitted"),
    [
        (0, 0),
        (page.COUNT_MAX, page.COUNT_MAX),
        (page.COUNT_MAX + 1, None),
        (-1, None),
        (3.0, None),
        (True, None),
        ("3", None),
        ([3], None),
    ],
)
def test_a_count_is_a_whole_number_from_0_to_the_largest_count(raw: object, admitted: int | None) -> None:
    assert COUNT.admit(raw) == admitted


@pytest.mark.parametrize(("raw", "admitted"), [(0, None), (1, 1), (65_535, 65_535), (65_536, None)])
def test_a_port_is_a_number_from_1_to_65535(raw: int, admitted: int | None) -> None:
    assert PORT.admit(raw) == admitted


@pytest.mark.parametrize("raw", [-1, 86_400_001, 10**400, float("nan"), float("inf"), True, "1", None])
def test_milliseconds_reject_everything_except_a_duration_of_at_most_one_day(raw: object) -> None:
    assert MS.admit(raw) is None


@each_domain
def test_a_value_outside_a_domain_is_coerced_to_the_default(domain: Domain) -> None:
    assert domain.coerce(object()) == domain.default


@pytest.mark.parametrize(
    ("raw", "admitted"),
    [(42, 42), (0.4, 0), (0.5, 1), (1.5, 2), (2.5, 3), (0.49999999999999994, 0), (86_399_999.5, 86_400_000)],
)
def test_milliseconds_round_half_up(raw: float, admitted: int) -> None:
    assert MS.admit(raw) == admitted


@given(st.floats(0, page.DAY_MS))
def test_milliseconds_round_half_up_exactly(raw: float) -> None:
    assert MS.admit(raw) == MS_OR_NULL.admit(raw) == floor(Fraction(raw) + Fraction(1, 2))


@pytest.mark.parametrize(
    ("domain", "raw", "admitted"),
    [
        (FRAMEWORK, "flask", "flask"),
        (FRAMEWORK, "unknown", "unknown"),
        (FRAMEWORK, "my-own-framework", "other"),
        (FRAMEWORK, "Flask", "other"),
        (FRAMEWORK, "", "other"),
        (EXIT, "clean", "clean"),
        (EXIT, "segfault", "unknown"),
        (COMMAND, "deploy", "other"),
        (BUCKET, ">5000ms", ">5000ms"),
        (BUCKET, "quite slow", "none"),
        (FRAMEWORK, 1, None),
        (FRAMEWORK, True, None),
        (FRAMEWORK, ["flask"], None),
    ],
)
def test_a_word_outside_the_vocabulary_becomes_other_or_the_default(
    domain: Word, raw: object, admitted: str | None
) -> None:
    assert domain.admit(raw) == admitted


def test_an_admitted_word_is_the_vocabularys_object_and_not_the_producers_object() -> None:
    raw = b"flask".decode()  # an equal string that is another object
    assert FRAMEWORK.admit(raw) is FRAMEWORK.words[0]


@pytest.mark.parametrize(
    ("raw", "admitted"),
    [
        ([], []),
        (["prisma", "pg", "prisma"], ["pg", "prisma"]),
        (["pg", "my-own-adapter", "another"], ["other", "pg"]),
        (["pg", 1], None),
        ("pg", None),
        ({"pg": 1}, None),
        (("pg",), None),
    ],
)
def test_a_set_of_words_is_sorted_and_has_each_word_once(raw: object, admitted: list[str] | None) -> None:
    assert ADAPTERS.admit(raw) == admitted


@pytest.mark.parametrize(
    ("domain", "raw", "admitted"),
    [
        (BRAKIT, "0.1.7", "0.1.7"),
        (BRAKIT, "v0.1.7", "0.1.7"),
        (BRAKIT, "0.10.2-canary.ada", "0.10.2"),
        (BRAKIT, "3.13.0rc1+ada", "3.13.0"),
        (BRAKIT, "1.2.3.4", None),
        (BRAKIT, "10.0.0.7 ada-laptop", None),
        (BRAKIT, "10.0.0. 7", "10.0.0"),
        (BRAKIT, "1.2.3.dev4", "1.2.3"),
        (BRAKIT, "01.002.0003", "1.2.3"),
        (BRAKIT, "99.99.99", "99.99.99"),
        (BRAKIT, "1.2.100", None),
        (BRAKIT, "1.100.3", None),
        (BRAKIT, "100.2.3", None),
        (BRAKIT, "555.123.4567", None),
        (BRAKIT, "1.2", None),
        (BRAKIT, "ada 1.2.3", None),
        (BRAKIT, "unknown", None),
        (BRAKIT, 1.2, None),
        (NODE, "v20.11.0", "v20.11.0"),
        (NODE, "20.11.0", "v20.11.0"),
        (NODE, "v22.0.0-nightly2024", "v22.0.0"),
        (NODE, ["v20.11.0"], None),
    ],
)
def test_a_version_is_three_numbers_without_a_suffix(domain: Version, raw: object, admitted: str | None) -> None:
    assert domain.admit(raw) == admitted


@pytest.mark.parametrize(
    ("raw", "admitted"),
    [
        ("linux-6.18.44", "linux-6.18.44"),
        ("linux-6.18.44-1-ada-desktop", "linux-6.18.44"),
        ("linux-5.15.167.4-microsoft-standard-WSL2", "linux-5.15.167"),
        ("darwin-24.6.0", "darwin-24.6.0"),
        ("darwin-14.1-RELEASE9", "darwin-14.1.0"),
        ("linux-6", "linux-6.0.0"),
        ("linux-06.018.0", "linux-6.18.0"),
        ("linux-4.9.337", "linux-4.9.337"),
        ("linux-6.1.20260131", "linux-6.1.0"),
        ("linux-5551234567.6.1", "linux-0.6.1"),
        ("linux-", "linux-0.0.0"),
        ("linux", "linux-0.0.0"),
        ("linux-ada6.18.44", "linux-0.0.0"),
        ("adaos-1.2.3", "other-1.2.3"),
        ("", "other-0.0.0"),
        (6, None),
    ],
)
def test_an_os_is_a_platform_and_three_numbers_of_its_release(raw: object, admitted: str | None) -> None:
    assert OS.admit(raw) == admitted


@given(st.text(), st.sampled_from(["linux", "darwin", "ada"]), st.text(st.sampled_from("0123456789.-a"), max_size=20))
def test_an_admitted_os_always_has_the_promised_form(text: str, platform: str, release: str) -> None:
    for raw in (text, f"{platform}-{release}"):
        assert page.COMMON["os"].holds(OS.admit(raw))


@given(st.text() | st.text(st.sampled_from("v0123456789.-a٣"), max_size=20))
def test_an_admitted_version_always_has_the_promised_form(raw: str) -> None:
    admitted: Any = NODE.admit(raw)
    assert page.COMMON["node_version"].holds(admitted)
    assert page.COMMON["python_version"].holds(BRAKIT.admit(raw))
