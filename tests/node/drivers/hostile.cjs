'use strict';

// Calls every method with every hostile value, and counts what was thrown. Afterwards it counts as usual, and ends with
// its stdin.

const { connect, emit } = require(process.env.CLIENT);

function fails() {
  throw new Error('hostile');
}

const cycle = {};
cycle.itself = cycle;
const throwsAtEach = new Proxy({}, { get: fails, ownKeys: fails, has: fails, getPrototypeOf: fails });
const { proxy: revoked, revoke } = Proxy.revocable([], {});
revoke();

const HOSTILE = [
  undefined, null, true, false, 0, -0, -1, 1.5, NaN, Infinity, Number.MAX_SAFE_INTEGER, 2 ** 53, 2 ** 1000, 10n, -1n,
  '', 'request_count', 'insight_count', 'framework', 'constructor', '__proto__', 'toJSON', 'name', 'Tell-Tale',
  'x'.repeat(100), 'x'.repeat(5_000_000), '\ud800', '\u0000', '\u{1f600}'.repeat(100), Symbol('s'), Symbol.iterator,
  [], ['n1', 7, null, '\ud800'], new Array(5_000_000), { a: { b: 1 } }, cycle, new Map([['a', 1]]), new Date(NaN),
  /x/, () => 1, fails, class {}, new String('flask'), new Uint8Array(5_000_000), Buffer.from('request_count'),
  Object.create(null), { framework: { toString: fails, toJSON: fails } }, throwsAtEach, revoked,
  { get framework() { return fails(); }, is_custom_command: true },
  { toString: fails, valueOf: fails, [Symbol.toPrimitive]: fails },
  Object.fromEntries(Array.from({ length: 1000 }, (_, n) => [`f${n}`, n])),
];

let thrown = 0;

function attempt(call) {
  try {
    call();
  } catch {
    thrown += 1;
  }
}

for (const options of HOSTILE) {
  attempt(() => connect(options).close(options));
}
attempt(() => connect({ sdk: throwsAtEach, start: throwsAtEach }).close(throwsAtEach));

const t = connect();
for (const value of HOSTILE) {
  for (const call of [
    () => t.counter(value).inc(value),
    () => t.counter('query_count').inc(value === 1 ? 0 : value),
    () => t.incr(value),
    () => t.incr('query_count', value),
    () => t.request(value),
    () => t.request(value, 1),
    () => t.request('GET /', value),
    () => t.set(value),
    () => t.set({ framework: value, [typeof value === 'symbol' ? value : 'no_such_field']: value }),
    () => t.add(value, value),
    () => t.add('insight_types', value, 'n1'),
    () => t.mark(value, value),
    () => t.mark('insight_count', value, 'one'),
    () => t.event(value, value),
    () => t.event('first_request', value),
    () => t.event('setup_completed', { framework: value, adapters_detected: [value] }),
    () => emit(value, value),
    () => emit('cli_invoked', { command: value }),
  ]) {
    attempt(call);
  }
}
for (let n = 0; n < 7; n += 1) {
  t.incr('fetch_count');
}
t.add('tabs_viewed', 'logs');
setTimeout(() => {
  t.incr('finding_count', 2);
  process.stdout.write(`${thrown} thrown\n`);
  process.stdin.resume();
}, 10);
