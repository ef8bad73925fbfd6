'use strict';

/** Reports a journey event that belongs to no session, by a connection of its own. */

const { Channel } = require('./channel.cjs');
const { destinationDigest } = require('./destination.cjs');
const { consentIn } = require('./joining.cjs');
const { MAX_LINE, PROTOCOL } = require('./limits.cjs');
const { socketPath } = require('./paths.cjs');
const { eventFieldsOf, nameOf } = require('./validation.cjs');
const { encode } = require('./wire.cjs');

const SDK = 'node';

/**
 * Report one event if telemetry is on and a daemon listens. Throws a Mistake if the event's name cannot be one.
 *
 * @param {NodeJS.ProcessEnv} environ
 * @param {unknown} name
 * @param {unknown} fields They may replace the common properties `sdk` and `node_version`.
 */
function emit(environ, name, fields) {
  const socket = consentIn(environ).on ? socketPath(environ) : null;
  if (socket === null) {
    return;
  }
  const common = { sdk: SDK, node_version: process.version };
  const event = encode({ event: { ...common, ...eventFieldsOf(fields), name: nameOf(name, 'event') } });
  const channel = new Channel();
  if (event.length <= MAX_LINE && channel.open(socket)) {
    const hello = { protocol: PROTOCOL, sdk: SDK, destination: destinationDigest(environ) };
    channel.send(Buffer.concat([encode({ hello }), event]));
    channel.close(); // the daemon reads what was written
  }
}

module.exports = { emit };
