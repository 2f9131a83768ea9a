// The figures: SVG with axes, and points that the pointer and the arrow keys find.

const REACH = 40; // pixels from which a pointer finds a point
const LETTER = 7.7; // pixels of a letter of an axis, about

function scale(low, high, from, to, log = false) {
  const f = log ? Math.log10 : (value) => value, [a, b] = [f(low), f(high)];
  return { low, high, log, at: (value) => (b === a ? (from + to) / 2 : from + ((f(value) - a) / (b - a)) * (to - from)) };
}
function ticks({ low, high, log }, most) {
  if (log && high / low > 8) {
    const decades = Math.log10(high / low), every = Math.ceil(decades / most);
    const parts = decades < most / 3 ? [1, 2, 5] : [1], first = Math.floor(Math.log10(low));
    const powers = Array.from({ length: Math.ceil(decades / every) + 2 }, (_, i) => 10 ** (first + i * every));
    const found = powers.flatMap((power) => parts.map((part) => part * power));
    return found.filter((value) => value >= low * 0.999 && value <= high * 1.001);
  }
  const rough = (high - low) / Math.max(1, most), size = 10 ** Math.floor(Math.log10(rough || 1));
  const step = [1, 2, 2.5, 5, 10].map((part) => part * size).find((item) => item >= rough * 0.999);
  const first = Math.ceil(low / step - 1e-9), last = Math.floor(high / step + 1e-9);
  return Array.from({ length: Math.max(0, last - first + 1) }, (_, i) => (first + i) * step);
}
// Returns the ends of an axis: those of the values, and a little room.
function ends(values, log, part = 0.04) {
  const numbers = log ? values.map(Math.log10) : values;
  let [low, high] = numbers.reduce(([a, b], value) => [Math.min(a, value), Math.max(b, value)], [Infinity, -Infinity]);
  if (low === high) {
    const by = Math.abs(low) * 0.05 || 1;
    [low, high] = [low - by, high + by];
  }
  const found = [low - part * (high - low), high + part * (high - low)];
  return log ? found.map((end) => 10 ** end) : found;
}
const logged = ({ title, log }) => title + (log ? " (log)" : "");
const line = (kind, x1, y1, x2, y2) => svg("line", { class: kind, x1, y1, x2, y2 });
const label = (x, y, text, more = {}) => svg("text", { x, y, ...more }, text);
const pathOf = (places) => `M${places.map(([x, y]) => `${x.toFixed(1)} ${y.toFixed(1)}`).join("L")}`;
const hollow = (run, colour) => (run.state === DONE ? colour : "var(--ground)");

function canvas(width, height, name) {
  const root = svg("svg", { class: "plot", viewBox: `0 0 ${width} ${height}`, tabindex: 0, role: "application",
    "aria-label": `${name}. Up and down go from run to run, left and right along it, Enter selects.` });
  root.style.height = `${height}px`;
  root.classList.toggle("chosen", view.selected.length > 0);
  return root;
}
function layerFor(number, attributes = {}) {
  const layer = svg("g", { class: number > FEW ? "many" : null, ...attributes });
  layer.style.setProperty("--width", number > FEW ? 1 : 1.8);
  layer.style.setProperty("--alpha", number > FEW ? 0.5 : 0.95);
  return layer;
}
// A plot with two axes, each {ends, log, title}; x may have its own ticks, [value, text].
function plot(part, number, width, height, x, y) {
  const root = canvas(width, height, `${y.title} against ${x.title}`), top = 22, bottom = height - 40, right = width - 12;
  const values = ticks({ low: y.ends[0], high: y.ends[1], log: y.log }, (height - 60) / 36);
  const left = Math.max(30, ...values.map((value) => 14 + LETTER * metricTick(value).length));
  const sx = scale(...x.ends, left + 4, right - 4, x.log), sy = scale(...y.ends, bottom - 4, top + 4, y.log);
  for (const value of values) {
    const at = sy.at(value);
    root.append(line("grid", left, at, right, at), label(left - 6, at + 4, metricTick(value), { "text-anchor": "end" }));
  }
  let end = -Infinity;
  for (const [value, text] of x.ticks ?? ticks(sx, (right - left) / 80).map((item) => [item, numberText(item, 5)])) {
    const at = sx.at(value), half = (LETTER * text.length) / 2, middle = Math.max(half, Math.min(at, width - half - 1));
    root.append(line("axis", at, bottom, at, bottom + 4));
    if (middle - half < end + 6) continue; // labels never overlap
    end = middle + half;
    root.append(label(middle, bottom + 17, text, { "text-anchor": "middle" }));
  }
  const layer = layerFor(number, { "clip-path": `url(#clip-${part})` });
  const inside = svg("rect", { x: left, y: top, width: right - left, height: bottom - top + 1 });
  root.append(line("axis", left, bottom, right, bottom), label(2, 13, logged(y), { class: "name" }),
    label((left + right) / 2, height - 6, logged(x), { class: "name", "text-anchor": "middle" }),
    svg("clipPath", { id: `clip-${part}` }, inside), layer);
  return { root, layer, x: sx, y: sy, points: [], width, height };
}

