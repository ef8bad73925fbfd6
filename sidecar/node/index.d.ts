/** brakit's telemetry sidecar: count in any number of processes, and one daemon reports the session. */

/** The count fields of a session. */
export type CountField =
  | 'request_count'
  | 'error_count'
  | 'query_count'
  | 'fetch_count'
  | 'insight_count'
  | 'finding_count';

/** The journey events. */
export type EventName =
  | 'cli_invoked'
  | 'setup_completed'
  | 'first_request'
  | 'dashboard_viewed'
  | 'cli_uninstall';

/** How a process ended. */
export type ExitReason = 'clean' | 'sigint' | 'sigterm' | 'sighup' | 'crash';

/** A scalar field's value. A text has at most 64 characters; a number is finite. */
export type FieldValue = string | number | boolean;

/** The scalar fields of a session, by name: `{ framework: 'express', is_custom_command: true }`. */
export type SessionFields = Record<string, FieldValue>;

/** The fields of one event, by name: scalars, or lists of at most 64 words. */
export type EventFields = Record<string, FieldValue | readonly string[]>;

/** One count. Keep it, and call `inc` for each occurrence. */
export interface Counter {
  /**
   * Add to the count.
   *
   * @param n A whole number, 1 (the default) to 2^53-1.
   */
  inc(n?: number): void;
}

/**
 * The part of this process (or worker thread) in a session.
 *
 * No method throws, whatever it is given. A mistake is counted: the command `brakit-sidecar status` shows it, and so
 * does stderr if the environment variable BRAKIT_DEBUG is set.
 */
export interface Telemetry {
  /** Return the counter of a count field. */
  counter(field: CountField): Counter;

  /**
   * Add to a count.
   *
   * @param n A whole number, 1 (the default) to 2^53-1.
   */
  incr(field: CountField, n?: number): void;

  /**
   * Count one request, and record its duration.
   *
   * @param route Method and path with the ids replaced, as "GET /users/:id". It is hashed in this process with the
   *   session's id as key. Only the hash goes to the daemon.
   * @param durationMs A number of milliseconds, 0 to 86,400,000.
   */
  request(route: string, durationMs?: number): void;

  /** Set scalar fields of the session. */
  set(fields: SessionFields): void;

  /** Add members to a field that is a set: `add('insight_types', 'n1')`. */
  add(field: string, ...words: string[]): void;

  /** Count each text once in a session, even if several processes mark it. Texts are hashed as routes are. */
  mark(field: 'insight_count' | 'finding_count', ...texts: string[]): void;

  /** Report a journey event: `event('first_request', { port: 8000 })`. */
  event(name: EventName, fields?: EventFields): void;

  /**
   * Report the end of this process' part, and stop counting. A call is not needed, because the end is reported when
   * the process exits.
   *
   * @param exitReason `clean` by default.
   */
  close(exitReason?: ExitReason): void;
}

/** The options of `connect`. */
export interface ConnectOptions {
  /** The SDK that counts: `node` by default. */
  sdk?: string;

  /**
   * Start a daemon if none runs, without waiting for it. The command `brakit-sidecar` must be on PATH. False by
   * default.
   */
  start?: boolean;
}

/**
 * Return this process as a producer of its session. Call it once in a process, and in each worker thread that counts.
 *
 * Never throws, never blocks, and never keeps the process alive. Returns a stand-in that does nothing if telemetry is
 * off or dormant (production, CI, cloud), and on Windows.
 */
export function connect(options?: ConnectOptions): Telemetry;

/**
 * Report one journey event that belongs to no session, as a CLI does. Never throws, and does not wait for the daemon.
 *
 * Does nothing if telemetry is off or dormant, or if no daemon listens.
 */
export function emit(name: EventName, fields?: EventFields): void;
