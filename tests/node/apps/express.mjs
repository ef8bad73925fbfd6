import 'brakit';
import express from 'express';

import { announce, exitWithStdin } from './announce.mjs';
import { handle } from './handler.mjs';

const server = express()
  .use(handle)
  .listen(0, '127.0.0.1', () => announce(server.address().port));
exitWithStdin();
