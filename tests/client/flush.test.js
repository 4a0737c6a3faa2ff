/** beforeFlush(): what happens between the opening of a socket and the leaving of the outbox. */

import assert from "node:assert/strict";
import { getEventListeners } from "node:events";
import { describe, it } from "node:test";

import { OutboxFullError } from "../../triochan/client/triochan.js";
import { setup } from "./fakes.js";

/** @typedef {import("../../triochan/client/triochan.js").Flush} Flush */
/** @typedef {import("../../triochan/client/triochan.js").WireData} WireData */

/** Everything that waits for a promise has run. */
const settled = () => new Promise((resolve) => setImmediate(resolve));

/**
 * A client with two messages in its outbox, whose socket has opened, and a hook whose promises are settled by hand.
 * @param {import("node:test").TestContext} t @param {import("../../triochan/client/triochan.js").ClientOptions} [options]
 */
function setupFlushing(t, options) {
  /** @type {(Flush & {resolve: (value?: any) => void, reject: (error: unknown) => void})[]} */
  const calls = [];
  const beforeFlush = (/** @type {Flush} */ flush) =>
    /** @type {Promise<void | WireData[]>} */ (
      new Promise((resolve, reject) => void calls.push({ ...flush, resolve, reject }))
    );
  const all = setup(t, { beforeFlush, ...options });
  all.client.send(1);
  all.client.send(2);
  all.client.connect();
  all.browser.socket.open();
  const call = /** @type {typeof calls[0]} */ (calls[0]);
  return { ...all, calls, call };
}

it("sends first, waits, and only then the outbox leaves and the client is open", async (t) => {
  const { client, browser, call, details } = setupFlushing(t, { headers: { a: "b" } });
  assert.deepEqual([call.outbox, call.reconnected], [["1", "2"], false]);
  call.send({ join: "room" });
  assert.equal(client.send(3), false);
  assert.equal(client.state, "connecting");
  assert.equal(client.queued, 3);
  assert.deepEqual(browser.socket.sent, [{ headers: { a: "b" } }, { join: "room" }]);
  call.resolve();
  await settled();
  assert.deepEqual(browser.socket.sent.slice(1), [{ join: "room" }, 1, 2, 3]);
  assert.equal(client.state, "open");
  assert.deepEqual(details("open"), [{ reconnected: false }]);
  assert.deepEqual(details("dropped"), []);
  assert.equal(browser.timers.size, 0);
  assert.equal(call.signal.aborted, true);
});

it("may be no promise: the outbox leaves at once", (t) => {
  const { client, browser } = setup(t, { beforeFlush: ({ send }) => send("first") });
  client.send(1);
  client.connect();
  browser.socket.open();
  assert.equal(client.state, "open");
  assert.deepEqual(browser.socket.sent, ["first", 1]);
});

it("is called on every connection, and knows a return", async (t) => {
  const { client, browser, calls, call } = setupFlushing(t);
  call.resolve();
  await settled();
  browser.socket.end();
  client.send(3);
  browser.tick(1000);
  browser.socket.open();
  assert.deepEqual([calls[1]?.outbox, calls[1]?.reconnected], [["3"], true]);
  client.close();
});

describe("what it returns", () => {
  it("takes the place of what it was given, ahead of what was sent meanwhile; what is left out is told", async (t) => {
    const { client, browser, call, events } = setupFlushing(t);
    client.addEventListener("dropped", ({ detail }) => events.push(["dropped", detail]));
    client.send(3);
    call.resolve([...call.outbox.slice(1), '"more"']);
    await settled();
    assert.deepEqual(browser.socket.sent, [2, "more", 3]);
    const [dropped] = events.filter(([type]) => type === "dropped");
    assert.deepEqual(dropped, ["dropped", { messages: ["1"] }]);
    const order = events.map(([type]) => type);
    assert.ok(order.indexOf("dropped") < order.indexOf("open"));
  });

  it("counts equal messages", async (t) => {
    const { client, browser } = setup(t, { beforeFlush: () => ["1"] });
    /** @type {any[]} */ const dropped = [];
    client.addEventListener("dropped", ({ detail }) => dropped.push(...detail.messages));
    for (const n of [1, 1, 1]) client.send(n);
    client.connect();
    browser.socket.open();
    assert.deepEqual([browser.socket.sent, dropped], [[1], ["1", "1"]]);
  });

  it("may be nothing: everything is dropped", (t) => {
    const { client, browser } = setup(t, { beforeFlush: () => [] });
    client.send(1);
    client.connect();
    browser.socket.open();
    assert.deepEqual([browser.socket.sent, client.queued, client.state], [[], 0, "open"]);
  });

  it("is not the list it was given, which it cannot change", (t) => {
    const { client, browser, details } = setup(t, {
      beforeFlush: ({ outbox }) => void /** @type {any} */ (outbox).pop(),
    });
    client.send(1);
    client.connect();
    browser.socket.open();
    assert.ok(details("error")[0].error instanceof TypeError);
    assert.equal(client.queued, 1);
    client.close();
  });

  /** @type {[string, any, (error: any) => boolean][]} */
  const wrong = [
    ["no array", "1", (error) => /expected beforeFlush\(\) to give an array/.test(error.message)],
    ["values", [{ n: 1 }], (error) => /array of strings, ArrayBuffers.*, not object/.test(error.message)],
    ["shared memory", [new SharedArrayBuffer(1)], (error) => /not shared memory/.test(error.message)],
    ["too many", Array(300).fill("1"), (error) => error instanceof OutboxFullError && error.limit === 256],
  ];
  for (const [what, value, isIt] of wrong) {
    it(`if it is ${what}, ends the attempt and leaves the outbox as it was`, async (t) => {
      const { client, browser, call, details } = setupFlushing(t);
      call.resolve(value);
      await settled();
      assert.ok(isIt(details("error")[0].error), String(details("error")[0].error));
      assert.equal(client.state, "waiting");
      assert.equal(client.queued, 2);
      assert.deepEqual(browser.socket.sent, []);
      client.close();
    });
  }
});

