/** The declarations and the module say the same. What they say in types, tsc compares. */

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { it } from "node:test";

import * as triochan from "../../triochan/client/triochan.js";

const declarations = await readFile(new URL("../../triochan/client/triochan.d.ts", import.meta.url), "utf8");

it("exports what is declared", () => {
  const declared = [...declarations.matchAll(/^export (?:class|const|function) (\w+)/gm)].map(([, name]) => name);
  assert.deepEqual(Object.keys(triochan).sort(), declared.sort());
});

it("has the public members that are declared", () => {
  const [body] = declarations.match(/^export class TriochanClient [^]*?^}/m) ?? [""];
  const declared = [...body.matchAll(/^  (?:readonly )?(\w+)[(<:]/gm)].map(([, name]) => name);
  const { prototype } = triochan.TriochanClient;
  const inherited = ["addEventListener", "removeEventListener"];
  assert.deepEqual(
    [...Object.getOwnPropertyNames(prototype), ...inherited].sort(),
    [...new Set(declared)].sort(),
  );
});

it("knows the options that are declared", () => {
  const [body] = declarations.match(/^export interface ClientOptions [^]*?^}/m) ?? [""];
  const declared = [...body.matchAll(/^  (\w+)\?:/gm)].map(([, name]) => name);
  const make = () => new triochan.TriochanClient("ws://localhost/", /** @type {any} */ ({ "?": 1 }));
  const known = /unknown option \?; known: (.*)/;
  assert.throws(make, known);
  try {
    make();
  } catch (error) {
    const [, names = ""] = String(error).match(known) ?? [];
    assert.deepEqual(names.split(", ").sort(), declared.sort());
  }
});

/**
 * Never called: it is here for tsc.
 * @param {triochan.TriochanClient} client
 */
export function types(client) {
  client.addEventListener("close", (event) => /** @type {number} */ (event.detail.code));
  // @ts-expect-error: no such field
  client.addEventListener("open", (event) => event.detail.code);
  client.addEventListener("anything", (event) => event.type);
  client.demultiplex("chat", (/** @type {{text: string}} */ { text }) => text.length);
  // @ts-expect-error: read-only
  client.state = "open";
  /** @type {boolean} */ (client.stream("chat").send({}));
  const room = /** @type {triochan.Presence<{status: string}>} */ (client.presence("room"));
  room.addEventListener("join", ({ detail }) => /** @type {string} */ (detail.meta.status));
  room.addEventListener("leave", ({ detail }) => /** @type {boolean} */ (detail.last));
  // @ts-expect-error: it is told of those who leave
  room.addEventListener("join", ({ detail }) => detail.last);
  /** @type {string | undefined} */ (room.list()["ada"]?.[0]?.ref);
  // @ts-expect-error: no such option
  new triochan.TriochanClient("/ws/", { backofBase: 1 });
}
