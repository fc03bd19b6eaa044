/** The messages that are shown, and where the reader is in them. */

import { shownPath } from "./conversation.js";
import { byId, fill } from "./dom.js";
import { MessageView } from "./message_view.js";

const NEAR_PIXELS = 32;

export class ThreadView {
  #views = [];
  #conversation = null;
  #isAtEnd = true;
  #top = 0;

  constructor(actions) {
    this.actions = actions;
    this.scroller = byId("thread");
    this.messages = byId("messages");
    this.toEnd = byId("to-end");
    this.scroller.addEventListener("scroll", () => this.#scrolled(), { passive: true });
    this.toEnd.addEventListener("click", () => this.goToEnd());
    const keep = () => this.#isAtEnd && this.#toBottom();
    new ResizeObserver(keep).observe(this.messages);
    new ResizeObserver(keep).observe(this.scroller);
  }

  /** Shows a conversation. Messages that are on the page already, and lead to the same ones, stay untouched. */
  show(conversation, answer) {
    const path = shownPath(conversation);
    let kept = 0;
    if (this.#conversation === conversation) {
      while (kept < path.length && this.#views[kept]?.node === path[kept]) kept += 1;
      if (answer && path[kept - 1] === answer.node) kept -= 1; // shown before it was asked for again
    }
    for (const view of this.#views.splice(kept)) view.element.remove();
    const isOther = this.#conversation !== conversation;
    this.#conversation = conversation;
    const added = path.slice(kept).map((node) => {
      const view = new MessageView(conversation, node, this.actions);
      return answer?.node === node ? view.follow(answer) : view.showWhole();
    });
    this.#views = [...this.#views, ...added];
    fill(this.messages, added.map((view) => view.element));
    byId("empty").hidden = path.length > 0;
    if (isOther) this.goToEnd();
  }

  /** Shows messages anew, of those that are on the page; one that is being edited is left alone. */
  refresh(nodeIds) {
    for (const view of this.#views) if (nodeIds.has(view.node.id) && !view.isBusy) view.showWhole();
  }

  get isEditing() {
    return this.#views.some((view) => view.isEdited);
  }

  /** Puts the keyboard back on the arrows of a turn that was just switched. */
  focusBranch(nodeId, step) {
    const arrows = this.#views.find((view) => view.node.id === nodeId)?.element.querySelectorAll(".branches button") ?? [];
    const enabled = [...arrows].filter((arrow) => !arrow.disabled);
    (enabled.find((arrow) => arrow.dataset.step === String(step)) ?? enabled[0])?.focus();
  }

  goToEnd() {
    this.#isAtEnd = true;
    this.#toBottom();
    // messages out of view have estimated heights until they are seen
    requestAnimationFrame(() => this.#isAtEnd && this.#toBottom());
  }

  #toBottom() {
    this.scroller.scrollTop = this.scroller.scrollHeight;
    this.#top = this.scroller.scrollTop;
    this.toEnd.hidden = true;
  }

  /** Only a reader scrolls upwards; then the page stays where it is until the end is in view again. */
  #scrolled() {
    const { scrollTop, scrollHeight, clientHeight } = this.scroller;
    const isNear = scrollHeight - scrollTop - clientHeight < NEAR_PIXELS;
    if (isNear) this.#isAtEnd = true;
    else if (scrollTop < this.#top) this.#isAtEnd = false;
    this.#top = scrollTop;
    this.toEnd.hidden = this.#isAtEnd;
  }
}
