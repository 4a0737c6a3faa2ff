/**
 * The browser's end of a triochan server: JSON over one WebSocket that comes back by itself.
 *
 * The API, with its defaults, is described in triochan.d.ts; the comments here say why.
 *
 *     idle ── connect() ──▶ connecting ── outbox leaves ──▶ open
 *                            ▲     │                         │ │
 *              delay is over │     │ fails                   │ │ close()
 *           or the page woke │     ▼                         │ ▼
 *                           waiting ◀───── connection lost ──┘ closing
 *                                                              │ goodbye answered, or closeTimeout
 *     any state ── close(), a final close code, signal ──▶ closed
 *
 *     connecting: url(), protocols(), headers() ──▶ WebSocket opens ──▶ headers sent ──▶ beforeFlush()
 *                 (all of it within connectTimeout)
 *
 * Three rules carry most of the weight:
 *
 * - Everything sent goes through the outbox, connected or not, so there is one order.
 * - A socket that is given up is stripped of its handlers at that moment, so nothing it does later
 *   (not even opening) can reach a client that has moved on.
 * - Whatever an attempt waits for asks, when it is there, whether it is still that attempt's turn.
 *
 * @typedef {import("./triochan.d.ts").ClientOptions} ClientOptions
 * @typedef {import("./triochan.d.ts").Environment} Environment
 * @typedef {import("./triochan.d.ts").State} State
 * @typedef {import("./triochan.d.ts").WireData} WireData
 * @typedef {import("./triochan.d.ts").TriochanClient} Declared
 */

/** What WebSocket.OPEN is; the injected class of a test need not define it. */
const OPEN = 1;

/** A WebSocket has no event for "the buffer has room again", so a backed-up outbox looks this often (ms). */
const DRAIN_POLL = 50;

/** How often the clock is looked at (ms): a look that comes much too late has slept, and the network with it. */
const CLOCK_POLL = 10_000;

/** A hidden page's timers run once a minute (ms). */
const HIDDEN_LATENESS = 60_000;

/** What setTimeout can count to (ms): more, and it fires at once. */
const LONGEST_TIMER = 2 ** 31 - 1;

/** RFC 6455, section 5.5: a control frame carries at most 125 bytes, two of which are the code. */
const MAX_REASON_BYTES = 123;

/** After so long, no list will come that makes up for diffs that were missed (ms): more than a server's lease. */
const LIST_PATIENCE = 20_000;

/** Diffs that are kept for a list to come: a server sends a list within a second or two. */
const MOST_EARLY = 1000;

/** @type {import("./triochan.d.ts").CloseCodes} */
export const DEFAULT_FINAL_CODES = Object.freeze([
  1000, // the server said goodbye on purpose
  1002, 1003, 1007, 1009, 1010, // this page sent what the server cannot take; it would send it again
  1008, // refused by policy
  3000, 3003, // unauthorized, forbidden
  [4000, 4099], // an application's own "do not come back"
  [4400, 4407], [4409, 4428], [4430, 4499], // 4000 + an HTTP client error, but not 408 and 429
]);

const DEFAULTS = {
  protocols: /** @type {ClientOptions["protocols"]} */ (undefined),
  headers: /** @type {ClientOptions["headers"]} */ (undefined),
  beforeFlush: /** @type {ClientOptions["beforeFlush"]} */ (undefined),
  signal: /** @type {AbortSignal | undefined} */ (undefined),
  outboxLimit: 256,
  highWater: 1024 * 1024,
  backoffBase: 1000,
  backoffCap: 30_000,
  stableAfter: 5000,
  connectTimeout: 15_000,
  closeTimeout: 5000,
  staleAfter: 45_000,
  finalCodes: DEFAULT_FINAL_CODES,
  encode: encodeJson,
  decode: decodeJson,
  environment: /** @type {Partial<Environment>} */ ({}),
};

export class OutboxFullError extends Error {
  name = "OutboxFullError";

  /** @param {number} limit */
  constructor(limit) {
    super(`the outbox holds ${limit} unsent messages, its limit; this one was not taken`);
    this.limit = limit;
  }
}

export class ClientClosedError extends Error {
  name = "ClientClosedError";

  /** @param {number} code @param {string} reason */
  constructor(code, reason) {
    super(`the client is closed (${code}${reason && `, ${reason}`}); connect() opens it again`);
    this.code = code;
    this.reason = reason;
  }
}

export class StreamError extends Error {
  name = "StreamError";

  /** @param {{stream: string | null, error: unknown}} frame */
  constructor(frame) {
    const { stream, error } = frame;
    super(`stream ${JSON.stringify(stream)}: ${typeof error === "string" ? error : JSON.stringify(error)}`);
    this.stream = stream;
    this.error = error;
    this.frame = frame;
  }
}

/** @implements {Declared} */
export class TriochanClient extends EventTarget {
  /** @type {Ask<string | URL>} */ #url;
  /** @type {typeof DEFAULTS} */ #options;
  /** Something is asked for at every attempt, so that another one may fare better. @type {boolean} */ #renewed;
  /** @type {Environment} */ #environment;

