'use strict';

/**
 * The environments in which brakit stays dormant: production, CI and cloud. A test holds that the lists are those of
 * the Python package (host/guards.py).
 */

const DISABLED = ['true', '1'];
const PRODUCTION = ['production', 'staging', 'prod'];
const PRODUCTION_VARIABLES = ['FLASK_ENV', 'ENVIRONMENT', 'NODE_ENV', 'APP_ENV', 'DJANGO_SETTINGS_MODULE'];
const CI_VARIABLES = [
  'CI', 'GITHUB_ACTIONS', 'GITLAB_CI', 'JENKINS_URL', 'CIRCLECI', 'TRAVIS', 'BUILDKITE', 'CODEBUILD_BUILD_ID',
  'TF_BUILD', 'BITBUCKET_BUILD_NUMBER', 'DRONE', 'SEMAPHORE',
];
const CLOUD_VARIABLES = [
  'VERCEL', 'VERCEL_ENV', 'NETLIFY', 'AWS_LAMBDA_FUNCTION_NAME', 'AWS_EXECUTION_ENV', 'ECS_CONTAINER_METADATA_URI',
  'GOOGLE_CLOUD_PROJECT', 'GCP_PROJECT', 'K_SERVICE', 'AZURE_FUNCTIONS_ENVIRONMENT', 'WEBSITE_SITE_NAME',
  'FLY_APP_NAME', 'RAILWAY_ENVIRONMENT', 'RENDER', 'HEROKU_APP_NAME', 'DYNO', 'CF_INSTANCE_GUID', 'CF_PAGES',
  'KUBERNETES_SERVICE_HOST',
];
const MAX_SHOWN = 40; // characters of a variable's value; enough to recognize it

// Set in a daemon's environment, so that no process below a daemon counts.
const DAEMON_MARK = 'BRAKIT_SIDECAR_DAEMON';

/**
 * Return the variable that keeps brakit dormant, as "NODE_ENV=production". Returns null if there is none.
 *
 * @param {NodeJS.ProcessEnv} environ
 * @returns {string | null}
 */
function dormantBecause(environ) {
  const name = guard(environ);
  return name === undefined ? null : `${name}=${environ[name].slice(0, MAX_SHOWN)}`;
}

function guard(environ) {
  if (DISABLED.includes(environ.BRAKIT_DISABLE?.toLowerCase())) {
    return 'BRAKIT_DISABLE';
  }
  return (
    PRODUCTION_VARIABLES.find((name) => PRODUCTION.includes(environ[name]?.toLowerCase())) ??
    [...CI_VARIABLES, ...CLOUD_VARIABLES].find((name) => environ[name])
  );
}

module.exports = {
  DISABLED,
  PRODUCTION,
  PRODUCTION_VARIABLES,
  CI_VARIABLES,
  CLOUD_VARIABLES,
  MAX_SHOWN,
  DAEMON_MARK,
  dormantBecause,
};
