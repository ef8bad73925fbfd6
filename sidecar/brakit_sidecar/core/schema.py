"""THE allow-list: every event and every field that exists, with its domain, merge rule and purpose.

Ingest, merging, the payload, ``brakit-sidecar schema``, the README's tables and the tests are derived from these
tables. No other file defines a property of a field. The source is brakit's telemetry page; ``python_version`` is an
addition for the Python SDK.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from . import domains as d
from . import rules as r
from .limits import ONCE_A_SESSION

if TYPE_CHECKING:
    from collections.abc import Mapping

FRAMEWORKS = (
    "nextjs", "remix", "nuxt", "vite", "astro", "express", "fastify", "koa", "hono", "nestjs", "hapi", "adonis",
    "sails", "flask", "fastapi", "django", "custom", "unknown", "other",
)  # fmt: skip
PACKAGE_MANAGERS = ("npm", "yarn", "pnpm", "bun", "uv", "poetry", "pipenv", "pip", "unknown", "other")
ADAPTERS = ("prisma", "pg", "mysql2", "drizzle", "mongoose", "clerk", "sqlalchemy", "asyncpg", "other")
CANDIDATES = (
    "next", "@remix-run/dev", "nuxt", "vite", "astro", "@nestjs/core", "@adonisjs/core", "sails", "express", "fastify",
    "hono", "koa", "@hapi/hapi", "prisma", "drizzle-orm", "typeorm", "sequelize", "flask", "fastapi", "django", "other",
)  # fmt: skip
INSIGHTS = (
    "n1", "cross-endpoint", "redundant-query", "error", "error-hotspot", "duplicate", "slow", "query-heavy",
    "select-star", "high-rows", "large-response", "response-overfetch", "security", "regression", "other",
)  # fmt: skip
SECURITY_RULES = (
    "exposed-secret", "token-in-url", "insecure-cookie", "cors-credentials", "stack-trace-leak", "error-info-leak",
    "sensitive-logs", "response-pii-leak", "other",
)  # fmt: skip
TABS = (
    "overview", "actions", "insights", "performance", "graph", "explorer", "requests", "queries", "fetches", "errors",
    "logs", "security", "timeline", "other",
)  # fmt: skip
COMMANDS = ("install", "uninstall", "mcp", "run", "other")
SDKS = ("node", "python", "unknown")
ARCHITECTURES = ("x64", "arm64", "ia32", "arm", "other")
PLATFORMS = ("linux", "darwin", "win32", "freebsd", "other")
EXIT_REASONS = ("clean", "sigint", "sigterm", "sighup", "crash", "unknown")


class Field(NamedTuple):
    """One property of an event: which values it may have, how reports combine, and what it is collected for."""

    name: str
    domain: d.Domain
    rule: r.Rule[Any]
    purpose: str


class EventSpec(NamedTuple):
    """One kind of event: when it occurs, what it is collected for, and its fields."""

    name: str
    when: str
    purpose: str
    fields: Mapping[str, Field]
    elapsed_in: str | None = None  # this field gets the session's age, unless the event reports it
    requests_in: str | None = None  # this field is raised to the session's request count
    implies: Mapping[str, Any] = MappingProxyType({})  # the session fields that change when this event occurs

    @property
    def once(self) -> bool:
        """Return True if a session sends this event only once. Other events are sent each time they occur."""
        return self.name in ONCE_A_SESSION


COMMON = (
    Field("brakit_version", d.Version("unknown"), r.FIRST, "Track version adoption"),
    Field("node_version", d.Version(None, prefix="v"), r.FIRST, "Ensure compatibility"),
    Field("python_version", d.Version(None), r.FIRST, "Ensure compatibility"),
    Field("os", d.OsRelease(PLATFORMS), r.DAEMON, "Platform support"),
    Field("arch", d.Word(ARCHITECTURES), r.DAEMON, "Platform support"),
    Field("sdk", d.Word(SDKS), r.FIRST_HELLO, "Node vs Python SDK usage"),
)

_SESSION = (
    Field("framework", d.Word(FRAMEWORKS), r.FIRST, "Prioritize framework support"),
    Field("package_manager", d.Word(PACKAGE_MANAGERS), r.FIRST, "Testing prioritization"),
    Field("is_custom_command", d.BOOL, r.ANY, "Usage patterns"),
    Field("first_session", d.BOOL, r.DAEMON, "New vs returning users"),
    Field("adapters_detected", d.Words(ADAPTERS), r.UNION, "Adapter adoption"),
    Field("adapters_failed", d.Words(ADAPTERS), r.UNION, "Diagnose adapter issues"),
    Field("framework_detection_candidates", d.Words(CANDIDATES), r.UNION, "Understand user stacks"),
    Field("request_count", d.COUNT, r.SUM, "Usage volume"),
    Field("error_count", d.COUNT, r.SUM, "Error detection effectiveness"),
    Field("query_count", d.COUNT, r.SUM, "Query instrumentation usage"),
    Field("fetch_count", d.COUNT, r.SUM, "Fetch tracking usage"),
    Field("insight_count", d.COUNT, r.DISTINCT, "Detection effectiveness"),
    Field("finding_count", d.COUNT, r.DISTINCT, "Security rule effectiveness"),
    Field("insight_types", d.Words(INSIGHTS), r.UNION, "Prioritize insight categories"),
    Field("rules_triggered", d.Words(SECURITY_RULES), r.UNION, "Prioritize security rules"),
    Field("endpoint_count", d.COUNT, r.DISTINCT_ROUTES, "App complexity"),
    Field("avg_duration_ms", d.MS, r.MEAN, "Performance baselines"),
    Field("slowest_endpoint_bucket", d.BUCKET, r.SLOWEST_P95, "Performance distribution"),
    Field("tabs_viewed", d.Words(TABS), r.UNION, "Dashboard UX improvements"),
    Field("dashboard_opened", d.BOOL, r.ANY, "Feature adoption"),
    Field("explain_used", d.BOOL, r.ANY, "Feature adoption"),
    Field("session_duration_s", d.SECONDS, r.DAEMON, "Session patterns"),
    Field("setup_succeeded", d.BOOL, r.ALL, "Setup success rate"),
    Field("setup_duration_ms", d.MS, r.MAX, "Setup performance"),
    Field("time_to_first_request_ms", d.MS_OR_NULL, r.MIN, "Time to value"),
    Field("time_to_dashboard_ms", d.MS_OR_NULL, r.MIN, "Dashboard discovery rate"),
    Field("exit_reason", d.Word(EXIT_REASONS), r.DAEMON, "Understand session endings"),
)

SESSION_FIELDS: Mapping[str, Field] = MappingProxyType({field.name: field for field in (*COMMON, *_SESSION)})


def _with_common(*fields: Field | str) -> Mapping[str, Field]:
    """Return the common properties and the event's own ``fields``. A string is the name of a session field."""
    own = (SESSION_FIELDS[field] if isinstance(field, str) else field for field in fields)
    return MappingProxyType({field.name: field for field in (*COMMON, *own)})


