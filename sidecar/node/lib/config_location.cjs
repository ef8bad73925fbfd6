'use strict';

/**
 * Finds the real place of brakit's config, as the Python package does (host/config_location.py), and a test holds that.
 *
 * Links are resolved, because people keep their settings in a repository and link to it. A config is believed only if
 * this user alone can write it.
 */

// The functions are bound here, because an application's tests may replace them in their module.
const { accessSync, constants, readlinkSync, realpathSync } = require('node:fs');
const path = require('node:path');

const { CONFIG_NAMES, home } = require('./paths.cjs');
const { isOwn, lstat, permissions, stat } = require('./stat.cjs');

const MAX_LINKS = 40; // Linux's limit for one path
const WRITABLE_BY_OTHERS = 0o022;

/** The config is not to be believed. The message says why, as a clause. */
class UntrustedConfig extends Error {}

/**
 * Return the path of the config without links, and when the last of these links was made (ctime in ns, or 0).
 *
 * The config, and the directory ~/.brakit, may be missing.
 *
 * @param {NodeJS.ProcessEnv} environ
 * @returns {{ path: string, linkedAt: bigint }} Throws UntrustedConfig.
 */
function find(environ) {
  check(home(environ), `HOME (${home(environ)})`);
  const homeDirectory = realpathSync.native(home(environ));
  let directory = homeDirectory;
  let names = [...CONFIG_NAMES];
  let found = directory;
  let linkedAt = 0n;
  for (let links = 0; names.length > 0; ) {
    found = path.join(directory, names.shift()); // there is no link left before a `..`
    const info = lstat(found);
    if (!info?.isSymbolicLink()) {
      directory = found;
      continue;
    }
    checkHolder(directory);
    linkedAt = info.ctimeNs > linkedAt ? info.ctimeNs : linkedAt;
    links += 1;
    if (links > MAX_LINKS) {
      throw new UntrustedConfig('is a link to itself');
    }
    const target = readlinkSync(found);
    if (path.isAbsolute(target)) {
      directory = '/';
    }
    names = [...target.split('/'), ...names];
  }
  if (linkedAt > 0n || lstat(path.dirname(found)) !== null) {
    checkUpToHome(path.dirname(found), homeDirectory); // else ~/.brakit is to be made
    checkOnlyName(lstat(found));
  }
  return { path: found, linkedAt };
}

/**
 * Return whether the config can be written or, if it is missing, be made. `found` has no links.
 *
 * The file itself must be writable, because a file that is a mount point cannot be replaced.
 */
function isWritable(found) {
  let existing = found;
  while (lstat(existing) === null) {
    existing = path.dirname(existing);
  }
  try {
    accessSync(existing, constants.W_OK);
    return true;
  } catch {
    return false;
  }
}

/** Return why a file or directory is not to be believed, as a clause. Returns null if it is. */
function problemOf(info) {
  if (!isOwn(info)) {
    return 'belongs to another user';
  }
  return permissions(info) & WRITABLE_BY_OTHERS ? 'can be written by other users; `chmod go-w` it' : null;
}

/** Check a directory that holds a link. It may be root's, such as /. */
function checkHolder(directory) {
  const info = stat(directory);
  if (Number(info.uid) !== 0 || permissions(info) & WRITABLE_BY_OTHERS) {
    check(directory, directory);
  }
}

/** Check a directory and, if it is below HOME, also those between them: their writers could replace it. */
function checkUpToHome(directory, homeDirectory) {
  check(directory, directory);
  for (let above = directory; above.startsWith(`${homeDirectory.replace(/\/+$/, '')}/`); ) {
    above = path.dirname(above);
    check(above, above);
  }
}

function checkOnlyName(info) {
  if (info?.isFile() && info.nlink > 1n) {
    throw new UntrustedConfig('is not believed, because it has a second name; replace the hard link by a symbolic link');
  }
}

function check(directory, name) {
  const info = stat(directory);
  if (!info?.isDirectory()) {
    throw new UntrustedConfig(`cannot be found, because ${name} is not a directory`);
  }
  const problem = problemOf(info);
  if (problem !== null) {
    throw new UntrustedConfig(`is not believed, because ${name} ${problem}`);
  }
}

module.exports = { UntrustedConfig, find, isWritable, problemOf };