// Returns places that stand for the nearer of two points of a run, where a line joins them.
function between(points) {
  return points.flatMap((point, place) => {
    const before = points[place - 1], [dx, dy] = before?.run === point.run ? [point.x - before.x, point.y - before.y] : [0, 0];
    const parts = Math.min(8, Math.floor(Math.hypot(dx, dy) / 24));
    const inner = Array.from({ length: Math.max(0, parts - 1) }, (_, i) => (i + 1) / parts);
    return inner.map((part) => ({ x: before.x + part * dx, y: before.y + part * dy, point: part < 0.5 ? before : point }));
  });
}
// Lets pointer and keys find the runs of a plot; a point is {x, y, run, lines}, those of a run follow each other.
function reachable({ root, points, width, height }, joined) {
  const hits = [...points, ...(joined ? between(points) : [])];
  const nearest = ({ clientX, clientY }) => {
    const box = root.getBoundingClientRect();
    const x = ((clientX - box.left) * width) / box.width, y = ((clientY - box.top) * height) / box.height;
    let best = null, least = REACH ** 2;
    for (const hit of hits) {
      const distance = (hit.x - x) ** 2 + (hit.y - y) ** 2;
      if (distance < least) [best, least] = [hit.point ?? hit, distance];
    }
    return best;
  };
  const show = (point) => {
    if (!point) { leave(); return; }
    const box = root.getBoundingClientRect();
    hover(point.run);
    showTip(point.run, point.lines(), box.left + (point.x * box.width) / width, box.top + (point.y * box.height) / height);
  };
  root.addEventListener("pointermove", (event) => show(nearest(event)));
  root.addEventListener("pointerleave", leave);
  root.addEventListener("blur", leave);
  root.addEventListener("click", (event) => {
    const point = nearest(event);
    if (point) select(point.run, addsTo(event));
  });
  let current = -1;
  root.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key], jump = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (event.key === "Escape") { leave(); selectNames([]); return; }
    if (!points.length || !(step || jump || event.key === "Enter" || event.key === " ")) return;
    event.preventDefault();
    if (current >= 0 && !step && !jump) { select(points[current].run, event.shiftKey); return; }
    const order = unique(points.map((point) => point.run)), { run } = points[Math.max(0, current)];
    const next = current < 0 ? order[0] : order[(order.indexOf(run) + (jump ?? 0) + order.length) % order.length];
    if (step && points[current + step]?.run === run) current += step;
    else if (!step || current < 0) current = points.findLastIndex((point) => point.run === next);
    const point = points[current], reached = runs[point.run];
    show(point);
    byId("live").textContent = [reached.name, parameters(reached), ...point.lines()].filter(Boolean).join(", ");
  });
}
const stateLine = (run) => (run.state === DONE ? "" : doc.signs[run.state]);
const resultLines = (run) => [`${metricLabel(view.metric)}: ${metricText(view.metric, resultOf(run))}`, stateLine(run)];

// -- learning curves --------------------------------------------------------------------------------------------------

