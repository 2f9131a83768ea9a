"use strict";
// Draws the report from the document in #data. Values become text nodes and attributes, never markup.

const doc = JSON.parse(document.getElementById("data").textContent);
const runs = doc.runs;
const byId = (id) => document.getElementById(id);
const finite = (value) => typeof value === "number" && Number.isFinite(value);
const unique = (items) => [...new Set(items)];
const DONE = "COMPLETED";
const SIGNS = { COMPLETED: "✓", FAILED: "✗", RUNNING: "▶", INTERRUPTED: "‖", PENDING: "…", STALLED: "!", STALE: "!", BLOCKED: "⊘", CANCELLED: "–" };
const MOST_ROWS = 1000, MOST_NAMES = 12, MOST_TREE = 300, REACH = 40;

function element(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}
function svg(tag, attributes = {}, ...children) {
  return filled(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}
function filled(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "value") node.value = value;
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== ""));
  return node;
}

// -- what is shown, kept over a reload ---------------------------------------------------------------------------------

const KEY = `gptopt report ${location.pathname} ${doc.title}`;
const view = {
  metric: doc.metric, axis: "step", smooth: 0, logY: false, colour: null, text: "", stage: "", hidden: [],
  sort: null, down: false, selected: [], open: [], all: false, reloads: true, scroll: 0,
};
function stored(where, name) {
  try { return JSON.parse(where.getItem(name)); } catch { return null; }
}
function store(where, name, value) {
  try { where.setItem(name, JSON.stringify(value)); } catch { /* a browser may forbid it: then nothing is kept */ }
}
Object.assign(view, stored(sessionStorage, KEY) ?? {});
if (!(view.metric in doc.metrics)) view.metric = Object.keys(doc.metrics)[0] ?? doc.metric;

// -- texts -------------------------------------------------------------------------------------------------------------

