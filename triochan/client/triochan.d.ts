/**
 * The browser's end of a triochan server: JSON over one WebSocket that comes back by itself.
 *
 * ```js
 * import { TriochanClient } from "/triochan/client.js";
 *
 * const client = new TriochanClient("/ws/");
 * client.demultiplex("chat", (payload) => console.log(payload));
 * client.connect();
 * client.stream("chat").send({ text: "hello" });
 * ```
 */

/**
 * - `idle`: made, and not connected yet. What is sent waits in the outbox.
 * - `connecting`: an attempt is under way, until `beforeFlush` is through.
 * - `open`: connected.
 * - `waiting`: the connection was lost, or an attempt failed; the client comes back by itself.
 * - `closing`: `close()` was called and the server's answer has not come yet.
 * - `closed`: over, until `connect()` is called. `send()` throws.
 */
export type State = "idle" | "connecting" | "open" | "waiting" | "closing" | "closed";

/** What travels in one WebSocket message. */
export type WireData = string | ArrayBuffer | ArrayBufferView | Blob;

/** What an attempt is given that asks for something. */
export interface Attempt {
  /** Aborted when the attempt is over, be it that the client is open: for `fetch`, and for `listen()`. */
  readonly signal: AbortSignal;
}

/**
 * Asked anew at every attempt. One that throws, rejects, or gives what cannot be used is an `error` event, and the
 * attempt has failed: the next one follows after the usual wait. One that never settles ends with `connectTimeout`.
 */
export type Ask<T> = (attempt: Attempt) => T | PromiseLike<T>;

/** What `beforeFlush` is given: a connection that is open and has not been sent the outbox yet. */
export interface Flush extends Attempt {
  /** The encoded messages that wait, oldest first; not those that are sent from now on. */
  readonly outbox: readonly WireData[];
  /** Whether this is a return. */
  readonly reconnected: boolean;
  /**
   * Send ahead of the outbox. On a connection that is closing it does nothing: its `close` is on the way.
   *
   * @throws {Error} The attempt is over.
   */
  send(value: unknown): void;
}

/** Close codes: single ones, and ranges of which both ends belong to it. */
export type CloseCodes = ReadonlyArray<number | readonly [first: number, last: number]>;

/**
 * The close codes after which a client stays away unless `finalCodes` says otherwise: 1000, 1002, 1003,
 * 1007–1010, 3000, 3003, 4000–4099, and 4400–4499 without 4408 and 4429. After any other it comes back.
 */
export const DEFAULT_FINAL_CODES: CloseCodes;

/** Every time is in milliseconds. An unknown name is a `TypeError`, a number below 0 a `RangeError`. */
export interface ClientOptions {
  /** The subprotocols to offer, as for `WebSocket`; or a function, asked at every attempt. Default: none. */
  protocols?: string | string[] | Ask<string | string[] | undefined>;
  /**
   * What the first message of every connection says, `{"headers": {…}}`, with the names in lower case; or a function,
   * asked at every attempt. The server's end is a `HeadersFirst` consumer. Default: there is no such message.
   */
  headers?: Readonly<Record<string, string>> | Ask<Readonly<Record<string, string>> | undefined>;
  /**
   * Called on every connection, after `headers` and before the outbox leaves: to join a room first, to drop what is out
   * of date. It may be async; meanwhile messages are received, and the client is `connecting`, for `connectTimeout`
   * at most. What it returns takes the place of `outbox`; without a value that stays as it is. If it throws or
   * rejects, that is an `error` event, the connection is dropped, and the next attempt follows after the usual wait.
   */
  beforeFlush?: (flush: Flush) => void | readonly WireData[] | PromiseLike<void | readonly WireData[]>;
  /** Aborting it closes the client as `close()` does; `connect()` then throws its reason. */
  signal?: AbortSignal;

  /** How many messages may wait to be sent before `send()` throws `OutboxFullError`. Default: 256. */
  outboxLimit?: number;
  /** With more bytes than this in the WebSocket's own buffer, messages wait in the outbox. Default: 1 MiB. */
  highWater?: number;

