'use strict';

/**
 * The preload: `brakit-sidecar run` loads this file into each Node process below it, by NODE_OPTIONS.
 *
 * The law of this file: a process that never loads brakit must not notice it. So it loads no other file until brakit
 * sends an event, it adds one subscription to the process, and it never throws or prints. It is ES5 syntax, because a
 * Node of any age must be able to parse it.
 *
 * Brakit sends an event by starting `node -e 'fetch("https://us.i.posthog.com/...'`. Exactly these children are not
 * started, and the client reports their events to the daemon.
 */

(function () {
  var SEND = 'fetch("https://us.i.posthog.com/'; // how the script of each of these children begins

  /** Return whether the child with these options would be one of brakit's, and its event has been taken over. */
  function takesOver(options) {
    try {
      var args = options.args;
      if (options.file !== process.execPath || args.length !== 3 || args[1] !== '-e') {
        return false;
      }
      return args[2].lastIndexOf(SEND, 0) === 0 && require('./lib/sends.cjs').takesOver(args[2]);
    } catch (error) {
      return false; // our files are gone or unreadable, so brakit sends by itself
    }
  }

  /** Return the result of a started child. Without a handle, `unref()` and `kill()` do nothing, as after an exit. */
  function neverStart(child) {
    child._handle = null;
    return 0;
  }

  /** Node 20 and newer publish each new child before it is started. Shadow `spawn` on this instance for one call. */
  function watchInstances() {
    require('diagnostics_channel').subscribe('child_process', function (message) {
      try {
        var child = message.process;
        var spawn = child.spawn;
        var shadow = function (options) {
          if (child.spawn === shadow) {
            delete child.spawn;
          }
          return takesOver(options) ? neverStart(child) : spawn.apply(child, arguments);
        };
        Object.defineProperty(child, 'spawn', { value: shadow, configurable: true, writable: true });
      } catch (error) {
        // a child that cannot be extended is started as without us
      }
    });
  }

  /** Node 18 publishes nothing. ES modules and CommonJS modules share the class, so wrap its method. */
  function watchClass() {
    var prototype = require('child_process').ChildProcess.prototype;
    var spawn = prototype.spawn;
    prototype.spawn = function (options) {
      return takesOver(options) ? neverStart(this) : spawn.apply(this, arguments);
    };
  }

  try {
    var major = parseInt(process.versions.node, 10);
    if (major < 18 || process.platform === 'win32') {
      return;
    }
    if (!process.env.BRAKIT_SESSION_ID || !process.env.BRAKIT_SIDECAR_SOCKET) {
      return;
    }
    var isLoaded = Symbol.for('brakit-sidecar.preload');
    if (globalThis[isLoaded]) {
      return; // another copy of this file, for example by a `run` below a `run`
    }
    Object.defineProperty(globalThis, isLoaded, { value: true });
    if (major >= 20) {
      watchInstances();
    } else {
      watchClass();
    }
  } catch (error) {
    // an application that is not counted is acceptable; one that does not start is not
  }
})();
