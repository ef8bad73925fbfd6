'use strict';

/** The checks of what a caller passes. Each check returns the value, or throws a Mistake for the producer to count. */

const { COUNTER_CELLS } = require('./layout.cjs');
const { isDuration, isIncrement } = require('./limits.cjs');

const NAME = /^[a-z][a-z0-9_]{0,63}$/;
const LONE_SURROGATE = /\p{Surrogate}/u; // UTF-8 cannot encode one, and JSON readers refuse it
const MAX_TEXT = 64; // characters of a word; longer than any word of any vocabulary
const MAX_WORDS = 64; // words of a list; three times as many as the largest vocabulary has
const MAX_FIELDS = 64; // fields of one call; twice as many as a session has

/**
 * A call that cannot be counted.
 *
 * `frame` holds none of the call's text, and the daemon refuses it for the mistake's reason. So the command `status`
 * shows the mistake among the refusals.
 */
class Mistake extends Error {
  constructor(message, frame) {
    super(message);
    this.name = 'Mistake';
    this.frame = frame;
  }
}

/** Return a name of lower-case ASCII letters, digits and underscores that begins with a letter. */
function nameOf(name, key) {
  if (isName(name)) {
    return name;
  }
  throw new Mistake('no such field or event', { [key]: key === 'event' ? { name: '?' } : { '?': null } });
}

function isName(name) {
  return typeof name === 'string' && NAME.test(name);
}

/** Return the cell of a count field. */
function counterCellOf(field) {
  const cell = COUNTER_CELLS.get(field);
  if (cell === undefined) {
    throw new Mistake('no such count', { incr: { [nameOf(field, 'incr')]: 1 } });
  }
  return cell;
}

/** Return a whole number, 1 to 2^53-1. */
function incrementOf(n, field) {
  if (isIncrement(n)) {
    return n;
  }
  throw new Mistake('a count must be a whole number, 1 to 2^53-1', { incr: { [nameOf(field, 'incr')]: null } });
}

/** Return a duration in ms, 0 to 86,400,000. */
function durationOf(durationMs) {
  if (isDuration(durationMs)) {
    return durationMs;
  }
  throw new Mistake('a duration must be a number of ms, 0 to 86,400,000', { observe: { ['0'.repeat(16)]: [null] } });
}

/** Return a scalar field's value: a text, a finite number or a boolean. */
function scalarOf(value, refusable) {
  if (typeof value === 'string') {
    return wordOf(value, refusable);
  }
  if (typeof value === 'boolean' || Number.isFinite(value)) {
    return value;
  }
  throw new Mistake("a field's value must be a text, a finite number or a boolean", refusable);
}

/** Return a text's first 64 characters. */
function wordOf(word, refusable) {
  const found = wordOrNull(word);
  if (found === null) {
    throw new Mistake('a word must be a text', refusable);
  }
  return found;
}

/** Return a text's first 64 characters, or null if it is not a valid text. */
function wordOrNull(word) {
  if (typeof word !== 'string') {
    return null;
  }
  const start = word.slice(0, 2 * MAX_TEXT); // a character has one or two units
  const found = start.length <= MAX_TEXT ? start : Array.from(start).slice(0, MAX_TEXT).join('');
  return LONE_SURROGATE.test(found) ? null : found;
}

/** Return the names of the fields in an object. Reads no field, because a getter may throw. */
function namesIn(fields) {
  if (typeof fields !== 'object' || fields === null || Array.isArray(fields) || ArrayBuffer.isView(fields)) {
    throw new Mistake('fields must be an object', { set: { '?': null } });
  }
  return Object.keys(fields).slice(0, MAX_FIELDS);
}

/** Return the fields of an event. A name or value that is not valid becomes one that the daemon refuses. */
function eventFieldsOf(fields = {}) {
  return Object.fromEntries(
    eventNamesIn(fields).map((name) => [isName(name) ? name : '?', eventValueOf(() => fields[name])]),
  );
}

function eventNamesIn(fields) {
  try {
    return namesIn(fields);
  } catch {
    return ['?'];
  }
}

/** Return a list of words or a scalar. `read` returns the value, or throws what the caller's getter throws. */
function eventValueOf(read) {
  try {
    const value = read();
    return Array.isArray(value) ? wordsOf(value) : scalarOf(value, {});
  } catch {
    return [null];
  }
}

function wordsOf(list) {
  return Array.from({ length: Math.min(list.length, MAX_WORDS) }, (_, position) => wordOrNull(list[position]));
}

/** Return a route or a mark, which may be of any length. */
function textOf(text, refusable) {
  if (typeof text === 'string') {
    return text;
  }
  throw new Mistake('a route or mark must be a text', refusable);
}

module.exports = {
  Mistake,
  nameOf,
  counterCellOf,
  incrementOf,
  durationOf,
  scalarOf,
  wordOf,
  wordOrNull,
  namesIn,
  eventFieldsOf,
  textOf,
};
