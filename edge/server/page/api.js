/** The server: which models it has, and answers as they are written. Every failure is a ServerError. */

import { readEvents } from "./sse.js";

const KEY = "edge.api-key";

/** What went wrong and what to do about it. `needsKey`: the server wants an API key, or another one. */
export class ServerError extends Error {
  constructor(message, { hint = "", needsKey = false, isPartial = false } = {}) {
    super(message);
    this.hint = hint;
    this.needsKey = needsKey;
    this.isPartial = isPartial;
  }
}

/** Keeps the key for this tab, and until it is closed. */
export function rememberKey(key) {
  if (key) sessionStorage.setItem(KEY, key);
  else sessionStorage.removeItem(KEY);
}

export function hasKey() {
  return sessionStorage.getItem(KEY) !== null;
}

/** [{ id, contextTokens | null }] */
export async function listModels() {
  const response = await ask("v1/models", {});
  const body = await response.json().catch(() => null);
  if (!Array.isArray(body?.data)) {
    throw new ServerError("The server's list of models cannot be read.", { hint: "Is this page served by edge?" });
  }
  return body.data
    .filter((model) => typeof model?.id === "string")
    .map((model) => ({
      id: model.id,
      contextTokens: Number.isInteger(model.context_tokens) ? model.context_tokens : null,
    }));
}

/**
 * Yields { text }, { finishReason } and { usage } until the answer is whole.
 * A connection that ends before that is an error with `isPartial`.
 */
export async function* streamChat(body, signal) {
  const asked = { ...body, stream: true, stream_options: { include_usage: true } };
  const response = await ask("v1/chat/completions", {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(asked),
    signal,
  });
  let isFinished = false;
  try {
    for await (const event of readEvents(response.body)) {
      if (event === "[DONE]") return;
      const chunk = parsed(event);
      if (chunk.error) throw problem(chunk.error, {});
      const choice = chunk.choices?.[0];
      if (typeof choice?.delta?.content === "string" && choice.delta.content !== "") yield { text: choice.delta.content };
      if (choice?.finish_reason) {
        isFinished = true;
        yield { finishReason: choice.finish_reason };
      }
      if (chunk.usage) yield { usage: chunk.usage };
    }
  } catch (error) {
    if (error instanceof ServerError || error.name === "AbortError") throw error;
    if (!isFinished) throw lost();
  }
  if (!isFinished) throw lost();
}

async function ask(path, options) {
  const headers = new Headers(options.headers);
  const key = sessionStorage.getItem(KEY);
  if (key !== null) headers.set("authorization", `Bearer ${key}`);
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError("The server cannot be reached.", { hint: "Is it still running? Start it, then try again." });
  }
  if (!response.ok) throw await refused(response);
  return response;
}

async function refused(response) {
  const body = await response.json().catch(() => null);
  if (response.status === 401) {
    const message = hasKey() ? "The server does not know this API key." : "The server asks for an API key.";
    return new ServerError(message, { hint: "Enter the key that the server was started with.", needsKey: true });
  }
  const seconds = Number(response.headers.get("retry-after"));
  const wait = seconds > 0 ? `Try again in ${seconds} seconds.` : "Try again in a moment.";
  const hints = {
    413: "Send a shorter message, or start a new conversation.",
    429: wait,
    503: wait,
  };
  const error = body?.error ?? { message: `The server answered with status ${response.status}.` };
  return problem(error, { hint: hints[response.status] ?? advice(error) });
}

function problem(error, { hint = advice(error) }) {
  const message = typeof error === "string" ? error : (error.message ?? "The server reports an error.");
  return new ServerError(String(message), { hint });
}

function advice(error) {
  if (error.code === "context_length_exceeded") {
    return "Start a new conversation, or edit an earlier message to be shorter.";
  }
  return error.param ? `Change ${error.param} in the settings, then try again.` : "";
}

function lost() {
  return new ServerError("The connection was lost before the answer was complete.", {
    hint: "What arrived is kept. Try again to have it written anew.",
    isPartial: true,
  });
}

function parsed(event) {
  try {
    return JSON.parse(event) ?? {};
  } catch {
    throw new ServerError("The server sent something that is not JSON.", { hint: "Is there a proxy in between?" });
  }
}
