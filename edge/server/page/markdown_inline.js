/**
 * What stands inside a block: texts and { kind: "strong" | "emphasis" | "deleted" | "code" | "link" | "break" }.
 * One pass with a bounded stack of what is open, so that no text takes more than linear time or nests deeply.
 */

const SPECIAL = /[\\`*_~[\]<\n]|https?:\/\//g;
const ESCAPABLE = /[!-/:-@[-`{-~]/;
const LINE_BREAK_TAG = /<br ?\/?>/iy;
const BRACKETED_URL = /<(https?:\/\/[^\s<>]{1,2000})>/y;
const BARE_URL = /https?:\/\/[^\s<>"'`\\]{1,2000}/y;
const DESTINATION = /\(\s{0,9}<?((?:[^\s()<>]|\([^\s()<>]{0,200}\)){0,2000})>?(?:\s{1,9}"[^"]{0,300}")?\s{0,9}\)/y;
const WORD = /[\p{L}\p{N}]/u;
const MAX_OPEN = 24;

/** `isUnfinished`: more will follow, so that bold text is bold before its end has come. */
export function parseInline(text, isUnfinished = false) {
  return new Inline(text, isUnfinished).read();
}

/** The address of a link, or null for every scheme but http and https. */
export function safeAddress(address) {
  try {
    const { protocol, href } = new URL(address);
    return protocol === "http:" || protocol === "https:" ? href : null;
  } catch {
    return null;
  }
}

class Inline {
  constructor(text, isUnfinished) {
    this.text = text;
    this.isUnfinished = isUnfinished;
    this.at = 0;
    this.open = [{ marker: "", children: [] }];
    this.counts = new Map();
    this.backticks = null;
  }

  read() {
    while (this.at < this.text.length) {
      SPECIAL.lastIndex = this.at;
      const found = SPECIAL.exec(this.text);
      this.add(this.text.slice(this.at, found ? found.index : undefined));
      if (!found) break;
      this.at = found.index;
      this.special(found[0]);
    }
    while (this.open.length > 1) {
      const isBold = this.isUnfinished && this.open.at(-1).marker === "**" && this.open.at(-1).children.length > 0;
      if (isBold) this.close();
      else this.giveUp();
    }
    return this.open[0].children;
  }

  special(character) {
    if (character === "\\") this.escape();
    else if (character === "`") this.code();
    else if (character === "[") this.push("[");
    else if (character === "]") this.link();
    else if (character === "<") this.angle();
    else if (character === "\n") this.take({ kind: "break" }, 1);
    else if (character.length > 1) this.bareUrl();
    else this.emphasis(character);
  }

  add(item) {
    if (item === "") return;
    const { children } = this.open.at(-1);
    if (typeof item === "string" && typeof children.at(-1) === "string") children[children.length - 1] += item;
    else children.push(item);
  }

  take(item, length) {
    this.add(item);
    this.at += length;
  }

  /** Opens something, unless too much is open already: then it is text. */
  push(marker) {
    this.at += marker.length;
    if (this.open.length > MAX_OPEN) return this.add(marker);
    this.open.push({ marker, children: [] });
    this.counts.set(marker, (this.counts.get(marker) ?? 0) + 1);
  }

  pop() {
    const frame = this.open.pop();
    this.counts.set(frame.marker, this.counts.get(frame.marker) - 1);
    return frame;
  }

  /** What was opened last never ends: its marker is text. */
  giveUp() {
    const { marker, children } = this.pop();
    this.add(marker);
    for (const child of children) this.add(child);
  }

  close() {
    const { marker, children } = this.pop();
    const kind = marker === "~~" ? "deleted" : marker.length === 2 ? "strong" : "emphasis";
    this.add({ kind, children });
  }

  /** Gives up what is open above the nearest `marker`. False if there is none. */
  uncover(marker) {
    if (!this.counts.get(marker)) return false;
    while (this.open.at(-1).marker !== marker) this.giveUp();
    return true;
  }

  escape() {
    const next = this.text[this.at + 1] ?? "";
    if (ESCAPABLE.test(next)) this.take(next, 2);
    else this.take("\\", 1);
  }

  code() {
    const length = this.runLength("`");
    const end = this.nextBackticks(length, this.at + length);
    if (end === undefined) return this.take("`".repeat(length), length);
    let text = this.text.slice(this.at + length, end).replaceAll("\n", " ");
    if (text.length > 2 && text.startsWith(" ") && text.endsWith(" ") && text.trim() !== "") text = text.slice(1, -1);
    this.take({ kind: "code", text }, end + length - this.at);
  }

  runLength(character) {
    let end = this.at;
    while (this.text[end] === character) end += 1;
    return end - this.at;
  }

  /** Where the next run of exactly so many backticks begins; all runs are found once, at the first question. */
  nextBackticks(length, from) {
    if (this.backticks === null) {
      this.backticks = new Map();
      for (const run of this.text.matchAll(/`+/g)) {
        const runs = this.backticks.get(run[0].length);
        if (runs) runs.places.push(run.index);
        else this.backticks.set(run[0].length, { places: [run.index], next: 0 });
      }
    }
    const runs = this.backticks.get(length);
    while (runs && runs.next < runs.places.length && runs.places[runs.next] < from) runs.next += 1;
    return runs?.places[runs.next];
  }

  emphasis(character) {
    const length = this.runLength(character);
    const before = this.text[this.at - 1] ?? " ";
    const after = this.text[this.at + length] ?? " ";
    const isInWord = character === "_" && WORD.test(before) && WORD.test(after);
    const opens = after.trim() !== "" && !isInWord;
    const closes = before.trim() !== "" && !isInWord;
    if (length > 3 || (character === "~" && length !== 2)) return this.take(character.repeat(length), length);
    let left = length;
    while (left > 0 && closes) {
      const marker = this.nearest(character, left);
      if (marker === null) break;
      this.uncover(marker);
      this.close();
      this.at += marker.length;
      left -= marker.length;
    }
    while (left > 0) {
      const marker = character.repeat(Math.min(left, 2));
      if (opens) this.push(marker);
      else this.take(marker, marker.length);
      left -= marker.length;
    }
  }

  /** The open marker that a run of this length closes: one of the same length, or else the last that is shorter. */
  nearest(character, length) {
    if (length === 2 && this.counts.get(character.repeat(2))) return character.repeat(2);
    for (let index = this.open.length - 1; index > 0; index -= 1) {
      const { marker, children } = this.open[index];
      const isFilled = children.length > 0 || index < this.open.length - 1;
      if (marker[0] === character && marker.length <= length && isFilled) return marker;
    }
    return null;
  }

  link() {
    DESTINATION.lastIndex = this.at + 1;
    const found = this.counts.get("[") && this.text[this.at + 1] === "(" ? DESTINATION.exec(this.text) : null;
    if (!this.uncover("[")) return this.take("]", 1);
    const address = found ? safeAddress(found[1]) : null;
    if (address === null) {
      this.giveUp();
      return this.take("]", 1);
    }
    const { children } = this.pop();
    this.add({ kind: "link", address, children: children.length > 0 ? children : [found[1]] });
    this.at += 1 + found[0].length;
  }

  angle() {
    LINE_BREAK_TAG.lastIndex = BRACKETED_URL.lastIndex = this.at;
    const lineBreak = LINE_BREAK_TAG.exec(this.text);
    if (lineBreak) return this.take({ kind: "break" }, lineBreak[0].length);
    const found = BRACKETED_URL.exec(this.text);
    const address = found ? safeAddress(found[1]) : null;
    if (address === null) return this.take("<", 1);
    this.take({ kind: "link", address, children: [found[1]] }, found[0].length);
  }

  bareUrl() {
    BARE_URL.lastIndex = this.at;
    let shown = BARE_URL.exec(this.text)?.[0] ?? "";
    let extra = shown.split(")").length - shown.split("(").length; // brackets around the address, not in it
    while (/[.,;:!?*_~\]}|]$/.test(shown) || (extra > 0 && shown.endsWith(")"))) {
      if (shown.endsWith(")")) extra -= 1;
      shown = shown.slice(0, -1);
    }
    const address = shown === "" ? null : safeAddress(shown);
    if (address === null) return this.take(this.text.slice(this.at, this.at + 4), 4);
    this.take({ kind: "link", address, children: [shown] }, shown.length);
  }
}
