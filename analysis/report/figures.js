// The figures: SVG with axes, and points that the pointer and the arrow keys find.

const REACH = 40; // pixels from which a pointer finds a point
const LETTER = 7.7; // pixels of a letter of an axis, about

function scale(low, high, from, to, log = false) {
  const f = log ? Math.log10 : (value) => value, a = f(low), b = f(high);
  return { low, high, log, at: (value) => (b === a ? (from + to) / 2 : from + ((f(value) - a) / (b - a)) * (to - from)) };
}
function ticks({ low, high, log }, most) {
  if (log && high / low > 8) {
    const decades = Math.log10(high / low), parts = decades < most / 3 ? [1, 2, 5] : [1], every = Math.ceil(decades / most);
    const powers = Array.from({ length: Math.ceil(decades / every) + 2 }, (_, i) => Math.floor(Math.log10(low)) + i * every);
    return powers.flatMap((power) => parts.map((part) => part * 10 ** power)).filter((value) => value >= low * 0.999 && value <= high * 1.001);
  }
  const rough = (high - low) / Math.max(1, most), size = 10 ** Math.floor(Math.log10(rough || 1));
  const step = [1, 2, 2.5, 5, 10].map((part) => part * size).find((item) => item >= rough * 0.999);
  const first = Math.ceil(low / step - 1e-9), last = Math.floor(high / step + 1e-9);
  return Array.from({ length: Math.max(0, last - first + 1) }, (_, i) => (first + i) * step);
}
function range(values, log, part = 0.04) {
  const numbers = log ? values.map(Math.log10) : values;
  let [low, high] = numbers.reduce(([a, b], value) => [Math.min(a, value), Math.max(b, value)], [Infinity, -Infinity]);
  if (low === high) {
    const by = Math.abs(low) * 0.05 || 1;
    [low, high] = [low - by, high + by];
  }
  const ends = [low - part * (high - low), high + part * (high - low)];
  return log ? ends.map((end) => 10 ** end) : ends;
}
function canvas(width, height, label) {
  const root = svg("svg", { class: "plot", viewBox: `0 0 ${width} ${height}`, tabindex: 0, role: "application",
    "aria-label": `${label}. Up and down go from run to run, left and right along it, Enter selects.` });
  root.style.height = `${height}px`;
  root.classList.toggle("chosen", view.selected.length > 0);
  return root;
}

// A plot with two axes; x and y are {ends, log, title, text, ticks}.
function plot(part, width, height, x, y) {
  forget(part);
  const root = canvas(width, height, `${y.title} against ${x.title}`);
  const log = (axis) => (axis.log ? " (log)" : ""), marksOfY = ticks({ low: y.ends[0], high: y.ends[1], log: y.log }, (height - 60) / 36);
  const left = Math.max(30, ...marksOfY.map((value) => 14 + LETTER * metricTick(value).length)), right = width - 12, top = 22, bottom = height - 40;
  const sx = scale(...x.ends, left + 4, right - 4, x.log), sy = scale(...y.ends, bottom - 4, top + 4, y.log);
  for (const value of marksOfY) {
    root.append(svg("line", { class: "grid", x1: left, x2: right, y1: sy.at(value), y2: sy.at(value) }),
      svg("text", { x: left - 6, y: sy.at(value) + 4, "text-anchor": "end" }, metricTick(value)));
  }
  let end = -Infinity;
  for (const [value, text] of x.ticks ?? ticks(sx, (right - left) / 80).map((item) => [item, numberText(item, 5)])) {
    const half = (LETTER * text.length) / 2, middle = Math.max(half, Math.min(sx.at(value), width - half - 1));
    root.append(svg("line", { class: "axis", x1: sx.at(value), x2: sx.at(value), y1: bottom, y2: bottom + 4 }));
    if (middle - half < end + 6) continue; // labels never overlap
    end = middle + half;
    root.append(svg("text", { x: middle, y: bottom + 17, "text-anchor": "middle" }, text));
  }
  const layer = svg("g", { "clip-path": `url(#clip-${part})` });
  root.append(svg("line", { class: "axis", x1: left, x2: right, y1: bottom, y2: bottom }),
    svg("text", { class: "name", x: (left + right) / 2, y: height - 6, "text-anchor": "middle" }, x.title + log(x)),
    svg("text", { class: "name", x: 2, y: 13 }, y.title + log(y)),
    svg("clipPath", { id: `clip-${part}` }, svg("rect", { x: left, y: top, width: right - left, height: bottom - top + 1 })), layer);
  return { root, layer, x: sx, y: sy, points: [], width, height };
}

