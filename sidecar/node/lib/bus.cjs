'use strict';

/**
 * Brakit's event bus: how it is found, and what is counted by it.
 *
 * The bus is a Map of channel names to Sets of listeners, and no module exports it. Right after brakit has sent
 * `setup_completed`, in the same synchronous function, it adds a listener to "request:completed". For that it asks its
 * Map for this channel. So `Map.prototype.get` is replaced until it sees the Map, at most until the code that runs now
 * returns.
 *
 * Listeners run inside the application's requests, so nothing here throws or waits. What is published holds URLs, SQL,
 * headers and bodies. Only numbers and words of a vocabulary are read from it, and texts that the client hashes.
 */

const { debug } = require('./debug.cjs');
const { isForwarding, watchForwarding } = require('./forwarded.cjs');
const { isBrakitPath, routeOf } = require('./routes.cjs');

let isSearching = false;

/**
 * Call `found` with the channels of the bus if brakit asks for one of them before the code that runs now returns.
 *
 * @param {(channels: Map<string, Set<Function>>) => void} found
 */
function find(found) {
  if (isSearching) {
    return; // a process can load brakit twice
  }
  isSearching = true;
  const get = Map.prototype.get;

  function search(key) {
    if (isSearching && key === 'request:completed' && get.call(this, 'telemetry:query') instanceof Set) {
      stop();
      try {
        found(this);
      } catch (error) {
        debug("brakit's event bus is not heard", error);
      }
    }
    return get.call(this, key);
  }

  function stop() {
    isSearching = false;
    if (Map.prototype.get === search) {
      Map.prototype.get = get; // if another wrapper is around it by now, `search` stays, and only passes on
    }
  }

  Map.prototype.get = search;
  Promise.resolve().then(stop);
}

/**
 * Count what is published on these channels.
 *
 * @param {Map<string, Set<Function>>} channels
 * @param {import('../index').Telemetry} telemetry
 */
function listen(channels, telemetry) {
  watchForwarding();
  for (const [name, count] of Object.entries(listeners(telemetry))) {
    const listener = (data) => {
      if (isForwarding()) {
        return;
      }
      try {
        count(data);
      } catch (error) {
        debug(`brakit's ${name} is not counted`, error);
      }
    };
    if (channels.has(name)) {
      channels.get(name).add(listener);
    } else {
      channels.set(name, new Set([listener]));
    }
  }
}

function listeners(telemetry) {
  const queries = telemetry.counter('query_count');
  const fetches = telemetry.counter('fetch_count');
  const errors = telemetry.counter('error_count');
  return {
    'request:completed': ({ method, path, durationMs, isStatic, isHealthCheck }) => {
      if (!isStatic && !isHealthCheck && !isBrakitPath(path)) {
        telemetry.request(routeOf(method, path), durationMs);
      }
    },
    'telemetry:query': () => queries.inc(),
    'telemetry:fetch': () => fetches.inc(),
    'telemetry:error': () => errors.inc(),
    'analysis:updated': ({ insights, findings }) => {
      telemetry.add('insight_types', ...insights.map(({ type }) => type));
      telemetry.mark('insight_count', ...insights.map(({ type, desc }) => identity(type, desc)));
      telemetry.add('rules_triggered', ...findings.map(({ rule }) => rule));
      telemetry.mark('finding_count', ...findings.map(({ rule, desc }) => identity(rule, desc)));
    },
  };
}

/** Return a text that stays the same while the numbers in the description change, as in "occurred 3 times". */
function identity(kind, description) {
  return `${kind} ${description.replace(/\d[\d.,]*\s?\w*/g, '')}`;
}

module.exports = { find, listen };
