/** Conversations as a file and back. A file may come from anywhere: it is taken apart, checked and built anew. */

import { ROOT } from "./conversation.js";
import { newId } from "./dom.js";
import { knownSettings } from "./settings.js";

const FORMAT = "edge-conversations";
const VERSION = 1;
const MAX_DEPTH = 100_000;

export function toFile(conversations) {
  return JSON.stringify({ format: FORMAT, version: VERSION, exported: new Date().toISOString(), conversations }, null, 1);
}

/** Offers a text for download. */
export function download(name, text) {
  const address = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  const link = document.createElement("a");
  link.href = address;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}

/** The conversations in a file, under new ids where `isTaken(id)`. Error with a message for people if it is no such file. */
export function fromFile(text, isTaken = () => false) {
  const content = parsed(text);
  if (content?.format !== FORMAT) throw new Error("This is no file of conversations that was exported here.");
  if (content.version !== VERSION) throw new Error(`The file has version ${content.version}; this page reads ${VERSION}.`);
  if (!Array.isArray(content.conversations)) throw new Error("The file has no list of conversations.");
  return content.conversations.map((each, index) => conversationOf(each, `conversations[${index}]`, isTaken));
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new Error(`The file is not JSON: ${error.message}`);
  }
}

function conversationOf(value, path, isTaken) {
  if (!isRecord(value)) throw new Error(`${path} is no conversation.`);
  const id = /^[0-9a-f]{24}$/.test(value.id) && !isTaken(value.id) ? value.id : newId();
  return {
    id,
    title: textOf(value, "title", path),
    created: timeOf(value.created),
    updated: timeOf(value.updated),
    model: typeof value.model === "string" ? value.model : null,
    system: textOf(value, "system", path),
    settings: knownSettings(value.settings),
    schema: textOf(value, "schema", path),
    usesSchema: value.usesSchema === true,
    nodes: nodesOf(value.nodes, `${path}.nodes`),
  };
}

/** The tree from its root, under new ids: what is not reached from there is not taken. */
function nodesOf(nodes, path) {
  if (!isRecord(nodes) || !Object.hasOwn(nodes, ROOT)) throw new Error(`${path} has no root.`);
  const made = {};
  const waiting = [{ old: ROOT, id: ROOT, parent: null }];
  const seen = new Set();
  while (waiting.length > 0) {
    const { old, id, parent } = waiting.pop();
    if (seen.has(old)) throw new Error(`${path}.${old} is there twice.`);
    if (seen.add(old).size > MAX_DEPTH) throw new Error(`${path} has too many messages.`);
    const node = Object.hasOwn(nodes, old) ? nodes[old] : null;
    if (!isRecord(node) || !Array.isArray(node.children)) throw new Error(`${path}.${old} is missing or no message.`);
    const children = node.children.map((child) => ({ old: String(child), id: newId(), parent: id }));
    const chosen = children.find((child) => child.old === node.chosen) ?? children.at(-1);
    made[id] = {
      ...messageOf(node, id, `${path}.${old}`),
      parent,
      children: children.map((child) => child.id),
      chosen: chosen?.id ?? null,
    };
    for (const child of children) waiting.push(child);
  }
  return made;
}

function messageOf(node, id, path) {
  if (id === ROOT) return { id, role: ROOT, content: "" };
  if (node.role !== "user" && node.role !== "assistant") throw new Error(`${path} has the role ${node.role}.`);
  return {
    id,
    role: node.role,
    content: textOf(node, "content", path),
    created: timeOf(node.created),
    ...(typeof node.model === "string" && { model: node.model }),
    ...(isRecord(node.facts) && { facts: factsOf(node.facts) }),
    ...(typeof node.schema === "string" && { schema: node.schema }),
  };
}

function factsOf(facts) {
  const known = {};
  for (const name of ["tokens", "promptTokens", "firstSeconds", "tokensPerSecond"]) {
    if (Number.isFinite(facts[name])) known[name] = facts[name];
  }
  known.isCounted = facts.isCounted === true;
  known.ending = typeof facts.ending === "string" ? facts.ending.slice(0, 40) : "stop";
  return known;
}

function textOf(record, name, path) {
  const value = record[name] ?? "";
  if (typeof value !== "string") throw new Error(`${path}.${name} is no text.`);
  return value;
}

const isRecord = (value) => typeof value === "object" && value !== null && !Array.isArray(value);
const timeOf = (value) => (Number.isFinite(value) ? value : Date.now());