// Lets pointer and keys find the runs of a plot; a point is {x, y, run, lines}, those of a run follow each other.
function reachable({ root, points, width, height }) {
  const nearest = (event) => {
    const box = root.getBoundingClientRect(), px = ((event.clientX - box.left) * width) / box.width;
    const py = ((event.clientY - box.top) * height) / box.height;
    let best = null, least = REACH ** 2;
    for (const point of points) {
      const distance = (point.x - px) ** 2 + (point.y - py) ** 2;
      if (distance < least) [best, least] = [point, distance];
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
    if (point) select(point.run, event.shiftKey || event.ctrlKey || event.metaKey);
  });
  let current = -1;
  root.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key], jump = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (event.key === "Escape") { leave(); selectNames([]); return; }
    if (!points.length || !(step || jump || event.key === "Enter" || event.key === " ")) return;
    event.preventDefault();
    if (current >= 0 && !step && !jump) { select(points[current].run, event.shiftKey); return; }
    const order = unique(points.map((point) => point.run)), run = points[Math.max(0, current)].run;
    const next = current < 0 ? order[0] : order[(order.indexOf(run) + (jump ?? 0) + order.length) % order.length];
    if (step && points[current + step]?.run === run) current += step;
    else if (!step || current < 0) current = points.findLastIndex((point) => point.run === next);
    show(points[current]);
    byId("live").textContent = [runs[run].name, parameters(runs[points[current].run]), ...points[current].lines()].join(", ");
  });
}
function thin(layer, number) {
  layer.classList.toggle("many", number > FEW);
  layer.style.setProperty("--width", number <= FEW ? 1.8 : 1);
  layer.style.setProperty("--alpha", number <= FEW ? 0.95 : 0.5);
}
const pathOf = (places) => `M${places.map(([x, y]) => `${x.toFixed(1)} ${y.toFixed(1)}`).join("L")}`;
const resultLine = (run) => `${metricLabel(view.metric)}: ${metricText(view.metric, resultOf(run))}`;
const stateLine = (run) => (run.state === DONE ? "" : doc.signs[run.state]);

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
  const { steps, values } = unpacked(curve), after = steps.findIndex((item) => item >= step);
  if (after <= 0) return after ? values.at(-1) : values[0];
  return values[after - 1] + ((step - steps[after - 1]) / (steps[after] - steps[after - 1])) * (values[after] - values[after - 1]);
}
const AXES = {
  step: { title: "step", at: (run, step) => step },
  tokens: {
    title: "tokens",
    at: ({ curves, tokens, step: steps }, step) => (curves.tokens ? interpolated(curves.tokens, step) : tokens && steps ? (tokens * step) / steps : NaN),
  },
  time: { title: "time since the first value (min)", at: ({ curves }, step) => (curves.time ? interpolated(curves.time, step) / 60 : NaN) },
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
  const first = Math.max(...curves.map((points) => points[0].y)), highest = Math.max(...curves.map((points) => Math.max(...points.map((point) => point.y))));
  return doc.metrics[view.metric].better === false && !view.log && first > 0 && highest > 3 * first ? 1.5 * first : Infinity;
}
function drawCurves(figure, looks) {
  forget("curves");
  const own = visible.filter((index) => runs[index].curves[view.metric]).map((index) => [index, curveOf(runs[index])]).filter(([, points]) => points.length);
  const caption = element("figcaption", {}, `${metricLabel(view.metric)} of ${count(own.length, "run")}`);
  if (!own.length) {
    figure.replaceChildren(caption, element("p", { class: "note" }, `No run that is shown has a value of it over ${AXES[view.axis].title}.`));
    return;
  }
  const curves = own.map(([, points]) => points), cut = cutAt(curves), all = curves.flat(), width = Math.max(260, figure.clientWidth), few = own.length <= FEW;
  const drawn = plot("curves", width, figureHeight(width), { ends: range(all.map((point) => point.x), false, 0.01), title: AXES[view.axis].title },
    { ends: range(all.map((point) => point.y).filter((value) => value <= cut), view.log), log: view.log, title: metricLabel(view.metric) });
  thin(drawn.layer, own.length);
  for (const [index, points] of own) {
    const run = runs[index], { colour, dash } = looks.of(run), places = points.map((point) => [drawn.x.at(point.x), drawn.y.at(point.y)]), [x, y] = places.at(-1);
    const line = svg("path", { class: "curve", "stroke-dasharray": few && dash ? dash : null, d: pathOf(places) });
    const cross = svg("path", { class: "dot", d: `M${x - 4} ${y - 4}l8 8m0 -8l-8 8`, fill: "none" });
    const ring = svg("circle", { class: "dot", cx: x, cy: y, r: 3, fill: run.state === DONE ? colour : "var(--ground)" });
    const end = run.state === "FAILED" ? cross : few || points.length === 1 ? ring : null;
    drawn.layer.append(mark("curves", index, svg("g", { "data-run": index, stroke: colour }, line, end)));
    drawn.points.push(...points.map((point, place) => ({ x: places[place][0], y: places[place][1], run: index, lines: () => [
      `${metricLabel(view.metric)}: ${metricText(view.metric, point.value)}`, `step ${point.step.toLocaleString("en")}`,
      view.axis === "step" ? "" : `${AXES[view.axis].title}: ${numberText(point.x, 4)}`, stateLine(run)] })));
  }
  reachable(drawn);
  const over = curves.filter((points) => points.some((point) => point.y > cut)).length;
  const notes = [over ? `cut at ${metricTick(cut)}: ${count(over, "run")} went beyond` : "", own.some(([index]) => runs[index].state !== DONE) ? "○ not complete, × failed" : "",
    view.smooth ? "smoothed" : "", view.axis === "tokens" && !own.some(([index]) => runs[index].curves.tokens) ? "tokens: by step, from the total of each run" : ""];
  figure.replaceChildren(caption, drawn.root, looks.legend, element("p", { class: "note" }, notes.filter(Boolean).join("; ")));
}
const figureHeight = (width) => Math.round(Math.min(420, Math.max(260, width * 0.52)));

