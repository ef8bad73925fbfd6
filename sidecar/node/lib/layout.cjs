'use strict';

/**
 * The layout of a counter file, version 1. The Python package documents it (core/counter_layout.py), and the package's
 * tests hold that both agree. This file loads nothing.
 *
 * All cells are unsigned 64-bit integers in the machine's byte order, and only grow.
 */

const VERSION = 1;
const MAGIC = 0x6272616b_736c6231n;
const USED_ROWS = 1; // how many rows are in use, written after a new row
const FIRST_COUNTER = 2;
const STAMP = 8; // of the config as the worker read it (ctime in ns), or NO_CONFIG
const ANONYMOUS_ID = 9; // the first half of the anonymous id under which the worker counts; 0 if there was none yet
const END = 10; // the exit reason, as an index of ENDS
const PID = 11;
const KIND = 12; // what the 16 bytes in the cells ID and ID + 1 are the id of: OF_SESSION or OF_GROUP
const ID = 13;
const OF_SESSION = 1;
const OF_GROUP = 2;
const RETIRED = 15; // not zero once no process counts here any more
const FIRST_ROW = 16; // row r begins at cell 16 + 8 r: the route's id, the sum of its durations in ns, six buckets
const DESTINATION = FIRST_ROW; // row 0 has no id; the digest of the worker's destination as a number, or TO_NOWHERE
const ROW = 8;
const MAX_ROUTES = 1023; // without row 0, the overflow row
const CELL = 8; // bytes
const SIZE = CELL * (FIRST_ROW + ROW * (1 + MAX_ROUTES));

const NO_CONFIG = 2n ** 63n; // plus the time in ns at which the worker found no config
const TO_NOWHERE = 1n;
const NOT_BELIEVED = 0n; // the stamp of a config that means off; no worker counts under it

const ENDS = [null, 'clean', 'sigint', 'crash'];

/** The cell of each count field, by its name. A Map, because a field's name comes from the caller. */
const COUNTER_CELLS = new Map(
  ['request_count', 'error_count', 'query_count', 'fetch_count', 'insight_count', 'finding_count'].map(
    (field, position) => [field, FIRST_COUNTER + position],
  ),
);

module.exports = {
  VERSION,
  MAGIC,
  USED_ROWS,
  FIRST_COUNTER,
  STAMP,
  ANONYMOUS_ID,
  END,
  PID,
  KIND,
  ID,
  OF_SESSION,
  OF_GROUP,
  RETIRED,
  FIRST_ROW,
  DESTINATION,
  ROW,
  MAX_ROUTES,
  CELL,
  SIZE,
  NO_CONFIG,
  TO_NOWHERE,
  NOT_BELIEVED,
  ENDS,
  COUNTER_CELLS,
};
