// Ends in the way that the first argument names, right after it has loaded brakit.

import 'brakit';

console.log('out');
console.error('err');
const ways = {
  returns: () => {},
  throws: () => {
    throw new Error('thrown');
  },
  'throws later': () => setTimeout(ways.throws, 10),
  'sets an exit code': () => {
    process.exitCode = 4;
  },
  exits: () => process.exit(3),
  'exits later': () => setTimeout(() => process.exit(3), 10),
  rejects: () => Promise.reject(new Error('rejected')),
  'is killed by SIGHUP': () => {
    process.kill(process.pid, 'SIGHUP');
    setTimeout(() => {}, 60_000); // until the signal arrives
  },
};
await ways[process.argv[2]]();
