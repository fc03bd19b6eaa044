/**
 * What a page had not stored when it was closed. IndexedDB drops what it has not written when a page goes; what is in
 * localStorage at that moment stays, and a page that is open beside it, or else the next one, takes it in. Where there
 * is no room for it, it is lost.
 */

const PREFIX = "edge.left.";

/** Leaves a conversation behind, and what of it was stored last, if anything was. */
export function leaveBehind(conversation, stored) {
  try {
    localStorage.setItem(PREFIX + conversation.id, JSON.stringify({ conversation, stored }));
  } catch {
    // full, or not allowed
  }
}

/** All that was left behind: { conversation, stored }. What cannot be read is forgotten. */
export function leftBehind() {
  const found = [];
  for (const key of leftKeys()) {
    try {
      found.push(JSON.parse(localStorage.getItem(key)));
    } catch {
      localStorage.removeItem(key);
    }
  }
  return found;
}

/** Calls `listener()` when another page has left something behind. */
export function onLeft(listener) {
  window.addEventListener("storage", ({ key, newValue }) => {
    if (key?.startsWith(PREFIX) && newValue !== null) listener();
  });
}

/** A conversation need not be taken in any more. */
export function forgetLeft(id) {
  try {
    localStorage.removeItem(PREFIX + id);
  } catch {
    // not allowed, so that nothing was left
  }
}

function leftKeys() {
  try {
    return Object.keys(localStorage).filter((key) => key.startsWith(PREFIX));
  } catch {
    return [];
  }
}
