/** Background tabs, the back/forward cache, and networks that come and go. */

import assert from "node:assert/strict";
import { describe, it } from "node:test";

import { setup, setupOpen } from "./fakes.js";

describe("a waiting client tries at once", () => {
  /** @type {[string, (browser: ReturnType<typeof setup>["browser"]) => void][]} */
  const causes = [
    ["the page is shown", (browser) => browser.page("pageshow")],
    ["the tab is looked at", (browser) => browser.show("visible")],
    ["the network returns", (browser) => browser.page("online")],
  ];
  for (const [cause, happen] of causes) {
    it(`when ${cause}, and starts the backoff afresh`, (t) => {
      const { client, browser, details } = setup(t);
      client.connect();
      for (let i = 0; i < 5; i++) {
        browser.socket.end();
        if (i < 4) browser.tick(30_000);
      }
      assert.equal(client.state, "waiting");
      happen(browser);
      assert.equal(client.state, "connecting");
      assert.equal(browser.timers.size, 1, "the timer of the wait is gone");
      happen(browser);
      assert.equal(browser.sockets.length, 6, "once");
      browser.socket.end();
      assert.deepEqual(details("reconnecting").at(-1), { attempt: 1, delay: 1000 });
    });
  }

  it("but not when the tab is hidden", (t) => {
    const { client, browser } = setup(t);
    client.connect();
    browser.socket.end();
    browser.show("hidden");
    assert.equal(client.state, "waiting");
  });
});

it("leaves an open connection alone when the page is looked at or the network blinks", (t) => {
  const { client, browser } = setupOpen(t);
  browser.show("hidden");
  browser.pass(3_600_000);
  browser.show("visible");
  browser.page("pageshow");
  browser.page("online");
  browser.page("offline");
  browser.tick(44_999);
  browser.page("online");
  assert.equal(client.state, "open");
  assert.equal(browser.sockets.length, 1);
});

it("replaces an open connection that the server must have given up", (t) => {
  const { client, browser, details } = setupOpen(t, { staleAfter: 45_000 });
  browser.page("offline");
  browser.tick(30_000);
  browser.page("offline"); // counts from the first one
  browser.tick(15_000);
  browser.page("online");
  assert.equal(client.state, "connecting");
  browser.socket.open();
  assert.deepEqual(details("open").at(-1), { reconnected: true });
  browser.page("online");
  assert.equal(browser.sockets.length, 2);
});

it("leaves an attempt alone when the network returns after long", (t) => {
  const { client, browser } = setup(t, { connectTimeout: 100_000 });
  client.connect();
  browser.page("offline");
  browser.tick(60_000);
  browser.page("online");
  assert.equal(client.state, "connecting");
  assert.equal(browser.sockets.length, 1);
});

it("does not remember across close() that the network was away", (t) => {
  const { client, browser } = setupOpen(t);
  browser.page("offline");
  client.close();
  browser.page("online"); // unheard
  browser.tick(60_000);
  client.connect();
  browser.socket.open();
  browser.page("online");
  assert.equal(browser.sockets.length, 2);
});

describe("a page that is put away", () => {
  it("closes its connection, tries nothing, and is back when it is shown", (t) => {
    const { client, browser, details } = setupOpen(t);
    browser.page("pagehide");
    assert.equal(client.state, "waiting");
    assert.deepEqual(browser.socket.closes, [[1000, "page hidden"]]);
    assert.equal(details("close")[0].willReconnect, true);
    browser.sockets[0]?.end(1000);
    browser.tick(3_600_000);
    assert.equal(browser.sockets.length, 1);
    assert.equal(client.send({ n: 1 }), false);
    browser.page("pageshow");
    browser.socket.open();
    assert.deepEqual(browser.socket.sent, [{ n: 1 }]);
    assert.deepEqual(details("open").at(-1), { reconnected: true });
  });

  it("ends an attempt", (t) => {
    const { client, browser } = setup(t);
    client.connect();
    browser.page("pagehide");
    assert.equal(client.state, "waiting");
    assert.equal(browser.timers.size, 0);
    browser.page("pageshow");
    assert.equal(browser.sockets.length, 2);
  });

  it("stops a wait", (t) => {
    const { client, browser } = setup(t);
    client.connect();
    browser.socket.end();
    browser.page("pagehide");
    assert.equal(browser.timers.size, 0);
    browser.page("pageshow");
    assert.equal(client.state, "connecting");
  });

  it("does not come back when the client was closed", (t) => {
    const { client, browser } = setupOpen(t);
    client.close();
    browser.page("pagehide");
    assert.equal(client.state, "closing");
    browser.socket.end(1000);
    browser.page("pageshow");
    assert.equal(client.state, "closed");
  });
});

describe("a machine that slept", () => {
  it("has its open connection replaced, however open that looks", (t) => {
    const { client, browser, details } = setupOpen(t);
    browser.pass(3_600_000);
    assert.equal(browser.sockets.length, 1);
    browser.tick(45_000 + 10_000);
    assert.equal(client.state, "connecting");
    assert.deepEqual(browser.sockets[0]?.closes, [[1000, "asleep for too long"]]);
    browser.socket.open();
    assert.deepEqual(details("open").at(-1), { reconnected: true });
    browser.pass(3_600_000);
    assert.equal(browser.sockets.length, 2);
  });

  it("keeps it after a nap", (t) => {
    const { browser } = setupOpen(t);
    browser.tick(45_000 + 9_999);
    assert.equal(browser.sockets.length, 1);
  });

  it("keeps it where staleAfter is Infinity", (t) => {
    const { browser } = setupOpen(t, { staleAfter: Infinity });
    browser.tick(24 * 3_600_000);
    assert.equal(browser.sockets.length, 1);
  });

  it("is not what a hidden page is, whose timers come once a minute", (t) => {
    const { browser } = setupOpen(t);
    browser.show("hidden");
    for (let i = 0; i < 60; i++) browser.tick(60_000);
    browser.show("visible");
    browser.tick(60_000);
    assert.equal(browser.sockets.length, 1);
    browser.tick(60_000);
    assert.equal(browser.sockets.length, 2, "visible all the time, and late");
  });

  it("is noticed on a hidden page as well", (t) => {
    const { browser } = setupOpen(t);
    browser.show("hidden");
    browser.tick(45_000 + 10_000 + 60_000);
    assert.equal(browser.sockets.length, 2);
  });

  it("leaves attempts and waits to their own timers", (t) => {
    const { client, browser } = setup(t);
    client.connect();
    browser.socket.end();
    browser.tick(3_600_000);
    assert.equal(browser.sockets.length, 2, "the wait was over");
  });

  it("is looked for once in a client's life, and no longer than that", (t) => {
    const { client, browser } = setup(t);
    assert.equal(browser.clocks.size, 0);
    client.connect();
    client.reconnect();
    browser.socket.open();
    browser.pass(60_000);
    assert.equal(browser.clocks.size, 1);
    client.close();
    assert.equal(browser.clocks.size, 0, "closing");
    browser.socket.end(1000);
    client.connect();
    browser.socket.end(4401);
    assert.equal(browser.clocks.size, 0, "closed by the server");
  });
});

it("needs neither a window nor a document", (t) => {
  const { client, browser } = setup(t, { environment: { window: undefined, document: undefined } });
  client.connect();
  browser.socket.open();
  client.close();
  browser.socket.end(1000);
  assert.equal(client.state, "closed");
});
