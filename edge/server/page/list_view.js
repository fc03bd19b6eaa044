/** The conversations that are kept: found, opened, renamed, exported and deleted. */

import { byId, element, fill, iconButton } from "./dom.js";

const SEARCH_MILLISECONDS = 150;
const WHEN = new Intl.DateTimeFormat("en", { dateStyle: "medium", timeStyle: "short" });

/** `actions`: open(id), rename(id, title), exportOne(id), remove(id); `find(text)` gives the summaries to show. */
export class ListView {
  #openId = null;
  #waiting = null;
  #asked = 0;

  constructor(find, actions) {
    this.find = find;
    this.actions = actions;
    this.items = byId("conversations");
    this.search = byId("search");
    this.search.addEventListener("input", () => {
      clearTimeout(this.#waiting);
      this.#waiting = setTimeout(() => this.refresh(), SEARCH_MILLISECONDS);
    });
    this.search.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || this.search.value === "") return;
      event.stopPropagation();
      this.search.value = "";
      this.refresh();
    });
  }

  markOpen(id) {
    this.#openId = id;
    for (const item of this.items.children) this.#mark(item);
  }

  /** Reads the list again. A name that is being edited is left alone. */
  async refresh() {
    const asked = (this.#asked += 1);
    const summaries = await this.find(this.search.value.trim());
    if (asked !== this.#asked || this.items.querySelector("input")) return;
    const focused = document.activeElement?.closest?.("#conversations li")?.dataset.id;
    const control = document.activeElement?.dataset?.control;
    this.items.replaceChildren();
    fill(this.items, summaries.map((summary) => this.#item(summary)));
    if (focused) (this.items.querySelector(`li[data-id="${focused}"] [data-control="${control}"]`) ?? this.search).focus();
    byId("none-found").hidden = summaries.length > 0;
    byId("none-found").textContent = this.search.value.trim() === "" ? "No conversations yet." : "Nothing found.";
  }

  #mark(item) {
    const isOpen = item.dataset.id === this.#openId;
    item.classList.toggle("open", isOpen);
    item.querySelector(".title")?.setAttribute("aria-current", isOpen ? "true" : "false");
  }

  #item({ id, title, updated }) {
    const item = element("li", { "data-id": id });
    const control = (name, drawing, label, run) => iconButton(drawing, `${label} "${title}"`, run, { "data-control": name });
    item.append(
      element(
        "button",
        {
          type: "button",
          class: "title",
          title: `${title}\n${WHEN.format(updated)}`,
          "data-control": "title",
          on: { click: () => this.actions.open(id) },
        },
        title,
      ),
      element(
        "span",
        { class: "item-actions" },
        control("rename", "edit", "Rename", () => this.#rename(item, id, title)),
        control("export", "download", "Export", () => this.actions.exportOne(id)),
        control("delete", "trash", "Delete", () => this.actions.remove(id)),
      ),
    );
    this.#mark(item);
    return item;
  }

  #rename(item, id, title) {
    const field = element("input", { type: "text", "aria-label": "New name", maxlength: "200" });
    field.value = title;
    let isDone = false;
    const end = async (isKept) => {
      if (isDone) return;
      isDone = true;
      const name = field.value.trim();
      field.remove();
      if (isKept && name !== "" && name !== title) await this.actions.rename(id, name);
      await this.refresh();
      this.items.querySelector(`li[data-id="${id}"] [data-control="title"]`)?.focus();
    };
    field.addEventListener("keydown", (event) => {
      if (event.isComposing) return;
      if (event.key === "Escape") event.stopPropagation();
      if (event.key === "Enter" || event.key === "Escape") end(event.key === "Enter");
    });
    field.addEventListener("blur", () => end(true));
    item.replaceChildren(field);
    field.select();
  }
}
