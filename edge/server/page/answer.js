/** One answer as it is written: asks the server, adds to its message, and knows how fast that went. */

import { ServerError, streamChat } from "./api.js";
import { messagesUpTo } from "./conversation.js";

/**
 * `listener` is told of: text(piece), and ended() once, whatever the end was. By then the message has its facts, and
 * `failure` { message, hint, needsKey } if it failed.
 */
export class Answer {
  #stopping = new AbortController();
  #started = performance.now();
  #first = null;
  #last = null;
  #pieces = 0;
  #usage = null;
  #ending = null;
  listener = { text: () => {}, ended: () => {} };

  constructor(conversation, node) {
    this.conversation = conversation;
    this.node = node;
  }

  stop() {
    this.#stopping.abort();
  }

  /** `onPart` is called behind each part of the answer that arrives. */
  async run(onPart = () => {}) {
    const body = requestOf(this.conversation, this.node);
    try {
      for await (const part of streamChat(body, this.#stopping.signal)) {
        this.#take(part);
        onPart();
      }
    } catch (error) {
      if (error.name === "AbortError") this.#ending = "stopped";
      else if (error instanceof ServerError) this.#fail(error);
      else this.#fail(new ServerError(`The page has a defect: ${error.message}`, { hint: "Reload it, then try again." }));
    }
    this.node.facts = this.#facts();
    this.listener.ended();
  }

  #take(part) {
    if (part.text !== undefined) {
      this.#last = performance.now();
      this.#first ??= this.#last;
      this.#pieces += 1;
      this.node.content += part.text;
      this.listener.text(part.text);
    }
    if (part.finishReason) this.#ending = part.finishReason;
    if (part.usage) this.#usage = part.usage;
  }

  #fail(error) {
    this.#ending = "failed";
    this.node.failure = { message: error.message, hint: error.hint, needsKey: error.needsKey };
  }

  /** Tokens are the server's count; if it could not say any more, a token for each piece of text. */
  #facts() {
    const isCounted = Number.isInteger(this.#usage?.completion_tokens);
    const tokens = isCounted ? this.#usage.completion_tokens : this.#pieces;
    const seconds = this.#first === null ? 0 : (this.#last - this.#first) / 1000;
    return {
      tokens,
      isCounted,
      promptTokens: this.#usage?.prompt_tokens ?? null,
      firstSeconds: this.#first === null ? null : (this.#first - this.#started) / 1000,
      tokensPerSecond: tokens > 1 && seconds > 0 ? (tokens - 1) / seconds : null,
      ending: this.#ending ?? "stop",
    };
  }
}

/** The body that asks for an answer: the messages above it, and what was set. */
function requestOf(conversation, node) {
  const body = { messages: messagesUpTo(conversation, node.parent), ...conversation.settings };
  if (conversation.model !== null) body.model = conversation.model;
  if (node.schema !== undefined) {
    body.response_format = {
      type: "json_schema",
      json_schema: { name: "answer", schema: JSON.parse(node.schema), strict: true },
    };
  }
  return body;
}
