/** Which answers other tabs are writing. A tab says so with all that it stores; one that falls silent has gone. */

const SILENT_MILLISECONDS = 4000;

export class OtherTabs {
  #writing = new Map(); // by the id of the conversation: the id of the answer, and a timer

  /** `fellSilent(id, nodeId)` is called when nothing more was heard of an answer that was not complete. */
  constructor(fellSilent) {
    this.fellSilent = fellSilent;
  }

  /** Another tab has stored a conversation, while it wrote this answer, or none where that is null. */
  heard(id, nodeId) {
    clearTimeout(this.#writing.get(id)?.timer);
    this.#writing.delete(id);
    if (nodeId === null) return;
    const silent = () => {
      this.#writing.delete(id);
      this.fellSilent(id, nodeId);
    };
    this.#writing.set(id, { nodeId, timer: setTimeout(silent, SILENT_MILLISECONDS) });
  }

  /** The id of the answer that another tab is writing in a conversation, or undefined. */
  writingIn(id) {
    return this.#writing.get(id)?.nodeId;
  }
}
