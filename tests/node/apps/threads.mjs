import http from 'node:http';
import { isMainThread, parentPort, Worker } from 'node:worker_threads';

import { announce, exitWithStdin } from './announce.mjs';

const THREADS = 4;

if (isMainThread) {
  const threads = Array.from({ length: THREADS }, () => new Worker(new URL(import.meta.url)));
  const ports = threads.map((thread) => new Promise((resolve) => thread.once('message', resolve)));
  announce(...(await Promise.all(ports)));
  exitWithStdin();
} else {
  await import('brakit');
  const { handle } = await import('./handler.mjs');
  const server = http.createServer(handle).listen(0, '127.0.0.1', () => parentPort.postMessage(server.address().port));
}
