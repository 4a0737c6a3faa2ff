/** What becomes of a message between send() and the socket. */

import assert from "node:assert/strict";
import { describe, it } from "node:test";

import { OutboxFullError } from "../../triochan/client/triochan.js";
import { setup, setupOpen } from "./fakes.js";

const MIB = 1024 * 1024;

describe("send()", () => {
  it("hands the value to an open connection", (t) => {
    const { client, browser } = setupOpen(t);
    assert.equal(client.send({ n: 1 }), true);
    assert.equal(client.queued, 0);
    assert.deepEqual(browser.socket.sent, [{ n: 1 }]);
  });

  it("keeps the value while there is none, in order, ahead of what is sent later", (t) => {
    const { client, browser } = setup(t);
    assert.equal(client.send(1), false);
    client.connect();
    assert.equal(client.send(2), false);
    browser.socket.end();
    assert.equal(client.send(3), false);
    assert.equal(client.queued, 3);
    client.addEventListener("open", () => client.send(4));
    browser.tick(1000);
    browser.socket.open();
    client.send(5);
    assert.deepEqual(browser.socket.sent, [1, 2, 3, 4, 5]);
    assert.equal(client.queued, 0);
  });

  it("takes the value as it is now", (t) => {
    const { client, browser } = setup(t);
    const value = { n: 1 };
    client.send(value);
    value.n = 2;
    client.connect();
    browser.socket.open();
    assert.deepEqual(browser.socket.sent, [{ n: 1 }]);
  });

  it("throws what the encoding throws, and takes nothing", (t) => {
    const { client } = setup(t);
    const circle = /** @type {any} */ ({});
    circle.circle = circle;
    assert.throws(() => client.send(circle), TypeError);
    assert.throws(() => client.send(1n), TypeError);
    assert.throws(() => client.send(undefined), /expected a value that JSON can hold, not undefined/);
    assert.throws(() => client.send(() => {}), TypeError);
    assert.equal(client.queued, 0);
  });

  it("throws while closing and when closed", (t) => {
    const { client, browser } = setupOpen(t);
    client.close(4000, "bye");
    const expected = { name: "ClientClosedError", code: 4000, reason: "bye" };
    assert.throws(() => client.send(1), expected);
    browser.socket.end(4000, "bye");
    assert.throws(() => client.send(1), expected);
    assert.deepEqual(browser.socket.sent, []);
  });

  it("uses the encoding it was given", (t) => {
    const { client, browser } = setupOpen(t, { encode: (value) => JSON.stringify({ wrapped: value }) });
    client.send(1);
    assert.deepEqual(browser.socket.sent, [{ wrapped: 1 }]);
  });
});

describe("a full outbox", () => {
  it("throws, and keeps what it has", (t) => {
    const { client, browser } = setup(t, { outboxLimit: 2 });
    client.send(1);
    client.send(2);
    assert.throws(() => client.send(3), (error) => error instanceof OutboxFullError && error.limit === 2);
    assert.equal(client.queued, 2);
    client.connect();
    browser.socket.open();
    client.send(4);
    assert.deepEqual(browser.socket.sent, [1, 2, 4]);
  });

  it("of size 0 means: only while connected", (t) => {
    const { client, browser } = setup(t, { outboxLimit: 0 });
    assert.throws(() => client.send(1), OutboxFullError);
    client.connect();
    browser.socket.open();
    assert.equal(client.send(2), true);
    browser.socket.end();
    assert.throws(() => client.send(3), OutboxFullError);
  });

  it("is emptied first when the connection has room again", (t) => {
    const { client, browser } = setupOpen(t, { outboxLimit: 1 });
    browser.socket.bufferedAmount = MIB + 1;
    client.send(1);
    assert.throws(() => client.send(2), OutboxFullError);
    browser.socket.bufferedAmount = 0;
    client.send(3);
    assert.deepEqual(browser.socket.sent, [1, 3]);
  });
});