function valueText(value) {
  if (value === null || value === undefined) return "–";
  if (typeof value !== "number") return String(value);
  const size = Math.abs(value);
  if (value === 0 || (size >= 1e-3 && size < 1e6)) return String(Number(value.toPrecision(7)));
  return value.toExponential().replace(/(\.\d{4})\d+/, "$1").replace("e+", "e").replace("-", "−").replace("e-", "e−");
}
function metricText(name, value) {
  if (!finite(value)) return value ?? "–";
  const [, digits, kind] = /\.(\d+)([efg%])/.exec(doc.metrics[name]?.form ?? ".4g") ?? [null, 4, "g"];
  if (kind === "%") return `${(100 * value).toFixed(digits)} %`;
  if (kind === "e") return value.toExponential(digits);
  if (kind === "g") return valueText(Number(value.toPrecision(digits)));
  return Math.abs(value) >= 1e4 && digits === "4" ? value.toExponential(3) : value.toFixed(digits);
}
function metricLabel(name) {
  const info = doc.metrics[name] ?? { label: name, unit: "" };
  return info.label + (info.unit ? ` (${info.unit})` : "");
}
function duration(seconds) {
  if (seconds < 90) return `${seconds.toFixed(seconds < 10 ? 1 : 0)} s`;
  return seconds < 5400 ? `${(seconds / 60).toFixed(0)} min` : `${(seconds / 3600).toFixed(1)} h`;
}
const count = (number, noun) => `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;
const moment = (seconds) => new Date(1000 * seconds).toISOString().slice(0, 16).replace("T", " ") + " UTC";
const parameters = (run) => doc.keys.map((key, index) => (run.values?.[index] ?? null) === null ? null
  : `${key.name}=${valueText(run.values[index])}`).filter(Boolean).join(", ");
const label = (run) => [run.name, parameters(run)].filter(Boolean).join("  ");
function stateNode(state) {
  return element("span", { class: `state ${state}` }, `${SIGNS[state] ?? "?"} ${state}`);
}

// -- which runs are shown, hovered and selected ------------------------------------------------------------------------

const haystacks = runs.map((run) => [run.name, run.id, run.state, run.stage, run.path, run.node, run.message,
  ...doc.keys.flatMap((key, i) => [`${key.name}=${valueText(run.values?.[i])}`, `${key.key}=${valueText(run.values?.[i])}`]),
].join(" ").toLowerCase());
let visible = [];
function filter() {
  const words = view.text.toLowerCase().split(/\s+/).filter(Boolean);
  visible = runs.map((_, index) => index).filter((index) => !view.hidden.includes(runs[index].state)
    && (!view.stage || runs[index].stage === view.stage) && words.every((word) => haystacks[index].includes(word)));
}

const marks = new Map(); // of each part of the page, from the index of a run to the elements that stand for it
let hovered = null;
function mark(part, run, node) {
  if (!marks.has(part)) marks.set(part, new Map());
  const found = marks.get(part);
  found.set(run, [...(found.get(run) ?? []), node]);
  node.classList.add("m");
  node.classList.toggle("selected", view.selected.includes(runs[run].name));
  return node;
}
function nodesOf(run) {
  return [...marks.values()].flatMap((part) => part.get(run) ?? []);
}
function hover(run) {
  if (run === hovered) return;
  if (hovered !== null) nodesOf(hovered).forEach((node) => node.classList.remove("hovered"));
  hovered = run;
  if (run === null) return;
  for (const node of nodesOf(run)) {
    node.classList.add("hovered");
    if (node.namespaceURI.endsWith("svg") && node !== node.parentNode.lastChild) node.parentNode.append(node);
  }
}
function select(run, more = false) {
  const name = runs[run].name, had = view.selected.includes(name);
  const others = more ? view.selected.filter((item) => item !== name) : [];
  selectNames(had && (more || view.selected.length === 1) ? others : [...others, name]);
}
function selectNames(names) {
  view.selected = names;
  runs.forEach((run, index) => nodesOf(index).forEach((node) => {
    const chosen = names.includes(run.name);
    node.classList.toggle("selected", chosen);
    if (node.tagName === "TR") node.setAttribute("aria-selected", chosen);
  }));
  document.querySelectorAll("figure svg.plot").forEach((plot) => plot.classList.toggle("chosen", names.length > 0));
  drawSelected();
  byId("live").textContent = names.length ? `selected: ${names.join(", ")}` : "nothing selected";
}
function showTip(run, lines, x, y) {
  const tip = byId("tip");
  tip.replaceChildren(element("strong", {}, runs[run].name), ...[parameters(runs[run]), ...lines].filter(Boolean)
    .map((line) => element("div", {}, line)));
  tip.hidden = false;
  const { width, height } = tip.getBoundingClientRect();
  const left = x + 14 + width > innerWidth ? Math.max(4, x - 14 - width) : x + 14;
  tip.style.left = `${left}px`;
  tip.style.top = `${Math.max(4, Math.min(y + 14, innerHeight - height - 4))}px`;
}
function leave() {
  hover(null);
  byId("tip").hidden = true;
}

// -- colours: safe for the colour-blind, ordered by lightness where values are; dashes tell lines apart in grey ---------

const VIRIDIS = ["#440154", "#482878", "#3e4989", "#31688e", "#26828e", "#1f9e89", "#35b779", "#6ece58", "#b5de2b", "#fde725"];
const HUES = {
  light: ["#0072b2", "#d55e00", "#00805d", "#b04a86", "#8c6d00", "#3b8ec2", "#555555", "#6a3fa0"],
  dark: ["#56b4e9", "#ff9e4a", "#2fd0a0", "#f0a3cc", "#e6c229", "#8fb8ff", "#c3c8d1", "#c79bff"],
};
const DASHES = ["", "7 3", "2 2.5", "9 3 2 3", "12 4", "5 2 1.5 2 1.5 2", "1.5 4", "14 3 4 3"];
const isDark = () => (document.documentElement.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
function along(part) {
  const place = (isDark() ? 0.22 + 0.78 * part : 0.82 * part) * (VIRIDIS.length - 1);
  const low = Math.min(VIRIDIS.length - 2, Math.floor(place)), rest = place - low;
  const channel = (colour, i) => parseInt(colour.slice(1 + 2 * i, 3 + 2 * i), 16);
  return `rgb(${[0, 1, 2].map((i) => Math.round(channel(VIRIDIS[low], i) * (1 - rest) + channel(VIRIDIS[low + 1], i) * rest)).join(" ")})`;
}
function colourChoices() {
  const found = doc.keys.map((key, index) => [`key ${index}`, key.name]);
  if (doc.stages.length) found.push(["stage", "stage"]);
  if (runs.length <= MOST_NAMES || !found.length) found.push(["name", "run"]);
  return [...found, ["state", "state"], ["metric", "the metric"]];
}
function colouring() {
  const choice = colourChoices().some(([id]) => id === view.colour) ? view.colour : colourChoices()[0][0];
  const key = choice.startsWith("key") ? doc.keys[Number(choice.slice(4))] : null;
  const valueOf = (run) => key ? run.values?.[doc.keys.indexOf(key)] ?? null : choice === "metric" ? run.final?.[view.metric] ?? null : run[choice] ?? null;
  const values = unique(visible.map((index) => valueOf(runs[index])).filter((value) => value !== null)).sort(compare);
  const title = key ? key.name : choice === "metric" ? metricLabel(view.metric) : choice === "name" ? "run" : choice;
  const text = (value) => choice === "metric" ? metricText(view.metric, value) : valueText(value);
  const none = { colour: isDark() ? "#8a93a3" : "#8a93a3", dash: "1 3" };
  if ((key?.numeric || choice === "metric") && values.length > HUES.light.length) {
    const numbers = values.filter(finite), log = Boolean(key?.log);
    const part = scale(numbers[0], numbers.at(-1), 0, 1, log).at;
    const bar = svg("svg", { class: "bar", viewBox: "0 0 40 1", preserveAspectRatio: "none", "aria-hidden": "true" },
      Array.from({ length: 40 }, (_, i) => svg("rect", { x: i, width: 1.05, height: 1, fill: along(i / 39) })));
    const legend = element("div", { class: "legend" }, `${title}: ${text(numbers[0])}`, bar, text(numbers.at(-1)), log ? " (log)" : "");
    return { of: (run) => finite(valueOf(run)) ? { colour: along(part(valueOf(run))), dash: "" } : none, legend };
  }
  const hues = HUES[isDark() ? "dark" : "light"];
  const look = (index) => ({
    colour: key?.numeric ? along(values.length > 1 ? index / (values.length - 1) : 0.3) : hues[index % hues.length],
    dash: DASHES[index % DASHES.length],
  });
  const places = new Map(values.map((value, index) => [value, index]));
  const buttons = values.length > 40 ? [] : values.map((value, index) => element("button", {
    type: "button", title: "Select these runs",
    onclick: () => selectNames(visible.map((i) => runs[i]).filter((run) => valueOf(run) === value).map((run) => run.name)),
  }, svg("svg", { viewBox: "0 0 30 12", "aria-hidden": "true" }, svg("line", { x1: 0, x2: 30, y1: 6, y2: 6, stroke: look(index).colour, "stroke-width": 2.5, "stroke-dasharray": look(index).dash || null })), text(value)));
  const legend = element("div", { class: "legend" }, `${title}:`, buttons.length ? buttons : count(values.length, "value"));
  return { of: (run) => places.has(valueOf(run)) ? look(places.get(valueOf(run))) : none, legend };
}
function compare(a, b) {
  if (finite(a) && finite(b)) return a - b;
  if (finite(a) !== finite(b)) return finite(a) ? -1 : 1;
  return String(a).localeCompare(String(b), "en", { numeric: true });
}

// -- axes --------------------------------------------------------------------------------------------------------------

function scale(low, high, from, to, log = false) {
  const f = log ? Math.log10 : (x) => x;
  const a = f(low), b = f(high);
  return { low, high, log, at: (value) => b === a ? (from + to) / 2 : from + ((f(value) - a) / (b - a)) * (to - from) };
}
function ticks({ low, high, log }, most) {
  if (log && high / low > 8) {
    const decades = Math.log10(high / low), found = [];
    const parts = decades < most / 3 ? [1, 2, 5] : [1], every = Math.ceil(decades / most);
    for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power += every) {
      found.push(...parts.map((part) => part * 10 ** power));
    }
    return found.filter((value) => value >= low * 0.999 && value <= high * 1.001);
  }
  const rough = (high - low) / Math.max(1, most), size = 10 ** Math.floor(Math.log10(rough || 1));
  const step = [1, 2, 2.5, 5, 10].map((part) => part * size).find((item) => item >= rough * 0.999) ?? size;
  const found = [];
  for (let index = Math.ceil(low / step - 1e-9); index * step <= high + step * 1e-9; index++) found.push(index * step);
  return found;
}
const letters = (text) => 6.9 * text.length;
function wide(values, part = 0.04) {
  let [low, high] = values.reduce(([a, b], value) => [Math.min(a, value), Math.max(b, value)], [Infinity, -Infinity]);
  if (low === high) { const by = Math.abs(low) * 0.05 || 1; low -= by; high += by; }
  return [low - part * (high - low), high + part * (high - low)];
}
function wideLog(values) {
  const [low, high] = wide(values.map(Math.log10));
  return [10 ** low, 10 ** high];
}
function shortNumber(value) {
  if (value !== 0 && (Math.abs(value) >= 1e4 || Math.abs(value) < 1e-3)) return Number(value.toPrecision(3)).toExponential().replace("e+", "e").replace("-", "−");
  return String(Number(value.toPrecision(6))).replace("-", "−");
}
function percent(name) {
  return doc.metrics[name]?.form.endsWith("%");
}
function metricTick(name) {
  return (value) => percent(name) ? `${Number((100 * value).toPrecision(4))} %`.replace("-", "−") : shortNumber(value);
}

// A plot: an SVG with axes; `points` are what the pointer and the arrow keys find.
function plot(part, { width, height, x, y, title, xLabel, yLabel, xText = shortNumber, yText = shortNumber, xTicks = null }) {
  marks.delete(part);
  const yTicks = ticks(y, Math.max(2, (height - 60) / 45));
  const left = Math.max(34, ...yTicks.map((value) => 10 + letters(yText(value)))), box = { left, right: width - 12, top: 22, bottom: height - 40 };
  x = scale(x.low, x.high, box.left + 4, box.right - 4, x.log);
  y = scale(y.low, y.high, box.bottom - 4, box.top + 4, y.log);
  const root = svg("svg", { class: "plot", viewBox: `0 0 ${width} ${height}`, width, height, tabindex: 0, role: "application",
    "aria-label": `${title}. Up and down go from run to run, left and right along it, Enter selects.` });
  root.style.height = `${height}px`;
  root.classList.toggle("chosen", view.selected.length > 0);
  for (const value of yTicks) {
    root.append(svg("line", { class: "grid", x1: box.left, x2: box.right, y1: y.at(value), y2: y.at(value) }),
      svg("text", { x: box.left - 6, y: y.at(value) + 4, "text-anchor": "end" }, yText(value)));
  }
  let end = -Infinity;
  const shown = xTicks ?? ticks(x, Math.max(2, (box.right - box.left) / 80)).map((value) => [value, xText(value)]);
  for (const [value, text] of shown) {
    const middle = Math.min(Math.max(x.at(value), letters(text) / 2), width - letters(text) / 2 - 1), half = letters(text) / 2;
    root.append(svg("line", { class: "axis", x1: x.at(value), x2: x.at(value), y1: box.bottom, y2: box.bottom + 4 }));
    if (middle - half < end + 6) continue;
    end = middle + half;
    root.append(svg("text", { x: middle, y: box.bottom + 17, "text-anchor": "middle" }, text));
  }
  root.append(svg("line", { class: "axis", x1: box.left, x2: box.right, y1: box.bottom, y2: box.bottom }),
    svg("text", { class: "name", x: (box.left + box.right) / 2, y: height - 6, "text-anchor": "middle" }, xLabel + (x.log ? " (log)" : "")),
    svg("text", { class: "name", x: 2, y: 13 }, yLabel + (y.log ? " (log)" : "")));
  const clip = `clip-${part.replace(/\W/g, "-")}`;
  root.append(svg("clipPath", { id: clip }, svg("rect", { x: box.left, y: box.top, width: Math.max(1, box.right - box.left), height: box.bottom - box.top + 1 })));
  const layer = svg("g", { "clip-path": `url(#${clip})` });
  root.append(layer);
  return { root, layer, x, y, box, points: [] };
}

