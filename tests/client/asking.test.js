/** URL, subprotocols and headers that are asked for at every attempt, such as fresh tokens. */

import assert from "node:assert/strict";
import { describe, it } from "node:test";

import { TriochanClient } from "../../triochan/client/triochan.js";
import { FakeWebSocket, setup, setupOpen } from "./fakes.js";

/** Everything that waits for a promise has run. */
const settled = () => new Promise((resolve) => setImmediate(resolve));

/** A function whose promises are settled by hand. */
function byHand() {
  /** @type {{resolve: (value: any) => void, reject: (error: unknown) => void, signal: AbortSignal}[]} */
  const calls = [];
  const ask = (/** @type {{signal: AbortSignal}} */ { signal }) =>
    new Promise((resolve, reject) => void calls.push({ resolve, reject, signal }));
  return Object.assign(ask, { calls });
}

/** How each of the three is asked for, and where what it gave is seen. */
const places = {
  url: (/** @type {any} */ ask) => ({ url: ask }),
  protocols: (/** @type {any} */ ask) => ({ protocols: ask }),
  headers: (/** @type {any} */ ask) => ({ headers: ask }),
};

/** @type {Record<keyof typeof places, any>} */
const good = { url: "/ws/", protocols: "v1", headers: { token: "t" } };

describe("what is asked for", () => {
  it("is asked for at every attempt, and goes where it belongs", async (t) => {
    let n = 0;
    const { client, browser } = setup(t, {
      url: async () => `/ws/?${n}`,
      protocols: () => [`v${n}`],
      headers: async () => ({ Authorization: `Bearer ${n}` }),
    });
    client.connect();
    assert.equal(client.state, "connecting");
    assert.equal(browser.sockets.length, 0);
    await settled();
    browser.socket.open();
    n = 1;
    browser.socket.end();
    browser.tick(1000);
    await settled();
    browser.socket.open();
    const seen = browser.sockets.map(({ url, protocols, sent }) => [url, protocols, sent]);
    assert.deepEqual(seen, [
      ["wss://example.org/ws/?0", ["v0"], [{ headers: { authorization: "Bearer 0" } }]],
      ["wss://example.org/ws/?1", ["v1"], [{ headers: { authorization: "Bearer 1" } }]],
    ]);
  });

  it("makes the socket at once where nothing has to be waited for", (t) => {
    const { client, browser } = setup(t, { url: () => "/ws/", protocols: () => "v1", headers: () => undefined });
    client.connect();
    assert.equal(browser.sockets.length, 1);
    browser.socket.open();
    assert.deepEqual(browser.socket.sent, [], "no headers, no message");
  });

  it("may be a thenable, null, or a Headers object", async (t) => {
    const thenable = { then: (/** @type {(value: any) => void} */ resolve) => resolve(new Headers({ A: "1", a: "2" })) };
    const { client, browser } = setup(t, { protocols: () => /** @type {any} */ (null), headers: () => /** @type {any} */ (thenable) });
    client.connect();
    await settled();
    browser.socket.open();
    assert.equal(browser.socket.protocols, undefined);
    assert.deepEqual(browser.socket.sent, [{ headers: { a: "1, 2" } }]);
  });

  it("is asked for all at once", async (t) => {
    const [url, protocols, headers] = [byHand(), byHand(), byHand()];
    const { client } = setup(t, { url, protocols, headers });
    client.connect();
    assert.deepEqual([url, protocols, headers].map(({ calls }) => calls.length), [1, 1, 1]);
    client.close();
  });
});

