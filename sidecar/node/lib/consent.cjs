'use strict';

/**
 * Decides whether anything may be counted. Answers as the Python package does (host/consent.py), and a test holds that.
 *
 * The order, in which the first source with an answer decides: DO_NOT_TRACK; brakit's guards; an opt-out by
 * BRAKIT_TELEMETRY; a config that cannot be read; an opt-in by BRAKIT_TELEMETRY; the config's `telemetry`. This file
 * never writes the config.
 */

const fs = require('node:fs');

const { dormantBecause } = require('./guards.cjs');
const { configPath } = require('./paths.cjs');
const { fstat, lstat } = require('./stat.cjs');

const NO = ['false', '0', 'off', 'no'];
const YES = ['true', '1', 'yes', 'on'];
const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i; // no other spelling
const MAX_CONFIG = 64 * 1024; // bytes; a config has a hundred, and a larger file is not a config

/**
 * The config as it was read: its JSON object, or the reason why there is none.
 *
 * @typedef {{ content: Record<string, unknown> | null, missing: boolean, problem: string }} Config
 */

/**
 * The decision. `why` is one clause for a person. `dormant` means that no file may be made. `unreadable` means that the
 * config cannot be read now, because a process is writing it, for example: then nothing is counted, and nothing is
 * discarded either.
 *
 * @typedef {{ on: boolean, why: string, dormant: boolean, unreadable: boolean, anonymousId: string | null }} Consent
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
  if (config.content === null && !config.missing) {
    return no(`the config ${config.problem}`, { unreadable: true });
  }
  if (YES.includes(word)) {
    return yes('BRAKIT_TELEMETRY opts in', config);
  }
  if (config.content === null) {
    return yes('there is no opt-out', config);
  }
  return config.content.telemetry === true ? yes('the config opts in', config) : no('the config opts out');
}

function yes(why, config) {
  return { on: true, why, dormant: false, unreadable: false, anonymousId: anonymousIdOf(config) };
}

function no(why, { dormant = false, unreadable = false } = {}) {
  return { on: false, why, dormant, unreadable, anonymousId: null };
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
  return decide(environ, readConfig(configPath(environ)));
}

/**
 * Return the config at a path. Never throws: a file that cannot be read is a config with a problem.
 *
 * @param {string} path
 * @returns {Config}
 */
function readConfig(path) {
  let raw;
  try {
    raw = readRegularFile(path);
  } catch (error) {
    if (error.code !== 'ENOENT') {
      return withProblem(`cannot be read (${error.code})`);
    }
    // A dangling link is not a missing config: a process that makes the config now does not make a link.
    const isLink = lstat(path)?.isSymbolicLink();
    return isLink ? withProblem('is a link to a missing file') : { content: null, missing: true, problem: '' };
  }
  if (raw === null) {
    return withProblem('is not a regular file');
  }
  if (raw.length > MAX_CONFIG) {
    return withProblem('is larger than 64 KiB');
  }
  try {
    const content = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(raw));
    const isObject = typeof content === 'object' && content !== null && !Array.isArray(content);
    return isObject ? { content, missing: false, problem: '' } : withProblem('is not a JSON object');
  } catch {
    return withProblem('is not valid JSON');
  }
}

function withProblem(problem) {
  return { content: null, missing: false, problem };
}

/** Return a file's first bytes, one more than a config may have. Returns null if it is not a regular file. Throws. */
function readRegularFile(path) {
  const fd = fs.openSync(path, fs.constants.O_RDONLY | fs.constants.O_NONBLOCK);
  try {
    if (!fstat(fd).isFile()) {
      return null;
    }
    const raw = Buffer.alloc(MAX_CONFIG + 1);
    return raw.subarray(0, fs.readSync(fd, raw));
  } finally {
    fs.closeSync(fd);
  }
}

module.exports = { current, decide, readConfig };
