/**
 * One room. The server says `welcome` with what was said, then each `message`; who is here is the room's presence. After a
 * reconnect both are told anew, so the page never has to find out what it missed.
 */

import { OutboxFullError, TriochanClient } from "/triochan/client.js";

import { fromTemplate, leaveKey, loadName, paintAvatar, saveName, takeKey } from "./shared.js";

const SAME_BREATH = 5 * 60; // seconds in which what one person says stands under one name

const element = (id) => document.getElementById(id);
const [log, text, send] = ["log", "text", "send"].map(element);

const room = location.pathname.split("/").pop();
/** This page's own key: coming back with it takes the place that the lost connection may still hold. */
const key = takeKey() ?? [...crypto.getRandomValues(new Uint32Array(4))].map((part) => part.toString(16).padStart(8, "0")).join("");
addEventListener("pagehide", () => leaveKey(key));

let name = loadName();
let you = "";
let members = [];
let early = []; // messages that came before this connection's welcome, which may have them or not; undefined after it
let fresh = true; // the list of who is here is this connection's first
let last; // the message at the bottom of the log
let atBottom = true;
const shown = new Set(); // the ids of the messages in the log
let unread = 0;
let unconfirmed = []; // texts that were sent and have not come back yet

// Nothing waits in the outbox: while there is no connection, what is typed stays where it can be seen.
const client = new TriochanClient(() => `${location.pathname}?${new URLSearchParams({ name, page: key })}`, {
  outboxLimit: 0,
});

const here = client.presence(`room.${room}`);

client.listen((event) => {
  switch (event.type) {
    case "welcome":
      you = event.you;
      element("state").title = `by process ${event.process}`;
      showMembers();
      if (early) {
        restoreLost(event.messages);
        showHistory(event.messages);
        early.forEach(takeMessage);
        early = undefined;
      } else event.messages.forEach(takeMessage); // some may have been missed
      break;
    case "message":
      if (early) early.push(event);
      else takeMessage(event);
      break;
    case "error":
      element("problem").textContent = `Not taken: ${event.text}.`;
      break;
  }
});

here.addEventListener("sync", () => {
  const before = members;
  // One page may be here twice for a moment, by the connection that it has lost and by its new one.
  members = Object.values(here.list()).map((metas) => metas.at(-1).name);
  showMembers();
  if (!fresh) {
    for (const each of before) if (each !== you && !members.includes(each)) addNotice(each, "left");
    for (const each of members) if (each !== you && !before.includes(each)) addNotice(each, "joined");
  }
  fresh = false;
});

// ---- the conversation

/** One that the history had already is no news. */
function takeMessage(event) {
  if (shown.has(event.id)) return;
  if (event.name === you && event.via === "page") unconfirmed.shift();
  addMessage(event);
  noteUnread();
}

function showHistory(messages) {
  log.setAttribute("aria-busy", "true"); // old news: not to be read out
  log.replaceChildren();
  last = undefined;
  shown.clear();
  for (const message of messages) addMessage(message);
  element("nothing").hidden = messages.length > 0;
  scrollDown();
  log.setAttribute("aria-busy", "false");
}

function addMessage(message) {
  shown.add(message.id);
  const item = fromTemplate("message");
  const own = message.name === you && message.via === "page";
  const continued =
    last?.name === message.name && last.via === message.via && message.time - last.time < SAME_BREATH &&
    log.lastElementChild?.classList.contains("message");
  item.classList.toggle("own", own);
  item.classList.toggle("continued", Boolean(continued));
  paintAvatar(item.querySelector(".avatar"), message.name);
  item.querySelector(".name").textContent = own ? "You" : message.name;
  item.querySelector(".via").hidden = message.via !== "http";
  item.querySelector(".text").textContent = message.text;
  showTime(item.querySelector("time"), new Date(message.time * 1000));
  last = message;
  element("nothing").hidden = true;
  append(item);
}

function showTime(time, at) {
  const today = at.toDateString() === new Date().toDateString();
  time.dateTime = at.toISOString();
  time.title = at.toLocaleString();
  time.textContent = at.toLocaleString([], today ? { timeStyle: "short" } : { dateStyle: "short", timeStyle: "short" });
}

function addNotice(who, what) {
  const item = fromTemplate("notice");
  item.querySelector("bdi").textContent = who;
  item.querySelector("span").textContent = what;
  append(item);
}

/** Put it at the bottom, and keep the bottom in sight unless somebody is reading further up. */
function append(item) {
  log.append(item);
  if (atBottom || item.classList.contains("own")) scrollDown();
  else element("newer").hidden = false;
}

function scrollDown() {
  log.scrollTop = log.scrollHeight;
  element("newer").hidden = true;
}

log.addEventListener("scroll", () => {
  atBottom = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
  if (atBottom) element("newer").hidden = true;
});
element("newer").addEventListener("click", scrollDown);
new ResizeObserver(() => atBottom && scrollDown()).observe(log); // a phone's keyboard came, say

function noteUnread() {
  if (document.visibilityState === "hidden") unread += 1;
  showTitle();
}

function showTitle() {
  document.title = `${unread ? `(${unread}) ` : ""}#${room}`;
}

