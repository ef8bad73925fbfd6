import cluster from 'node:cluster';
import http from 'node:http';

import { announce, exitWithStdin } from './announce.mjs';

const WORKERS = 4;

if (cluster.isPrimary) {
  let listening = 0;
  cluster.on('listening', (_worker, { port }) => {
    listening += 1;
    if (listening === WORKERS) announce(port);
  });
  for (let started = 0; started < WORKERS; started += 1) cluster.fork();
  exitWithStdin();
} else {
  await import('brakit');
  const { handle } = await import('./handler.mjs');
  http.createServer(handle).listen(0, '127.0.0.1');
}
