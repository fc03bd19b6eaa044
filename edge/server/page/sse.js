/** Server-sent events out of text that arrives in any pieces. */

export class EventParser {
  #rest = "";
  #lines = [];

  /** The data of each event that is complete with this piece. */
  push(piece) {
    const lines = (this.#rest + piece).split(/\r\n|\n|\r(?!$)/);
    this.#rest = lines.pop();
    const events = [];
    for (const line of lines) {
      if (line === "" || line === "\r") {
        if (this.#lines.length > 0) events.push(this.#lines.join("\n"));
        this.#lines = [];
      } else if (line.startsWith("data:")) {
        this.#lines.push(line.slice(line[5] === " " ? 6 : 5));
      }
    }
    return events;
  }
}

/** The data of each event of a response's body. Ends where the body ends, whole or not. */
export async function* readEvents(body) {
  const parser = new EventParser();
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield* parser.push(value);
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
