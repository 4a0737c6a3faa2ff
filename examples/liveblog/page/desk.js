/**
 * The editors' page. Nothing is shown as done before the server has said so: what is sent comes back as a change, to this
 * window as to all others. What may not have arrived when the connection broke is put back to be sent again.
 */

import { OutboxFullError, TriochanClient } from "/triochan/client.js";

import { arrange, element, follow, fromTemplate, inOrder, showConnection, showTime } from "./shared.js";

const SURE_SECONDS = 4; // how long a button that deletes waits to be pressed a second time

// Nothing waits in the outbox: while there is no connection, buttons that need it can't be pressed.
const client = new TriochanClient("/desk/live", { outboxLimit: 0 });
const streams = { posts: client.stream("posts"), values: client.stream("values") };
const articles = new Map();
const rows = new Map();
const composer = element("composer");
let sent; // the new post that has not come back yet

/** Send what is to be done; false where there is no connection after all. */
function ask(stream, payload) {
  showProblem(stream, []);
  try {
    streams[stream].send(payload);
    return true;
  } catch (error) {
    if (!(error instanceof OutboxFullError)) throw error;
    showProblem(stream, ["There is no connection; nothing was changed."]);
    return false;
  }
}

function showProblem(stream, details) {
  const words = details.map((line) => line.replace(/^\$\.data\.(\w+): /, "$1: ")).join(" ");
  element(stream === "posts" ? "post-problem" : "value-problem").textContent = words && `Not done. ${words}`;
}

// ---- posts

const posts = follow(streams.posts, {
  onlist: () => {
    if (sent && ![...posts.values()].some(isSent)) restoreSent();
    sent = undefined;
    showPosts();
  },
  onchange: (action, pk, data) => {
    if (action === "create" && sent && isSent(data)) sent = undefined;
    showPosts();
  },
  onerror: (details) => {
    if (sent) restoreSent();
    sent = undefined;
    showProblem("posts", details);
  },
});

const isSent = ({ headline, text }) => headline === sent.headline && text === sent.text.trim();

function restoreSent() {
  if (composer.elements.text.value.trim()) return; // something newer stands there
  composer.elements.headline.value = sent.headline;
  composer.elements.text.value = sent.text;
  composer.elements.pinned.checked = sent.pinned;
}

composer.addEventListener("submit", (event) => {
  event.preventDefault();
  const { headline, text, pinned } = composer.elements;
  const data = {
    headline: headline.value.trim(),
    text: text.value,
    pinned: pinned.checked,
    published: event.submitter?.name !== "draft",
  };
  if (!ask("posts", { action: "create", data })) return;
  sent = data;
  composer.reset();
  headline.focus();
});

function showPosts() {
  for (const pk of articles.keys()) if (!posts.has(pk)) articles.delete(pk);
  const items = inOrder(posts).map(([pk, data]) => {
    if (!articles.has(pk)) articles.set(pk, makeArticle(pk));
    showPost(articles.get(pk), data);
    return articles.get(pk);
  });
  arrange(element("posts"), items);
  element("nothing").hidden = items.length > 0;
}

function showPost(article, data) {
  article.querySelector(".draft").hidden = data.published;
  article.querySelector(".live").hidden = !data.published;
  article.querySelector(".pinned").hidden = !data.pinned;
  article.querySelector("h2").textContent = data.headline;
  article.querySelector("h2").hidden = !data.headline;
  article.querySelector(".text").textContent = data.text;
  article.querySelector(".publish").textContent = data.published ? "Take down" : "Publish";
  article.querySelector(".publish").classList.toggle("primary", !data.published);
  article.querySelector(".pin").textContent = data.pinned ? "Unpin" : "Pin";
  showTime(article.querySelector("time"), data.time);
  const editor = article.querySelector(".editor");
  if (editor) editor.querySelector(".hint").hidden = editor.dataset.began === JSON.stringify([data.headline, data.text]);
}

function makeArticle(pk) {
  const article = fromTemplate("post");
  const update = (data) => ask("posts", { action: "update", pk, data });
  const on = (selector, fn) => article.querySelector(selector).addEventListener("click", fn);
  on(".publish", () => update({ published: !posts.get(pk).published }));
  on(".pin", () => update({ pinned: !posts.get(pk).pinned }));
  on(".edit", () => edit(article, pk));
  twice(article.querySelector(".delete"), "Sure?", () => ask("posts", { action: "delete", pk }));
  setConnected(article);
  return article;
}

