/** The readers' page. After a reconnect the server sends its lists again, so nothing that was missed stays missing. */

import { TriochanClient } from "/triochan/client.js";

import { arrange, element, follow, fromTemplate, inOrder, showConnection, showTime } from "./shared.js";

const FAR_DOWN = 300; // pixels from where somebody is reading, and not looking at what is new

const client = new TriochanClient("/live");
const articles = new Map();
const tiles = new Map();
let unread = 0;

// ---- posts

const posts = follow(client.stream("posts"), {
  onlist: () => {
    articles.clear();
    element("posts").replaceChildren();
    showPosts();
  },
  onchange: (action, pk, data, before) => {
    // Whoever reads further down keeps their place in the text when something is put in above it.
    const anchor = scrollY > FAR_DOWN ? [...element("posts").children].find((each) => each.getBoundingClientRect().bottom > 0) : null;
    const top = anchor?.getBoundingClientRect().top;
    showPosts();
    if (anchor?.isConnected) scrollBy({ top: anchor.getBoundingClientRect().top - top, behavior: "instant" });
    if (action !== "delete") flash(articles.get(pk));
    if (action === "create" && !before) noteUnread();
  },
});

function showPosts() {
  for (const pk of articles.keys()) if (!posts.has(pk)) articles.delete(pk);
  const items = inOrder(posts).map(([pk, data]) => {
    if (!articles.has(pk)) articles.set(pk, fromTemplate("post"));
    const article = articles.get(pk);
    article.classList.toggle("key", data.pinned);
    article.querySelector(".pinned").hidden = !data.pinned;
    article.querySelector("h2").textContent = data.headline;
    article.querySelector("h2").hidden = !data.headline;
    article.querySelector(".text").textContent = data.text;
    showTime(article.querySelector("time"), data.time);
    return article;
  });
  arrange(element("posts"), items);
  element("nothing").hidden = items.length > 0;
}

// ---- numbers

const values = follow(client.stream("values"), {
  onlist: () => {
    tiles.clear();
    showValues();
  },
  onchange: (action, pk) => {
    showValues();
    if (action !== "delete") flash(tiles.get(pk));
  },
});

function showValues() {
  for (const pk of tiles.keys()) if (!values.has(pk)) tiles.delete(pk);
  const items = [...values].sort(([a], [b]) => a - b).map(([pk, { name, value }]) => {
    if (!tiles.has(pk)) tiles.set(pk, fromTemplate("value"));
    const tile = tiles.get(pk);
    tile.querySelector("dt").textContent = name;
    tile.querySelector("dd").textContent = value.toLocaleString();
    return tile;
  });
  arrange(element("values"), items);
}

// ---- what is new

function flash(item) {
  item.classList.remove("fresh");
  void item.offsetWidth; // begins the animation anew
  item.classList.add("fresh");
}

function noteUnread() {
  if (document.visibilityState === "visible" && scrollY <= FAR_DOWN) return;
  unread += 1;
  showUnread();
}

function showUnread() {
  element("newer").hidden = !unread || scrollY <= FAR_DOWN;
  element("newer").textContent = unread === 1 ? "1 new post ↑" : `${unread} new posts ↑`;
  document.title = `${unread ? `(${unread}) ` : ""}Live blog`;
}

function noteRead() {
  if (document.visibilityState !== "visible" || scrollY > FAR_DOWN) return;
  unread = 0;
  showUnread();
}

document.addEventListener("visibilitychange", noteRead);
document.addEventListener("scroll", noteRead, { passive: true });
element("newer").addEventListener("click", () => scrollTo({ top: 0, behavior: "smooth" }));

showConnection(client);
client.connect();
