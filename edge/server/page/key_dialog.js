/** Asks for the server's API key, which is kept for this tab only. */

import { rememberKey } from "./api.js";
import { byId } from "./dom.js";

let then = () => {};

/** Calls `entered()` once a key was given; nothing if the dialog is closed without one. */
export function askForKey(entered) {
  then = entered;
  const dialog = byId("key-dialog");
  if (!dialog.open) dialog.showModal();
}

byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const field = byId("key");
  if (field.value.trim() === "") return;
  rememberKey(field.value.trim());
  field.value = "";
  byId("key-dialog").close();
  then();
});
byId("key-cancel").addEventListener("click", () => byId("key-dialog").close());
