'use strict';

/**
 * The scripts by which brakit sends its events. This file does not know what an event means.
 *
 * A script is `fetch("https://us.i.posthog.com/i/v0/e/",{method:"POST",...,body:"<the event as JSON>",signal:...`.
 */

const { debug } = require('./debug.cjs');
const upstream = require('./upstream.cjs');

const SCRIPT = /^fetch\("https:\/\/us\.i\.posthog\.com\/i\/v0\/e\/",\{method:"POST",.*?\bbody:("(?:[^"\\]|\\.)*")[,}]/s;

/**
 * Report the event that a script would send. Returns false if the script is not brakit's.
 *
 * @param {string} script
 * @returns {boolean}
 */
function takesOver(script) {
  const event = eventOf(script);
  if (event === null) {
    return false;
  }
  try {
    upstream.report(event.name, event.properties);
  } catch (error) {
    debug(`brakit's ${event.name} is not reported`, error);
  }
  return true; // also after an error, because an event that was reported in part must not be sent again
}

/** Return the event in a script of brakit's. Returns null for any other script. */
function eventOf(script) {
  const match = SCRIPT.exec(script);
  if (match === null) {
    return null;
  }
  try {
    const { event, properties } = JSON.parse(JSON.parse(match[1]));
    return properties.$lib === 'brakit' && typeof event === 'string' ? { name: event, properties } : null;
  } catch {
    return null; // an application sends something else to the same host
  }
}

module.exports = { takesOver };
