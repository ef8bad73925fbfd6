// Sends the events of the first argument, which is a JSON list of names and properties, and exits.

import { send } from './send.mjs';

for (const [name, properties] of JSON.parse(process.argv[2])) send(name, properties);
