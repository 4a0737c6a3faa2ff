import { TriochanClient } from "/triochan/client.js";

const STATES = { open: "Online", connecting: "Connecting…", waiting: "Offline", closing: "Offline", closed: "Offline" };
const SHOWN = 12;
const SEND_AFTER = 250; // ms without a key

const note = document.getElementById("note");
const handlers = document.getElementById("handlers");
const me = crypto.getRandomValues(new Uint32Array(2)).join("-");
const client = new TriochanClient("/live/", { outboxLimit: 1 });

client.listen((message) => {
  if (message.type === "note") {
    // What this window wrote comes back as well, perhaps while the next word is being typed.
    if (message.from !== me) note.value = message.note;
    note.disabled = false;
  } else if (message.type === "handler") {
    show(message);
  } else if (message.type === "error") {
    document.getElementById("problem").textContent = message.error;
  }
});

client.addEventListener("statechange", () => {
  const state = document.getElementById("state");
  state.textContent = STATES[client.state] ?? "";
  state.dataset.state = client.state;
  if (client.state !== "open") note.disabled = true;
});

// The server has said that this page is over: we are logged out, here or in another window.
client.addEventListener("close", ({ detail }) => {
  if (!detail.willReconnect) location.reload();
});

let timer;
note.addEventListener("input", () => {
  clearTimeout(timer);
  timer = setTimeout(() => {
    document.getElementById("problem").textContent = "";
    if (client.state === "open") client.send({ note: note.value, from: me });
  }, SEND_AFTER);
});

function show({ handler, user, windows }) {
  const item = document.getElementById("handler").content.firstElementChild.cloneNode(true);
  item.querySelector("code").textContent = handler;
  item.querySelector(".user").textContent = user;
  item.querySelector("time").textContent = new Date().toLocaleTimeString();
  handlers.prepend(item);
  while (handlers.children.length > SHOWN) handlers.lastElementChild.remove();
  document.getElementById("windows").textContent = windows === 1 ? "in this window" : `in ${windows} windows`;
}

client.connect();
