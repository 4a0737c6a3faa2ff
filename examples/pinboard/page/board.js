/** The server renders; this puts it where it belongs. After a reconnect it is sent the whole board again. */

import { TriochanClient } from "/triochan/client.js";

const client = new TriochanClient("/");
const notes = document.getElementById("notes");

client.listen(({ board, note }) => {
  if (board !== undefined) {
    notes.innerHTML = board; // the server's own HTML, whose template has escaped what people wrote
  } else {
    notes.querySelector(".empty")?.remove();
    notes.insertAdjacentHTML("afterbegin", note);
  }
});

client.addEventListener("statechange", () => {
  document.getElementById("state").hidden = client.state !== "waiting";
});

client.connect();
