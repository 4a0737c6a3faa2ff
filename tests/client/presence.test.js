/** Who is in a topic, as the server's frames say. */

import assert from "node:assert/strict";
import { describe, it } from "node:test";

import { setup, setupOpen } from "./fakes.js";

/** @typedef {import("../../triochan/client/triochan.js").TriochanClient} TriochanClient */

/** A presence, and what it has told. @param {import("node:test").TestContext} t */
function setupPresence(t) {
  const all = setupOpen(t);
  const presence = all.client.presence("room");
  /** @type {any[]} */
  const told = [];
  for (const type of ["join", "leave", "update", "sync"]) {
    presence.addEventListener(type, (event) => {
      const { key, meta, first, last, previous } = /** @type {any} */ (event).detail ?? {};
      told.push(type === "sync" ? "sync" : [type, key, meta.ref, first ?? last ?? previous.n]);
    });
  }
  /** @param {object} frame */
  const receive = (frame) => all.browser.socket.receive({ presence: "room", ...frame });
  /** What was told since the last call. */
  const since = () => told.splice(0);
  return { ...all, presence, receive, since };
}

/** @param {string} ref @param {number} [n] */
const meta = (ref, n = 0) => ({ ref, n });

describe("presence()", () => {
  it("has the list of the state, and then what changes", (t) => {
    const { presence, receive, since } = setupPresence(t);
    assert.deepEqual([presence.list(), presence.synced, presence.topic], [{}, false, "room"]);
    receive({ version: 5, state: { ada: [meta("a"), meta("b")], bob: [meta("c")] } });
    assert.deepEqual(presence.list(), { ada: [meta("a"), meta("b")], bob: [meta("c")] });
    assert.equal(presence.synced, true);
    assert.deepEqual(since(), [
      ["join", "ada", "a", true],
      ["join", "ada", "b", false],
      ["join", "bob", "c", true],
      "sync",
    ]);
    receive({ version: 6, joins: { eva: [meta("d")] }, updates: { ada: [meta("b", 1)] }, leaves: { bob: ["c"], ada: ["a"] } });
    assert.deepEqual(presence.list(), { ada: [meta("b", 1)], eva: [meta("d")] });
    assert.deepEqual(since(), [
      ["join", "eva", "d", true],
      ["update", "ada", "b", 0],
      ["leave", "bob", "c", true],
      ["leave", "ada", "a", false],
      "sync",
    ]);
  });

  it("skips what its list has already, and applies what came before it", (t) => {
    const { presence, receive, since } = setupPresence(t);
    receive({ version: 5, joins: { ada: [meta("a")] } });
    receive({ version: 6, leaves: { bob: ["b"] } });
    assert.deepEqual([presence.list(), since()], [{}, []]);
    receive({ version: 5, state: { ada: [meta("a")], bob: [meta("b")] } });
    receive({ version: 6, leaves: { bob: ["b"] } });
    assert.deepEqual(presence.list(), { ada: [meta("a")] });
    assert.deepEqual(since(), [
      ["join", "ada", "a", true],
      ["join", "bob", "b", true],
      ["leave", "bob", "b", true],
      "sync",
    ]);
    assert.equal(presence.synced, true);
  });

  it("tells of a key that changes places as one that stays", (t) => {
    const { presence, receive, since } = setupPresence(t);
    receive({ version: 1, state: { ada: [meta("a")] } });
    since();
    receive({ version: 2, joins: { ada: [meta("b")] }, leaves: { ada: ["a"] } });
    assert.deepEqual(since(), [["join", "ada", "b", false], ["leave", "ada", "a", false], "sync"]);
    assert.deepEqual(presence.list(), { ada: [meta("b")] });
  });

  it("takes the list anew after a reconnect, and tells the difference", (t) => {
    const { presence, browser, receive, since } = setupPresence(t);
    receive({ version: 9, state: { ada: [meta("a")], bob: [meta("b")] } });
    since();
    browser.socket.end();
    assert.deepEqual([presence.list(), presence.synced], [{ ada: [meta("a")], bob: [meta("b")] }, false]);
    browser.tick(1000);
    browser.socket.open();
    receive({ version: 3, state: { eva: [meta("e")], ada: [meta("a", 1), meta("a2")] } }); // another server's
    assert.deepEqual(since(), [
      ["join", "eva", "e", true],
      ["update", "ada", "a", 0],
      ["join", "ada", "a2", false],
      ["leave", "bob", "b", true],
      "sync",
    ]);
    assert.deepEqual([presence.list(), presence.synced], [{ eva: [meta("e")], ada: [meta("a", 1), meta("a2")] }, true]);
  });

  it("waits for a list where a version was skipped, and then makes a new connection", (t) => {
    const { presence, browser, client, receive } = setupPresence(t);
    receive({ version: 1, state: {} });
    receive({ version: 3, joins: { ada: [meta("a")] } });
    assert.deepEqual([presence.list(), presence.synced], [{ ada: [meta("a")] }, false]);
    receive({ version: 4, joins: { bob: [meta("b")] } });
    assert.equal(presence.synced, false);
    receive({ version: 4, state: { bob: [meta("b")] } });
    assert.deepEqual([presence.list(), presence.synced], [{ bob: [meta("b")] }, true]);
    browser.pass(30_000);
    assert.equal(browser.sockets.length, 1);
    receive({ version: 6, leaves: { bob: ["b"] } });
    browser.pass(21_000);
    assert.equal(browser.sockets.length, 2);
    assert.equal(client.state, "connecting");
    browser.socket.open();
    receive({ version: 8, state: {} });
    assert.equal(presence.synced, true);
    browser.pass(30_000);
    assert.equal(browser.sockets.length, 2);
  });

  it("waits for nothing any more when the connection is gone", (t) => {
    const { presence, browser, client, receive } = setupPresence(t);
    receive({ version: 1, state: {} });
    receive({ version: 3, joins: { ada: [meta("a")] } });
    client.close();
    browser.pass(30_000);
    assert.equal(browser.sockets.length, 1);
    assert.equal(presence.synced, false);
  });

  it("takes no frame of another topic, nor of a stream", (t) => {
    const { client, presence, browser } = setupPresence(t);
    /** @type {any[]} */
    const rest = [];
    client.listen((value) => rest.push(value));
    const others = [{ presence: "other", version: 1, state: {} }, { presence: "room" }, { presence: 5, version: 1 }];
    for (const each of others) browser.socket.receive(each);
    assert.deepEqual(rest, others);
    browser.socket.receive({ presence: "room", version: 1, state: { ada: [meta("a")] } });
    assert.equal(rest.length, others.length);
    presence.stop();
    browser.socket.receive({ presence: "room", version: 2 });
    assert.equal(rest.length, others.length + 1);
    assert.notEqual(client.presence("room"), presence);
  });

  it("is the same object each time", (t) => {
    const { client } = setup(t);
    assert.equal(client.presence("room"), client.presence("room"));
    assert.throws(() => client.presence(/** @type {any} */ (5)), /expected a topic's name, not 5/);
  });

  it("is not fooled by names every object has", (t) => {
    const { presence, browser } = setupPresence(t);
    browser.socket.onmessage?.({ data: '{"presence": "room", "version": 1, "state": {"__proto__": [{"ref": "a"}]}}' });
    browser.socket.onmessage?.({ data: '{"presence": "room", "version": 2, "state": {"constructor": [{"ref": "b"}]}}' });
    assert.deepEqual(Object.keys(presence.list()), ["constructor"]);
    browser.socket.onmessage?.({ data: '{"presence": "room", "version": 3, "leaves": {"constructor": ["b"], "toString": ["x"]}}' });
    assert.deepEqual(Object.keys(presence.list()), []);
  });

  it("keeps only so many diffs without a list", (t) => {
    const { presence, receive } = setupPresence(t);
    for (let version = 1; version <= 1100; version++) receive({ version, joins: { ada: [meta(`r${version}`)] } });
    receive({ version: 0, state: {} });
    assert.equal(presence.list()["ada"]?.length, 1000);
    assert.equal(presence.synced, false);
  });
});
