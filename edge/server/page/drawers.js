/** The list and the settings at the sides: beside the conversation where there is room, else over it. */

import { byId } from "./dom.js";

const WIDE = { sidebar: matchMedia("(min-width: 56rem)"), panel: matchMedia("(min-width: 76rem)") };

class Drawer {
  constructor(id, buttonId) {
    this.place = byId(id);
    this.button = byId(buttonId);
    this.wide = WIDE[id];
    this.isOpen = false;
    this.button.addEventListener("click", () => this.set(!this.isOpen));
    this.place.querySelector(".close").addEventListener("click", () => this.set(false));
    this.wide.addEventListener("change", () => this.set(id === "sidebar" && this.wide.matches, false));
    this.set(id === "sidebar" && this.wide.matches, false);
  }

  get isOver() {
    return this.isOpen && !this.wide.matches;
  }

  set(isOpen, movesFocus = true) {
    const wasOpen = this.isOpen;
    this.isOpen = isOpen;
    this.place.hidden = !isOpen;
    this.button.setAttribute("aria-expanded", String(isOpen));
    const isOver = drawers.some((drawer) => drawer.isOver) || this.isOver;
    byId("main").inert = isOver;
    byId("shade").hidden = !isOver;
    if (!movesFocus || isOpen === wasOpen) return;
    if (isOpen) this.place.querySelector("button, input, textarea")?.focus();
    else this.button.focus();
  }
}

const drawers = [];

export function startDrawers() {
  drawers.push(new Drawer("sidebar", "open-sidebar"), new Drawer("panel", "open-panel"));
  byId("shade").addEventListener("click", closeOver);
}

/** Closes what lies over the conversation. False if nothing does. */
export function closeOver() {
  const over = drawers.find((drawer) => drawer.isOver);
  over?.set(false);
  return over !== undefined;
}

export function openPanel() {
  drawers[1].set(true, false);
}
