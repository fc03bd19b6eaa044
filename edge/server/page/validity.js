/** What can be said of a schema as it is typed, and of an answer that was held to one. */

import { element, icon } from "./dom.js";
import { readJson } from "./json_text.js";
import { validate } from "./json_schema.js";

/** { state: "none" | "valid" | "invalid", text } for what stands in the schema's field. */
export function schemaState(text) {
  if (text.trim() === "") return { state: "none", text: "No schema" };
  const read = readJson(text);
  if (read.message) return { state: "invalid", text: `Line ${read.line}, column ${read.column}: ${read.message}.` };
  if (typeof read.value !== "object" || read.value === null || Array.isArray(read.value)) {
    return { state: "invalid", text: 'A schema is an object, such as {"type": "object"}.' };
  }
  return { state: "valid", text: "Valid JSON" };
}

/** { state: "valid" | "invalid" | "open", text, about } for an answer; `isWhole`: nothing more will come. */
export function answerState(content, schema, isWhole) {
  const read = readJson(content);
  if (read.message) {
    if (read.isUnfinished && !isWhole) return { state: "open", text: "Valid so far" };
    const what = read.isUnfinished ? "Unfinished JSON" : "Not JSON";
    return { state: "invalid", text: what, about: `Line ${read.line}, column ${read.column}: ${read.message}.` };
  }
  const { errors, unchecked } = validate(JSON.parse(schema), read.value);
  const left = unchecked.length > 0 ? `Left to the server: ${unchecked.join(", ")}.` : "";
  if (errors.length === 0) return { state: "valid", text: "Matches the schema", about: left };
  const reasons = errors.map(({ path, message }) => `${path} ${message}`).join("; ");
  return { state: "invalid", text: "Does not match", about: `${reasons}. ${left}`.trim() };
}

const ICONS = { valid: "check", invalid: "warning", open: "dots", none: "braces" };

export function badge({ state, text, about = "" }) {
  return element(
    "span",
    { class: "validity" },
    element("span", { class: `badge ${state}` }, icon(ICONS[state]), text),
    about ? element("span", { class: "about" }, about) : null,
  );
}