# Most fields that belong to one event alone are merged by FIRST, because the first report of the event is sent.
_JOURNEY = (
    EventSpec(
        "cli_invoked",
        when="A command of the CLI starts",
        purpose="Understand how users install brakit",
        fields=_with_common(
            Field("command", d.Word(COMMANDS), r.FIRST, "Which command"),
            Field("has_package_json", d.BOOL, r.FIRST, "Whether the directory holds a package.json"),
            Field("cwd_has_node_modules", d.BOOL, r.FIRST, "Whether the directory holds a node_modules"),
        ),
    ),
    EventSpec(
        "setup_completed",
        when="The runtime's initialization finishes",
        purpose="Diagnose setup failures",
        fields=_with_common(
            "framework",
            "framework_detection_candidates",
            "adapters_detected",
            "adapters_failed",
            "setup_duration_ms",
        ),
    ),
    EventSpec(
        "first_request",
        when="The first HTTP request is captured",
        purpose="Track time to first value",
        fields=_with_common(
            Field("port", d.PORT, r.FIRST, "Which port the application listens on; 0 if unknown"),
            "time_to_first_request_ms",
        ),
        elapsed_in="time_to_first_request_ms",
    ),
    EventSpec(
        "dashboard_viewed",
        when="The user opens the dashboard",
        purpose="Dashboard discovery rate",
        fields=_with_common(
            "time_to_dashboard_ms",
            Field("request_count_at_open", d.COUNT, r.MAX, "How many requests all workers together had captured"),
        ),
        elapsed_in="time_to_dashboard_ms",
        # A worker knows only the number of its own requests. The daemon knows the number of all requests.
        requests_in="request_count_at_open",
        implies=MappingProxyType({"dashboard_opened": True}),
    ),
    EventSpec(
        "cli_uninstall",
        when="The user runs brakit uninstall",
        purpose="Understand churn",
        fields=_with_common(
            Field("instrumentation_removed", d.BOOL, r.FIRST, "Whether the instrumentation was removed"),
            Field("package_removed", d.BOOL, r.FIRST, "Whether the package was removed"),
            Field("mcp_removed", d.BOOL, r.FIRST, "Whether the MCP server's entry was removed"),
            Field("data_removed", d.BOOL, r.FIRST, "Whether brakit's data was removed"),
        ),
    ),
)

