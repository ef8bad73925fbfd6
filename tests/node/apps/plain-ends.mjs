// Ends in the way that the first argument names, and never loads brakit.

console.log('out');
const ways = {
  returns: () => {},
  throws: () => {
    throw new Error('thrown');
  },
  rejects: () => void Promise.reject(new Error('rejected')),
  'is killed by SIGTERM': () => {
    process.kill(process.pid, 'SIGTERM');
    setTimeout(() => {}, 60_000); // until the signal arrives
  },
};
ways[process.argv[2]]();
