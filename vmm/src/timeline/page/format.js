// Numbers and times for people.

const THIN = "\u202f";

const grouped = (n) => String(Math.round(n)).replace(/\B(?=(\d{3})+$)/g, THIN);

const UNITS = [["ns", 1], ["\u00b5s", 1e3], ["ms", 1e6], ["s", 1e9]];

/** The unit in which times up to `ns` are written. */
const unitOf = (ns) => UNITS.findLast(([, size]) => ns >= size) ?? UNITS[0];

/** A moment, exact to `step` ns. */
function moment(ns, step, [name, size]) {
  const digits = Math.max(0, Math.ceil(-Math.log10(step / size) - 1e-9));
  const [whole, part = ""] = (ns / size).toFixed(Math.min(digits, 12)).split(".");
  const tail = part.replace(/(\d{3})(?=\d)/g, `$1${THIN}`);
  return `${grouped(whole)}${tail && "."}${tail}\u00a0${name}`;
}

/** The step that shows a moment in whole groups of digits. */
const fineStep = (ns) => 1000 ** Math.floor(Math.log10(Math.max(ns, 1)) / 3 + 1e-9);

/** A length of time, three digits of it. */
function duration(ns) {
  const [name, size] = unitOf(ns);
  const value = ns / size;
  const digits = ns < 1e3 ? 0 : value < 10 ? 2 : value < 100 ? 1 : 0;
  const text = value >= 1000 ? grouped(value) : value.toFixed(digits);
  return `${text}\u00a0${name}`;
}

function bytes(n) {
  const names = ["B", "KiB", "MiB", "GiB", "TiB"];
  let at = 0;
  for (; n >= 1024 && at < names.length - 1; at++) n /= 1024;
  return `${at && n < 100 && n % 1 ? n.toFixed(1) : grouped(n)}\u00a0${names[at]}`;
}

/** A number of 64 bits, in two halves. */
const hex = (high, low) => `0x${high ? high.toString(16) + low.toString(16).padStart(8, "0") : low.toString(16)}`;

const plural = (n, one, many = `${one}s`) => `${grouped(n)}\u00a0${n === 1 ? one : many}`;

/** A position as the program reads it. */
function position(exit, branches, steps) {
  return `exit:${exit}${branches || steps ? `+${branches}` : ""}${steps ? `+${steps}` : ""}`;
}

/** Steps between ticks: 1, 2 or 5 times a power of ten. */
function niceStep(least) {
  const power = 10 ** Math.floor(Math.log10(least));
  return [1, 2, 5, 10].map((n) => n * power).find((step) => step >= least * (1 - 1e-9));
}

/** A new element with text, classes and children. */
function make(tag, { text, className, children = [] } = {}) {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  if (className) element.className = className;
  element.append(...children);
  return element;
}

const byId = (id) => document.getElementById(id);
