/** What the page says beside the conversation: for a moment, for as long as it is so, and to screen readers. */

import { byId, element, iconButton } from "./dom.js";

const SHOWN_MILLISECONDS = 6000;
const WITH_BUTTON_MILLISECONDS = 15000; // long enough to get there by keyboard

/** Says something for a while, with one thing to do about it. It stays as long as it is pointed at or has the keyboard. */
export function toast(text, { label, run } = {}) {
  const shown = element("div", { class: "toast" }, element("span", {}, text));
  let timer;
  const wait = () => {
    clearTimeout(timer);
    timer = setTimeout(() => shown.remove(), label ? WITH_BUTTON_MILLISECONDS : SHOWN_MILLISECONDS);
  };
  if (label) {
    const act = () => {
      shown.remove();
      run();
    };
    shown.append(element("button", { type: "button", on: { click: act } }, label));
  }
  shown.append(iconButton("close", "Close", () => shown.remove()));
  for (const event of ["pointerenter", "focusin"]) shown.addEventListener(event, () => clearTimeout(timer));
  for (const event of ["pointerleave", "focusout"]) shown.addEventListener(event, wait);
  byId("toasts").append(shown);
  wait();
}

/** Says what is wrong above the conversation until it is put right; null takes it away. */
export function banner(text, { label, run } = {}) {
  const place = byId("banner");
  place.hidden = text === null;
  place.replaceChildren();
  if (text === null) return;
  place.append(element("span", {}, text));
  if (label) place.append(element("button", { type: "button", on: { click: run } }, label));
}

/** Reads a text aloud, after what is being read. */
export function announce(text) {
  byId("announcer").append(element("p", {}, text));
}

export function forgetAnnounced() {
  byId("announcer").replaceChildren();
}
