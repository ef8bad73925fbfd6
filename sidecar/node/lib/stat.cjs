'use strict';

/**
 * What lies at a path or behind a descriptor.
 *
 * `lstatSync` and `fstatSync` leave their result in an array that Node's `realpathSync` reads. If that result is of a
 * socket, Node does not resolve the next link that it meets, and loads a linked package a second time (seen on Node 18
 * to 24). With `bigint` the result is in another array.
 */

// The functions are bound here, because an application's tests may replace them in their module.
const { fstatSync, lstatSync, statSync } = require('node:fs');

/**
 * Return the information about a path, without following a link. Returns null if there is nothing.
 *
 * @param {string} path
 * @returns {import('node:fs').BigIntStats | null}
 */
function lstat(path) {
  try {
    return lstatSync(path, { bigint: true });
  } catch {
    return null;
  }
}

/**
 * Return the information about what a path leads to. Returns null if there is nothing.
 *
 * @param {string} path
 * @returns {import('node:fs').BigIntStats | null}
 */
function stat(path) {
  try {
    return statSync(path, { bigint: true });
  } catch {
    return null;
  }
}

/**
 * Return the information about a descriptor. Returns null if it is closed.
 *
 * @param {number} fd
 * @returns {import('node:fs').BigIntStats | null}
 */
function fstat(fd) {
  try {
    return fstatSync(fd, { bigint: true });
  } catch {
    return null;
  }
}

/**
 * Return whether both are of the same file or socket.
 *
 * A new file may get the inode of a removed file. It has another time of birth, if the filesystem knows that time.
 */
function isSame(info, other) {
  return ['dev', 'ino', 'birthtimeNs'].every((name) => info !== null && other !== null && info[name] === other[name]);
}

/** Return whether it is of this user. */
function isOwn(info) {
  return Number(info.uid) === process.getuid();
}

/** Return the permission bits, as 0o700. */
function permissions(info) {
  return Number(info.mode & 0o7777n);
}

module.exports = { fstat, isOwn, isSame, lstat, permissions, stat };
