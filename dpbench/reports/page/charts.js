// The pictures: accuracy against what it costs, with the front and the lines to beat; and curves by epoch.
const SLOTS = 8;  // colours, each with a shape of its own
const SHAPES = ["M5 0A5 5 0 1 1-5 0A5 5 0 1 1 5 0Z", "M-4.4-4.4H4.4V4.4H-4.4Z", "M0-6.2L6.2 0L0 6.2L-6.2 0Z", "M0-6L5.6 4.6H-5.6Z", "M0 6L5.6-4.6H-5.6Z",
  "M-2-5.5H2V-2H5.5V2H2V5.5H-2V2H-5.5V-2H-2Z", "M-5.5-3L0-6L5.5-3V3L0 6L-5.5 3Z", "M-6 0L-2-2L0-6L2-2L6 0L2 2L0 6L-2 2Z"];
const CROSS = "M-4.5-3L-3-4.5L0-1.5L3-4.5L4.5-3L1.5 0L4.5 3L3 4.5L0 1.5L-3 4.5L-4.5 3L-1.5 0Z";  // some of its seeds diverged or failed
const AXES = {
  cost_with_proxy: {name: "cost with proxy", text: "cost with proxy, as a share of full training's", unit: ""},
  time_total_s: {name: "wall time", text: "wall time with proxy, s", unit: " s"},
};
const TO_BEAT = {full: "full training", uniform_epoch: "random per epoch"};

let slots = new Map(), slotsOf = "";
function coloured() {  // the methods on or near a front, and chosen ones; the others stay grey
  const plot = currentPlot(), key = plot.name + state.chosen;
  if (slotsOf !== key) {
    const chosen = state.chosen.map(id => byId.get(id)?.method).filter(Boolean);
    const names = [...new Set([...plot.near.slice(0, SLOTS), ...chosen])].filter(method => !(method in CONTROLS));
    [slots, slotsOf] = [new Map(names.map((method, i) => [method, i])), key];
  }
  return [...slots.keys()];
}
let lent = new Map();  // on the curves: the colours of methods that have none in the picture
const colour = method => lent.has(method) ? `var(--c${lent.get(method)})` : slots.has(method) ? `var(--c${slots.get(method) % SLOTS})` : method in TO_BEAT ? "var(--ink)" : "var(--grey)";
const shape = row => row.broken ? CROSS : slots.has(row.method) ? SHAPES[(slots.get(row.method) + Math.floor(slots.get(row.method) / SLOTS)) % SLOTS] : SHAPES[0];
const swatch = method => s("svg", {viewBox: "-7 -7 14 14", width: 14, height: 14, class: "swatch", "aria-hidden": "true"}, s("path", {d: shape({method}), style: `fill:${colour(method)}`}));
const label = row => `${row.method} ${row.keep}`;
const cut = text => { const most = innerWidth < 600 ? 18 : 28; return text.length > most ? text.slice(0, most * .6) + "…" + text.slice(1 - most * .4) : text; };
const shortLabel = row => `${cut(row.method)} ${row.keep}`;

