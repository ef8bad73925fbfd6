"""The environments in which brakit stays dormant: production, CI and cloud. Both brakit SDKs have the same lists."""

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
_MAX_SHOWN = 40  # characters of a variable's value; enough to recognize it

# This variable is set in a daemon's environment, so that a process that the daemon starts does not count.
DAEMON_MARK = "BRAKIT_SIDECAR_DAEMON"

# The variables that a test or a demo removes from the environment of the processes that it starts.
VARIABLES = ("BRAKIT_DISABLE", *_PRODUCTION_VARIABLES, *_CI_VARIABLES, *_CLOUD_VARIABLES)


def dormant_because(environ: Mapping[str, str]) -> str | None:
    """Return the variable that keeps brakit dormant, such as "NODE_ENV=production".

    Returns None if no variable keeps brakit dormant.
    """
    name = _guard(environ)
    return None if name is None else f"{name}={environ[name][:_MAX_SHOWN]}"


def _guard(environ: Mapping[str, str]) -> str | None:
    if environ.get("BRAKIT_DISABLE", "").lower() in _DISABLED:
        return "BRAKIT_DISABLE"
    for name in _PRODUCTION_VARIABLES:
        if environ.get(name, "").lower() in _PRODUCTION:
            return name
    return next((name for name in (*_CI_VARIABLES, *_CLOUD_VARIABLES) if environ.get(name)), None)
