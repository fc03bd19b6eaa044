/** Markdown as elements, made of texts only, and the same while the text is still being written. */

import { copyButton, element, fill } from "./dom.js";
import { parseBlocks } from "./markdown.js";
import { parseInline } from "./markdown_inline.js";

const SHARE_OF_TIME = 8; // a rendering that took 5 ms is not made again within 40 ms

/** Shows a whole text. */
export function showMarkdown(container, text) {
  container.replaceChildren();
  fill(container, parseBlocks(text.replaceAll("\r", "")).map((block) => blockElement(block)));
}

/**
 * Shows a text that grows. Once a frame at most, the last block is rendered again; all before it stay as they are.
 * `onBlock(text)` is called for each block once nothing can change it any more.
 */
export class MarkdownStream {
  #text = "";
  #settled = 0; // characters in blocks that are final
  #last = null;
  #lastBlock = null;
  #frame = null;
  #notBefore = 0;

  constructor(container, { onBlock = () => {}, onShown = () => {} } = {}) {
    this.container = container;
    this.onBlock = onBlock;
    this.onShown = onShown;
    container.replaceChildren();
  }

  append(text) {
    this.#text += text.replaceAll("\r", "");
    this.#frame ??= requestAnimationFrame((now) => this.#draw(now));
  }

  finish() {
    if (this.#frame !== null) cancelAnimationFrame(this.#frame);
    this.#frame = null;
    this.#render(true);
  }

  #draw(now) {
    this.#frame = null;
    if (now < this.#notBefore) {
      this.#frame = requestAnimationFrame((later) => this.#draw(later));
      return;
    }
    const started = performance.now();
    this.#render(false);
    void this.container.offsetHeight; // the layout counts too
    this.#notBefore = now + SHARE_OF_TIME * (performance.now() - started);
  }

  #render(isWhole) {
    const tail = this.#text.slice(this.#settled);
    const blocks = parseBlocks(tail);
    if (blocks.length === 0) return;
    for (const block of blocks.slice(0, -1)) this.#settle(block);
    this.#showLast(blocks.at(-1), isWhole);
    this.#settled += offsetOfLine(tail, blocks.at(-1).line);
    if (isWhole) this.#settle(blocks.at(-1));
    this.onShown();
  }

  /** The block is whole: it is rendered for the last time and told. */
  #settle(block) {
    this.#show(blockElement(block));
    this.onBlock(this.#last.textContent);
    this.#last = this.#lastBlock = null;
  }

  #showLast(block, isWhole) {
    const isSameCode = this.#lastBlock?.kind === "code" && block.kind === "code" && !block.isClosed;
    if (isSameCode && block.language === this.#lastBlock.language && block.text.startsWith(this.#lastBlock.text)) {
      this.#last.querySelector("code").firstChild.appendData(block.text.slice(this.#lastBlock.text.length));
    } else {
      this.#show(blockElement(block, !isWhole));
    }
    this.#lastBlock = block;
  }

  #show(made) {
    if (this.#last === null) this.container.append(made);
    else this.#last.replaceWith(made);
    this.#last = made;
  }
}

function offsetOfLine(text, line) {
  let offset = 0;
  for (let count = 0; count < line; count += 1) offset = text.indexOf("\n", offset) + 1;
  return offset;
}

function blockElement(block, isUnfinished = false) {
  const blocks = (inside) => inside.map((inner) => blockElement(inner, isUnfinished));
  switch (block.kind) {
    case "paragraph":
      return element("p", {}, inlineNodes(block.text, isUnfinished));
    case "heading": // the page has an h1 of its own
      return element(`h${Math.min(block.level + 1, 6)}`, {}, inlineNodes(block.text, isUnfinished));
    case "code":
      return codeElement(block.text, block.language);
    case "quote":
      return element("blockquote", {}, blocks(block.blocks));
    case "rule":
      return element("hr");
    case "table":
      return tableElement(block);
    case "list":
      return listElement(block, blocks);
  }
}

/** A block of code with its language and a button that copies it. */
export function codeElement(text, language) {
  const shown = element("code", {}, text);
  return element(
    "div",
    { class: "code" },
    element(
      "div",
      { class: "code-head" },
      element("span", {}, language || "text"),
      copyButton(() => shown.textContent, "Copy code"),
    ),
    element("pre", { tabindex: "0" }, shown),
  );
}

function listElement(block, blocks) {
  const items = block.items.map((item) => {
    let inside = blocks(item.blocks);
    // one paragraph, and at most a list below it: the item's text stands without a paragraph's distances
    if (inside[0]?.tagName === "P" && inside.slice(1).every((inner) => inner.tagName !== "P")) {
      inside = [...inside[0].childNodes, ...inside.slice(1)];
    }
    if (item.isDone === null) return element("li", {}, inside);
    const box = element("input", { type: "checkbox", disabled: true, "aria-label": item.isDone ? "done" : "to do" });
    box.checked = item.isDone;
    return element("li", { class: "task" }, box, " ", inside);
  });
  const start = block.isOrdered && block.start !== 1 ? block.start : null;
  return element(block.isOrdered ? "ol" : "ul", { start }, items);
}

function tableElement({ aligned, head, rows }) {
  const row = (tag, texts) =>
    element("tr", {}, texts.map((text, index) => element(tag, { class: aligned[index] }, inlineNodes(text))));
  return element(
    "div",
    { class: "table", tabindex: "0" },
    element("table", {}, element("thead", {}, row("th", head)), element("tbody", {}, rows.map((texts) => row("td", texts)))),
  );
}

const TAGS = { strong: "strong", emphasis: "em", deleted: "del" };

function inlineNodes(text, isUnfinished = false) {
  return nodesOf(parseInline(text, isUnfinished), false);
}

function nodesOf(items, isInLink) {
  return items.flatMap((item) => {
    if (typeof item === "string") return [item];
    if (item.kind === "break") return [element("br")];
    if (item.kind === "code") return [element("code", {}, item.text)];
    if (item.kind !== "link") return [element(TAGS[item.kind], {}, nodesOf(item.children, isInLink))];
    if (isInLink) return nodesOf(item.children, true);
    const attributes = { href: item.address, title: item.address, target: "_blank", rel: "noopener noreferrer" };
    return [element("a", attributes, nodesOf(item.children, true))];
  });
}
