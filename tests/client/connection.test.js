/** The life of a connection: connecting, losing it, coming back, staying away. */

import assert from "node:assert/strict";
import { getEventListeners } from "node:events";
import { describe, it } from "node:test";

import { ClientClosedError, DEFAULT_FINAL_CODES, TriochanClient } from "../../triochan/client/triochan.js";
import { FakeWebSocket, setup, setupOpen } from "./fakes.js";

describe("the URL", () => {
  /** @type {[url: string, expected: string][]} */
  const cases = [
    ["/ws/", "wss://example.org/ws/"],
    ["chat", "wss://example.org/room/chat"],
    ["?since=7", "wss://example.org/room/1?since=7"],
    ["//other.example/ws", "wss://other.example/ws"],
    ["http://localhost:8000/ws/#there", "ws://localhost:8000/ws/"],
    ["ws://localhost/ws/", "ws://localhost/ws/"],
    ["wss://localhost/ws/", "wss://localhost/ws/"],
  ];
  for (const [url, expected] of cases) {
    it(`${url} on the page https://example.org/room/1?tab=2#top is ${expected}`, (t) => {
      const { client, browser } = setup(t, { url });
      client.connect();
      assert.equal(browser.socket.url, expected);
    });
  }

  it("is ws:// on a page without TLS", (t) => {
    const { client, browser } = setup(t, { environment: { baseURI: "http://localhost:8000/" } });
    client.connect();
    assert.equal(browser.socket.url, "ws://localhost:8000/ws/");
  });

  it("is refused in the constructor when it is none", (t) => {
    assert.throws(() => setup(t, { environment: { baseURI: undefined } }), TypeError);
  });

  it("is asked for before every attempt when it is a function", (t) => {
    let calls = 0;
    const { client, browser } = setup(t, { url: () => `/ws/?call=${++calls}` });
    assert.equal(calls, 0);
    client.connect();
    browser.socket.end();
    browser.tick(1000);
    assert.deepEqual(browser.sockets.map(({ url }) => url.at(-1)), ["1", "2"]);
  });

  it("goes to the socket together with the subprotocols", (t) => {
    const { client, browser } = setup(t, { protocols: ["v2", "v1"] });
    client.connect();
    assert.deepEqual(browser.socket.protocols, ["v2", "v1"]);
  });
});

describe("connect()", () => {
  it("tells every step", (t) => {
    const { client, browser, events } = setup(t);
    assert.equal(client.state, "idle");
    client.connect();
    assert.equal(client.state, "connecting");
    browser.socket.open();
    assert.equal(client.state, "open");
    assert.deepEqual(events, [
      ["statechange", { state: "connecting", previous: "idle" }],
      ["open", { reconnected: false }],
      ["statechange", { state: "open", previous: "connecting" }],
    ]);
  });

  it("does nothing the second time, connecting or open", (t) => {
    const { client, browser } = setup(t);
    client.connect();
    client.connect();
    browser.socket.open();
    client.connect();
    assert.equal(browser.sockets.length, 1);
    assert.equal(getEventListeners(browser.window, "online").length, 1);
  });

  it("does not wait for the delay while waiting", (t) => {
    const { client, browser } = setup(t);
    client.connect();
    browser.socket.end();
    client.connect();
    assert.equal(browser.sockets.length, 2);
    assert.equal(browser.timers.size, 1, "the timer of the wait is gone; this one is the new attempt's");
  });

  it("gives up an attempt that takes too long, and tries again", (t) => {
    const { client, browser, details } = setup(t, { connectTimeout: 2000 });
    client.connect();
    const [hung] = browser.sockets;
    browser.tick(1999);
    assert.equal(client.state, "connecting");
    browser.tick(1);
    assert.equal(client.state, "waiting");
    assert.equal(details("close")[0].reason, "not connected after 2000 ms");
    assert.equal(hung?.closes.length, 1);
    browser.tick(1000);
    assert.equal(client.state, "connecting");
    assert.equal(browser.sockets.length, 2);
  });

  it("throws what the WebSocket's constructor throws, and is closed", (t) => {
    const { client, details } = setup(t, {
      environment: {
        WebSocket: /** @type {any} */ (class {
          constructor() {
            throw new SyntaxError("bad subprotocol");
          }
        }),
      },
    });
    assert.throws(() => client.connect(), /bad subprotocol/);
    assert.equal(client.state, "closed");
    assert.deepEqual(details("close").map(({ willReconnect }) => willReconnect), [false]);
  });

  it("listens to the page once, however often it is called", (t) => {
    const { client, browser } = setup(t);
    client.connect();
    browser.socket.end();
    client.connect();
    browser.socket.open();
    client.reconnect();
    for (const type of ["online", "offline", "pagehide", "pageshow"]) {
      assert.equal(getEventListeners(browser.window, type).length, 1);
    }
    assert.equal(getEventListeners(browser.document, "visibilitychange").length, 1);
  });

  it("begins again after close()", (t) => {
    const { client, browser, details } = setupOpen(t);
    client.close();
    browser.socket.end(1000);
    client.connect();
    browser.socket.open();
    assert.equal(client.state, "open");
    assert.deepEqual(details("open"), [{ reconnected: false }, { reconnected: false }]);
    browser.page("pagehide");
    assert.equal(client.state, "waiting", "the page is being listened to again");
  });

  it("does not wait for the goodbye of the connection before", (t) => {
    const { client, browser, details } = setupOpen(t);
    client.close();
    const old = browser.socket;
    client.connect();
    assert.equal(client.state, "connecting");
    assert.deepEqual(details("close").map(({ code, willReconnect }) => [code, willReconnect]), [[1006, false]]);
    browser.socket.open();
    old.end(1000);
    assert.equal(client.state, "open");
  });
});