SESSION = EventSpec("session", when="The session ends", purpose="Full session summary", fields=SESSION_FIELDS)
JOURNEY: Mapping[str, EventSpec] = MappingProxyType({event.name: event for event in _JOURNEY})
EVENTS: Mapping[str, EventSpec] = MappingProxyType({**JOURNEY, SESSION.name: SESSION})

# PostHog's own properties, with the same values in every event. They turn off person profiles and GeoIP. They also set
# an IP address, because PostHog would otherwise fill in the sender's.
FIXED: Mapping[str, Any] = MappingProxyType(
    {"$lib": "brakit", "$process_person_profile": False, "$geoip_disable": True, "$ip": "0.0.0.0"}  # noqa: S104 (nothing binds to this address)
)


def said_in_event(field: Field) -> bool:
    """Return whether an event may report this field. An event may not report a field that the daemon fills in."""
    return field.rule is not r.DAEMON


def as_json() -> dict[str, Any]:
    """Return the whole schema as an object for JSON."""
    return {
        "events": {
            event.name: {
                "purpose": event.purpose,
                "fields": {
                    field.name: {"domain": field.domain.text, "rule": field.rule.name, "purpose": field.purpose}
                    for field in event.fields.values()
                },
            }
            for event in EVENTS.values()
        },
        "fixed": dict(FIXED),
    }


def as_markdown() -> str:
    """Return the whole schema as the Markdown tables in the README."""
    lines = ["| event | when | sent | fields | purpose |", "|---|---|---|---|---|"]
    common = {field.name for field in COMMON}
    for event in EVENTS.values():
        own = ", ".join(f"`{name}`" for name in event.fields if name not in common)
        once = "once a session" if event.once else "each time"
        lines.append(f"| `{event.name}` | {event.when} | {once} | {own} | {event.purpose} |")
    lines += ["", "Every event also has " + ", ".join(f"`{field.name}`" for field in COMMON) + ", and these four:", ""]
    lines += ["| property | value |", "|---|---|"]
    lines += [f"| `{name}` | `{str(value).lower()}` |" for name, value in FIXED.items()]
    lines += ["", "| field | values | merged by | purpose |", "|---|---|---|---|"]
    every = {field.name: field for event in (SESSION, *JOURNEY.values()) for field in event.fields.values()}
    lines += [f"| `{f.name}` | {f.domain.text} | {f.rule.name} | {f.purpose} |" for f in every.values()]
    return "\n".join(lines) + "\n"


# To add a field: add an entry above, then paste the output of `brakit-sidecar schema --markdown` into the README.
# To add an event: add an EventSpec above. If a session sends it only once, add its name to `limits.ONCE_A_SESSION`.