// -- the metric against each parameter --------------------------------------------------------------------------------

function drawParameters(figure, own, keys, looks) {
  forget("parameter");
  figure.replaceChildren();
  figure.hidden = !keys.length;
  if (figure.hidden) return;
  const grid = element("div", { class: "multiples" });
  figure.replaceChildren(element("figcaption", {}, `${metricLabel(view.metric)} at the end of ${count(own.length, "run")} `,
    element("small", {}, "dashed: mean of complete runs; ○ not complete")), grid);
  const columns = Math.max(1, Math.min(keys.length, Math.floor((figure.clientWidth + 8) / 248)));
  const width = Math.max(220, (figure.clientWidth - 8 * (columns - 1)) / columns);
  const height = keys.length > columns ? 220 : Math.max(240, keys.length > 1 ? 0 : byId("curves").querySelector("svg")?.clientHeight ?? 0);
  const y = { ends: range(own.map((index) => resultOf(runs[index])), view.log), log: view.log, title: metricLabel(view.metric) };
  for (const key of keys) grid.append(against(key, own, width, height, y, looks));
}
function against(key, own, width, height, y, looks) {
  const of = (index) => valueOf(runs[index], key), values = unique(own.map(of)).sort(compare), numeric = key.numeric && values.every(finite);
  const place = numeric ? of : (index) => values.indexOf(of(index)), room = Math.floor((width - 60) / values.length / LETTER);
  const names = values.map((value, i) => [numeric ? value : i, numeric ? valueText(value) : clipped(valueText(value), Math.max(4, room))]);
  const x = { ends: numeric ? range(values, key.log) : [-0.5, values.length - 0.5], log: numeric && key.log, title: key.name, ticks: numeric && values.length > 8 ? null : names };
  const part = `parameter-${doc.keys.indexOf(key)}`, drawn = plot(part, width, height, x, y);
  const groups = values.map((value) => own.filter((index) => of(index) === value && runs[index].state === DONE)).filter((group) => group.length);
  const mean = (group) => group.reduce((sum, index) => sum + resultOf(runs[index]), 0) / group.length;
  if (groups.length > 1 && groups.length <= 30) drawn.layer.append(svg("path", { class: "mean", d: pathOf(groups.map((group) => [drawn.x.at(place(group[0])), drawn.y.at(mean(group))])) }));
  for (const index of own) {
    const run = runs[index], { colour } = looks.of(run), point = { x: drawn.x.at(place(index)), y: drawn.y.at(resultOf(run)), run: index, lines: () => [resultLine(run), stateLine(run)] };
    drawn.points.push(point);
    drawn.layer.append(mark(part, index, svg("circle", { class: "dot", "data-run": index, cx: point.x, cy: point.y, r: own.length > 200 ? 2.5 : 4, stroke: colour,
      fill: run.state === DONE ? colour : "var(--ground)", "fill-opacity": 0.75 })));
  }
  reachable(drawn);
  return drawn.root;
}

