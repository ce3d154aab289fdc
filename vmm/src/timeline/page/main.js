// Starts the page, draws it when something has changed, and does what pointer and keys say.

let due = false;

/** Something has changed: draws with the next frame. */
function changed() {
  if (due) return;
  due = true;
  requestAnimationFrame(() => {
    due = false;
    draw();
  });
}

function draw() {
  const begun = performance.now();
  drawLanes();
  drawOver();
  drawOverview();
  drawGutter();
  if (page.console.n) drawRows();
  showRange();
  const { dataset } = byId("chart");
  dataset.drawn = Number(dataset.drawn ?? 0) + 1;
  dataset.from = page.from;
  dataset.to = page.to;
  dataset.lanes = page.lanes.map((lane) => lane.id).join(" ");
  dataset.took = Math.round(performance.now() - begun);
}

function showRange() {
  const [begin, end] = whole(), step = fineStep(perPixel());
  const everything = page.from === begin && page.to === end;
  const [from, to] = [page.from, Math.min(page.to, page.end)].map((t) => moment(t, step, page.unit));
  const span = make("b", { text: duration(Math.min(page.to, page.end) - page.from) });
  byId("range").replaceChildren(span, everything ? " of guest time: everything" : ` of guest time: ${from} to ${to}`);
  byId("fit").disabled = everything;
  byId("back").disabled = !page.before.length;
  clearTimeout(showRange.timer);
  showRange.timer = setTimeout(() => {
    const hash = everything ? "" : `#${Math.round(page.from)}-${Math.round(page.to)}`;
    try {
      if (location.hash !== hash) history.replaceState(null, "", hash || "#");
    } catch {
      // Some browsers do not let a page from a file do this.
    }
  }, 250);
}

function drawGutter() {
  const gutter = byId("gutter");
  gutter.style.height = `${page.height}px`;
  if (!gutter.childElementCount) {
    const axis = make("div", { className: "axis", text: "Guest time" });
    axis.style.height = `${AXIS}px`;
    gutter.append(axis, ...page.lanes.map((lane, i) => {
      const row = make("div", { children: [make("i"), make("span", { text: lane.name }), make("small")] });
      row.style.top = `${page.top[i]}px`;
      row.style.height = `${page.tall[i]}px`;
      if (lane.quantum) row.title = `Events of a kind within ${duration(lane.quantum)} are shown as one.`;
      row.addEventListener("click", () => select(i));
      return row;
    }));
  }
  page.lanes.forEach((lane, i) => {
    const row = gutter.children[i + 1];
    row.children[0].style.background = lane.colour;
    row.classList.toggle("selected", i === page.selected);
    row.classList.toggle("none", visible(lane)[1] <= visible(lane)[0]);
    const n = lane.events[lowerBound(lane.time, page.to)] - lane.events[lowerBound(lane.time, page.from)];
    row.children[2].textContent = lane.id === "vcpu" ? busyText() : grouped(n);
  });
}

function busyText() {
  const [from, to] = [Math.max(page.from, page.begin), Math.min(page.to, page.end)];
  return `${Math.round(100 * (1 - (idleUntil(to) - idleUntil(from)) / (to - from || 1)))}\u00a0%`;
}

function select(i) {
  page.selected = Math.min(Math.max(i, 0), page.lanes.length - 1);
  byId("announce").textContent = page.lanes[page.selected]?.name ?? "";
  changed();
}

function nextBookmark() {
  const at = page.lanes.findIndex((lane) => lane.id === "bookmark");
  if (at < 0) return;
  const lane = page.lanes[at];
  const from = page.pin?.lane === lane ? page.pin.i + 1 : lowerBound(lane.time, page.pin?.t ?? page.from);
  pin(lane, from % lane.n);
  reveal(lane.time[from % lane.n]);
}

