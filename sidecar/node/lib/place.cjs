'use strict';

/** The daemon that a producer reports to, the session that it counts for, and the terms under which it counts. */

const { createHmac } = require('node:crypto');

const { OF_GROUP, OF_SESSION } = require('./layout.cjs');

const MAX_HASHES = 4096; // texts remembered with their opaque id; bounds the memory of a process that marks without end

class Place {
  #opaqueIds = new Map();

  /**
   * @param {object} options
   * @param {string} options.socketPath
   * @param {{ session: string } | { group: string }} options.membership The part of the hello that names the session
   *   or the process group.
   * @param {Buffer} options.key The same id as 16 bytes.
   * @param {string} options.destination The digest of the environment's destination.
   * @param {bigint} options.stamp The config's. The daemon compares it with the stamp at that time, so this process need
   *   not read the config again: a home directory that does not answer would stall a request.
   * @param {string | null} options.anonymousId The id under which this producer counts.
   */
  constructor({ socketPath, membership, key, destination, stamp, anonymousId }) {
    this.socketPath = socketPath;
    this.membership = membership;
    this.key = key;
    this.destination = destination;
    this.stamp = stamp;
    this.anonymousId = anonymousId;
  }

  /** What `key` is the id of, in the counter file's terms. */
  get kind() {
    return 'session' in this.membership ? OF_SESSION : OF_GROUP;
  }

  /**
   * Return the text's opaque id: 16 hex digits, hashed with the session as key.
   *
   * The same text has different ids in different sessions. Python's client uses BLAKE2b with a key, which Node's crypto
   * does not have. The ids of both never need to be equal, because a Python route and a Node route are two routes.
   *
   * @param {string} text
   * @returns {string}
   */
  opaque(text) {
    let known = this.#opaqueIds.get(text);
    if (known === undefined) {
      known = createHmac('sha256', this.key).update(text).digest('hex').slice(0, 16);
      if (this.#opaqueIds.size < MAX_HASHES) {
        this.#opaqueIds.set(text, known);
      }
    }
    return known;
  }
}

module.exports = { Place };