describe("losing the connection", () => {
  it("tells of it, waits and comes back", (t) => {
    const { client, browser, events, details } = setupOpen(t);
    events.length = 0;
    browser.socket.end(1001, "going away");
    assert.equal(client.state, "waiting");
    assert.deepEqual(events, [
      ["close", { code: 1001, reason: "going away", wasClean: true, willReconnect: true, unsent: [] }],
      ["reconnecting", { attempt: 1, delay: 1000 }],
      ["statechange", { state: "waiting", previous: "open" }],
    ]);
    browser.tick(999);
    assert.equal(browser.sockets.length, 1);
    browser.tick(1);
    assert.equal(browser.sockets.length, 2);
    browser.socket.open();
    assert.deepEqual(details("open"), [{ reconnected: true }]);
  });

  it("doubles the longest wait up to the cap", (t) => {
    const { client, browser, details } = setup(t);
    client.connect();
    for (let i = 0; i < 7; i++) {
      browser.socket.end();
      browser.tick(30_000);
    }
    assert.deepEqual(details("reconnecting").map(({ delay }) => delay), [1000, 2000, 4000, 8000, 16000, 30000, 30000]);
    assert.deepEqual(details("reconnecting").map(({ attempt }) => attempt), [1, 2, 3, 4, 5, 6, 7]);
  });

  it("draws the wait from the whole range below", (t) => {
    const { client, browser, details } = setup(t, { backoffBase: 100, backoffCap: 250 });
    client.connect();
    for (const luck of [0, 0.25, 0.5]) {
      browser.luck = luck;
      browser.socket.end();
      browser.tick(250);
    }
    assert.deepEqual(details("reconnecting").map(({ delay }) => delay), [0, 50, 125]);
  });

  it("keeps the backoff when connections open and are dropped at once", (t) => {
    const { client, browser, details } = setup(t, { stableAfter: 5000 });
    client.connect();
    for (let i = 0; i < 4; i++) {
      browser.socket.open();
      browser.tick(i === 3 ? 5000 : 4999); // only the last one is stable
      browser.socket.end(1011);
      browser.tick(30_000);
    }
    assert.deepEqual(details("reconnecting").map(({ delay }) => delay), [1000, 2000, 4000, 1000]);
  });

  it("takes the stability of one connection for no other's", (t) => {
    const { client, browser, details } = setupOpen(t);
    browser.pass(3_600_000);
    browser.socket.end();
    for (let i = 0; i < 2; i++) {
      browser.tick(30_000);
      browser.socket.end();
    }
    assert.equal(client.state, "waiting");
    assert.deepEqual(details("reconnecting").map(({ delay }) => delay), [1000, 2000, 4000]);
  });

  it("starts the backoff afresh in a client that was closed and connected again", (t) => {
    const { client, browser, details } = setup(t);
    for (let i = 0; i < 2; i++) {
      client.connect();
      browser.socket.end();
      client.close();
    }
    assert.deepEqual(details("reconnecting").map(({ attempt }) => attempt), [1, 1]);
  });

  it("is not confused by what the lost socket does later", (t) => {
    const { client, browser, events } = setup(t, { connectTimeout: 10 });
    client.connect();
    const hung = browser.socket;
    client.listen((value) => events.push(["message", value]));
    browser.tick(10);
    events.length = 0;
    hung.open();
    assert.equal(hung.closes.length, 2, "a socket that nobody owns is closed");
    hung.receive({});
    hung.end();
    assert.deepEqual(events, []);
    assert.equal(client.state, "waiting");
  });
});

