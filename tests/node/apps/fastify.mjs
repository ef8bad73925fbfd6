import 'brakit';
import fastify from 'fastify';

import { announce, exitWithStdin } from './announce.mjs';
import { handle } from './handler.mjs';

const application = fastify();
application.all('/*', (request, reply) => {
  reply.hijack();
  return handle(request.raw, reply.raw);
});
await application.listen({ port: 0, host: '127.0.0.1' });
announce(application.server.address().port);
exitWithStdin();