function fieldEvents() {
  const field = byId("field");
  const xIn = (event) => event.clientX - field.getBoundingClientRect().left;
  const yIn = (event) => event.clientY - field.getBoundingClientRect().top;
  field.addEventListener("wheel", (event) => {
    event.preventDefault();
    const scale = event.deltaMode === 1 ? 33 : event.deltaMode === 2 ? 400 : 1;
    if (event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY)) {
      move((event.deltaX || event.deltaY) * scale * perPixel());
    } else {
      // One turn of the wheel is many events.
      if (event.timeStamp - page.wheeled > 600) remember();
      page.wheeled = event.timeStamp;
      zoom(Math.exp(Math.min(Math.max(event.deltaY * scale, -240), 240) * 0.0028), timeAt(xIn(event)), false);
    }
    hover(event);
  }, { passive: false });
  function hover(event) {
    const x = xIn(event), y = yIn(event);
    page.hover = { x, y };
    field.classList.toggle("axis", y < AXIS);
    showTip(y < AXIS ? null : spotAt(x, laneAt(y)), event.clientX, event.clientY);
    drawOver();
  }
  field.addEventListener("pointerdown", (event) => {
    if (event.button > 1) return;
    field.setPointerCapture(event.pointerId);
    const x = xIn(event), moves = event.shiftKey || event.button === 1 || yIn(event) < AXIS;
    if (moves) remember();
    page.drag = { x, to: x, moves, from: page.from, span: page.to - page.from };
    field.classList.toggle("moving", moves);
    byId("chart").classList.add("pointed");
    byId("chart").focus({ preventScroll: true });
    event.preventDefault();
  });
  field.addEventListener("pointermove", (event) => {
    const { drag } = page;
    if (!drag) return hover(event);
    drag.to = xIn(event);
    drag.far ||= Math.abs(drag.to - drag.x) > 4;
    byId("tip").hidden = true;
    if (drag.moves) {
      const from = drag.from - ((drag.to - drag.x) * drag.span) / page.width;
      move(from - page.from);
    } else {
      drag.select = drag.far;
      drawOver();
    }
  });
  field.addEventListener("pointerup", (event) => {
    const { drag } = page;
    page.drag = null;
    field.classList.remove("moving");
    if (!drag) return;
    if (drag.select) {
      const [a, b] = [drag.x, drag.to].sort((p, q) => p - q);
      show(timeAt(a), timeAt(b));
    } else if (!drag.far && yIn(event) >= AXIS) {
      const spot = spotAt(drag.x, laneAt(yIn(event)));
      pin(spot.lane, spot.i ?? -1, spot.t);
    }
    changed();
  });
  field.addEventListener("pointercancel", () => ((page.drag = null), changed()));
  field.addEventListener("pointerleave", () => {
    page.hover = null;
    byId("tip").hidden = true;
    drawOver();
  });
  field.addEventListener("dblclick", (event) => zoom(0.25, timeAt(xIn(event))));
}

function overviewEvents() {
  const canvas = byId("overview");
  let drag = null;
  const timeIn = (event) => {
    const [begin, end] = whole(), { left, width } = canvas.getBoundingClientRect();
    return begin + ((event.clientX - left) / width) * (end - begin);
  };
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    remember();
    const t = timeIn(event), span = page.to - page.from;
    if (t < page.from || t > page.to) show(t - span / 2, t + span / 2, false);
    drag = { t, from: page.from };
    canvas.classList.add("moving");
  });
  canvas.addEventListener("pointermove", (event) => {
    if (drag) move(drag.from + timeIn(event) - drag.t - page.from);
  });
  for (const end of ["pointerup", "pointercancel"]) {
    canvas.addEventListener(end, () => ((drag = null), canvas.classList.remove("moving")));
  }
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoom(Math.exp(Math.min(Math.max(event.deltaY, -240), 240) * 0.0028), timeIn(event), false);
  }, { passive: false });
}

function keyEvents() {
  const span = () => page.to - page.from;
  const keys = {
    "+": () => zoom(0.5, pinned()), "=": () => zoom(0.5, pinned()), "-": () => zoom(2, pinned()),
    "0": () => show(...whole()), Home: () => show(...whole()), Backspace: goBack,
    b: nextBookmark, c: copyCommand, ",": () => stepEvent(-1), ".": () => stepEvent(1),
    Escape: unpin, "/": () => byId("search").focus(), n: () => nextHit(1), N: () => nextHit(-1),
  };
  const inChart = {
    ArrowLeft: (event) => move(-span() * (event.shiftKey ? 0.5 : 0.1)),
    ArrowRight: (event) => move(span() * (event.shiftKey ? 0.5 : 0.1)),
    ArrowUp: () => select(page.selected < 0 ? page.lanes.length - 1 : page.selected - 1),
    ArrowDown: () => select(page.selected + 1),
    Enter: copyCommand,
  };
  const pinned = () => (page.pin && page.pin.t > page.from && page.pin.t < page.to ? page.pin.t : undefined);
  document.addEventListener("keydown", (event) => {
    byId("chart").classList.remove("pointed");
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.tagName === "INPUT") return;
    const chart = document.activeElement === byId("chart") || document.activeElement === document.body;
    const button = event.target.tagName === "BUTTON" && ["Enter", " "].includes(event.key);
    const does = button ? undefined : keys[event.key] ?? (chart ? inChart[event.key] : undefined);
    if (!does) return;
    event.preventDefault();
    does(event);
  });
  byId("search").addEventListener("input", (event) => search(event.target.value));
  byId("search").addEventListener("keydown", (event) => {
    if (event.key === "Enter") nextHit(event.shiftKey ? -1 : 1);
    if (event.key === "Escape") {
      event.target.value = "";
      search("");
      byId("chart").focus();
    }
  });
}