function unpacked(curve) {
  if (!curve.steps) {
    let step = 0;
    curve.steps = curve.s.map((difference) => (step += difference * curve.u));
    curve.values = curve.v.map((value) => value / 10 ** curve.d);
  }
  return curve;
}
function interpolated(curve, step) {
  const { steps, values } = unpacked(curve), after = steps.findIndex((item) => item >= step), before = after - 1;
  if (after <= 0) return after ? values.at(-1) : values[0];
  const part = (step - steps[before]) / (steps[after] - steps[before]);
  return values[before] + part * (values[after] - values[before]);
}
const AXES = {
  step: { title: "step", at: (run, step) => step },
  tokens: { title: "tokens", at: (run, step) => {
    if (run.curves.tokens) return interpolated(run.curves.tokens, step);
    return run.tokens && run.step ? (run.tokens * step) / run.step : NaN;
  } },
  time: { title: "time since the first value (min)",
    at: ({ curves }, step) => (curves.time ? interpolated(curves.time, step) / 60 : NaN) },
};
function curveOf(run) {
  const { steps, values } = unpacked(run.curves[view.metric]);
  let smooth = values[0];
  const points = steps.map((step, place) => {
    smooth = view.smooth * smooth + (1 - view.smooth) * values[place];
    return { step, x: AXES[view.axis].at(run, step), y: smooth, value: values[place] };
  });
  return points.filter((point) => finite(point.x) && (!view.log || point.y > 0));
}
// Where runs diverged, the axis of a loss ends a little above the first values: one run would flatten all others.
function cutAt(curves) {
  const first = Math.max(...curves.map((points) => points[0].y));
  const highest = Math.max(...curves.map((points) => Math.max(...points.map((point) => point.y))));
  const isLoss = doc.metrics[view.metric].better === false && first > 0;
  return isLoss && !view.log && highest > 3 * first ? 1.5 * first : Infinity;
}
function drawCurves(figure, looks, width) {
  forget("curves");
  const title = metricLabel(view.metric), axis = AXES[view.axis];
  const having = visible.filter((index) => runs[index].curves[view.metric]);
  const own = having.map((index) => [index, curveOf(runs[index])]).filter(([, points]) => points.length);
  const caption = element("figcaption", {}, `${title} of ${count(own.length, "run")}`);
  if (!own.length) {
    figure.replaceChildren(caption, note(`No run that is shown has a value of it over ${axis.title}.`));
    return;
  }
  const curves = own.map(([, points]) => points), all = curves.flat(), cut = cutAt(curves);
  const x = { ends: ends(all.map((point) => point.x), false, 0.01), title: axis.title };
  const shown = all.map((point) => point.y).filter((value) => value <= cut);
  const height = Math.round(Math.min(420, Math.max(260, width * 0.52)));
  const drawn = plot("curves", own.length, width, height, x, { ends: ends(shown, view.log), log: view.log, title });
  for (const [index, points] of own) drawCurve(drawn, index, points, looks.of(runs[index]), own.length <= FEW);
  reachable(drawn, true);
  const over = curves.filter((points) => points.some((point) => point.y > cut)).length;
  figure.replaceChildren(caption, drawn.root, looks.legend, note([
    over ? `cut at ${metricTick(cut)}: ${count(over, "run")} went beyond` : "",
    own.some(([index]) => runs[index].state !== DONE) ? "○ not complete, × failed" : "", view.smooth ? "smoothed" : "",
    view.axis === "tokens" && !own.some(([index]) => runs[index].curves.tokens) ? "tokens: by step, from the total of each run" : "",
  ].filter(Boolean).join("; ")));
}
function drawCurve(drawn, index, points, { colour, dash }, few) {
  const run = runs[index], places = points.map((point) => [drawn.x.at(point.x), drawn.y.at(point.y)]), [x, y] = places.at(-1);
  const path = svg("path", { class: "curve", "stroke-dasharray": few && dash ? dash : null, d: pathOf(places) });
  const cross = svg("path", { class: "dot", d: `M${x - 4} ${y - 4}l8 8m0 -8l-8 8`, fill: "none" });
  const ring = svg("circle", { class: "dot", cx: x, cy: y, r: 3, fill: hollow(run, colour) });
  const end = run.state === "FAILED" ? cross : few || points.length === 1 ? ring : null;
  drawn.layer.append(mark("curves", index, svg("g", { "data-run": index, stroke: colour }, path, end)));
  for (const [place, point] of points.entries()) {
    const along = view.axis === "step" ? "" : `${AXES[view.axis].title}: ${numberText(point.x, 4)}`;
    const lines = () => [`${metricLabel(view.metric)}: ${metricText(view.metric, point.value)}`,
      `step ${point.step.toLocaleString("en")}`, along, stateLine(run)];
    drawn.points.push({ x: places[place][0], y: places[place][1], run: index, lines });
  }
}

