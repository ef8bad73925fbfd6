'use strict';

/** Finds the daemon and the session that this process belongs to, if it belongs to any. */

const { createHash } = require('node:crypto');
const { readFileSync } = require('node:fs');

const consent = require('./consent.cjs');
const { debug } = require('./debug.cjs');
const { destinationDigest } = require('./destination.cjs');
const { DAEMON_MARK } = require('./guards.cjs');
const { NOT_BELIEVED } = require('./layout.cjs');
const { socketPath, usualSocketPath } = require('./paths.cjs');
const { Place } = require('./place.cjs');
const { Producer } = require('./producer.cjs');
const { Telemetry } = require('./telemetry.cjs');

const GROUPS = '6f9d4c1e-3c56-5b0e-9a55-0b6f3d6a1c7e'; // the namespace of the ids of process groups

/**
 * Return a producer if telemetry is on, else the stand-in. Throws if `start` is set and the runtime directory is not
 * usable.
 *
 * @param {NodeJS.ProcessEnv} environ
 * @param {unknown} sdk
 * @param {boolean} start
 * @returns {Telemetry}
 */
function join(environ, sdk, start) {
  const decision = consentIn(environ);
  const place = decision.on ? placeIn(environ, decision) : null;
  if (place === null) {
    return new Telemetry();
  }
  // A daemon that is started listens at the usual path. BRAKIT_SIDECAR_SOCKET may name any other path.
  const isUsual = place.socketPath === usualSocketPath(environ);
  return new Producer({ place, sdk, starter: start && isUsual ? starterFor(environ, place.socketPath) : null });
}

/**
 * Return the decision whether this process may report. It may not on Windows, and below a daemon.
 *
 * @param {NodeJS.ProcessEnv} environ
 * @returns {{ on: boolean, anonymousId: string | null, stamp: bigint }}
 */
function consentIn(environ) {
  if (process.platform === 'win32' || DAEMON_MARK in environ) {
    return { on: false, anonymousId: null, stamp: NOT_BELIEVED };
  }
  const decision = consent.current(environ);
  if (!decision.on) {
    debug(`telemetry is off: ${decision.why}`);
  }
  return decision;
}

/** Return a starter of daemons. Loads it only now, because few processes start a daemon. Throws. */
function starterFor(environ, socket) {
  const { DaemonStarter, ensureDirectory } = require('./starter.cjs');
  ensureDirectory(socket);
  return new DaemonStarter(environ);
}

/** Return the place of this process. Returns null if its socket or its session cannot be named. */
function placeIn(environ, { anonymousId, stamp }) {
  const socket = socketPath(environ);
  if (socket === null) {
    debug('the socket has no usable path: set BRAKIT_SIDECAR_SOCKET to the path that `brakit-sidecar start` prints');
    return null;
  }
  const session = parseUuid(environ.BRAKIT_SESSION_ID ?? '');
  const key = session ?? processGroupId();
  if (key === null) {
    debug('this process belongs to no session: BRAKIT_SESSION_ID is not set, and there is no /proc');
    return null;
  }
  const membership = { [session === null ? 'group' : 'session']: formatUuid(key) };
  return new Place({
    socketPath: socket,
    membership,
    key,
    destination: destinationDigest(environ),
    stamp,
    anonymousId,
  });
}

/**
 * Return the id that all workers of one command line share: of boot, process group and its leader's start. It is the
 * one that the Python package finds (client/joining.py). Returns null on a platform without /proc.
 */
function processGroupId() {
  const group = statFields('self')[2];
  if (group === undefined) {
    return null;
  }
  const boot = firstLine('/proc/sys/kernel/random/boot_id');
  const started = statFields(group)[19] ?? ''; // unknown if the group's leader exited
  return uuid5(GROUPS, `${boot} ${group} ${started}`);
}

/** Return the fields of /proc/PID/stat from the state on. The command's name before it may hold anything. */
function statFields(pid) {
  const line = firstLine(`/proc/${pid}/stat`);
  return line.slice(line.lastIndexOf(')') + 1).split(' ').filter(Boolean);
}

function firstLine(path) {
  try {
    return readFileSync(path, 'utf8').split('\n', 1)[0].trim();
  } catch {
    return '';
  }
}

/** Return a UUID's 16 bytes, in any spelling that Python's uuid.UUID reads. Returns null for any other text. */
function parseUuid(text) {
  const digits = text.replace(/urn:|uuid:|[{}-]/g, '');
  return /^[0-9a-f]{32}$/i.test(digits) ? Buffer.from(digits, 'hex') : null;
}

function formatUuid(bytes) {
  return bytes.toString('hex').replace(/^(.{8})(.{4})(.{4})(.{4})/, '$1-$2-$3-$4-');
}

/** Return the UUID, version 5, of a name in a namespace, as 16 bytes. */
function uuid5(namespace, name) {
  const id = createHash('sha1').update(parseUuid(namespace)).update(name).digest().subarray(0, 16);
  id[6] = (id[6] & 0x0f) | 0x50;
  id[8] = (id[8] & 0x3f) | 0x80;
  return id;
}

module.exports = { consentIn, join };
