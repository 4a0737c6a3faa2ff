/** What goes wrong with clients of this kind elsewhere: each has gone wrong in a public library, or in this one. */

import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";

import { TriochanClient } from "../../triochan/client/triochan.js";
import { FakeWebSocket, setup, setupOpen } from "./fakes.js";

describe("timers", () => {
  it("Infinity is no limit, not the shortest one", (t) => {
    const { client, browser } = setup(t, { connectTimeout: Infinity, closeTimeout: Infinity });
    client.connect();
    browser.tick(24 * 3_600_000);
    assert.equal(client.state, "connecting");
    browser.socket.open();
    client.close();
    browser.tick(24 * 3_600_000);
    assert.equal(client.state, "closing");
  });

  for (const options of [{ backoffBase: 0 }, { backoffCap: Infinity }, { backoffBase: Infinity, backoffCap: Infinity }]) {
    for (const luck of [0, 1 - 2 ** -53]) {
      it(`a wait is a number after any number of failures: ${JSON.stringify(options)}, random() ${luck}`, (t) => {
        const { client, browser, details } = setup(t, options);
        browser.luck = luck;
        client.connect();
        for (let i = 0; i < 1100; i++) {
          browser.socket.end();
          client.connect();
        }
        for (const { delay } of details("reconnecting")) assert.ok(delay >= 0 && delay < 2 ** 31, String(delay));
        client.close();
        assert.equal(browser.timers.size, 0);
      });
    }
  }
});

describe("clients that were dropped together", () => {
  it("come back spread over the whole wait", (t) => {
    t.mock.timers.enable({ apis: ["setTimeout", "Date"] });
    const CLIENTS = 1000;
    /** When each attempt was made. @type {number[]} */ const attempts = [];
    /** @type {FakeWebSocket[]} */ const sockets = [];
    const WebSocket = /** @type {any} */ (class extends FakeWebSocket {
      /** @param {string} url */
      constructor(url) {
        super(url);
        attempts.push(Date.now());
        sockets.push(this);
      }
    });
    for (let i = 0; i < CLIENTS; i++) new TriochanClient("ws://localhost/", { environment: { WebSocket } }).connect();
    for (const socket of sockets) socket.open();
    for (let s = 0; s < 10; s++) t.mock.timers.tick(1000);
    const start = Date.now();
    attempts.length = 0;
    for (const socket of sockets.splice(0)) socket.end(1012);
    for (let ms = 0; ms < 1000; ms++) t.mock.timers.tick(1);
    assert.equal(attempts.length, CLIENTS, "all within the first second");
    const tenths = Array(10).fill(0);
    for (const at of attempts) tenths[Math.min(9, Math.floor((at - start) / 100))] += 1;
    for (const count of tenths) assert.ok(count > 50 && count < 170, tenths.join());
  });
});

describe("a message that no socket takes", () => {
  const bad = [undefined, null, 1, {}, [], new SharedArrayBuffer(2), new Uint8Array(new SharedArrayBuffer(2))];
  for (const data of /** @type {any[]} */ (bad)) {
    it(`is send()'s error, and stands in nobody's way: ${Object.prototype.toString.call(data)}`, (t) => {
      const { client, browser } = setup(t, { encode: (value) => (value === "bad" ? data : JSON.stringify(value)) });
      assert.throws(() => client.send("bad"), /expected encode\(\) to give strings, ArrayBuffers, views of them or Blobs, not/);
      client.send("good");
      client.connect();
      browser.socket.open();
      assert.deepEqual(browser.socket.sent, ["good"]);
    });
  }
});

