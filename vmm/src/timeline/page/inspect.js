// What is at a spot: in words, as a position, as a command.

/** A record's number as it is written in its lane. */
function valueText(lane, i) {
  if (lane.measure === "bytes") return bytes(lane.value.number(i));
  if (lane.measure === "time") return duration(lane.value.number(i));
  return hex(lane.value.high[i], lane.value.low[i]);
}

/** A record in words. */
function words(lane, i) {
  if (lane.lines) return lane.lines[i];
  const kind = lane.kinds[lane.kind[i]];
  if (lane.id === "disk") {
    const size = lane.value.number(i);
    const sector = size ? `${valueText(lane, i)}, sector ${grouped(lane.address.number(i))}` : "";
    return [kind.name, sector].filter(Boolean).join(" ");
  }
  if (lane.text[i]) return lane.texts[lane.text[i] - 1];
  if (lane.id === "vcpu") return `${kind.name} ${duration(lane.span[i])}`;
  if (lane.measure !== "events") return `${kind.name} ${valueText(lane, i)}`;
  if (!kind.verb) return kind.name;
  const address = hex(lane.address.high[i], lane.address.low[i]);
  const name = kind.name && kind.name !== address ? ` ${kind.name}` : "";
  return `${kind.verb} ${address}${name} ${kind.write ? "<-" : "->"} ${valueText(lane, i)}`;
}

/** As short as a label in the field must be. */
function shortName(lane, i) {
  const { name, verb } = lane.kinds[lane.kind[i]];
  if (lane.count[i] > 1) return `${grouped(lane.count[i])} \u00d7 ${name || verb}`;
  if (lane.group === "interrupts" && lane.kinds.length === 1) return "";
  if (lane.measure === "bytes") return `${name} ${valueText(lane, i)}`;
  return name || verb;
}

/** The same, with what the value means. */
function longName(lane, i) {
  if (lane.count[i] > 1 || !lane.text?.[i] || lane.group !== "devices") return "";
  const [, meaning] = /: (.*)/.exec(words(lane, i)) ?? [];
  return meaning && `${lane.kinds[lane.kind[i]].name}: ${meaning}`;
}

const whereOf = (lane, i) => position(lane.exit[i], lane.branches[i], lane.steps[i]);

