'use strict';

/**
 * The API that an application or an SDK uses (documented in index.d.ts). These classes themselves are the stand-in if
 * telemetry is off: they do nothing.
 */

/** @implements {import('../index').Counter} */
class Counter {
  inc(_n) {}
}

/** @implements {import('../index').Telemetry} */
class Telemetry {
  counter(_field) {
    return new Counter();
  }

  incr(_field, _n) {}

  request(_route, _durationMs) {}

  set(_fields) {}

  add(_field, ..._words) {}

  mark(_field, ..._texts) {}

  event(_name, _fields) {}

  close(_exitReason) {}
}

module.exports = { Counter, Telemetry };
