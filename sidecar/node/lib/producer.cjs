'use strict';

/**
 * The API if telemetry is on.
 *
 * A count changes one cell, and is in the counter file when the call returns. Every other call changes the unsent
 * state, and then sends it if the socket accepts it at once (see link.cjs).
 */

const { isMainThread } = require('node:worker_threads');

const { CounterFile } = require('./counter_file.cjs');
const { debug } = require('./debug.cjs');
const exits = require('./exits.cjs');
const { COUNTER_CELLS } = require('./layout.cjs');
const { Link } = require('./link.cjs');
const { Counter, Telemetry } = require('./telemetry.cjs');
const { UnsentState } = require('./unsent_state.cjs');
const validation = require('./validation.cjs');

const REQUESTS = 'request_count';

/** A producer's count of one field. */
class FieldCounter extends Counter {
  /** @param {(n?: number) => void} inc Not a method, so that an application may pass it on by itself. */
  constructor(inc) {
    super();
    this.inc = inc;
  }
}

/** This process, or this worker thread, as a producer of a session. */
class Producer extends Telemetry {
  #place;
  #counterFile;
  #unsent;
  #link;
  #isClosed = false;

  /**
   * Connect if a daemon listens. A `starter` starts one if none does.
   *
   * @param {object} options
   * @param {import('./place.cjs').Place} options.place
   * @param {unknown} options.sdk
   * @param {import('./starter.cjs').DaemonStarter | null} options.starter
   */
  constructor({ place, sdk, starter }) {
    super();
    this.#place = place;
    this.#counterFile = new CounterFile(place);
    this.#unsent = new UnsentState(this.#counterFile);
    this.#link = new Link({
      place,
      sdk: validation.wordOrNull(sdk), // the daemon refuses a null, and accepts the rest of the hello
      counterFile: this.#counterFile,
      unsent: this.#unsent,
      starter,
      onOver: () => this.#stop(),
    });
    exits.add(this.#sayGoodbye);
    this.#do(() => {
      if (sdk === 'node') {
        this.#unsent.set('node_version', process.version);
      }
    });
  }

  // --- the API, as functions that an application may pass on by themselves ----------------------------------------

  counter = (field) => new FieldCounter((n = 1) => this.incr(field, n));

  incr = (field, n = 1) => this.#do(() => this.#count(field, n));

  request = (route, durationMs) =>
    this.#do(() => {
      this.#count(REQUESTS, 1);
      if (durationMs !== undefined && durationMs !== null) {
        this.#observe(route, durationMs);
      }
    });

  set = (fields) =>
    this.#do(() => {
      for (const name of validation.namesIn(fields)) {
        this.#apply(() => {
          const field = validation.nameOf(name, 'set');
          this.#unsent.set(field, validation.scalarOf(fields[name], { set: { [field]: null } }));
        });
      }
    });

  add = (field, ...words) =>
    this.#do(() => {
      for (const word of words) {
        this.#apply(() => {
          const name = validation.nameOf(field, 'add');
          this.#unsent.add(name, validation.wordOf(word, { add: { [name]: [null] } }));
        });
      }
    });

  mark = (field, ...texts) =>
    this.#do(() => {
      for (const text of texts) {
        this.#apply(() => {
          const name = validation.nameOf(field, 'mark');
          this.#unsent.mark(name, this.#place.opaque(validation.textOf(text, { mark: { [name]: [null] } })));
        });
      }
    });

  event = (name, fields) =>
    this.#do(() => {
      this.#unsent.event(validation.nameOf(name, 'event'), validation.eventFieldsOf(fields));
    });

  close = (exitReason = 'clean') => {
    this.#do(() => this.#finish(validation.wordOf(exitReason, { end: { exit_reason: null } })), { isLast: true });
    this.#stop();
  };

  // --- what a call does -------------------------------------------------------------------------------------------

  #count(field, n) {
    const cell = validation.counterCellOf(field);
    this.#counterFile.add(cell, validation.incrementOf(n, field));
    if (this.#link.needsLines) {
      this.#unsent.oweTotal(field);
    }
  }

  #observe(route, durationMs) {
    const opaqueId = this.#place.opaque(validation.textOf(route, { observe: { '?': [] } }));
    const row = this.#counterFile.observe(opaqueId, validation.durationOf(durationMs));
    if (this.#link.needsLines) {
      this.#unsent.oweRow(row);
    }
  }

  #finish(exitReason) {
    this.#counterFile.setEnd(exitReason);
    this.#unsent.finish(exitReason);
  }

  /** Apply one change of the state, and send what is unsent. */
  #do(change, { isLast = false } = {}) {
    if (this.#isClosed) {
      return;
    }
    try {
      this.#apply(change);
      this.#link.flush({ isLast });
    } catch (error) {
      debug('a call failed', error);
    }
  }

  /** Apply one change of the state. A mistake of the caller is counted, and costs no other change. */
  #apply(change) {
    try {
      change();
    } catch (error) {
      if (error instanceof validation.Mistake) {
        debug(`not counted: ${error.message}`);
        this.#unsent.mistake(error.frame);
      } else {
        debug('a call failed', error); // a getter of the caller's object throws, for example
      }
    }
  }

  // --- the end ----------------------------------------------------------------------------------------------------

  /**
   * Report the exit. Listeners that run later may still count.
   *
   * The daemon reads the counter file after the process has exited, so the end need not be sent if the daemon has all
   * other state. A worker thread always sends its end, because the process may run on after it.
   */
  #sayGoodbye = (exitReason) => {
    this.#counterFile.setEnd(exitReason);
    if (!isMainThread || !this.#link.needsNoGoodbye()) {
      this.#do(() => this.#finish(exitReason), { isLast: true });
    }
  };

  #stop() {
    this.#isClosed = true;
    exits.remove(this.#sayGoodbye);
    this.#link.close();
  }
}

module.exports = { Producer };
