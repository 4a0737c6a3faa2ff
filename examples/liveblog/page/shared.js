/** What both pages use. Whatever came from somebody else becomes text here, never markup. */

export const element = (id) => document.getElementById(id);

/** A copy of what is in the template of that id. */
export function fromTemplate(id) {
  return element(id).content.firstElementChild.cloneNode(true);
}

/**
 * What a binding's stream says, as a map of its objects by key: `list` replaces all of it, the other three change it.
 * `onchange(action, pk, data, before)` is called for each object that a `create`, `update` or `delete` is about,
 * and `onlist()` for a list.
 */
export function follow(stream, { onchange, onlist, onerror }) {
  const objects = new Map();
  stream.listen(
    ({ action, pk, data, items }) => {
      if (action === "list") {
        objects.clear();
        for (const item of items) objects.set(item.pk, item.data);
        onlist();
        return;
      }
      const before = objects.get(pk);
      if (action === "delete") objects.delete(pk);
      else objects.set(pk, data);
      onchange(action, pk, data, before);
    },
    { onerror: ({ error, frame }) => onerror?.(frame.details?.length ? frame.details : [error]) },
  );
  return objects;
}

/** Let the children of `parent` be those of `items`, in order, moving no more of them than necessary. */
export function arrange(parent, items) {
  const wanted = new Set(items);
  for (const child of [...parent.children]) if (!wanted.has(child)) child.remove();
  items.forEach((item, index) => {
    if (parent.children[index] !== item) parent.insertBefore(item, parent.children[index] ?? null);
  });
}

/** Newest first, and key moments before all others. */
export function inOrder(posts) {
  return [...posts].sort(([a, one], [b, other]) => other.pinned - one.pinned || other.time - one.time || b - a);
}

export function showTime(time, seconds) {
  const at = new Date(seconds * 1000);
  const today = at.toDateString() === new Date().toDateString();
  time.dateTime = at.toISOString();
  time.title = at.toLocaleString();
  time.textContent = at.toLocaleString([], today ? { timeStyle: "short" } : { dateStyle: "medium", timeStyle: "short" });
}

const WORDS = { connecting: "Connecting", open: document.body.dataset.open, waiting: "Offline", closing: "Offline", closed: "Offline" };

/** Show where the connection stands: a word, and while it is lost a banner with a countdown. */
export function showConnection(client, { onclosed } = {}) {
  let countdown;
  let wasOpen = false;

  client.addEventListener("statechange", () => {
    const { state } = client;
    element("state").dataset.state = state;
    element("state").textContent = WORDS[state] ?? "";
    document.body.classList.toggle("offline", state !== "open");
    for (const control of document.querySelectorAll(".needs-connection")) control.disabled = state !== "open";
    clearInterval(countdown);
    element("countdown").textContent = "";
    element("retry").hidden = true;
    if (state === "open") {
      wasOpen = true;
      showBanner("");
    } else if (wasOpen || state === "waiting") {
      showBanner(wasOpen ? "Connection lost. Trying again" : "The server can't be reached. Trying again");
      element("countdown").textContent = "now…";
    }
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
    if (detail.willReconnect || onclosed?.(detail)) return;
    showBanner(`Disconnected (${detail.reason || `code ${detail.code}`}).`);
    element("retry").hidden = false;
  });

  element("retry").addEventListener("click", () => client.connect());
}

function showBanner(words) {
  element("banner").hidden = !words;
  // Only when it changes: it is read out.
  if (element("banner-text").textContent !== words) element("banner-text").textContent = words;
}
