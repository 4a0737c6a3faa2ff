/** Every block of JavaScript in docs/client.md, docs/presence.md and the npm package's README runs as it stands. */

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { describe, it } from "node:test";

import { DEFAULT_FINAL_CODES } from "../../triochan/client/triochan.js";
import { FakeWebSocket } from "./fakes.js";

const page = await readFile(new URL("../../docs/client.md", import.meta.url), "utf8");
const presence = await readFile(new URL("../../docs/presence.md", import.meta.url), "utf8");
const moduleUrl = new URL("../../triochan/client/triochan.js", import.meta.url).href;
const readme = await readFile(new URL("../../triochan/client/README.md", import.meta.url), "utf8");
const blocks = [...(page + presence + readme).matchAll(/^```js\n([^]*?)^```/gm)].map(([, code = ""]) => code);

describe("docs/client.md, docs/presence.md and README.md", () => {
  /** What a block must have printed after its connection opened, received, and closed for good. */
  const expected = [
    ["connecting", "open", "Ada: hi", "closed"],
    ['stream "posts": no such post', "create 1 [object Object]", "on no stream that I listen to: [object Object]"],
    ["Closed for good: 4403 not you"],
    ["[object Object]", "Ada's token went first"],
    ["Will be sent when you are online again."],
    ['Not sent: {"stream":"typing","payload":{"who":"Ada"}}'],
    ["ada is here", "ada, bob", "ada is away", "bob is gone", "ada"],
    ["connecting", "Ada's token went first", "open", "Ada: hi", "closed"],
  ];
  const received = [
    { user: "Ada", text: "hi" },
    { stream: "posts", error: "no such post" },
    { stream: "posts", payload: { action: "create", pk: 1, data: {} } },
    { stream: "room", payload: { joined: true } },
    { presence: "room.1", version: 1, state: { ada: [{ ref: "a" }], bob: [{ ref: "b" }] } },
    { presence: "room.1", version: 2, updates: { ada: [{ ref: "a", status: "away" }] }, leaves: { bob: ["b"] } },
  ];
  /** Everything that waits for a promise has run. */
  const settled = () => new Promise((resolve) => setImmediate(resolve));

  it("has as many examples as are checked here", () => assert.equal(blocks.length, expected.length));

  for (const [i, code] of blocks.entries()) {
    it(`example ${i + 1} runs`, async (t) => {
      /** @type {FakeWebSocket[]} */ const sockets = [];
      const browser = {
        WebSocket: class extends FakeWebSocket {
          /** @param {string} url */
          constructor(url) {
            super(url);
            sockets.push(this);
          }
        },
        location: { href: "http://localhost:8000/" },
        fetch: async () => new Response("Ada's"),
      };
      const { fetch } = globalThis;
      Object.assign(globalThis, browser);
      t.after(() => Object.keys(browser).forEach((name) => Reflect.deleteProperty(globalThis, name)));
      t.after(() => Object.assign(globalThis, { fetch }));
      const printed = /** @type {string[]} */ ([]);
      const print = (/** @type {unknown[]} */ ...args) => void printed.push(args.map(String).join(" "));
      t.mock.method(console, "log", print);
      t.mock.method(console, "warn", print);

      const source = code.replace(/"(\/triochan\/client\.js|triochan)"/, JSON.stringify(moduleUrl));
      await import(`data:text/javascript,${encodeURIComponent(source)}`);
      await settled();
      const [socket] = sockets;
      assert.ok(socket);
      assert.match(socket.url, /^(ws:\/\/localhost:8000|wss:\/\/example\.org)\/\w+\/(\?\w+)?$/);
      socket.open();
      if (socket.sent[0]?.headers?.authorization === "Bearer Ada's") printed.push("Ada's token went first");
      for (const message of received) socket.receive(message);
      await settled();
      socket.end(4403, "not you");
      assert.equal(sockets.length, 1);
      for (const line of expected[i] ?? []) assert.ok(printed.includes(line), `${line} in ${printed.join(" | ")}`);
    });
  }

  it("says of every close code what the client does", () => {
    const rows = [...page.matchAll(/^\| (\d[^|]*?) \| (yes|no) \|/gm)];
    assert.ok(rows.length > 6);
    const ranges = DEFAULT_FINAL_CODES.map((entry) =>
      typeof entry === "number" ? /** @type {const} */ ([entry, entry]) : entry,
    );
    const final = (/** @type {number} */ code) => ranges.some(([first, last]) => first <= code && code <= last);
    const told = new Set();
    for (const [, codes = "", back] of rows) {
      const [listed = "", excepted = ""] = codes.split("except");
      const exceptions = (excepted.match(/\d{4}/g) ?? []).map(Number);
      for (const [, first, last = first] of listed.matchAll(/(\d{4})(?:–(\d{4}))?/g)) {
        for (let code = Number(first); code <= Number(last); code++) {
          const comesBack = exceptions.includes(code) || back === "yes";
          assert.equal(final(code), !comesBack, String(code));
          told.add(code);
        }
      }
    }
    for (let code = 1000; code < 5000; code++) if (final(code)) assert.ok(told.has(code), `${code} is in the table`);
  });
});