  /** @type {State} */ #state = "idle";
  /** @type {WebSocket | undefined} */ #socket;
  /** The attempt that is under way, until its outbox leaves. @type {AbortController | undefined} */ #attempting;
  /** The outbox may leave. */ #flowing = false;
  /** The one timer of the present state: give up, try again, look at the buffer. @type {unknown} */ #timer;
  /** Ends the listening to the page. @type {AbortController | undefined} */ #lifetime;

  /** Attempts since the last stable connection. */ #failures = 0;
  /** When the present connection opened. @type {number | undefined} */ #openedAt;
  /** When the network went away. @type {number | undefined} */ #offlineAt;
  /** The timer of the next look at the clock. @type {unknown} */ #clock;
  #hasBeenOpen = false;
  #ending = { code: 1000, reason: "" };

  /** @type {WireData[]} */ #outbox = [];
  /** @type {CustomEvent[]} */ #events = [];
  #dispatching = false;

  /** @type {Set<Listener>} */ #listeners = new Set();
  /** @type {Map<string, Set<Listener>>} */ #streams = new Map();
  /** @type {Map<string, Topic>} */ #topics = new Map();

  /** @param {string | URL | Ask<string | URL>} url @param {ClientOptions} [options] */
  constructor(url, options = {}) {
    super();
    this.#options = withDefaults(options);
    this.#environment = { ...browser(), ...this.#options.environment };
    // What is fixed is looked at now, so that a mistake is an error where it was written.
    const fixed = typeof url === "function" ? url : resolve(url, this.#environment.baseURI);
    this.#url = asking(fixed);
    if (typeof this.#options.headers !== "function") checkHeaders(this.#options.headers);
    this.#renewed = [url, this.#options.protocols, this.#options.headers].some((it) => typeof it === "function");
  }

  get state() {
    return this.#state;
  }

  get queued() {
    return this.#outbox.length;
  }

  // ---- the connection, as its owner sees it

  connect() {
    this.#options.signal?.throwIfAborted();
    // A new connection does not wait for the old one's goodbye.
    if (this.#state === "closing") this.#finish(1006, "closed without waiting for the server", false);
    if (this.#state === "connecting" || this.#state === "open") return;
    if (this.#state !== "waiting") this.#watchPage();
    raise(this.#attempt());
  }

  reconnect() {
    if (this.#state !== "connecting" && this.#state !== "open") return this.connect();
    raise(this.#renew("reconnect"));
  }

  close(code = 1000, reason = "") {
    checkClose(code, reason);
    if (this.#state === "open") this.#flush(Infinity); // send() before close() means it is to be sent
    if (this.#state === "closing" || this.#state === "closed") return;
    if (this.#state !== "open") {
      this.#socket?.close(code, reason); // which may be waiting for beforeFlush(): the server hears why
      return this.#finish(code, reason, true);
    }
    const socket = /** @type {WebSocket} */ (this.#socket);
    this.#lifetime?.abort();
    this.#ending = { code, reason };
    socket.onmessage = null;
    // The goodbye of a dead network takes a browser a minute or more to give up on.
    const { closeTimeout } = this.#options;
    this.#startTimer(closeTimeout, () => this.#finish(1006, `no answer to the close in ${closeTimeout} ms`, false));
    socket.close(code, reason);
    this.#enter("closing");
  }

  /** @param {{signal?: AbortSignal}} [options] @returns {Promise<void>} */
  opened({ signal } = {}) {
    return new Promise((resolve, reject) => {
      signal?.throwIfAborted();
      if (this.#state === "open") return resolve();
      if (this.#state === "closing" || this.#state === "closed") return reject(this.#closedError());
      const settled = new AbortController();
      const once = { signal: settled.signal };
      this.addEventListener("open", () => (settled.abort(), resolve()), once);
      this.addEventListener("statechange", () => {
        if (this.#state === "closed") settled.abort(), reject(this.#closedError());
      }, once);
      signal?.addEventListener("abort", () => (settled.abort(), reject(signal.reason)), once);
    });
  }

  // ---- messages

  /** @param {unknown} value */
  send(value) {
    if (this.#state === "closing" || this.#state === "closed") throw this.#closedError();
    // Encoded here: what the caller changes later is not sent, and what cannot be encoded is the caller's to hear of.
    const data = checkWireData(this.#options.encode(value), "encode() to give");
    const { outboxLimit } = this.#options;
    // With room in the socket at least one message leaves the outbox now, so it cannot outgrow its limit.
    if (this.#outbox.length >= outboxLimit && !this.#hasRoom()) throw new OutboxFullError(outboxLimit);
    const waits = this.#outbox.length > 0 || !this.#hasRoom();
    this.#outbox.push(waits ? copied(data) : data);
    this.#flush();
    return this.#outbox.length === 0;
  }

  /** @param {string} name */
  stream(name) {
    return {
      name,
      send: (/** @type {unknown} */ payload) => this.send({ stream: name, payload }),
      listen: (/** @type {any} */ fn, /** @type {any} */ options) => this.demultiplex(name, fn, options),
    };
  }

  /** @param {(value: any) => void} fn @param {{signal?: AbortSignal}} [options] */
  listen(fn, options) {
    return subscribe(this.#listeners, { fn }, options?.signal);
  }

  /**
   * @param {string} stream
   * @param {(payload: any, stream: string) => void} fn
   * @param {{onerror?: (error: StreamError) => void, signal?: AbortSignal}} [options]
   */
  demultiplex(stream, fn, { onerror, signal } = {}) {
    let listeners = this.#streams.get(stream);
    if (!listeners) this.#streams.set(stream, (listeners = new Set()));
    const of = listeners;
    return subscribe(of, { fn, onerror }, signal, () => {
      // Streams that are named after rooms or rows come and go: nothing is kept of those that nobody listens to.
      if (of.size === 0 && this.#streams.get(stream) === of) this.#streams.delete(stream);
    });
  }

  /** @param {string} topic @returns {any} */
  presence(topic) {
    if (typeof topic !== "string") throw new TypeError(`expected a topic's name, not ${said(topic)}`);
    const known = this.#topics.get(topic);
    if (known) return known.presence;
    return new Presence(topic, {
      environment: this.#environment,
      renew: () => this.reconnect(), // its timer ends with the connection
      begun: (entry) => void this.#topics.set(topic, entry),
      stopped: () => void this.#topics.delete(topic),
    });
  }

  /** @param {unknown} data */
  #receive(data) {
    /** @type {any} */
    let value;
    try {
      value = this.#options.decode(/** @type {string | ArrayBuffer} */ (data));
    } catch (error) {
      return this.#emit("error", { error });
    }
    if (isErrorFrame(value)) {
      const error = new StreamError(value);
      const listeners = this.#streams.get(value.stream) ?? new Set();
      if ([...listeners].some(({ onerror }) => onerror)) this.#call(listeners, ({ onerror }) => onerror?.(error));
      else this.#emit("error", { error });
      return;
    }
    const topic = isPresenceFrame(value) ? this.#topics.get(value.presence) : undefined;
    if (topic) return topic.take(value);
    const listeners = isPayloadFrame(value) ? this.#streams.get(value.stream) : undefined;
    if (listeners?.size) this.#call(listeners, ({ fn }) => fn(value.payload, value.stream));
    else this.#call(this.#listeners, ({ fn }) => fn(value));
  }

  /**
   * Call every listener; one that raises is reported and keeps no other from hearing the message.
   * @param {Set<Listener>} listeners @param {(listener: Listener) => void} call
   */
  #call(listeners, call) {
    const { reportError } = this.#environment;
    for (const listener of [...listeners]) {
      if (!listeners.has(listener)) continue; // removed by one before it
      try {
        call(listener);
      } catch (error) {
        reportError(error);
      }
    }
  }

  /**
   * Hand the outbox to the socket, in order, as far as its buffer has room. Asked before every single
   * message, because a socket that is closing takes data without complaint and drops it.
   */
  #flush(highWater = this.#options.highWater) {
    while (this.#outbox.length > 0 && this.#hasRoom(highWater)) {
      try {
        this.#socket?.send(/** @type {string} */ (this.#outbox[0]));
      } catch (error) {
        return this.#lose(1006, `sending failed: ${said(error)}`, false); // this message and those behind it stay
      }
      this.#outbox.shift();
    }
    if (this.#outbox.length > 0 && this.#flowing && this.#socket?.readyState === OPEN) {
      this.#timer ??= this.#setTimeout(DRAIN_POLL, () => this.#flush());
    }
  }

  #hasRoom(highWater = this.#options.highWater) {
    return this.#flowing && this.#socket?.readyState === OPEN && this.#socket.bufferedAmount <= highWater;
  }

  // ---- the life of a connection

  /** @returns {Failure | undefined} What has closed the client for good. */
  #attempt() {
    const { connectTimeout, protocols, headers } = this.#options;
    const attempt = (this.#attempting = new AbortController());
    this.#startTimer(connectTimeout, () => this.#lose(1006, `not connected after ${connectTimeout} ms`, false));
    this.#enter("connecting");
    if (this.#attempting !== attempt) return undefined; // a listener has closed the client

    // Asked for all at once; one that throws keeps no other's rejection from being heard.
    const asked = [this.#url, asking(protocols), asking(headers)].map((ask) => {
      try {
        return ask({ signal: attempt.signal });
      } catch (error) {
        return Promise.reject(error);
      }
    });
    if (!asked.some(isThenable)) return this.#dial(attempt, asked);
    void Promise.all(asked).then(
      (answers) => void this.#dial(attempt, answers),
      (error) => {
        if (this.#attempting === attempt) this.#lose(1006, said(error), false, { error });
      },
    );
    return undefined;
  }

  /**
   * @param {AbortController} attempt @param {any[]} answers
   * @returns {Failure | undefined}
   */
  #dial(attempt, [url, protocols, headers]) {
    if (this.#attempting !== attempt) return undefined; // too late: it was given up, and there may be another one
    const { WebSocket, baseURI } = this.#environment;
    /** @type {WebSocket} */ let socket;
    /** @type {WireData | undefined} */ let first;
    try {
      if (typeof WebSocket !== "function") throw new NoWebSocketError();
      const checked = checkHeaders(headers);
      if (checked) first = checkWireData(this.#options.encode({ headers: checked }), "encode() to give");
      socket = new WebSocket(resolve(url, baseURI), protocols ?? undefined);
    } catch (error) {
      // Not the network's doing (a bad URL, mixed content): what is not asked for anew fails the same way next time.
      const again = this.#renewed && !(error instanceof NoWebSocketError);
      if (again) this.#lose(1006, said(error), false, { error });
      else this.#finish(1006, said(error), false, { error });
      return again ? undefined : { error };
    }
    socket.binaryType = "arraybuffer";
    socket.onopen = () => this.#opened(attempt, socket, first);
    socket.onmessage = ({ data }) => this.#receive(data);
    socket.onclose = ({ code, reason, wasClean }) => {
      const final = this.#state === "closing" || isListed(code, this.#options.finalCodes);
      return final ? this.#finish(code, reason, wasClean) : this.#lose(code, reason, wasClean);
    };
    // Says nothing that the close after it does not say, but packages for Node raise what nobody listens to.
    socket.onerror = () => {};
    this.#socket = socket;
    return undefined;
  }

  /** @param {AbortController} attempt @param {WebSocket} socket @param {WireData | undefined} first */
  #opened(attempt, socket, first) {
    const { beforeFlush } = this.#options;
    try {
      if (first !== undefined) socket.send(/** @type {string} */ (first));
    } catch (error) {
      return this.#lose(1006, `sending failed: ${said(error)}`, false);
    }
    if (!beforeFlush) return this.#ready(socket);

    const outbox = Object.freeze([...this.#outbox]);
    /** @param {unknown} kept */
    const go = (kept) => {
      if (this.#attempting !== attempt) return;
      try {
        this.#ready(socket, this.#replaceOutbox(outbox, kept));
      } catch (error) {
        fail(error);
      }
    };
    /** @param {unknown} error */
    const fail = (error) => {
      if (this.#attempting !== attempt) return;
      // Of a connection that is closing, the server's close code, on its way here, says whether to come back.
      if (socket.readyState !== OPEN) return this.#emit("error", { error });
      this.#lose(1006, `beforeFlush() failed: ${said(error)}`, false, { error });
    };
    try {
      const kept = beforeFlush({
        outbox,
        reconnected: this.#hasBeenOpen,
        signal: attempt.signal,
        send: (value) => {
          if (this.#attempting !== attempt) throw new Error("beforeFlush() is over: client.send() is for what follows");
          const data = checkWireData(this.#options.encode(value), "encode() to give");
          if (socket.readyState === OPEN) socket.send(/** @type {string} */ (data));
        },
      });
      if (isThenable(kept)) Promise.resolve(kept).then(go, fail);
      else go(kept);
    } catch (error) {
      fail(error);
    }
  }

  /**
   * Put what beforeFlush() gave in the place of what it was given.
   * @param {readonly WireData[]} given @param {unknown} kept
   * @returns {WireData[]} What is no longer there.
   */
  #replaceOutbox(given, kept) {
    if (kept === undefined) return [];
    if (!Array.isArray(kept)) throw new TypeError("expected beforeFlush() to give an array of messages, or undefined");
    const limit = Math.max(given.length, this.#options.outboxLimit);
    if (kept.length > limit) throw new OutboxFullError(limit);
    /** @type {Map<unknown, number>} */ const times = new Map();
    for (const data of kept) {
      checkWireData(data, "beforeFlush() to give an array of");
      times.set(data, (times.get(data) ?? 0) + 1);
    }
    // What was sent meanwhile stands behind it.
    this.#outbox = [...kept, ...this.#outbox.slice(given.length)];
    return given.filter((data) => {
      const left = times.get(data) ?? 0;
      times.set(data, left - 1);
      return left <= 0;
    });
  }

  /** @param {WebSocket} socket @param {WireData[]} [dropped] */
  #ready(socket, dropped = []) {
    this.#clearTimer();
    this.#endAttempt();
    this.#openedAt = this.#environment.now();
    const reconnected = this.#hasBeenOpen;
    this.#hasBeenOpen = true;
    this.#flowing = true;
    if (dropped.length > 0) this.#emit("dropped", { messages: dropped });
    if (this.#socket !== socket) return; // a listener has closed the client
    this.#flush(); // before any listener hears of it and sends more
    if (this.#socket === socket) this.#enter("open", ["open", { reconnected }]);
  }

  /**
   * The connection or the attempt failed: come back later.
   * @param {number} code @param {string} reason @param {boolean} wasClean @param {Failure} [failure]
   */
  #lose(code, reason, wasClean, failure) {
    const { backoffBase, backoffCap, stableAfter } = this.#options;
    const { now, random } = this.#environment;
    // A server that accepts and then drops everyone at once has not recovered: only time proves a connection.
    if (this.#openedAt !== undefined && now() - this.#openedAt >= stableAfter) this.#failures = 0;
    this.#abandon();
    // Drawn from the whole range ("full jitter"): clients that were dropped together come back spread out.
    const longest = Math.min(backoffCap, backoffBase * 2 ** Math.min(this.#failures, 50), LONGEST_TIMER);
    const delay = random() * longest;
    this.#failures += 1;
    this.#startTimer(delay, () => this.#attempt());
    this.#enter(
      "waiting",
      ...errorEvent(failure),
      ["close", { code, reason, wasClean, willReconnect: true, unsent: [] }],
      ["reconnecting", { attempt: this.#failures, delay }],
    );
  }

  /**
   * The end, until somebody calls connect().
   * @param {number} code @param {string} reason @param {boolean} wasClean @param {Failure} [failure]
   */
  #finish(code, reason, wasClean, failure) {
    this.#abandon();
    this.#lifetime?.abort();
    this.#ending = { code, reason };
    this.#failures = 0;
    this.#hasBeenOpen = false;
    // Given back, not kept: the next connect() may be another user's.
    const unsent = this.#outbox.splice(0);
    const close = { code, reason, wasClean, willReconnect: false, unsent };
    this.#enter("closed", ...errorEvent(failure), ["close", close]);
  }

  /**
   * Let go of the connection and wait, with no timer, for #wake() or connect().
   * @param {string} reason
   */
  #suspend(reason) {
    if (this.#state === "waiting") return this.#clearTimer();
    if (this.#state !== "connecting" && this.#state !== "open") return;
    this.#abandon(reason);
    this.#enter("waiting", ["close", { code: 1000, reason, wasClean: true, willReconnect: true, unsent: [] }]);
  }

  /** The page or the network is back: what failed before says nothing about now. @returns {Failure | undefined} */
  #wake() {
    if (this.#state !== "waiting") return undefined;
    this.#failures = 0;
    return this.#attempt();
  }

  #abandon(reason = "") {
    const socket = this.#socket;
    this.#socket = undefined;
    this.#openedAt = undefined;
    this.#flowing = false;
    this.#endAttempt();
    this.#clearTimer();
    if (!socket) return;
    for (const topic of this.#topics.values()) topic.lost();
    socket.onmessage = socket.onclose = null;
    socket.onopen = () => socket.close(); // by the standard it cannot any more; a stand-in for WebSocket might
    if (socket.readyState <= OPEN) socket.close(1000, reason);
  }

  /** Another connection in the place of this one. @param {string} reason @returns {Failure | undefined} */
  #renew(reason) {
    this.#suspend(reason);
    return this.#wake(); // unless a listener of that closed the client
  }

  #endAttempt() {
    const attempt = this.#attempting;
    this.#attempting = undefined;
    // Not now: who listens to the signal may call this client, in the middle of what it is doing.
    if (attempt) queueMicrotask(() => attempt.abort());
  }

  #watchPage() {
    const { window, document, now } = this.#environment;
    this.#lifetime = new AbortController();
    const until = { signal: this.#lifetime.signal };
    this.#offlineAt = undefined;

    // navigator.onLine is not asked: it is wrong often enough, and to a server on this machine always.
    window?.addEventListener("offline", () => (this.#offlineAt ??= now()), until);
    window?.addEventListener("online", () => {
      const away = this.#offlineAt === undefined ? 0 : now() - this.#offlineAt;
      this.#offlineAt = undefined;
      // The server has missed our pongs for so long that it hung up, and could not tell us.
      if (this.#state === "open" && away >= this.#options.staleAfter) this.#renew("offline for too long");
      else this.#wake();
    }, until);

    // An open WebSocket keeps a page out of the back/forward cache, or is cut when the page is restored from it.
    window?.addEventListener("pagehide", () => this.#suspend("page hidden"), until);
    window?.addEventListener("pageshow", () => this.#wake(), until);
    // A background tab's timers are slowed down to one a minute: do not wait for them once it is looked at.
    let hidden = document?.visibilityState === "hidden";
    document?.addEventListener("visibilitychange", () => {
      hidden = true; // or was so a moment ago
      if (document.visibilityState === "visible") this.#wake();
    }, until);

    this.#options.signal?.addEventListener("abort", () => this.close(), until);

    // A machine that sleeps, or a frozen page, hears nothing of a server that has hung up: the socket looks open for ever.
    const { setTimeout, clearTimeout } = this.#environment;
    let looked = now();
    const look = () => {
      const late = now() - looked - CLOCK_POLL - (hidden ? HIDDEN_LATENESS : 0);
      looked = now();
      hidden = document?.visibilityState === "hidden";
      this.#clock = setTimeout(look, CLOCK_POLL);
      if (this.#state === "open" && late >= this.#options.staleAfter) this.#renew("asleep for too long");
    };
    this.#clock = setTimeout(look, CLOCK_POLL);
    this.#lifetime.signal.addEventListener("abort", () => clearTimeout(this.#clock));
  }

  // ---- events and timers

  /** @param {State} state @param {...[type: string, detail: object]} events */
  #enter(state, ...events) {
    const previous = this.#state;
    this.#state = state;
    for (const [type, detail] of events) this.#events.push(new CustomEvent(type, { detail }));
    this.#emit("statechange", { state, previous });
  }

  /**
   * A listener may call connect() or close(): what that gives rise to waits its turn, so that every
   * listener hears of everything in the order in which it happened.
   * @param {string} type @param {object} detail
   */
  #emit(type, detail) {
    this.#events.push(new CustomEvent(type, { detail }));
    if (this.#dispatching) return;
    this.#dispatching = true;
    for (let event; (event = this.#events.shift()); ) this.dispatchEvent(event); // raises for no listener
    this.#dispatching = false;
  }

  /** @param {number} delay @param {() => void} fn */
  #startTimer(delay, fn) {
    this.#clearTimer();
    this.#timer = this.#setTimeout(delay, fn);
  }

  /** @param {number} delay @param {() => void} fn */
  #setTimeout(delay, fn) {
    const { setTimeout } = this.#environment;
    return setTimeout(() => {
      this.#timer = undefined;
      fn();
    }, Math.min(delay, LONGEST_TIMER));
  }

  #clearTimer() {
    const { clearTimeout } = this.#environment;
    if (this.#timer !== undefined) clearTimeout(this.#timer);
    this.#timer = undefined;
  }

  #closedError() {
    return new ClientClosedError(this.#ending.code, this.#ending.reason);
  }
}

/**
 * Who is in a topic, put together from the server's frames; docs/presence.md has their form and its rules.
 *
 * Every step may be done twice: members have refs. So nothing goes wrong where a list has what a diff says as well.
 *
 * @implements {DeclaredPresence}
 */
export class Presence extends EventTarget {
  /** @type {Map<string, Map<string, Meta>>} */ #members = new Map();
  /** Of what was applied last; undefined before the connection's first list. @type {number | undefined} */ #version;
  /** Diffs that came before the list. @type {PresenceFrame[]} */ #early = [];
  /** A version was skipped, and a list is waited for. @type {unknown} */ #waiting;
  /** @type {PresenceOwner} */ #owner;

  /** @param {string} topic @param {PresenceOwner} owner */
  constructor(topic, owner) {
    super();
    this.topic = topic;
    this.#owner = owner;
    owner.begun({ presence: this, take: (frame) => this.#take(frame), lost: () => this.#lost() });
  }

  get synced() {
    return this.#version !== undefined && this.#waiting === undefined;
  }

  list() {
    const present = [...this.#members].filter(([, metas]) => metas.size > 0);
    return Object.fromEntries(present.map(([key, metas]) => [key, [...metas.values()]]));
  }

  stop() {
    this.#lost();
    this.#owner.stopped();
  }

  /** @param {PresenceFrame} frame */
  #take(frame) {
    if (frame.state) {
      this.#settle();
      this.#version = frame.version;
      this.#replace(frame.state);
      const early = this.#early.splice(0);
      for (const diff of early) this.#apply(diff);
    } else if (this.#version === undefined) {
      if (this.#early.push(frame) > MOST_EARLY) this.#early.shift(); // of which the versions tell
      return;
    } else if (!this.#apply(frame)) return;
    this.dispatchEvent(new Event("sync"));
  }

  /** @param {PresenceFrame} diff @returns {boolean} Whether it was news. */
  #apply({ version, joins = {}, updates = {}, leaves = {} }) {
    const before = /** @type {number} */ (this.#version);
    if (version <= before) return false;
    if (version !== before + 1) this.#await();
    this.#version = version;
    for (const [key, metas] of [...Object.entries(joins), ...Object.entries(updates)]) {
      for (const meta of metas) this.#put(key, meta);
    }
    for (const [key, refs] of Object.entries(leaves)) {
      for (const ref of refs) this.#remove(key, ref);
    }
    return true;
  }

  /** Who stays is told neither to come nor to go. @param {Record<string, Meta[]>} state */
  #replace(state) {
    const before = this.#members;
    this.#members = new Map(Object.keys(state).map((key) => [key, before.get(key) ?? new Map()]));
    for (const [key, metas] of before) if (!this.#members.has(key)) this.#members.set(key, metas);
    for (const [key, metas] of Object.entries(state)) for (const meta of metas) this.#put(key, meta);
    for (const [key, metas] of [...this.#members]) {
      const refs = new Set((Object.hasOwn(state, key) ? state[key] : undefined)?.map(({ ref }) => ref));
      for (const ref of [...metas.keys()]) if (!refs.has(ref)) this.#remove(key, ref);
    }
  }

  /** @param {string} key @param {Meta} meta */
  #put(key, meta) {
    let metas = this.#members.get(key);
    if (!metas) this.#members.set(key, (metas = new Map()));
    const previous = metas.get(meta.ref);
    metas.set(meta.ref, meta);
    if (!previous) this.#tell("join", { key, meta, first: metas.size === 1 });
    else if (JSON.stringify(previous) !== JSON.stringify(meta)) this.#tell("update", { key, meta, previous });
  }

  /** @param {string} key @param {string} ref */
  #remove(key, ref) {
    const metas = this.#members.get(key);
    const meta = metas?.get(ref);
    if (!metas || !meta) return;
    metas.delete(ref);
    if (metas.size === 0) this.#members.delete(key);
    this.#tell("leave", { key, meta, last: metas.size === 0 });
  }

  /** The server sends the list when it knows that it has missed something itself; else only a new connection gets it. */
  #await() {
    const { setTimeout } = this.#owner.environment;
    this.#waiting ??= setTimeout(() => {
      this.#waiting = undefined;
      this.#owner.renew();
    }, LIST_PATIENCE);
  }

  #settle() {
    const { clearTimeout } = this.#owner.environment;
    if (this.#waiting !== undefined) clearTimeout(this.#waiting);
    this.#waiting = undefined;
  }

  /** The connection is gone: the list stays as it was, until that of the next one takes its place. */
  #lost() {
    this.#settle();
    this.#version = undefined;
    this.#early = [];
  }

  /** @param {string} type @param {object} detail */
  #tell(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}

/**
 * @typedef {import("./triochan.d.ts").Presence} DeclaredPresence
 * @typedef {import("./triochan.d.ts").PresenceMeta} Meta
 *
 * @typedef {{presence: string, version: number, state?: Record<string, Meta[]>, joins?: Record<string, Meta[]>,
 *   updates?: Record<string, Meta[]>, leaves?: Record<string, string[]>}} PresenceFrame
 *
 * @typedef {{presence: Presence, take: (frame: PresenceFrame) => void, lost: () => void}} Topic
 *
 * @typedef {{environment: Environment, renew: () => void, begun: (entry: Topic) => void, stopped: () => void}} PresenceOwner
 */

/** There is nothing to connect with, and there will be nothing at the next attempt. */
class NoWebSocketError extends TypeError {
  constructor() {
    super("there is no WebSocket here: pass one as environment.WebSocket");
  }
}

/**
 * @template T
 * @typedef {import("./triochan.d.ts").Ask<T>} Ask
 */

/**
 * @template T
 * @param {T | Ask<T>} value
 * @returns {Ask<T>}
 */
function asking(value) {
  return typeof value === "function" ? /** @type {Ask<T>} */ (value) : () => value;
}

/** @param {any} value @returns {value is PromiseLike<unknown>} */
function isThenable(value) {
  return typeof value?.then === "function";
}

/** What was thrown, in a box: it may be undefined. @typedef {{error: unknown}} Failure */

/** @param {Failure | undefined} failure @returns {[type: string, detail: object][]} */
function errorEvent(failure) {
  return failure ? [["error", failure]] : [];
}

/** @param {Failure | undefined} failure */
function raise(failure) {
  if (failure) throw failure.error;
}

/** @param {unknown} error */
function said(error) {
  try {
    return String(error);
  } catch {
    return "an error that cannot be put into words"; // an object without a prototype, for one
  }
}

/**
 * @typedef {{fn: (value: any, stream?: any) => void, onerror?: ((error: StreamError) => void) | undefined}} Listener
 *
 * @param {Set<Listener>} listeners @param {Listener} listener @param {AbortSignal} [signal]
 * @param {() => void} [removed]
 * @returns {() => void}
 */
function subscribe(listeners, listener, signal, removed) {
  const remove = () => {
    listeners.delete(listener);
    signal?.removeEventListener("abort", remove);
    removed?.();
  };
  if (signal?.aborted) return remove(), remove;
  listeners.add(listener);
  signal?.addEventListener("abort", remove);
  return remove;
}

/** @param {any} value @returns {value is {stream: string, payload: unknown}} */
function isPayloadFrame(value) {
  return typeof value?.stream === "string" && "payload" in value;
}

/** @param {any} value @returns {value is PresenceFrame} */
function isPresenceFrame(value) {
  return typeof value?.presence === "string" && typeof value.version === "number";
}

/** The stream is null where the server could not read one. @param {any} value */
function isErrorFrame(value) {
  const addressed = value?.stream === null || typeof value?.stream === "string";
  return addressed && "error" in value && !("payload" in value);
}

/** @param {number} code @param {import("./triochan.d.ts").CloseCodes} codes */
function isListed(code, codes) {
  return codes.some((entry) => (typeof entry === "number" ? code === entry : entry[0] <= code && code <= entry[1]));
}

/** @param {any} value */
function encodeJson(value) {
  // JSON would make {} of most of these, and say nothing.
  if (isBinary(value) || isBinary(value?.payload)) {
    throw new TypeError("expected a value that JSON can hold, not bytes: encode, an option, may make bytes of values");
  }
  const text = JSON.stringify(value);
  if (text === undefined) throw new TypeError(`expected a value that JSON can hold, not ${typeof value}`);
  return text;
}

/** @param {string | ArrayBuffer} data */
function decodeJson(data) {
  if (typeof data !== "string") throw new TypeError("expected JSON in a text frame, got a binary frame");
  return JSON.parse(data);
}

/** @param {unknown} value */
function isBinary(value) {
  return value instanceof ArrayBuffer || ArrayBuffer.isView(value) || value instanceof Blob;
}

/**
 * A message that send() of the socket would refuse is refused before it stands in the outbox: there it would end
 * one connection after the other.
 * @param {unknown} data @param {string} expected @returns {WireData}
 */
function checkWireData(data, expected) {
  if (typeof data === "string" || (isBinary(data) && !isShared(data))) return /** @type {WireData} */ (data);
  const got = typeof data === "object" && data !== null && isShared(data) ? "shared memory" : typeof data;
  throw new TypeError(`expected ${expected} strings, ArrayBuffers, views of them or Blobs, not ${got}`);
}

/** @param {any} data */
function isShared(data) {
  return typeof SharedArrayBuffer === "function" && (data instanceof SharedArrayBuffer || data.buffer instanceof SharedArrayBuffer);
}

/** Bytes as they are now, for a message that has to wait. @param {WireData} data @returns {WireData} */
function copied(data) {
  if (data instanceof ArrayBuffer) return data.slice(0);
  return ArrayBuffer.isView(data) ? new Uint8Array(data.buffer, data.byteOffset, data.byteLength).slice() : data;
}

/** @param {unknown} headers @returns {Record<string, string> | undefined} */
function checkHeaders(headers) {
  if (headers === undefined || headers === null) return;
  if (typeof headers !== "object") throw new TypeError(`expected headers as an object of strings, not ${typeof headers}`);
  const pairs = Symbol.iterator in headers ? /** @type {Iterable<[any, any]>} */ (headers) : Object.entries(headers);
  /** @type {Map<string, string>} */ const checked = new Map();
  for (const [name, value] of pairs) {
    if (typeof value !== "string") throw new TypeError(`expected a string for the header ${name}, not ${typeof value}`);
    checked.set(String(name).toLowerCase(), value);
  }
  return Object.fromEntries(checked);
}

/** @param {unknown} url @param {string | undefined} base */
function resolve(url, base) {
  if (typeof url !== "string" && !(url instanceof URL)) throw new TypeError(`expected a URL, not ${said(url)}`);
  let resolved;
  try {
    resolved = new URL(url, base);
  } catch {
    throw new TypeError(`expected ${base ? "a URL" : "an absolute URL, as there is no page here"}, not ${JSON.stringify(url)}`);
  }
  resolved.protocol = resolved.protocol.replace("http", "ws");
  resolved.hash = ""; // WebSocket refuses one, and a base URL often has one
  return resolved.href;
}

/** @param {number} code @param {string} reason */
function checkClose(code, reason) {
  // The browser's own rule, applied also when there is no socket to apply it.
  if (code !== 1000 && !(code >= 3000 && code <= 4999)) {
    throw new RangeError(`expected the close code 1000 or one from 3000 to 4999, not ${code}`);
  }
  const { length } = new TextEncoder().encode(reason);
  if (length > MAX_REASON_BYTES) {
    throw new RangeError(`expected a close reason of at most ${MAX_REASON_BYTES} bytes, not ${length}`);
  }
}

/** @param {ClientOptions} options @returns {typeof DEFAULTS} */
function withDefaults(options) {
  /** @type {any} */
  const merged = { ...DEFAULTS };
  for (const [name, value] of Object.entries(options)) {
    if (!Object.hasOwn(DEFAULTS, name)) throw new TypeError(`unknown option ${name}; known: ${Object.keys(DEFAULTS).join(", ")}`);
    if (value === undefined) continue;
    if (typeof merged[name] === "number" && !(typeof value === "number" && value >= 0)) {
      throw new RangeError(`expected a number of at least 0 for the option ${name}, not ${value}`);
    }
    if ((typeof merged[name] === "function" || name === "beforeFlush") && typeof value !== "function") {
      throw new TypeError(`expected a function for the option ${name}, not ${typeof value}`);
    }
    merged[name] = value;
  }
  return merged;
}

/**
 * What a client takes from the place it runs in, read when a client is made: importing needs no browser.
 * Take each function out of here before calling it: a browser's timers refuse to be another object's methods.
 */
function browser() {
  const global = /** @type {any} */ (globalThis);
  return {
    WebSocket: global.WebSocket,
    setTimeout: global.setTimeout,
    clearTimeout: global.clearTimeout,
    now: Date.now, // not performance.now(): that one stands still while a laptop sleeps
    random: Math.random,
    window: typeof global.addEventListener === "function" ? global : undefined,
    document: global.document,
    baseURI: global.document?.baseURI ?? global.location?.href,
    reportError: global.reportError ?? ((/** @type {unknown} */ error) => queueMicrotask(() => { throw error; })),
  };
}
