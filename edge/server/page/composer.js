/** Where a person writes, and what is known about the conversation's size. */

import { byId, icon, shown } from "./dom.js";

const MAX_HEIGHT = 240;

/** `actions`: send(text), which says whether it was taken; stop(). */
export class Composer {
  #isAnswering = false;

  constructor(actions) {
    this.actions = actions;
    this.field = byId("prompt");
    this.button = byId("send");
    byId("composer").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#submit();
    });
    this.field.addEventListener("input", () => this.#fit());
    this.field.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      if (!this.#isAnswering) this.#submit();
    });
    this.showAnswering(false);
  }

  focus() {
    this.field.focus();
  }

  /** Puts the keyboard where the next message is typed, unless that would bring up one on the screen. */
  invite() {
    if (matchMedia("(hover: hover)").matches) this.focus();
  }

  showAnswering(isAnswering) {
    this.#isAnswering = isAnswering;
    const label = isAnswering ? "Stop" : "Send";
    this.button.replaceChildren(icon(isAnswering ? "stop" : "send"));
    this.button.setAttribute("aria-label", label);
    this.button.title = isAnswering ? "Stop (Esc)" : "Send (Enter)";
    this.button.classList.toggle("stop", isAnswering);
    this.#fit();
  }

  /** How much of the context is used; `context` is null where the server does not tell its size. */
  showContext(used, context) {
    const meter = byId("context");
    meter.hidden = used === null;
    if (used === null) return;
    const share = context ? Math.min(used / context, 1) : 0;
    const words = context ? `${shown(used)} of ${shown(context)} tokens` : `${shown(used)} tokens`;
    byId("context-words").textContent = words;
    const bar = byId("context-bar");
    bar.hidden = !context;
    bar.classList.toggle("nearly-full", share > 0.85);
    bar.setAttribute("aria-valuenow", String(Math.round(share * 100)));
    bar.setAttribute("aria-valuetext", words);
    bar.style.setProperty("--share", `${share * 100}%`);
  }

  #submit() {
    if (this.#isAnswering) return this.actions.stop();
    const text = this.field.value;
    if (text.trim() === "" || !this.actions.send(text)) return;
    this.field.value = "";
    this.#fit();
  }

  #fit() {
    this.button.disabled = !this.#isAnswering && this.field.value.trim() === "";
    this.field.style.height = "auto";
    this.field.style.height = `${Math.min(this.field.scrollHeight, MAX_HEIGHT)}px`;
  }
}
