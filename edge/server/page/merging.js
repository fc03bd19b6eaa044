/** What two tabs did to one conversation, brought together: no message of either is lost. */

const FIELDS = ["title", "model", "system", "settings", "schema", "usesSchema"];
const PLACE = new Set(["id", "parent", "children", "chosen"]);

/**
 * Takes into `mine` what another tab stored as `theirs`, both having begun as `base`. What one of them changed is as it
 * was changed there, what both changed as in `mine`. Messages of both are kept: as alternatives where they follow the
 * same one. Those that are shown stay the same; with `follows`, a new one of the other tab takes its place, unless there
 * is a new one here, too.
 *
 * Gives { isSet, nodes, isForked }: whether settings changed here, the ids of the messages to be shown anew, and whether
 * both went on from the same message.
 */
export function takeIn(mine, theirs, base, { follows = false } = {}) {
  const taken = FIELDS.filter((name) => same(mine[name], base[name]) && !same(mine[name], theirs[name]));
  for (const name of taken) mine[name] = theirs[name];
  mine.updated = Math.max(mine.updated, theirs.updated);
  const nodes = new Set();
  let isForked = false;
  for (const their of Object.values(theirs.nodes)) {
    const own = (mine.nodes[their.id] ??= their);
    if (own === their) continue;
    const before = base.nodes[their.id];
    if (isSaidAs(own, before) && !isSaidAs(own, their)) {
      say(own, their);
      nodes.add(own.id);
    }
    if (their.children.every((id) => own.children.includes(id))) continue;
    const added = own.children.filter((id) => !their.children.includes(id));
    const isNew = !own.children.includes(their.chosen);
    if (own.chosen === null || (follows && isNew && added.length === 0)) own.chosen = their.chosen;
    isForked ||= added.length > 0;
    own.children = [...their.children, ...added];
    for (const id of own.children) nodes.add(id);
  }
  return { isSet: taken.length > 0, nodes, isForked };
}

/** What there is to show where nothing was taken in. */
export function nothingTaken() {
  return { isSet: false, nodes: new Set(), isForked: false };
}

const same = (one, other) => JSON.stringify(one) === JSON.stringify(other);

/** What a message says and how it was made, without its place in the tree. */
const said = (node) => Object.fromEntries(Object.entries(node).filter(([name]) => !PLACE.has(name)));

const isSaidAs = (node, other) => other !== undefined && same(said(node), said(other));

/** The message stays the same object, which views hold on to. */
function say(node, other) {
  for (const name of Object.keys(said(node))) delete node[name];
  Object.assign(node, said(other));
}
