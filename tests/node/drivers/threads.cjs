'use strict';

// Counts in four worker threads and in the main thread. Two of the threads end by themselves, and two are terminated.

const { Worker, isMainThread, parentPort, workerData } = require('node:worker_threads');

const t = require(process.env.CLIENT).connect();

if (isMainThread) {
  t.incr('request_count');
  t.mark('insight_count', 'the same text');
  for (let number = 0; number < 4; number += 1) {
    const thread = new Worker(__filename, { workerData: number });
    thread.on('message', () => thread.terminate());
  }
} else {
  for (let turn = 0; turn < 100; turn += 1) {
    t.request(`GET /${workerData}`, 1);
  }
  t.mark('insight_count', 'the same text');
  t.incr('query_count', 2);
  if (workerData < 2) {
    parentPort.postMessage('done');
    setInterval(() => {}, 1000);
  }
}
