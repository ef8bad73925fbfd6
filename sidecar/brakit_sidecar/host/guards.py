"""Where brakit itself stays dormant, and so do we: production, CI, cloud. The lists are brakit's own, of both SDKs."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

_DISABLED = frozenset({"true", "1"})
_PRODUCTION = frozenset({"production", "staging", "prod"})
_PRODUCTION_VARIABLES = ("FLASK_ENV", "ENVIRONMENT", "NODE_ENV", "APP_ENV", "DJANGO_SETTINGS_MODULE")
_CI_VARIABLES = (
    "CI", "GITHUB_ACTIONS", "GITLAB_CI", "JENKINS_URL", "CIRCLECI", "TRAVIS", "BUILDKITE", "CODEBUILD_BUILD_ID",
    "TF_BUILD", "BITBUCKET_BUILD_NUMBER", "DRONE", "SEMAPHORE",
)  # fmt: skip
_CLOUD_VARIABLES = (
    "VERCEL", "VERCEL_ENV", "NETLIFY", "AWS_LAMBDA_FUNCTION_NAME", "AWS_EXECUTION_ENV", "ECS_CONTAINER_METADATA_URI",
    "GOOGLE_CLOUD_PROJECT", "GCP_PROJECT", "K_SERVICE", "AZURE_FUNCTIONS_ENVIRONMENT", "WEBSITE_SITE_NAME",
    "FLY_APP_NAME", "RAILWAY_ENVIRONMENT", "RENDER", "HEROKU_APP_NAME", "DYNO", "CF_INSTANCE_GUID", "CF_PAGES",
    "KUBERNETES_SERVICE_HOST",
)  # fmt: skip

# In a daemon's environment: whatever counts by its environment must leave it alone.
DAEMON_MARK = "BRAKIT_SIDECAR_DAEMON"

# What a test or a demo clears from the environment of what it starts.
VARIABLES = ("BRAKIT_DISABLE", *_PRODUCTION_VARIABLES, *_CI_VARIABLES, *_CLOUD_VARIABLES)


def dormant_because(environ: Mapping[str, str]) -> str | None:
    """The variable that keeps brakit dormant here, or None where it is awake."""
    if environ.get("BRAKIT_DISABLE", "").lower() in _DISABLED:
        return "BRAKIT_DISABLE"
    for name in _PRODUCTION_VARIABLES:
        if environ.get(name, "").lower() in _PRODUCTION:
            return name
    return next((name for name in (*_CI_VARIABLES, *_CLOUD_VARIABLES) if environ.get(name)), None)
