'use strict';

// Counts in four workers of a cluster, of which one is killed.

const cluster = require('node:cluster');

if (cluster.isPrimary) {
  for (let number = 0; number < 4; number += 1) {
    const worker = cluster.fork();
    worker.on('message', () => (number === 0 ? worker.process.kill('SIGKILL') : worker.disconnect()));
  }
} else {
  const t = require(process.env.CLIENT).connect();
  for (let turn = 0; turn < 11; turn += 1) {
    t.request('GET /', 1);
  }
  process.send('done');
}