function buttonEvents() {
  const on = (id, does) => byId(id).addEventListener("click", does);
  on("in", () => zoom(0.5));
  on("out", () => zoom(2));
  on("fit", () => show(...whole()));
  on("back", goBack);
  on("next", () => nextHit(1));
  on("previous", () => nextHit(-1));
  on("copy", copyCommand);
  byId("scroll").addEventListener("scroll", drawRows);
  byId("rows").addEventListener("click", (event) => {
    const line = event.target.closest("li")?.dataset.line;
    if (line !== undefined) pinLine(Number(line));
  });
}

function heading({ data, lanes }) {
  document.title = `${data.name}: timeline`;
  byId("name").textContent = data.name;
  const pair = ([name, value]) => {
    const entry = make("div", { children: [make("dt", { text: name }), make("dd", { text: value })] });
    entry.title = value;
    return entry;
  };
  byId("facts").replaceChildren(...data.facts.map(pair));
  const lane = (id) => lanes.find((l) => l.id === id);
  const interrupts = lanes.filter((l) => l.group === "interrupts").reduce((sum, l) => sum + l.events[l.n], 0);
  byId("figures").replaceChildren(...[
    ["guest time", duration(data.end - data.begin)],
    ["busy", busyText()],
    ["exits", grouped(data.exits)],
    ["interrupts", grouped(interrupts)],
    ["inputs", grouped(lane("input")?.n ?? 0)],
    ["bookmarks", grouped(lane("bookmark")?.n ?? 0)],
  ].map(pair));
  byId("made").textContent = `scribe-vmm ${data.program}`;
}

function legend() {
  const sign = (text, background, opacity = 1) => {
    const box = make("i");
    box.style.background = background;
    box.style.opacity = opacity;
    return make("span", { children: [box, text] });
  };
  const coarse = page.lanes.reduce((most, lane) => Math.max(most, lane.quantum), 0);
  byId("legend").replaceChildren(
    sign("vCPU runs: height is its share of the time", "var(--lane-vcpu)"),
    sign("idle", "var(--idle)"),
    sign("above the line: the guest writes", "var(--lane-uart)", 0.92),
    sign("below: it reads", "var(--lane-uart)", 0.5),
    make("span", { text: "height: how many in a pixel's time (disk: bytes), as a square root" }),
    ...(coarse ? [make("span", { text: `coarse: events of a kind within ${duration(coarse)} or less are one` })] : []),
  );
}

function resize() {
  byId("field").style.height = `${page.height}px`;
  page.width = Math.max(byId("field").clientWidth, 1);
  changed();
}

function restyle() {
  readColours();
  page.idleColour = getComputedStyle(document.documentElement).getPropertyValue("--lane-vcpu");
  changed();
}

async function start() {
  Object.assign(page, await load());
  const { data } = page;
  page.begin = data.begin;
  page.end = Math.max(data.end, data.begin + SPAN_MIN);
  page.unit = unitOf(page.end);
  page.idle = page.lanes.find((lane) => lane.id === "vcpu");
  [page.from, page.to] = whole();
  const [, from, to] = /^#(\d{1,18})-(\d{1,18})$/.exec(location.hash) ?? [];
  layOut();
  if (!page.console.n) byId("console").hidden = true;
  heading(page);
  legend();
  restyle();
  resize();
  if (to) show(Number(from), Number(to), false);
  showSpot();
  showFound();
  fieldEvents();
  overviewEvents();
  keyEvents();
  buttonEvents();
  new ResizeObserver(resize).observe(byId("field"));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", restyle);
  // Paper is light, and narrower.
  for (const [event, printing] of [["beforeprint", true], ["afterprint", false]]) {
    addEventListener(event, () => {
      document.documentElement.classList.toggle("printing", printing);
      restyle();
      resize();
      draw();
    });
  }
  draw();
  document.documentElement.dataset.state = "ready";
}

start().catch((error) => {
  document.documentElement.dataset.state = "failed";
  document.body.prepend(make("p", { className: "failed", text: `This page cannot be shown: ${error.message}` }));
  throw error;
});
