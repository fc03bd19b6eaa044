/**
 * Whether a value matches a JSON Schema, by the keywords below. The server enforces the schema; this shows it.
 * Keywords that are in a schema and not looked at here are named in `unchecked`.
 */

const MAX_DEPTH = 100;
const MAX_ERRORS = 5;
const MAX_PATTERN_CHARACTERS = 10_000;
const ANNOTATIONS = new Set(
  "$schema $id $comment $defs definitions title description default examples deprecated readOnly writeOnly".split(" "),
);

/** { errors: [{ path, message }], unchecked: [keyword] } */
export function validate(schema, value) {
  const check = { root: schema, errors: [], unchecked: new Set() };
  try {
    walk(check, schema, value, "", 0);
  } catch (error) {
    if (!(error instanceof TypeError)) throw error;
    check.unchecked.add("a keyword whose value is of the wrong type");
  }
  return { errors: check.errors, unchecked: [...check.unchecked].sort() };
}

function walk(check, schema, value, path, depth) {
  if (schema === true || check.errors.length >= MAX_ERRORS) return;
  if (schema === false) return void wrong(check, path, "nothing is allowed here");
  if (!isObject(schema)) return;
  if (depth > MAX_DEPTH) return void check.unchecked.add("nesting");
  for (const [keyword, rule] of Object.entries(schema)) {
    if (Object.hasOwn(RULES, keyword)) RULES[keyword](rule, { check, schema, value, path, depth });
    else if (!ANNOTATIONS.has(keyword)) check.unchecked.add(keyword);
  }
}

/** The errors of a subschema by itself. */
function errorsOf(schema, { check, value, path, depth }) {
  const inner = { root: check.root, errors: [], unchecked: check.unchecked };
  walk(inner, schema, value, path, depth + 1);
  return inner.errors;
}

const matches = (schema, at) => errorsOf(schema, at).length === 0;
const wrong = (check, path, message) => check.errors.push({ path: path || "the answer", message });
const fail = (at, message) => wrong(at.check, at.path, message);
const below = (at, schema, value, name) => walk(at.check, schema, value, step(at.path, name), at.depth + 1);
const here = (at, schema) => walk(at.check, schema, at.value, at.path, at.depth + 1);
const step = (path, name) => (typeof name === "number" ? `${path}[${name}]` : path ? `${path}.${name}` : name);
const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);
const characters = (text) => Array.from(text).length;

export function typeOf(value) {
  if (value === null) return "null";
  if (Array.isArray(value)) return "array";
  return typeof value;
}

export function equal(one, other) {
  if (typeOf(one) !== typeOf(other)) return false;
  if (Array.isArray(one)) return one.length === other.length && one.every((item, index) => equal(item, other[index]));
  if (!isObject(one)) return one === other;
  const names = Object.keys(one);
  return (
    names.length === Object.keys(other).length &&
    names.every((name) => Object.hasOwn(other, name) && equal(one[name], other[name]))
  );
}

function isOfType(value, type) {
  if (type === "integer") return Number.isInteger(value);
  return typeOf(value) === type;
}

function limit(type, measure, holds, says) {
  return (rule, at) => {
    if (type(at.value) && !holds(measure(at.value), rule)) fail(at, says(rule));
  };
}

const isText = (value) => typeof value === "string";
const isNumber = (value) => typeof value === "number";
const same = (value) => value;
const least = (value, rule) => value >= rule;
const most = (value, rule) => value <= rule;
const length = (value) => value.length;
const size = (value) => Object.keys(value).length;

/** The pattern, or null where it is not one for this browser, or the text too long to try it on. */
function compiled(pattern, text, check) {
  try {
    if (text.length <= MAX_PATTERN_CHARACTERS) return new RegExp(pattern, "u");
  } catch {
    // other dialects of regular expressions
  }
  check.unchecked.add("pattern");
  return null;
}

