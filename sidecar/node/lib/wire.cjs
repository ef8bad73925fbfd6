'use strict';

/** How a line between a producer and the daemon is written. */

/**
 * Return the frame as one line. The frame holds only texts without lone surrogates, finite numbers, booleans, null,
 * arrays and plain objects.
 *
 * @param {object} frame
 * @returns {Buffer}
 */
function encode(frame) {
  return Buffer.from(`${JSON.stringify(frame)}\n`);
}

module.exports = { encode };
