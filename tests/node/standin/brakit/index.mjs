// A stand-in for brakit 0.10.2, for tests. It has brakit's outside: set-up inside the import, no exports, an event bus
// of its own, stores of the last 1000 entries, listeners on the process, and one `node -e` child for each event.
//
// What a test can set in the environment:
//   STANDIN_CHILDREN    a file, to which a line is added for each child that really started
//   STANDIN_LATE_SETUP  send `setup_completed` after the last listener was added, so that the bus cannot be found

import { spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { subscribe } from 'node:diagnostics_channel';
import { appendFileSync } from 'node:fs';
import http from 'node:http';
import { createRequire } from 'node:module';
import { arch, platform, release } from 'node:os';

const VERSION = '0.10.2';
const ENDPOINT = 'https://us.i.posthog.com/i/v0/e/';
const DASHBOARD = '/__brakit';
const KEPT = 1000; // entries of each store
const ANALYSIS_DELAY_MS = 20; // brakit waits longer

// --- how it sends ---------------------------------------------------------------------------------------------------

function send(event, properties) {
  const common = { brakit_version: VERSION, node_version: process.version, os: `${platform()}-${release()}` };
  const marks = { arch: arch(), $lib: 'brakit', $process_person_profile: false, $geoip_disable: true, sdk: 'node' };
  const body = JSON.stringify({
    api_key: '',
    event,
    distinct_id: randomUUID(),
    timestamp: new Date().toISOString(),
    properties: { ...common, ...marks, ...properties },
  });
  const headers = '{"content-type":"application/json"}';
  const options = `{method:"POST",headers:${headers},body:${JSON.stringify(body)},signal:AbortSignal.timeout(3000)}`;
  try {
    const child = spawn(process.execPath, ['-e', `fetch(${JSON.stringify(ENDPOINT)},${options}).catch(()=>{})`], {
      detached: true,
      stdio: 'ignore',
      env: { ...process.env, NODE_OPTIONS: '--no-experimental-fetch' }, // a child of a test never reaches the network
    });
    if (child.pid !== undefined) appendFileSync(process.env.STANDIN_CHILDREN, `${event}\n`);
    child.unref();
  } catch {
    // brakit ignores this too
  }
}

// --- the bus and the stores -----------------------------------------------------------------------------------------

class EventBus {
  channels = new Map();

  emit(channel, data) {
    for (const listener of this.channels.get(channel) ?? []) {
      try {
        listener(data);
      } catch {
        // one listener does not disturb the others
      }
    }
  }

  on(channel, listener) {
    let listeners = this.channels.get(channel);
    if (!listeners) {
      listeners = new Set();
      this.channels.set(channel, listeners);
    }
    listeners.add(listener);
  }
}

class Store {
  entries = [];

  add(entry) {
    this.entries.push(entry);
    if (this.entries.length > KEPT) this.entries.shift();
  }
}

const bus = new EventBus();
const stores = { request: new Store(), query: new Store(), fetch: new Store(), error: new Store() };
const seen = { tabs: new Set(), insights: new Map(), findings: new Map(), isOpened: false, isSent: false };

function recordRequest(entry) {
  stores.request.add(entry);
  bus.emit('request:completed', entry);
}

// --- the analysis: one insight whose description holds a number, and one finding ------------------------------------

let analysisTimer = null;

function scheduleAnalysis() {
  analysisTimer ??= setTimeout(() => {
    analysisTimer = null;
    const queries = stores.query.entries.length;
    if (queries > 0) seen.insights.set('n1', { type: 'n1', desc: `GET /users runs ${queries}x SELECT users` });
    const cookie = { rule: 'insecure-cookie', endpoint: 'sid', desc: 'sid — missing HttpOnly flag' };
    if (queries > 0) seen.findings.set('sid', cookie);
    bus.emit('analysis:updated', { insights: [...seen.insights.values()], findings: [...seen.findings.values()] });
  }, ANALYSIS_DELAY_MS);
}

// --- what it hooks --------------------------------------------------------------------------------------------------

function hookQueries() {
  let pg;
  try {
    pg = createRequire(`${process.cwd()}/index.js`)('pg');
  } catch {
    return [];
  }
  const query = pg.Client.prototype.query;
  pg.Client.prototype.query = async function (...given) {
    const result = await query.apply(this, given);
    bus.emit('telemetry:query', { sql: String(given[0]), durationMs: 1 });
    return result;
  };
  return ['pg'];
}

function hookErrors() {
  const report = (error) => bus.emit('telemetry:error', { name: 'Error', message: String(error) });
  const onException = (error) => {
    report(error);
    process.removeListener('uncaughtException', onException);
    throw error;
  };
  process.on('uncaughtException', onException);
  process.on('unhandledRejection', report);
}

function hookRequests() {
  const emit = http.Server.prototype.emit;
  let port = 0;
  http.Server.prototype.emit = function (event, request, response) {
    if (event !== 'request') return emit.apply(this, arguments);
    if (port === 0) {
      port = request.socket.localPort;
      send('first_request', { port, time_to_first_request_ms: 1 });
      process.stdout.write(`  brakit v${VERSION} — http://localhost:${port}${DASHBOARD}\n`);
    }
    if (request.socket.localPort !== port) return emit.apply(this, arguments);
    const path = request.url.split('?', 1)[0];
    if (path === DASHBOARD || path.startsWith(`${DASHBOARD}/`)) {
      serveDashboard(request, response, path);
      return true;
    }
    capture(request, response, path);
    return emit.apply(this, arguments);
  };
}

function capture(request, response, path) {
  const started = performance.now();
  const end = response.end;
  response.end = function () {
    const result = end.apply(this, arguments);
    const durationMs = Math.round(performance.now() - started);
    const isHealthCheck = path === '/health';
    const isStatic = path.endsWith('.css');
    const { method, url } = request;
    recordRequest({ id: randomUUID(), method, url, path, durationMs, isStatic, isHealthCheck });
    return result;
  };
}

// --- the dashboard --------------------------------------------------------------------------------------------------

function serveDashboard(request, response, path) {
  if (path === `${DASHBOARD}/api/ingest`) return ingest(request, response);
  if (path === `${DASHBOARD}/api/tab`) {
    const query = new URL(request.url, 'http://localhost').searchParams;
    if (query.has('tab')) seen.tabs.add(query.get('tab'));
    if (query.has('event')) send('graph_feature', { feature: query.get('event'), detail: query.get('detail') });
  } else if (!seen.isOpened) {
    seen.isOpened = true;
    send('dashboard_viewed', { time_to_dashboard_ms: 1, request_count_at_open: 0 });
  }
  response.writeHead(200);
  response.end();
}

/** Publish what brakit's Python SDK forwards. */
function ingest(request, response) {
  const chunks = [];
  request.on('data', (chunk) => chunks.push(chunk));
  request.on('end', () => {
    for (const { type, data } of JSON.parse(Buffer.concat(chunks)).events) {
      if (type === 'request') recordRequest({ ...data, path: data.url.split('?', 1)[0], isStatic: false });
      if (type === 'db.query') bus.emit('telemetry:query', data);
      if (type === 'error') bus.emit('telemetry:error', data);
    }
    response.writeHead(204);
    response.end();
  });
}

// --- the session ----------------------------------------------------------------------------------------------------

function sendSession() {
  if (seen.isSent) return;
  seen.isSent = true;
  send('session', {
    framework: 'unknown',
    package_manager: 'unknown',
    request_count: stores.request.entries.length,
    error_count: stores.error.entries.length,
    query_count: stores.query.entries.length,
    fetch_count: stores.fetch.entries.length,
    insight_count: seen.insights.size,
    finding_count: seen.findings.size,
    insight_types: [...seen.insights.keys()],
    rules_triggered: [...seen.findings.values()].map(({ rule }) => rule),
    tabs_viewed: [...seen.tabs],
    time_to_first_request_ms: null,
    explain_used: false,
    exit_reason: 'unknown',
  });
}

function setUp() {
  for (const type of ['query', 'fetch', 'error']) bus.on(`telemetry:${type}`, (data) => stores[type].add(data));
  const adapters = hookQueries();
  hookErrors();
  subscribe('undici:request:headers', () => bus.emit('telemetry:fetch', { durationMs: 1 }));
  const sendSetup = () =>
    send('setup_completed', {
      framework: 'unknown',
      framework_detection_candidates: [],
      adapters_detected: adapters,
      adapters_failed: [],
      hooks_installed: ['fetch', 'console', 'error'],
      setup_duration_ms: 3,
    });
  if (!process.env.STANDIN_LATE_SETUP) sendSetup();
  bus.on('request:completed', scheduleAnalysis);
  bus.on('telemetry:query', scheduleAnalysis);
  hookRequests();
  process.on('SIGINT', () => {});
  process.on('SIGTERM', () => {});
  process.on('beforeExit', async () => sendSession());
  process.on('exit', sendSession);
  if (process.env.STANDIN_LATE_SETUP) sendSetup();
}

if (process.env.NODE_ENV !== 'production' && !process.env.CI) setUp();
