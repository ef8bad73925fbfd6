'use strict';

/**
 * A producer's connection to the daemon: when it is made, when it is made again, and which lines are sent.
 *
 * `flush` is called after each change of the unsent state. The event loop reports when the daemon has closed the
 * connection. Then the link looks for a daemon at once, and later at most once in POLL_MS until it finds one. The next
 * daemon gets the whole state. Nothing here blocks, throws into the event loop or keeps the process alive.
 *
 * A daemon that reads the counter file answers the hello. Until that answer, counts are also sent as lines, because the
 * daemon may not be able to read the file.
 */

const { randomUUID } = require('node:crypto');

const { Channel } = require('./channel.cjs');
const { callIn, cancel, monotonicMs } = require('./clock.cjs');
const { debug } = require('./debug.cjs');
const layout = require('./layout.cjs');
const { MAX_LINE, PROTOCOL } = require('./limits.cjs');
const { counterFilePath, isOwnSocket } = require('./paths.cjs');
const { encode } = require('./wire.cjs');

const DAEMON_STARTS_MS = 250; // about as long as a daemon takes to start
const POLL_MS = 1000; // how often a producer looks for a daemon; an application without a daemon does not notice that
const MAX_COUNT_LINES = 64; // before the answer; the socket holds about 280 lines, and events need room beside counts
const DRAIN_MS = 50; // how soon an idle producer tries a full socket again; a busy daemon takes about as long

