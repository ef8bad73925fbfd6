'use strict';

/**
 * The cells in which a producer counts, and the file beside the daemon's socket that has the same content.
 *
 * Node can neither map memory nor pass a descriptor. So the daemon opens the file by its name, and each change of the
 * cells is also written to the file (pwrite). The content of the file outlives this process, even if the process is
 * killed. The file is made when a daemon may read it, with all that was counted before.
 */

// The functions are bound here, because an application's tests may replace them in their modules.
const { closeSync, constants, fchmodSync, openSync, readSync, unlinkSync, writeSync } = require('node:fs');
const { endianness } = require('node:os');

const { NOWHERE } = require('./destination.cjs');
const layout = require('./layout.cjs');
const { COUNT_MAX, NS_PER_MS, OVERFLOW_ROUTE, bucketOf } = require('./limits.cjs');
const { aboveStandard, isStandard } = require('./standard_fds.cjs');
const { fstat, isSame, lstat } = require('./stat.cjs');

const { CELL, ROW } = layout;
const { O_CREAT, O_EXCL, O_NOFOLLOW, O_RDONLY, O_RDWR } = constants;
// Read-only by name, although this process writes to it, so that no program of the user truncates it by mistake.
const MODE = 0o400;
const OPENING_MODE = 0o600; // while the file is opened again
const HALVES = 2; // of a cell, because a 64-bit number would be a BigInt, which is slower than two 32-bit numbers
const LOW = endianness() === 'LE' ? 0 : 1;
const HIGH = 1 - LOW;
const HALF = 2 ** 32;

class CounterFile {
  #bytes = Buffer.alloc(layout.SIZE);
  #halves = new Uint32Array(this.#bytes.buffer, this.#bytes.byteOffset, HALVES * (layout.SIZE / CELL));
  #rows = new Map([[OVERFLOW_ROUTE, layout.FIRST_ROW]]); // the first cell of each row, by opaque id
  #path = null;
  #fd = null; // null if no other process can see the cells
  #identity = null;

  /**
   * Make cells that no other process can see yet.
   *
   * @param {import('./place.cjs').Place} place
   */
  constructor(place) {
    this.#setCell(0, layout.MAGIC);
    this.#setCell(layout.USED_ROWS, 1n);
    this.#setCell(layout.ANONYMOUS_ID, anonymousIdCell(place.anonymousId));
    this.#setCell(layout.STAMP, place.stamp);
    this.#setCell(layout.DESTINATION, destinationCell(place.destination));
    this.#setCell(layout.PID, BigInt(process.pid));
    this.#setCell(layout.KIND, BigInt(place.kind));
    this.#bytes.set(place.key, layout.ID * CELL);
  }

  // --- counting ---------------------------------------------------------------------------------------------------

  /** Add a whole number to a cell. The cell saturates at 2^53-1. */
  add(cell, n) {
    this.#increase(cell, n);
    this.#write(cell, 1);
  }

  /**
   * Add one duration to the route's row, or to the overflow row if there are too many routes.
   *
   * @param {string} route The opaque id.
   * @param {number} durationMs
   * @returns {string} The id whose row has the duration.
   */
  observe(route, durationMs) {
    const known = this.#rows.get(route);
    const used = this.#rows.size;
    const isNew = known === undefined && used <= layout.MAX_ROUTES;
    const row = known ?? layout.FIRST_ROW + (isNew ? ROW * used : 0);
    const sum = row + 1;
    const bucket = row + 2 + bucketOf(durationMs);
    this.#increase(sum, Math.round(durationMs * NS_PER_MS));
    this.#increase(bucket, 1);
    if (isNew) {
      this.#rows.set(route, row);
      this.#setCell(row, BigInt(`0x${route}`));
      this.#write(row, ROW);
      this.add(layout.USED_ROWS, 1); // last, because the daemon reads a row from then on
    } else {
      this.#write(sum, bucket - sum + 1);
    }
    return known === undefined && !isNew ? OVERFLOW_ROUTE : route;
  }

  /** Write the exit reason, if it is one that the file can hold. */
  setEnd(exitReason) {
    const end = layout.ENDS.indexOf(exitReason);
    if (end > 0) {
      this.#setCell(layout.END, BigInt(end));
      this.#write(layout.END, 1);
    }
  }

  /** Return the number in a cell. */
  count(cell) {
    return this.#halves[HALVES * cell + LOW] + HALF * this.#halves[HALVES * cell + HIGH];
  }

  /** The opaque ids of the routes that have a duration. */
  get routes() {
    return [...this.#rows.keys()].filter((route) => this.rowOf(route).some((number) => number > 0));
  }

  /** Return a known route's sum and buckets. */
  rowOf(route) {
    const row = this.#rows.get(route);
    return Array.from({ length: ROW - 1 }, (_, position) => this.count(row + 1 + position));
  }

  #increase(cell, n) {
    const sum = Math.min(this.count(cell) + n, COUNT_MAX);
    this.#halves[HALVES * cell + LOW] = sum; // modulo 2^32
    this.#halves[HALVES * cell + HIGH] = sum / HALF;
  }