describe("bytes", () => {
  for (const bytes of [new ArrayBuffer(2), new Uint8Array(2), new DataView(new ArrayBuffer(2)), new Blob(["a"])]) {
    it(`do not become {} on the way to JSON: ${bytes.constructor.name}`, (t) => {
      const { client } = setup(t);
      assert.throws(() => client.send(bytes), /not bytes: encode, an option/);
      assert.throws(() => client.stream("a").send(bytes), /not bytes/);
      assert.equal(client.queued, 0);
    });
  }

  it("that wait are sent as they were", (t) => {
    const { client, browser } = setup(t, { encode: (value) => /** @type {any} */ (value) });
    const buffer = new Uint8Array([1, 2, 3]).buffer;
    client.send(buffer);
    client.send(new Uint8Array(buffer, 1, 2));
    client.send(new DataView(buffer, 2, 1));
    new Uint8Array(buffer).fill(9);
    client.connect();
    /** @type {any[]} */ const sent = [];
    const { socket } = browser;
    socket.send = (data) => void sent.push([...new Uint8Array(/** @type {any} */ (data))]);
    socket.open();
    assert.deepEqual(sent, [[1, 2, 3], [2, 3], [3]]);
  });

  it("go to an open socket without a copy, both ways", (t) => {
    const asTheyAre = (/** @type {any} */ value) => value;
    const { client, browser } = setupOpen(t, { encode: asTheyAre, decode: asTheyAre });
    /** @type {any[]} */ const seen = [];
    const bytes = new Uint8Array(2);
    browser.socket.send = (data) => void seen.push(data);
    client.listen((value) => seen.push(value));
    client.send(bytes);
    browser.socket.onmessage?.({ data: bytes.buffer });
    assert.equal(seen[0], bytes);
    assert.equal(seen[1], bytes.buffer);
  });
});

describe("memory", () => {
  it("nothing is kept of streams that nobody listens to any more", (t) => {
    setFlagsFromString("--expose-gc");
    const gc = runInNewContext("gc");
    const { client } = setup(t);
    const names = 50_000;
    const cycle = (/** @type {number} */ n) => {
      const controller = new AbortController();
      client.demultiplex(`room-${n}`, () => {})();
      client.stream(`row-${n}`).listen(() => {}, { signal: controller.signal });
      controller.abort();
      client.demultiplex(`gone-${n}`, () => {}, { signal: controller.signal });
    };
    for (let i = 0; i < 1000; i++) cycle(-i);
    gc();
    const before = process.memoryUsage().heapUsed;
    for (let i = 0; i < names; i++) cycle(i);
    gc();
    const each = (process.memoryUsage().heapUsed - before) / names;
    assert.ok(each < 20, `${each} bytes for each name`);
  });

  it("a stream listened to again after its last listener went is heard, and only by the new one", (t) => {
    const { client, browser } = setupOpen(t);
    /** @type {string[]} */ const heard = [];
    const stop = client.demultiplex("a", () => heard.push("first"));
    stop();
    client.demultiplex("a", () => heard.push("second"));
    stop(); // again, which must not take the new one's place away
    browser.socket.receive({ stream: "a", payload: 1 });
    assert.deepEqual(heard, ["second"]);
  });
});

describe("options", () => {
  for (const options of /** @type {any[]} */ ([
    { toString: 1 }, { constructor: Object }, { encode: "json" }, { decode: null }, { beforeFlush: [] }, { beforeFlush: null },
  ])) {
    it(`${Object.keys(options)}: ${String(Object.values(options)) || "[]"} is refused when the client is made`, () => {
      assert.throws(() => new TriochanClient("ws://localhost/", options), TypeError);
    });
  }
  for (const value of /** @type {any[]} */ ([true, "5", null, NaN, -1, {}])) {
    it(`a time of ${JSON.stringify(value)} is refused`, () => {
      assert.throws(() => new TriochanClient("ws://localhost/", { backoffCap: value }), RangeError);
    });
  }

  for (const url of /** @type {any[]} */ ([null, undefined, 5, {}, "http://", "//"])) {
    it(`the URL ${JSON.stringify(url)} is refused, with what it was`, () => {
      const environment = { baseURI: "https://example.org/" };
      assert.throws(() => new TriochanClient(url, { environment }), /expected a URL, not/);
    });
  }
});
