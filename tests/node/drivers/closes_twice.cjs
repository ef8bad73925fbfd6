'use strict';

// An application with a mistake: it closes the descriptors of the client, and then uses their numbers for its own files.

const fs = require('node:fs');

const { connect } = require(process.env.CLIENT);

const SIZE = 100_000;

function descriptorsOfTheClient() {
  const found = fs.readdirSync('/proc/self/fd').map(Number);
  return found.filter((fd) => {
    try {
      const target = fs.readlinkSync(`/proc/self/fd/${fd}`);
      return target.includes('/counters-1-') || (process.env.CLOSES === 'the socket too' && fd === socket);
    } catch {
      return false;
    }
  });
}

const before = new Set(fs.readdirSync('/proc/self/fd'));
const t = connect();
const socket = Number(
  fs.readdirSync('/proc/self/fd').find((fd) => {
    try {
      return !before.has(fd) && fs.readlinkSync(`/proc/self/fd/${fd}`).startsWith('socket:');
    } catch {
      return false;
    }
  }),
);
t.incr('request_count', 2);
for (const fd of descriptorsOfTheClient()) {
  fs.closeSync(fd);
}
const own = [];
for (let number = 0; number < 4; number += 1) {
  const fd = fs.openSync(`${process.env.OWN_FILES}/${number}`, 'w+');
  fs.writeSync(fd, Buffer.alloc(SIZE));
  own.push(fd);
}
setTimeout(() => {
  t.incr('request_count', 3);
  t.request('GET /', 5);
  t.add('tabs_viewed', 'logs');
  if (process.env.THEN === 'closes') {
    t.close();
  }
  for (const fd of own) {
    const content = Buffer.alloc(SIZE + 1);
    if (fs.readSync(fd, content, 0, SIZE + 1, 0) !== SIZE || content.some((byte) => byte !== 0)) {
      process.stdout.write('a file of the application was written\n');
    }
  }
}, 1100); // the client checks its descriptors once a second