  #setCell(cell, value) {
    const half = BigInt(HALF);
    this.#halves[HALVES * cell + LOW] = Number(value % half);
    this.#halves[HALVES * cell + HIGH] = Number(value / half);
  }

  // --- the file ---------------------------------------------------------------------------------------------------

  /** Whether another process can see the cells. */
  get isShared() {
    return this.#fd !== null;
  }

  /**
   * Make the file, with the whole content. Does nothing if the path leads to the file already. A file that was
   * overwritten is replaced.
   *
   * Race: a daemon that starts now may find the file before its content is written. It is harmless, because that daemon
   * leaves the file alone, and opens it again when this producer connects. If the process is killed before it connects,
   * the next daemon finds the file.
   *
   * @param {string} path
   * @returns {boolean} False if the file cannot be made. Then no other process can see the cells.
   */
  keepAs(path) {
    if (this.#isIntact && isSame(lstat(path), this.#identity)) {
      return true;
    }
    this.remove();
    try {
      this.#fd = aboveStandard(() => openSync(path, O_CREAT | O_EXCL | O_RDWR | O_NOFOLLOW, MODE));
    } catch {
      return false; // the directory is missing, not writable or full
    }
    const isWhole = !isStandard(this.#fd) && this.#writeAll();
    this.#path = path;
    this.#identity = fstat(this.#fd);
    if (!isWhole) {
      this.remove();
    }
    return isWhole;
  }

  /** Whether the session was reported or consent withdrawn: later counts are not reported. */
  get isRetired() {
    return this.#isIntact && this.#readCell(layout.RETIRED) !== 0n;
  }

  /**
   * Whether the file still begins with the magic. It does not if the application wrote to our descriptor by mistake: a
   * first write is at the file's beginning.
   */
  get #isIntact() {
    return this.#holdsDescriptor() && this.#readCell(0) === layout.MAGIC;
  }

  #readCell(cell) {
    const value = new BigUint64Array(1);
    readSync(this.#fd, value, 0, CELL, cell * CELL);
    return value[0];
  }

  /** Mark the file, so that no daemon reads it again, and remove it. */
  retire() {
    this.#setCell(layout.RETIRED, 1n);
    this.#write(layout.RETIRED, 1);
    this.remove();
  }

  /** Remove the file, because the daemon does not read it. The cells stay usable. */
  remove() {
    if (this.#path !== null && isSame(lstat(this.#path), this.#identity)) {
      try {
        unlinkSync(this.#path);
      } catch {
        // the directory is not writable any more
      }
    }
    this.close();
  }

  /** Close the descriptor. The file stays for the daemon, and the cells stay usable. */
  close() {
    if (this.#holdsDescriptor()) {
      closeSync(this.#fd);
    }
    this.#fd = null;
  }

  #write(cell, count) {
    if (!this.#holdsDescriptor()) {
      return;
    }
    try {
      writeSync(this.#fd, this.#bytes, cell * CELL, count * CELL, cell * CELL);
    } catch {
      this.#holdsDescriptor(); // the application closed it
    }
  }

  /**
   * Write all but the cell RETIRED, which is the daemon's. The head is last, because it makes a file acceptable.
   * Returns false if the disk is full.
   */
  #writeAll() {
    try {
      this.#writeRange(layout.FIRST_ROW * CELL, layout.SIZE);
      this.#writeRange(0, layout.RETIRED * CELL);
      return true;
    } catch {
      return false;
    }
  }

  #writeRange(start, end) {
    for (let position = start; position < end; ) {
      position += writeSync(this.#fd, this.#bytes, position, end - position, position);
    }
  }

  /**
   * Return whether the descriptor still is the file's.
   *
   * An application that closes a descriptor twice may close this one, and then the number may become a file of its own,
   * into which this class must not write. The file is opened again, if it is still at its path.
   */
  #holdsDescriptor() {
    if (this.#fd !== null && !isSame(fstat(this.#fd), this.#identity)) {
      this.#fd = null;
      this.#openAgain();
    }
    return this.#fd !== null;
  }

  #openAgain() {
    if (!isSame(lstat(this.#path), this.#identity)) {
      return;
    }
    try {
      this.#fd = aboveStandard(() => openReadOnlyFile(this.#path));
    } catch {
      return; // no other process sees later counts, until the producer connects again
    }
    if (isStandard(this.#fd)) {
      closeSync(this.#fd);
      this.#fd = null;
      return;
    }
    this.#writeAll();
  }
}

/** Open a file of mode 0400 for writing. Only its owner can do that. */
function openReadOnlyFile(path) {
  const readable = openSync(path, O_RDONLY | O_NOFOLLOW);
  try {
    fchmodSync(readable, OPENING_MODE);
    try {
      return openSync(path, O_RDWR | O_NOFOLLOW);
    } finally {
      fchmodSync(readable, MODE);
    }
  } finally {
    closeSync(readable);
  }
}

/** Return the cell ANONYMOUS_ID for a UUID: its first 8 bytes as a number. Returns 0 for null. */
function anonymousIdCell(anonymousId) {
  return anonymousId === null ? 0n : BigInt(`0x${anonymousId.replaceAll('-', '').slice(0, 2 * CELL)}`);
}

/** Return the cell DESTINATION for the digest of a destination. */
function destinationCell(digest) {
  return digest === NOWHERE ? layout.TO_NOWHERE : BigInt(`0x${digest}`);
}

module.exports = { CounterFile };
