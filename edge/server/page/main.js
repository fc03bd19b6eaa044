/** The page: which conversation is open, what is being answered, and what happens when a person does something. */

import { Answer } from "./answer.js";
import { listModels } from "./api.js";
import { Composer } from "./composer.js";
import * as conversations from "./conversation.js";
import { byId, element } from "./dom.js";
import { closeOver, openPanel, startDrawers } from "./drawers.js";
import { askForKey } from "./key_dialog.js";
import { ListView } from "./list_view.js";
import { announce, banner, forgetAnnounced, toast } from "./notices.js";
import { OtherTabs } from "./other_tabs.js";
import { Panel } from "./panel.js";
import { savedDefaults } from "./settings.js";
import { openStore } from "./store.js";
import { startTheme } from "./theme.js";
import { ThreadView } from "./thread_view.js";
import { download, fromFile, toFile } from "./transfer.js";

const SAVE_MILLISECONDS = 1000;

class Page {
  #models = [];
  #answers = new Map(); // by the id of the conversation
  #unsaved = new Map(); // conversations that are written soon, with their timers
  #deleted = new Set();
  #current = null;
  #others = new OtherTabs((id, nodeId) => id === this.#current.id && this.thread.refresh(new Set([nodeId])));

  constructor(store) {
    this.store = store;
    this.composer = new Composer({ send: (text) => this.send(text), stop: () => this.stop() });
    this.thread = new ThreadView({
      retry: (node) => this.retry(node),
      edit: (node, text) => this.edit(node, text),
      choose: (id, step) => this.choose(id, step),
      enterKey: (node) => this.enterKey(() => this.retry(node)),
      isWrittenElsewhere: (node) => this.#others.writingIn(this.#current.id) === node.id,
      announce,
    });
    this.list = new ListView((text) => (text === "" ? store.list() : store.search(text)), {
      open: (id) => this.go(id),
      rename: (id, title) => this.rename(id, title),
      exportOne: (id) => this.exportOne(id),
      remove: (id) => this.remove(id),
    });
    this.panel = new Panel({ changed: () => this.#changed(), tell: toast });
    this.#listen();
  }

  async start() {
    if (!this.store.isKept) banner("This browser keeps no conversations: they are gone when the page is closed.");
    this.store.onChange((change) => this.#changedElsewhere(change));
    await this.#openAddressed();
    this.list.refresh();
    await this.loadModels();
  }

  // What is open

  async #openAddressed() {
    const id = location.hash.slice(1);
    const found = id === "" ? undefined : (this.#answers.get(id)?.conversation ?? (await this.store.get(id)));
    if (found) this.#open(found);
    else this.startNew();
  }

  go(id) {
    closeOver();
    if (location.hash.slice(1) === id) return;
    location.hash = id;
  }

  startNew() {
    closeOver();
    if (location.hash !== "") history.pushState(null, "", location.pathname + location.search);
    this.#open(conversations.newConversation({ model: this.#models[0]?.id ?? null, ...savedDefaults() }));
    this.composer.invite();
  }

  #open(conversation) {
    this.#current = conversation;
    forgetAnnounced();
    this.panel.show(conversation);
    this.list.markOpen(conversation.id);
    this.#showModel();
    this.#show();
  }

  #show() {
    const conversation = this.#current;
    const answer = this.#answers.get(conversation.id);
    this.thread.show(conversation, answer);
    this.composer.showAnswering(answer !== undefined);
    byId("main").classList.toggle("answering", answer !== undefined);
    byId("title").textContent = conversations.titleOf(conversation);
    document.title = `${conversations.titleOf(conversation)} · edge`;
    this.#showContext();
  }

  #showContext() {
    const facts = conversations.shownPath(this.#current).findLast((node) => node.facts?.promptTokens)?.facts;
    const model = this.#models.find(({ id }) => id === this.#current.model);
    this.composer.showContext(facts ? facts.promptTokens + facts.tokens : null, model?.contextTokens ?? null);
  }

  // Asking and answering

  send(text) {
    if (!this.#mayAsk()) return false;
    conversations.addMessage(this.#current, conversations.lastId(this.#current), "user", text);
    this.#answer(conversations.lastId(this.#current));
    this.thread.goToEnd();
    return true;
  }

  stop() {
    this.#answers.get(this.#current.id)?.stop();
  }

  retry(node) {
    if (!this.#mayAsk()) return;
    this.#answer(node.parent, node.failure && node.content === "" ? node : undefined);
    this.composer.invite();
  }

  edit(node, text) {
    if (text.trim() === "" || (node.role === "user" && !this.#mayAsk())) return;
    const facts = node.role === "user" ? {} : { facts: { ...node.facts, ending: "stop" }, schema: node.schema };
    const edited = conversations.addMessage(this.#current, node.parent, node.role, text, facts);
    if (node.role === "user") this.#answer(edited.id);
    this.#changed();
    this.#show();
    this.composer.invite();
  }

  choose(id, step) {
    if (this.#answers.has(this.#current.id)) return;
    conversations.choose(this.#current, id);
    this.#changed();
    this.#show();
    this.thread.focusBranch(id, step);
  }

  #mayAsk() {
    if (this.#answers.has(this.#current.id)) return false;
    if (this.#others.writingIn(this.#current.id) !== undefined) {
      toast("Another tab is writing an answer here. Wait until it is complete, or stop it there.");
      return false;
    }
    const wrong = this.panel.wrongField();
    if (wrong === null) return true;
    openPanel();
    wrong.focus();
    toast("Put this right first, or leave it empty.");
    return false;
  }

  /** Asks for an answer below a message, into a node that failed before it had a word, or a new one. */
  #answer(parentId, failed) {
    const conversation = this.#current;
    const about = { model: conversation.model, schema: conversation.usesSchema ? conversation.schema : undefined };
    const node = failed ?? conversations.addMessage(conversation, parentId, "assistant", "");
    Object.assign(node, about, { failure: undefined, facts: undefined });
    const answer = new Answer(conversation, node);
    this.#answers.set(conversation.id, answer);
    forgetAnnounced();
    this.#show();
    if (location.hash.slice(1) !== conversation.id) history.pushState(null, "", `#${conversation.id}`);
    this.list.markOpen(conversation.id);
    this.#save(conversation).then(() => this.list.refresh());
    let kept = performance.now();
    const keep = () => {
      kept = performance.now();
      this.#save(conversation);
    };
    const keeping = setInterval(keep, SAVE_MILLISECONDS);
    const isLate = () => performance.now() - kept > 1.5 * SAVE_MILLISECONDS; // timers of a tab that is hidden for long are
    answer.run(() => isLate() && keep()).then(() => {
      clearInterval(keeping);
      this.#ended(answer);
    });
  }

  #ended({ conversation, node }) {
    this.#answers.delete(conversation.id);
    conversation.updated = Date.now();
    this.#save(conversation).then(() => this.list.refresh());
    const isContextKnown = this.#models.some(({ id, contextTokens }) => id === node.model && contextTokens !== null);
    if (!isContextKnown && !node.failure) this.loadModels(); // it may have been loaded for this answer
    if (conversation !== this.#current) return;
    if (node.schema !== undefined) announce(node.content);
    if (node.failure) announce(`${node.failure.message} ${node.failure.hint}`);
    this.#show();
  }

  // The server's models and key

  async loadModels() {
    try {
      this.#models = await listModels();
      if (this.store.isKept) banner(null);
    } catch (error) {
      if (error.needsKey) this.enterKey();
      banner(`${error.message} ${error.hint}`.trim(), {
        label: error.needsKey ? "Enter the key" : "Try again",
        run: () => (error.needsKey ? this.enterKey() : this.loadModels()),
      });
      return;
    }
    this.#showModel();
    this.#showContext();
  }

  enterKey(then = () => {}) {
    askForKey(async () => {
      await this.loadModels();
      then();
    });
  }

  /** The model of the open conversation; the first one where the server no longer has it. */
  #showModel() {
    const conversation = this.#current;
    const isKnown = this.#models.some(({ id }) => id === conversation.model);
    if (!isKnown && this.#models.length > 0) conversation.model = this.#models[0].id;
    const choice = byId("model");
    choice.replaceChildren(...this.#models.map(({ id }) => element("option", { value: id }, id)));
    choice.value = conversation.model;
    byId("model-choice").hidden = this.#models.length < 2;
    byId("model-name").textContent = this.#models.length === 1 ? this.#models[0].id : "";
  }

  // Keeping

  #isStored(conversation) {
    return conversation.nodes[conversations.ROOT].children.length > 0 && !this.#deleted.has(conversation.id);
  }

  /** Something changed: it is written when no more changes follow at once. */
  #changed() {
    const conversation = this.#current;
    clearTimeout(this.#unsaved.get(conversation));
    this.#unsaved.set(conversation, setTimeout(() => this.#save(conversation), 300));
  }

  async #save(conversation) {
    clearTimeout(this.#unsaved.get(conversation));
    this.#unsaved.delete(conversation);
    if (!this.#isStored(conversation)) return;
    try {
      const answering = this.#answers.get(conversation.id)?.node.id ?? null;
      const taken = await this.store.put(conversation, answering);
      this.#showTaken(conversation, taken);
    } catch (error) {
      banner(`The conversation could not be kept: ${error.message}. Export it, and delete others.`, {
        label: "Export",
        run: () => this.#export([conversation], "conversation"),
      });
    }
  }

  async #changedElsewhere({ id, answering }) {
    this.list.refresh();
    const written = [this.#others.writingIn(id), answering].filter((nodeId) => nodeId); // before, and now
    this.#others.heard(id, answering);
    const conversation = this.#answers.get(id)?.conversation ?? (id === this.#current.id ? this.#current : undefined);
    if (conversation === undefined) return;
    const taken = await this.store.refresh(conversation, { follows: this.#follows(conversation) });
    if (taken !== null) this.#showTaken(conversation, { ...taken, nodes: new Set([...taken.nodes, ...written]) });
    else if (conversation === this.#current && !this.#answers.has(id)) this.startNew();
  }

  /** Whether a new alternative of another tab is shown here: not while a message is edited, or an answer comes. */
  #follows(conversation) {
    return !this.#answers.has(conversation.id) && !(conversation === this.#current && this.thread.isEditing);
  }

  /** Shows what was taken in of another tab's changes. */
  #showTaken(conversation, { isSet, nodes, isForked }) {
    if (isForked) toast("Another tab went on from here, too. Both ways are kept: the arrows below a message lead to the other.");
    if (conversation !== this.#current) return;
    if (isSet) this.panel.show(conversation);
    if (isSet) this.#showModel();
    if (nodes.size > 0) this.thread.refresh(nodes);
    if (isSet || nodes.size > 0) this.#show();
  }

  async rename(id, title) {
    const conversation = await this.#find(id);
    conversation.title = title;
    await this.#save(conversation);
    if (conversation === this.#current) this.#show();
  }

  async remove(id) {
    const conversation = await this.#find(id);
    this.#answers.get(id)?.stop();
    this.#deleted.add(id);
    await this.store.remove(id);
    if (id === this.#current.id) this.startNew();
    this.list.refresh();
    toast(`"${conversations.titleOf(conversation)}" was deleted.`, {
      label: "Undo",
      run: async () => {
        this.#deleted.delete(id);
        await this.#save(conversation);
        await this.list.refresh();
        this.go(id);
      },
    });
  }

  async #find(id) {
    if (id === this.#current.id) return this.#current;
    return this.#answers.get(id)?.conversation ?? this.store.get(id);
  }

  // Files

  async exportOne(id) {
    this.#export([await this.#find(id)], "conversation");
  }

  async exportAll() {
    const summaries = await this.store.list();
    this.#export(await Promise.all(summaries.map(({ id }) => this.#find(id))), "conversations");
  }

  #export(all, name) {
    download(`edge-${name}-${new Date().toISOString().slice(0, 10)}.json`, toFile(all));
  }

  async importFile(file) {
    try {
      const taken = new Set((await this.store.list()).map(({ id }) => id));
      const read = fromFile(await file.text(), (id) => taken.has(id));
      for (const conversation of read) await this.store.put(conversation);
      await this.list.refresh();
      toast(read.length === 1 ? "1 conversation was imported." : `${read.length} conversations were imported.`);
      if (read.length === 1) this.go(read[0].id);
    } catch (error) {
      toast(`Nothing was imported. ${error.message}`);
    }
  }

  #listen() {
    window.addEventListener("hashchange", () => this.#openAddressed());
    window.addEventListener("pagehide", () => {
      const answered = [...this.#answers.values()].map(({ conversation }) => conversation);
      this.store.leave([...answered, ...this.#unsaved.keys()].filter((each) => this.#isStored(each)));
    });
    document.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || event.defaultPrevented || document.querySelector("dialog[open]")) return;
      if (!closeOver()) this.stop();
    });
    byId("skip").addEventListener("click", (event) => {
      event.preventDefault();
      this.composer.focus();
    });
    byId("new").addEventListener("click", () => this.startNew());
    byId("export").addEventListener("click", () => this.exportAll());
    byId("import").addEventListener("click", () => byId("import-file").click());
    byId("import-file").addEventListener("change", async (event) => {
      for (const file of event.target.files) await this.importFile(file);
      event.target.value = "";
    });
    byId("model").addEventListener("change", (event) => {
      this.#current.model = event.target.value;
      this.#showContext();
      this.#changed();
    });
  }
}

startTheme();
startDrawers();
new Page(await openStore()).start();
