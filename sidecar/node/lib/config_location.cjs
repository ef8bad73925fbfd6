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

const { configPath, home } = require('./paths.cjs');
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
  const homeDirectory = home(environ);
  let found = configPath(environ);
  check(homeDirectory, `HOME (${homeDirectory})`);
  const ownDirectory = lstat(path.dirname(found));
  if (ownDirectory === null) {
    return { path: found, linkedAt: 0n };
  }
  let linkedAt = ownDirectory.isSymbolicLink() ? ownDirectory.ctimeNs : 0n;
  for (let links = 0; links < MAX_LINKS; links += 1) {
    const directory = realPath(path.dirname(found));
    checkUpToHome(directory, realPath(homeDirectory));
    found = path.join(directory, path.basename(found));
    const info = lstat(found);
    if (!info?.isSymbolicLink()) {
      checkOnlyName(info);
      return { path: found, linkedAt };
    }
    linkedAt = info.ctimeNs > linkedAt ? info.ctimeNs : linkedAt;
    const target = readlinkSync(found);
    found = path.isAbsolute(target) ? target : `${directory}/${target}`; // `..` is resolved behind links
  }
  throw new UntrustedConfig('is a link to itself');
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

/** Return the path without links, or the path itself if a part of it is missing. */
function realPath(directory) {
  try {
    return realpathSync.native(directory);
  } catch {
    return directory;
  }
}

module.exports = { UntrustedConfig, find, isWritable, problemOf };