function edit(article, pk) {
  const { headline, text } = posts.get(pk);
  const editor = fromTemplate("editor");
  editor.dataset.began = JSON.stringify([headline, text]);
  editor.elements.headline.value = headline;
  editor.elements.text.value = text;
  const done = () => {
    editor.remove();
    article.classList.remove("editing");
    article.querySelector(".edit").focus();
  };
  editor.querySelector(".cancel").addEventListener("click", done);
  editor.addEventListener("keydown", ({ key }) => key === "Escape" && done());
  editor.addEventListener("submit", (event) => {
    event.preventDefault();
    const data = { headline: editor.elements.headline.value.trim(), text: editor.elements.text.value };
    if (ask("posts", { action: "update", pk, data })) done();
  });
  article.classList.add("editing");
  article.append(editor);
  setConnected(editor);
  editor.elements.text.focus();
}

// ---- numbers

const values = follow(streams.values, {
  onlist: showValues,
  onchange: showValues,
  onerror: (details) => {
    showValues(); // back to what they are
    showProblem("values", details);
  },
});

function showValues() {
  for (const pk of rows.keys()) if (!values.has(pk)) rows.delete(pk);
  const items = [...values].sort(([a], [b]) => a - b).map(([pk, { name, value }]) => {
    if (!rows.has(pk)) rows.set(pk, makeRow(pk));
    const row = rows.get(pk);
    const input = row.querySelector("input");
    row.querySelector(".name").textContent = name;
    input.setAttribute("aria-label", name);
    row.querySelector(".less").setAttribute("aria-label", `${name}: one less`);
    row.querySelector(".more").setAttribute("aria-label", `${name}: one more`);
    row.querySelector(".delete").setAttribute("aria-label", `Delete ${name}`);
    if (!row.typing) input.value = value; // not under somebody's fingers
    return row;
  });
  arrange(element("values"), items);
}

function makeRow(pk) {
  const row = fromTemplate("value");
  const input = row.querySelector("input");
  const set = (value) => {
    row.typing = false;
    if (!Number.isSafeInteger(value) || !ask("values", { action: "update", pk, data: { value } })) showValues();
  };
  row.querySelector(".less").addEventListener("click", () => set(values.get(pk).value - 1));
  row.querySelector(".more").addEventListener("click", () => set(values.get(pk).value + 1));
  input.addEventListener("focus", () => input.select());
  input.addEventListener("input", () => (row.typing = true));
  input.addEventListener("change", () => set(input.value === "" ? NaN : Number(input.value)));
  input.addEventListener("blur", () => {
    row.typing = false;
    showValues();
  });
  twice(row.querySelector(".delete"), "?", () => ask("values", { action: "delete", pk }));
  setConnected(row);
  return row;
}

element("add-value").addEventListener("submit", (event) => {
  event.preventDefault();
  const name = element("value-name").value.trim();
  if (ask("values", { action: "create", data: { name } })) element("value-name").value = "";
});

// ---- the rest of the page

streams.audience = client.stream("audience");
streams.audience.listen(({ readers }) => {
  element("audience").textContent = readers === 1 ? "1 reader" : `${readers} readers`;
});

/** A button that does something when it is pressed twice: what it does can't be undone. */
function twice(button, question, fn) {
  const label = [...button.childNodes];
  let timer;
  const calm = () => {
    clearTimeout(timer);
    button.classList.remove("sure");
    button.replaceChildren(...label);
  };
  button.addEventListener("click", () => {
    if (button.classList.contains("sure")) {
      calm();
      fn();
      return;
    }
    button.classList.add("sure");
    button.textContent = question;
    timer = setTimeout(calm, SURE_SECONDS * 1000);
  });
  button.addEventListener("blur", calm);
}

function setConnected(item) {
  for (const control of item.querySelectorAll(".needs-connection")) control.disabled = client.state !== "open";
}

let leaving = false;
document.querySelector("header form").addEventListener("submit", () => {
  leaving = true; // this window goes to the blog
  client.close();
});

showConnection(client, {
  onclosed: ({ code }) => {
    if (leaving) return true;
    if (code !== 4401 && code !== 3000) return false;
    location.reload(); // logged out: the server shows the form for the password
    return true;
  },
});
setConnected(document);
client.connect();
