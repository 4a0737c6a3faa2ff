import { TriochanClient } from "/triochan/client.js";

import { fromTemplate, loadName, saveName } from "./shared.js";

const element = (id) => document.getElementById(id);

/** "Küche 2" → "kuche-2": what the server takes for a room's name. */
function slug(text) {
  const ascii = text.normalize("NFKD").replace(/\p{Mark}/gu, "").toLowerCase();
  return ascii.replace(/[^a-z0-9]+/g, "-").replace(/^-+|-+$/g, "").slice(0, 30);
}

element("name").value = loadName();
element(loadName() ? "room" : "name").focus();

element("room").addEventListener("input", () => element("room").setCustomValidity(""));
element("enter").addEventListener("submit", (event) => {
  event.preventDefault();
  const room = slug(element("room").value);
  if (!room) {
    element("room").setCustomValidity("A room's name has letters from a to z or digits.");
    element("room").reportValidity();
    return;
  }
  saveName(element("name").value.trim());
  location.assign(`/room/${room}`);
});

// The name goes along to a room that is picked from the list.
element("busy").addEventListener("click", () => {
  if (element("name").value.trim()) saveName(element("name").value.trim());
});

const client = new TriochanClient("/");
const here = client.presence("lobby");

here.addEventListener("sync", () => {
  const people = new Map();
  for (const metas of Object.values(here.list())) {
    const { room } = metas.at(-1);
    people.set(room, (people.get(room) ?? 0) + 1);
  }
  const busiest = [...people].sort(([one, many], [other, more]) => more - many || (one < other ? -1 : 1)).slice(0, 20);
  const items = busiest.map(([name, count]) => {
    const item = fromTemplate("busy-room");
    item.querySelector("a").href = `/room/${encodeURIComponent(name)}`;
    item.querySelector(".room-name").textContent = name;
    item.querySelector(".people").textContent = count === 1 ? "1 person" : `${count} people`;
    return item;
  });
  element("busy").replaceChildren(...items);
  element("quiet").hidden = items.length > 0;
});
client.connect();
