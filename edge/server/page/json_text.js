/** Where and why a text is not JSON. The browser's own parser says it in different ways, or not at all. */

const MAX_NESTING = 500;
const NUMBER = /-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?/y;
const NUMBER_START = /^-?(?:(?:0|[1-9]\d*)(?:\.|(?:\.\d+)?(?:[eE][+-]?)?))?$/;
const MAX_NUMBER_CHARACTERS = 400;
const PLAIN = /[^"\\\u0000-\u001f]*/y;
const ESCAPE = /\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})/y;

/**
 * { value } for JSON, else { message, line, column, isUnfinished }. Lines and columns count from 1.
 * `isUnfinished`: nothing is wrong so far, there is only more to come.
 */
export function readJson(text) {
  try {
    return { value: JSON.parse(text) };
  } catch {
    return located(text, firstProblem(text));
  }
}

function located(text, problem) {
  const before = text.slice(0, problem.at).split("\n");
  return {
    message: problem.message,
    line: before.length,
    column: Array.from(before.at(-1)).length + 1,
    isUnfinished: problem.at >= text.length,
  };
}

class Problem {
  constructor(at, message) {
    this.at = at;
    this.message = message;
  }
}

function firstProblem(text) {
  try {
    const reader = new Reader(text);
    reader.value(0);
    reader.space();
    if (reader.at < text.length) return new Problem(reader.at, `${reader.here()} after the end of the value`);
    return new Problem(text.length, "something that JSON does not have");
  } catch (problem) {
    if (problem instanceof Problem) return problem;
    throw problem;
  }
}

class Reader {
  constructor(text) {
    this.text = text;
    this.at = 0;
  }

  space() {
    while (" \t\n\r".includes(this.text[this.at] ?? "x")) this.at += 1;
  }

  here() {
    const character = String.fromCodePoint(this.text.codePointAt(this.at));
    return character === "\n" ? "a line break" : `"${character}"`;
  }

  wrong(expected) {
    if (this.at >= this.text.length) return new Problem(this.text.length, `the text ends where ${expected} should be`);
    return new Problem(this.at, `${this.here()} where ${expected} should be`);
  }

  match(pattern) {
    pattern.lastIndex = this.at;
    const found = pattern.exec(this.text);
    if (found) this.at = pattern.lastIndex;
    return found !== null;
  }

  take(character, expected) {
    this.space();
    if (this.text[this.at] !== character) throw this.wrong(expected);
    this.at += 1;
  }

  value(nesting) {
    this.space();
    if (nesting > MAX_NESTING) throw new Problem(this.at, `more than ${MAX_NESTING} levels of nesting`);
    const character = this.text[this.at];
    if (character === "{") this.object(nesting);
    else if (character === "[") this.array(nesting);
    else if (character === '"') this.string();
    else this.literal();
  }

  object(nesting) {
    this.at += 1;
    this.space();
    if (this.text[this.at] === "}") return void (this.at += 1);
    for (;;) {
      this.space();
      if (this.text[this.at] !== '"') throw this.wrong("a property name in double quotes");
      this.string();
      this.take(":", 'a ":"');
      this.value(nesting + 1);
      this.space();
      if (this.text[this.at] === "}") return void (this.at += 1);
      this.take(",", 'a "," or "}"');
    }
  }

  array(nesting) {
    this.at += 1;
    this.space();
    if (this.text[this.at] === "]") return void (this.at += 1);
    for (;;) {
      this.value(nesting + 1);
      this.space();
      if (this.text[this.at] === "]") return void (this.at += 1);
      this.take(",", 'a "," or "]"');
    }
  }

  string() {
    this.at += 1;
    for (;;) {
      this.match(PLAIN);
      const character = this.text[this.at];
      if (character === '"') return void (this.at += 1);
      if (character === "\\") {
        if (!this.match(ESCAPE)) {
          if (this.text.length - this.at < 6 && /^\\(?:u[0-9a-fA-F]*)?$/.test(this.text.slice(this.at))) this.at = this.text.length;
          throw this.wrong("an escape such as \\n or \\u00e9");
        }
      } else if (character === undefined) throw this.wrong('a closing "');
      else throw this.wrong('an escape or a closing "');
    }
  }

  literal() {
    for (const word of ["true", "false", "null"]) {
      if (this.text.startsWith(word, this.at)) return void (this.at += word.length);
      const rest = this.text.slice(this.at, this.at + word.length);
      if (rest !== "" && this.at + rest.length === this.text.length && word.startsWith(rest)) this.at = this.text.length;
    }
    const start = this.at;
    const isNumber = start < this.text.length && this.match(NUMBER);
    if (isNumber && this.at === this.text.length) return;
    const isNear = this.text.length - start < MAX_NUMBER_CHARACTERS;
    if (isNear && NUMBER_START.test(this.text.slice(start))) this.at = this.text.length;
    else if (isNumber) return;
    throw this.wrong("a value");
  }
}