// Lets pointer and keys find the runs of a plot; a point is {x, y, run, lines}, those of a run follow each other.
function reachable({ root, points }, width, height) {
  const nearest = (event) => {
    const box = root.getBoundingClientRect();
    const px = ((event.clientX - box.left) * width) / box.width, py = ((event.clientY - box.top) * height) / box.height;
    let best = null, least = REACH ** 2;
    for (const point of points) {
      const distance = (point.x - px) ** 2 + (point.y - py) ** 2;
      if (distance < least) { least = distance; best = point; }
    }
    return best;
  };
  const show = (point) => {
    const box = root.getBoundingClientRect();
    hover(point.run);
    showTip(point.run, point.lines(), box.left + (point.x * box.width) / width, box.top + (point.y * box.height) / height);
  };
  root.addEventListener("pointermove", (event) => { const point = nearest(event); if (point) show(point); else leave(); });
  root.addEventListener("pointerleave", leave);
  root.addEventListener("click", (event) => { const point = nearest(event); if (point) select(point.run, event.shiftKey || event.ctrlKey || event.metaKey); });
  root.addEventListener("blur", leave);
  let current = -1;
  root.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key], jump = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (event.key === "Escape") { leave(); selectNames([]); }
    if (!points.length || !(step || jump || event.key === "Enter" || event.key === " ")) return;
    event.preventDefault();
    if (current >= 0 && !step && !jump) { select(points[current].run, event.shiftKey); return; }
    const run = points[Math.max(0, current)].run;
    if (current < 0) current = 0;
    else if (step && points[current + step]?.run === run) current += step;
    else if (jump) {
      const order = unique(points.map((point) => point.run)), next = order[(order.indexOf(run) + jump + order.length) % order.length];
      current = points.findLastIndex((point) => point.run === next);
    }
    show(points[current]);
    byId("live").textContent = [label(runs[points[current].run]), ...points[current].lines()].join(", ");
  });
}

// -- figures -----------------------------------------------------------------------------------------------------------

