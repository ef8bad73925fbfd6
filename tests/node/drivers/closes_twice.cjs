'use strict';

// An application with a mistake: it closes the descriptor of the client's counter file, and then uses the number for a
// file of its own. LOSES says whether it removes the counter file as well.

const fs = require('node:fs');

const { connect } = require(process.env.CLIENT);

const SIZE = 100_000;

function linkOf(fd) {
  try {
    return fs.readlinkSync(`/proc/self/fd/${fd}`);
  } catch {
    return ''; // the descriptor of the directory itself, which is closed by now
  }
}

const t = connect();
t.incr('request_count', 2);
const fd = Number(fs.readdirSync('/proc/self/fd').find((each) => linkOf(each).includes('/counters-1-')));
if (process.env.LOSES === 'the file') {
  fs.unlinkSync(linkOf(fd));
}
fs.closeSync(fd);
const own = [0, 1, 2, 3].map((number) => fs.openSync(`${process.env.OWN_FILES}/${number}`, 'w+'));
own.forEach((each) => fs.writeSync(each, Buffer.alloc(SIZE)));

setTimeout(() => {
  t.incr('request_count', 3);
  t.request('GET /', 5);
  t.add('tabs_viewed', 'logs');
  for (const each of own) {
    const content = Buffer.alloc(SIZE + 1);
    const length = fs.readSync(each, content, 0, SIZE + 1, 0);
    if (length !== SIZE || content.some((byte) => byte !== 0)) {
      process.stdout.write('a file of the application was written\n');
    }
  }
  if (!own.includes(fd)) {
    process.stdout.write('the number was not used again\n');
  }
}, 1100); // the client checks its descriptor once a second
