/** Where messages from the server go. */

import assert from "node:assert/strict";
import { getEventListeners } from "node:events";
import { describe, it } from "node:test";

import { StreamError } from "../../triochan/client/triochan.js";
import { setupOpen } from "./fakes.js";

/** A listener that keeps what it is called with. */
function keeper() {
  const calls = /** @type {any[][]} */ ([]);
  return Object.assign((/** @type {any[]} */ ...args) => void calls.push(args), { calls });
}

describe("listen()", () => {
  it("hears every message, with any JSON value", (t) => {
    const { client, browser } = setupOpen(t);
    const heard = keeper();
    client.listen(heard);
    const values = [{ a: 1 }, [1, 2], "text", 0, false, null, { stream: "x" }, { stream: 1, payload: 2 }];
    for (const value of values) browser.socket.receive(value);
    assert.deepEqual(heard.calls, values.map((value) => [value]));
  });

  it("goes on after a reconnect and after close() and connect()", (t) => {
    const { client, browser } = setupOpen(t);
    const heard = keeper();
    client.listen(heard);
    browser.socket.end();
    browser.tick(1000);
    browser.socket.open();
    browser.socket.receive(1);
    client.close();
    client.connect();
    browser.socket.open();
    browser.socket.receive(2);
    assert.deepEqual(heard.calls, [[1], [2]]);
  });

  it("ends by its function, or by a signal", (t) => {
    const { client, browser } = setupOpen(t);
    const [a, b, c] = [keeper(), keeper(), keeper()];
    const controller = new AbortController();
    const stop = client.listen(a);
    client.listen(b, { signal: controller.signal });
    client.listen(c, { signal: AbortSignal.abort() });
    browser.socket.receive(1);
    stop();
    stop();
    controller.abort();
    browser.socket.receive(2);
    assert.deepEqual([a.calls, b.calls, c.calls], [[[1]], [[1]], []]);
  });

  it("takes itself off the signal when it ends otherwise", (t) => {
    const { client } = setupOpen(t);
    const { signal } = new AbortController();
    client.listen(() => {}, { signal })();
    assert.equal(getEventListeners(signal, "abort").length, 0);
  });

  it("counts the same function as often as it was given", (t) => {
    const { client, browser } = setupOpen(t);
    const heard = keeper();
    client.listen(heard);
    client.listen(heard)();
    browser.socket.receive(1);
    assert.deepEqual(heard.calls, [[1]]);
  });

  it("hears nothing after close()", (t) => {
    const { client, browser } = setupOpen(t);
    const heard = keeper();
    client.listen(heard);
    client.close();
    browser.socket.receive(1);
    assert.deepEqual(heard.calls, []);
  });
});

describe("demultiplex()", () => {
  it("takes the frames of its stream from listen()", (t) => {
    const { client, browser } = setupOpen(t);
    const [chat, rest] = [keeper(), keeper()];
    client.demultiplex("chat", chat);
    client.listen(rest);
    browser.socket.receive({ stream: "chat", payload: { text: "hi" } });
    browser.socket.receive({ stream: "chat", payload: null });
    browser.socket.receive({ stream: "other", payload: 1 });
    browser.socket.receive({ stream: "chat" });
    assert.deepEqual(chat.calls, [[{ text: "hi" }, "chat"], [null, "chat"]]);
    assert.deepEqual(rest.calls, [[{ stream: "other", payload: 1 }], [{ stream: "chat" }]]);
  });

  it("gives them back when its last listener ends", (t) => {
    const { client, browser } = setupOpen(t);
    const rest = keeper();
    client.listen(rest);
    const controller = new AbortController();
    client.demultiplex("chat", () => {})();
    client.demultiplex("chat", () => {}, { signal: controller.signal });
    controller.abort();
    browser.socket.receive({ stream: "chat", payload: 1 });
    assert.equal(rest.calls.length, 1);
  });

  it("is not fooled by names every object has", (t) => {
    const { client, browser } = setupOpen(t);
    const heard = keeper();
    client.demultiplex("__proto__", heard);
    browser.socket.onmessage?.({ data: '{"stream": "__proto__", "payload": 1}' });
    browser.socket.receive({ stream: "constructor", payload: 2 });
    assert.deepEqual(heard.calls, [[1, "__proto__"]]);
  });
});

describe("integers", () => {
  it("beyond 2**53 come and go as the strings that the server makes of them", (t) => {
    const { client, browser } = setupOpen(t);
    const heard = keeper();
    client.listen(heard);
    browser.socket.receive({ pk: "9007199254740993" });
    const [[{ pk }]] = heard.calls;
    assert.equal(BigInt(pk), 2n ** 53n + 1n);
    client.send({ pk });
    assert.deepEqual(browser.socket.sent, [{ pk: "9007199254740993" }]);
  });
});