function decoded(curve) {
  if (!curve.steps) {
    let step = 0;
    curve.steps = curve.s.map((difference) => (step += difference * curve.u));
    curve.values = curve.v.map((value) => value / 10 ** curve.d);
  }
  return curve;
}
function interpolated(curve, step) {
  const { steps, values } = decoded(curve), after = steps.findIndex((item) => item >= step);
  if (after <= 0) return after === 0 ? values[0] : values.at(-1);
  return values[after - 1] + ((step - steps[after - 1]) / (steps[after] - steps[after - 1])) * (values[after] - values[after - 1]);
}
const AXES = {
  step: { title: "step", text: shortNumber, at: (run, step) => step },
  tokens: {
    title: "tokens", text: shortNumber,
    at: (run, step) => run.curves.tokens ? interpolated(run.curves.tokens, step) : run.tokens && run.step ? (run.tokens * step) / run.step : NaN,
  },
  time: { title: "time since the first row (min)", text: shortNumber, at: (run, step) => run.curves.time ? interpolated(run.curves.time, step) / 60 : NaN },
};
function curveOf(run) {
  const { steps, values } = decoded(run.curves[view.metric]);
  let smooth = values[0];
  return steps.map((step, index) => {
    smooth = view.smooth * smooth + (1 - view.smooth) * values[index];
    return { step, x: AXES[view.axis].at(run, step), y: smooth, value: values[index] };
  }).filter((point) => finite(point.x) && (!view.logY || point.y > 0));
}
// Where runs diverged, the axis ends above what the others do: one run would flatten all others.
function cutAt(curves) {
  if (doc.metrics[view.metric]?.better !== false || view.logY) return null;
  const first = Math.max(...curves.map((points) => points[0].y)), highest = Math.max(...curves.map((points) => Math.max(...points.map((point) => point.y))));
  return first > 0 && highest > 3 * first ? 1.5 * first : null;
}
function drawCurves(figure, looks) {
  const own = visible.filter((index) => runs[index].curves[view.metric]).map((index) => [index, curveOf(runs[index])]).filter(([, points]) => points.length);
  const caption = element("figcaption", {}, `${doc.metrics[view.metric]?.label ?? view.metric} of ${count(own.length, "run")}`);
  if (!own.length) {
    marks.delete("curves");
    figure.replaceChildren(caption, element("p", { class: "note" }, "No run that is shown has a value of it over this axis."));
    return;
  }
  const width = Math.max(260, figure.clientWidth), height = Math.round(Math.min(430, Math.max(260, width * 0.5)));
  const curves = own.map(([, points]) => points), cut = cutAt(curves), values = curves.flatMap((points) => points.map((point) => point.y));
  const [low, high] = view.logY ? wideLog(values) : wide(cut === null ? values : values.filter((value) => value <= cut));
  const [begin, end] = wide(curves.flatMap((points) => points.map((point) => point.x)), 0.01);
  const drawn = plot("curves", { width, height, x: { low: Math.max(begin, Math.min(0, begin)), high: end }, y: { low, high, log: view.logY },
    title: `Learning curves of ${count(own.length, "run")}`, xLabel: AXES[view.axis].title, yLabel: metricLabel(view.metric),
    xText: AXES[view.axis].text, yText: metricTick(view.metric) });
  const few = own.length <= 40;
  drawn.layer.style.setProperty("--width", few ? 1.8 : 1);
  drawn.layer.style.setProperty("--alpha", few ? 0.95 : 0.55);
  for (const [index, points] of own) {
    const { colour, dash } = looks.of(runs[index]), at = points.map((point) => [drawn.x.at(point.x), drawn.y.at(point.y)]);
    const group = svg("g", { "data-run": index, stroke: colour, fill: colour }, svg("path", { class: "curve", "stroke-dasharray": few ? dash || null : null,
      d: "M" + at.map(([px, py]) => `${px.toFixed(1)} ${py.toFixed(1)}`).join("L") }));
    const [px, py] = at.at(-1);
    if (runs[index].state === "FAILED") group.append(svg("path", { class: "dot", d: `M${px - 4} ${py - 4}l8 8m0 -8l-8 8`, fill: "none" }));
    else if (points.length === 1 || few) group.append(svg("circle", { class: "dot", cx: px, cy: py, r: 3, fill: runs[index].state === DONE ? colour : "var(--ground)" }));
    drawn.layer.append(mark("curves", index, group));
    points.forEach((point, i) => drawn.points.push({ x: at[i][0], y: at[i][1], run: index,
      lines: () => [`${metricLabel(view.metric)}: ${metricText(view.metric, point.value)}`, `step ${point.step.toLocaleString("en")}`,
        view.axis === "step" ? "" : `${AXES[view.axis].title}: ${shortNumber(point.x)}`, runs[index].state === DONE ? "" : runs[index].state] }));
  }
  reachable(drawn, width, height);
  const unfinished = own.filter(([index]) => runs[index].state !== DONE).length, gone = cut === null ? 0 : curves.filter((points) => points.some((point) => point.y > cut)).length;
  const notes = [gone ? `cut at ${shortNumber(cut)}, which ${count(gone, "run")} exceed${gone === 1 ? "s" : ""}` : "",
    few && unfinished ? "○ not complete, × failed" : "", view.smooth ? "smoothed" : "", view.axis === "tokens" && !own.some(([i]) => runs[i].curves.tokens) ? "tokens by step from the total of each run" : ""].filter(Boolean);
  figure.replaceChildren(caption, drawn.root, looks.legend, notes.length ? element("p", { class: "note" }, notes.join("; ")) : "");
}

function drawParameters(figure, looks) {
  [...marks.keys()].filter((part) => part.startsWith("parameter")).forEach((part) => marks.delete(part));
  const own = visible.filter((index) => finite(runs[index].final?.[view.metric]));
  const keys = doc.keys.map((key, index) => ({ ...key, index })).filter(({ index }) => unique(own.map((run) => runs[run].values?.[index] ?? null)).length > 1);
  figure.hidden = !keys.length;
  if (!keys.length) return;
  const caption = element("figcaption", {}, `Last ${doc.metrics[view.metric].label} against each swept parameter `,
    element("small", {}, "dashed: mean of complete runs; ○ not complete"));
  const grid = element("div", { class: "multiples" });
  figure.replaceChildren(caption, grid);
  const all = own.map((index) => runs[index].final[view.metric]), log = view.logY && all.every((value) => value > 0);
  const columns = Math.max(1, Math.min(keys.length, Math.floor((figure.clientWidth + 8) / 248)));
  for (const key of keys) {
    const width = Math.max(220, (figure.clientWidth - 8 * (columns - 1)) / columns), height = keys.length > 2 ? 210 : 250;
    const of = (index) => runs[index].values?.[key.index] ?? null;
    const values = unique(own.map(of)).sort(compare), numeric = key.numeric && values.every(finite);
    const [low, high] = log ? wideLog(all) : wide(all), place = numeric ? of : (index) => values.indexOf(of(index));
    const [begin, end] = numeric ? key.log ? wideLog(values) : wide(values) : [-0.5, values.length - 0.5];
    const room = Math.floor((width - 60) / Math.max(1, values.length) / 6.9);
    const cut = (text) => text.length > Math.max(4, room) ? `${text.slice(0, Math.max(3, room - 1))}…` : text;
    const own_ticks = numeric ? values.length <= 8 ? values.map((value) => [value, valueText(value)]) : null : values.map((value, i) => [i, cut(valueText(value))]);
    const drawn = plot(`parameter ${key.index}`, { width, height, x: { low: begin, high: end, log: numeric && key.log }, y: { low, high, log }, title: `${doc.metrics[view.metric].label} against ${key.name}`,
      xLabel: key.name, yLabel: metricLabel(view.metric), yText: metricTick(view.metric), xTicks: own_ticks });
    const means = values.map((value) => own.filter((index) => of(index) === value && runs[index].state === DONE)).filter((group) => group.length)
      .map((group) => [drawn.x.at(place(group[0])), drawn.y.at(group.reduce((sum, index) => sum + runs[index].final[view.metric], 0) / group.length)]);
    if (means.length > 1 && means.length <= 30) drawn.layer.append(svg("path", { class: "mean", d: "M" + means.map((pair) => pair.join(" ")).join("L") }));
    for (const index of own) {
      const px = drawn.x.at(place(index)), py = drawn.y.at(runs[index].final[view.metric]), { colour } = looks.of(runs[index]);
      drawn.layer.append(mark(`parameter ${key.index}`, index, svg("circle", { class: "dot", "data-run": index, cx: px, cy: py, r: own.length > 200 ? 2.5 : 4,
        stroke: colour, fill: runs[index].state === DONE ? colour : "var(--ground)", "fill-opacity": 0.75 })));
      drawn.points.push({ x: px, y: py, run: index, lines: () => [`${metricLabel(view.metric)}: ${metricText(view.metric, runs[index].final[view.metric])}`, runs[index].state === DONE ? "" : runs[index].state] });
    }
    reachable(drawn, width, height);
    grid.append(drawn.root);
  }
}

