/** The settings of the open conversation: system prompt, JSON Schema, sampling. */

import { byId, element } from "./dom.js";
import { SETTINGS, readSetting, savedDefaults, saveDefaults, shownSetting } from "./settings.js";
import { badge, schemaState } from "./validity.js";

/** `changed()` is called after each change; `tell(text)` for what a person should know. */
export class Panel {
  #conversation = null;
  #fields = new Map();

  constructor({ changed, tell }) {
    this.changed = changed;
    this.tell = tell;
    this.system = byId("system");
    this.schema = byId("schema");
    this.usesSchema = byId("uses-schema");
    byId("sampling").append(...SETTINGS.map((setting) => this.#row(setting)));
    this.system.addEventListener("input", () => this.#take("system", this.system.value));
    this.schema.addEventListener("input", () => {
      const had = this.#conversation.schema.trim() !== "";
      if (!had && this.schema.value.trim() !== "") this.#use(true);
      this.#take("schema", this.schema.value);
      this.#showSchema();
    });
    this.usesSchema.addEventListener("change", () => this.#use(this.usesSchema.checked));
    byId("make-default").addEventListener("click", () => this.#makeDefault());
    byId("reset").addEventListener("click", () => this.#reset());
  }

  show(conversation) {
    this.#conversation = conversation;
    this.system.value = conversation.system;
    this.schema.value = conversation.schema;
    this.usesSchema.checked = conversation.usesSchema;
    for (const setting of SETTINGS) {
      this.#fields.get(setting.name).value = shownSetting(setting, conversation.settings[setting.name]);
      this.#showProblem(setting, "");
    }
    this.#showSchema();
  }

  /** The field that keeps a question from being asked, or null. */
  wrongField() {
    const wrong = [...this.#fields.values()].find((field) => field.getAttribute("aria-invalid") === "true");
    if (wrong) return wrong;
    return this.#conversation.usesSchema && schemaState(this.schema.value).state !== "valid" ? this.schema : null;
  }

  #take(name, value) {
    this.#conversation[name] = value;
    this.changed();
  }

  #use(isUsed) {
    this.usesSchema.checked = isUsed;
    this.#take("usesSchema", isUsed);
  }

  #showSchema() {
    const state = schemaState(this.schema.value);
    byId("schema-state").replaceChildren(badge(state));
    this.schema.setAttribute("aria-invalid", String(state.state === "invalid"));
  }

  #row(setting) {
    const id = `setting-${setting.name}`;
    const attributes = { id, name: setting.name, autocomplete: "off", "aria-describedby": `${id}-about ${id}-problem` };
    const isText = setting.kind === "lines";
    const field = isText
      ? element("textarea", { ...attributes, rows: "2", placeholder: "none" })
      : element("input", { ...attributes, type: "text", inputmode: "decimal", placeholder: "default" });
    field.addEventListener("input", () => {
      const { value, problem = "" } = readSetting(setting, field.value);
      this.#showProblem(setting, problem);
      if (problem) return;
      if (value === undefined) delete this.#conversation.settings[setting.name];
      else this.#conversation.settings[setting.name] = value;
      this.changed();
    });
    if (!isText) field.addEventListener("keydown", (event) => stepped(event, setting, field));
    this.#fields.set(setting.name, field);
    return element(
      "div",
      { class: `setting ${setting.kind}` },
      element("label", { for: id }, setting.label, " ", element("span", { class: "about", id: `${id}-about` }, setting.about)),
      field,
      element("p", { class: "problem", id: `${id}-problem`, role: "alert" }),
    );
  }

  #showProblem(setting, problem) {
    byId(`setting-${setting.name}-problem`).textContent = problem;
    this.#fields.get(setting.name).setAttribute("aria-invalid", String(problem !== ""));
  }

  #makeDefault() {
    const isKept = saveDefaults(this.#conversation);
    this.tell(isKept ? "New conversations begin with these settings." : "This browser keeps no settings.");
  }

  #reset() {
    const { system, settings } = savedDefaults();
    Object.assign(this.#conversation, { system, settings, schema: "", usesSchema: false });
    this.show(this.#conversation);
    this.changed();
    this.tell("The settings are those of a new conversation.");
  }
}

/** The arrow keys change a number by its step. */
function stepped(event, setting, field) {
  const direction = { ArrowUp: 1, ArrowDown: -1 }[event.key];
  if (direction === undefined || field.value.trim() === "") return;
  const { value } = readSetting(setting, field.value);
  if (value === undefined) return;
  event.preventDefault();
  const next = Math.min(Math.max(value + direction * setting.step, setting.least ?? -Infinity), setting.most ?? Infinity);
  field.value = String(Number(next.toFixed(4)));
  field.dispatchEvent(new Event("input"));
}