describe("stream()", () => {
  it("sends and listens under its name", (t) => {
    const { client, browser } = setupOpen(t);
    const chat = client.stream("chat");
    const heard = keeper();
    const stop = chat.listen(heard);
    assert.equal(chat.name, "chat");
    assert.equal(chat.send({ text: "hi" }), true);
    assert.deepEqual(browser.socket.sent, [{ stream: "chat", payload: { text: "hi" } }]);
    browser.socket.receive({ stream: "chat", payload: 1 });
    stop();
    browser.socket.receive({ stream: "chat", payload: 2 });
    assert.deepEqual(heard.calls, [[1, "chat"]]);
  });
});

describe("an error on a stream", () => {
  it("reaches every onerror of the stream and nobody else", (t) => {
    const { client, browser, details } = setupOpen(t);
    const [payloads, a, b, other] = [keeper(), keeper(), keeper(), keeper()];
    client.demultiplex("chat", payloads, { onerror: a });
    client.stream("chat").listen(payloads, { onerror: b });
    client.demultiplex("other", payloads, { onerror: other });
    client.listen(payloads);
    const frame = { stream: "chat", error: "invalid content", details: ["text: required"] };
    browser.socket.receive(frame);
    assert.deepEqual([payloads.calls, other.calls, details("error")], [[], [], []]);
    assert.deepEqual(a.calls, b.calls);
    const [error] = a.calls[0] ?? [];
    assert.ok(error instanceof StreamError);
    assert.equal(error.message, 'stream "chat": invalid content');
    assert.deepEqual([error.stream, error.error, error.frame], ["chat", "invalid content", frame]);
  });

  it("is an error event where the stream has no onerror", (t) => {
    const { client, browser, details } = setupOpen(t);
    client.demultiplex("chat", () => {});
    browser.socket.receive({ stream: "chat", error: "a" });
    browser.socket.receive({ stream: "unknown", error: { code: 2 } });
    browser.socket.receive({ stream: null, error: "c" });
    assert.deepEqual(details("error").map(({ error }) => error.message), [
      'stream "chat": a',
      'stream "unknown": {"code":2}',
      "stream null: c",
    ]);
    assert.equal(client.state, "open");
  });

  it("is not what a payload beside it, or an error without a stream, is", (t) => {
    const { client, browser, details } = setupOpen(t);
    const [chat, rest] = [keeper(), keeper()];
    client.demultiplex("chat", chat);
    client.listen(rest);
    browser.socket.receive({ stream: "chat", payload: 1, error: "e" });
    browser.socket.receive({ error: "invalid content", details: [] });
    assert.deepEqual(chat.calls, [[1, "chat"]]);
    assert.deepEqual(rest.calls, [[{ error: "invalid content", details: [] }]]);
    assert.deepEqual(details("error"), []);
  });
});

describe("a message that cannot be decoded", () => {
  it("is an error event, and the connection stays", (t) => {
    const { client, browser, details } = setupOpen(t);
    const heard = keeper();
    client.listen(heard);
    browser.socket.onmessage?.({ data: "{" });
    browser.socket.onmessage?.({ data: new ArrayBuffer(2) });
    browser.socket.receive(1);
    const [first, second] = details("error").map(({ error }) => error);
    assert.ok(first instanceof SyntaxError);
    assert.match(second.message, /binary/);
    assert.deepEqual(heard.calls, [[1]]);
    assert.equal(client.state, "open");
  });

  it("is for the decoding it was given to say", (t) => {
    const { client, browser } = setupOpen(t, { decode: (data) => data });
    const heard = keeper();
    client.listen(heard);
    assert.equal(browser.socket.binaryType, "arraybuffer");
    browser.socket.onmessage?.({ data: "{" });
    assert.deepEqual(heard.calls, [["{"]]);
  });
});

describe("listeners among themselves", () => {
  it("one that throws is reported and keeps no other from hearing", (t) => {
    const { client, browser } = setupOpen(t);
    const oops = new Error("oops");
    const fail = () => {
      throw oops;
    };
    const [a, b, c] = [keeper(), keeper(), keeper()];
    client.listen(fail);
    client.listen(a);
    client.demultiplex("s", fail, { onerror: fail });
    client.demultiplex("s", b, { onerror: c });
    browser.socket.receive(1);
    browser.socket.receive({ stream: "s", payload: 2 });
    browser.socket.receive({ stream: "s", error: 3 });
    assert.deepEqual([a.calls, b.calls, c.calls.length], [[[1]], [[2, "s"]], 1]);
    assert.deepEqual(browser.reported, [oops, oops, oops]);
    assert.equal(client.state, "open");
  });

  it("one that is removed by another is not called, one that is added is from the next message on", (t) => {
    const { client, browser } = setupOpen(t);
    const [removed, added] = [keeper(), keeper()];
    const stop = client.listen(() => {
      stop();
      stopRemoved();
      client.listen(added);
    });
    const stopRemoved = client.listen(removed);
    browser.socket.receive(1);
    browser.socket.receive(2);
    assert.deepEqual([removed.calls, added.calls], [[], [[2]]]);
  });
});
