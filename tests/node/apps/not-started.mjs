// Prints what an application sees of a child that was not started.

import { setTimeout } from 'node:timers/promises';

import { send } from './send.mjs';

const child = send('graph_feature');
const events = [];
for (const name of ['spawn', 'error', 'exit', 'close', 'disconnect']) child.on(name, () => events.push(name));
child.ref();
child.unref();
const killed = child.kill();
await setTimeout(20);
console.log(JSON.stringify({ pid: child.pid ?? null, killed, connected: child.connected, events }));