document.addEventListener("visibilitychange", () => {
  if (document.visibilityState === "visible") unread = 0;
  showTitle();
});

// ---- the people

function showMembers() {
  const items = members.map((member) => {
    const item = fromTemplate("member");
    paintAvatar(item.querySelector(".avatar"), member);
    item.querySelector(".name").textContent = member;
    if (member === you) {
      const rename = fromTemplate("own-name");
      rename.setAttribute("aria-label", `${member} is you: change your name`);
      rename.addEventListener("click", () => askName());
      item.append(rename);
    }
    return item;
  });
  element("members").replaceChildren(...items);
  element("count").textContent = members.length;
}

/** Ask for a name, and enter with it; also when one is worn already. */
function askName(problem = "") {
  element("name").value = name;
  element("naming-problem").textContent = problem;
  if (!element("naming").open) element("naming").showModal();
}

element("naming").addEventListener("submit", () => {
  name = element("name").value.trim();
  saveName(name);
  client.reconnect(); // a name belongs to a connection: this is a new one
});

element("naming").addEventListener("cancel", (event) => {
  if (client.state !== "open") event.preventDefault(); // no name, no chat
});

// ---- saying something

function say() {
  const said = text.value.trim();
  element("problem").textContent = "";
  if (!said) return;
  try {
    client.send({ type: "say", text: said });
  } catch (error) {
    if (!(error instanceof OutboxFullError)) throw error;
    return; // no connection after all: the text stays
  }
  unconfirmed.push(said);
  text.value = "";
  fitText();
}

/** What was on its way when the connection broke, and is not in the history, goes back to be sent again. */
function restoreLost(messages) {
  const arrived = messages.filter((message) => !(message.id <= last?.id)).map((message) => message.text);
  const lost = unconfirmed.filter((said) => !arrived.includes(said));
  unconfirmed = [];
  if (lost.length) text.value = [...lost, text.value].filter(Boolean).join("\n");
  fitText();
}

function fitText() {
  text.style.height = "auto";
  text.style.height = `${text.scrollHeight + text.offsetHeight - text.clientHeight}px`;
  showSendable();
}

function showSendable() {
  send.disabled = client.state !== "open" || !text.value.trim();
}

text.addEventListener("input", fitText);
text.addEventListener("keydown", (event) => {
  // Not while an input method composes a word; and a phone's Enter is for lines, its button sends.
  const wanted = event.key === "Enter" && !event.shiftKey && !event.isComposing;
  if (!wanted || matchMedia("(pointer: coarse)").matches) return;
  event.preventDefault();
  if (!send.disabled) say();
});
element("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  say();
  text.focus();
});

// ---- where the connection stands

const WORDS = { idle: "", connecting: "Connecting", open: "Online", waiting: "Offline", closing: "Offline", closed: "Offline" };
let wasOpen = false;
let countdown;

client.addEventListener("statechange", () => {
  const { state } = client;
  element("state").dataset.state = state;
  element("state").textContent = WORDS[state];
  clearInterval(countdown);
  element("countdown").textContent = "";
  if (state === "open") {
    wasOpen = fresh = true;
    early = [];
    showBanner("");
  } else if (wasOpen || state === "waiting") {
    showBanner(wasOpen ? "Connection lost. Trying again" : "The chat can't be reached. Trying again");
    element("countdown").textContent = "now…";
  }
  element("retry").hidden = true;
  showSendable();
});

client.addEventListener("reconnecting", ({ detail }) => {
  const at = Date.now() + detail.delay;
  const show = () => {
    const seconds = Math.ceil((at - Date.now()) / 1000);
    element("countdown").textContent = seconds > 1 ? `in ${seconds} s` : "now…";
    element("retry").hidden = seconds <= 1;
  };
  show();
  countdown = setInterval(show, 500);
});

client.addEventListener("close", ({ detail }) => {
  if (detail.willReconnect) return;
  if (detail.code === 4400) { // the name was not taken; the server has said why
    showBanner("");
    askName(element("problem").textContent);
    element("problem").textContent = "";
  } else {
    showBanner(`Disconnected (${detail.reason || `code ${detail.code}`}).`);
    element("retry").hidden = false;
  }
});

element("retry").addEventListener("click", () => client.connect());

function showBanner(words) {
  element("banner").hidden = !words;
  // Only when it changes: it is read out.
  if (element("banner-text").textContent !== words) element("banner-text").textContent = words;
}

// ---- the rest of the page

element("title").textContent = room;
showTitle();

element("curl").textContent =
  `curl ${location.origin}/rooms/${room}/messages \\\n  -d name=Robot \\\n  -d text=Hello`;

element("invite").hidden = !(navigator.share || navigator.clipboard);
element("invite").addEventListener("click", async () => {
  try {
    if (navigator.share && matchMedia("(pointer: coarse)").matches) {
      await navigator.share({ title: `#${room}`, url: location.href });
    } else {
      await navigator.clipboard.writeText(location.href);
      element("invite").textContent = "Link copied";
      setTimeout(() => (element("invite").textContent = "Invite"), 2000);
    }
  } catch {
    // Dismissed, or not allowed: the address bar has the link as well.
  }
});

if (name) client.connect();
else askName();