  /** The longest possible wait before the first attempt to come back; it doubles with each failure. Default: 1000. */
  backoffBase?: number;
  /** The longest possible wait before any attempt. Default: 30 000. */
  backoffCap?: number;
  /** A connection that lasted this long starts the backoff afresh when it is lost. Default: 5000. */
  stableAfter?: number;
  /** An attempt that takes longer, with all that it asks for and `beforeFlush`, has failed. Default: 15 000. */
  connectTimeout?: number;
  /** How long `close()` waits for the server's answer. Default: 5000. */
  closeTimeout?: number;
  /**
   * When the network returns after this long, or the machine wakes, an open connection is replaced: the server, whose
   * pings went unanswered, has given it up. More than the server's `ping_interval` and `ping_timeout` together.
   * Default: 45 000.
   */
  staleAfter?: number;
  /** The close codes after which the client stays away. Default: `DEFAULT_FINAL_CODES`. */
  finalCodes?: CloseCodes;

  /** Makes a message of a value. Default: `JSON.stringify`, with a `TypeError` for what JSON cannot hold. */
  encode?: (value: unknown) => WireData;
  /** Makes a value of a message. Default: `JSON.parse`, with a `TypeError` for a binary message. */
  decode?: (data: string | ArrayBuffer) => unknown;

  /** Stand-ins for what the client takes from the browser, for tests and for places that are no browser. */
  environment?: Partial<Environment>;
}

export interface Environment {
  WebSocket: new (url: string, protocols?: string | string[]) => WebSocket;
  setTimeout: (fn: () => void, delay: number) => unknown;
  clearTimeout: (timer: any) => void;
  /** Milliseconds since any fixed moment; it must not stop while the machine sleeps. */
  now: () => number;
  /** A number from 0 up to, but not including, 1. */
  random: () => number;
  /** Fires `online`, `offline`, `pagehide` and `pageshow`. */
  window: EventTarget | undefined;
  /** Fires `visibilitychange`. */
  document: (EventTarget & { readonly visibilityState: string }) | undefined;
  /** What a relative URL is relative to. */
  baseURI: string | undefined;
  /** Takes what a listener of messages threw. */
  reportError: (error: unknown) => void;
}

export interface ListenOptions {
  /** Aborting it ends the listening. */
  signal?: AbortSignal;
}

export interface StreamListenOptions extends ListenOptions {
  /** Called with the errors that the server answers on this stream. */
  onerror?: (error: StreamError) => void;
}

/** One stream of a multiplexed connection: the client with the name of the stream filled in. */
export interface Stream {
  readonly name: string;
  /** `client.send({ stream: name, payload })`. */
  send(payload: unknown): boolean;
  /** `client.demultiplex(name, fn, options)`. */
  listen<T = any>(fn: (payload: T, stream: string) => void, options?: StreamListenOptions): () => void;
}

/** The events of a client, each a `CustomEvent` with this `detail`. */
export interface ClientEventMap {
  /** The connection is open, and what had waited in the outbox has been handed to it. */
  open: CustomEvent<{
    /** Whether this is a return. What happened in between was missed: ask the server for it. */
    reconnected: boolean;
  }>;
  /** A connection ended or an attempt failed; or, with `willReconnect` false, the client gave up or was closed. */
  close: CustomEvent<{
    code: number;
    reason: string;
    wasClean: boolean;
    /** False in the last `close` before the client needs another `connect()`. */
    willReconnect: boolean;
    /** With `willReconnect` false: the encoded messages that were never sent. The client forgets them. */
    unsent: readonly WireData[];
  }>;
  /** The client waits before it tries again. Follows `close`. */
  reconnecting: CustomEvent<{
    /** 1 for the first attempt since the last stable connection. */
    attempt: number;
    /** Milliseconds until then, unless the page or the network returns earlier. */
    delay: number;
  }>;
  statechange: CustomEvent<{ state: State; previous: State }>;
  /** `beforeFlush` left messages out that had waited; what it altered counts as left out. Before `open`. */
  dropped: CustomEvent<{ messages: readonly WireData[] }>;
  /**
   * A message could not be decoded, or the server answered an error on a stream that has no `onerror`
   * (a `StreamError`): the connection stays. Or a function of yours (the URL's, `protocols`, `headers`, `beforeFlush`)
   * failed, or the `WebSocket` could not be made: a `close` follows. A lost connection is a `close` alone.
   */
  error: CustomEvent<{ error: unknown }>;
}

