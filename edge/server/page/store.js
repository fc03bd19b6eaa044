/**
 * Conversations in this browser's IndexedDB, each under its id; a summary of each beside it, so that the list need not
 * read them all. Where the browser keeps nothing, they live in memory until the page is closed.
 */

import { mentions, titleOf } from "./conversation.js";

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

  constructor(database) {
    this.database = database;
    this.channel = new BroadcastChannel("edge.conversations");
  }

  /** Calls `listener(id)` when another tab has changed a conversation. */
  onChange(listener) {
    this.channel.onmessage = ({ data }) => listener(data);
  }

  async list() {
    return (await answerOf(this.store("summaries").getAll())).sort(newestFirst);
  }

  get(id) {
    return answerOf(this.store("conversations").get(id));
  }

  async put(conversation) {
    const transaction = this.database.transaction(["conversations", "summaries"], "readwrite");
    transaction.objectStore("conversations").put(conversation);
    transaction.objectStore("summaries").put(summaryOf(conversation));
    await ended(transaction);
    this.channel.postMessage(conversation.id);
  }

  async remove(id) {
    const transaction = this.database.transaction(["conversations", "summaries"], "readwrite");
    transaction.objectStore("conversations").delete(id);
    transaction.objectStore("summaries").delete(id);
    await ended(transaction);
    this.channel.postMessage(id);
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
    transaction.oncomplete = () => resolve();
    transaction.onerror = () => reject(transaction.error);
    transaction.onabort = () => reject(transaction.error ?? new Error("aborted"));
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
  }

  async remove(id) {
    this.#conversations.delete(id);
  }

  async search(text) {
    const wanted = text.toLowerCase();
    return [...this.#conversations.values()].filter((each) => mentions(each, wanted)).map(summaryOf).sort(newestFirst);
  }
}
