'use strict';

// Prints the value of a JavaScript expression as JSON. The expression finds the package's modules by `lib('limits')`.

const { dirname } = require('node:path');

function lib(name) {
  return require(`${dirname(process.env.CLIENT)}/lib/${name}.cjs`);
}

function plain(_key, value) {
  if (typeof value === 'bigint') {
    return String(value);
  }
  return value instanceof Set || value instanceof Map ? [...value] : value;
}

process.stdout.write(JSON.stringify(eval(process.argv[2]), plain));