/** Thrown by `send()`: the message was not taken, and nothing that had been taken is lost. Or `beforeFlush` gave too many. */
export class OutboxFullError extends Error {
  constructor(limit: number);
  readonly limit: number;
}

/** Thrown by `send()`, and what `opened()` rejects with, when the client is closed. */
export class ClientClosedError extends Error {
  constructor(code: number, reason: string);
  /** What the client was closed with. */
  readonly code: number;
  readonly reason: string;
}

/** A frame `{"stream": …, "error": …}` from the server. */
export class StreamError extends Error {
  constructor(frame: { stream: string | null; error: unknown });
  /** Null when the server could not tell which stream the bad frame was for. */
  readonly stream: string | null;
  /** What the server said: a sentence in most cases. */
  readonly error: unknown;
  /** The frame as it came, with everything else the server put into it. */
  readonly frame: { stream: string | null; error: unknown };
}

/** What the server tells of one presence, and its ref, which tells it apart from others of the same key. */
export type PresenceMeta<M = Record<string, any>> = M & { readonly ref: string };

/** The events of a presence. Who stays over a reconnect is told neither as gone nor as come. */
export interface PresenceEventMap<M = Record<string, any>> {
  /** Somebody has come: one event for each tab. */
  join: CustomEvent<{
    key: string;
    meta: PresenceMeta<M>;
    /** Nobody was there with this key. */
    first: boolean;
  }>;
  /** Somebody has gone. */
  leave: CustomEvent<{
    key: string;
    meta: PresenceMeta<M>;
    /** Nobody is there with this key any more. */
    last: boolean;
  }>;
  /** Something else is told of somebody who is there. */
  update: CustomEvent<{ key: string; meta: PresenceMeta<M>; previous: PresenceMeta<M> }>;
  /** `list()` has changed, or has come: after the events that say how. */
  sync: Event;
}

/** Who is in a topic. `client.presence(topic)` makes one. */
export class Presence<M = Record<string, any>> extends EventTarget {
  private constructor();
  readonly topic: string;
  /**
   * `list()` is what the server has. False before the first list, while there is no connection, and where a message was
   * missed: then the list comes again, or, if it has not within 20 seconds, the client makes a new connection.
   */
  readonly synced: boolean;
  /** Of each key, in the order in which they came, what is told of those who are present with it. Yours to change. */
  list(): Record<string, PresenceMeta<M>[]>;
  /** Take no more of the topic's frames, which then go to `listen()`. The server is told nothing. */
  stop(): void;

  addEventListener<K extends keyof PresenceEventMap<M>>(
    type: K,
    listener: ((event: PresenceEventMap<M>[K]) => void) | { handleEvent(event: PresenceEventMap<M>[K]): void } | null,
    options?: boolean | AddEventListenerOptions,
  ): void;
  addEventListener(
    type: string,
    listener: EventListenerOrEventListenerObject | null,
    options?: boolean | AddEventListenerOptions,
  ): void;
  removeEventListener<K extends keyof PresenceEventMap<M>>(
    type: K,
    listener: ((event: PresenceEventMap<M>[K]) => void) | { handleEvent(event: PresenceEventMap<M>[K]): void } | null,
    options?: boolean | EventListenerOptions,
  ): void;
  removeEventListener(
    type: string,
    listener: EventListenerOrEventListenerObject | null,
    options?: boolean | EventListenerOptions,
  ): void;
}

