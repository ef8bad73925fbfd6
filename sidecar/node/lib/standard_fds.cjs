'use strict';

/**
 * The standard descriptors 0, 1 and 2, which no file or socket of this package may get.
 *
 * The kernel gives the lowest free number. Node opens those that are closed when it starts, but an application may close
 * them later. Then a file of ours could become descriptor 1, and what the application prints would be written into our
 * counts, or be sent to the daemon.
 */

// The functions are bound here, because an application's tests may replace them in their module.
const { closeSync, constants, openSync } = require('node:fs');

const { fstat, isSame } = require('./stat.cjs');

const LAST = 2;

/** Return whether a number is that of a standard descriptor. */
function isStandard(fd) {
  return fd <= LAST;
}

/**
 * Call a function that opens something, so that it gets a higher number, and return its result.
 *
 * The closed standard descriptors are open meanwhile, and closed again afterwards, because the application may have
 * closed them in order to open others there. The placeholders are of the root directory, which can be neither written
 * nor read like a file. If one cannot be opened, the numbers stay free.
 *
 * Race: another thread closes a standard descriptor during the call, and `open` gets its number. Callers check that.
 *
 * @template T
 * @param {() => T} open
 * @returns {T}
 */
function aboveStandard(open) {
  const placeholders = openPlaceholders();
  try {
    return open();
  } finally {
    placeholders.forEach(close);
  }
}

function openPlaceholders() {
  const placeholders = [];
  try {
    for (;;) {
      const fd = openSync('/', constants.O_RDONLY);
      if (!isStandard(fd)) {
        closeSync(fd);
        break;
      }
      placeholders.push({ fd, info: fstat(fd) });
    }
  } catch {
    // the descriptor limit, or Node's permission model
  }
  return placeholders;
}

/** Close a placeholder, unless another thread has replaced it by a file of the application. */
function close({ fd, info }) {
  if (isSame(fstat(fd), info)) {
    closeSync(fd);
  }
}

module.exports = { aboveStandard, isStandard };
