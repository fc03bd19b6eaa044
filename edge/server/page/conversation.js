/**
 * A conversation as a tree of messages, so that an edited question or a second answer takes nothing away.
 * Every node has its children and which of them is chosen; what is shown is the way down from the root.
 */

import { newId } from "./dom.js";

export const ROOT = "root";
const TITLE_CHARACTERS = 60;

export function newConversation({ model = null, system = "", settings = {}, schema = "" } = {}) {
  const now = Date.now();
  return {
    id: newId(),
    title: "",
    created: now,
    updated: now,
    model,
    system,
    settings,
    schema,
    usesSchema: false,
    nodes: { [ROOT]: { id: ROOT, parent: null, role: ROOT, content: "", children: [], chosen: null } },
  };
}

/** Adds a message below another one and chooses it. */
export function addMessage(conversation, parentId, role, content, more = {}) {
  const node = { id: newId(), parent: parentId, role, content, children: [], chosen: null, created: Date.now(), ...more };
  conversation.nodes[node.id] = node;
  const parent = conversation.nodes[parentId];
  parent.children.push(node.id);
  parent.chosen = node.id;
  conversation.updated = node.created;
  return node;
}

/** Shows another alternative of a turn, and below it what was last chosen there. */
export function choose(conversation, nodeId) {
  conversation.nodes[conversation.nodes[nodeId].parent].chosen = nodeId;
}

/** The messages that are shown, from the first. */
export function shownPath(conversation) {
  const path = [];
  for (let id = conversation.nodes[ROOT].chosen; id !== null; id = conversation.nodes[id].chosen) {
    path.push(conversation.nodes[id]);
  }
  return path;
}

/** The id of the last message shown, or of the root. */
export function lastId(conversation) {
  return shownPath(conversation).at(-1)?.id ?? ROOT;
}

/** { ids, index }: the alternatives of a turn, and which one this is. */
export function alternatives(conversation, node) {
  const ids = conversation.nodes[node.parent].children;
  return { ids, index: ids.indexOf(node.id) };
}

/** The messages above and including a node as the server reads them. Answers that stayed empty are left out. */
export function messagesUpTo(conversation, nodeId) {
  const messages = [];
  for (let id = nodeId; id !== ROOT; id = conversation.nodes[id].parent) {
    const { role, content } = conversation.nodes[id];
    if (role === "user" || content !== "") messages.push({ role, content });
  }
  if (conversation.system.trim() !== "") messages.push({ role: "system", content: conversation.system });
  return messages.reverse();
}

/** The title a person gave, or the beginning of the first question. */
export function titleOf(conversation) {
  if (conversation.title !== "") return conversation.title;
  const first = shownPath(conversation)[0]?.content.trim().split("\n", 1)[0] ?? "";
  if (first === "") return "New conversation";
  const characters = Array.from(first.slice(0, 4 * TITLE_CHARACTERS));
  return characters.length > TITLE_CHARACTERS ? `${characters.slice(0, TITLE_CHARACTERS - 1).join("").trimEnd()}…` : first;
}

/** Whether a text is in the title, the system prompt or any message. `wanted` is in lower case. */
export function mentions(conversation, wanted) {
  const has = (text) => text.toLowerCase().includes(wanted);
  return has(titleOf(conversation)) || has(conversation.system) || Object.values(conversation.nodes).some((node) => has(node.content));
}
