'use strict';

/**
 * The state that one producer has to report. It may be sent any number of times. Knows no socket.
 *
 * Counts and rows are in the counter file's cells. `nextFrame` returns the next frame to send. `oweEverything` starts
 * over, for a daemon that knows nothing of this producer. An event that a session has once is state, because the daemon
 * knows whether it was sent. Every other event is sent once, and is kept (bounded) until then.
 */

const SESSION_FIELDS = require('./fields.cjs');
const { COUNTER_CELLS } = require('./layout.cjs');
const { ONCE_A_SESSION } = require('./limits.cjs');

const MAX_EVENTS = 64; // events that wait for a daemon, and events that may be sent again; a session has five
const MAX_MISTAKES = 64; // mistakes that wait for a daemon
const MAX_FIELDS = 64; // twice as many as a session has
const MAX_WORDS = 64; // words of one scalar field, which has one or a few
const MAX_MARKS = 4096; // members of one field; more insights than a person reads
const ITEMS_PER_FRAME = 64; // words, marks and rows together; even the longest ones then fit into a line

class UnsentState {
  #counterFile;
  #scalars = new Map(); // every word of each scalar field, because some rules need more than the last one
  #members = new Map();
  #marks = new Map();
  #fields = new Set();
  #end = null;
  #repeatable = []; // the first MAX_EVENTS events that may be sent again
  #repeatableSent = 0; // how many of these were sent
  #events = []; // the latest MAX_EVENTS of the other events
  #mistakes = []; // the latest MAX_MISTAKES

  // What is still to be sent: pairs of a field and a value, and the names of counts and rows.
  #owedScalars = [];
  #owedMembers = [];
  #owedMarks = [];
  #owedTotals = new Set();
  #owedRows = new Set();
  #owesEnd = false;

  /** @param {import('./counter_file.cjs').CounterFile} counterFile */
  constructor(counterFile) {
    this.#counterFile = counterFile;
  }

  // --- what the producer reports ----------------------------------------------------------------------------------

  /** Add a word to a scalar field. */
  set(field, value) {
    this.#addMember(this.#scalars, MAX_WORDS, this.#owedScalars, field, value);
  }

  /** Add a member to a set field. */
  add(field, word) {
    this.#addMember(this.#members, MAX_MARKS, this.#owedMembers, field, word);
  }

  /** Add an opaque id to a field that counts distinct ids. */
  mark(field, opaqueId) {
    this.#addMember(this.#marks, MAX_MARKS, this.#owedMarks, field, opaqueId);
  }

  /** Add a journey event. */
  event(name, fields) {
    const frame = { event: { ...fields, name } };
    if (ONCE_A_SESSION.has(name) && this.#repeatable.length < MAX_EVENTS) {
      this.#repeatable.push(frame);
    } else {
      pushBounded(this.#events, frame, MAX_EVENTS);
    }
  }

  /** Add a frame that the daemon refuses. The command `status` shows the caller's mistakes as refusals. */
  mistake(frame) {
    pushBounded(this.#mistakes, frame, MAX_MISTAKES);
  }

  /** Add the end of this producer. */
  finish(exitReason) {
    this.#end = exitReason;
    this.#owesEnd = true;
  }

  #addMember(sets, most, owed, field, member) {
    if (!this.#hasRoomFor(field)) {
      return;
    }
    const members = sets.get(field) ?? new Set();
    sets.set(field, members);
    if (!members.has(member) && members.size < most) {
      members.add(member);
      owed.push([field, member]);
    }
  }

  /** Return false for an unknown field once there are MAX_FIELDS fields. Until then the daemon refuses it. */
  #hasRoomFor(field) {
    if (this.#fields.size >= MAX_FIELDS && !this.#fields.has(field) && !SESSION_FIELDS.has(field)) {
      return false;
    }
    this.#fields.add(field);
    return true;
  }

  // --- what is still to be sent -----------------------------------------------------------------------------------

  /** Queue a count, because no daemon is known to read the counter file. */
  oweTotal(field) {
    this.#owedTotals.add(field);
  }

  /** Queue a route's row, because no daemon is known to read the counter file. */
  oweRow(route) {
    this.#owedRows.add(route);
  }

