"""The environments in which brakit stays dormant. The lists are brakit's own, copied by hand."""

from __future__ import annotations

import pytest
from brakit_sidecar.host.guards import VARIABLES, dormant_because

PRODUCTION = ["FLASK_ENV", "ENVIRONMENT", "NODE_ENV", "APP_ENV", "DJANGO_SETTINGS_MODULE"]
CI = [
    "CI", "GITHUB_ACTIONS", "GITLAB_CI", "JENKINS_URL", "CIRCLECI", "TRAVIS", "BUILDKITE", "CODEBUILD_BUILD_ID",
    "TF_BUILD", "BITBUCKET_BUILD_NUMBER", "DRONE", "SEMAPHORE",
]  # fmt: skip
CLOUD = [
    "VERCEL", "VERCEL_ENV", "NETLIFY", "AWS_LAMBDA_FUNCTION_NAME", "AWS_EXECUTION_ENV", "ECS_CONTAINER_METADATA_URI",
    "GOOGLE_CLOUD_PROJECT", "GCP_PROJECT", "K_SERVICE", "AZURE_FUNCTIONS_ENVIRONMENT", "WEBSITE_SITE_NAME",
    "FLY_APP_NAME", "RAILWAY_ENVIRONMENT", "RENDER", "HEROKU_APP_NAME", "DYNO", "CF_INSTANCE_GUID", "CF_PAGES",
    "KUBERNETES_SERVICE_HOST",
]  # fmt: skip


def test_an_empty_environment_is_not_dormant() -> None:
    assert dormant_because({}) is None


@pytest.mark.parametrize("value", ["true", "1", "TRUE"])
def test_brakit_can_be_disabled(value: str) -> None:
    assert dormant_because({"BRAKIT_DISABLE": value}) == f"BRAKIT_DISABLE={value}"


@pytest.mark.parametrize("value", ["false", "0", "", "yes"])
def test_another_value_does_not_disable_brakit(value: str) -> None:
    assert dormant_because({"BRAKIT_DISABLE": value}) is None


@pytest.mark.parametrize("name", PRODUCTION)
@pytest.mark.parametrize("value", ["production", "staging", "prod", "Production", "PROD"])
def test_production_is_dormant(name: str, value: str) -> None:
    assert dormant_because({name: value}) == f"{name}={value}"


@pytest.mark.parametrize("name", PRODUCTION)
@pytest.mark.parametrize("value", ["development", "test", "", "myproject.settings", "production.settings"])
def test_development_is_not_dormant(name: str, value: str) -> None:
    assert dormant_because({name: value}) is None


@pytest.mark.parametrize("name", [*CI, *CLOUD])
def test_ci_and_cloud_are_dormant_with_any_value(name: str) -> None:
    assert dormant_because({name: "0"}) == f"{name}=0"


@pytest.mark.parametrize("name", [*CI, *CLOUD])
def test_an_empty_variable_counts_as_not_set(name: str) -> None:
    assert dormant_because({name: ""}) is None


def test_a_long_value_is_cut() -> None:
    assert dormant_because({"JENKINS_URL": "x" * 1000}) == "JENKINS_URL=" + "x" * 40


def test_every_guard_is_in_the_list_that_tests_clear() -> None:
    assert set(VARIABLES) == {"BRAKIT_DISABLE", *PRODUCTION, *CI, *CLOUD}
