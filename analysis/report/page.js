// The table of runs, the selected ones, the controls, and how the page starts.

const MOST_ROWS = 1000;

function columns() {
  const measured = (name) => doc.metrics[name] && runs.some((run) => run.final && name in run.final);
  const metrics = unique([view.metric, doc.metric, ...doc.shown]).filter(measured);
  const seconds = (run) => run.seconds ?? run.time_s ?? null;
  const steps = (run) => (run.total_steps ? `${run.step ?? 0}/${run.total_steps}` : valueText(run.step));
  const state = (run) => element("span", { class: `state ${run.state}` }, doc.signs[run.state]);
  return [
    { id: "name", title: "run", of: (run) => run.name },
    { id: "state", title: "state", of: (run) => run.state, node: state },
    doc.stages.length && { id: "stage", title: "stage", of: (run) => run.stage },
    ...doc.keys.map((key) => ({ id: key.key, title: key.name, hint: key.key, number: key.numeric, of: (run) => valueOf(run, key) })),
    ...metrics.map((name) => ({
      id: name, title: doc.metrics[name].label, unit: doc.metrics[name].unit, hint: name, number: true,
      of: (run) => run.final?.[name], text: (run) => metricText(name, run.final?.[name]),
    })),
    { id: "step", title: "steps", number: true, of: (run) => run.step, text: steps },
    { id: "seconds", title: "time", number: true, of: seconds, text: (run) => (seconds(run) === null ? "–" : duration(seconds(run))) },
    runs.some((run) => run.attempts > 1) && { id: "attempts", title: "attempts", number: true, of: (run) => run.attempts },
  ].filter(Boolean);
}
function sorted(column) {
  if (!column) return visible;
  const of = (index) => column.of(runs[index]);
  return [...visible].sort((a, b) => {
    if (absent(of(a)) || absent(of(b))) return absent(of(a)) - absent(of(b)) || a - b; // what has no value stands last
    return (view.down ? -1 : 1) * compare(of(a), of(b)) || a - b;
  });
}
function sortBy(id) {
  [view.down, view.sort] = [view.sort === id && !view.down, id];
  drawTable();
  byId("table").querySelector(`[data-column="${CSS.escape(id)}"]`).focus();
}
function headOf({ id, title, unit, hint, number }) {
  const order = view.sort !== id ? "none" : view.down ? "descending" : "ascending";
  const button = element("button", { type: "button", "data-column": id, onclick: () => sortBy(id) }, title);
  const attributes = { scope: "col", class: number ? "number" : null, title: hint, "aria-sort": order };
  return element("th", attributes, button, unit ? element("span", { class: "unit" }, unit) : "");
}
function rowOf(index, shown, first) {
  const run = runs[index], cells = shown.map((column) => {
    const words = column.text ? column.text(run) : valueText(column.of(run)), long = words.length > 36;
    const attributes = { class: column.number ? "number" : long ? "long" : null, title: long ? words : null };
    return element("td", attributes, column.node ? column.node(run) : words);
  });
  const chosen = String(view.selected.includes(run.name)), best = index === doc.best ? "best" : null;
  return element("tr", { "data-run": index, tabindex: first ? 0 : -1, "aria-selected": chosen, class: best }, cells);
}
function drawTable() {
  forget("table");
  const shown = columns(), order = sorted(shown.find((column) => column.id === view.sort));
  const rows = order.slice(0, view.all ? Infinity : MOST_ROWS).map((index, place) => mark("table", index, rowOf(index, shown, !place)));
  byId("table").replaceChildren(element("thead", {}, element("tr", {}, shown.map(headOf))), element("tbody", {}, rows));
  const showAll = () => { view.all = true; drawTable(); };
  const more = element("button", { type: "button", onclick: showAll }, `show ${order.length - rows.length} more`);
  const best = absent(doc.best) ? "" : `; ★ the best complete one by ${doc.metrics[doc.metric].label}`;
  const number = `${order.length.toLocaleString("en")} of ${count(runs.length, "run")}${best} `;
  byId("count").replaceChildren(number, rows.length < order.length ? more : "");
}
function tableKeys(event) {
  const row = event.target.closest("tr[data-run]");
  if (!row) return;
  const { nextElementSibling: after, previousElementSibling: before, parentNode: body } = row;
  const next = { ArrowDown: after, ArrowUp: before, Home: body.firstChild, End: body.lastChild }[event.key];
  if (next) {
    [row.tabIndex, next.tabIndex] = [-1, 0];
    next.focus();
    hover(Number(next.dataset.run));
  } else if (event.key === "Enter" || event.key === " ") select(Number(row.dataset.run), event.shiftKey);
  else if (event.key === "Escape") selectNames([]);
  else return;
  event.preventDefault();
}