function drawParallel(figure, looks) {
  marks.delete("parallel");
  const own = visible.filter((index) => finite(runs[index].final?.[view.metric]));
  const varying = doc.keys.map((key, index) => ({ ...key, text: valueText, of: (run) => run.values?.[index] ?? null }))
    .filter((key) => unique(own.map((run) => key.of(runs[run]))).length > 1);
  figure.hidden = varying.length < 2;
  if (figure.hidden) return;
  const last = { name: metricLabel(view.metric), numeric: true, log: view.logY, text: metricTick(view.metric), of: (run) => run.final[view.metric] };
  const axes = [...varying, last], width = Math.max(260, figure.clientWidth, 74 * axes.length), height = 300, top = 44, bottom = height - 14;
  const root = svg("svg", { class: "plot", viewBox: `0 0 ${width} ${height}`, width, height, tabindex: 0, role: "application",
    "aria-label": `Parallel coordinates of ${axes.map((axis) => axis.name).join(", ")}. Up and down go from run to run, Enter selects.` });
  root.style.height = `${height}px`;
  root.classList.toggle("chosen", view.selected.length > 0);
  const drawn = { root, points: [] }, layer = svg("g"), front = svg("g");
  axes.forEach((axis, place) => {
    const values = unique(own.map((index) => axis.of(runs[index])).filter((value) => value !== null)).sort(compare), numeric = axis.numeric && values.every(finite);
    const log = numeric && axis.log && values[0] > 0, missing = own.some((index) => axis.of(runs[index]) === null), floor = missing ? bottom - 26 : bottom;
    const [low, high] = numeric ? [values[0], values.at(-1)] : [0, values.length - 1], own_scale = scale(low, high, floor, top, log);
    axis.x = 34 + (place * (width - 34 - 62)) / (axes.length - 1);
    axis.y = (run) => axis.of(run) === null ? bottom : own_scale.at(numeric ? axis.of(run) : values.indexOf(axis.of(run)));
    const texts = values.length <= 8 || !numeric ? values.map((value, i) => [own_scale.at(numeric ? value : i), axis.text(value)])
      : ticks({ low, high, log }, 5).map((value) => [own_scale.at(value), axis.text(value)]);
    front.append(svg("line", { class: "axis", x1: axis.x, x2: axis.x, y1: top - 4, y2: bottom }));
    const room = Math.floor((width - 96) / (axes.length - 1) / 6.9), short = (text) => text.length > room ? `${text.slice(0, Math.max(3, room - 1))}…` : text;
    front.append(svg("text", { class: "name", x: Math.max(2, axis.x - 30), y: place % 2 ? 30 : 14 }, short(axis.name) + (log ? " (log)" : ""), svg("title", {}, axis.key ?? axis.name)));
    let before = Infinity;
    for (const [py, text] of [...texts, ...(missing ? [[bottom, "none"]] : [])].sort((a, b) => b[0] - a[0])) {
      if (before - py < 13) continue;
      before = py;
      front.append(svg("text", { x: axis.x + 6, y: py + 4 }, text.length > 12 ? `${text.slice(0, 11)}…` : text));
    }
  });
  const few = own.length <= 40;
  layer.style.setProperty("--width", few ? 1.8 : 1);
  layer.style.setProperty("--alpha", few ? 0.9 : 0.5);
  for (const index of own) {
    const { colour, dash } = looks.of(runs[index]), at = axes.map((axis) => [axis.x, axis.y(runs[index])]);
    layer.append(mark("parallel", index, svg("path", { class: "curve", "data-run": index, stroke: colour, "stroke-dasharray": few ? dash || null : null, d: "M" + at.map((pair) => pair.map((item) => item.toFixed(1)).join(" ")).join("L") })));
    const lines = () => [`${metricLabel(view.metric)}: ${metricText(view.metric, runs[index].final[view.metric])}`];
    at.slice(1).forEach(([px, py], i) => {
      const parts = Math.min(8, Math.ceil(4000 / own.length) + 1);
      for (let part = i ? 1 : 0; part <= parts; part++) drawn.points.push({ run: index, lines, x: at[i][0] + ((px - at[i][0]) * part) / parts, y: at[i][1] + ((py - at[i][1]) * part) / parts });
    });
  }
  root.append(layer, front);
  reachable(drawn, width, height);
  figure.replaceChildren(element("figcaption", {}, `${count(own.length, "run")} by what varies and ${doc.metrics[view.metric].label}`),
    element("div", { class: "across" }, root));
}

// -- the table ---------------------------------------------------------------------------------------------------------

const COMPARED = ["loss", "eval/loss", "eval/perplexity", "eval/rewards/accuracies", "eval/rewards/margins", "eval/kl"];
function columns() {
  const named = unique([view.metric, doc.metric, ...COMPARED]).filter((name) => doc.metrics[name] && runs.some((run) => run.final && name in run.final));
  return [
    { id: "name", title: "run", of: (run) => run.name, text: (run) => run.name, index: true },
    { id: "state", title: "state", of: (run) => run.state, node: (run) => stateNode(run.state) },
    doc.stages.length ? { id: "stage", title: "stage", of: (run) => run.stage ?? null } : null,
    ...doc.keys.map((key, index) => ({ id: `key ${index}`, title: key.name, hint: key.key, number: key.numeric, of: (run) => run.values?.[index] ?? null })),
    ...named.map((name) => ({ id: name, title: doc.metrics[name].label, unit: doc.metrics[name].unit, hint: name, number: true, of: (run) => run.final?.[name] ?? null, text: (run) => metricText(name, run.final?.[name]) })),
    { id: "step", title: "steps", number: true, of: (run) => run.step ?? null, text: (run) => run.total_steps ? `${run.step ?? 0}/${run.total_steps}` : valueText(run.step) },
    { id: "seconds", title: "time", number: true, of: (run) => run.seconds || (run.time_s ?? null), text: (run) => run.seconds || run.time_s ? duration(run.seconds || run.time_s) : "–" },
    runs.some((run) => run.attempts > 1) ? { id: "attempts", title: "attempts", number: true, of: (run) => run.attempts ?? null } : null,
  ].filter(Boolean);
}
function bestRun() {
  const better = doc.metrics[doc.metric]?.better;
  if (typeof better !== "boolean") return null;
  const own = runs.map((_, index) => index).filter((index) => runs[index].state === DONE && finite(runs[index].final?.[doc.metric]));
  return own.length ? own.reduce((a, b) => (better ? runs[b].final[doc.metric] > runs[a].final[doc.metric] : runs[b].final[doc.metric] < runs[a].final[doc.metric]) ? b : a) : null;
}
function drawTable() {
  marks.delete("table");
  const shown = columns(), column = shown.find((item) => item.id === view.sort), best = bestRun();
  const order = [...visible];
  if (column) {
    const none = (value) => value === null || value === undefined;
    order.sort((a, b) => {
      const [first, second] = [column.of(runs[a]), column.of(runs[b])];
      if (none(first) || none(second)) return none(first) - none(second) || a - b; // what has no value stands last
      return (view.down ? -1 : 1) * compare(column.index ? a : first, column.index ? b : second) || a - b;
    });
  }
  const sortBy = (id) => {
    view.down = view.sort === id ? !view.down : false;
    view.sort = id;
    drawTable();
    [...byId("table").querySelectorAll("th button")].find((button) => button.dataset.column === id).focus();
  };
  const head = element("tr", {}, shown.map((item) => element("th", { scope: "col", class: item.number ? "number" : null, title: item.hint ?? null,
    "aria-sort": view.sort === item.id ? (view.down ? "descending" : "ascending") : "none" },
    element("button", { type: "button", "data-column": item.id, onclick: () => sortBy(item.id) }, item.title), item.unit ? element("span", { class: "unit" }, item.unit) : "")));
  const body = order.slice(0, view.all ? Infinity : MOST_ROWS).map((index, place) => {
    const run = runs[index];
    const row = element("tr", { "data-run": index, tabindex: place ? -1 : 0, "aria-selected": String(view.selected.includes(run.name)), class: index === best ? "best" : null },
      shown.map((item) => {
        const text = item.text ? item.text(run) : valueText(item.of(run));
        return element("td", { class: [item.number ? "number" : "", text.length > 36 ? "long" : ""].join(" ").trim() || null, title: text.length > 36 ? text : null }, item.node ? item.node(run) : text);
      }));
    return mark("table", index, row);
  });
  byId("table").replaceChildren(element("thead", {}, head), element("tbody", {}, body));
  const left = order.length - body.length;
  byId("count").replaceChildren(`${order.length.toLocaleString("en")} of ${count(runs.length, "run")}`, best === null ? "" : `; ★ the best complete one by ${doc.metrics[doc.metric].label}`,
    left > 0 ? element("button", { type: "button", onclick: () => { view.all = true; drawTable(); } }, `show ${left} more`) : "");
}
function tableKeys(event) {
  const row = event.target.closest("tr[data-run]");
  if (!row) return;
  const next = { ArrowDown: row.nextElementSibling, ArrowUp: row.previousElementSibling, Home: row.parentNode.firstChild, End: row.parentNode.lastChild }[event.key];
  if (next) {
    event.preventDefault();
    row.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
    hover(Number(next.dataset.run));
  } else if (event.key === "Enter" || event.key === " ") {
    event.preventDefault();
    select(Number(row.dataset.run), event.shiftKey);
  } else if (event.key === "Escape") selectNames([]);
}

