// The table: filters, ranks by weights, columns, and what a row opens to.
const first = text => text.split(" ")[0];
const WORDS = data.words;
function said(row, control) {
  const text = row["verdict_" + control], kind = first(text || "");
  if (!text) return null;
  if (!WORDS[kind]) return [badge(text, "warn")];
  const p = row[`difference_${control}_p`];
  return [h("span", {}, gapText(row["difference_" + control], row[`difference_${control}_ci95`])),
    badge(WORDS[kind], kind === "not" || kind === "no" ? "" : kind, text + (known(p) ? `, corrected p = ${p.toPrecision(2)}` : ""))];
}
const against = (row, control) => row.broken ? ["–"] : said(row, control) || [row.method === control ? h("small", {}, "reference") : "–"];
const atCost = row => known(row.control_keep) && !row.broken ? beside(said(row, "control") || ["missing"], `at ${row.control_keep}`) : ["–"];
const beside = ([number, verdict], text) => [number, h("span", {class: "second"}, h("small", {title: "random per epoch at the keep that costs as much"}, text), verdict)];
const toRandom = row => row.random === "control" ? atCost(row) : against(row, "uniform_epoch");
function againstFull(row) {
  const cells = against(row, "full");
  return row.equivalence_full?.startsWith("equivalent") ? [cells[0], badge("= equivalent", "better", `${row.equivalence_full}; ${row.verdict_full}`)] : cells;
}
function bar(row) {  // on the same axis as the picture's
  const [low, high] = row.plot.accuracy, at = x => clamp(100 * (x - low) / (high - low || 1), 0, 100);
  const half = row.accuracy_ci95 || 0, left = at(row.accuracy_mean - half), right = at(row.accuracy_mean + half);
  const mark = row.accuracy_mean < low ? h("em", {title: "further left than this axis goes"}, "‹") : h("b", {style: `left:${at(row.accuracy_mean)}%`});
  return h("span", {class: "bar", "aria-hidden": "true"}, h("i", {style: `left:${left}%;width:${right - left}%`}), mark);
}
const accuracy = row => row.broken ? [badge(row.trouble, "warn")] : known(row.accuracy_mean) ? [h("span", {}, fixed(percent(row.accuracy_mean), 2) + plusMinus(percent(row.accuracy_ci95))), bar(row)] : ["missing"];
function name(row) {
  const button = h("button", {type: "button", "aria-expanded": String(state.open.includes(row.id)), title: row.method}, row.method);
  const notes = row.findings.length ? badge(`${row.findings.length} note${row.findings.length > 1 ? "s" : ""}`, "", row.findings.map(f => `${f.badge}: ${f.text}`).join("\n")) : "";
  return [button, h("small", {}, CONTROLS[row.method] || row.kind, row.trouble ? badge(row.trouble, "warn", row.reason) : "", notes)];
}
function pick(row) {
  const box = h("input", {type: "checkbox", "aria-label": `Show ${row.method} at keep ${row.keep} in the pictures`, title: "Show it in the pictures and curves",
    onchange: () => change({chosen: toggled(state.chosen, row.id)})});
  box.checked = state.chosen.includes(row.id);
  return [box];
}
function rankCell(row) {
  const interval = known(row.rank_low) ? `${fixed(row.rank_low, 0)} to ${fixed(row.rank_high, 0)}` : "";
  const note = weighted ? (row.place !== row.rank && known(row.rank) ? `was ${row.rank}` : "") : interval;
  return [h("span", {}, known(row.place) ? (groups.get(row.group).some(other => other !== row && other.place === row.place) ? "=" : "") + row.place : "–"), h("small", {title: weighted ? "rank by accuracy" : "95 % interval of the rank"}, note)];
}
const plain = (key, {digits, factor} = data.measures[key]) => row => [fixed(known(row[key]) ? factor * row[key] : null, digits)];
const column = (key, more = {}, {label, help, up} = data.measures[key]) => ({key, label, help, down: up, show: plain(key), ...more});
const several = key => new Set(rows.map(row => row[key])).size > 1;
const COLUMNS = [  // `usual` ones are shown at the start
  {key: "pick", label: "", fixed: true, usual: true, show: pick},
  {key: "place", help: "by mean accuracy at this keep; below it the 95 % interval of its true rank", label: "Rank", fixed: true, usual: true, show: rankCell},
  {key: "method", label: "Method", left: true, fixed: true, usual: true, show: name},
  {key: "dataset", label: "Data", left: true, usual: several("dataset") || several("model"), show: row => [row.dataset, h("small", {}, row.model)]},
  {key: "keep", help: "the share of the samples that is asked for in an epoch", label: "Keep", usual: true, show: row => [String(row.keep)]},
  {key: "accuracy_mean", help: "mean ± 95 % interval over seeds, after the last epoch", label: "Accuracy %", usual: true, down: true, show: accuracy},
  {key: "difference_full", help: "paired difference in accuracy points to training on all samples", label: "To full", usual: true, down: true, show: againstFull},
  {key: "to_random", help: "paired difference in accuracy points to random samples, drawn anew each epoch, that cost as much", label: "To random at its cost", usual: true, down: true, show: toRandom},
  column("cost_with_proxy", {usual: true, show: row => [h("span", {}, fixed(row.cost_with_proxy, 2)), known(row.cost) && row.cost_with_proxy - row.cost > .005 ? h("small", {}, `${fixed(row.cost, 2)} without`) : ""]}),
  column("time_total_s", {usual: true, help: data.measures.time_total_s.help + (data.times_reason ? `; ${data.times_reason}` : ""), show: row => [h("span", {}, fixed(row.time_total_s, 1)), known(row.speedup) && row.method !== "full" && !data.times_reason ? h("small", {title: `full training's time over its; by its cost it would be ${fixed(row.speedup_ideal, 1)}`}, row.speedup >= 1 ? `${fixed(row.speedup, 1)}× faster` : `${fixed(1 / row.speedup, 1)}× slower`) : ""]}),
  column("lr", {usual: several("lr"), show: row => [String(row.lr)]}),
  column("weight_decay", {usual: several("weight_decay"), show: row => [String(row.weight_decay)]}),
  column("stability", {usual: rows.some(row => known(row.stability)), show: row => known(row.stability) ? [h("span", {}, `${row.lr_low} to ${row.lr_high}`), h("small", {}, `× ${fixed(row.stability, 0)}`)] : ["–"]}),
  {key: "seeds", label: "Seeds", usual: true, down: true, show: row => [row.diverged + row.failed + row.missing ? `${row.seeds} of ${row.runs.length}` : String(row.seeds)]},
  data.columns.includes("status") && {key: "status", label: "Status", usual: true, left: true, help: "own: made here; self-reported: from a bundle; verified: from a bundle of which a run of this row was made again here and agreed; contradicted: one did not agree", show: row => [row.status]},
  {key: "difference_uniform_epoch", label: "To random per epoch", down: true, show: row => against(row, "uniform_epoch")},
  {key: "difference_uniform", label: "To static random", down: true, show: row => against(row, "uniform")},
  rows.some(row => known(row.control_keep)) && {key: "difference_control", label: "At its cost", down: true, show: atCost},
].filter(Boolean);
const JACCARD = {show: row => [h("span", {}, fixed(row.jaccard_epochs, 3)), known(row.jaccard_epochs_chance) ? h("small", {}, `chance ${fixed(row.jaccard_epochs_chance, 3)}`) : ""]};
for (const [key, {column: listed}] of Object.entries(data.measures)) if (listed && !COLUMNS.some(column => column.key === key)) COLUMNS.push(column(key, key === "jaccard_epochs" ? JACCARD : {}));
const USUAL = COLUMNS.filter(column => column.usual).map(column => column.key);
const shownColumns = () => COLUMNS.filter(({key, fixed}) => fixed || (state.columns.length ? state.columns : USUAL).includes(key));