export class TriochanClient extends EventTarget {
  /**
   * A client for one URL. It does nothing before `connect()`.
   *
   * @param url Relative to the page, or absolute; `http` and `https` become `ws` and `wss`. A function is
   *   asked at every attempt, for a URL that changes, such as one with a token in it.
   */
  constructor(url: string | URL | Ask<string | URL>, options?: ClientOptions);

  readonly state: State;
  /** How many messages wait in the outbox. */
  readonly queued: number;

  /**
   * Connect, and stay connected. While `connecting` or `open` it does nothing; while `waiting` it tries at
   * once; while `closing` or `closed` it begins again, with an empty outbox.
   *
   * @throws What the constructor of the `WebSocket` throws, where no function could give it something better at the
   *   next attempt: the client is closed. Or the reason of an aborted `signal`.
   */
  connect(): void;

  /**
   * Drop the present connection, if there is one, and make a new one now: after a login, which the server sees
   * only in a new handshake, or when the application knows that the connection is dead. The outbox is kept.
   */
  reconnect(): void;

  /**
   * Close for good. What waits in the outbox of an open connection is sent before; otherwise the last `close`
   * event has it as `unsent`. No listener hears of messages after this. Doing it twice does nothing more.
   *
   * @param code 1000, or one from 3000 to 4999; any other is a `RangeError`.
   * @param reason At most 123 bytes in UTF-8; a longer one is a `RangeError`.
   */
  close(code?: number, reason?: string): void;

  /**
   * Resolves when the client is open, at once if it is. Rejects with `ClientClosedError` when the client is or becomes
   * closed, and with the signal's reason when that aborts. It does not connect.
   */
  opened(options?: { signal?: AbortSignal }): Promise<void>;

  /**
   * Send a value, or keep it in the outbox until the connection is open. Order is kept. A message is sent at most
   * once: one that was handed to a connection that then died may be lost.
   *
   * @returns Whether the message has been handed to the connection; false while it waits in the outbox.
   * @throws {TypeError} The value cannot be encoded.
   * @throws {OutboxFullError} `outboxLimit` messages wait already. This one was not taken.
   * @throws {ClientClosedError} The client is `closing` or `closed`.
   */
  send(value: unknown): boolean;

  /** A stream, to send to and to listen to. Costs nothing and needs no closing. */
  stream(name: string): Stream;

  /**
   * Call `fn` with every message that no `demultiplex()` listener takes.
   *
   * @returns A function that ends the listening. Closing the client does not.
   */
  listen<T = any>(fn: (value: T) => void, options?: ListenOptions): () => void;

  /**
   * Call `fn` with the payload of every frame `{"stream": stream, "payload": …}`, and `options.onerror` with every
   * frame `{"stream": stream, "error": …}`.
   *
   * @returns A function that ends the listening. Closing the client does not.
   */
  demultiplex<T = any>(
    stream: string,
    fn: (payload: T, stream: string) => void,
    options?: StreamListenOptions,
  ): () => void;

  /**
   * Who is in a topic that the server's consumer has this connection in (`self.track(topic, …)`): the same object each
   * time, until it is stopped. Ask before `connect()`: what comes earlier goes to `listen()`.
   */
  presence<M = Record<string, any>>(topic: string): Presence<M>;

  addEventListener<K extends keyof ClientEventMap>(
    type: K,
    listener: ((event: ClientEventMap[K]) => void) | { handleEvent(event: ClientEventMap[K]): void } | null,
    options?: boolean | AddEventListenerOptions,
  ): void;
  addEventListener(
    type: string,
    listener: EventListenerOrEventListenerObject | null,
    options?: boolean | AddEventListenerOptions,
  ): void;
  removeEventListener<K extends keyof ClientEventMap>(
    type: K,
    listener: ((event: ClientEventMap[K]) => void) | { handleEvent(event: ClientEventMap[K]): void } | null,
    options?: boolean | EventListenerOptions,
  ): void;
  removeEventListener(
    type: string,
    listener: EventListenerOrEventListenerObject | null,
    options?: boolean | EventListenerOptions,
  ): void;
}
