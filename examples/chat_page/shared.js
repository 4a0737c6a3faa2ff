/** What both pages use. Whatever came from somebody else becomes text here, never markup. */

/** The name that was used last; "" where there is none, or the browser keeps nothing for us. */
export function loadName() {
  try {
    return localStorage.getItem("name") ?? "";
  } catch {
    return "";
  }
}

export function saveName(name) {
  try {
    localStorage.setItem("name", name);
  } catch {
    // Not kept, then: the page asks again next time.
  }
}

/** A page that is reloaded leaves its key to the next one in its tab, and to that alone: a copy of the tab is somebody else. */
export function leaveKey(key) {
  try {
    sessionStorage.setItem("key", key);
  } catch {
    // Then the next one has a new key.
  }
}

/** The key that was left; null where there is none. */
export function takeKey() {
  try {
    const key = sessionStorage.getItem("key");
    sessionStorage.removeItem("key");
    return key;
  } catch {
    return null;
  }
}

/** A copy of what is in the template of that id. */
export function fromTemplate(id) {
  return document.getElementById(id).content.firstElementChild.cloneNode(true);
}

/** A name's initials, on a colour that is always the same for the name. */
export function paintAvatar(element, name) {
  const words = name.split(" ").filter(Boolean);
  const initials = words.slice(0, 2).map((word) => [...word][0]);
  element.textContent = initials.join("").toUpperCase();
  let hash = 0;
  for (const character of name) hash = (Math.imul(hash, 31) + character.codePointAt(0)) >>> 0;
  element.style.setProperty("--hue", Math.round(hash * 137.508) % 360); // the golden angle spreads neighbours
}
