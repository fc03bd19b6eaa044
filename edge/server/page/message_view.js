/** One message: its text, what can be done with it, and how it was made. */

import { alternatives } from "./conversation.js";
import { copyButton, element, icon, iconButton, shown } from "./dom.js";
import { MarkdownStream, codeElement, showMarkdown } from "./markdown_view.js";
import { answerState, badge } from "./validity.js";

const BADGE_MILLISECONDS = 200;

/** `actions`: retry(node), edit(node, text), choose(id), enterKey(node), isWrittenElsewhere(node), announce(text). */
export class MessageView {
  #badgeShown = 0;

  constructor(conversation, node, actions) {
    this.conversation = conversation;
    this.node = node;
    this.actions = actions;
    this.text = element("div", { class: "text" });
    this.below = element("div", { class: "below" });
    const who = node.role === "user" ? "You" : "Answer";
    this.element = element(
      "article",
      { class: `message ${node.role}`, "data-id": node.id },
      element("h2", { class: "visually-hidden" }, who),
      this.text,
      this.below,
    );
  }

  get #isJson() {
    return this.node.schema !== undefined;
  }

  get isEdited() {
    return this.text.querySelector("textarea") !== null;
  }

  /** Whether the message is being edited, or written by this page. */
  get isBusy() {
    return this.isEdited || this.element.hasAttribute("aria-busy");
  }

  /** Shows the message as it is; nothing more is expected. */
  showWhole() {
    const { role, content } = this.node;
    if (role === "user") this.text.replaceChildren(content);
    else if (this.#isJson && content !== "") this.text.replaceChildren(codeElement(content, "json"));
    else showMarkdown(this.text, content);
    this.#showBelow();
    return this;
  }

  /** Shows an answer while it is written. */
  follow(answer) {
    this.element.setAttribute("aria-busy", "true");
    this.below.replaceChildren();
    const stream = this.#isJson ? new CodeStream(this.text) : new MarkdownStream(this.text, { onBlock: this.actions.announce });
    const waiting = element("p", { class: "waiting" }, icon("dots"), element("span", {}, "Reading"));
    if (this.node.content === "") this.text.append(waiting);
    else stream.append(this.node.content);
    answer.listener = {
      text: (piece) => {
        waiting.remove();
        stream.append(piece);
        if (this.#isJson) this.#showOpenBadge();
      },
      ended: () => {
        waiting.remove();
        stream.finish();
        this.element.removeAttribute("aria-busy");
        this.#showBelow();
      },
    };
    return this;
  }

  #showOpenBadge() {
    const now = performance.now();
    if (now - this.#badgeShown < BADGE_MILLISECONDS) return;
    this.#badgeShown = now;
    this.below.replaceChildren(badge(answerState(this.node.content, this.node.schema, false)));
  }

  #showBelow() {
    const { node } = this;
    const isAnswer = node.role === "assistant";
    this.below.replaceChildren(
      ...[
        isAnswer ? this.#failure() : null,
        isAnswer && this.#isJson && node.content !== "" ? badge(answerState(node.content, node.schema, true)) : null,
        element("div", { class: "row" }, this.#buttons(), this.#branches(), isAnswer ? this.#facts() : null),
      ].filter((part) => part !== null),
    );
  }

  #failure() {
    const { failure, facts, content } = this.node;
    if (failure) {
      const retry = element("button", { type: "button", on: { click: () => this.actions.retry(this.node) } }, "Try again");
      const key = element("button", { type: "button", on: { click: () => this.actions.enterKey(this.node) } }, "Enter the key");
      return element(
        "div",
        { class: "failure" },
        icon("warning"),
        element("p", {}, element("strong", {}, failure.message), " ", failure.hint),
        failure.needsKey ? key : retry,
      );
    }
    if (!facts) {
      const isWritten = this.actions.isWrittenElsewhere(this.node);
      return note(isWritten ? "Another tab is writing this answer." : "The page was closed before this answer was complete.");
    }
    if (content === "") return note(facts.ending === "stopped" ? "Stopped before the first word." : "The answer is empty.");
    return null;
  }

  #branches() {
    const { ids, index } = alternatives(this.conversation, this.node);
    if (ids.length < 2) return null;
    const go = (step) => () => this.actions.choose(ids[index + step], step);
    return element(
      "span",
      { class: "branches changes", role: "group", "aria-label": "Alternatives" },
      iconButton("left", "Previous alternative", go(-1), { disabled: index === 0, "data-step": "-1" }),
      element("span", {}, `${index + 1} / ${ids.length}`),
      iconButton("right", "Next alternative", go(1), { disabled: index === ids.length - 1, "data-step": "1" }),
    );
  }

  #buttons() {
    const { node, actions } = this;
    if (node.failure && node.content === "") return null; // there is nothing to copy, and trying again is offered above
    return element(
      "span",
      { class: "actions" },
      copyButton(() => node.content),
      element(
        "span",
        { class: "changes" },
        iconButton("edit", "Edit", () => this.#edit()),
        node.role === "assistant" ? iconButton("retry", "Answer again", () => actions.retry(node)) : null,
      ),
    );
  }

  #facts() {
    const { facts } = this.node;
    if (!facts || (this.node.failure && this.node.content === "")) return null;
    const parts = [];
    if (facts.tokens > 0) parts.push(`${facts.isCounted ? "" : "about "}${shown(facts.tokens)} ${facts.tokens === 1 ? "token" : "tokens"}`);
    if (facts.tokensPerSecond) parts.push(`${shown(facts.tokensPerSecond, 1)} tokens/s`);
    if (Number.isFinite(facts.firstSeconds)) parts.push(`first after ${shown(facts.firstSeconds, 2)} s`);
    const endings = { length: "cut off at its limit", stopped: "stopped", failed: "incomplete" };
    if (endings[facts.ending]) parts.push(endings[facts.ending]);
    return element("span", { class: "facts" }, parts.join(" · "));
  }

  #edit() {
    const field = element("textarea", { "aria-label": "Edit the message", rows: "3" });
    field.value = this.node.content;
    const cancel = () => {
      this.showWhole();
      this.below.querySelector(".changes button")?.focus();
    };
    const save = () => this.actions.edit(this.node, field.value);
    field.addEventListener("keydown", (event) => {
      if (event.key === "Escape") {
        event.stopPropagation();
        cancel();
      } else if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        save();
      }
    });
    this.text.replaceChildren(field);
    this.below.replaceChildren(
      element(
        "div",
        { class: "row" },
        element("button", { type: "button", class: "primary", on: { click: save } }, this.node.role === "user" ? "Send" : "Save"),
        element("button", { type: "button", on: { click: cancel } }, "Cancel"),
      ),
    );
    field.style.height = `${Math.min(field.scrollHeight + 4, 400)}px`;
    field.focus();
  }
}

/** Text that is no Markdown, as it grows. */
class CodeStream {
  #waiting = "";
  #frame = null;

  constructor(container) {
    this.block = codeElement("", "json");
    this.shown = this.block.querySelector("code").firstChild;
    this.container = container;
  }

  append(text) {
    this.#waiting += text;
    this.#frame ??= requestAnimationFrame(() => this.#draw());
  }

  finish() {
    if (this.#frame !== null) cancelAnimationFrame(this.#frame);
    if (this.#waiting !== "") this.#draw();
  }

  #draw() {
    this.#frame = null;
    if (!this.block.isConnected) this.container.append(this.block);
    this.shown.appendData(this.#waiting);
    this.#waiting = "";
  }
}

function note(text) {
  return element("p", { class: "note" }, text);
}
