// The canvases: axis, lanes, overview, and what lies over them.

const FONT = '11px system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif';
const MONO = '11.5px ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace';
/** Least pixels between ticks, and between events that are drawn one by one. */
const TICK = 118, APART = 5;
const LINE = 16;

let colours = {};

/** The style sheet knows the colours. */
function readColours() {
  const style = getComputedStyle(document.documentElement);
  const of = (name) => style.getPropertyValue(`--${name}`).trim();
  colours = Object.fromEntries(
    ["page", "panel", "ink", "muted", "faint", "line", "grid", "band", "accent", "hit", "pin", "idle"].map((n) => [n, of(n)]));
  for (const lane of page.lanes) {
    lane.colour = of(`lane-${lane.group === "interrupts" ? "irq" : lane.id}`) || colours.muted;
  }
}

/** A canvas's context in CSS pixels, cleared. */
function context(canvas, width, height) {
  const ratio = window.devicePixelRatio || 1;
  const [w, h] = [Math.round(width * ratio), Math.round(height * ratio)];
  if (canvas.width !== w || canvas.height !== h) [canvas.width, canvas.height] = [w, h];
  const g = canvas.getContext("2d");
  g.setTransform(ratio, 0, 0, ratio, 0, 0);
  g.clearRect(0, 0, width, height);
  g.font = FONT;
  g.textBaseline = "middle";
  return g;
}

/** Calls with every tick in view, and what its label must tell apart. */
function eachTick(call) {
  const step = niceStep(perPixel() * TICK);
  for (let n = Math.ceil(page.from / step); n * step <= page.to; n++) call(n * step, step);
}

function drawAxis(g) {
  g.fillStyle = colours.band;
  g.fillRect(0, 0, page.width, AXIS);
  g.strokeStyle = colours.grid;
  g.fillStyle = colours.muted;
  g.beginPath();
  eachTick((t, step) => {
    const x = Math.round(xOf(t)) + 0.5;
    g.moveTo(x, AXIS);
    g.lineTo(x, page.height);
    const label = moment(t, step, page.unit);
    const width = g.measureText(label).width;
    g.fillRect(x - 0.5, AXIS - 6, 1, 6);
    if (x + 5 + width < page.width) g.fillText(label, x + 5, AXIS / 2);
  });
  g.stroke();
  line(g, AXIS - 0.5, colours.line);
}

function line(g, y, colour) {
  g.strokeStyle = colour;
  g.beginPath();
  g.moveTo(0, y);
  g.lineTo(page.width, y);
  g.stroke();
}

/** What there is in each pixel's time: how much is written, and how much read. */
function density(lane, width, from, step) {
  const up = new Float64Array(width), down = new Float64Array(width);
  let low = lowerBound(lane.time, from);
  for (let x = 0; x < width; x++) {
    const high = lowerBound(lane.time, from + (x + 1) * step, low);
    up[x] = lane.up[high] - lane.up[low];
    down[x] = lane.down[high] - lane.down[low];
    low = high;
  }
  return { up, down };
}

/** The records in view, those that began before it and reach into it included. */
function visible(lane) {
  return [lowerBound(lane.time, page.from - lane.longest), lowerBound(lane.time, page.to)];
}

function drawEvents(g, lane, y, h) {
  const [first, last] = visible(lane);
  if (last <= first) return;
  g.fillStyle = lane.colour;
  const middle = lane.single ? y + h - 4 : y + h / 2;
  const room = lane.single ? h - 9 : h / 2 - 4;
  if (last - first <= page.width / APART) return drawSticks(g, lane, first, last, middle, room);
  const { up, down } = density(lane, Math.ceil(page.width), page.from, perPixel());
  const most = Math.max(up.reduce((a, b) => Math.max(a, b), 0), down.reduce((a, b) => Math.max(a, b), 0));
  const height = (n) => (n > 0 ? Math.max(1.5, Math.sqrt(n / most) * room) : 0);
  for (let x = 0; x < up.length; x++) {
    const [above, below] = lane.single ? [height(up[x] + down[x]), 0] : [height(up[x]), height(down[x])];
    g.globalAlpha = 0.92;
    // What stands alone is drawn wide enough to be seen.
    const wide = x + 1 < up.length && up[x + 1] + down[x + 1] > 0 ? 1 : 2;
    if (above) g.fillRect(x, middle - above, wide, above);
    g.globalAlpha = 0.5;
    if (below) g.fillRect(x, middle, wide, below);
  }
  g.globalAlpha = 1;
}

