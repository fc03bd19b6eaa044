/**
 * Markdown as plain values: blocks, each with the line it starts at. What is not Markdown is text, HTML above all.
 * Everything is linear in the length of the text, whatever the text: models write anything.
 */

const MAX_NESTING = 12;
const FENCE = /^ {0,3}(`{3,}|~{3,})[ \t]*([^`]*)$/;
const HEADING = /^ {0,3}(#{1,6})(?=[ \t]|$)/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^( {0,3})([-*+]|(\d{1,9})[.)])( {1,4}(?=\S)|[ \t]*$|[ \t])/;
const DELIMITER_ROW = /^[ \t]*\|?[ \t:|-]*-[ \t:|-]*$/;
const INDENT = /^[ \t]*/;
const TASK = /^\[([ xX])\] /;

/** The blocks of a text: paragraph, heading, code, list, quote, table, rule. */
export function parseBlocks(text) {
  return blocksOf(text.split("\n"), 0);
}

function blocksOf(lines, nesting) {
  const blocks = [];
  let at = 0;
  while (at < lines.length) {
    if (isBlank(lines[at])) {
      at += 1;
      continue;
    }
    const { block, next } = blockAt(lines, at, nesting);
    blocks.push({ ...block, line: at });
    at = next;
  }
  return blocks;
}

function blockAt(lines, at, nesting) {
  const isNestable = nesting < MAX_NESTING;
  return (
    code(lines, at) ??
    heading(lines, at) ??
    rule(lines, at) ??
    (isNestable ? quote(lines, at, nesting) ?? list(lines, at, nesting) : null) ??
    table(lines, at) ??
    paragraph(lines, at)
  );
}

const isBlank = (line) => line.trim() === "";
const indentOf = (line) => INDENT.exec(line)[0].replaceAll("\t", "    ").length;

/** A line without up to `count` columns of indentation. */
function outdented(line, count) {
  let at = 0;
  let columns = 0;
  while (columns < count && (line[at] === " " || line[at] === "\t")) {
    columns += line[at] === "\t" ? 4 : 1;
    at += 1;
  }
  return line.slice(at);
}

function code(lines, at) {
  const opening = FENCE.exec(lines[at]);
  if (!opening) return null;
  const mark = opening[1][0];
  const indent = indentOf(lines[at]);
  let next = at + 1;
  const closes = (line) => {
    const bare = line.trim();
    return bare.length >= opening[1].length && indentOf(line) < 4 && isOnly(bare, mark);
  };
  while (next < lines.length && !closes(lines[next])) next += 1;
  const inside = lines.slice(at + 1, next);
  const text = (indent > 0 ? inside.map((line) => outdented(line, indent)) : inside).join("\n");
  const language = opening[2].trim().split(/\s/, 1)[0].slice(0, 40);
  return { block: { kind: "code", language, text, isClosed: next < lines.length }, next: next + 1 };
}

function isOnly(text, character) {
  for (const other of text) if (other !== character) return false;
  return true;
}

function heading(lines, at) {
  const found = HEADING.exec(lines[at]);
  if (!found) return null;
  let text = lines[at].slice(found[0].length).trim();
  let end = text.length;
  while (end > 0 && text[end - 1] === "#") end -= 1;
  if (end === 0 || text[end - 1] === " ") text = text.slice(0, end).trim();
  return { block: { kind: "heading", level: found[1].length, text }, next: at + 1 };
}

function rule(lines, at) {
  const bare = lines[at].replace(/[ \t]/g, "");
  if (bare.length < 3 || !"-*_".includes(bare[0]) || !isOnly(bare, bare[0])) return null;
  return { block: { kind: "rule" }, next: at + 1 };
}

function quote(lines, at, nesting) {
  let next = at;
  while (next < lines.length && QUOTE.test(lines[next])) next += 1;
  if (next === at) return null;
  const inside = lines.slice(at, next).map((line) => line.replace(QUOTE, ""));
  return { block: { kind: "quote", blocks: blocksOf(inside, nesting + 1) }, next };
}

function list(lines, at, nesting) {
  const first = itemAt(lines[at]);
  if (!first) return null;
  const items = [];
  let next = at;
  for (;;) {
    const item = next < lines.length ? itemAt(lines[next]) : null;
    if (!item || item.isOrdered !== first.isOrdered || rule(lines, next)) break;
    const end = endOfItem(lines, next, item.contentIndent);
    const inside = [item.rest, ...lines.slice(next + 1, end).map((line) => outdented(line, item.contentIndent))];
    items.push(itemOf(inside, nesting));
    next = end;
    while (next < lines.length && isBlank(lines[next])) next += 1;
  }
  return { block: { kind: "list", isOrdered: first.isOrdered, start: first.number, items }, next };
}

function itemAt(line) {
  const found = ITEM.exec(line);
  if (!found) return null;
  return {
    isOrdered: found[3] !== undefined,
    number: Number(found[3] ?? 1),
    contentIndent: found[1].length + found[2].length + (found[4].length || 1),
    rest: line.slice(found[0].length),
  };
}

function itemOf(lines, nesting) {
  const task = TASK.exec(lines[0]);
  const inside = task ? [lines[0].slice(task[0].length), ...lines.slice(1)] : lines;
  return { isDone: task ? task[1] !== " " : null, blocks: blocksOf(inside, nesting + 1) };
}

/** The line after an item: its own are indented, or go on with its paragraph. */
function endOfItem(lines, start, contentIndent) {
  let end = start + 1;
  let next = end;
  for (; next < lines.length; next += 1) {
    if (isBlank(lines[next])) continue;
    const indent = indentOf(lines[next]);
    const isOwn = indent >= Math.min(contentIndent, 2) && (indent >= contentIndent || !itemAt(lines[next]));
    const goesOn = next === end && itemAt(lines[next]) === null && !startsBlock(lines, next);
    if (!isOwn && !goesOn) break;
    end = next + 1;
  }
  return end;
}

/** Whether a paragraph ends before this line. As in CommonMark, a list that does not begin with 1 goes on with it. */
function startsBlock(lines, at) {
  const line = lines[at];
  const item = itemAt(line);
  return (
    (item !== null && item.rest.trim() !== "" && (!item.isOrdered || item.number === 1)) ||
    FENCE.test(line) ||
    HEADING.test(line) ||
    QUOTE.test(line) ||
    rule(lines, at) !== null ||
    isTable(lines, at)
  );
}

function isTable(lines, at) {
  const next = lines[at + 1];
  if (next === undefined || !lines[at].includes("|") || !next.includes("-") || !DELIMITER_ROW.test(next)) return false;
  return cells(lines[at]).length === cells(next).length;
}

function table(lines, at) {
  if (!isTable(lines, at)) return null;
  const aligned = cells(lines[at + 1]).map((cell) => {
    if (cell.endsWith(":")) return cell.startsWith(":") ? "center" : "right";
    return "left";
  });
  const head = cells(lines[at]);
  const rows = [];
  let next = at + 2;
  for (; next < lines.length && !isBlank(lines[next]) && lines[next].includes("|"); next += 1) {
    const row = cells(lines[next]);
    rows.push(head.map((_, index) => row[index] ?? ""));
  }
  return { block: { kind: "table", aligned, head, rows }, next };
}

/** The cells of a row; a bar after a backslash is text. */
function cells(line) {
  const found = [];
  let cell = "";
  const bare = line.trim();
  for (let at = bare.startsWith("|") ? 1 : 0; at < bare.length; at += 1) {
    if (bare[at] === "\\" && bare[at + 1] === "|") {
      cell += "|";
      at += 1;
    } else if (bare[at] === "|") {
      found.push(cell.trim());
      cell = "";
    } else cell += bare[at];
  }
  if (!bare.endsWith("|") || bare.endsWith("\\|")) found.push(cell.trim());
  return found;
}

function paragraph(lines, at) {
  let next = at + 1;
  while (next < lines.length && !isBlank(lines[next]) && !startsBlock(lines, next)) next += 1;
  return { block: { kind: "paragraph", text: lines.slice(at, next).map((line) => line.trim()).join("\n") }, next };
}
