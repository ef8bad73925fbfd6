'use strict';

/**
 * Which events on brakit's bus come from another process.
 *
 * Brakit's Python SDK posts what it sees to a Node process of the same project, which publishes it on its own bus. The
 * Python process counts for itself. Brakit publishes such events while the request that brings them emits 'end', and
 * publishes nothing else meanwhile, because that is one synchronous function.
 */

const { channel } = require('node:diagnostics_channel');

const INGEST = '/__brakit/api/ingest';

// Kept here, because Node 18 may collect a channel that nothing holds, with its subscribers.
const requestStarts = channel('http.server.request.start');

let isEnding = false;

/** Return whether what is published now comes from another process. */
function isForwarding() {
  return isEnding;
}

/** Observe the requests to this process' HTTP servers. */
function watchForwarding() {
  requestStarts.subscribe(({ request }) => {
    if (request.url.split('?', 1)[0] === INGEST) {
      watchEnd(request);
    }
  });
}

function watchEnd(request) {
  const emit = request.emit;
  request.emit = function (event) {
    if (event !== 'end') {
      return emit.apply(this, arguments);
    }
    isEnding = true;
    try {
      return emit.apply(this, arguments);
    } finally {
      isEnding = false;
    }
  };
}

module.exports = { isForwarding, watchForwarding };