  /** Queue the counts and rows that are not zero. */
  oweCounts() {
    const counted = [...COUNTER_CELLS].filter(([, cell]) => this.#counterFile.count(cell) > 0);
    this.#owedTotals = new Set(counted.map(([field]) => field));
    this.#owedRows = new Set(this.#counterFile.routes);
  }

  /** Queue no counts, because the daemon reads the counter file. */
  oweNoCounts() {
    this.#owedTotals.clear();
    this.#owedRows.clear();
  }

  /** Queue an event again, because its frame may not have reached the daemon. */
  oweEvent(frame) {
    if (!this.#repeatable.includes(frame)) {
      this.#events.unshift(frame);
      this.#events.length = Math.min(this.#events.length, MAX_EVENTS);
    }
  }

  /** Queue all state again, with the counts. Events that are sent each time are not state. */
  oweEverything() {
    this.#owedScalars = pairsOf(this.#scalars);
    this.#owedMembers = pairsOf(this.#members);
    this.#owedMarks = pairsOf(this.#marks);
    this.oweCounts();
    this.#repeatableSent = 0;
    this.#owesEnd = this.#end !== null;
  }

  /** Whether `nextFrame` would return null. */
  get isAllSent() {
    return (
      !this.#owesWords &&
      !this.#owesCounts &&
      !this.#owesEnd &&
      this.#repeatableSent === this.#repeatable.length &&
      this.#events.length === 0 &&
      this.#mistakes.length === 0
    );
  }

  get #owesWords() {
    return this.#owedScalars.length > 0 || this.#owedMembers.length > 0 || this.#owedMarks.length > 0;
  }

  get #owesCounts() {
    return this.#owedTotals.size > 0 || this.#owedRows.size > 0;
  }

  /**
   * Return the next frame: state, then events, then mistakes, and the end last. Returns null if all is sent.
   *
   * @param {{ withCounts?: boolean }} [options] `withCounts`: whether counts may be sent now.
   */
  nextFrame({ withCounts = true } = {}) {
    if (this.#owesWords || (this.#owesCounts && withCounts)) {
      return this.#stateFrame({ withCounts });
    }
    if (this.#repeatableSent < this.#repeatable.length) {
      this.#repeatableSent += 1;
      return this.#repeatable[this.#repeatableSent - 1];
    }
    if (this.#events.length > 0) {
      return this.#events.shift();
    }
    if (this.#mistakes.length > 0) {
      return this.#mistakes.shift();
    }
    if (this.#owesEnd) {
      this.#owesEnd = false;
      return { end: { exit_reason: this.#end } };
    }
    return null;
  }

  #stateFrame({ withCounts }) {
    const frame = {};
    let room = ITEMS_PER_FRAME;
    const take = (owed) => {
      const taken = owed.splice(0, room);
      room -= taken.length;
      return taken;
    };
    if (this.#owedScalars.length > 0) {
      frame.set = this.#oneWordAField(take(this.#owedScalars));
    }
    if (room > 0 && this.#owedMembers.length > 0) {
      frame.add = grouped(take(this.#owedMembers));
    }
    if (room > 0 && this.#owedMarks.length > 0) {
      frame.mark = grouped(take(this.#owedMarks));
    }
    if (withCounts && room > 0 && this.#owedTotals.size > 0) {
      const fields = takeFromSet(this.#owedTotals, room);
      room -= fields.length;
      frame.total = Object.fromEntries(
        fields.map((field) => [field, this.#counterFile.count(COUNTER_CELLS.get(field))]),
      );
    }
    if (withCounts && room > 0 && this.#owedRows.size > 0) {
      const routes = takeFromSet(this.#owedRows, room);
      frame.histogram = Object.fromEntries(routes.map((route) => [route, this.#counterFile.rowOf(route)]));
    }
    return frame;
  }

  /** Return one word for each field, because a frame holds one. The others wait for the next frame. */
  #oneWordAField(scalars) {
    const words = new Map();
    const waiting = [];
    for (const [field, value] of scalars) {
      if (words.has(field)) {
        waiting.push([field, value]);
      } else {
        words.set(field, value);
      }
    }
    this.#owedScalars.unshift(...waiting);
    return Object.fromEntries(words);
  }
}

function pushBounded(queue, item, most) {
  queue.push(item);
  if (queue.length > most) {
    queue.shift();
  }
}

function pairsOf(sets) {
  return [...sets].flatMap(([field, members]) => [...members].map((member) => [field, member]));
}

function grouped(pairs) {
  const groups = new Map();
  for (const [field, member] of pairs) {
    const members = groups.get(field) ?? [];
    groups.set(field, members);
    members.push(member);
  }
  return Object.fromEntries(groups);
}

function takeFromSet(owed, most) {
  const taken = [...owed].slice(0, most);
  for (const item of taken) {
    owed.delete(item);
  }
  return taken;
}

module.exports = { UnsentState };