// -- the selected runs ------------------------------------------------------------------------------------------------

function copyable(box) {
  const button = element("button", { type: "button", onclick: async () => {
    try {
      await navigator.clipboard.writeText(box.querySelector("code").textContent);
      button.textContent = "copied";
    } catch { getSelection().selectAllChildren(box.firstChild); } // where a browser forbids it, Ctrl-C does
  } }, "copy");
  box.append(button);
  return box;
}
const text = (content) => element("pre", { tabindex: 0 }, content);
function lazily(title, make) {
  const fill = () => { if (box.children.length === 1) box.append(make()); };
  const box = element("details", { ontoggle: fill }, element("summary", { onclick: fill }, title));
  return box;
}
function configText(run) {
  const varying = Object.fromEntries(doc.keys.map((key) => [key.key, valueOf(run, key)]));
  const all = Object.entries({ ...doc.constant, ...run.config, ...varying }).sort(([a], [b]) => compare(a, b));
  return all.map(([key, value]) => `${key}: ${value === null ? "null" : valueText(value)}`).join("\n");
}
function drawSelected() {
  const chosen = runs.filter((run) => view.selected.includes(run.name)), names = clipped(chosen.map((run) => run.name).join(", "), 300);
  const clear = element("button", { type: "button", onclick: () => selectNames([]) }, "clear selection");
  const title = element("h3", {}, count(chosen.length, "selected run"), element("span", { class: "soft" }, names), clear);
  byId("selected").replaceChildren(...(chosen.length > 1 ? [title] : chosen.length ? described(chosen[0], clear) : []));
}
function described(run, clear) {
  const facts = [
    run.id, run.parent && `starts from ${run.parent}`, run.attempts && count(run.attempts, "attempt"), run.seconds && duration(run.seconds),
    run.tokens && count(run.tokens, "token"), run.peak_memory_mb && `${Math.round(run.peak_memory_mb)} MiB at most`,
    run.node && `on ${run.node}`, run.gpus && `GPU ${run.gpus}`, run.slurm && `Slurm job ${run.slurm}`,
  ].filter(Boolean).join(" · ");
  const metrics = Object.entries(run.final ?? {}).map(([name, value]) => `${name}: ${metricText(name, value)} ${doc.metrics[name].unit}`);
  const byHand = () => copyable(element("div", { class: "command" }, element("pre", { tabindex: 0 }, element("code", {}, run.command))));
  const state = element("span", { class: `state ${run.state}` }, doc.signs[run.state]);
  return [
    element("h3", {}, run.name, element("span", { class: "soft" }, parameters(run)), state, clear),
    note(facts), element("p", { class: "note mono" }, run.path), run.message ? element("p", {}, run.message) : "",
    run.traceback ? lazily("Traceback", () => text(run.traceback)) : "",
    metrics.length ? lazily("Metrics", () => text(metrics.join("\n"))) : "",
    lazily("Config", () => text(configText(run))), run.command ? lazily("Run it by hand", byHand) : "",
  ].filter(Boolean);
}

// -- controls ---------------------------------------------------------------------------------------------------------

