'use strict';

/**
 * A Unix stream socket to the daemon. It never blocks, never throws and never keeps the process alive.
 *
 * A `net.Socket` connects and reads. Each line is written to its descriptor in the call (fs.writeSync), because it must
 * outlive this process, even if the process is killed in the same tick. Bytes that the kernel does not accept are
 * kept (never more than one line), and are written before the next line.
 */

// The functions are bound here, because an application's tests may replace them in their modules.
const { readSync, writeSync } = require('node:fs');
const { Socket } = require('node:net');

const { callAfterPollIn, monotonicMs } = require('./clock.cjs');
const { isOwnSocket } = require('./paths.cjs');
const { aboveStandard, isStandard } = require('./standard_fds.cjs');
const { fstat, isSame } = require('./stat.cjs');

const NOTHING = Buffer.alloc(0);
const RETRY_MS = 1; // how soon a full socket is tried again; a failed write costs ten times as much as a good one
const CONNECT_MS = 50; // how long a connect may keep the process alive; a daemon that is busy reads sooner
const MAX_RECEIVED = 4096; // bytes of the daemon's answers that are kept; there are two short ones

class Channel {
  #onLine;
  #onClose;
  #socket = null;
  #identity = null;
  #rest = NOTHING; // the bytes of the last line that the kernel did not accept
  #retryAt = 0;
  #received = '';

  /**
   * @param {object} [handlers]
   * @param {(line: string) => void} [handlers.onLine] Called with each line of the daemon.
   * @param {() => void} [handlers.onClose] Called when the daemon has closed the connection.
   */
  constructor({ onLine = () => {}, onClose = () => {} } = {}) {
    this.#onLine = onLine;
    this.#onClose = onClose;
  }

  /** Whether there is a connection. The daemon may have closed it since the last write. */
  get isOpen() {
    return this.#socket !== null;
  }

  /**
   * Connect, if the kernel does that at once. Returns false if it does not, or if the socket is another user's.
   *
   * libuv connects a Unix socket in the call, and reports the result later. So a write shows the result now.
   *
   * @param {string} path
   * @returns {boolean}
   */
  open(path) {
    this.close();
    if (!isOwnSocket(path)) {
      return false;
    }
    const socket = new Socket();
    socket.on('error', () => {}); // 'close' follows
    socket.on('data', (chunk) => this.#socket === socket && this.#receive(chunk));
    socket.on('close', () => this.#socket === socket && this.#closed());
    try {
      aboveStandard(() => socket.connect({ path }));
      socket.unref();
      this.#identity = fstat(socket._handle.fd);
    } catch {
      socket.destroy(); // the descriptor limit
      return false;
    }
    if (isStandard(socket._handle.fd)) {
      socket.destroy();
      return false;
    }
    this.#socket = socket;
    this.probe();
    callAfterPollIn(() => this.#endConnect(socket), CONNECT_MS);
    return this.isOpen;
  }

  /**
   * Close a connection whose connect libuv has not reported after CONNECT_MS.
   *
   * libuv reports it when the socket is writable, and keeps the process alive until then. The socket is not writable if
   * this process has filled it already and the daemon is stopped. The event loop has polled right before this call.
   */
  #endConnect(socket) {
    if (this.#socket === socket && socket.connecting) {
      this.close();
      this.#onClose();
    }
  }

  /** Close the channel if the daemon has closed the connection: then even a write of no bytes fails. */
  probe() {
    if (this.#rest.length === 0) {
      this.#write(NOTHING);
    }
  }

  /**
   * Write what was kept. Returns true if the next line would be written now.
   *
   * @param {{ atOnce?: boolean }} [options] `atOnce`: try even if the socket was full right before.
   * @returns {boolean}
   */
  isReady({ atOnce = false } = {}) {
    if (this.#rest.length > 0 && (atOnce || monotonicMs() >= this.#retryAt)) {
      this.#write(this.#rest);
    }
    return this.isOpen && this.#rest.length === 0;
  }

  /** Write one line. Call it only when ready. */
  send(line) {
    this.#write(line);
  }

  /**
   * Read what the daemon has sent by now, for a caller that does not return to the event loop. Closes the channel if the
   * daemon has closed the connection, or if none was made.
   */
  receiveNow() {
    const chunk = Buffer.alloc(MAX_RECEIVED);
    try {
      const count = readSync(this.#descriptor(), chunk);
      if (count === 0) {
        this.close();
      } else {
        this.#receive(chunk.subarray(0, count));
      }
    } catch (error) {
      if (error.code !== 'EAGAIN') {
        this.close();
      }
    }
  }

  /** Close the connection, if there is one. */
  close() {
    if (this.#descriptor() !== null) {
      this.#socket.destroy();
    }
    this.#forget();
  }

  #forget() {
    this.#socket = null;
    this.#rest = NOTHING;
    this.#received = '';
  }

  #write(bytes) {
    if (process.listenerCount('SIGPIPE') > 0) {
      this.receiveNow(); // a write to a connection that the daemon has closed would call the application's listener
    }
    const fd = this.#descriptor();
    if (fd === null) {
      return;
    }
    let written = 0;
    try {
      written = writeSync(fd, bytes);
    } catch (error) {
      if (error.code !== 'EAGAIN') {
        this.close(); // the daemon closed the connection, or none was made
        return;
      }
    }
    this.#rest = bytes.subarray(written);
    this.#retryAt = monotonicMs() + RETRY_MS;
  }

  /**
   * Return the socket's descriptor. Returns null without a connection.
   *
   * An application that closes a descriptor twice may close this one, and then the number may become one of its own.
   * Such a socket is neither written nor destroyed, because that would close the application's descriptor.
   */
  #descriptor() {
    if (this.#socket === null) {
      return null;
    }
    try {
      const fd = this.#socket._handle.fd;
      if (isSame(fstat(fd), this.#identity)) {
        return fd;
      }
    } catch {
      // the socket is closed
    }
    this.#forget();
    return null;
  }

  #receive(chunk) {
    const lines = (this.#received + chunk.toString()).slice(-MAX_RECEIVED).split('\n');
    this.#received = lines.pop();
    lines.forEach(this.#onLine);
  }

  #closed() {
    this.#forget();
    this.#onClose();
  }
}

module.exports = { Channel };
