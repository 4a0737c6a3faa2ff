/**
 * A room. The server says how it is (`phase`, `players`, …) whenever that changes, and each second how many are
 * `left`; the page says `{round, choice}`. Whatever somebody else wrote becomes text here, never markup.
 */

import { TriochanClient } from "/triochan/client.js";

const element = (id) => document.getElementById(id);
const fromTemplate = (id) => element(id).content.firstElementChild.cloneNode(true);

const me = document.body.dataset.name;
const STATES = { open: "Online", connecting: "Connecting…", waiting: "Offline", closed: "Closed" };

let view;
let longest = 1; // seconds of this phase, as far as we have seen
let chosen; // {key, choice}, in this window
let before = 0; // my points when the question was put

// Nothing waits in the outbox: an answer that comes late would be none.
const client = new TriochanClient(location.pathname, { outboxLimit: 0 });

client.listen((message) => {
  if ("phase" in message) {
    if (view?.phase !== message.phase || view?.round !== message.round) longest = 1;
    view = message;
    show();
  } else if ("left" in message) {
    longest = Math.max(longest, message.left);
    element("left").textContent = message.left;
    element("bar").style.width = `${(100 * message.left) / longest}%`;
  } else if ("error" in message) {
    console.warn(message); // not one of this page's making
  }
});

client.addEventListener("statechange", () => {
  element("state").textContent = STATES[client.state] ?? "";
  document.body.dataset.state = client.state;
  if (client.state === "open") element("banner").hidden = true;
  if (view) show();
});

client.addEventListener("close", ({ detail }) => {
  if (detail.code === 4401) {
    location.href = "/"; // nobody of that name is known: it asks for one
    return;
  }
  chosen = undefined; // the server knows whether it has heard it; one that is started anew may put the same question first
  element("banner").hidden = false;
  element("banner").textContent = detail.willReconnect
    ? "The connection is lost. You come back by yourself, and your points are safe."
    : `This window is out: ${detail.reason || "the server has closed it"}. Load the page again to play on.`;
});

function show() {
  const mine = view.players.find(([name]) => name === me);
  const open = view.phase === "question" && client.state === "open" && !mine?.[2] && chosen?.key !== key();
  if (view.phase === "question" && !mine?.[2]) before = mine?.[1] ?? 0;
  document.body.dataset.phase = view.phase;
  element("kicker").textContent = {
    waiting: "The game begins in",
    question: `Question ${view.round}`,
    answer: "The next question comes in",
  }[view.phase];
  element("question").textContent = view.phase === "waiting" ? "Get ready!" : view.question;
  element("verdict").textContent = verdict(mine);
  showChoices(open);
  showPlayers();
}

/** What tells one question from all others; a server that was started anew counts its rounds from one. */
function key() {
  return `${view.round} ${view.question}`;
}

function verdict(mine) {
  if (view.phase === "waiting") return "One of four answers is right, and the faster you are the more it counts.";
  if (view.phase === "question" && mine?.[2]) {
    const others = view.players.filter(([, , answered]) => !answered).map(([name]) => name);
    return others.length === 0 ? "Everybody has answered." : `Your answer stands. ${inWords(others)} still thinking…`;
  }
  if (view.phase !== "answer" || !mine) return "";
  const gained = mine[1] - before;
  if (gained > 0) return `Right! ${gained} points for you.`;
  return `${mine[2] ? "Not this time" : "Too late"}: it was ${view.choices[view.right]}.`;
}

function inWords(names) {
  return names.length > 2 ? `${names.length} others are` : `${names.join(" and ")} ${names.length > 1 ? "are" : "is"}`;
}

function showChoices(open) {
  const choice = chosen?.key === key() ? chosen.choice : undefined;
  // The buttons stay what they are while one question stands: who has the focus on one keeps it.
  const box = element("choices");
  if (box.dataset.key !== key()) {
    box.dataset.key = key();
    box.replaceChildren(...view.choices.map((text, number) => choiceButton(text, number)));
  }
  [...box.children].forEach((button, number) => {
    button.disabled = !open;
    button.classList.toggle("chosen", number === choice);
    button.classList.toggle("right", number === view.right);
    button.classList.toggle("wrong", view.right !== null && number === choice && number !== view.right);
    button.setAttribute("aria-pressed", number === choice);
  });
}

function choiceButton(text, number) {
  const button = fromTemplate("choice");
  button.querySelector("b").textContent = "ABCD"[number];
  button.querySelector("span").textContent = text;
  button.addEventListener("click", () => {
    chosen = { key: key(), choice: number };
    client.send({ round: view.round, choice: number });
    show();
  });
  return button;
}

function showPlayers() {
  const sorted = [...view.players].sort(([a, more], [b, less]) => less - more || a.localeCompare(b));
  const items = sorted.map(([name, points, answered]) => {
    const item = fromTemplate("player");
    item.querySelector(".name").textContent = name;
    item.querySelector("b").textContent = points;
    item.querySelector(".mark").textContent = answered && view.phase === "question" ? "✓" : "";
    item.classList.toggle("own", name === me);
    return item;
  });
  element("players").replaceChildren(...items);
}

client.connect();
