'use strict';

/** Where a session's events go: endpoint and project key together (see the Python package's core/destination.py). */

const { createHash } = require('node:crypto');

const DEFAULT_ENDPOINT = 'https://us.i.posthog.com';
const NOWHERE = 'none'; // the digest of every destination without a project key

/**
 * Return the digest of the destination that the environment names: 16 hex digits, or NOWHERE without a project key.
 *
 * @param {NodeJS.ProcessEnv} environ
 * @returns {string}
 */
function destinationDigest(environ) {
  const key = environ.BRAKIT_TELEMETRY_KEY ?? '';
  if (key === '') {
    return NOWHERE;
  }
  const endpoint = (environ.BRAKIT_TELEMETRY_ENDPOINT ?? '').replace(/\/+$/, '') || DEFAULT_ENDPOINT;
  return createHash('sha256').update(`${endpoint}\n${key}`).digest('hex').slice(0, 16);
}

module.exports = { DEFAULT_ENDPOINT, NOWHERE, destinationDigest };