/** Few events: each has its stick, and its name where there is room. */
function drawSticks(g, lane, first, last, middle, room) {
  const size = room * 0.66;
  const xAt = (i) => (i >= 0 && i < lane.n ? xOf(lane.time[i]) : i < 0 ? -page.width : 2 * page.width);
  for (let i = first; i < last; i++) {
    const x = xOf(lane.time[i]), write = lane.kinds[lane.kind[i]].write || lane.single;
    const end = middle + (write ? -size : size);
    if (lane.span[i] > 0) {
      g.globalAlpha = 0.25;
      g.fillRect(x, Math.min(middle, end), Math.max(1, lane.span[i] / perPixel()), size);
    }
    g.globalAlpha = write ? 0.95 : 0.6;
    g.fillRect(x - 0.75, Math.min(middle, end), 1.5, size);
    if (Math.min(x - xAt(i - 1), xAt(i + 1) - x) > 5) {
      g.beginPath();
      g.arc(x, end, 2.6, 0, 7);
      g.fill();
    }
    g.globalAlpha = 1;
    const next = Math.min(xAt(i + 1), page.width);
    const fits = (label) => label && next - x > Math.max(34, g.measureText(label).width + 12);
    const label = next - x > 34 && [longName(lane, i), shortName(lane, i)].find(fits);
    if (label) {
      g.fillStyle = colours.ink;
      g.fillText(label, x + 6, Math.min(Math.max(end, middle - room + 6), middle + room - 5));
      g.fillStyle = lane.colour;
    }
  }
}

/** Above: how busy the vCPU is. Time asleep in words where it is wide enough. */
function drawVcpu(g, lane, y, h) {
  const top = y + 5, room = h - 10, width = Math.ceil(page.width), step = perPixel();
  const from = Math.max(0, Math.floor(xOf(page.begin))), to = Math.min(width, Math.ceil(xOf(page.end)));
  g.fillStyle = colours.idle;
  g.fillRect(from, top, to - from, room);
  g.fillStyle = lane.colour;
  let before = idleUntil(timeAt(from));
  for (let x = from; x < to; x++) {
    const idle = idleUntil(timeAt(x + 1));
    const busy = Math.min(Math.max(1 - (idle - before) / step, 0), 1);
    if (busy > 0.004) g.fillRect(x, top + room * (1 - busy), 1, room * busy);
    before = idle;
  }
  g.fillStyle = colours.muted;
  g.textAlign = "center";
  const [first, last] = visible(lane);
  if (last - first > width / 20) return void (g.textAlign = "left");
  for (let i = first; i < last; i++) {
    if (lane.count[i] > 1) continue;
    const left = Math.max(0, xOf(lane.time[i])), right = Math.min(width, xOf(lane.time[i] + lane.span[i]));
    const label = `idle ${duration(lane.span[i])}`;
    if (right - left > g.measureText(label).width + 10) g.fillText(label, (left + right) / 2, y + h / 2);
  }
  g.textAlign = "left";
}

/** Bookmarks and inputs: a sign each, and words where they fit. */
function drawMarks(g, lane, y, h) {
  const [first, last] = visible(lane), middle = y + h / 2;
  if (last - first > page.width / 6) return drawEvents(g, lane, y, h);
  let free = -1;
  for (let i = first; i < last; i++) {
    const x = xOf(lane.time[i]);
    g.fillStyle = lane.colour;
    g.beginPath();
    const shape = lane.id === "bookmark" ? [[0, -6], [5, 0], [0, 6], [-5, 0]] : [[-5, -5], [5, -5], [0, 5]];
    shape.forEach(([dx, dy], at) => (at ? g.lineTo(x + dx, middle + dy) : g.moveTo(x + dx, middle + dy)));
    g.fill();
    if (x < free) continue;
    const next = i + 1 < last ? xOf(lane.time[i + 1]) - 10 : page.width;
    const label = fitted(g, words(lane, i), Math.min(next - x - 9, 320));
    if (!label) continue;
    g.fillStyle = colours.ink;
    g.fillText(label, x + 9, middle);
    free = x + 9 + g.measureText(label).width + 8;
  }
}

