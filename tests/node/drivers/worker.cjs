'use strict';

// A worker that a test drives: it runs each line of stdin as JavaScript, with `t` as its producer, and answers each
// with one line of JSON. It ends with its stdin.

const { createInterface } = require('node:readline');

const { connect } = require(process.env.CLIENT);

globalThis.t = connect(JSON.parse(process.env.OPTIONS));
createInterface({ input: process.stdin }).on('line', (line) => {
  const result = (0, eval)(line);
  process.stdout.write(`${JSON.stringify(result ?? null)}\n`);
});