for (const place of /** @type {(keyof typeof places)[]} */ (Object.keys(places))) {
  describe(`${place}() that`, () => {
    const bad = { url: null, protocols: undefined, headers: { token: undefined } }[place];
    /** @type {[string, () => any, RegExp][]} */
    const failures = [
      ["throws", () => { throw new Error("no token"); }, /^Error: no token$/],
      ["rejects", () => Promise.reject(new Error("no token")), /^Error: no token$/],
      ["rejects with nothing", () => Promise.reject(), /^undefined$/],
      ["rejects with what has no words", () => Promise.reject(Object.create(null)), /cannot be put into words/],
    ];
    if (bad !== undefined || place === "url") failures.push(["gives what is none", () => bad, /^TypeError: expected/]);
    for (const [what, ask, reason] of failures) {
      it(`${what} is told of, and another attempt follows, later each time`, async (t) => {
        const { client, browser, details } = setup(t, places[place](ask));
        client.connect();
        for (let i = 0; i < 3; i++) {
          await settled();
          assert.equal(client.state, "waiting");
          browser.tick(30_000);
        }
        await settled();
        assert.deepEqual(details("reconnecting").map(({ delay }) => delay), [1000, 2000, 4000, 8000]);
        assert.equal(details("error").length, 4);
        for (const { reason: told, willReconnect } of details("close")) {
          assert.match(told, reason);
          assert.equal(willReconnect, true);
        }
        assert.equal(browser.sockets.length, 0);
        assert.equal(browser.timers.size, 1);
        client.close();
        assert.equal(browser.timers.size, 0);
      });
    }

    it("never settles is given up, and its answer to an old attempt opens nothing", async (t) => {
      const ask = byHand();
      const { client, browser, details } = setup(t, { ...places[place](ask), connectTimeout: 2000 });
      client.connect();
      browser.tick(2000);
      assert.equal(client.state, "waiting");
      assert.equal(details("close")[0].reason, "not connected after 2000 ms");
      await settled();
      assert.equal(ask.calls[0]?.signal.aborted, true);
      browser.tick(1000);
      assert.equal(ask.calls.length, 2);
      ask.calls[0]?.resolve(good[place]);
      await settled();
      assert.equal(browser.sockets.length, 0, "that was the old one");
      ask.calls[1]?.resolve(good[place]);
      await settled();
      assert.equal(browser.sockets.length, 1);
      browser.socket.open();
      assert.equal(client.state, "open");
      await settled();
      assert.equal(ask.calls[1]?.signal.aborted, true, "over, well");
    });

    it("rejects too late changes nothing", async (t) => {
      const ask = byHand();
      const { client, browser, details } = setup(t, { ...places[place](ask), connectTimeout: 2000 });
      client.connect();
      browser.tick(2000);
      browser.tick(1000);
      assert.equal(client.state, "connecting");
      ask.calls[0]?.reject(new Error("late"));
      await settled();
      assert.equal(client.state, "connecting");
      assert.deepEqual(details("error"), []);
      client.close();
    });

    /** @type {[string, (all: ReturnType<typeof setup>) => void, string][]} */
    const ways = [
      ["close()", ({ client }) => client.close(), "closed"],
      ["pagehide", ({ browser }) => browser.page("pagehide"), "waiting"],
    ];
    for (const [way, happen, state] of ways) {
      it(`is waited for is forgotten by ${way}`, async (t) => {
        const ask = byHand();
        const all = setup(t, places[place](ask));
        all.client.connect();
        happen(all);
        assert.equal(all.client.state, state);
        assert.equal(all.browser.timers.size, 0);
        ask.calls[0]?.resolve(good[place]);
        await settled();
        assert.equal(all.browser.sockets.length, 0);
        assert.equal(all.client.state, state);
        assert.equal(ask.calls[0]?.signal.aborted, true);
      });
    }

    it("is waited for is asked again by reconnect()", async (t) => {
      const ask = byHand();
      const { client, browser } = setup(t, places[place](ask));
      client.connect();
      client.connect(); // which does nothing
      client.reconnect();
      assert.equal(ask.calls.length, 2);
      for (const { resolve } of ask.calls) resolve(good[place]);
      await settled();
      assert.equal(browser.sockets.length, 1);
    });
  });
}

it("a rejection beside a throw is no unhandled one", async (t) => {
  const { client, details } = setup(t, {
    url: () => Promise.reject(new Error("a")),
    protocols: () => { throw new Error("b"); },
    headers: () => Promise.reject(new Error("c")),
  });
  client.connect();
  await settled(); // node:test fails on an unhandled rejection
  assert.equal(details("error").length, 1);
  client.close();
});

it("whoever listens to the signal may act on the client", async (t) => {
  const { client, browser } = setup(t, {
    url: ({ signal }) => new Promise(() => signal.addEventListener("abort", () => client.close())),
    connectTimeout: 2000,
  });
  client.connect();
  browser.tick(2000);
  assert.equal(client.state, "waiting");
  await settled();
  assert.equal(client.state, "closed");
  assert.equal(browser.timers.size, 0);
});