class Link {
  #place;
  #sdk;
  #counterFile;
  #unsent;
  #starter;
  #onOver;
  #producerId = randomUUID();
  #channel = new Channel({
    onLine: (line) => this.#guard(() => this.#answered(line)),
    onClose: () => this.#guard(() => this.#disconnected()),
  });
  #connectedAt = 0;
  #lookAt = 0; // when `flush` looks for a daemon again
  #timer = null;
  #isFileAccepted = false;
  #countLines = 0; // sent since the hello, or since the timer
  #isFlushing = false;
  #isClosed = false;
  #inFlight = null; // the frame that is being sent

  /**
   * Make a link that is not connected yet. Without a `starter` it waits for a daemon, and starts none.
   *
   * @param {object} options
   * @param {import('./place.cjs').Place} options.place
   * @param {string | null} options.sdk
   * @param {import('./counter_file.cjs').CounterFile} options.counterFile
   * @param {import('./unsent_state.cjs').UnsentState} options.unsent
   * @param {import('./starter.cjs').DaemonStarter | null} options.starter
   * @param {() => void} options.onOver Called when the session was reported or consent withdrawn: the producer must
   *   stop counting.
   */
  constructor({ place, sdk, counterFile, unsent, starter, onOver }) {
    this.#place = place;
    this.#sdk = sdk;
    this.#counterFile = counterFile;
    this.#unsent = unsent;
    this.#starter = starter;
    this.#onOver = onOver;
  }

  /** Whether counts must be sent as lines, because no daemon is known to read the counter file. */
  get needsLines() {
    return !this.#isFileAccepted || !this.#counterFile.isShared;
  }

  /**
   * Send the unsent state, as far as the socket accepts it now.
   *
   * @param {{ isLast?: boolean }} [options] `isLast`: look for a daemon and try a full socket now, because this may be
   *   the last call.
   */
  flush({ isLast = false } = {}) {
    // A net.Socket that is instrumented may call the producer. The interrupted call then sends that change.
    if (this.#isFlushing || this.#isClosed || (this.#isIdle && !isLast)) {
      return;
    }
    this.#isFlushing = true;
    try {
      if (!this.#channel.isOpen && (isLast || monotonicMs() >= this.#lookAt)) {
        this.#connect();
      }
      this.#sendFrames({ isLast });
    } finally {
      this.#isFlushing = false;
    }
  }

  get #isIdle() {
    return this.#channel.isOpen && this.#unsent.isAllSent;
  }

  /** Return true if the daemon has all state, and will read the exit reason in the counter file. */
  needsNoGoodbye() {
    if (!this.#isFileAccepted) {
      this.#channel.receiveNow();
    }
    this.#channel.probe();
    return !this.needsLines && this.#unsent.isAllSent && this.#channel.isReady();
  }

  /** Close the connection and the counter file. */
  close() {
    this.#isClosed = true;
    cancel(this.#timer);
    this.#channel.close();
    this.#counterFile.close();
  }

  // --- sending ----------------------------------------------------------------------------------------------------

  #sendFrames({ isLast }) {
    // A daemon that closes a fresh connection refuses this producer, and would refuse it again.
    let mayReconnect = monotonicMs() >= this.#connectedAt + POLL_MS;
    while (this.#channel.isReady({ atOnce: isLast })) {
      this.#inFlight = null;
      const frame = this.#unsent.nextFrame({ withCounts: isLast || this.#maySendCounts });
      if (frame === null) {
        break;
      }
      this.#inFlight = frame;
      if ('total' in frame || 'histogram' in frame) {
        this.#countLines += 1;
      }
      const line = encode(frame);
      if (line.length <= MAX_LINE) {
        this.#channel.send(line);
      }
      // The daemon exited, and the event loop does not know it yet. Connect now: this call may be the last one.
      if (mayReconnect && !this.#channel.isOpen) {
        mayReconnect = false;
        this.#connect();
      }
    }
    if (this.#timer !== null) {
      return;
    }
    if (!this.#channel.isOpen) {
      this.#lookIn(POLL_MS);
    } else if (!this.#channel.isReady() || !this.#unsent.isAllSent) {
      this.#flushIn(DRAIN_MS);
    }
  }

  get #maySendCounts() {
    return !this.#counterFile.isShared || this.#countLines < MAX_COUNT_LINES;
  }

  // --- connecting -------------------------------------------------------------------------------------------------

  /** Connect, send the hello, and queue all state. The daemon checks the consent. */
  #connect() {
    this.#lookIn(POLL_MS);
    if (this.#counterFile.isRetired) {
      this.#end();
      return;
    }
    const lost = this.#inFlight;
    this.#inFlight = null;
    if (lost !== null && 'event' in lost) {
      this.#unsent.oweEvent(lost);
    }
    this.#unsent.oweEverything();
    this.#isFileAccepted = false;
    this.#countLines = 0;
    this.#connectedAt = monotonicMs();
    if (!this.#channel.open(this.#place.socketPath) && !this.#waitForDaemon()) {
      return;
    }
    cancel(this.#timer);
    this.#timer = null;
    const isShared = this.#keepCounterFile(); // before the hello, because the daemon opens it then
    this.#channel.send(
      encode({
        hello: {
          protocol: PROTOCOL,
          ...this.#place.membership,
          producer: this.#producerId,
          sdk: this.#sdk,
          destination: this.#place.destination,
          config: this.#place.stamp.toString(16).padStart(16, '0'),
          ...(isShared && { counter_file: layout.VERSION }),
        },
      }),
    );
  }

  /**
   * Make the counter file for the next daemon if one is expected, and start it. Returns whether it accepts now.
   *
   * A daemon that was killed left its socket behind, and a daemon that exited in order did not. The next daemon finds
   * the counter file by its name, even if this process has exited by then.
   */
  #waitForDaemon() {
    const wasKilled = isOwnSocket(this.#place.socketPath);
    if (!wasKilled && this.#starter === null) {
      return false; // perhaps no daemon will ever run, and the file would stay in the directory
    }
    this.#keepCounterFile();
    if (this.#starter?.start({ again: wasKilled })) {
      this.#lookIn(DAEMON_STARTS_MS);
    }
    return wasKilled && this.#channel.open(this.#place.socketPath);
  }

  #keepCounterFile() {
    return this.#counterFile.keepAs(counterFilePath(this.#place.socketPath, this.#producerId));
  }

  /** Look for a daemon again after that time: by the timer, or in a call if the event loop is busy. */
  #lookIn(ms) {
    this.#lookAt = monotonicMs() + ms;
    this.#flushIn(ms);
  }

  #flushIn(ms) {
    cancel(this.#timer);
    this.#timer = callIn(() => {
      this.#timer = null;
      this.#countLines = 0;
      this.#guard(() => this.flush());
    }, ms);
  }

  /** Stop counting, because no daemon will report what is counted from now on. */
  #end() {
    debug('the session was reported, or telemetry was switched off: this process does not count any more');
    this.#counterFile.retire();
    this.close();
    this.#onOver();
  }

  // --- what the event loop reports --------------------------------------------------------------------------------

  #answered(line) {
    const answer = JSON.parse(line);
    if (answer.counter_file === layout.VERSION) {
      this.#isFileAccepted = true;
      this.#unsent.oweNoCounts();
      return;
    }
    switch (answer.refused?.reason) {
      case 'bad_counter_file':
        // The daemon is in a sandbox, for example. A later daemon must not count again what lines have reported.
        this.#counterFile.remove();
        this.flush();
        break;
      case 'session_ended':
        this.#end();
        break;
      default: // a mistake of the caller, which the command `status` shows
    }
  }

  #disconnected() {
    this.#isFileAccepted = false;
    const isFresh = monotonicMs() < this.#connectedAt + POLL_MS;
    if (isFresh) {
      this.#lookIn(POLL_MS);
    } else {
      this.#lookAt = 0;
      this.flush();
    }
  }

  #guard(call) {
    try {
      call();
    } catch (error) {
      debug('the connection to the daemon failed', error);
    }
  }
}

module.exports = { Link };
