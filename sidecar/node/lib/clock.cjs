'use strict';

/**
 * The monotonic clock and the timers of this package.
 *
 * They are bound when this file is loaded, because the tests of an application may replace the global ones.
 */

const { performance } = require('node:perf_hooks');
const { clearTimeout, setImmediate, setTimeout } = require('node:timers');

/** Return the time in ms since an arbitrary moment. It never goes back. */
const monotonicMs = performance.now.bind(performance);

/**
 * Call a function once, in `ms` milliseconds. The timer does not keep the process alive.
 *
 * @param {() => void} call
 * @param {number} ms
 * @returns {NodeJS.Timeout}
 */
function callIn(call, ms) {
  return setTimeout(call, ms).unref();
}

/**
 * Call a function once, in `ms` milliseconds or later, right after the event loop has looked for input and output.
 *
 * A timer alone may be late and then precede what it waits for. It does not keep the process alive.
 *
 * @param {() => void} call
 * @param {number} ms
 */
function callAfterPollIn(call, ms) {
  callIn(() => setImmediate(call).unref(), ms);
}

module.exports = { callAfterPollIn, callIn, cancel: clearTimeout, monotonicMs };
