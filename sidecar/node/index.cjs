'use strict';

/**
 * brakit's telemetry sidecar: count in any number of processes, and one daemon reports the session.
 *
 * No function here throws, blocks or keeps the process alive. The modules below `lib` are loaded at the first call.
 */

/**
 * Return this process as a producer of its session. Returns a stand-in that does nothing if telemetry is off.
 *
 * @param {import('./index').ConnectOptions} [options]
 * @returns {import('./index').Telemetry}
 */
function connect(options) {
  try {
    const { sdk = 'node', start = false } = options ?? {};
    return require('./lib/joining.cjs').join(process.env, sdk, start === true);
  } catch (error) {
    require('./lib/debug.cjs').debug('telemetry does not work here', error);
    return new (require('./lib/telemetry.cjs').Telemetry)();
  }
}

/**
 * Report one journey event that belongs to no session. Does nothing if telemetry is off, or if no daemon listens.
 *
 * @param {string} name
 * @param {import('./index').EventFields} [fields]
 * @returns {void}
 */
function emit(name, fields) {
  try {
    require('./lib/emitting.cjs').emit(process.env, name, fields);
  } catch (error) {
    require('./lib/debug.cjs').debug('an event is not reported', error);
  }
}

module.exports = { connect, emit };
