/** Elements out of values. Text only ever becomes text: nothing here, or anywhere on the page, reads HTML. */

const SVG = "http://www.w3.org/2000/svg";

/**
 * element("button", { class: "small", type: "button", on: { click } }, "Copy")
 * Attributes that are null, undefined or false are left out; true is an empty attribute. Children are elements, texts
 * and lists of these.
 */
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "on") {
      for (const [event, listener] of Object.entries(value)) made.addEventListener(event, listener);
    } else if (value !== null && value !== undefined && value !== false) {
      made.setAttribute(name, value === true ? "" : String(value));
    }
  }
  return fill(made, children.flat());
}

/** Adds any number of children: spread into a call, many of them overflow the stack. */
export function fill(parent, children) {
  for (const child of children) if (child !== null && child !== undefined) parent.append(child);
  return parent;
}

/** One of the drawings in index.html, hidden from screen readers: what it stands for is said beside it. */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `#icon-${name}`);
  svg.append(use);
  return svg;
}

/** A button that shows a drawing and says `label` to those who cannot see it. */
export function iconButton(name, label, click, attributes = {}) {
  return element(
    "button",
    { type: "button", class: "icon-button", "aria-label": label, title: label, on: { click }, ...attributes },
    icon(name),
  );
}

export function byId(id) {
  return document.getElementById(id);
}

/** Copies a text, also where the page came over plain HTTP from another machine and has no clipboard of its own. */
export async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const field = element("textarea", { class: "visually-hidden", "aria-hidden": "true" });
    const focused = document.activeElement;
    field.value = text;
    document.body.append(field);
    field.select();
    const copied = document.execCommand("copy");
    field.remove();
    focused?.focus();
    return copied;
  }
}

/** A button that copies what `text()` gives and says that it has. */
export function copyButton(text, label = "Copy") {
  const button = iconButton("copy", label, async () => {
    const copied = await copyText(text());
    button.replaceChildren(icon(copied ? "check" : "close"));
    button.setAttribute("aria-label", copied ? "Copied" : "Not copied");
    setTimeout(() => {
      button.replaceChildren(icon("copy"));
      button.setAttribute("aria-label", label);
    }, 1500);
  });
  return button;
}

/** Numbers for people: 1,234 and 0.41. */
export function shown(number, digits = 0) {
  return number.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
}

/** An id that no other record has. `crypto.randomUUID` is missing where the page came over plain HTTP. */
export function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(12));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