// -- the selected runs -------------------------------------------------------------------------------------------------

function command(text) {
  const box = element("div", { class: "command" }, element("pre", { tabindex: 0 }, element("code", {}, text)));
  if (navigator.clipboard) {
    const button = element("button", { type: "button", onclick: async () => {
      try { await navigator.clipboard.writeText(text); button.textContent = "copied"; } catch { getSelection().selectAllChildren(box.firstChild); }
    } }, "copy");
    box.append(button);
  }
  return box;
}
function configText(run) {
  const own = Object.fromEntries(doc.keys.map((key, index) => [key.key, run.values?.[index] ?? null]));
  const all = { ...doc.constant, ...run.config, ...own };
  return Object.keys(all).sort().map((key) => `${key}: ${all[key] === null ? "null" : valueText(all[key])}`).join("\n");
}
function lazily(title, make) {
  const box = element("details", { ontoggle: () => { if (box.open && box.children.length === 1) box.append(make()); } }, element("summary", {}, title));
  return box;
}
function table(head, rows) {
  return element("div", { class: "scroll" }, element("table", { class: "plain" }, head ? element("thead", {}, element("tr", {}, head.map((text) => element("th", { scope: "col" }, text)))) : "",
    element("tbody", {}, rows.map((cells) => element("tr", {}, cells.map((cell) => element("td", {}, cell)))))));
}
function drawSelected() {
  const chosen = runs.filter((run) => view.selected.includes(run.name)), box = byId("selected");
  if (!chosen.length) { box.replaceChildren(); return; }
  const clear = element("button", { type: "button", onclick: () => selectNames([]) }, "clear selection");
  if (chosen.length > 1) {
    const names = element("span", { class: "soft" }, chosen.slice(0, 20).map((run) => run.name).join(", ") + (chosen.length > 20 ? ", …" : ""));
    box.replaceChildren(element("h3", {}, count(chosen.length, "selected run"), names, clear));
    return;
  }
  const [run] = chosen;
  const facts = [
    run.run_id, run.parent ? `starts from ${run.parent}` : "", run.attempts ? count(run.attempts, "attempt") : "", run.seconds ? duration(run.seconds) : "",
    run.tokens ? `${run.tokens.toLocaleString("en")} tokens` : "", run.peak_memory_mb ? `${Math.round(run.peak_memory_mb)} MiB at most` : "",
    run.node ? `on ${run.node}` : "", run.gpus ? `GPU ${run.gpus}` : "", run.slurm ? `Slurm job ${run.slurm}` : "",
  ].filter(Boolean).join(" · ");
  const rows = Object.entries(run.final ?? {}).map(([name, value]) => [`${metricLabel(name)}`, element("span", { title: name }, metricText(name, value))]);
  box.replaceChildren(
    element("h3", {}, run.name, element("span", { class: "soft" }, parameters(run)), stateNode(run.state), clear),
    element("p", { class: "note" }, `${run.id ?? ""} · ${facts}`), element("p", { class: "note mono" }, run.path),
    run.message ? element("p", {}, run.message) : "", run.traceback ? lazily("Traceback", () => element("pre", { tabindex: 0 }, run.traceback)) : "",
    lazily("Metrics", () => table(null, rows)), lazily("Config", () => element("pre", { tabindex: 0 }, configText(run))),
    run.command ? lazily("Run it by hand", () => command(run.command)) : "");
}

// -- the rest of the page ----------------------------------------------------------------------------------------------

