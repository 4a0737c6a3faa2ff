/** The npm package: what is in it, and that programs get what they import from it. */

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { existsSync } from "node:fs";
import { mkdir, mkdtemp, readFile, realpath, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, it } from "node:test";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

const here = fileURLToPath(new URL(".", import.meta.url));
const folder = fileURLToPath(new URL("../../triochan/client/", import.meta.url));
const description = JSON.parse(await readFile(join(folder, "package.json"), "utf8"));

const run = promisify(execFile);
/** @param {string} command @param {string[]} args */
const output = async (command, args, cwd = folder) => {
  try {
    return (await run(command, args, { cwd, timeout: 60_000 })).stdout;
  } catch (error) {
    throw new Error(`${/** @type {any} */ (error).stdout}${/** @type {any} */ (error).stderr}`);
  }
};

/** A TypeScript program that uses all of it, in strict mode. */
const program = `
import {
  ClientClosedError, DEFAULT_FINAL_CODES, OutboxFullError, StreamError, TriochanClient,
  type Ask, type ClientOptions, type Environment, type Flush, type State, type WireData,
} from "triochan";

const token: Ask<Record<string, string>> = async ({ signal }) => {
  signal.throwIfAborted();
  return { authorization: "Bearer 1" };
};
const environment: Partial<Environment> = { random: () => 0.5 };
const options: ClientOptions = {
  protocols: () => ["v2", "v1"],
  headers: token,
  beforeFlush: async ({ outbox, reconnected, send }: Flush): Promise<readonly WireData[]> => {
    send({ join: reconnected });
    return outbox.filter((message) => typeof message === "string");
  },
  finalCodes: [...DEFAULT_FINAL_CODES, 1011, [4100, 4110]],
  environment,
};
const client = new TriochanClient(async () => new URL("wss://example.org/"), options);
client.addEventListener("dropped", ({ detail }) => detail.messages.length);
client.addEventListener("close", ({ detail }) => { const code: number = detail.code; void code; });
const stop: () => void = client.listen<{ text: string }>(({ text }) => text.length);
client.stream("posts").listen<number>((n) => n.toFixed(), { onerror: (error: StreamError) => error.frame });
const state: State = client.state;
try {
  const sent: boolean = client.send({ state });
  void sent;
} catch (error) {
  if (error instanceof OutboxFullError) error.limit.toFixed();
  else if (error instanceof ClientClosedError) error.code.toFixed();
}
stop();

// @ts-expect-error: not a string
new TriochanClient("/", { headers: { a: 1 } });
// @ts-expect-error: not a message
new TriochanClient("/", { beforeFlush: () => [1] });
// @ts-expect-error: no such option
new TriochanClient("/", { backofBase: 1 });
// @ts-expect-error: read-only
client.state = "open";
`;

describe("the npm package", () => {
  /** @type {string} */ let place;
  /** @type {any} */ let packed;

  before(async () => {
    // Unpacked where a program that depends on it would have it.
    place = await realpath(await mkdtemp(join(tmpdir(), "triochan-")));
    [packed] = JSON.parse(await output("npm", ["pack", "--json", "--offline", `--pack-destination=${place}`]));
    const home = join(place, "node_modules", "triochan");
    await mkdir(home, { recursive: true });
    await output("tar", ["-xzf", join(place, packed.filename), "-C", home, "--strip-components=1"]);
    await writeFile(join(place, "package.json"), '{"type": "module"}');
  });
  after(() => rm(place, { recursive: true }));

  it("has these files and no others", () => {
    const files = packed.files.map((/** @type {{path: string}} */ { path }) => path).sort();
    assert.deepEqual(files, ["LICENSE", "README.md", "package.json", "triochan.d.ts", "triochan.js"]);
    assert.equal(packed.filename, `triochan-${description.version}.tgz`);
    assert.ok(packed.size < 40_000, `${packed.size} bytes`);
  });

  it("is what a dry run says", async () => {
    const [dry] = JSON.parse(await output("npm", ["pack", "--dry-run", "--json", "--offline"]));
    assert.deepEqual(dry.files, packed.files);
  });

  it("has every file that it exports, and runs nothing when it is installed", () => {
    for (const path of [description.main, description.types, ...Object.values(description.exports["."])]) {
      assert.ok(existsSync(join(place, "node_modules", "triochan", path)), path);
    }
    assert.equal(description.sideEffects, false);
    assert.deepEqual([description.scripts, description.dependencies], [undefined, undefined]);
  });

  it("is imported by Node.js under its name, without a browser", async () => {
    const main = `
      import * as triochan from "triochan";
      import about from "triochan/package.json" with { type: "json" };
      const client = new triochan.TriochanClient("wss://example.org/", { environment: { WebSocket: undefined } });
      try { client.connect(); } catch (error) { console.log(error.message); }
      try { new triochan.TriochanClient("/chat/"); } catch (error) { console.log(error.message); }
      console.log(client.state, about.version, Object.keys(triochan).join());
    `;
    await writeFile(join(place, "main.js"), main);
    const printed = await output(process.execPath, ["--no-warnings", "main.js"], place);
    assert.deepEqual(printed.trim().split("\n"), [
      "there is no WebSocket here: pass one as environment.WebSocket",
      'expected an absolute URL, as there is no page here, not "/chat/"',
      `closed ${description.version} ClientClosedError,DEFAULT_FINAL_CODES,OutboxFullError,Presence,StreamError,TriochanClient`,
    ]);
  });

  const tsc = join(here, "node_modules", "typescript", "bin", "tsc");
  const unless = existsSync(tsc) ? {} : { skip: "TypeScript is not here: npm install in tests/client, or just client" };
  for (const [module, resolution] of [["nodenext", "nodenext"], ["preserve", "bundler"]]) {
    it(`has types for strict programs, module ${module}`, unless, async () => {
      await writeFile(join(place, "main.ts"), program);
      const strict = ["--strict", "--exactOptionalPropertyTypes", "--noUncheckedIndexedAccess", "--noEmit"];
      const how = ["--module", `${module}`, "--moduleResolution", `${resolution}`, "--target", "es2022"];
      const lib = ["--lib", "es2022,dom"];
      await output(process.execPath, [tsc, ...strict, ...how, ...lib, "main.ts"], place);
    });
  }

  it("may be linked to, as npm install FOLDER does", async () => {
    const other = join(place, "other");
    await mkdir(join(other, "node_modules"), { recursive: true });
    await symlink(folder, join(other, "node_modules", "triochan"));
    await writeFile(join(other, "main.mjs"), 'import { TriochanClient } from "triochan"; console.log(TriochanClient.name);');
    assert.equal(await output(process.execPath, ["main.mjs"], other), "TriochanClient\n");
  });
});