function ticks(low, high, count) {
  const raw = (high - low) / count || 1, power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map(m => m * power).find(x => x >= raw * .999);
  const found = [];
  for (let x = Math.ceil(low / step - 1e-9) * step; x <= high + 1e-9; x += step) found.push(Number(x.toPrecision(6)));
  return found;
}
const pen = document.createElement("canvas").getContext("2d");
const wide = text => { pen.font = "12px system-ui, 'Segoe UI', Roboto, sans-serif"; return pen.measureText(text).width; };
// Labels beside their points: off other labels and points, and off lines where there is room; one that finds none is left out.
const hit = (a, b) => a[0] < b[2] && b[0] < a[2] && a[1] < b[3] && b[1] < a[3];
const AWAY = [9, 20, 34, 50].flatMap(far => [[1, -.4], [1, .6], [-1, -.4], [-1, .6], [0, -1], [0, 1], [.5, -1], [.5, 1.2], [-.5, -1], [-.5, 1.2]].map(([dx, dy]) => [far, dx, dy]));
function place(wanted, points, lines, box) {
  const taken = points.map(({x, y}) => [x - 6, y - 6, x + 6, y + 6]);
  const along = lines.flatMap(([x1, y1, x2, y2]) => { const n = Math.ceil(Math.hypot(x2 - x1, y2 - y1) / 8); return Array.from({length: n + 1}, (_, i) => [x1 + (x2 - x1) * i / (n || 1), y1 + (y2 - y1) * i / (n || 1)]); }).map(([x, y]) => [x - 1, y - 1, x + 1, y + 1]);
  return wanted.flatMap(({x, y, text}) => {
    const w = wide(text) + 4;
    const spots = AWAY.map(([far, dx, dy]) => ({far, left: x + dx * far - (dx < 0 ? w : dx ? 0 : w / 2), base: y + dy * far + 4})).map(spot => ({...spot, area: [spot.left, spot.base - 11, spot.left + w, spot.base + 3]}))
      .filter(({area}) => area[0] >= box[0] && area[2] <= box[2] && area[1] >= box[1] && area[3] <= box[3] && !taken.some(other => hit(area, other)));
    const spot = spots.find(({area}) => !along.some(other => hit(area, other))) || spots[0];
    if (!spot) return [];
    const {far, left, base, area} = spot;
    taken.push(area);
    return [far > 9 ? s("line", {class: "leader", x1: x, y1: y, x2: clamp(x, left, left + w), y2: clamp(y, base - 10, base)}) : null, s("text", {class: "name", x: left + 2, y: base}, text)];
  });
}

// What is at the pointer, named beside it.
function hovering(svg, points, draw, act) {
  const tip = h("div", {class: "tip", "aria-hidden": "true", hidden: true}), frame = h("div", {class: "canvas"}, svg, tip);
  let current = null, before = null;
  const move = event => {
    const area = svg.getBoundingClientRect(), scale = svg.viewBox.baseVal.width / area.width, px = (event.clientX - area.left) * scale, py = (event.clientY - area.top) * scale;
    const near = points.reduce((best, point) => { const far = Math.hypot(point.x - px, point.y - py); return far < best[0] ? [far, point] : best; }, [26, null])[1];
    if (near === current) return;
    current = near;
    const name = near?.row.method;
    for (const element of svg.querySelectorAll("[data-method]")) { element.classList.toggle("hot", element.dataset.method === name); element.classList.toggle("cold", name != null && element.dataset.method !== name); }
    tip.hidden = !near;
    svg.style.cursor = near && act ? "pointer" : "";
    if (!near) return;
    tip.replaceChildren(...draw(near));
    const left = near.x / scale, top = near.y / scale;
    tip.style.left = clamp(left + 14 + tip.offsetWidth > area.width ? left - tip.offsetWidth - 14 : left + 14, 0, Math.max(0, area.width - tip.offsetWidth)) + "px";
    tip.style.top = Math.max(0, top - tip.offsetHeight - 8 < 0 ? top + 12 : top - tip.offsetHeight - 8) + "px";
  };
  svg.addEventListener("pointerdown", event => { before = current; if (event.pointerType === "mouse") before = true; move(event); });
  svg.addEventListener("pointermove", move);
  svg.addEventListener("pointerleave", event => { if (event.pointerType === "mouse") move({clientX: -1e4, clientY: -1e4}); });
  svg.addEventListener("click", () => { if (current && act && (before === true || before === current)) act(current.row); });  // a finger's first tap names, its second opens
  return frame;
}

function currentPlot() {
  const asked = plots.filter(plot => (!state.dataset || plot.dataset === state.dataset) && (!state.model || plot.model === state.model));
  return asked.find(plot => plot.name === state.plot) || asked[0] || plots[0];
}
choice("plot", plots.map(plot => [plot.name, plot.name]));
choice("axis", Object.entries(AXES).map(([key, {name}]) => [key, name]));
get("intervals").addEventListener("change", () => change({intervals: get("intervals").checked ? "1" : ""}));

