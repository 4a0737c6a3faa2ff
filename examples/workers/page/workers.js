/**
 * The window says `{type: "upload", job, text}` and `{type: "kill", worker}`. The server says whose process its socket is in
 * (`serving`), what it refused (`reason`), and of each job how much is `done`, 0 to 1, and by which `worker`.
 * What is of somebody's making becomes text here, never markup.
 */

import { TriochanClient } from "/triochan/client.js";

const element = (id) => document.getElementById(id);
const STATES = { open: "Online", connecting: "Connecting…", waiting: "Offline, coming back…", closed: "Closed" };
const LARGEST = 200_000; // characters

const jobs = new Map(); // by the name that this window gave
let serving;
const client = new TriochanClient("/jobs/");

client.listen((message) => {
  if ("serving" in message) serving = message.serving;
  else if (jobs.has(message.job)) jobs.get(message.job).hear(message);
  else if ("error" in message) element("problem").textContent = message.details?.join("; ") ?? message.error;
});

client.addEventListener("statechange", () => {
  element("state").textContent = STATES[client.state] ?? "";
});

client.addEventListener("close", () => {
  // Progress is told to the socket that asked; this one is gone, with the process that had it, or with the network.
  for (const job of jobs.values()) job.lose();
});

class Job {
  constructor(name, text) {
    this.id = crypto.randomUUID();
    this.item = element("job").content.firstElementChild.cloneNode(true);
    this.part(".name").textContent = name;
    this.part(".hint").textContent = "It waits for a worker.";
    this.part(".kill").addEventListener("click", () => client.send({ type: "kill", worker: this.worker }));
    element("jobs").prepend(this.item);
    element("none").hidden = true;
    jobs.set(this.id, this);
    client.send({ type: "upload", job: this.id, text });
  }

  part(selector) {
    return this.item.querySelector(selector);
  }

  hear({ worker, done, words, most, reason }) {
    if (reason) return this.end(reason);
    const another = this.worker !== undefined && worker !== this.worker;
    if (another) this.before = this.worker;
    this.worker = worker;
    this.part("progress").value = done;
    this.part(".who").textContent = worker === serving ? `worker ${worker}, as this page` : `worker ${worker}`;
    this.part(".kill").hidden = done === 1;
    if (done === 1) {
      const told = most.map(([word, count]) => `${word} (${count})`).join(", ");
      this.end(`${words} words; most often ${told || "none"}.`);
    } else {
      const taken = this.before === undefined ? "" : ` Worker ${this.before} is gone, and ${worker} has taken it up.`;
      this.part(".hint").textContent = `${Math.round(done * 100)} % done.${taken}`;
    }
  }

  lose() {
    if (this.part("progress").value < 1) {
      this.end("This window lost its connection. The job is done all the same; its end is told to nobody.");
    }
  }

  end(text) {
    this.part(".hint").textContent = text;
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