// -- parallel coordinates ---------------------------------------------------------------------------------------------

function drawParallel(figure, own, looks) {
  forget("parallel");
  const varying = doc.keys.map((key) => ({ ...key, text: valueText, of: (run) => valueOf(run, key) }))
    .filter((axis) => unique(own.map((index) => axis.of(runs[index]))).length > 1);
  figure.replaceChildren();
  figure.hidden = varying.length < 2;
  if (figure.hidden) return;
  const axes = [...varying, { name: metricLabel(view.metric), numeric: true, log: view.log, text: metricTick, of: resultOf, round: true }];
  const width = Math.max(figure.clientWidth, 76 * axes.length), height = 310, root = canvas(width, height, `Parallel coordinates of ${axes.map((axis) => axis.name).join(", ")}`);
  const drawn = { root, points: [], width, height }, layer = svg("g"), front = svg("g"), between = (width - 124) / (axes.length - 1);
  axes.forEach((axis, place) => front.append(...parallelAxis(axis, 62 + place * between, own, place, between)));
  thin(layer, own.length);
  const parts = Math.max(1, Math.min(8, Math.ceil(4000 / own.length)));
  for (const index of own) {
    const run = runs[index], { colour, dash } = looks.of(run), places = axes.map((axis) => [axis.x, axis.y(run)]), lines = () => [resultLine(run), stateLine(run)];
    layer.append(mark("parallel", index, svg("path", { class: "curve", "data-run": index, stroke: colour, "stroke-dasharray": own.length <= FEW && dash ? dash : null, d: pathOf(places) })));
    places.slice(1).forEach(([x, y], i) => {
      const [x0, y0] = places[i];
      for (let part = i ? 1 : 0; part <= parts; part++) drawn.points.push({ run: index, lines, x: x0 + ((x - x0) * part) / parts, y: y0 + ((y - y0) * part) / parts });
    });
  }
  root.append(layer, front);
  reachable(drawn);
  figure.replaceChildren(element("figcaption", {}, `What varies, and ${metricLabel(view.metric)}, of ${count(own.length, "run")}`), element("div", { class: "across" }, root));
}
// Gives an axis its place and returns what draws it; values that some runs do not have lie below the others.
function parallelAxis(axis, x, own, place, room) {
  const all = unique(own.map((index) => axis.of(runs[index]))).sort(compare), values = all.filter((value) => value !== null), numeric = axis.numeric && values.every(finite);
  const top = 44, bottom = 296, log = numeric && axis.log && values[0] > 0, ends = numeric ? [values[0], values.at(-1)] : [0, values.length - 1];
  const along = scale(...ends, all.length > values.length ? bottom - 26 : bottom, top, log);
  axis.x = x;
  axis.y = (run) => (axis.of(run) === null ? bottom : along.at(numeric ? axis.of(run) : values.indexOf(axis.of(run))));
  const shown = numeric && (values.length > 8 || axis.round) ? ticks(along, 5).map((value) => [along.at(value), axis.text(value)]) : values.map((value, i) => [along.at(numeric ? value : i), axis.text(value)]);
  const name = svg("text", { class: "name", x: Math.max(2, x - 30), y: place % 2 ? 30 : 14 }, clipped(axis.name, Math.floor((1.7 * room) / LETTER)) + (log ? " (log)" : ""));
  const nodes = [svg("line", { class: "axis", x1: x, x2: x, y1: top - 4, y2: bottom }), name];
  let before = Infinity;
  for (const [y, text] of [...shown, ...(all.length > values.length ? [[bottom, "none"]] : [])].sort((a, b) => b[0] - a[0])) {
    if (before - y < 13) continue;
    before = y;
    const side = place ? { x: x + 6 } : { x: x - 6, "text-anchor": "end" }; // left of the first there are no lines
    nodes.push(svg("text", { class: "on-line", ...side, y: y + 4 }, clipped(text, place ? Math.max(5, Math.floor(room / LETTER) - 1) : 7)));
  }
  return nodes;
}
function drawFigures() {
  leave();
  const looks = colouring(), own = visible.filter((index) => finite(resultOf(runs[index])) && (!view.log || resultOf(runs[index]) > 0));
  const keys = varyingAmong(own.map((index) => runs[index])), alone = keys.length === 0 || keys.length > 2;
  byId("curves").classList.toggle("wide", alone);
  byId("parameters").classList.toggle("wide", alone);
  drawCurves(byId("curves"), looks);
  drawParameters(byId("parameters"), own, keys, looks);
  drawParallel(byId("parallel"), own, looks);
}
