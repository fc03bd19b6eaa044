/** The settings of a conversation under the server's names. What is left empty is not sent: the model's default holds. */

const KEY = "edge.settings";

/** What a person may set. `least`, `most`: what the server allows. */
export const SETTINGS = [
  { name: "temperature", label: "Temperature", kind: "number", least: 0, step: 0.1, about: "0 always takes the likeliest" },
  { name: "top_p", label: "Top p", kind: "number", least: 0, most: 1, isAboveLeast: true, step: 0.05, about: "share of probability kept" },
  { name: "top_k", label: "Top k", kind: "integer", least: 0, step: 1, about: "tokens kept; 0 keeps all" },
  { name: "min_p", label: "Min p", kind: "number", least: 0, most: 1, step: 0.01, about: "kept against the likeliest" },
  { name: "repeat_penalty", label: "Repeat penalty", kind: "number", least: 0, isAboveLeast: true, step: 0.05, about: "1 switches it off" },
  { name: "presence_penalty", label: "Presence penalty", kind: "number", step: 0.1, about: "for what was said" },
  { name: "frequency_penalty", label: "Frequency penalty", kind: "number", step: 0.1, about: "for each time" },
  { name: "max_tokens", label: "Max tokens", kind: "integer", least: 1, step: 1, about: "length of an answer" },
  { name: "seed", label: "Seed", kind: "integer", least: 0, step: 1, about: "the same draws again" },
  { name: "stop", label: "Stop texts", kind: "lines", about: "one on each line; \\n stands for a line break" },
];

/** { value } for what was entered, undefined if nothing was, or { problem }. */
export function readSetting(setting, entered) {
  if (setting.kind === "lines") {
    const lines = entered.split("\n").filter((line) => line !== "");
    return { value: lines.length > 0 ? lines.map((line) => line.replaceAll("\\n", "\n")) : undefined };
  }
  const text = entered.trim().replace(",", ".");
  if (text === "") return { value: undefined };
  const value = Number(text);
  if (!Number.isFinite(value)) return { problem: `${setting.label} must be a number.` };
  if (setting.kind === "integer" && !Number.isSafeInteger(value)) return { problem: `${setting.label} must be a whole number.` };
  const { least = -Infinity, most = Infinity, isAboveLeast = false } = setting;
  const isTooSmall = isAboveLeast ? value <= least : value < least;
  if (isTooSmall || value > most) {
    const from = isAboveLeast ? `above ${least}` : `at least ${least}`;
    return { problem: `${setting.label} must be ${from}${most === Infinity ? "" : ` and at most ${most}`}.` };
  }
  return { value };
}

/** A setting's value as a person edits it. */
export function shownSetting(setting, value) {
  if (value === undefined) return "";
  if (setting.kind === "lines") return value.map((line) => line.replaceAll("\n", "\\n")).join("\n");
  return String(value);
}

/** Of values from a file, those that are settings and allowed. */
export function knownSettings(values) {
  const known = {};
  for (const setting of SETTINGS) {
    const value = values?.[setting.name];
    const isReadable = setting.kind === "lines" ? Array.isArray(value) && value.every(isText) : typeof value === "number";
    if (!isReadable) continue;
    const read = readSetting(setting, shownSetting(setting, value));
    if (read.value !== undefined) known[setting.name] = read.value;
  }
  return known;
}

const isText = (value) => typeof value === "string";

/** What new conversations begin with: { system, settings }. */
export function savedDefaults() {
  try {
    const { system, settings } = JSON.parse(localStorage.getItem(KEY) ?? "{}");
    return { system: isText(system) ? system : "", settings: knownSettings(settings) };
  } catch {
    return { system: "", settings: {} };
  }
}

/** False if this browser keeps nothing. */
export function saveDefaults({ system, settings }) {
  try {
    localStorage.setItem(KEY, JSON.stringify({ system, settings }));
    return true;
  } catch {
    return false;
  }
}
