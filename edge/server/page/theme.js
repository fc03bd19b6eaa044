/** Light or dark: as the system has it, until a person chooses. */

import { byId } from "./dom.js";

const KEY = "edge.theme";
const DARK = matchMedia("(prefers-color-scheme: dark)");

export function startTheme() {
  const button = byId("theme");
  const show = () => {
    const label = `Switch to the ${isDark() ? "light" : "dark"} theme`;
    button.setAttribute("aria-label", label);
    button.title = label;
  };
  button.addEventListener("click", () => {
    document.documentElement.dataset.theme = isDark() ? "light" : "dark";
    show();
    try {
      localStorage.setItem(KEY, document.documentElement.dataset.theme);
    } catch {
      // storage is switched off: until the page is closed
    }
  });
  DARK.addEventListener("change", show);
  show();
}

function isDark() {
  const chosen = document.documentElement.dataset.theme;
  return chosen === undefined ? DARK.matches : chosen === "dark";
}