// Weights: each measure is brought to 0 (worst of its group) to 1 (best); what is not known counts as worst.
const WEIGHTS = [
  {name: "accuracy", value: row => row.accuracy_mean},
  {name: "cost", value: row => known(row.cost_with_proxy) ? -row.cost_with_proxy : null},
  {name: "time", value: row => known(row.time_total_s) ? -row.time_total_s : null},
  {name: "memory", value: row => known(row.peak_memory_mb) ? -row.peak_memory_mb : null},
  {name: "stability", value: row => known(row.accuracy_std) ? -row.accuracy_std : null, title: "small spread of accuracy over seeds"},
];
const EQUAL = WEIGHTS.map((_, i) => i ? 0 : 100);
const sliders = WEIGHTS.map(({name, title}, i) => {
  const output = h("output", {}), input = h("input", {type: "range", min: 0, max: 100, step: 5, id: "weight-" + name, title, oninput: () => {
    const weights = sliders.map(slider => Number(slider.input.value));
    change({weights: String(weights) === String(EQUAL) ? [] : weights, sort: "place"});
  }});
  return {input, output, label: h("label", {for: input.id}, h("span", {}, `${name} `, output), input)};
});
const reset = h("button", {type: "button", onclick: () => change({weights: []})}, "Reset");
get("weights").append(h("p", {class: "soft"}, "The rank is by the weighted sum of these, each from 0, the worst of its keep, to 1, the best."), ...sliders.map(slider => slider.label), reset);