const seedsText = row => row.trouble || `${row.seeds} seed${row.seeds === 1 ? "" : "s"}`;
function tip({row}) {
  const gap = (control, text) => known(row["difference_" + control]) ? h("div", {}, `${gapText(row["difference_" + control], row[`difference_${control}_ci95`])} to ${text}`) : null;
  return [h("b", {}, `${row.method}, keep ${row.keep}`), row.broken ? null : h("div", {}, `${fixed(percent(row.accuracy_mean), 2)}${plusMinus(percent(row.accuracy_ci95))} %`),
    h("div", {}, `cost ${fixed(row.cost_with_proxy, 2)}, ${fixed(row.time_total_s, 1)} s, ${seedsText(row)}`), gap("full", "full"), gap(row.random, known(row.control_keep) ? `random at ${row.control_keep}` : "random per epoch")].filter(Boolean);
}
function drawPareto() {
  lent = new Map();
  const plot = currentPlot(), axis = AXES[state.axis] ? state.axis : START.axis, colours = coloured();
  get("plot-label").hidden = plots.length < 2;
  get("plot").value = plot.name;
  get("axis").value = axis;
  get("intervals").checked = Boolean(state.intervals);
  const drawn = plot.rows.filter(row => known(row[axis]) && known(row.accuracy_mean));
  const width = Math.max(300, get("pareto-canvas").clientWidth || 1100), height = width < 600 ? 360 : 430, left = 44, right = 14, top = 24, foot = 40;
  const [low, high] = plot.accuracy.map(percent), most = plot[axis];
  const apart = drawn.filter(row => row.broken || percent(row.accuracy_mean) < low), beyond = drawn.some(row => row[axis] > most);
  const strip = apart.length ? 30 : 0, side = beyond ? 26 : 0, bottom = height - foot - strip, end = width - right - side;
  const x = v => v > most ? end + side / 2 + 2 : left + (end - left) * v / most;
  const y = v => v == null || v < low ? bottom + strip / 2 + 2 : top + (bottom - top) * (high - Math.min(v, high)) / (high - low);
  const points = drawn.map(row => ({row, x: x(row[axis]), y: y(row.broken ? null : percent(row.accuracy_mean))})), at = new Map(points.map(point => [point.row, point]));
  const front = plot.front[axis].map(i => at.get(rows[i])).filter(Boolean);
  const step = front.map(({x, y}, i) => `${i ? "H" : "M"}${x}${i ? "V" : " "}${y}`).join("") + (front.length ? `H${end}` : "");
  const through = method => points.filter(point => point.row.method === method && !point.row.broken && percent(point.row.accuracy_mean) >= low && point.row[axis] <= most).sort((a, b) => a.row.keep - b.row.keep);
  const lineOf = (method, kind) => { const found = through(method); return found.length > 1 ? s("polyline", {class: kind, "data-method": method, style: `stroke:${colour(method)}`, points: found.map(({x, y}) => `${x.toFixed(1)},${y.toFixed(1)}`).join(" ")}) : null; };
  const full = points.find(({row}) => row.method === "full"), shown = row => matches(row) || row.method in TO_BEAT;
  const mark = ({row, x, y}) => s("path", {class: "mark" + (colours.includes(row.method) ? "" : row.method in TO_BEAT ? " beat" : " plain") + (shown(row) ? "" : " dim"), "data-method": row.method, "data-keep": row.keep, d: shape(row), transform: `translate(${x.toFixed(1)} ${y.toFixed(1)})${slots.has(row.method) || row.method in TO_BEAT ? "" : " scale(.7)"}`, style: `fill:${colour(row.method)}`});
  const half = row => percent(row.accuracy_ci95) || 0;
  const range = ({row, x}) => known(row.accuracy_ci95) && !row.broken && percent(row.accuracy_mean) >= low ? s("line", {class: "range" + (shown(row) ? "" : " dim"), "data-method": row.method, style: `stroke:${colour(row.method)}`, x1: x, x2: x, y1: y(clamp(percent(row.accuracy_mean) + half(row), low, high)), y2: y(clamp(percent(row.accuracy_mean) - half(row), low, high))}) : null;
  const best = method => through(method).filter(({row}) => shown(row)).sort((a, b) => b.row.accuracy_mean - a.row.accuracy_mean)[0];
  const random = through("uniform_epoch")[0];
  const wanted = [...new Set([...front.filter(({row}) => shown(row) && !(row.method in TO_BEAT)), ...state.chosen.map(id => at.get(byId.get(id))), ...colours.map(best), ...points.filter(({row}) => apart.includes(row)).sort((a, b) => a.x - b.x).slice(0, SLOTS)])].filter(Boolean);
  const names = [full && {...full, text: "full training"}, random && {...random, text: `random per epoch ${random.row.keep}`},
    ...wanted.map(point => ({...point, text: shortLabel(point.row) + (point.row.broken ? ` (${point.row.trouble})` : apart.includes(point.row) ? ` (${fixed(percent(point.row.accuracy_mean), 0)} %)` : "")}))].filter(Boolean);
  const corners = front.flatMap(({x, y}, i) => [...(i ? [[x, front[i - 1].y, x, y]] : []), [x, y, front[i + 1]?.x ?? end, y]]);
  const between = method => through(method).slice(1).map((point, i) => [through(method)[i].x, through(method)[i].y, point.x, point.y]);
  const lines = [...corners, ...(full ? [[left, full.y, end, full.y]] : []), ...[...colours, "uniform_epoch"].flatMap(between)];
  const grey = points.filter(({row}) => !colours.includes(row.method) && !(row.method in TO_BEAT));
  const order = [...grey, ...points.filter(point => !grey.includes(point))];
  const svg = s("svg", {viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${drawn.length} rows; the Pareto front is ${front.map(({row}) => `${row.method} at ${row.keep}`).join(", ")}`},
    ticks(low, high, 6).map(v => [s("line", {class: "grid", x1: left, x2: end, y1: y(v), y2: y(v)}), s("text", {x: left - 7, y: y(v) + 4, "text-anchor": "end"}, String(v))]),
    ticks(0, most, width < 600 ? 5 : 10).map(v => s("text", {x: x(v), y: height - foot + 17, "text-anchor": "middle"}, String(v))),
    s("text", {x: 4, y: 12}, "accuracy, % ↑"), s("text", {x: width - right, y: height - 5, "text-anchor": "end"}, AXES[axis].text + " →"),
    apart.length ? [s("rect", {class: "strip", x: left, y: bottom + 4, width: width - right - left, height: strip - 4}), s("text", {x: left - 7, y: bottom + strip / 2 + 6, "text-anchor": "end"}, "less")] : null,
    beyond ? [s("rect", {class: "strip", x: end + 4, y: top, width: side - 2, height: bottom - top}), s("text", {x: end + side / 2 + 3, y: height - foot + 17, "text-anchor": "middle"}, "more")] : null,
    full ? s("line", {class: "full", "data-method": "full", x1: left, x2: end, y1: full.y, y2: full.y}) : null,
    state.intervals ? order.map(range) : null, s("path", {class: "front", d: step}), colours.map(method => lineOf(method, "through")), lineOf("uniform_epoch", "through random"),
    order.map(mark), place(names, points, lines, [left, top, width - 2, height - foot]));
  get("pareto-canvas").replaceChildren(hovering(svg, points, tip, row => {
    if (!matches(row)) Object.assign(state, {search: "", keep: "", kind: ""});
    change({open: [...new Set([...state.open, row.id])]});
    if (!row.line?.isConnected) { most = Infinity; render(); }
    row.line?.scrollIntoView({block: "center"});
  }));
  const kinds = [["front", "the front: nothing is more accurate for as little"], ["full", "full training, to beat"], ["through random", "random per epoch, to beat"]];
  get("pareto-key").replaceChildren(...kinds.map(([kind, text]) => h("span", {}, s("svg", {viewBox: "0 0 26 10", width: 26, height: 10, "aria-hidden": "true"}, s("path", {class: kind, d: "M1 5H25", style: "stroke:var(--ink)"})), text)),
    ...colours.filter(method => plot.rows.some(row => row.method === method)).map(method => h("span", {}, swatch(method), method)), grey.length ? h("span", {}, swatch(""), `${new Set(grey.map(({row}) => row.method)).size} others: hover, or tick them in the table`) : "");
  const far = apart.filter(row => !row.broken);
  const gone = plot.rows.filter(row => row.broken && !drawn.includes(row));
  get("pareto-note").textContent = [axis === "time_total_s" && data.times_reason ? `${data.times_reason[0].toUpperCase()}${data.times_reason.slice(1)}.` : "", far.length ? `In the strip at the bottom: ${far.length} row${far.length > 1 ? "s" : ""} below ${fixed(low, 1)} %, too far from the rest for this axis.` : "",
    beyond ? `At the right edge: what takes more than ${Number(most.toPrecision(3))}${AXES[axis].unit}.` : "",
    apart.some(row => row.broken) ? "A cross in the strip: some of its seeds diverged or failed." : "",
    gone.length ? `Not drawn: ${gone.slice(0, 5).map(row => `${label(row)} (${row.trouble})`).join(", ")}${gone.length > 5 ? ` and ${gone.length - 5} more` : ""}.` : ""].filter(Boolean).join(" ");
}

// Curves by epoch of the chosen rows.
const DRAWN = Object.entries(data.measures).filter(([, measure]) => measure.drawn);
let clips = 0;
const DASHES = ["", "6 3", "2 3", "8 3 2 3"];
function curveChart(chosen, name, width, height) {
  const scale = data.measures[name].factor, left = 40, right = 12, top = 10, foot = 34;
  const found = chosen.filter(row => row.curve[name]?.[1].length > 1).map(row => { const [at, values] = row.curve[name]; return {row, points: values.map((v, i) => [data.epochs[at][i], scale * v])}; });
  if (!found.length) return h("p", {class: "soft"}, "not measured for these rows");
  const last = Math.max(...found.map(({points}) => points.at(-1)[0])), begin = Math.min(...found.map(({points}) => points[0][0]));
  const usual = found.filter(({row}) => !row.broken && row.accuracy_mean >= row.plot.accuracy[0]);  // one that broke down does not squeeze the others
  const values = (usual.length ? usual : found).flatMap(({points}) => { const late = points.filter(([epoch]) => epoch > last / 3); return (late.length ? late : points).map(([, v]) => v); });
  let [low, high] = [Math.min(...values), Math.max(...values)];
  const pad = (high - low || scale / 20) * .06;
  [low, high] = [low < 0 ? low - pad : Math.max(0, low - pad), Math.min(scale, high + pad)];
  const x = v => left + (width - left - right) * (v - begin) / (last - begin || 1), y = v => top + (height - top - foot) * (high - v) / (high - low || 1);
  const drawn = found.map(({row, points}) => ({row, points: points.map(([epoch, v]) => ({row, epoch, v, x: x(epoch), y: y(v)}))}));
  const keeps = [...new Set(chosen.map(row => row.keep))].filter(keep => keep < 1), inside = `inside-${++clips}`;
  const svg = s("svg", {viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": found.map(({row, points}) => `${label(row)}: from ${fixed(points[0][1], 2)} to ${fixed(points.at(-1)[1], 2)}`).join("; ")},
    ticks(low, high, 4).map(v => [s("line", {class: "grid", x1: left, x2: width - right, y1: y(v), y2: y(v)}), s("text", {x: left - 6, y: y(v) + 4, "text-anchor": "end"}, String(v))]),
    [begin, ...ticks(begin, last, 6).filter(v => Number.isInteger(v) && v > begin + (last - begin) / 12)].map(v => s("text", {x: x(v), y: height - foot + 17, "text-anchor": "middle"}, String(v))), s("text", {x: width - right, y: height - 3, "text-anchor": "end"}, "epoch →"),
    s("clipPath", {id: inside}, s("rect", {x: left, y: top - 2, width: width - left - right + 2, height: height - top - foot + 4})),
    s("g", {"clip-path": `url(#${inside})`}, drawn.map(({row, points}) => s("polyline", {class: "curve" + (row.method === "uniform_epoch" ? " random" : ""), "data-method": row.method, "data-keep": row.keep, style: `stroke:${colour(row.method)};stroke-dasharray:${row.method in TO_BEAT ? "" : DASHES[Math.max(0, keeps.indexOf(row.keep)) % DASHES.length]}`,
      points: points.map(({x, y}) => `${x.toFixed(1)},${y.toFixed(1)}`).join(" ")}))));
  return hovering(svg, drawn.flatMap(({points}) => points).filter(({y}) => y >= top - 2 && y <= height - foot + 2), ({row, epoch, v}) => [h("b", {}, `${row.method}, keep ${row.keep}`), h("div", {}, `epoch ${epoch}: ${fixed(v, data.measures[name].digits)}`)]);
}
function curveRows() {
  const chosen = state.chosen.map(id => byId.get(id)).filter(Boolean);
  if (chosen.length) return chosen;
  const plot = currentPlot(), keeps = plot.rows.map(row => row.keep).filter(keep => keep < 1), keep = Number(state.keep) || Math.min(...keeps);
  const here = plot.rows.filter(row => row.keep === keep || row.method === "full");
  return [...here.filter(row => row.method in TO_BEAT), ...here.filter(row => !(row.method in CONTROLS) && row.seeds).slice(0, 5)];
}
function drawCurves() {
  const chosen = curveRows(), named = coloured().filter(method => chosen.some(row => row.method === method)), used = new Set(named.map(method => slots.get(method) % SLOTS));
  const spare = [...Array(SLOTS).keys()].filter(slot => !used.has(slot));
  lent = new Map([...new Set(chosen.map(row => row.method))].filter(method => !(method in CONTROLS) && !slots.has(method)).map((method, i) => [method, (spare.length ? spare : [0, 1, 2])[i % (spare.length || 3)]]));
  get("curves-note").textContent = state.chosen.length ? "Means over seeds of the rows that are ticked in the table."
    : `Means over seeds: at keep ${chosen.find(row => row.keep < 1)?.keep ?? 1} the first rows in rank beside full training and random per epoch. Tick rows in the table to choose others.`;
  const remove = row => h("button", {type: "button", "aria-label": `Leave out ${label(row)}`, onclick: () => change({chosen: chosen.filter(other => other !== row).map(other => other.id)})}, "×");
  const add = h("select", {"aria-label": "Add a row", onchange: () => change({chosen: [...chosen.map(row => row.id), add.value]})}, h("option", {value: ""}, "Add a row …"),
    rows.filter(row => row.curve.accuracy && !chosen.includes(row)).map(row => h("option", {value: row.id}, (plots.length > 1 ? row.plot.name + ": " : "") + label(row))));
  get("curves-key").replaceChildren(...chosen.map(row => h("span", {}, lineSwatch(row, chosen), label(row), remove(row))), add, state.chosen.length ? h("button", {type: "button", onclick: () => change({chosen: []})}, "Start anew") : "");
  const full = get("curves-charts").clientWidth || 1100, width = full < 800 ? full : (full - 20) / 2;
  get("curves-charts").replaceChildren(...DRAWN.map(([name, {label, help}], i) => h("figure", {class: i ? "" : "whole"}, h("figcaption", {title: help}, label), curveChart(chosen, name, Math.max(280, (i ? width : full) - 30), i ? 260 : 360))));
}
const lineSwatch = (row, chosen) => { const keeps = [...new Set(chosen.map(other => other.keep))].filter(keep => keep < 1);
  return s("svg", {viewBox: "0 0 26 10", width: 26, height: 10, "aria-hidden": "true"}, s("path", {class: "curve" + (row.method === "uniform_epoch" ? " random" : ""), d: "M1 5H25", style: `stroke:${colour(row.method)};stroke-dasharray:${row.method in TO_BEAT ? "" : DASHES[Math.max(0, keeps.indexOf(row.keep)) % DASHES.length]}`})); };
PARTS.curves = drawCurves;
let drawing, drawnFor = "";
PARTS.overview = () => {
  for (const name of FILTERS) showChoice(name);
  if (get("search").value !== state.search) get("search").value = state.search;
  get("sort").value = state.sort;
  drawTable();
  const asked = [currentPlot().name, state.axis, state.intervals, state.chosen, innerWidth].join("\n");
  clearTimeout(drawing);
  if (asked === drawnFor) drawing = setTimeout(drawPareto, 40);  // the picture follows the table, so that it does not hold up typing
  else drawPareto();
  drawnFor = asked;
};