describe("a connection that cannot keep up", () => {
  it("leaves messages in the outbox until its buffer has drained", (t) => {
    const { client, browser } = setupOpen(t, { highWater: 100 });
    browser.socket.bufferedAmount = 101;
    assert.equal(client.send(1), false);
    assert.equal(client.send(2), false);
    browser.tick(1000);
    assert.deepEqual(browser.socket.sent, []);
    browser.socket.bufferedAmount = 100;
    browser.tick(50);
    assert.deepEqual(browser.socket.sent, [1, 2]);
    assert.equal(browser.timers.size, 0, "nobody looks at an empty outbox");
  });

  it("may stop in the middle", (t) => {
    const { client, browser } = setup(t, { highWater: 100 });
    for (const n of [1, 2, 3]) client.send(n);
    client.connect();
    const { socket } = browser;
    const { send } = socket;
    socket.send = (data) => (send.call(socket, data), (socket.bufferedAmount += 60));
    socket.open();
    assert.deepEqual(socket.sent, [1, 2]);
    assert.equal(client.state, "open");
    assert.equal(client.send(4), false);
    socket.bufferedAmount = 0;
    browser.tick(50);
    assert.deepEqual(socket.sent, [1, 2, 3, 4]);
  });

  it("is looked at no more once it is lost", (t) => {
    const { client, browser } = setupOpen(t, { highWater: 100 });
    browser.socket.bufferedAmount = 101;
    client.send(1);
    browser.socket.end();
    assert.equal(browser.timers.size, 1, "the reconnect timer");
    browser.tick(1000);
    browser.socket.open();
    assert.deepEqual(browser.socket.sent, [1]);
  });
});

describe("a connection that breaks", () => {
  it("is not fed while it is closing: such messages go to the next one", (t) => {
    const { client, browser } = setupOpen(t);
    browser.socket.readyState = 2; // the server's close is being answered; no event has told us yet
    assert.equal(client.send(1), false);
    assert.equal(browser.timers.size, 0);
    browser.socket.end(1012);
    browser.tick(1000);
    browser.socket.open();
    assert.deepEqual(browser.socket.sent, [1]);
  });

  it("in the middle of the outbox leaves the rest, in order, for the next one", (t) => {
    const { client, browser } = setup(t);
    for (const n of [1, 2, 3]) client.send(n);
    client.connect();
    const first = browser.socket;
    const { send } = first;
    first.send = (data) => (send.call(first, data), (first.readyState = 2));
    first.open();
    assert.deepEqual(first.sent, [1]);
    first.end();
    browser.tick(1000);
    browser.socket.open();
    assert.deepEqual(browser.socket.sent, [2, 3]);
  });

  it("because send() of the socket throws is lost like any other", (t) => {
    const { client, browser, details } = setup(t);
    client.send(1);
    client.connect();
    browser.socket.failure = new Error("no");
    browser.socket.open();
    assert.equal(client.state, "waiting");
    assert.deepEqual(details("open"), []);
    assert.equal(details("close")[0].reason, "sending failed: Error: no");
    browser.tick(1000);
    browser.socket.open();
    assert.deepEqual(browser.socket.sent, [1]);
  });
});

describe("what close() does with the outbox", () => {
  it("open: it is sent first, buffer full or not", (t) => {
    const { client, browser, details } = setupOpen(t, { highWater: 100 });
    browser.socket.bufferedAmount = 101;
    client.send(1);
    client.send(2);
    client.close();
    assert.deepEqual(browser.socket.sent, [1, 2]);
    browser.socket.end(1000);
    assert.deepEqual(details("close")[0].unsent, []);
    assert.equal(browser.timers.size, 0);
  });

  it("otherwise: it is given back and forgotten", (t) => {
    const { client, browser, details } = setup(t);
    client.send({ n: 1 });
    client.connect();
    client.close();
    assert.deepEqual(details("close")[0].unsent, ['{"n":1}']);
    client.connect();
    browser.socket.open();
    assert.deepEqual(browser.socket.sent, []);
  });

  it("a final close code gives it back too", (t) => {
    const { client, browser, details } = setup(t);
    client.send(1);
    client.connect();
    browser.socket.end(4401);
    assert.deepEqual(details("close")[0].unsent, ["1"]);
    assert.equal(client.queued, 0);
  });
});