const groups = new Map();
for (const row of rows) groups.set(row.group, [...(groups.get(row.group) || []), row]);
let weighted = false, ranked = "none yet";
function rank() {
  const weights = state.weights.length === WEIGHTS.length ? state.weights.map(Number) : EQUAL;
  sliders.forEach(({input, output}, i) => { input.value = weights[i]; output.textContent = input.value; });
  reset.hidden = !state.weights.length;
  if (ranked === String(weights)) return;
  ranked = String(weights);
  const total = weights.reduce((a, b) => a + b, 0);
  weighted = total > 0 && weights.slice(1).some(weight => weight > 0);
  for (const group of groups.values()) {
    const scores = new Map(group.map(row => [row, 0]));
    WEIGHTS.forEach(({value}, i) => {
      const found = group.map(value).filter(known), low = Math.min(...found), high = Math.max(...found);
      for (const row of group) if (known(value(row))) scores.set(row, scores.get(row) + weights[i] / total * (high > low ? (value(row) - low) / (high - low) : 1));
    });
    const ahead = (a, b) => a.broken !== b.broken ? b.broken : scores.get(a) > scores.get(b) + 1e-12;
    for (const row of group) row.place = !row.seeds ? null : weighted ? 1 + group.filter(other => other.seeds && ahead(other, row)).length : row.rank;
  }
}

const FILTERS = ["dataset", "model", "keep", "kind"];
for (const name of FILTERS) {
  const values = [...new Set(rows.map(row => row[name]))].sort((a, b) => typeof a === "number" ? a - b : a.localeCompare(b));
  choice(name, [["", "all"], ...values.map(value => [String(value), String(value)])]);
  get(name).closest("label").hidden = values.length < 2;
}
get("search").addEventListener("input", () => change({search: get("search").value}));
get("clear").addEventListener("click", () => change({search: "", dataset: "", model: "", keep: "", kind: ""}));
choice("sort", COLUMNS.filter(column => column.label).map(({key, down, label}) => [(down ? "-" : "") + key, label]));
const matches = row => FILTERS.every(name => !state[name] || String(row[name]) === state[name]) && row.method.toLowerCase().includes(state.search.trim().toLowerCase());

[...groups.values()].forEach((group, i) => { for (const row of group) row.part = i; });
function compare(key, down) {
  return (a, b) => {
    if (key === "place" && a.part !== b.part) return a.part - b.part;
    const [x, y] = [a[key], b[key]];
    if ((x == null) !== (y == null)) return x == null ? 1 : -1;  // unknown goes last, whichever way
    const difference = typeof x === "string" ? x.localeCompare(y) : x - y;
    return (down ? -difference : difference) || a.index - b.index;
  };
}

// Lines are made when they are first shown, and anew when the columns or what is in them changes.
const body = document.querySelector("#board tbody");
let made = "", most = innerWidth < 720 ? 30 : 150;  // a browser lays out a few hundred rows at once; a phone has cards
get("more").addEventListener("click", () => { most = Infinity; render(); });
function line(row, columns) {
  if (row.line && row.made === made) return row.line;
  row.made = made;
  row.line = h("tr", {role: "row", onclick: event => { if (!event.target.closest("a, input, label") && !String(getSelection())) toggle(row); }},
    columns.map(({key, label, left, show}) => h("td", {role: "cell", class: [left ? "left" : "", key === "place" ? "rank" : key].join(" ").trim(), "data-label": label}, show(row))));
  return row.line;
}
function toggle(row) { change({open: toggled(state.open, row.id)}); }

