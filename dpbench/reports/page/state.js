"use strict";
// What all parts of the page use: the data, what the reader has chosen, which is in the address, and elements.
const data = JSON.parse(document.getElementById("data").textContent);
const get = id => document.getElementById(id);

// Names come from plug-ins, so text is only ever set as text.
function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== false && value != null) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(2).filter(child => child != null && child !== "" && child !== false));
  return element;
}
const h = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
const s = (tag, attributes = {}, ...children) => fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
const badge = (text, kind, title) => h("span", {class: "badge " + kind, title}, text);
const known = x => x != null && Number.isFinite(x);
const fixed = (x, digits) => known(x) ? x.toFixed(digits).replace("-", "−") : "–";
const signed = (x, digits) => (x > 0 ? "+" : "") + fixed(x, digits);
const plusMinus = (x, digits = 2) => known(x) ? " ± " + x.toFixed(digits) : "";
const gapText = (mean, half) => {  // in digits that show whether the interval leaves out 0
  const digits = [2, 3, 4].find(d => !known(half) || (Math.abs(mean.toFixed(d)) > +half.toFixed(d)) === (Math.abs(mean) > half)) ?? 4;
  return signed(mean, digits) + plusMinus(half, digits);
};
const percent = x => known(x) ? 100 * x : null;
const clamp = (x, low, high) => Math.min(high, Math.max(low, x));

const rows = data.rows.map((values, i) => {
  const row = Object.fromEntries(data.columns.map((name, j) => [name, values[j]]));
  const atCost = known(row.control_keep) ? "control" : "uniform_epoch";
  return Object.assign(row, {index: i, runs: data.runs[i], id: data.runs[i][0]?.[1] ?? String(i), curve: data.curves[i], broken: row.diverged + row.failed > 0,
    random: atCost, to_random: row["difference_" + atCost], findings: data.findings.filter(f => f.row === i), group: JSON.stringify([row.dataset, row.model, row.keep])});
});
const byId = new Map(rows.map(row => [row.id, row]));
const plots = data.plots.map(plot => ({...plot, name: `${plot.dataset}, ${plot.model}`, rows: rows.filter(row => row.dataset === plot.dataset && row.model === plot.model)}));
for (const plot of plots) for (const row of plot.rows) row.plot = plot;
const CONTROLS = {full: "all samples in every epoch", full_short: "all samples, fewer epochs", uniform: "random, drawn once", uniform_epoch: "random, drawn anew each epoch"};

// What the reader has chosen. All that is not as at the start is in the address, so that a copied link shows the same.
const START = {tab: "overview", search: "", dataset: "", model: "", keep: "", kind: "", sort: "place", columns: [], weights: [], open: [], chosen: [], run: "",
  plot: "", axis: "cost_with_proxy", intervals: "", "g-dataset": "", "g-model": "", "g-keep": "", "g-method": "", "g-other": "", "g-class": ""};
const state = {};
function readAddress() {
  const asked = location.hash.startsWith("#run-") ? new URLSearchParams({run: location.hash.slice(5)}) : new URLSearchParams(location.hash.slice(1));
  for (const [name, start] of Object.entries(START)) {
    const text = asked.get(name);
    state[name] = text == null ? start : Array.isArray(start) ? text.split(",").filter(Boolean) : text;
  }
  const linked = rows.find(row => row.runs.some(run => run[1] === state.run));  // a link to a run opens its row
  if (!linked) state.run = "";
  else if (!state.open.includes(linked.id)) state.open = [...state.open, linked.id];
  return linked;
}
let writing;
function writeAddress() {
  clearTimeout(writing);
  writing = setTimeout(() => {
    const asked = new URLSearchParams(Object.entries(state).filter(([name, value]) => String(value) !== String(START[name])).map(([name, value]) => [name, String(value)]));
    try { history.replaceState(null, "", "#" + asked); } catch { /* a frame without an address of its own */ }
  }, 60);
}
function change(patch) {
  Object.assign(state, patch);
  writeAddress();
  render();
}
const toggled = (list, value) => list.includes(value) ? list.filter(other => other !== value) : [...list, value];

const TABS = {overview: "Overview", curves: "Curves", samples: "Samples", trust: "Trust and notes"};
const PARTS = {};  // draws each tab's panel; filled by the scripts that follow
function render() {
  for (const name of Object.keys(TABS)) {
    const chosen = name === state.tab, tab = get("tab-" + name);
    get(name).hidden = !chosen;
    tab.setAttribute("aria-selected", String(chosen));
    tab.tabIndex = chosen ? 0 : -1;
  }
  PARTS[state.tab]?.();
}
function moveTab(event) {
  const names = Object.keys(TABS), step = {ArrowRight: 1, ArrowLeft: -1}[event.key];
  if (!step) return;
  const next = names[(names.indexOf(state.tab) + step + names.length) % names.length];
  change({tab: next});
  get("tab-" + next).focus();
}
get("tabs").append(...Object.entries(TABS).map(([name, text]) =>
  h("button", {type: "button", role: "tab", id: "tab-" + name, "aria-controls": name, onclick: () => change({tab: name}), onkeydown: moveTab}, text)));

// A select whose choice is a part of the state.
function choice(id, options, name = id) {
  get(id).replaceChildren(...options.map(([value, text]) => h("option", {value}, text)));
  get(id).addEventListener("change", () => change({[name]: get(id).value}));
}
function showChoice(id, name = id) {
  get(id).value = state[name];
  if (get(id).selectedIndex < 0) get(id).value = state[name] = START[name];
}
