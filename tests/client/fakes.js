/** A browser made of stand-ins, in which nothing happens that a test did not ask for. */

import { TriochanClient } from "../../triochan/client/triochan.js";

/** @typedef {import("../../triochan/client/triochan.js").ClientOptions} ClientOptions */

export class FakeWebSocket {
  readyState = 0;
  bufferedAmount = 0;
  binaryType = "blob";
  /** @type {(() => void) | null} */ onopen = null;
  /** @type {((event: {data: unknown}) => void) | null} */ onmessage = null;
  /** @type {((event: {code: number, reason: string, wasClean: boolean}) => void) | null} */ onclose = null;
  /** @type {(() => void) | null} */ onerror = null;

  /** What was sent, decoded. @type {any[]} */ sent = [];
  /** The calls of close(). @type {[code: number | undefined, reason: string | undefined][]} */ closes = [];
  /** Raised by the next send(). @type {Error | undefined} */ failure;

  /** @param {string} url @param {string | string[]} [protocols] */
  constructor(url, protocols) {
    this.url = url;
    this.protocols = protocols;
  }

  /** @param {string} data */
  send(data) {
    if (this.readyState === 0) throw new Error("InvalidStateError");
    if (this.failure) throw this.failure;
    if (this.readyState === 1) this.sent.push(JSON.parse(data)); // else dropped in silence, as browsers do
  }

  /** @param {number} [code] @param {string} [reason] */
  close(code, reason) {
    this.closes.push([code, reason]);
    if (this.readyState < 2) this.readyState = 2;
  }

  // What a test makes the network do.

  open() {
    this.readyState = 1;
    this.onopen?.();
  }

  /** @param {unknown} value */
  receive(value) {
    this.onmessage?.({ data: JSON.stringify(value) });
  }

  /** @param {number} [code] @param {string} [reason] @param {boolean} [wasClean] */
  end(code = 1006, reason = "", wasClean = code !== 1006) {
    this.readyState = 3;
    if (!this.onerror) throw new Error("unhandled error event"); // what WebSocket packages for Node do
    this.onerror();
    this.onclose?.({ code, reason, wasClean });
  }
}

/**
 * @param {import("node:test").TestContext} t
 * @param {{url?: string | URL | import("../../triochan/client/triochan.js").Ask<string | URL>} & ClientOptions} [options]
 */
export function setup(t, { url = "/ws/", environment, ...options } = {}) {
  t.mock.timers.enable({ apis: ["setTimeout", "Date"] });

  /** @type {FakeWebSocket[]} */ const sockets = [];
  /** @type {Set<unknown>} */ const timers = new Set();
  /** @type {Set<unknown>} */ const clocks = new Set();
  /** @type {unknown[]} */ const reported = [];
  const window = new EventTarget();
  const document = Object.assign(new EventTarget(), { visibilityState: "visible" });

  const browser = {
    sockets,
    /** Those of the client's states; the look at the clock is apart. */
    timers,
    clocks,
    reported,
    window,
    document,
    /** What random() gives: at 1 a wait is as long as it can be. */
    luck: 1,
    /** The latest socket. */
    get socket() {
      return /** @type {FakeWebSocket} */ (sockets.at(-1));
    },
    /** The time jumps, and what was due meanwhile is late, as where a machine slept. @param {number} ms */
    tick: (ms) => t.mock.timers.tick(ms),
    /** The time goes by second after second. @param {number} ms */
    pass: (ms) => {
      for (; ms > 0; ms -= 1000) t.mock.timers.tick(Math.min(ms, 1000));
    },
    /** @param {"online" | "offline" | "pagehide" | "pageshow"} type */
    page: (type) => void window.dispatchEvent(new Event(type)),
    /** @param {"visible" | "hidden"} visibility */
    show: (visibility) => {
      document.visibilityState = visibility;
      document.dispatchEvent(new Event("visibilitychange"));
    },
  };

  const client = new TriochanClient(url, {
    ...options,
    environment: {
      WebSocket: /** @type {any} */ (
        class extends FakeWebSocket {
          /** @param {string} url @param {string | string[]} [protocols] */
          constructor(url, protocols) {
            super(url, protocols);
            sockets.push(this);
          }
        }
      ),
      setTimeout: (fn, delay) => {
        const kind = delay === 10_000 ? clocks : timers;
        const timer = setTimeout(() => (kind.delete(timer), fn()), delay);
        kind.add(timer);
        return timer;
      },
      clearTimeout: (timer) => (timers.delete(timer), clocks.delete(timer), clearTimeout(timer)),
      random: () => browser.luck,
      window,
      document,
      baseURI: "https://example.org/room/1?tab=2#top",
      reportError: (error) => void reported.push(error),
      ...environment,
    },
  });

  /** Everything the client told, as [type, detail]. @type {[string, any][]} */
  const events = [];
  for (const type of ["open", "close", "reconnecting", "statechange", "error"]) {
    client.addEventListener(type, (event) => events.push([type, /** @type {CustomEvent} */ (event).detail]));
  }
  /** @param {string} type */
  const details = (type) => events.filter(([name]) => name === type).map(([, detail]) => detail);

  return { client, browser, events, details };
}

/** @param {import("node:test").TestContext} t @param {ClientOptions} [options] */
export function setupOpen(t, options) {
  const all = setup(t, options);
  all.client.connect();
  all.browser.socket.open();
  return all;
}