/** `text` cut to `width` pixels; nothing if not even a few letters fit. */
function fitted(g, text, width) {
  if (g.measureText(text).width <= width) return text;
  let n = text.length;
  while (n > 3 && g.measureText(`${text.slice(0, n)}\u2026`).width > width) n = Math.min(n - 1, Math.ceil(n * 0.9));
  return n > 3 ? `${text.slice(0, n)}\u2026` : "";
}

/** Lines of text where they begin, in as many rows as there are; what finds no room is a tick below. */
function drawConsole(g, lane, y, h) {
  const [, last] = visible(lane), rows = Math.floor((h - 10) / LINE);
  g.font = MONO;
  const letter = g.measureText("m").width, free = new Float64Array(rows).fill(-1), texts = [];
  let row = rows - 1;
  for (let i = lowerBound(lane.time, page.from); i < last; i++) {
    // From where a row is free again, in the row below the line before if that is free: so they read downwards.
    i = Math.max(i, lowerBound(lane.time, timeAt(Math.min(...free)), i));
    const x = xOf(lane.time[i]), text = lane.lines[i]?.trimEnd();
    if (i >= last || !text) continue;
    do row = (row + 1) % rows; while (free[row] > x);
    texts.push(place(text, x, y + 4 + row * LINE, free[row], letter));
    free[row] = texts.at(-1).free;
  }
  g.fillStyle = lane.colour;
  const { up } = density(lane, Math.ceil(page.width), page.from, perPixel());
  up.forEach((n, x) => n && g.fillRect(x, y + h - 5, 1.5, 3));
  g.globalAlpha = 0.3;
  for (const { x, top } of texts) g.fillRect(Math.round(x), top + 2, 1, y + h - 7 - top);
  for (const { text, shown, start, width, top } of texts) {
    if (!shown) continue;
    const hit = page.hits.length && page.matches(text);
    g.fillStyle = colours.panel;
    g.globalAlpha = 0.85;
    g.fillRect(start - 2, top + 1, width + 4, LINE - 2);
    g.fillStyle = colours.hit;
    g.globalAlpha = 0.4;
    if (hit) g.fillRect(start - 2, top + 1, width + 4, LINE - 2);
    g.globalAlpha = 1;
    g.fillStyle = colours.ink;
    g.fillText(shown, start, top + LINE / 2);
  }
  g.globalAlpha = 1;
  g.font = FONT;
}

/** Where a line goes: right of where it begins, or left of it if there is room there only. `free`: where the row was free. */
function place(text, x, top, free, letter) {
  const most = (room) => Math.floor((room - 8) / letter);
  const [right, left] = [most(page.width - x), most(x - Math.max(free, 0))];
  const before = right < Math.min(text.length, 40) && left > right;
  const length = Math.min(before ? left : right, 72);
  const cut = text.length > length ? `${text.slice(0, Math.max(length - 1, 0))}\u2026` : text;
  const shown = length < Math.min(text.length, 10) ? "" : cut, width = shown.length * letter;
  const start = before ? x - 5 - width : x + 5;
  return { text, shown, x, top, start, width, free: before || !shown ? x + 5 : start + width + 2 * letter };
}

function drawLanes() {
  const g = context(byId("lanes"), page.width, page.height);
  page.lanes.forEach((_, i) => {
    if (i !== page.selected) return;
    g.fillStyle = colours.band;
    g.fillRect(0, page.top[i], page.width, page.tall[i]);
  });
  drawAxis(g);
  page.lanes.forEach((lane, i) => {
    const [y, h] = [page.top[i], page.tall[i]];
    if (i && page.lanes[i - 1].group !== lane.group) line(g, Math.round(y - GROUP_GAP / 2) + 0.5, colours.line);
    if (lane.id === "vcpu") drawVcpu(g, lane, y, h);
    else if (lane.id === "console") drawConsole(g, lane, y, h);
    else if (lane.group === "marks") drawMarks(g, lane, y, h);
    else {
      const base = lane.single ? y + h - 4 : y + h / 2;
      line(g, Math.round(base) + 0.5, colours.line);
      drawEvents(g, lane, y, h);
    }
  });
}

