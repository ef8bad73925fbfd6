"""The promises of brakit's telemetry page, copied by hand: each field's values, default and merge rule.

The schema makes the same promises. This copy imports nothing from the schema. If either of them has a mistake, the two
differ, and a test fails.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

COUNT_MAX = 9_007_199_254_740_991
DAY_MS = 86_400_000

VOCABULARY: dict[str, str] = {
    "framework": (
        "nextjs remix nuxt vite astro express fastify koa hono nestjs hapi adonis sails flask fastapi django custom "
        "unknown other"
    ),
    "package_manager": "npm yarn pnpm bun uv poetry pipenv pip unknown other",
    "adapters": "prisma pg mysql2 drizzle mongoose clerk sqlalchemy asyncpg other",
    "framework_detection_candidates": (
        "next @remix-run/dev nuxt vite astro @nestjs/core @adonisjs/core sails express fastify hono koa @hapi/hapi "
        "prisma drizzle-orm typeorm sequelize flask fastapi django other"
    ),
    "insight_types": (
        "n1 cross-endpoint redundant-query error error-hotspot duplicate slow query-heavy select-star high-rows "
        "large-response response-overfetch security regression other"
    ),
    "rules_triggered": (
        "exposed-secret token-in-url insecure-cookie cors-credentials stack-trace-leak error-info-leak sensitive-logs "
        "response-pii-leak other"
    ),
    "tabs_viewed": (
        "overview actions insights performance graph explorer requests queries fetches errors logs security timeline "
        "other"
    ),
    "command": "install uninstall mcp run other",
    "sdk": "node python unknown",
    "arch": "x64 arm64 ia32 arm other",
    "os_platform": "linux darwin win32 freebsd other",
    "exit_reason": "clean sigint sigterm sighup crash unknown",
    "slowest_endpoint_bucket": "none <200ms 200-500ms 500-1000ms 1000-2000ms 2000-5000ms >5000ms",
}


class Promise(NamedTuple):
    """The values that one field may have (``holds``), its merge rule, and its default value."""

    rule: str
    default: object
    holds: Callable[[object], bool]


def _word(vocabulary: str) -> Callable[[object], bool]:
    words = VOCABULARY[vocabulary].split()
    return lambda value: isinstance(value, str) and value in words


def _words(vocabulary: str) -> Callable[[object], bool]:
    words = VOCABULARY[vocabulary].split()
    return lambda value: (
        isinstance(value, list) and all(word in words for word in value) and value == sorted(set(value))
    )


def _text(pattern: str, *also: str | None) -> Callable[[object], bool]:
    compiled = re.compile(pattern, re.ASCII)
    return lambda value: value in also or (isinstance(value, str) and compiled.fullmatch(value) is not None)


def _bool(value: object) -> bool:
    return value is True or value is False


def _whole(most: int) -> Callable[[object], bool]:
    return lambda value: type(value) is int and 0 <= value <= most


def _whole_or_null(value: object) -> bool:
    return value is None or _whole(DAY_MS)(value)


_DDD = r"\d{1,2}\.\d{1,2}\.\d{1,2}"
_RELEASE = r"\d{1,3}\.\d{1,3}\.\d{1,3}"
_PLATFORM = VOCABULARY["os_platform"].replace(" ", "|")

COMMON: dict[str, Promise] = {
    "brakit_version": Promise("first", "unknown", _text(_DDD, "unknown")),
    "node_version": Promise("first", None, _text("v" + _DDD, None)),
    "python_version": Promise("first", None, _text(_DDD, None)),
    "os": Promise("daemon", "other-0.0.0", _text(f"({_PLATFORM})-{_RELEASE}")),
    "arch": Promise("daemon", "other", _word("arch")),
    "sdk": Promise("first hello", "unknown", _word("sdk")),
}

SESSION: dict[str, Promise] = COMMON | {
    "framework": Promise("first", "unknown", _word("framework")),
    "package_manager": Promise("first", "unknown", _word("package_manager")),
    "is_custom_command": Promise("any", False, _bool),
    "first_session": Promise("daemon", False, _bool),
    "adapters_detected": Promise("union", [], _words("adapters")),
    "adapters_failed": Promise("union", [], _words("adapters")),
    "framework_detection_candidates": Promise("union", [], _words("framework_detection_candidates")),
    "request_count": Promise("sum", 0, _whole(COUNT_MAX)),
    "error_count": Promise("sum", 0, _whole(COUNT_MAX)),
    "query_count": Promise("sum", 0, _whole(COUNT_MAX)),
    "fetch_count": Promise("sum", 0, _whole(COUNT_MAX)),
    "insight_count": Promise("distinct", 0, _whole(COUNT_MAX)),
    "finding_count": Promise("distinct", 0, _whole(COUNT_MAX)),
    "insight_types": Promise("union", [], _words("insight_types")),
    "rules_triggered": Promise("union", [], _words("rules_triggered")),
    "endpoint_count": Promise("distinct routes", 0, _whole(COUNT_MAX)),
    "avg_duration_ms": Promise("mean", 0, _whole(DAY_MS)),
    "slowest_endpoint_bucket": Promise("slowest p95", "none", _word("slowest_endpoint_bucket")),
    "tabs_viewed": Promise("union", [], _words("tabs_viewed")),
    "dashboard_opened": Promise("any", False, _bool),
    "explain_used": Promise("any", False, _bool),
    "session_duration_s": Promise("daemon", 0, _whole(COUNT_MAX)),
    "setup_succeeded": Promise("all", False, _bool),
    "setup_duration_ms": Promise("max", 0, _whole(DAY_MS)),
    "time_to_first_request_ms": Promise("min", None, _whole_or_null),
    "time_to_dashboard_ms": Promise("min", None, _whole_or_null),
    "exit_reason": Promise("daemon", "unknown", _word("exit_reason")),
}

JOURNEY: dict[str, dict[str, Promise]] = {
    "cli_invoked": COMMON
    | {
        "command": Promise("first", "other", _word("command")),
        "has_package_json": Promise("first", False, _bool),
        "cwd_has_node_modules": Promise("first", False, _bool),
    },
    "setup_completed": COMMON
    | {
        name: SESSION[name]
        for name in (
            "framework",
            "framework_detection_candidates",
            "adapters_detected",
            "adapters_failed",
            "setup_duration_ms",
        )
    },
    "first_request": COMMON
    | {
        "port": Promise("first", 0, _whole(65_535)),
        "time_to_first_request_ms": SESSION["time_to_first_request_ms"],
    },
    "dashboard_viewed": COMMON
    | {
        "time_to_dashboard_ms": SESSION["time_to_dashboard_ms"],
        "request_count_at_open": Promise("max", 0, _whole(COUNT_MAX)),
    },
    "cli_uninstall": COMMON
    | {
        "instrumentation_removed": Promise("first", False, _bool),
        "package_removed": Promise("first", False, _bool),
        "mcp_removed": Promise("first", False, _bool),
        "data_removed": Promise("first", False, _bool),
    },
}

EVENTS: dict[str, dict[str, Promise]] = JOURNEY | {"session": SESSION}

FIXED = {"$lib": "brakit", "$process_person_profile": False, "$geoip_disable": True, "$ip": "0.0.0.0"}


def broken_promises(event: str, properties: dict[str, object]) -> dict[str, object]:
    """Return the event's properties that the page does not allow. A missing property is returned as ``...``."""
    promised = EVENTS[event]
    missing = {name: ... for name in promised if name not in properties}
    wrong = {name: v for name, v in properties.items() if name not in promised or not promised[name].holds(v)}
    return {**missing, **wrong}
