"use strict";
// The document, what of it is shown, and how values, states and colours look.
// Whatever the document holds becomes text nodes and attributes, never markup.

const doc = JSON.parse(document.getElementById("data").textContent);
const runs = doc.runs;
const DONE = "COMPLETED";
const FEW = 40; // lines that have dashes and ends of their own; more are thin and pale

const byId = (id) => document.getElementById(id);
const finite = (value) => typeof value === "number" && Number.isFinite(value);
const absent = (value) => value === null || value === undefined;
const unique = (items) => [...new Set(items)];

function filled(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (absent(value) || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => !absent(child) && child !== ""));
  return node;
}
function element(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}
const note = (text) => element("p", { class: "note" }, text);
const addsTo = (event) => event.shiftKey || event.ctrlKey || event.metaKey;
function svg(tag, attributes = {}, ...children) {
  return filled(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

// -- what is shown, kept over a reload --------------------------------------------------------------------------------

const KEY = `gptopt report ${location.pathname} ${doc.title}`;
const view = {
  metric: doc.metric, axis: "step", colour: "", smooth: 0, log: false, text: "", stage: "", hidden: [],
  sort: null, down: false, selected: [], all: false, reloads: true, at: null,
};
function stored(where, name) {
  try { return JSON.parse(window[where].getItem(name)); } catch { return null; } // a browser may forbid it
}
function store(where, name, value) {
  try { window[where].setItem(name, JSON.stringify(value)); } catch { /* then nothing is kept */ }
}
Object.assign(view, stored("sessionStorage", KEY));
if (!(view.metric in doc.metrics)) view.metric = Object.keys(doc.metrics)[0] ?? doc.metric;

let visible = []; // indices of the runs that filters let through
const valueOf = (run, key) => run.values?.[doc.keys.indexOf(key)] ?? null;
const resultOf = (run) => run.final?.[view.metric] ?? null;
const haystacks = runs.map((run) => [
  ...[run.name, run.id, run.state, run.stage, run.path, run.node, run.message],
  ...doc.keys.flatMap((key) => [key.name, key.key].map((name) => `${name}=${valueText(valueOf(run, key))}`)),
].join(" ").toLowerCase());

function filterRuns() {
  const words = view.text.toLowerCase().split(/\s+/).filter(Boolean);
  const shown = (run, index) => !view.hidden.includes(run.state) && (!view.stage || run.stage === view.stage)
    && words.every((word) => haystacks[index].includes(word));
  visible = runs.flatMap((run, index) => (shown(run, index) ? [index] : []));
}

// -- texts ------------------------------------------------------------------------------------------------------------

function numberText(value, digits = 6) {
  const size = Math.abs(value), rounded = Number(value.toPrecision(digits));
  return value === 0 || (size >= 1e-4 && size < 1e5) ? String(rounded) : rounded.toExponential().replace("e+", "e");
}
function valueText(value) {
  return absent(value) ? "–" : typeof value === "number" ? numberText(value) : String(value);
}
function metricText(name, value) {
  if (!finite(value)) return value ?? "–";
  const [, digits, kind] = /\.(\d+)([efg%])/.exec(doc.metrics[name].form);
  if (kind === "%") return `${(100 * value).toFixed(digits)}%`;
  if (kind === "e" || (kind === "f" && digits === "4" && Math.abs(value) >= 1e4)) return value.toExponential(3);
  return kind === "g" ? numberText(value, Number(digits)) : value.toFixed(digits);
}
function metricLabel(name) {
  const { label, unit } = doc.metrics[name] ?? { label: name };
  return unit ? `${label} (${unit})` : label;
}
function metricTick(value) {
  return doc.metrics[view.metric]?.form.endsWith("%") ? `${numberText(100 * value, 4)}%` : numberText(value, 5);
}
function duration(seconds) {
  if (seconds < 90) return `${seconds.toFixed(0)} s`;
  return seconds < 5400 ? `${(seconds / 60).toFixed(0)} min` : `${(seconds / 3600).toFixed(1)} h`;
}
const count = (number, noun) => `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;
const clipped = (text, most) => (text.length > most ? `${text.slice(0, Math.max(2, most - 1))}…` : text);
function parameters(run) {
  const known = doc.keys.filter((key) => valueOf(run, key) !== null);
  return known.map((key) => `${key.name}=${valueText(valueOf(run, key))}`).join(", ");
}
function compare(a, b) {
  if (finite(a) && finite(b)) return a - b;
  if (finite(a) !== finite(b)) return finite(a) ? -1 : 1;
  return String(a).localeCompare(String(b), "en", { numeric: true });
}

// -- what stands for a run lights up together -------------------------------------------------------------------------

const marks = new Map(); // part of the page -> index of a run -> elements
let hovered = null;

function mark(part, run, node) {
  if (!marks.has(part)) marks.set(part, new Map());
  const nodes = marks.get(part);
  nodes.set(run, [...(nodes.get(run) ?? []), node]);
  node.classList.add("m");
  node.classList.toggle("selected", view.selected.includes(runs[run].name));
  return node;
}
function forget(prefix) {
  [...marks.keys()].filter((part) => part.startsWith(prefix)).forEach((part) => marks.delete(part));
}
const nodesOf = (run) => [...marks.values()].flatMap((nodes) => nodes.get(run) ?? []);

function hover(run) {
  if (run === hovered) return;
  if (hovered !== null) nodesOf(hovered).forEach((node) => node.classList.remove("hovered"));
  hovered = run;
  if (run === null) return;
  for (const node of nodesOf(run)) {
    node.classList.add("hovered");
    toFront(node);
  }
}
function toFront(node) {
  if (node instanceof SVGElement && node !== node.parentNode.lastChild) node.parentNode.append(node);
}
function select(run, more) {
  const { name } = runs[run], others = view.selected.filter((item) => item !== name);
  const had = others.length < view.selected.length;
  selectNames(more ? (had ? others : [...others, name]) : had && !others.length ? [] : [name]);
}
function selectNames(names) {
  view.selected = names;
  for (const [index, run] of runs.entries()) {
    for (const node of nodesOf(index)) {
      node.classList.toggle("selected", names.includes(run.name));
      if (node.tagName === "TR") node.setAttribute("aria-selected", names.includes(run.name));
      else if (names.includes(run.name)) toFront(node);
    }
  }
  document.querySelectorAll("svg.plot").forEach((plot) => plot.classList.toggle("chosen", names.length > 0));
  drawSelected();
  byId("live").textContent = names.length ? `selected: ${names.join(", ")}` : "nothing is selected";
}
function showTip(run, lines, x, y) {
  const tip = byId("tip");
  const texts = [parameters(runs[run]), ...lines].filter(Boolean).map((line) => element("div", {}, line));
  tip.replaceChildren(element("strong", {}, runs[run].name), ...texts);
  tip.hidden = false;
  const { width, height } = tip.getBoundingClientRect();
  tip.style.left = `${x + 14 + width > innerWidth ? Math.max(4, x - 14 - width) : x + 14}px`;
  tip.style.top = `${Math.max(4, Math.min(y + 14, innerHeight - height - 4))}px`;
}
function leave() {
  hover(null);
  byId("tip").hidden = true;
}

// -- colours: safe for the colour-blind; numbers by lightness, others also by dashes, so that grey tells them apart ----

const VIRIDIS = [[68, 1, 84], [72, 40, 120], [62, 73, 137], [49, 104, 142], [38, 130, 142], [31, 158, 137], [53, 183, 121],
  [110, 206, 88], [181, 222, 43], [253, 231, 37]];
const HUES = {
  light: ["#0072b2", "#d55e00", "#00805d", "#b04a86", "#8c6d00", "#3b8ec2", "#555555", "#6a3fa0"],
  dark: ["#56b4e9", "#ff9e4a", "#2fd0a0", "#f0a3cc", "#e6c229", "#8fb8ff", "#c3c8d1", "#c79bff"],
};
const DASHES = ["", "7 3", "2 2.5", "9 3 2 3", "13 4", "5 2 1.5 2 1.5 2", "1.5 4", "14 3 4 3"];
const NONE = { colour: "#8a93a3", dash: "1 3" };

function isDark() {
  const { theme } = document.documentElement.dataset;
  if (matchMedia("print").matches) return false;
  return theme ? theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}
function along(part) {
  const place = (isDark() ? 0.3 + 0.7 * part : 0.74 * part) * (VIRIDIS.length - 1);
  const low = Math.min(VIRIDIS.length - 2, Math.floor(place)), rest = place - low;
  return `rgb(${VIRIDIS[low].map((channel, i) => Math.round(channel + rest * (VIRIDIS[low + 1][i] - channel))).join(" ")})`;
}
function colourChoices() {
  const staged = doc.stages.length ? [["stage", "stage"]] : [];
  const keys = doc.keys.map((key) => [key.key, key.name]);
  return [...keys, ...staged, ["state", "state"], ["result", "the metric"], ["name", "run"]];
}
// Seeds are chance: they count only where nothing else varies.
function varyingAmong(items) {
  const varying = doc.keys.filter((key) => unique(items.map((run) => valueOf(run, key))).length > 1);
  return varying.length > 1 ? varying.filter((key) => key.key !== "seed") : varying;
}
// Few runs that differ in several ways have a colour each; more have that of the first key in which they differ.
function usualColour() {
  const drawn = visible.map((index) => runs[index]).filter((run) => run.curves[view.metric]);
  const varying = varyingAmong(drawn);
  const several = varying.length > 1 || (varying.length === 1 && unique(drawn.map((run) => run.stage)).length > 1);
  return (several || !varying.length) && drawn.length <= HUES.light.length ? "name" : varying[0]?.key ?? "state";
}
function colouring() {
  const choice = view.colour || usualColour(), key = doc.keys.find((item) => item.key === choice), result = choice === "result";
  const of = (run) => (key ? valueOf(run, key) : result ? resultOf(run) : run[choice] ?? null);
  const text = (value) => (result ? metricText(view.metric, value) : valueText(value));
  const title = key?.name ?? { result: metricLabel(view.metric), name: "run" }[choice] ?? choice;
  const drawn = visible.map((index) => runs[index]).filter((run) => run.curves[view.metric] || finite(resultOf(run)));
  const values = unique(drawn.map(of)).filter((value) => value !== null), hues = HUES[isDark() ? "dark" : "light"];
  if (choice !== "name") values.sort(compare);
  if ((key?.numeric || result) && values.length > hues.length) return shaded(of, values.filter(finite), key?.log, title, text);
  const part = (place) => (values.length > 1 ? place / (values.length - 1) : 0.4);
  const look = (place) => ({ colour: key?.numeric ? along(part(place)) : hues[place % hues.length], dash: DASHES[place % DASHES.length] });
  const places = new Map(values.map((value, place) => [value, place]));
  const entries = values.map((value, place) => {
    const { colour, dash } = look(place), members = drawn.filter((run) => of(run) === value), more = parameters(members[0]);
    const line = { x1: 1, x2: 29, y1: 6, y2: 6, stroke: colour, "stroke-width": 2.5, "stroke-dasharray": dash || null };
    const sample = svg("svg", { viewBox: "0 0 30 12", "aria-hidden": "true" }, svg("line", line));
    const choose = () => selectNames(members.map((run) => run.name));
    return element("button", { type: "button", title: "Select", onclick: choose }, sample,
      choice === "name" && more ? `${value}: ${clipped(more, 50)}` : text(value));
  });
  const legend = element("div", { class: "legend" }, `${title}:`, values.length > FEW ? count(values.length, "value") : entries);
  return { of: (run) => (places.has(of(run)) ? look(places.get(of(run))) : NONE), legend };
}
function shaded(of, numbers, log, title, text) {
  const part = scale(numbers[0], numbers.at(-1), 0, 1, log).at;
  const steps = Array.from({ length: 40 }, (_, i) => svg("rect", { x: i, width: 1.05, height: 1, fill: along(i / 39) }));
  const bar = svg("svg", { class: "bar", viewBox: "0 0 40 1", preserveAspectRatio: "none", "aria-hidden": "true" }, steps);
  const legend = element("div", { class: "legend" }, `${title}: ${text(numbers[0])}`, bar, text(numbers.at(-1)), log ? " (log)" : "");
  return { of: (run) => (finite(of(run)) ? { colour: along(part(of(run))), dash: "" } : NONE), legend };
}
