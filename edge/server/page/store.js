/**
 * Conversations in this browser's IndexedDB, each under its id; a summary of each beside it, so that the list need not
 * read them all. Where the browser keeps nothing, they live in memory until the page is closed.
 */

import { mentions, titleOf } from "./conversation.js";
import { nothingTaken, takeIn } from "./merging.js";

const DATABASE = "edge";
const VERSION = 1;

/** The store of this browser. `isKept` says whether conversations outlive the page. */
export async function openStore() {
  try {
    return new BrowserStore(await opened());
  } catch {
    return new MemoryStore();
  }
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

  constructor(database) {
    this.database = database;
    this.channel = new BroadcastChannel("edge.conversations");
  }

  /** Calls `listener({ id, answering })` when another tab has stored or removed a conversation; see `put`. */
  onChange(listener) {
    this.channel.onmessage = ({ data }) => listener(data);
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
    const before = this.#stored.get(conversation);
    this.#stored.set(conversation, structuredClone(conversation));
    store.put(conversation);
    transaction.objectStore("summaries").put(summaryOf(conversation));
    try {
      await ended(transaction);
    } catch (error) {
      this.#stored.set(conversation, before);
      throw error;
    }
    this.channel.postMessage({ id: conversation.id, answering });
    return taken;
  }

  /**
   * Stores conversations as the page goes, and those that are being written: there is no time left to read what another
   * tab stored a moment ago, and a `put` that still reads it would never write.
   */
  putAtOnce(conversations) {
    const all = new Set([...conversations, ...this.#writing.values()]);
    if (all.size === 0) return;
    for (const writing of this.#writing.keys()) abort(writing);
    const transaction = this.database.transaction(["conversations", "summaries"], "readwrite");
    for (const conversation of all) {
      transaction.objectStore("conversations").put(conversation);
      transaction.objectStore("summaries").put(summaryOf(conversation));
    }
    transaction.commit();
  }

  #take(conversation, theirs, options) {
    const base = this.#stored.get(conversation) ?? theirs;
    this.#stored.set(conversation, structuredClone(theirs));
    return takeIn(conversation, theirs, base, options);
  }

  async remove(id) {
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

function abort(transaction) {
  try {
    transaction.abort();
  } catch {
    // it has just ended
  }
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

  putAtOnce() {}

  async remove(id) {
    this.#conversations.delete(id);
  }

  async search(text) {
    const wanted = text.toLowerCase();
    return [...this.#conversations.values()].filter((each) => mentions(each, wanted)).map(summaryOf).sort(newestFirst);
  }
}