it("a listener that closes the client as it connects is in time", (t) => {
  let asked = 0;
  const { client, browser } = setup(t, { url: () => `/ws/${++asked}` });
  client.addEventListener("statechange", () => client.close(), { once: true });
  client.connect();
  assert.equal(client.state, "closed");
  assert.deepEqual([asked, browser.sockets.length, browser.timers.size], [0, 0, 0]);
});

describe("what the WebSocket's constructor refuses", () => {
  const WebSocket = /** @type {any} */ (class {
    constructor() {
      throw new SyntaxError("bad subprotocol");
    }
  });

  it("may be better at the next attempt where it was asked for", (t) => {
    const { client, details } = setup(t, { protocols: () => "a b", environment: { WebSocket } });
    client.connect();
    assert.equal(client.state, "waiting");
    assert.match(details("error")[0].error.message, /bad subprotocol/);
    client.close();
  });

  it("is final where nothing was, also at a later attempt", (t) => {
    /** @type {FakeWebSocket[]} */ const sockets = [];
    const Fake = /** @type {any} */ (class extends FakeWebSocket {
      /** @param {string} url */
      constructor(url) {
        super(url);
        if (sockets.push(this) > 1) throw new SyntaxError("mixed content");
      }
    });
    const { client, browser, details } = setup(t, { environment: { WebSocket: Fake } });
    client.connect();
    sockets[0]?.end();
    browser.tick(1000); // nothing is thrown into the timer
    assert.equal(client.state, "closed");
    assert.match(details("error")[0].error.message, /mixed content/);
  });

  it("is final where there is no WebSocket at all", (t) => {
    const { client } = setup(t, { url: () => "/ws/", environment: { WebSocket: /** @type {any} */ (undefined) } });
    assert.throws(() => client.connect(), /there is no WebSocket here: pass one as environment.WebSocket/);
    assert.equal(client.state, "closed");
  });
});

describe("headers", () => {
  it("go first, ahead of the outbox and of what open sends", (t) => {
    const { client, browser } = setup(t, { headers: { "X-Token": "t" } });
    client.send(1);
    client.addEventListener("open", () => client.send(2));
    client.connect();
    browser.socket.open();
    assert.deepEqual(browser.socket.sent, [{ headers: { "x-token": "t" } }, 1, 2]);
  });

  it("take no place in the outbox and are not given back", (t) => {
    const { client, browser, details } = setup(t, { headers: { a: "b" }, outboxLimit: 0 });
    client.connect();
    browser.socket.end();
    client.close();
    assert.deepEqual(details("close").at(-1).unsent, []);
  });

  it("that are fixed are looked at when the client is made", () => {
    for (const headers of /** @type {any[]} */ ([{ a: 1 }, { a: undefined }, "a: b", [["a", null]]])) {
      assert.throws(() => new TriochanClient("ws://localhost/", { headers }), /expected (a string for the header a|headers as an object)/);
    }
  });

  it("with a name that every object has are headers like others", (t) => {
    const { client, browser } = setup(t, { headers: Object.fromEntries([["__proto__", "a"]]) });
    client.connect();
    const { socket } = browser;
    /** @type {string[]} */ const raw = [];
    socket.send = (data) => void raw.push(data);
    socket.open();
    assert.deepEqual(raw, ['{"headers":{"__proto__":"a"}}']);
  });

  it("that the socket does not take end the attempt", (t) => {
    const { client, browser, details } = setup(t, { headers: { a: "b" } });
    client.connect();
    browser.socket.failure = new Error("no");
    browser.socket.open();
    assert.equal(client.state, "waiting");
    assert.equal(details("close")[0].reason, "sending failed: Error: no");
    client.close();
  });
});

it("messages that come before the client is open are heard", (t) => {
  const { client, browser } = setupOpen(t, { beforeFlush: () => new Promise(() => {}) });
  /** @type {unknown[]} */ const heard = [];
  client.listen((value) => heard.push(value));
  browser.socket.receive("hello");
  assert.equal(client.state, "connecting");
  assert.deepEqual(heard, ["hello"]);
  client.close();
});
