// From what the page carries to arrays: the inverse of pack.rs.

/** Unsigned LEB128 numbers, one after the other. */
class Varints {
  constructor(bytes) {
    this.bytes = bytes;
    this.at = 0;
  }

  /** Exact below 2^53. */
  next() {
    let value = 0;
    for (let unit = 1; ; unit *= 128) {
      const byte = this.bytes[this.at++];
      if (byte === undefined) throw new Error("the page is not whole");
      value += (byte & 127) * unit;
      if (byte < 128) return value;
    }
  }

  column(type, length) {
    return type.from({ length }, () => this.next());
  }

  /** Sums of the differences that are stored. */
  sums(length) {
    let sum = 0;
    return Float64Array.from({ length }, () => (sum += this.next()));
  }

  /** Numbers of 64 bits, as two columns of 32. */
  wide(length) {
    const high = new Uint32Array(length), low = new Uint32Array(length);
    for (let i = 0; i < length; i++) {
      for (let shift = 0; ; shift += 7) {
        const byte = this.bytes[this.at++], bits = byte & 127;
        if (byte === undefined) throw new Error("the page is not whole");
        if (shift < 32) low[i] |= bits << shift;
        if (shift > 32) high[i] |= bits << (shift - 32);
        else if (shift === 28) high[i] |= bits >> 4;
        if (byte < 128) break;
      }
    }
    return { high, low, number: (i) => high[i] * 2 ** 32 + low[i] };
  }
}

async function unpack(base64) {
  const packed = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
  const plain = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
  return new Uint8Array(await new Response(plain).arrayBuffer());
}

/** Running totals: entry i is the sum of what is before record i. */
function totals(length, of) {
  const out = new Float64Array(length + 1);
  for (let i = 0; i < length; i++) out[i + 1] = out[i] + of(i);
  return out;
}

function decodeLane(lane, from) {
  const n = lane.records;
  const kinds = lane.kinds.map(([verb, name, write]) => ({ verb, name, write: write === 1 }));
  const time = from.sums(n), span = from.column(Float64Array, n), kind = from.column(Uint32Array, n);
  const exit = from.sums(n), branches = from.column(Float64Array, n), steps = from.column(Float64Array, n);
  const count = Float64Array.from({ length: n }, () => 1 + from.next());
  const address = from.wide(n), value = from.wide(n), text = from.column(Uint32Array, n);
  const weight = lane.measure === "events" ? (i) => count[i] : value.number;
  const longest = span.reduce((most, length) => Math.max(most, length), 0);
  return {
    ...lane, kinds, n, time, span, kind, exit, branches, steps, count, address, value, text, longest,
    // drawn from the bottom up, where there is only one direction
    single: kinds.every((k) => k.write) || kinds.every((k) => !k.write),
    events: totals(n, (i) => count[i]),
    up: totals(n, (i) => (kinds[kind[i]].write ? weight(i) : 0)),
    down: totals(n, (i) => (kinds[kind[i]].write ? 0 : weight(i))),
  };
}

/** The lane of the console: lines in place of records. */
function consoleLane({ head, left_out, tail }) {
  const lines = [...head, ...tail];
  const n = lines.length;
  const column = (at) => Float64Array.from(lines, (line) => line[at]);
  return {
    id: "console", group: "console", name: "Console", measure: "events", quantum: 0, n, single: true,
    time: column(0), exit: column(1), branches: column(2), steps: column(3),
    span: new Float64Array(n), longest: 0, lines: lines.map((line) => line[4]),
    events: totals(n, () => 1), up: totals(n, () => 1), down: totals(n, () => 0),
    leftOut: left_out, gap: head.length,
  };
}

async function load() {
  const data = JSON.parse(byId("data").textContent);
  const from = new Varints(await unpack(byId("events").textContent.trim()));
  const lanes = data.lanes.map((lane) => decodeLane(lane, from));
  const console = consoleLane(data.console);
  if (console.n) {
    const behind = lanes.findIndex((lane) => lane.group !== "marks");
    lanes.splice(behind < 0 ? lanes.length : behind, 0, console);
  }
  return { data, lanes, console };
}

/** The first index whose time is not before `t`. */
function lowerBound(times, t, low = 0, high = times.length) {
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (times[middle] < t) low = middle + 1;
    else high = middle;
  }
  return low;
}