describe("close codes", () => {
  const final = [1000, 1002, 1003, 1007, 1008, 1009, 1010, 3000, 3003, 4000, 4099, 4400, 4401, 4403, 4404, 4499];
  const passing = [1001, 1005, 1006, 1011, 1012, 1013, 1014, 3008, 4100, 4399, 4408, 4429, 4500, 4503];

  for (const code of final) {
    it(`${code} is final`, (t) => {
      const { client, browser, details } = setupOpen(t);
      browser.socket.end(code, "why");
      assert.equal(client.state, "closed");
      const unsent = /** @type {unknown[]} */ ([]);
      assert.deepEqual(details("close"), [{ code, reason: "why", wasClean: true, willReconnect: false, unsent }]);
      assert.deepEqual(details("reconnecting"), []);
      browser.page("online");
      browser.tick(3_600_000);
      assert.equal(browser.sockets.length, 1);
      assert.throws(() => client.send({}), (error) => error instanceof ClientClosedError && error.code === code);
    });
  }
  for (const code of passing) {
    it(`${code} is not`, (t) => {
      const { client, browser } = setupOpen(t);
      browser.socket.end(code);
      browser.tick(1000);
      assert.equal(client.state, "connecting");
    });
  }

  it("are the application's to choose", (t) => {
    const { client, browser } = setupOpen(t, { finalCodes: [...DEFAULT_FINAL_CODES, 1011, [4100, 4110]] });
    for (const code of [1011, 4105, 4403]) {
      browser.socket.end(code);
      assert.equal(client.state, "closed", String(code));
      client.connect();
      browser.socket.open();
    }
    browser.socket.end(4111);
    assert.equal(client.state, "waiting");
  });
});

