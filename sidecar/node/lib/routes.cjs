'use strict';

/** A route: method and path, with the ids replaced. brakit_sidecar/integrations/brakit.py has the same rule. */

// A segment that is an id: a number, a UUID, 12 or more hex digits, or a token of 8 or more letters and digits.
const ID = /^(?:\d+|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{12,}|(?=[a-z]*\d)(?=\d*[a-z])[0-9a-z]{8,})$/i;

const BRAKIT_PATH = '/__brakit'; // the dashboard and its API

/**
 * Return method and path without the query, with ":id" for each segment that is an id.
 *
 * @param {string} method
 * @param {string} path
 * @returns {string}
 */
function routeOf(method, path) {
  const segments = path.split('?', 1)[0].split('/');
  return `${method} ${segments.map((segment) => (ID.test(segment) ? ':id' : segment)).join('/')}`;
}

/**
 * Return whether a path is brakit's own.
 *
 * @param {string} path
 * @returns {boolean}
 */
function isBrakitPath(path) {
  return path === BRAKIT_PATH || path.startsWith(`${BRAKIT_PATH}/`);
}

module.exports = { isBrakitPath, routeOf };