/** A bookmark's name, if `--to` takes it, else a position. */
function target(lane, i) {
  const name = lane.id === "bookmark" && lane.count[i] === 1 ? words(lane, i) : "";
  return page.data.named.includes(name) && /^[A-Za-z][\w.-]*(#\d+)?$/.test(name) ? name : whereOf(lane, i);
}

/** The last place before `t` that is known: where the guest was then. */
function placeBefore(t) {
  let best = null;
  for (const lane of page.lanes) {
    const i = lowerBound(lane.time, t + 1e-6) - 1;
    if (i >= 0 && (!best || lane.time[i] >= best.lane.time[best.i])) best = { lane, i };
  }
  return best;
}

/** What the pointer is at, in lane `at`: one record, or how many there are around it. */
function spotAt(x, at) {
  const t = timeAt(x), lane = page.lanes[at];
  if (!lane) return { t, x, at };
  const near = perPixel() * 4;
  const low = lowerBound(lane.time, t - near - lane.longest), high = lowerBound(lane.time, t + near);
  const distance = (i) => Math.max(lane.time[i] - t, t - lane.time[i] - lane.span[i], 0);
  let nearest = -1;
  for (let i = low; i < high && i < low + 50000; i++) {
    if (distance(i) <= near && (nearest < 0 || distance(i) <= distance(nearest))) nearest = i;
  }
  const begin = lowerBound(lane.time, t - near);
  return { t, x, at, lane, i: nearest, many: lane.events[high] - lane.events[begin], begin, high, near };
}

/** Rows of the tooltip: [class, text]. */
function describeSpot({ t, lane, i, many, begin, high, near }) {
  if (!lane || i < 0) {
    const place = placeBefore(t);
    const busy = lane?.id === "vcpu" ? [["", "busy"]] : [];
    return place ? [...busy, ["soft", `after ${whereOf(place.lane, place.i)}`]] : busy;
  }
  const rows = [];
  if (lane.id === "vcpu") {
    const idle = (idleUntil(t + near) - idleUntil(t - near)) / (2 * near);
    if (many > 3) rows.push(["", `${Math.round(100 * (1 - idle))} % busy around here`]);
  } else if (many > 1 && high - begin > 1) {
    rows.push(["", `${plural(many, "event")} within ${duration(2 * near)}`]);
    if (high - begin <= 20000 && lane.kinds) rows.push(["table", tally(lane, begin, high)]);
    rows.push(["soft", "the nearest:"]);
  }
  rows.push(["code", words(lane, i)]);
  if (lane.count?.[i] > 1) rows.push(["soft", `the first of ${plural(lane.count[i], "event")} within ${duration(lane.span[i])}`]);
  rows.push(["soft", `${moment(lane.time[i], 1, page.unit)} \u00b7 ${whereOf(lane, i)}`]);
  return rows;
}

/** The commonest kinds among records: [number, name]. */
function tally(lane, begin, end) {
  const counts = new Map();
  for (let i = begin; i < end; i++) counts.set(lane.kind[i], (counts.get(lane.kind[i]) ?? 0) + lane.count[i]);
  const sorted = [...counts].sort(([, a], [, b]) => b - a);
  const named = sorted.slice(0, 5).map(([kind, n]) => [grouped(n), `${lane.kinds[kind].verb} ${lane.kinds[kind].name}`.trim()]);
  return sorted.length > 5 ? [...named, ["", `and ${sorted.length - 5} more kinds`]] : named;
}

function showTip(spot, clientX, clientY) {
  const tip = byId("tip");
  const rows = spot && describeSpot(spot);
  if (!rows?.length) return void (tip.hidden = true);
  const dot = make("i");
  dot.style.background = spot.lane?.colour ?? colours.muted;
  tip.replaceChildren(make("h2", { children: [dot, spot.lane?.name ?? "Guest time"] }), ...rows.map(([className, text]) => {
    if (className !== "table") return make("p", { text, className });
    const cells = (row) => row.map((cell) => make("td", { text: cell }));
    return make("table", { children: text.map((row) => make("tr", { children: cells(row) })) });
  }));
  tip.hidden = false;
  const { width, height } = tip.getBoundingClientRect();
  const x = clientX + 16 + width > innerWidth ? clientX - width - 12 : clientX + 16;
  const y = clientY + 16 + height > innerHeight ? clientY - height - 12 : clientY + 16;
  tip.style.transform = `translate(${Math.max(x, 4)}px, ${Math.max(y, 4)}px)`;
}

/** Pins a record, or a time between records. */
function pin(lane, i, t) {
  const place = lane && i >= 0 ? { lane, i } : placeBefore(t);
  if (!place) return;
  const exact = lane && i >= 0;
  page.pin = {
    ...place, t: place.lane.time[place.i], where: whereOf(place.lane, place.i), exact,
    target: target(place.lane, place.i),
    text: exact ? `${lane.name}: ${words(lane, i)}` : `After ${place.lane.name}: ${words(place.lane, place.i)}`,
  };
  if (exact) page.selected = page.lanes.indexOf(lane);
  showSpot();
  changed();
}

function unpin() {
  page.pin = null;
  showSpot();
  changed();
}

function showSpot() {
  const { pin: at } = page;
  byId("spot").classList.toggle("empty", !at);
  byId("spot-what").textContent = at ? at.text : "Click a spot to get the command that replays to it.";
  byId("spot-where").textContent = at ? `${moment(at.t, 1, page.unit)} \u00b7 ${at.where}` : "";
  byId("command").textContent = at ? `${page.data.command} --to ${at.target}` : "";
  byId("command").parentElement.hidden = !at;
  byId("copy").textContent = "Copy";
  if (at) byId("announce").textContent = `${at.text}, ${at.where}`;
}

async function copyCommand() {
  if (!page.pin) return;
  const text = byId("command").textContent;
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // A page from a file may not have the clipboard: the selection does.
    const range = document.createRange();
    range.selectNodeContents(byId("command"));
    getSelection().removeAllRanges();
    getSelection().addRange(range);
    if (!document.execCommand("copy")) return void (byId("copy").textContent = "Selected");
  }
  byId("copy").textContent = "Copied";
}

/** Pins the event before or after the pinned one in its lane, or the first one in view. */
function stepEvent(by) {
  const lane = page.lanes[page.selected];
  if (!lane?.n) return;
  const from = page.pin?.lane === lane ? page.pin.i + by : lowerBound(lane.time, page.pin?.t ?? page.from) - (by < 0 ? 1 : 0);
  const i = Math.min(Math.max(from, 0), lane.n - 1);
  pin(lane, i);
  reveal(lane.time[i]);
}
