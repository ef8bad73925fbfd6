'use strict';

const http = require('node:http');

async function main() {
  await import('brakit');
  const { announce, exitWithStdin } = await import('./announce.mjs');
  const { handle } = await import('./handler.mjs');
  const server = http.createServer(handle).listen(0, '127.0.0.1', () => announce(server.address().port));
  exitWithStdin();
}

main();