// -- the metric against each parameter --------------------------------------------------------------------------------

function drawParameters(figure, own, keys, looks, room) {
  forget("parameter");
  figure.hidden = !keys.length;
  const grid = element("div", { class: "multiples" }), explained = "dashed: mean of complete runs; ○ not complete";
  const title = metricLabel(view.metric), caption = `${title} at the end of ${count(own.length, "run")} `;
  figure.replaceChildren(element("figcaption", {}, caption, element("small", {}, explained)), grid);
  if (!keys.length) return;
  const columns = Math.max(1, Math.min(keys.length, Math.floor((room + 8) / 248)));
  const width = Math.max(220, (room - 8 * (columns - 1)) / columns);
  const beside = keys.length === 1 ? parseInt(byId("curves").querySelector("svg")?.style.height ?? 0, 10) : 0;
  const y = { ends: ends(own.map((index) => resultOf(runs[index])), view.log), log: view.log, title };
  grid.append(...keys.map((key) => against(key, own, width, keys.length > columns ? 220 : Math.max(240, beside), y, looks)));
}
function against(key, own, width, height, y, looks) {
  const of = (index) => valueOf(runs[index], key), values = unique(own.map(of)).sort(compare);
  const numeric = key.numeric && values.every(finite), log = numeric && key.log;
  const place = numeric ? of : (index) => values.indexOf(of(index));
  const room = Math.max(4, Math.floor((width - 60) / values.length / LETTER));
  const named = values.map((value, i) => (numeric ? [value, valueText(value)] : [i, clipped(valueText(value), room)]));
  const x = { log, title: key.name, ends: numeric ? ends(values, log) : [-0.5, values.length - 0.5] };
  if (!numeric || values.length <= 8) x.ticks = named;
  const part = `parameter-${doc.keys.indexOf(key)}`, drawn = plot(part, own.length, width, height, x, y);
  const complete = values.map((value) => own.filter((index) => of(index) === value && runs[index].state === DONE));
  const means = complete.filter((group) => group.length).map((group) => {
    const mean = group.reduce((sum, index) => sum + resultOf(runs[index]), 0) / group.length;
    return [drawn.x.at(place(group[0])), drawn.y.at(mean)];
  });
  if (means.length > 1 && means.length <= 30) drawn.layer.append(svg("path", { class: "mean", d: pathOf(means) }));
  for (const index of own) {
    const run = runs[index], { colour } = looks.of(run), cx = drawn.x.at(place(index)), cy = drawn.y.at(resultOf(run));
    drawn.points.push({ x: cx, y: cy, run: index, lines: () => resultLines(run) });
    drawn.layer.append(mark(part, index, svg("circle", { class: "dot", "data-run": index, cx, cy, r: own.length > 200 ? 2.5 : 4,
      stroke: colour, fill: hollow(run, colour), "fill-opacity": 0.75 })));
  }
  reachable(drawn);
  return drawn.root;
}

// -- parallel coordinates ---------------------------------------------------------------------------------------------

