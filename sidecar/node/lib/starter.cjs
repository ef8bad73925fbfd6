'use strict';

/** Starts a daemon without waiting for it, by the command `brakit-sidecar start`, which must be on PATH. */

const { spawn } = require('node:child_process');
const { accessSync, constants, mkdirSync, realpathSync } = require('node:fs');
const path = require('node:path');

const { monotonicMs } = require('./clock.cjs');
const { debug } = require('./debug.cjs');
const { aboveStandard } = require('./standard_fds.cjs');
const { isOwn, lstat } = require('./stat.cjs');

const COMMAND = 'brakit-sidecar';
const START_AGAIN_MS = 5000; // a daemon that exits at once each time is not started again each second
const NOT_FOR_THE_DAEMON = new Set(['NODE_OPTIONS', 'PYTHONPATH']); // they may load code of the application

/**
 * Make the directory of the socket, because the counter file is made there before the daemon runs. Throws if it cannot
 * be made, or is not this user's. If it exists already, the daemon makes it private.
 *
 * @param {string} socketPath
 */
function ensureDirectory(socketPath) {
  const directory = path.dirname(socketPath);
  mkdirSync(directory, { recursive: true, mode: 0o700 });
  const info = lstat(directory);
  if (info === null || !info.isDirectory() || !isOwn(info)) {
    throw new Error(`${directory} is not a directory of this user`);
  }
}

class DaemonStarter {
  #environ;
  #mayStartAt = 0;

  /** @param {NodeJS.ProcessEnv} environ */
  constructor(environ) {
    this.#environ = environ;
  }

  /**
   * Start a daemon. Returns false if it is too early for that, if a daemon was started before and not `again`, or if
   * the command is not on PATH.
   *
   * @param {{ again: boolean }} options
   * @returns {boolean}
   */
  start({ again }) {
    const now = monotonicMs();
    if ((this.#mayStartAt > 0 && !again) || now < this.#mayStartAt) {
      return false;
    }
    this.#mayStartAt = now + START_AGAIN_MS;
    const command = commandOnPath(this.#environ.PATH ?? '');
    if (command === undefined) {
      debug(`no daemon is started, because ${COMMAND} is not on PATH`);
      return false;
    }
    this.#spawn(command);
    return true;
  }

  #spawn(command) {
    const kept = Object.entries(this.#environ).filter(([name]) => !NOT_FOR_THE_DAEMON.has(name));
    try {
      const options = { cwd: '/', detached: true, env: Object.fromEntries(kept), stdio: 'ignore' };
      const child = aboveStandard(() => spawn(command, ['start'], options)); // for the pipe by which libuv starts it
      child.on('error', (error) => debug('could not start a daemon', error));
      child.unref();
    } catch (error) {
      debug('could not start a daemon', error); // out of processes, or of memory
    }
  }
}

/** Return the command's path. A relative part of PATH is skipped, because a project may have a file of that name. */
function commandOnPath(searched) {
  return searched
    .split(':')
    .filter((directory) => path.isAbsolute(directory))
    .map((directory) => path.join(directory, COMMAND))
    .find(isExecutable);
}

function isExecutable(file) {
  try {
    accessSync(file, constants.X_OK);
    return lstat(realpathSync(file)).isFile();
  } catch {
    return false;
  }
}

module.exports = { DaemonStarter, ensureDirectory };