describe("close()", () => {
  it("says goodbye, waits for the answer, and lets go of everything", (t) => {
    const { client, browser, events } = setupOpen(t);
    events.length = 0;
    client.close(4001, "done");
    assert.equal(client.state, "closing");
    assert.deepEqual(browser.socket.closes, [[4001, "done"]]);
    for (const type of ["online", "offline", "pagehide", "pageshow"]) {
      assert.equal(getEventListeners(browser.window, type).length, 0);
    }
    assert.equal(getEventListeners(browser.document, "visibilitychange").length, 0);
    browser.socket.end(4001, "done");
    assert.equal(browser.timers.size, 0);
    const { onmessage, onclose } = browser.socket;
    assert.deepEqual({ onmessage, onclose }, { onmessage: null, onclose: null });
    assert.deepEqual(events, [
      ["statechange", { state: "closing", previous: "open" }],
      ["close", { code: 4001, reason: "done", wasClean: true, willReconnect: false, unsent: [] }],
      ["statechange", { state: "closed", previous: "closing" }],
    ]);
  });

  it("does not wait for ever for the answer", (t) => {
    const { client, browser, details } = setupOpen(t, { closeTimeout: 3000 });
    client.close();
    browser.tick(2999);
    assert.equal(client.state, "closing");
    browser.tick(1);
    assert.equal(client.state, "closed");
    assert.equal(details("close")[0].code, 1006);
    browser.socket.end();
    assert.equal(details("close").length, 1);
  });

  it("does nothing the second time", (t) => {
    const { client, browser, details } = setupOpen(t);
    client.close();
    client.close();
    browser.socket.end(1000);
    client.close();
    assert.equal(browser.socket.closes.length, 1);
    assert.equal(details("close").length, 1);
  });

  it("never comes back, whatever the code of the answer", (t) => {
    const { client, browser } = setupOpen(t);
    client.close();
    browser.socket.end(1011);
    assert.equal(client.state, "closed");
    assert.equal(browser.timers.size, 0);
  });

  it("ends an attempt, and a socket that opens afterwards is closed", (t) => {
    const { client, browser, details } = setup(t);
    client.connect();
    client.close();
    assert.equal(client.state, "closed");
    assert.equal(browser.socket.closes.length, 1);
    browser.socket.open();
    assert.equal(browser.socket.closes.length, 2);
    assert.equal(client.state, "closed");
    assert.deepEqual(details("open"), []);
    assert.equal(browser.timers.size, 0);
  });

  it("ends the waiting", (t) => {
    const { client, browser, details } = setup(t);
    client.connect();
    browser.socket.end();
    client.close();
    assert.equal(browser.timers.size, 0);
    assert.deepEqual(details("close").map(({ willReconnect }) => willReconnect), [true, false]);
  });

  it("works on a client that never connected", (t) => {
    const { client } = setup(t);
    client.close();
    assert.equal(client.state, "closed");
  });

  it("refuses what a browser refuses, in every state", (t) => {
    const { client } = setup(t);
    for (const code of [0, 999, 1001, 1006, 2999, 5000, NaN]) assert.throws(() => client.close(code), RangeError);
    assert.throws(() => client.close(1000, "ä".repeat(62)), /123 bytes, not 124/);
    assert.equal(client.state, "idle");
    client.close(1000, "a".repeat(123));
    assert.equal(client.state, "closed");
  });
});

describe("reconnect()", () => {
  it("replaces an open connection at once", (t) => {
    const { client, browser, details } = setupOpen(t);
    client.reconnect();
    assert.equal(client.state, "connecting");
    assert.deepEqual(browser.sockets[0]?.closes, [[1000, "reconnect"]]);
    browser.sockets[0]?.end(1000);
    browser.socket.open();
    assert.deepEqual(details("open"), [{ reconnected: false }, { reconnected: true }]);
    assert.deepEqual(details("close").map(({ willReconnect }) => willReconnect), [true]);
  });

  it("gives way to a listener that closes the client", (t) => {
    const { client, browser } = setupOpen(t);
    client.addEventListener("close", () => client.close(), { once: true });
    client.reconnect();
    assert.equal(client.state, "closed");
    assert.equal(browser.sockets.length, 1);
  });

  it("is connect() where there is no connection", (t) => {
    const { client, browser } = setup(t);
    client.reconnect();
    assert.equal(client.state, "connecting");
    browser.socket.end();
    client.reconnect();
    assert.equal(browser.sockets.length, 2);
    client.close();
    client.reconnect();
    assert.equal(browser.sockets.length, 3);
  });
});

describe("opened()", () => {
  /** @param {TriochanClient} client */
  const listeners = (client) => ["open", "statechange"].map((type) => getEventListeners(client, type).length);

  it("resolves now or later, and leaves no listener behind", async (t) => {
    const { client, browser } = setup(t);
    const before = listeners(client);
    const later = client.opened();
    client.connect();
    browser.socket.end();
    browser.tick(1000);
    browser.socket.open();
    await later;
    await client.opened();
    assert.deepEqual(listeners(client), before);
  });

  it("rejects when the client is closed, or closes", async (t) => {
    const { client, browser } = setup(t);
    const before = listeners(client);
    const later = client.opened();
    client.connect();
    browser.socket.end(4403, "not you");
    const expected = { name: "ClientClosedError", code: 4403, reason: "not you" };
    await assert.rejects(later, expected);
    await assert.rejects(client.opened(), expected);
    assert.deepEqual(listeners(client), before);
  });

  it("can be given up", async (t) => {
    const { client } = setup(t);
    const before = listeners(client);
    const controller = new AbortController();
    const later = client.opened({ signal: controller.signal });
    controller.abort(new Error("enough"));
    await assert.rejects(later, /enough/);
    await assert.rejects(client.opened({ signal: controller.signal }), /enough/);
    assert.deepEqual(listeners(client), before);
  });
});

