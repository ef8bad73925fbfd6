'use strict';

/**
 * The limits that a producer and the daemon share. The package's tests hold that they are those of the Python package
 * (core/limits.py and core/wire.py). This file loads nothing.
 */

const PROTOCOL = 1;
const MAX_LINE = 64 * 1024; // bytes of a line with its newline; the daemon closes the connection on a longer one

const COUNT_MAX = Number.MAX_SAFE_INTEGER; // 2^53-1, for counts and for sums of durations in ns (104 days)
const MAX_DURATION_MS = 86_400_000; // a day
const NS_PER_MS = 1_000_000;

// The edges of the telemetry page's buckets, in ms. A bucket holds its lower edge.
const BUCKET_EDGES_MS = [200, 500, 1000, 2000, 5000];

// A session has these events once. A producer may report them again to a daemon that does not know them yet.
const ONCE_A_SESSION = new Set(['setup_completed', 'first_request', 'dashboard_viewed', 'session']);

// The row of all routes that do not fit into the table of routes. The name is not an opaque id, so no route has it.
const OVERFLOW_ROUTE = 'overflow';

/** Return the index of a duration's bucket, 0 to 5. */
function bucketOf(durationMs) {
  let bucket = 0;
  while (bucket < BUCKET_EDGES_MS.length && durationMs >= BUCKET_EDGES_MS[bucket]) {
    bucket += 1;
  }
  return bucket;
}

/** Return true for a whole number, 1 to 2^53-1. */
function isIncrement(value) {
  return Number.isSafeInteger(value) && value >= 1;
}

/** Return true for a number of ms, 0 to 86,400,000. */
function isDuration(value) {
  return typeof value === 'number' && value >= 0 && value <= MAX_DURATION_MS; // false for NaN
}

module.exports = {
  PROTOCOL,
  MAX_LINE,
  COUNT_MAX,
  MAX_DURATION_MS,
  NS_PER_MS,
  BUCKET_EDGES_MS,
  ONCE_A_SESSION,
  OVERFLOW_ROUTE,
  bucketOf,
  isIncrement,
  isDuration,
};
