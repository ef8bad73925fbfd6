// Prints which properties of the prototypes that the preload touches differ after brakit's set-up. (On Node 18, the
// preload has wrapped the class of children before this starts.)

import { ChildProcess } from 'node:child_process';

const prototypes = { Map: Map.prototype, ChildProcess: ChildProcess.prototype };
const ATTRIBUTES = ['value', 'get', 'set', 'writable', 'enumerable', 'configurable'];

function snapshot() {
  return Object.entries(prototypes).flatMap(([name, prototype]) =>
    Object.entries(Object.getOwnPropertyDescriptors(prototype)).map(([key, found]) => [`${name}.${key}`, found]),
  );
}

const before = new Map(snapshot());
await import('brakit');
const changed = snapshot()
  .filter(([key, found]) => !ATTRIBUTES.every((attribute) => found[attribute] === before.get(key)?.[attribute]))
  .map(([key]) => key);
console.log(JSON.stringify(changed));
process.exit(0);
