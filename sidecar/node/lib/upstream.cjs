'use strict';

/**
 * What each event of brakit's means, as calls of the client.
 *
 * Brakit's `session` event is not the end of a process, because it is also sent when the event loop is empty and when
 * brakit gives up. The client reports the end by itself. Its totals are not exact either, because brakit's stores keep
 * the last 1000 entries. The counts come from brakit's event bus, and the totals are used only if it was not found.
 *
 * Not taken over: brakit's `time_to_*`, because they count from the start of one process and not of the session, and
 * its framework and package manager, because they are always unknown or guessed (see project.cjs).
 */

const { setImmediate } = require('node:timers');

const { connect, emit } = require('../index.cjs');
const bus = require('./bus.cjs');
const exits = require('./exits.cjs');
const project = require('./project.cjs');

const COMMAND_FIELDS = [
  'brakit_version',
  'node_version',
  'command',
  'has_package_json',
  'cwd_has_node_modules',
  'instrumentation_removed',
  'package_removed',
  'mcp_removed',
  'data_removed',
];
const SETUP_FIELDS = ['adapters_detected', 'adapters_failed', 'setup_duration_ms'];
const SESSION_SETS = ['tabs_viewed', 'insight_types', 'rules_triggered'];
const SESSION_TOTALS = ['request_count', 'error_count', 'query_count', 'fetch_count', 'insight_count', 'finding_count'];

/** The application in this process, as a worker of the session. */
class Application {
  #telemetry = connect();
  #dependencies = {};
  #setup = null; // the fields of a `setup_completed` that waits for the framework
  #isBusFound = false;
  #added = new Map(); // the totals that were added already

  setupCompleted(properties) {
    const { dependencies, packageManager } = project.read(process.cwd());
    this.#dependencies = dependencies;
    this.#telemetry.set({ ...pick(properties, ['brakit_version']), ...packageManager, setup_succeeded: true });
    this.#setup = {
      ...pick(properties, SETUP_FIELDS),
      framework_detection_candidates: project.candidates(dependencies),
    };
    // If the process is killed before the event is sent, the session has these fields nevertheless.
    this.#telemetry.set(pick(properties, ['setup_duration_ms']));
    for (const field of ['adapters_detected', 'adapters_failed', 'framework_detection_candidates']) {
      this.#telemetry.add(field, ...(this.#setup[field] ?? []));
    }
    // An application imports brakit first, and has loaded its framework by the end of this turn of the event loop.
    setImmediate(this.#reportSetup).unref();
    // The process may end in this turn. Brakit throws each error again in its own listener, and Node then exits at once.
    exits.add(this.#reportSetup);
    process.on('uncaughtExceptionMonitor', this.#reportSetup);
    if (!this.#isBusFound) {
      bus.find((channels) => {
        this.#isBusFound = true;
        bus.listen(channels, this.#telemetry);
      });
    }
  }

  firstRequest(properties) {
    this.#reportSetup();
    this.#telemetry.event('first_request', pick(properties, ['port']));
    this.#telemetry.set(this.#framework()); // in case it was loaded late; the first framework that is known counts
  }

  dashboardViewed() {
    this.#telemetry.event('dashboard_viewed');
  }

  session(properties) {
    this.#reportSetup();
    for (const field of SESSION_SETS) {
      this.#telemetry.add(field, ...(properties[field] ?? []));
    }
    if (properties.explain_used) {
      this.#telemetry.set({ explain_used: true });
    }
    if (!this.#isBusFound) {
      this.#addTotals(properties);
    }
  }

  #reportSetup = () => {
    if (this.#setup !== null) {
      this.#telemetry.event('setup_completed', { ...this.#setup, ...this.#framework() });
      this.#setup = null;
      exits.remove(this.#reportSetup);
      process.removeListener('uncaughtExceptionMonitor', this.#reportSetup);
    }
  };

  /** Add what the totals have grown by since the last `session`. */
  #addTotals(properties) {
    for (const field of SESSION_TOTALS) {
      const added = this.#added.get(field) ?? 0;
      if (properties[field] > added) {
        this.#telemetry.incr(field, properties[field] - added);
        this.#added.set(field, properties[field]);
      }
    }
  }

  #framework() {
    return project.framework(this.#dependencies, project.loadedPackages());
  }
}

let application = null;

/** Return this process' application. The first call connects, so a process without brakit never does. */
function joined() {
  application ??= new Application();
  return application;
}

/**
 * Report an event of brakit's.
 *
 * @param {string} name
 * @param {Record<string, any>} properties
 */
function report(name, properties) {
  switch (name) {
    case 'cli_invoked':
    case 'cli_uninstall':
      emit(name, pick(properties, COMMAND_FIELDS));
      break;
    case 'setup_completed':
      joined().setupCompleted(properties);
      break;
    case 'first_request':
      joined().firstRequest(properties);
      break;
    case 'dashboard_viewed':
      joined().dashboardViewed();
      break;
    case 'session':
      joined().session(properties);
      break;
    default: // `graph_feature` holds free text, and an event of a later version is unknown to the daemon
  }
}

/** Return the properties with these names, except those that are null. */
function pick(properties, names) {
  return Object.fromEntries(names.filter((name) => properties[name] != null).map((name) => [name, properties[name]]));
}

module.exports = { report };