function drawParallel(figure, own, looks, room) {
  forget("parallel");
  figure.replaceChildren();
  const varying = doc.keys.map((key) => ({ ...key, text: valueText, of: (run) => valueOf(run, key) }))
    .filter((axis) => unique(own.map((index) => axis.of(runs[index]))).length > 1);
  figure.hidden = varying.length < 2;
  if (figure.hidden) return;
  const result = { name: metricLabel(view.metric), numeric: true, log: view.log, text: metricTick, of: resultOf, round: true };
  const axes = [...varying, result], names = axes.map((axis) => axis.name).join(", ");
  const width = Math.max(room, 76 * axes.length), height = 310, gap = (width - 124) / (axes.length - 1);
  const drawn = { root: canvas(width, height, `Parallel coordinates of ${names}`), points: [], width, height };
  const layer = layerFor(own.length), front = svg("g");
  axes.forEach((axis, place) => front.append(...parallelAxis(axis, 62 + place * gap, own, place, gap)));
  for (const index of own) {
    const run = runs[index], { colour, dash } = looks.of(run), places = axes.map((axis) => [axis.x, axis.y(run)]);
    const dashed = own.length <= FEW && dash ? dash : null, lines = () => resultLines(run);
    const path = { class: "curve", "data-run": index, stroke: colour, "stroke-dasharray": dashed, d: pathOf(places) };
    layer.append(mark("parallel", index, svg("path", path)));
    drawn.points.push(...places.map(([x, y]) => ({ x, y, run: index, lines })));
  }
  drawn.root.append(layer, front);
  reachable(drawn, true);
  const caption = `What varies, and ${metricLabel(view.metric)}, of ${count(own.length, "run")}`;
  figure.replaceChildren(element("figcaption", {}, caption), element("div", { class: "across" }, drawn.root));
}
// Gives an axis its place and returns what draws it; values that some runs do not have lie below the others.
function parallelAxis(axis, x, own, place, room) {
  const all = unique(own.map((index) => axis.of(runs[index]))).sort(compare), values = all.filter((value) => value !== null);
  const numeric = axis.numeric && values.every(finite), log = numeric && axis.log && values[0] > 0, top = 44, bottom = 296;
  const range = numeric ? [values[0], values.at(-1)] : [0, values.length - 1], some = all.length > values.length;
  const along = scale(...range, some ? bottom - 26 : bottom, top, log), at = (value) => along.at(numeric ? value : values.indexOf(value));
  axis.x = x;
  axis.y = (run) => (axis.of(run) === null ? bottom : at(axis.of(run)));
  const labelled = numeric && (values.length > 8 || axis.round) ? ticks(along, 8) : values;
  const shown = [...labelled.map((value) => [at(value), axis.text(value)]), ...(some ? [[bottom, "none"]] : [])];
  const name = logged({ title: clipped(axis.name, Math.floor((1.7 * room) / LETTER)), log });
  const nodes = [line("axis", x, top - 4, x, bottom), label(Math.max(2, x - 30), place % 2 ? 30 : 14, name, { class: "name" })];
  let before = Infinity;
  for (const [y, text] of shown.sort(([a], [b]) => b - a)) {
    if (before - y < 13) continue;
    before = y;
    const most = place ? Math.max(5, Math.floor(room / LETTER) - 1) : 7; // left of the first axis there are no lines
    const side = { class: "on-line", "text-anchor": place ? "start" : "end" };
    nodes.push(label(place ? x + 6 : x - 6, y + 4, clipped(text, most), side));
  }
  return nodes;
}
function drawFigures() {
  leave();
  const own = visible.filter((index) => finite(resultOf(runs[index])) && (!view.log || resultOf(runs[index]) > 0));
  const keys = varyingAmong(own.map((index) => runs[index])), looks = colouring(), alone = !keys.length || keys.length > 2;
  const figures = ["curves", "parameters", "parallel"].map(byId), [curves, parameters, parallel] = figures;
  curves.classList.toggle("wide", alone);
  parameters.classList.toggle("wide", alone);
  figures.forEach((figure) => { figure.hidden = false; }); // which has no width otherwise
  const widths = figures.map((figure) => Math.max(260, figure.clientWidth)); // read once: that is slow on a long page
  drawCurves(curves, looks, widths[0]);
  drawParameters(parameters, own, keys, looks, widths[1]);
  drawParallel(parallel, own, looks, widths[2]);
}
