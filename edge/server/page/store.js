/**
 * Conversations in this browser's IndexedDB, each under its id; a summary of each beside it, so that the list need not
 * read them all. Where the browser keeps nothing, they live in memory until the page is closed.
 */

import { mentions, titleOf } from "./conversation.js";
import { forgetLeft, leaveBehind, leftBehind, onLeft } from "./left_behind.js";
import { nothingTaken, takeIn } from "./merging.js";

const DATABASE = "edge";
const VERSION = 1;

/** The store of this browser. `isKept` says whether conversations outlive the page. */
export async function openStore() {
  let store;
  try {
    store = new BrowserStore(await opened());
  } catch {
    return new MemoryStore();
  }
  await store.takeInLeft();
  return store;
}

function opened() {
  const request = indexedDB.open(DATABASE, VERSION);
  request.onupgradeneeded = () => {
    request.result.createObjectStore("conversations", { keyPath: "id" });
    request.result.createObjectStore("summaries", { keyPath: "id" });
  };
  return new Promise((resolve, reject) => {
    request.onsuccess = () => {
      request.result.onversionchange = () => request.result.close(); // another tab has a newer page
      resolve(request.result);
    };
    request.onerror = () => reject(request.error);
    request.onblocked = () => reject(new Error("blocked"));
  });
}

const summaryOf = (conversation) => ({
  id: conversation.id,
  title: titleOf(conversation),
  updated: conversation.updated,
});

const newestFirst = (one, other) => other.updated - one.updated;

class BrowserStore {
  isKept = true;
  #stored = new WeakMap(); // of each conversation at hand, what was stored when it was last read or written
  #writing = new Map(); // transactions of `put` that have not ended, and their conversations
  #left = new Set(); // ids of conversations that this page left behind, and then came back

  constructor(database) {
    this.database = database;
    this.channel = new BroadcastChannel("edge.conversations");
  }

  /** Calls `listener({ id, answering })` when another tab has stored or removed a conversation; see `put`. */
  onChange(listener) {
    this.channel.onmessage = ({ data }) => listener(data);
    onLeft(async () => {
      for (const id of await this.takeInLeft()) listener({ id, answering: null });
    });
  }

  async list() {
    return (await answerOf(this.store("summaries").getAll())).sort(newestFirst);
  }

  async get(id) {
    const conversation = await answerOf(this.store("conversations").get(id));
    if (conversation !== undefined) this.#stored.set(conversation, structuredClone(conversation));
    return conversation;
  }

  /** Takes into a conversation what another tab has stored of it; gives what `takeIn` does, or null if it is gone. */
  async refresh(conversation, options) {
    const theirs = await answerOf(this.store("conversations").get(conversation.id));
    return theirs === undefined ? null : this.#take(conversation, theirs, options);
  }

  /**
   * Stores a conversation, with what another tab has stored of it in the meantime taken in; gives what `takeIn` does.
   * `answering` is the id of a message that is still being written, or null.
   */
  async put(conversation, answering = null) {
    const transaction = this.database.transaction(["conversations", "summaries"], "readwrite");
    this.#writing.set(transaction, conversation);
    ended(transaction).catch(() => {}).then(() => this.#writing.delete(transaction));
    const store = transaction.objectStore("conversations");
    const theirs = await answerOf(store.get(conversation.id)); // nobody writes between this and the end
    const taken = theirs === undefined ? nothingTaken() : this.#take(conversation, theirs);
    const written = structuredClone(conversation);
    store.put(conversation);
    transaction.objectStore("summaries").put(summaryOf(conversation));
    await ended(transaction);
    this.#stored.set(conversation, written);
    if (this.#left.delete(conversation.id)) forgetLeft(conversation.id);
    this.channel.postMessage({ id: conversation.id, answering });
    return taken;
  }

  /** As the page goes: leaves these conversations to the next page, and those that are being written. */
  leave(conversations) {
    for (const conversation of new Set([...conversations, ...this.#writing.values()])) {
      leaveBehind(conversation, this.#stored.get(conversation));
      this.#left.add(conversation.id);
    }
  }

  /** Stores what a page that was closed left behind, unless another tab has removed it; gives the ids of what it stored. */
  async takeInLeft() {
    const ids = [];
    for (const { conversation, stored } of leftBehind()) {
      try {
        const isGone = stored !== undefined && (await this.get(conversation.id)) === undefined;
        if (stored !== undefined) this.#stored.set(conversation, stored);
        if (!isGone) {
          await this.put(conversation);
          ids.push(conversation.id);
        }
        forgetLeft(conversation.id);
      } catch {
        // no room for it now: the next page tries again
      }
    }
    return ids;
  }

  #take(conversation, theirs, options) {
    const base = this.#stored.get(conversation) ?? theirs;
    this.#stored.set(conversation, structuredClone(theirs));
    return takeIn(conversation, theirs, base, options);
  }

  async remove(id) {
    forgetLeft(id);
    for (const [writing, conversation] of this.#writing) if (conversation.id === id) this.#writing.delete(writing);
    const transaction = this.database.transaction(["conversations", "summaries"], "readwrite");
    transaction.objectStore("conversations").delete(id);
    transaction.objectStore("summaries").delete(id);
    await ended(transaction);
    this.channel.postMessage({ id, answering: null });
  }

  /** Summaries of the conversations that mention a text anywhere. */
  async search(text) {
    const wanted = text.toLowerCase();
    const found = [];
    const request = this.store("conversations").openCursor();
    await new Promise((resolve, reject) => {
      request.onerror = () => reject(request.error);
      request.onsuccess = () => {
        const cursor = request.result;
        if (cursor === null) return resolve();
        if (mentions(cursor.value, wanted)) found.push(summaryOf(cursor.value));
        cursor.continue();
      };
    });
    return found.sort(newestFirst);
  }

  store(name) {
    return this.database.transaction(name).objectStore(name);
  }
}

function answerOf(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

function ended(transaction) {
  return new Promise((resolve, reject) => {
    transaction.addEventListener("complete", () => resolve());
    transaction.addEventListener("error", () => reject(transaction.error));
    transaction.addEventListener("abort", () => reject(transaction.error ?? new Error("aborted")));
  });
}

class MemoryStore {
  isKept = false;
  #conversations = new Map();

  onChange() {}

  async list() {
    return [...this.#conversations.values()].map(summaryOf).sort(newestFirst);
  }

  async get(id) {
    return this.#conversations.get(id);
  }

  async put(conversation) {
    this.#conversations.set(conversation.id, structuredClone(conversation));
    return nothingTaken();
  }

  leave() {}

  async remove(id) {
    this.#conversations.delete(id);
  }

  async search(text) {
    const wanted = text.toLowerCase();
    return [...this.#conversations.values()].filter((each) => mentions(each, wanted)).map(summaryOf).sort(newestFirst);
  }
}