const RULES = {
  type: (rule, at) => {
    const types = [rule].flat();
    if (!types.some((type) => isOfType(at.value, type))) fail(at, `is ${typeOf(at.value)}, not ${types.join(" or ")}`);
  },
  enum: (rule, at) => {
    if (Array.isArray(rule) && !rule.some((item) => equal(item, at.value))) fail(at, "is none of the values of enum");
  },
  const: (rule, at) => equal(rule, at.value) || fail(at, `is not ${JSON.stringify(rule)}`),
  minimum: limit(isNumber, same, least, (rule) => `is less than ${rule}`),
  maximum: limit(isNumber, same, most, (rule) => `is more than ${rule}`),
  exclusiveMinimum: limit(isNumber, same, (value, rule) => value > rule, (rule) => `is not more than ${rule}`),
  exclusiveMaximum: limit(isNumber, same, (value, rule) => value < rule, (rule) => `is not less than ${rule}`),
  multipleOf: limit(isNumber, same, isMultiple, (rule) => `is not a multiple of ${rule}`),
  minLength: limit(isText, characters, least, (rule) => `has fewer than ${rule} characters`),
  maxLength: limit(isText, characters, most, (rule) => `has more than ${rule} characters`),
  minItems: limit(Array.isArray, length, least, (rule) => `has fewer than ${rule} items`),
  maxItems: limit(Array.isArray, length, most, (rule) => `has more than ${rule} items`),
  minProperties: limit(isObject, size, least, (rule) => `has fewer than ${rule} properties`),
  maxProperties: limit(isObject, size, most, (rule) => `has more than ${rule} properties`),
  uniqueItems: (rule, at) => {
    if (rule !== true || !Array.isArray(at.value)) return;
    const isRepeated = at.value.some((item, index) => at.value.slice(0, index).some((earlier) => equal(earlier, item)));
    if (isRepeated) fail(at, "has an item twice");
  },
  pattern: (rule, at) => {
    if (isText(at.value) && compiled(rule, at.value, at.check)?.test(at.value) === false) {
      fail(at, `does not match ${rule}`);
    }
  },
  required: (rule, at) => {
    if (!isObject(at.value) || !Array.isArray(rule)) return;
    for (const name of rule) if (!Object.hasOwn(at.value, name)) fail(at, `lacks the property ${name}`);
  },
  dependentRequired: (rule, at) => {
    if (!isObject(at.value)) return;
    for (const [name, needed] of Object.entries(rule)) {
      if (Object.hasOwn(at.value, name)) RULES.required(needed, at);
    }
  },
  properties: (rule, at) => {
    if (!isObject(at.value)) return;
    for (const [name, schema] of Object.entries(rule)) {
      if (Object.hasOwn(at.value, name)) below(at, schema, at.value[name], name);
    }
  },
  patternProperties: (rule, at) => {
    if (!isObject(at.value)) return;
    for (const [pattern, schema] of Object.entries(rule)) {
      for (const [name, value] of Object.entries(at.value)) {
        if (compiled(pattern, name, at.check)?.test(name)) below(at, schema, value, name);
      }
    }
  },
  additionalProperties: (rule, at) => {
    if (!isObject(at.value)) return;
    const known = Object.keys(at.schema.properties ?? {});
    const patterns = Object.keys(at.schema.patternProperties ?? {});
    for (const [name, value] of Object.entries(at.value)) {
      const isKnown = known.includes(name) || patterns.some((pattern) => compiled(pattern, name, at.check)?.test(name));
      if (isKnown) continue;
      if (rule === false) fail(at, `has the property ${name}, which the schema does not allow`);
      else below(at, rule, value, name);
    }
  },
  propertyNames: (rule, at) => {
    if (!isObject(at.value)) return;
    for (const name of Object.keys(at.value)) below(at, rule, name, `the name ${name}`);
  },
  prefixItems: (rule, at) => {
    if (Array.isArray(at.value)) rule.forEach((schema, index) => index < at.value.length && below(at, schema, at.value[index], index));
  },
  items: (rule, at) => {
    if (!Array.isArray(at.value)) return;
    if (Array.isArray(rule)) return void RULES.prefixItems(rule, at); // before 2020-12
    const first = at.schema.prefixItems?.length ?? 0;
    at.value.slice(first).forEach((item, index) => below(at, rule, item, first + index));
  },
  contains: (rule, at) => {
    if (!Array.isArray(at.value)) return;
    const count = at.value.filter((item) => matches(rule, { ...at, value: item })).length;
    const { minContains = 1, maxContains = Infinity } = at.schema;
    if (count < minContains || count > maxContains) fail(at, `has ${count} items as contains asks for`);
  },
  minContains: () => {}, // with contains
  maxContains: () => {},
  allOf: (rule, at) => rule.forEach((schema) => here(at, schema)),
  anyOf: (rule, at) => {
    if (!rule.some((schema) => matches(schema, at))) fail(at, "matches no alternative of anyOf");
  },
  oneOf: (rule, at) => {
    const count = rule.filter((schema) => matches(schema, at)).length;
    if (count !== 1) fail(at, `matches ${count} alternatives of oneOf instead of one`);
  },
  not: (rule, at) => {
    if (matches(rule, at)) fail(at, "matches what not excludes");
  },
  if: (rule, at) => {
    const then = matches(rule, at) ? at.schema.then : at.schema.else;
    if (then !== undefined) here(at, then);
  },
  then: () => {}, // with if
  else: () => {},
  $ref: (rule, at) => {
    const target = resolved(at.check.root, rule);
    if (target === undefined) at.check.unchecked.add("$ref");
    else here(at, target);
  },
};

function isMultiple(value, divisor) {
  const quotient = value / divisor;
  return Math.abs(quotient - Math.round(quotient)) < 1e-9 * Math.max(1, Math.abs(quotient));
}

/** What a reference into the same document names; undefined for all others. */
function resolved(root, reference) {
  if (reference === "#") return root;
  if (typeof reference !== "string" || !reference.startsWith("#/")) return undefined;
  let target = root;
  for (const part of reference.slice(2).split("/")) {
    const name = decoded(part).replaceAll("~1", "/").replaceAll("~0", "~");
    if (typeof target !== "object" || target === null || !Object.hasOwn(target, name)) return undefined;
    target = target[name];
  }
  return target;
}

function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}
