'use strict';

/**
 * The paths of the daemon's socket, of the counter files beside it and of brakit's config. The answers are those of the
 * Python package (host/paths.py), and a test holds that.
 */

const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');

const { PROTOCOL } = require('./limits.cjs');
const { isOwn, lstat, permissions } = require('./stat.cjs');

// The size of sun_path in bytes, without its terminating zero: 108 on Linux, 104 on macOS and the BSDs.
const MAX_SOCKET_PATH = process.platform === 'linux' ? 107 : 103;
const SOCKET_NAME = `sidecar-${PROTOCOL}.sock`;
const COUNTER_FILE_PREFIX = `counters-${PROTOCOL}-`;
const CONFIG_NAMES = ['.brakit', 'config.json']; // below HOME
const NOWHERE = '/dev/null'; // a parent in which no user, root included, can make a file

/**
 * Return the path at which this user's daemon listens: BRAKIT_SIDECAR_SOCKET, or the path in the runtime directory.
 *
 * Returns null if the path is not absolute, or longer than the kernel allows. For a long runtime directory, the daemon
 * has a short path below /tmp whose name is a BLAKE2b digest of 4 bytes. Node's crypto does not have that digest, so
 * the variable must name the path. `brakit-sidecar run` always sets it.
 *
 * @param {NodeJS.ProcessEnv} environ
 * @returns {string | null}
 */
function socketPath(environ) {
  const found = environ.BRAKIT_SIDECAR_SOCKET || usualSocketPath(environ);
  return path.isAbsolute(found) && Buffer.byteLength(found) <= MAX_SOCKET_PATH ? found : null;
}

/**
 * Return the path at which a daemon of this user listens that is started now.
 *
 * @param {NodeJS.ProcessEnv} environ
 * @returns {string}
 */
function usualSocketPath(environ) {
  return join(runtimeDirectory(environ), SOCKET_NAME);
}

/**
 * Return the path of a producer's counter file.
 *
 * @param {string} socket
 * @param {string} producer
 * @returns {string}
 */
function counterFilePath(socket, producer) {
  return join(path.dirname(socket), COUNTER_FILE_PREFIX + producer);
}

/**
 * Return the path of brakit's config.
 *
 * @param {NodeJS.ProcessEnv} environ
 * @returns {string}
 */
function configPath(environ) {
  return join(home(environ), CONFIG_NAMES.join('/'));
}

/** Return whether the path is a socket of this user. No process need listen there any more. */
function isOwnSocket(socket) {
  const info = lstat(socket);
  return info !== null && info.isSocket() && isOwn(info);
}

function runtimeDirectory(environ) {
  if (process.platform === 'darwin') {
    return join(home(environ), 'Library/Caches/TemporaryItems/brakit');
  }
  const named = (environ.XDG_RUNTIME_DIR ?? '').trim();
  if (path.isAbsolute(named) && mayHoldOurs(named)) {
    return join(named, 'brakit');
  }
  const system = `/run/user/${process.getuid()}`;
  if (!path.isAbsolute(named) && lstat(system) !== null && mayHoldOurs(system)) {
    return join(system, 'brakit');
  }
  return `/tmp/brakit-${process.getuid()}`;
}

/** Return whether the directory is private, or is missing and can be made. */
function mayHoldOurs(directory) {
  const info = lstat(directory);
  if (info === null) {
    return isWritable(path.dirname(directory));
  }
  return info.isDirectory() && isOwn(info) && permissions(info) === 0o700;
}

function isWritable(directory) {
  try {
    fs.accessSync(`${directory}/`, fs.constants.W_OK); // the slash refuses a file
    return true;
  } catch {
    return false;
  }
}

/** Return HOME if it is absolute, else the home directory of the password database, else NOWHERE. */
function home(environ) {
  if (path.isAbsolute(environ.HOME ?? '')) {
    return environ.HOME;
  }
  try {
    return os.userInfo().homedir;
  } catch {
    return NOWHERE;
  }
}

/** Join as Python does. Node's `path.join` would also resolve "..", which is wrong behind a symbolic link. */
function join(directory, name) {
  return directory.endsWith('/') ? directory + name : `${directory}/${name}`;
}

module.exports = { CONFIG_NAMES, configPath, counterFilePath, home, isOwnSocket, socketPath, usualSocketPath };
