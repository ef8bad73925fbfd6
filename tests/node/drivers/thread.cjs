'use strict';

// Counts in a worker thread, which ends at the first line of stdin. The process ends with its stdin.

const { Worker, isMainThread, parentPort } = require('node:worker_threads');

if (isMainThread) {
  const thread = new Worker(__filename);
  process.stdin.once('data', () => thread.postMessage('end'));
} else {
  require(process.env.CLIENT).connect().incr('query_count');
  parentPort.once('message', () => {});
}
