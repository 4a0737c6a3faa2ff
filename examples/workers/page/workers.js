/**
 * The window says `{type: "upload", job, text}`, `{type: "follow", job}` and `{type: "kill", worker}`. The server says in whose
 * process its socket is (`serving`), at first and again when it may have missed something; whether it has `taken` a job, or for what
 * `reason` it has not; and of each job how much is `done`, 0 to 1, and by which `worker`.
 * What is of somebody's making becomes text here, never markup.
 */

import { TriochanClient } from "/triochan/client.js";

const element = (id) => document.getElementById(id);
const STATES = { open: "Online", connecting: "Connecting…", waiting: "Offline, coming back…", closed: "Closed" };
const LARGEST = 200_000; // characters

const jobs = new Map(); // by the name that this window gave
let serving; // undefined while there is no connection
const client = new TriochanClient("/jobs/");

client.listen((message) => {
  if ("serving" in message) {
    serving = message.serving;
    // Whoever is told of a job is a socket, and this one is new.
    for (const job of jobs.values()) job.ask();
  } else if (jobs.has(message.job)) jobs.get(message.job).hear(message);
  else if ("error" in message) element("problem").textContent = message.details?.join("; ") ?? message.error;
});

client.addEventListener("statechange", () => {
  element("state").textContent = STATES[client.state] ?? "";
  element("state").dataset.state = client.state;
  if (client.state !== "open") serving = undefined;
});

class Job {
  taken = false; // by the server: before that, it may not have come there

  constructor(name, text) {
    this.id = crypto.randomUUID();
    this.text = text;
    this.item = element("job").content.firstElementChild.cloneNode(true);
    this.part(".name").textContent = name;
    this.say("It waits for a worker.");
    this.part(".kill").addEventListener("click", () => this.kill());
    element("jobs").prepend(this.item);
    element("none").hidden = true;
    jobs.set(this.id, this);
    if (serving !== undefined) this.ask();
  }

  ask() {
    client.send(this.taken ? { type: "follow", job: this.id } : { type: "upload", job: this.id, text: this.text });
  }

  kill() {
    client.send({ type: "kill", worker: this.worker });
    this.part(".kill").hidden = true;
    this.say(`Worker ${this.worker} is killed. Another takes the job up when its lease is over.`);
  }

  part(selector) {
    return this.item.querySelector(selector);
  }

  say(text) {
    this.part(".hint").textContent = text;
  }

  hear({ taken = true, reason, worker, done, words, most }) {
    this.taken = taken;
    if (!taken) return this.end(reason);
    if (worker === undefined) return;
    if (this.worker !== undefined && worker !== this.worker) this.before = this.worker;
    this.worker = worker;
    this.part("progress").value = done;
    this.part(".who").textContent = worker === serving ? `worker ${worker}, as this page` : `worker ${worker}`;
    this.part(".kill").hidden = false;
    const gone = this.before === undefined ? "" : ` Worker ${this.before} is gone, and ${worker} has taken it up.`;
    if (done < 1) return this.say(`${Math.round(done * 100)} % done.${gone}`);
    const told = most.map(([word, count]) => `${word} (${count})`).join(", ");
    this.end(`${words} words; most often ${told || "none"}.${gone}`);
  }

  end(text) {
    this.say(text);
    this.part(".kill").hidden = true;
    jobs.delete(this.id);
  }
}

function add(name, text) {
  element("problem").textContent = "";
  if (text.length > LARGEST) {
    element("problem").textContent = `${name} has ${text.length} characters; ${LARGEST} are the most.`;
  } else {
    new Job(name, text);
  }
}

async function addFiles(files) {
  for (const file of files) add(file.name, await file.text());
}

const form = element("upload");
form.addEventListener("submit", (event) => {
  event.preventDefault();
  const text = element("text").value.trim();
  if (!text && element("files").files.length === 0) {
    element("problem").textContent = "Choose a file, or paste a text.";
  }
  if (text) add(text.slice(0, 40), text);
  addFiles(element("files").files);
  form.reset();
});
form.addEventListener("dragover", (event) => {
  event.preventDefault();
  form.classList.add("over");
});
form.addEventListener("dragleave", () => form.classList.remove("over"));
form.addEventListener("drop", (event) => {
  event.preventDefault();
  form.classList.remove("over");
  addFiles(event.dataTransfer.files);
});

client.connect();