function drawOverview() {
  const canvas = byId("overview"), width = canvas.clientWidth, height = canvas.clientHeight;
  const g = context(canvas, width, height);
  const [begin, end] = whole(), step = (end - begin) / width, x = (t) => (t - begin) / step;
  if (!page.sums || page.sums.length !== Math.ceil(width)) {
    page.sums = new Float64Array(Math.ceil(width));
    for (const lane of page.lanes) {
      if (["vcpu", "console"].includes(lane.id)) continue;
      let low = 0;
      page.sums.forEach((_, at) => {
        const high = lowerBound(lane.time, begin + (at + 1) * step, low);
        page.sums[at] += lane.events[high] - lane.events[low];
        low = high;
      });
    }
  }
  const most = page.sums.reduce((a, b) => Math.max(a, b), 1);
  page.sums.forEach((n, at) => {
    const busy = 1 - (idleUntil(begin + (at + 1) * step) - idleUntil(begin + at * step)) / step;
    const tall = n ? Math.max(1, Math.sqrt(n / most) * (height - 18)) : 0;
    g.fillStyle = colours.muted;
    g.globalAlpha = 0.75;
    g.fillRect(at, height - 8 - tall, 1, tall);
    g.fillStyle = page.idleColour;
    g.globalAlpha = begin + at * step > page.end ? 0 : Math.max(0, busy);
    g.fillRect(at, height - 6, 1, 4);
  });
  g.globalAlpha = 1;
  for (const lane of page.lanes) {
    if (lane.group !== "marks") continue;
    g.fillStyle = lane.colour;
    for (let i = 0; i < Math.min(lane.n, 2000); i++) g.fillRect(x(lane.time[i]) - 1, 3, 2, 7);
  }
  g.fillStyle = colours.hit;
  for (const i of page.hits.slice(0, 2000)) g.fillRect(x(page.console.time[i]) - 1, 0, 2, height - 8);
  const [left, right] = [x(page.from), Math.max(x(page.to), x(page.from) + 3)];
  g.fillStyle = colours.page;
  g.globalAlpha = 0.72;
  g.fillRect(0, 0, left, height);
  g.fillRect(right, 0, width - right, height);
  g.globalAlpha = 1;
  g.strokeStyle = colours.accent;
  g.lineWidth = 1.5;
  g.strokeRect(left + 0.75, 0.75, Math.max(right - left - 1.5, 1.5), height - 1.5);
  g.lineWidth = 1;
  if (page.pin) {
    g.fillStyle = colours.pin;
    g.fillRect(x(page.pin.t) - 0.75, 0, 1.5, height);
  }
}

/** Pin, the pointer's line, the range that is being dragged. */
function drawOver() {
  const g = context(byId("over"), page.width, page.height);
  if (page.drag?.select) {
    const [a, b] = [page.drag.x, page.drag.to].sort((p, q) => p - q);
    g.fillStyle = colours.accent;
    g.globalAlpha = 0.14;
    g.fillRect(a, AXIS, b - a, page.height);
    g.globalAlpha = 1;
    tag(g, (a + b) / 2, duration((b - a) * perPixel()), colours.accent);
  } else if (page.hover) {
    g.fillStyle = colours.muted;
    g.globalAlpha = 0.55;
    g.fillRect(Math.round(page.hover.x), AXIS, 1, page.height);
    g.globalAlpha = 1;
    tag(g, page.hover.x, moment(timeAt(page.hover.x), fineStep(perPixel()), page.unit), colours.muted);
  }
  if (page.pin && page.pin.t >= page.from && page.pin.t <= page.to) {
    const x = xOf(page.pin.t);
    g.fillStyle = colours.pin;
    g.fillRect(x - 0.75, AXIS, 1.5, page.height);
    if (!page.hover && !page.drag?.select) tag(g, x, page.pin.where, colours.pin);
    const at = page.lanes.indexOf(page.pin.lane);
    if (at >= 0) {
      g.strokeStyle = colours.pin;
      g.lineWidth = 1.5;
      g.beginPath();
      g.arc(x, page.top[at] + page.tall[at] / 2, 5, 0, 7);
      g.stroke();
      g.lineWidth = 1;
    }
  }
}

/** Words on the axis, with `colour` behind them. */
function tag(g, x, text, colour) {
  const width = g.measureText(text).width + 14;
  const left = Math.min(Math.max(x - width / 2, 1), page.width - width - 1);
  g.fillStyle = colour;
  g.beginPath();
  g.roundRect(left, 5, width, AXIS - 10, 5);
  g.fill();
  g.fillStyle = colours.panel;
  g.fillText(text, left + 7, AXIS / 2 + 0.5);
}