function fillSelect(id, options, take = (value) => value) {
  const select = byId(id);
  select.append(...options.map(([value, name]) => element("option", { value, selected: String(value) === String(view[id]) }, name)));
  select.addEventListener("change", () => { view[id] = take(select.value); refresh(); });
}
function fillTools() {
  const words = byId("text"), log = byId("log");
  words.value = view.text;
  let waiting = 0;
  words.addEventListener("input", () => {
    view.text = words.value;
    clearTimeout(waiting);
    if (runs.length < 200) refresh();
    else waiting = setTimeout(refresh, 250); // not at every letter
  });
  log.checked = view.log;
  log.addEventListener("change", () => { view.log = log.checked; refresh(); });
  byId("states").append(...unique(runs.map((run) => run.state)).sort().map((state) => {
    const shown = () => String(!view.hidden.includes(state));
    const chip = element("button", { type: "button", class: `state ${state}`, "aria-pressed": shown(), onclick: () => {
      view.hidden = view.hidden.includes(state) ? view.hidden.filter((item) => item !== state) : [...view.hidden, state];
      chip.setAttribute("aria-pressed", shown());
      refresh();
    } }, `${doc.signs[state]} ${runs.filter((run) => run.state === state).length}`);
    return chip;
  }));
  byId("stage-label").hidden = !doc.stages.length;
  fillSelect("stage", [["", "all stages"], ...doc.stages.map((name) => [name, name])]);
  const metrics = Object.entries(doc.metrics).map(([name, item]) => [name, item.label === name ? name : `${item.label} (${name})`]);
  fillSelect("metric", metrics);
  fillSelect("axis", Object.keys(AXES).map((name) => [name, name]));
  fillSelect("colour", [["", "what varies"], ...colourChoices()]);
  fillSelect("smooth", [[0, "not"], [0.6, "a little"], [0.9, "much"]], Number);
}
function refresh() {
  filterRuns();
  drawFigures();
  drawTable();
}
// Names of runs in the text of the page and rows of the table select a run, and light up with it.
function followRuns() {
  const main = document.querySelector("main"), nodeOf = (event) => event.target.closest?.("tr[data-run], button[data-run]");
  main.querySelectorAll("button[data-run]").forEach((button) => mark("text", Number(button.dataset.run), button));
  main.addEventListener("click", (event) => {
    const node = nodeOf(event);
    if (!node) return;
    select(Number(node.dataset.run), addsTo(event));
    if (node.tagName === "BUTTON") byId("selected").scrollIntoView({ block: "center" });
  });
  main.addEventListener("pointerover", (event) => {
    const node = nodeOf(event);
    if (node) hover(Number(node.dataset.run));
    else if (!event.target.closest?.("svg.plot")) leave();
  });
  byId("table").addEventListener("keydown", tableKeys);
}
function themes() {
  const button = byId("theme"), names = { auto: "theme: as the system", light: "theme: light", dark: "theme: dark" };
  const order = Object.keys(names);
  let current = stored("localStorage", "gptopt report theme") ?? "auto";
  const apply = () => {
    if (current === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = current;
    button.textContent = names[current];
  };
  button.addEventListener("click", () => {
    current = order[(order.indexOf(current) + 1) % order.length];
    store("localStorage", "gptopt report theme", current);
    apply();
    drawFigures();
  });
  for (const media of ["(prefers-color-scheme: dark)", "print"]) matchMedia(media).addEventListener("change", drawFigures);
  apply();
}
const topOf = (id) => byId(id).getBoundingClientRect().top;
// A report of runs that go on says how old it is; one that is written again loads itself anew, and stays where it is.
function ageing() {
  const age = byId("age"), button = byId("reload");
  const keep = () => {
    const sections = [...document.querySelectorAll("section")].map(({ id }) => [id, topOf(id)]);
    view.at = sections.filter(([, top]) => top < innerHeight / 2).at(-1) ?? null; // what is above may be longer by then
    store("sessionStorage", KEY, view);
  };
  const reload = () => { keep(); location.reload(); };
  const tell = () => {
    const again = doc.every_s ? `, again every ${duration(doc.every_s)}` : ", while runs went on";
    age.textContent = `written ${duration(Math.max(0, Date.now() / 1000 - doc.written))} ago${again}`;
  };
  addEventListener("pagehide", keep);
  if (doc.is_over) {
    age.textContent = `written ${new Date(1000 * doc.written).toISOString().slice(0, 16).replace("T", " ")} UTC`;
    return;
  }
  button.hidden = false;
  button.addEventListener("click", reload);
  tell();
  setInterval(tell, 1000);
  if (!doc.every_s) return;
  const box = element("input", { type: "checkbox", id: "reloads", onchange: () => { view.reloads = box.checked; } });
  box.checked = view.reloads;
  button.before(element("label", {}, box, " reload by itself"));
  setInterval(() => {
    const busy = document.hidden || document.activeElement?.matches("input[type=search], select") || !getSelection().isCollapsed;
    if (view.reloads && !busy) reload();
  }, 1000 * Math.max(2, doc.every_s));
}
function start() {
  themes();
  fillTools();
  followRuns();
  document.querySelectorAll(".command").forEach(copyable);
  const byHand = byId("by-hand");
  if (byHand) byHand.textContent = runs.filter((run) => run.command).map((run) => `${run.command}  # ${run.name}`).join("\n");
  refresh();
  selectNames(view.selected);
  ageing();
  if (view.at && byId(view.at[0]) && !location.hash) {
    history.scrollRestoration = "manual";
    scrollBy(0, topOf(view.at[0]) - view.at[1]);
  }
  let width = innerWidth;
  addEventListener("resize", () => {
    if (innerWidth === width) return;
    width = innerWidth;
    requestAnimationFrame(drawFigures);
  });
}
start();