describe("options", () => {
  it("signal: closes the client, and keeps it closed", (t) => {
    const controller = new AbortController();
    const { client, browser } = setupOpen(t, { signal: controller.signal });
    controller.abort();
    assert.equal(client.state, "closing");
    browser.socket.end(1000);
    assert.throws(() => client.connect(), { name: "AbortError" });
    assert.equal(getEventListeners(controller.signal, "abort").length, 0);
  });

  it("signal: keeps nothing of a client that was closed otherwise", (t) => {
    const controller = new AbortController();
    const { client } = setup(t, { signal: controller.signal });
    client.connect();
    client.close();
    assert.equal(getEventListeners(controller.signal, "abort").length, 0);
  });

  it("are checked", () => {
    const environment = { baseURI: "http://localhost/" };
    const make = (/** @type {any} */ options) => () => new TriochanClient("/ws/", { environment, ...options });
    assert.throws(make({ backofBase: 1 }), /unknown option backofBase; known: .*backoffBase/);
    assert.throws(make({ outboxLimit: -1 }), RangeError);
    assert.throws(make({ outboxLimit: NaN }), RangeError);
    assert.throws(make({ outboxLimit: "many" }), RangeError);
    assert.doesNotThrow(make({ outboxLimit: undefined }));
  });
});

describe("events", () => {
  it("reach every listener in the order of what happened, also when a listener acts", (t) => {
    const { client, browser, events } = setup(t);
    client.addEventListener("open", () => client.close(), { once: true });
    client.addEventListener("open", () => events.push(["second listener", client.state]));
    client.connect();
    events.length = 0;
    browser.socket.open();
    assert.deepEqual(events.map(([type, detail]) => [type, detail.state ?? detail]), [
      ["open", { reconnected: false }],
      ["second listener", "closing"],
      ["statechange", "open"],
      ["statechange", "closing"],
    ]);
  });

  it("let a listener of the last close connect anew", (t) => {
    const { client, browser } = setupOpen(t);
    client.addEventListener("close", (event) => {
      if (!event.detail.willReconnect) client.connect();
    });
    browser.socket.end(1000);
    assert.equal(client.state, "connecting");
    assert.equal(browser.sockets.length, 2);
    assert.equal(getEventListeners(browser.window, "online").length, 1);
    assert.equal(browser.timers.size, 1);
    client.close(); // and once more, from inside close()
    assert.equal(client.state, "connecting");
    assert.equal(browser.sockets.length, 3);
  });

  it("let a listener connect while connect() cuts a goodbye short", (t) => {
    const { client, browser } = setupOpen(t);
    client.addEventListener("close", () => client.connect(), { once: true });
    client.close();
    client.connect();
    assert.equal(client.state, "connecting");
    assert.equal(browser.sockets.length, 2);
    assert.equal(getEventListeners(browser.window, "online").length, 1);
  });
});

it("is made without a browser, and says so only when it connects", () => {
  const client = new TriochanClient("ws://localhost/", { environment: { WebSocket: /** @type {any} */ (undefined) } });
  assert.throws(() => client.connect(), TypeError);
});

it("works with the timers of the place it runs in", (t) => {
  t.mock.timers.enable({ apis: ["setTimeout", "Date"] });
  /** @type {FakeWebSocket[]} */ const sockets = [];
  const WebSocket = /** @type {any} */ (class extends FakeWebSocket {
    /** @param {string} url */
    constructor(url) {
      super(url);
      sockets.push(this);
    }
  });
  const client = new TriochanClient("ws://localhost/", { environment: { WebSocket } });
  client.connect();
  sockets[0]?.end();
  t.mock.timers.tick(1000);
  assert.equal(sockets.length, 2);
  client.close();
});