describe("a hook that fails", () => {
  it("ends this attempt, told as an error, and is tried again, later each time", async (t) => {
    const { client, browser, calls, details } = setupFlushing(t);
    for (let i = 0; i < 3; i++) {
      if (i > 0) browser.socket.open();
      browser.tick(6000); // no connection is stable that never was open
      calls[i]?.reject(new Error("room is full"));
      await settled();
      assert.equal(client.state, "waiting");
      assert.equal(browser.socket.closes.length, 1);
      browser.tick(30_000);
    }
    assert.deepEqual(details("reconnecting").map(({ delay }) => delay), [1000, 2000, 4000]);
    assert.equal(details("error")[0].error.message, "room is full");
    assert.equal(details("close")[0].reason, "beforeFlush() failed: Error: room is full");
    assert.equal(client.queued, 2);
    assert.deepEqual(details("open"), []);
    client.close();
    assert.deepEqual(details("close").at(-1).unsent, ["1", "2"]);
  });

  it("by throwing is the same", (t) => {
    const { client, browser, details } = setup(t, { beforeFlush: () => { throw new Error("no"); } });
    client.connect();
    browser.socket.open();
    assert.equal(client.state, "waiting");
    assert.equal(details("error").length, 1);
    client.close();
  });

  it("by never settling is given up", async (t) => {
    const { client, browser, call, details } = setupFlushing(t, { connectTimeout: 2000 });
    browser.tick(2000);
    assert.equal(client.state, "waiting");
    assert.equal(details("close")[0].reason, "not connected after 2000 ms");
    await settled();
    assert.equal(call.signal.aborted, true);
    call.resolve([]);
    await settled();
    assert.equal(client.queued, 2, "its answer is not asked for any more");
    assert.throws(() => call.send(1), /beforeFlush\(\) is over/);
    client.close();
  });
});

describe("while it is under way", () => {
  it("a final close code is final, whatever the hook says of it", async (t) => {
    const { client, browser, call, details } = setupFlushing(t);
    browser.socket.readyState = 2; // the server's goodbye has come, its event has not
    assert.doesNotThrow(() => call.send(1));
    call.reject(new Error("nobody answered"));
    await settled();
    assert.equal(client.state, "connecting");
    browser.socket.end(4401, "who?");
    assert.equal(client.state, "closed");
    assert.deepEqual(details("close"), [
      { code: 4401, reason: "who?", wasClean: true, willReconnect: false, unsent: ["1", "2"] },
    ]);
  });

  it("a lost connection is lost, and the outbox kept", async (t) => {
    const { client, browser, call, details } = setupFlushing(t);
    browser.socket.end();
    assert.equal(client.state, "waiting");
    call.reject(new Error("late"));
    await settled();
    assert.deepEqual(details("error"), []);
    assert.equal(details("close").length, 1);
    assert.equal(client.queued, 2);
    client.close();
  });

  it("close() wins, with its code, and gives the outbox back", async (t) => {
    const { client, browser, call, details } = setupFlushing(t);
    client.close(4000, "enough");
    assert.equal(client.state, "closed");
    assert.deepEqual(browser.socket.closes, [[4000, "enough"]]);
    assert.deepEqual(details("close")[0].unsent, ["1", "2"]);
    call.resolve();
    await settled();
    assert.deepEqual(browser.socket.sent, []);
    assert.deepEqual(details("open"), []);
    assert.equal(browser.timers.size, 0);
  });

  it("the hook itself may close the client", (t) => {
    const { client, browser } = setup(t, { beforeFlush: () => client.close(4000, "not for us") });
    client.send(1);
    client.connect();
    browser.socket.open();
    assert.equal(client.state, "closed");
    assert.deepEqual(browser.socket.sent, []);
    assert.equal(browser.timers.size, 0);
  });

  it("reconnect() calls it anew on another connection", async (t) => {
    const { client, browser, calls, call } = setupFlushing(t);
    client.reconnect();
    browser.socket.open();
    call.resolve([]);
    await settled();
    assert.equal(client.state, "connecting");
    calls[1]?.resolve();
    await settled();
    assert.deepEqual(browser.sockets.map(({ sent }) => sent), [[], [1, 2]]);
  });

  it("the outbox has its limit", (t) => {
    const { client } = setupFlushing(t, { outboxLimit: 2 });
    assert.throws(() => client.send(3), OutboxFullError);
    client.close();
  });

  it("opened() waits for its end", async (t) => {
    const { client, call } = setupFlushing(t);
    let open = false;
    const opened = client.opened().then(() => (open = true));
    await settled();
    assert.equal(open, false);
    call.resolve();
    await opened;
    client.close();
  });
});

it("a listener of dropped may close the client", (t) => {
  const { client, browser, details } = setup(t, { beforeFlush: ({ outbox }) => outbox.slice(1) });
  client.addEventListener("dropped", () => client.close(4000));
  client.send(1);
  client.send(2);
  client.connect();
  browser.socket.open();
  assert.equal(client.state, "closed");
  assert.deepEqual(details("open"), []);
});

it("listeners with the signal of the attempt are gone when it is over", async (t) => {
  const { client, call } = setupFlushing(t);
  /** @type {unknown[]} */ const heard = [];
  client.listen((value) => heard.push(value), { signal: call.signal });
  assert.equal(getEventListeners(call.signal, "abort").length, 1);
  call.resolve();
  await settled();
  assert.equal(getEventListeners(call.signal, "abort").length, 0);
  client.close();
});
