'use strict';

const { writeSync } = require('node:fs');

/**
 * Print a message to stderr if BRAKIT_DEBUG is set, and the error with its stack. Never throws.
 *
 * Writes to the descriptor, because `process.stderr` would make a stream that the application did not ask for.
 *
 * @param {string} message
 * @param {unknown} [error]
 */
function debug(message, error) {
  try {
    if (process.env.BRAKIT_DEBUG) {
      const detail = error === undefined ? '' : `\n${error instanceof Error ? error.stack : String(error)}`;
      writeSync(2, `brakit-sidecar[${process.pid}]: ${message}${detail}\n`);
    }
  } catch {
    // stderr is closed or full, or the error cannot be printed
  }
}

module.exports = { debug };
