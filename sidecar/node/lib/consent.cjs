'use strict';

/**
 * Decides whether anything may be counted. Answers as the Python package does (host/consent.py), and a test holds that.
 *
 * A no wins, whichever source gives it: DO_NOT_TRACK, brakit's guards, an opt-out by BRAKIT_TELEMETRY, or the config.
 * The first of these sources that gives a no is named as the reason. This file never writes the config.
 */

// The functions are bound here, because an application's tests may replace them in their module.
const { closeSync, constants, openSync, readSync } = require('node:fs');

const { dormantBecause } = require('./guards.cjs');
const { UntrustedConfig, find, isWritable, problemOf } = require('./config_location.cjs');
const { NOT_BELIEVED, NO_CONFIG } = require('./layout.cjs');
const { configPath } = require('./paths.cjs');
const { fstat, lstat } = require('./stat.cjs');

const NO = ['false', '0', 'off', 'no'];
const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i; // no other spelling
const NS_PER_MS = 1_000_000n;
const MAX_CONFIG = 64 * 1024; // bytes; a config has a hundred, and a larger file is not a config

/**
 * The config as it was read: its JSON object, or the problem because of which it means off (perhaps both). `stamp` is
 * the time of the last change (ctime in ns) of the file and of the links to it, NO_CONFIG plus the time, or NOT_BELIEVED.
 *
 * @typedef {{ content: Record<string, unknown> | null, missing: boolean, problem: string, stamp: bigint }} Config
 */

/**
 * The decision. `why` is one clause for a person. `dormant` means that no file may be made. `unreadable` means that the
 * config cannot be read now, because a process is writing it, for example: then nothing is counted, and nothing is
 * discarded either. `stamp` is the config's.
 *
 * @typedef {{ on: boolean, why: string, dormant: boolean, unreadable: boolean, anonymousId: string | null,
 *   stamp: bigint }} Consent
 */

/**
 * Return the decision for an environment and a config.
 *
 * @param {NodeJS.ProcessEnv} environ
 * @param {Config} config
 * @returns {Consent}
 */
function decide(environ, config) {
  const guard = dormantBecause(environ);
  const word = (environ.BRAKIT_TELEMETRY ?? '').trim().toLowerCase();
  if (!['', '0', 'false'].includes((environ.DO_NOT_TRACK ?? '').trim().toLowerCase())) {
    return no('DO_NOT_TRACK is set', { dormant: guard !== null });
  }
  if (guard !== null) {
    return no(guard, { dormant: true });
  }
  if (NO.includes(word)) {
    return no('BRAKIT_TELEMETRY opts out');
  }
  if (config.problem !== '') {
    return no(`the config ${config.problem}`, { unreadable: true });
  }
  if (config.content === null) {
    return yes('there is no opt-out', config);
  }
  const { stamp } = config;
  return config.content.telemetry === true ? yes('the config opts in', config) : no('the config opts out', { stamp });
}

function yes(why, config) {
  return { on: true, why, dormant: false, unreadable: false, anonymousId: anonymousIdOf(config), stamp: config.stamp };
}

function no(why, { dormant = false, unreadable = false, stamp = NOT_BELIEVED } = {}) {
  return { on: false, why, dormant, unreadable, anonymousId: null, stamp };
}

/** Return the anonymous id in lower case. Returns null if the config has no valid one. */
function anonymousIdOf(config) {
  const found = config.content?.anonymousId;
  return typeof found === 'string' && UUID.test(found) ? found.toLowerCase() : null;
}

/**
 * Return the decision as of now.
 *
 * @param {NodeJS.ProcessEnv} environ
 * @returns {Consent}
 */
function current(environ) {
  return decide(environ, readConfig(environ));
}

/**
 * Return the config. Never throws: a file that cannot be read or believed is a config with a problem.
 *
 * @param {NodeJS.ProcessEnv} environ
 * @returns {Config}
 */
function readConfig(environ) {
  try {
    const { path, linkedAt } = find(environ);
    const config = readIfThere(path, linkedAt) ?? missing(environ);
    return config.problem === '' && !isWritable(path)
      ? withProblem('is not believed, because it cannot be written', config.content)
      : config;
  } catch (error) {
    return withProblem(error instanceof UntrustedConfig ? error.message : `cannot be read (${error.code})`);
  }
}

/** Return the config where there is none. A dangling link is not a missing config. */
function missing(environ) {
  return lstat(configPath(environ))?.isSymbolicLink()
    ? withProblem('is a link to a missing file')
    : { content: null, missing: true, problem: '', stamp: NO_CONFIG + BigInt(Date.now()) * NS_PER_MS };
}

/** Read the file at its real place. Returns null if it is missing. Throws for any other error. */
function readIfThere(path, linkedAt) {
  let fd;
  try {
    fd = openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
  } catch (error) {
    if (error.code === 'ENOENT') {
      return null;
    }
    throw error;
  }
  try {
    return read(fd, linkedAt);
  } finally {
    closeSync(fd);
  }
}

function read(fd, linkedAt) {
  const info = fstat(fd); // before the content, so that a new content never has a newer stamp
  if (!info.isFile()) {
    return withProblem('is not a regular file');
  }
  const config = parse(contentOf(fd), info.ctimeNs > linkedAt ? info.ctimeNs : linkedAt);
  const distrust = problemOf(info);
  return config.problem === '' && distrust !== null
    ? withProblem(`is not believed, because it ${distrust}`, config.content)
    : config;
}

/** Return a file's first bytes, one more than a config may have. Throws. */
function contentOf(fd) {
  const raw = Buffer.alloc(MAX_CONFIG + 1);
  return raw.subarray(0, readSync(fd, raw));
}

function parse(raw, stamp) {
  if (raw.length > MAX_CONFIG) {
    return withProblem('is larger than 64 KiB');
  }
  try {
    const content = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(raw));
    const isObject = typeof content === 'object' && content !== null && !Array.isArray(content);
    return isObject ? { content, missing: false, problem: '', stamp } : withProblem('is not a JSON object');
  } catch {
    return withProblem('is not valid JSON');
  }
}

function withProblem(problem, content = null) {
  return { content, missing: false, problem, stamp: NOT_BELIEVED };
}

module.exports = { current, decide, readConfig };
