// The console as text, and the search in it. Only the rows in sight are in the document.

const ROW = 20;

/** Rows: the lines, and one for what was left out between them. */
const rowCount = () => page.console.n + (page.console.leftOut ? 1 : 0);
const lineOf = (row) => (page.console.leftOut && row > page.console.gap ? row - 1 : row);
const rowOf = (line) => (page.console.leftOut && line >= page.console.gap ? line + 1 : line);

function drawRows() {
  const scroll = byId("scroll"), lane = page.console;
  byId("sizer").style.height = `${rowCount() * ROW}px`;
  const first = Math.max(0, Math.floor(scroll.scrollTop / ROW) - 2);
  const last = Math.min(rowCount(), first + Math.ceil(scroll.clientHeight / ROW) + 4);
  const list = byId("rows");
  list.style.transform = `translateY(${first * ROW}px)`;
  list.replaceChildren();
  for (let row = first; row < last; row++) {
    if (lane.leftOut && row === lane.gap) {
      list.append(make("li", { className: "gap", text: `${plural(lane.leftOut, "line")} left out here` }));
      continue;
    }
    const i = lineOf(row), item = make("li", {
      children: [make("time", { text: moment(lane.time[i], 1000, page.unit) }), make("bdi", { children: marked(lane.lines[i], i) })],
    });
    item.title = whereOf(lane, i);
    item.dataset.line = i;
    item.classList.toggle("shown", lane.time[i] >= page.from && lane.time[i] <= page.to);
    item.classList.toggle("pinned", page.pin?.lane === lane && page.pin.i === i);
    list.append(item);
  }
}

/** A line with what was searched for marked. */
function marked(text, i) {
  if (!page.hits.length || !page.matches(text)) return [text];
  const needle = page.needle, lower = text.toLowerCase(), parts = [];
  let at = 0;
  for (let hit; (hit = lower.indexOf(needle, at)) >= 0; at = hit + needle.length) {
    const className = page.hits[page.hit] === i ? "current" : "";
    parts.push(text.slice(at, hit), make("mark", { text: text.slice(hit, hit + needle.length), className }));
  }
  return [...parts, text.slice(at)];
}

function scrollToLine(i) {
  const scroll = byId("scroll"), top = rowOf(i) * ROW;
  if (top < scroll.scrollTop || top + ROW > scroll.scrollTop + scroll.clientHeight) {
    scroll.scrollTop = top - scroll.clientHeight / 2 + ROW / 2;
  }
}

function pinLine(i) {
  pin(page.console, i);
  reveal(page.console.time[i]);
  scrollToLine(i);
}

function search(text) {
  page.needle = text.toLowerCase();
  page.matches = (line) => line.toLowerCase().includes(page.needle);
  page.hits = [];
  page.hit = -1;
  if (page.needle) page.console.lines.forEach((line, i) => page.matches(line) && page.hits.push(i));
  showFound();
  if (page.hits.length) scrollToLine(page.hits[0]);
  changed();
}

function showFound() {
  const n = page.hits.length;
  byId("found").textContent = !page.needle ? "" : n ? `${page.hit < 0 ? "" : `${grouped(page.hit + 1)} of `}${grouped(n)}` : "none";
  byId("previous").disabled = byId("next").disabled = !n;
}

function nextHit(by) {
  if (!page.hits.length) return;
  page.hit = (page.hit + by + page.hits.length + (page.hit < 0 && by < 0 ? 1 : 0)) % page.hits.length;
  showFound();
  pinLine(page.hits[page.hit]);
}
