'use strict';

/** Tells the producers of this process, or of this worker thread, that it exits. */

const { debug } = require('./debug.cjs');

/** @type {Set<(exitReason: string) => void>} */
const goodbyes = new Set();

/** Call a function with the exit reason when the process exits, until `remove`. */
function add(goodbye) {
  if (goodbyes.size === 0) {
    changeMaxListeners(+1); // because Node would warn an application that now has one listener too many
    process.on('exit', onExit);
  }
  goodbyes.add(goodbye);
}

function remove(goodbye) {
  if (goodbyes.delete(goodbye) && goodbyes.size === 0) {
    process.removeListener('exit', onExit);
    changeMaxListeners(-1);
  }
}

/** Does not run at SIGKILL and at a signal without a listener. The daemon reports those as a crash. */
function onExit(code) {
  const exitReason = Number(code) ? 'crash' : 'clean'; // a library may emit 'exit' without a code
  for (const goodbye of goodbyes) {
    try {
      goodbye(exitReason);
    } catch (error) {
      debug('cannot report the exit', error);
    }
  }
}

function changeMaxListeners(by) {
  const most = process.getMaxListeners();
  if (most > 0) {
    process.setMaxListeners(most + by); // 0 means that there is no limit
  }
}

module.exports = { add, remove };