function runButtons(indices) {
  const list = element("span", { class: "runs" }), add = (items) => items.map((index) => mark("lists", index, element("button", { type: "button", onclick: () => { select(index); byId("selected").scrollIntoView({ block: "nearest" }); } }, runs[index].name)));
  list.append(...add(indices.slice(0, MOST_NAMES)));
  if (indices.length > MOST_NAMES) {
    const more = element("button", { type: "button", onclick: () => more.replaceWith(...add(indices.slice(MOST_NAMES))) }, `and ${indices.length - MOST_NAMES} more`);
    list.append(more);
  }
  return list;
}
function failures() {
  return doc.failures.map((group) => element("div", { class: "failure" },
    element("div", {}, element("strong", {}, count(group.runs.length, "run")), " ", stateNode(group.state), `: ${group.says}`),
    Object.keys(group.parameters).length ? element("div", { class: "note" }, `all of them have ${Object.entries(group.parameters).map(([key, value]) => `${key}=${value}`).join(", ")}`) : "",
    element("div", {}, runButtons(group.runs))));
}
function tree() {
  const children = (parent, stage) => runs.map((run, index) => [run, index]).filter(([run]) => (run.parent ?? "") === parent && run.stage === stage);
  const line = ([run, index]) => element("li", {}, mark("tree", index, element("span", {}, element("button", { type: "button", onclick: () => select(index) }, run.name), " ", element("span", { class: "soft" }, parameters(run)), " ", stateNode(run.state),
    finite(run.final?.[doc.metric]) ? ` ${doc.metrics[doc.metric].label} ${metricText(doc.metric, run.final[doc.metric])}` : "")), below(run.name));
  const group = (stage, items) => {
    const done = items.filter(([run]) => run.state === DONE).length;
    return element("li", {}, element("strong", {}, stage.name), " ", element("progress", { max: items.length, value: done, "aria-label": `${stage.name}: ${done} of ${items.length} done` }),
      ` ${done}/${items.length} `, element("span", { class: "soft" }, stage.from ? `from ${stage.from}` : ""), element("ul", {}, items.slice(0, MOST_TREE).map(line)), items.length > MOST_TREE ? `and ${items.length - MOST_TREE} more` : "");
  };
  const below = (parent) => {
    const groups = doc.stages.map((stage) => [stage, children(parent, stage.name)]).filter(([, items]) => items.length).map(([stage, items]) => group(stage, items));
    return groups.length ? element("ul", {}, groups) : "";
  };
  const list = below("");
  if (list) list.className = "tree";
  return [list || element("p", {}, "no runs")];
}
function configuration() {
  const others = unique(runs.flatMap((run) => Object.keys(run.config ?? {})));
  const valuesOf = (values) => {
    const found = unique(values.filter((value) => value !== null && value !== undefined)).sort(compare).map(valueText);
    return found.slice(0, 16).join(", ") + (found.length > 16 ? `, … (${found.length} values)` : "");
  };
  const swept = doc.keys.map((key, index) => [element("code", {}, key.key), valuesOf(runs.map((run) => run.values?.[index]))]);
  const constant = Object.keys(doc.constant).sort();
  return [
    swept.length ? table(["key", "values"], swept) : element("p", {}, "All runs have the same config."),
    others.length ? lazily(`Other keys that differ (${others.length})`, () => table(["key", "values"], others.map((key) => [element("code", {}, key), valuesOf(runs.map((run) => run.config?.[key]))]))) : "",
    lazily(`What all runs share (${count(constant.length, "key")})`, () => element("pre", { tabindex: 0 }, constant.map((key) => `${key}: ${doc.constant[key] === null ? "null" : valueText(doc.constant[key])}`).join("\n"))),
    element("p", { class: "note" }, "The whole config of a run is shown where it is selected."),
  ];
}
function cost() {
  const { begin, end, seconds, gpu_seconds, attempts, free } = doc.cost;
  const rows = [["first start", begin === null ? "–" : moment(begin)], ["last end", end === null ? "–" : moment(end)], ["wall time", begin === null ? "–" : duration(end - begin)],
    ["time of all runs", `${duration(seconds)}, ${count(attempts, "attempt")}`],
    ["GPU-hours", gpu_seconds ? (gpu_seconds / 3600).toPrecision(3) : "none: the runs were on CPUs alone"],
    free && doc.is_sweep ? ["made elsewhere", `${count(free, "run")} had been completed outside this sweep, and cost it nothing`] : null].filter(Boolean);
  return table(null, rows);
}
function origin() {
  const values = (row) => row.values.slice(0, 30).map(([value, names]) => element("div", {}, element("span", { class: row.name.startsWith("git") || row.name.startsWith("code") ? "mono" : null }, value),
    names ? element("span", { class: "soft" }, ` ${count(names.length, "run")}: ${names.slice(0, 6).join(", ")}${names.length > 6 ? ", …" : ""}`) : ""));
  const versions = Object.entries(doc.origin.packages).map(([name, version]) => `${name} ${version}`).join(", ");
  const more = Object.entries(doc.origin.more_packages);
  return [table(null, [...doc.origin.rows.map((row) => [row.name, values(row)]), ...doc.origin.differing.map((row) => [row.name, values(row)]), versions ? ["packages", versions] : null].filter(Boolean)),
    more.length ? lazily(`All other packages (${more.length})`, () => element("pre", { tabindex: 0 }, more.map(([name, version]) => `${name}==${version}`).join("\n"))) : ""];
}
function reproduction() {
  const commit = doc.origin.rows.find((row) => row.name === "git commit")?.values ?? [];
  const hash = commit.length === 1 ? commit[0][0].split(" ")[0] : null, dirty = commit.some(([value]) => value.includes("uncommitted"));
  const commands = runs.filter((run) => run.command);
  return [
    element("p", { class: "note" }, "From the folder that the runs were started in, with gpt-opt installed at the commit and the packages above."),
    /^[0-9a-f]{40}$/.test(hash ?? "") ? [element("h3", {}, "The code"), command(`git checkout ${hash}`)] : "",
    dirty ? element("p", { class: "note" }, "It had uncommitted changes: provenance.diff in the directory of each run, for git apply.") : "",
    doc.commands.submit ? [element("h3", {}, "All runs"), command(doc.commands.submit)] : "",
    doc.commands.file ? lazily(`The sweep file ${doc.commands.name}`, () => element("pre", { tabindex: 0 }, doc.commands.file)) : "",
    commands.length ? [element("h3", {}, "Each run by hand"), lazily(count(commands.length, "command"), () => command(commands.map((run) => `${run.command}  # ${run.name}`).join("\n")))] : "",
  ].flat();
}
function comparison() {
  if (!doc.settings) return [];
  const { columns: names, numbers, rows, lines } = doc.settings;
  const number = (place) => (place >= numbers && place < numbers + 3 ? "number" : null);
  const head = names.map((name, place) => element("th", { scope: "col", class: number(place) }, name));
  const body = rows.map((row) => element("tr", {}, row.map((cell, place) => element("td", { class: number(place) }, cell))));
  return [element("div", { class: "scroll" }, element("table", {}, element("thead", {}, element("tr", {}, head)), element("tbody", {}, body))),
    ...lines.map((line) => element("p", { class: "note" }, line))];
}
function facts() {
  const counts = Object.entries(Object.groupBy(runs, (run) => run.state)).map(([state, items]) => [state, items.length]);
  const done = runs.filter((run) => run.state === DONE).length, best = bestRun(), { begin, end, seconds, gpu_seconds } = doc.cost;
  const eta = doc.progress.eta_s ? `about ${duration(doc.progress.eta_s)} left` : "";
  const items = [
    ["runs complete", `${done} of ${runs.length}`, counts.filter(([state]) => state !== DONE).map(([state, number]) => `${number} ${state}`).join(", ")],
    doc.is_over ? null : ["progress", `${Math.floor(100 * (doc.progress.fraction ?? done / Math.max(1, runs.length)))} %`, eta],
    best === null ? null : [`best ${doc.metrics[doc.metric].label}`, metricText(doc.metric, runs[best].final[doc.metric]), [runs[best].name, parameters(runs[best])].filter(Boolean).join(", ")],
    begin === null ? null : ["wall time", duration(end - begin), `from ${moment(begin)}`],
    gpu_seconds ? ["GPU-hours", (gpu_seconds / 3600).toPrecision(3), `${duration(seconds)} of runs`] : ["time of all runs", duration(seconds), "on CPUs alone"],
  ].filter(Boolean);
  byId("facts").append(...items.map(([name, value, more]) => element("div", {}, element("dt", {}, name), element("dd", {}, value, more ? element("small", {}, more) : ""))));
}