function drawTable() {
  rank();
  const columns = shownColumns(), down = state.sort.startsWith("-"), key = state.sort.replace("-", "");
  made = columns.map(column => column.key) + weighted + ranked;
  document.querySelector("#board thead tr").replaceChildren(...columns.map(column => h("th", {scope: "col", role: "columnheader", class: [column.left ? "left" : "", column.key].join(" ").trim(),
    "aria-sort": column.key !== key ? null : down ? "descending" : "ascending"}, column.key === "pick" ? "" : h("button", {type: "button", "data-key": column.key, title: column.help,
    onclick: () => { change({sort: (column.key === key ? !down : column.down) ? "-" + column.key : column.key}); document.querySelector(`[data-key="${column.key}"]`).focus(); }}, column.label))));
  const found = rows.filter(matches).sort(compare(key, down)), shown = found.slice(0, most), focused = document.activeElement, named = coloured();
  let last = null;
  const lines = shown.flatMap(row => {
    const open = state.open.includes(row.id), element = line(row, columns);
    element.classList.toggle("start", key === "place" && row.group !== last);
    element.classList.toggle("open", open);
    element.querySelector("button").setAttribute("aria-expanded", String(open));
    element.querySelector("input").checked = state.chosen.includes(row.id);
    element.style.setProperty("--c", colour(row.method));
    element.classList.toggle("coloured", named.includes(row.method));
    last = row.group;
    return open ? [element, details(row, columns.length)] : [element];
  });
  body.replaceChildren(...lines);
  if (body.contains(focused)) focused.focus({preventScroll: true});
  body.closest(".scroll").classList.toggle("tall", shown.length > 40);  // a longer table scrolls within the page
  get("more").hidden = found.length <= most;
  get("status").textContent = `${found.length} of ${rows.length} rows` + (found.length > most ? `, the first ${most} in the table` : "") + (weighted ? ", ranked by your weights within dataset, model and keep" : "");
  get("clear").hidden = ![...FILTERS, "search"].some(name => state[name]);
  for (const box of get("columns").querySelectorAll("input")) box.checked = columns.some(column => column.key === box.value);
}
get("columns").append(...COLUMNS.filter(column => !column.fixed).map(({key, label}) => h("label", {}, h("input", {type: "checkbox", value: key, onchange: () => {
  const chosen = [...get("columns").querySelectorAll("input:checked")].map(box => box.value), usual = COLUMNS.filter(column => column.usual && !column.fixed).map(column => column.key);
  change({columns: String(chosen) === String(usual) ? [] : chosen.length ? chosen : ["none"]});
}}), label)), h("button", {type: "button", onclick: () => change({columns: []})}, "Usual ones"));

// What a row opens to.
function details(row, width) {
  const runs = h("table", {}, h("tbody", {}, row.runs.map(([seed, hash, status, accuracy, reason]) => h("tr", {},
    h("td", {class: "left"}, `seed ${seed}`), h("td", {class: "left"}, h("a", {href: "#run-" + hash, onclick: event => { event.preventDefault(); change({run: hash}); }}, h("code", {}, hash))),
    h("td", {}, status === "FINISHED" ? fixed(percent(accuracy), 2) : status.toLowerCase()), h("td", {class: "left reason"}, reason)))));
  const facts = Object.entries(data.measures).filter(([key]) => known(row[key])).flatMap(([key, {label, help}]) => [h("dt", {title: help}, label), h("dd", {}, plain(key)(row))]);
  const linked = row.runs.some(run => run[1] === state.run);
  const go = hasPictures(row) ? h("button", {type: "button", onclick: () => { showSamples(row); scrollTo(0, 0); }}, "Which samples it used and dropped") : null;
  const curves = row.curve.accuracy ? h("button", {type: "button", onclick: () => { change({tab: "curves", chosen: [...new Set([...state.chosen, row.id])]}); scrollTo(0, 0); }}, "Its curves beside others") : null;
  return h("tr", {class: "detail", role: "row"}, h("td", {colspan: width, role: "cell"}, h("div", {class: "columns"},
    h("div", {}, h("p", {class: "actions"}, go, curves),
      row.findings.length ? [h("h3", {}, "Notes"), h("ul", {}, row.findings.map(f => h("li", {}, badge(f.badge, ""), f.text)))] : null,
      h("h3", {}, "Runs: a hash shows its configuration"), runs, linked ? h("pre", {}, config(row, state.run)) : null,
      row.curve.accuracy?.[1].length > 1 ? h("div", {class: "small-chart"}, h("h3", {}, "Test accuracy by epoch, %"), curveChart([row], "accuracy", 480, 180)) : null),
    h("div", {}, h("h3", {}, "More measures"), h("dl", {}, facts)))));
}
function config(row, hash) {
  const [seed, , , , , setting] = row.runs.find(run => run[1] === hash), {dataset, model, method, keep} = row;
  return JSON.stringify({hash, dataset, model, method, keep, seed, ...data.settings[setting]}, null, 2);
}
