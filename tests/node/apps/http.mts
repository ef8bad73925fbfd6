import 'brakit';
import http from 'node:http';
import type { AddressInfo } from 'node:net';

import { announce, exitWithStdin } from './announce.mjs';
import { handle } from './handler.mjs';

const server = http.createServer(handle).listen(0, '127.0.0.1', () => announce((server.address() as AddressInfo).port));
exitWithStdin();