// -- controls ----------------------------------------------------------------------------------------------------------

function choice(title, options, current, change) {
  const select = element("select", { onchange: () => { change(select.value); refresh(); } }, options.map(([value, text]) => element("option", { value, selected: value === current }, text)));
  return element("label", {}, title, select);
}
function tools() {
  const search = element("input", { type: "search", id: "filter", value: view.text, placeholder: "beta=0.1 failed", oninput: () => { view.text = search.value; refresh(); } });
  const states = unique(runs.map((run) => run.state)).sort();
  const chips = states.map((state) => {
    const chip = element("button", { type: "button", class: `state ${state}`, "aria-pressed": String(!view.hidden.includes(state)), onclick: () => {
      view.hidden = view.hidden.includes(state) ? view.hidden.filter((item) => item !== state) : [...view.hidden, state];
      chip.setAttribute("aria-pressed", String(!view.hidden.includes(state)));
      refresh();
    } }, `${SIGNS[state] ?? "?"} ${state} ${runs.filter((run) => run.state === state).length}`);
    return chip;
  });
  const log = element("input", { type: "checkbox", id: "log", onchange: () => { view.logY = log.checked; refresh(); } });
  log.checked = view.logY;
  const names = Object.keys(doc.metrics).map((name) => [name, doc.metrics[name].label === name ? name : `${doc.metrics[name].label} · ${name}`]);
  return [
    element("div", { class: "tools", role: "group", "aria-label": "Which runs are shown" }, element("label", {}, "filter by text", search),
      doc.stages.length ? choice("stage", [["", "all stages"], ...doc.stages.map((stage) => [stage.name, stage.name])], view.stage, (value) => { view.stage = value; }) : "",
      element("label", {}, "states", element("span", { class: "chips", role: "group", "aria-label": "States that are shown" }, chips))),
    element("div", { class: "tools", role: "group", "aria-label": "What the figures show" },
      choice("metric", names, view.metric, (value) => { view.metric = value; }),
      choice("over", [["step", "step"], ["tokens", "tokens"], ["time", "time"]], view.axis, (value) => { view.axis = value; }),
      choice("coloured by", colourChoices(), view.colour, (value) => { view.colour = value; }),
      choice("smoothed", [["0", "not"], ["0.6", "a little"], ["0.9", "much"]], String(view.smooth), (value) => { view.smooth = Number(value); }),
      element("label", { class: "check" }, log, "log values")),
  ];
}
function drawFigures() {
  const looks = colouring();
  leave();
  drawCurves(byId("curves"), looks);
  drawParameters(byId("parameters"), looks);
  drawParallel(byId("parallel"), looks);
}
function refresh() {
  filter();
  drawFigures();
  drawTable();
}
function themes() {
  const button = byId("theme"), names = { auto: "Theme: as the system", light: "Theme: light", dark: "Theme: dark" }, order = Object.keys(names);
  let current = stored(localStorage, "gptopt report theme") ?? "auto";
  const apply = () => {
    if (current === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = current;
    button.textContent = names[current];
  };
  button.addEventListener("click", () => {
    current = order[(order.indexOf(current) + 1) % order.length];
    store(localStorage, "gptopt report theme", current);
    apply();
    drawFigures();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawFigures);
  apply();
}
// A page that is written again and again says how old it is, and loads itself anew where it stands.
function ageing() {
  const box = byId("age"), button = byId("reload");
  const tell = () => {
    const seconds = Math.max(0, Date.now() / 1000 - doc.written);
    const still = doc.is_over ? "" : doc.every_s ? `, written every ${duration(doc.every_s)}` : ", runs were not over";
    box.textContent = doc.is_over ? `written ${moment(doc.written)}` : `written ${duration(seconds)} ago${still}`;
  };
  const reload = () => { view.scroll = scrollY; store(sessionStorage, KEY, view); location.reload(); };
  tell();
  addEventListener("pagehide", () => { view.scroll = scrollY; store(sessionStorage, KEY, view); });
  if (doc.is_over) return;
  button.hidden = false;
  button.addEventListener("click", reload);
  setInterval(tell, 1000);
  if (!doc.every_s) return;
  const again = element("input", { type: "checkbox", onchange: () => { view.reloads = again.checked; } });
  again.checked = view.reloads;
  button.before(element("label", {}, again, " reload by itself"));
  setInterval(() => { if (view.reloads && !document.hidden && document.activeElement?.tagName !== "INPUT" && getSelection().isCollapsed) reload(); }, 1000 * Math.max(5, doc.every_s));
}
function section(id, title, children) {
  if (!children.length) return;
  byId("contents").append(element("a", { href: `#${id}` }, title));
  byId("main").append(element("section", { id, "aria-labelledby": `${id}-title` }, element("h2", { id: `${id}-title` }, title), children));
}
function build() {
  facts();
  section("stages", "Stages", doc.stages.length ? tree() : []);
  section("failures", "Failures", failures());
  section("comparison", "Comparison", comparison());
  section("runs", "Runs", [...tools(), element("div", { class: "figures" }, element("figure", { id: "curves" }), element("figure", { id: "parameters" }), element("figure", { id: "parallel", class: "wide" })),
    element("div", { id: "selected", class: "selected-run" }), element("div", { class: "scroll", role: "region", "aria-label": "Table of runs", tabindex: -1 }, element("table", { id: "table" })), element("p", { class: "note", id: "count", role: "status" })]);
  section("configuration", "Configuration", configuration());
  section("cost", "Cost", [cost()]);
  section("provenance", "Provenance", origin());
  section("reproduce", "Reproduce", reproduction());
  section("notes", "Notes", doc.notes.length ? [element("ul", {}, doc.notes.slice(0, 200).map((line) => element("li", {}, line)))] : []);
  const rows = byId("table");
  rows.addEventListener("click", (event) => { const row = event.target.closest("tr[data-run]"); if (row) select(Number(row.dataset.run), event.shiftKey || event.ctrlKey || event.metaKey); });
  rows.addEventListener("pointerover", (event) => { const row = event.target.closest("tr[data-run]"); hover(row ? Number(row.dataset.run) : null); });
  rows.addEventListener("pointerleave", leave);
  rows.addEventListener("keydown", tableKeys);
  themes();
  refresh();
  drawSelected();
  ageing();
  let width = innerWidth;
  addEventListener("resize", () => { if (innerWidth !== width) { width = innerWidth; requestAnimationFrame(drawFigures); } });
  if (view.scroll && !location.hash) requestAnimationFrame(() => scrollTo(0, view.scroll));
}
build();
