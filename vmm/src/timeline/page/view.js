// What is shown: the part of guest time between the field's edges, and where lanes lie.

const AXIS = 30;
const SPAN_MIN = 100;
const HEIGHTS = { bookmark: 28, input: 28, console: 92, vcpu: 40, check: 22 };
const GROUP_GAP = 8;

/** The whole page's state. */
const page = {
  data: null, lanes: [], console: null,
  begin: 0, end: 1, from: 0, to: 1, unit: UNITS[3],
  width: 1, height: 1, top: [], tall: [],
  selected: -1, hover: null, pin: null, drag: null,
  hits: [], hit: -1, before: [], wheeled: -Infinity,
};

const laneHeight = (lane) => HEIGHTS[lane.id] ?? (lane.group === "interrupts" ? 22 : 31);

function layOut() {
  let y = AXIS;
  page.lanes.forEach((lane, i) => {
    if (i && page.lanes[i - 1].group !== lane.group) y += GROUP_GAP;
    page.top[i] = y;
    page.tall[i] = laneHeight(lane);
    y += page.tall[i];
  });
  page.height = y + 6;
}

const laneAt = (y) => page.lanes.findIndex((_, i) => y >= page.top[i] && y < page.top[i] + page.tall[i]);
const perPixel = () => (page.to - page.from) / page.width;
const xOf = (t) => (t - page.from) / perPixel();
const timeAt = (x) => page.from + x * perPixel();

/** Everything, with a little room at the end. */
const whole = () => [page.begin, page.end + (page.end - page.begin) * 0.012];

/** Shows the range, as far as it makes sense. `keep`: it is one that "back" comes to. */
function show(from, to, keep = true) {
  const [begin, end] = whole();
  if (!(to > from)) return;
  let span = Math.min(Math.max(to - from, SPAN_MIN), end - begin);
  from = (from + to) / 2 - span / 2;
  from = Math.min(Math.max(from, begin), end - span);
  if (from === page.from && from + span === page.to) return;
  if (keep) remember();
  page.from = from;
  page.to = from + span;
  changed();
}

function remember() {
  page.wheeled = -Infinity;
  page.before.push([page.from, page.to]);
  if (page.before.length > 100) page.before.shift();
}

function goBack() {
  const range = page.before.pop();
  if (range) show(...range, false);
}

/** Zooms by `factor` (below 1: in); what is at `t` stays where it is. */
function zoom(factor, t = (page.from + page.to) / 2, keep = true) {
  const [begin, end] = whole();
  const span = Math.min(Math.max((page.to - page.from) * factor, SPAN_MIN), end - begin);
  const from = t - ((t - page.from) / (page.to - page.from)) * span;
  const held = Math.min(Math.max(from, begin), end - span);
  show(held, held + span, keep);
}

function move(ns) {
  const [begin, end] = whole(), span = page.to - page.from;
  const from = Math.min(Math.max(page.from + ns, begin), end - span);
  show(from, from + span, false);
}

/** Brings `t` into view without another zoom, if it is not. */
function reveal(t) {
  const span = page.to - page.from;
  if (t < page.from + span * 0.03 || t > page.to - span * 0.03) show(t - span / 2, t + span / 2);
}

/** Guest time that the vCPU was idle from the beginning to `t`. */
function idleUntil(t) {
  const lane = page.idle;
  if (!lane) return 0;
  const i = lowerBound(lane.time, t) - 1;
  if (i < 0) return 0;
  const part = lane.span[i] ? Math.min((t - lane.time[i]) / lane.span[i], 1) : 1;
  return lane.down[i] + lane.value.number(i) * part;
}
