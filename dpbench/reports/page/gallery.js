// The samples that each row used most and least, how alike two methods choose, and suspected wrong labels.
const {gallery, alike} = data;
const short = x => String(Number(x.toPrecision(3)));
const share = x => x > 0 && x < .005 ? "under 1 %" : `${Math.round(100 * x)} %`;

// One sheet of pictures a dataset, named once in a style, not by each of its tiles.
const sheets = Object.keys(gallery.sheets);
document.head.append(h("style", {}, sheets.map((dataset, i) => `.sheet-${i} { background-image: url(data:image/png;base64,${gallery.sheets[dataset].png}); }`).join("\n")));
// What a sample looks like: the one place that depends on the kind of the dataset, images so far.
function picture(dataset, tile) {
  const sheet = gallery.sheets[dataset], lines = Math.ceil(sheet.sample.length / sheet.across);
  const scale = Math.max(1, Math.round(48 / Math.max(sheet.height, sheet.width))), [high, wide] = [sheet.height * scale, sheet.width * scale];
  const found = h("span", {class: `picture sheet-${sheets.indexOf(dataset)}`, role: "img", "aria-label": sampleTitle(sheet, tile)});
  Object.assign(found.style, {width: wide + "px", height: high + "px", backgroundSize: `${wide * sheet.across}px ${high * lines}px`,
    backgroundPosition: `${-wide * (tile % sheet.across)}px ${-high * Math.floor(tile / sheet.across)}px`});
  return found;
}
const className = (sheet, label) => sheet.classes[label] || `class ${label}`;
const sampleTitle = (sheet, tile) => `sample ${sheet.sample[tile]}${sheet.name[tile] ? " (" + sheet.name[tile] + ")" : ""}, ${className(sheet, sheet.label[tile])}` + (sheet.wrong?.[tile] ? ", its label was made wrong" : "");
function tileOf(dataset, tile, lines, both) {
  const sheet = gallery.sheets[dataset];
  return h("div", {class: "tile" + (sheet.wrong?.[tile] ? " wrong" : both ? " both" : ""), title: [sampleTitle(sheet, tile), ...lines].join(", "), "data-sample": sheet.sample[tile]},
    picture(dataset, tile), lines.map((line, i) => i ? h("div", {}, line) : h("b", {}, line)));
}

// What can be chosen: rows that have pictures, and those of which it is known only how alike they choose.
const pictured = gallery.rows.map(row => { const [dataset, model, method, keep] = row.row; return {...row, dataset, model, method, keep}; });
const choosable = [...pictured, ...alike.flatMap(({dataset, model, keep, methods}) => methods.map(method => ({dataset, model, keep, method})))];
const WHERE = ["dataset", "model", "keep", "method"];
const picturesOf = (where, method) => pictured.find(row => row.method === method && WHERE.slice(0, 3).every(key => row[key] === where[key]));
const hasPictures = row => Boolean(picturesOf(row, row.method));
const showSamples = row => change({tab: "samples", "g-class": "", "g-other": "", ...Object.fromEntries(WHERE.map(key => ["g-" + key, String(row[key])]))});
const CHOICES = [["dataset", "Dataset"], ["model", "Model"], ["keep", "Keep"], ["method", "Method"], ["other", "Compare with"], ["class", "Class"]];
function samplesOptions(name, chosen) {
  if (name === "class") return [null, ...new Set((picturesOf(chosen, chosen.method)?.per_class || []).keys())];
  if (name === "other") return [null, ...samplesOptions("method", chosen).filter(method => method !== chosen.method)];
  const before = WHERE.slice(0, WHERE.indexOf(name));
  return [...new Set(choosable.filter(row => before.every(key => row[key] === chosen[key])).map(row => row[name]))];
}
function usualChoice(name, values, chosen) {  // the method that the first sentence names, where it has pictures
  if (name === "method") return values.find(method => data.headlines.some(line => line.text.split("`")[1] === method && WHERE.slice(0, 3).every(key => line[key] === chosen[key]))) ?? values.find(method => !(method in CONTROLS)) ?? values[0];
  if (name === "keep") return values.find(keep => String(keep) === state.keep) ?? values.find(keep => keep < 1) ?? values[0];
  return values[0];
}
function drawSamples() {
  const even = [...new Set(gallery.even.map(([, , method]) => method))];
  get("samples-note").textContent = [pictured.length ? `For each method and class, the training samples that its runs used most and least. All samples, where the grid was run: dpbench samples ${data.name} -o samples.csv.` : "",
    even.length && pictured.length ? `${even.join(", ")}: all samples are used equally often, so nothing is shown.` : "", gallery.note].filter(Boolean).join(" ");
  if (!choosable.length) return;
  const chosen = {};
  get("samples-controls").replaceChildren(...CHOICES.map(([name, text]) => {
    const values = samplesOptions(name, chosen), asked = values.find(value => value != null && String(value) === state["g-" + name]);
    chosen[name] = asked ?? usualChoice(name, values, chosen);
    const sheet = gallery.sheets[chosen.dataset];
    const shown = value => name === "class" ? (value == null ? "all" : className(sheet, value)) : value ?? "no other";
    const select = h("select", {}, values.map((value, i) => h("option", {value: i}, String(shown(value)))));
    select.value = values.indexOf(chosen[name]);
    select.addEventListener("change", () => { const value = values[select.value]; change({["g-" + name]: value == null ? "" : String(value)}); get("samples-controls").querySelector(`[data-name="${name}"] select`).focus(); });
    const field = h("label", {"data-name": name}, text, select);
    field.hidden = values.length < 2;
    return field;
  }));
  const row = picturesOf(chosen, chosen.method), other = chosen.other && picturesOf(chosen, chosen.other);
  get("samples-rows").replaceChildren(...[chosen.method, chosen.other].filter(Boolean).map((method, i) => strips(chosen, method, i ? other : row, i ? row : other)));
  get("samples-alike").replaceChildren(...likeness(chosen));
  get("samples-suspected").replaceChildren(...suspects(chosen));
}
function strips(chosen, method, row, other) {
  if (!row) return h("div", {}, h("h3", {}, method), h("p", {class: "soft"}, "There are no pictures of this row."));
  const of = `${short(row.epochs)} epochs`, sizes = gallery.sheets[row.dataset];
  const scored = row.scored ? " The second number is the score by which the method chose, high for what it keeps; ∞ is above all." : "";
  const seeds = row.seeds > 1 ? `mean of ${row.seeds} seeds` : "one seed";
  const labels = row.per_class.map((_, label) => label).filter(label => chosen.class == null || label === chosen.class);
  const strip = (name, title, label) => {
    const theirs = new Set((other?.[name][label] || []).map(([tile]) => tile));
    return h("div", {class: `strip ${name}`, "data-title": title, "data-class": label}, row[name][label].map(([tile, times, score]) =>
      tileOf(row.dataset, tile, [short(times), ...(row.scored ? [score == null ? "∞" : short(score)] : [])], theirs.has(tile))));
  };
  return h("div", {"data-method": method}, h("h3", {}, `${method} at keep ${row.keep}`),
    h("p", {class: "soft"}, `A sample is used in ${short(row.mean)} of ${of} on average; ${share(row.never)} of the samples are never used, ${share(row.always)} are used in every epoch (${seeds}). ` +
      `Below each picture: in how many epochs it was used.${scored}${other ? " Framed: the other method shows it too." : ""}${sizes.wrong ? " Orange frame: its label was made wrong." : ""}`),
    h("div", {class: "class head"}, h("div", {}, "class"), h("div", {}, "used most"), h("div", {}, "used least, or dropped")),
    labels.map(label => h("div", {class: "class"}, h("div", {}, className(sizes, label), h("br"), h("small", {}, row.per_class[label] == null ? "no samples" : `used ${short(row.per_class[label])} times`)),
      strip("most", "used most", label), strip("least", "used least, or dropped", label))));
}
function likeness(chosen) {
  const group = alike.find(part => WHERE.slice(0, 3).every(key => part[key] === chosen[key]));
  const own = group ? group.methods.indexOf(chosen.method) : -1, n = group?.methods.length;
  if (own < 0 || n < 2) return [];
  const lines = group.methods.map((method, i) => {
    const [a, b] = i < own ? [i, own] : [own, i], at = a * n - a * (a + 1) / 2 + b - a - 1;
    return {method, jaccard: group.jaccard[at], chance: group.chance[at]};
  }).filter((line, i) => i !== own && line.jaccard != null).sort((a, b) => (b.jaccard - b.chance) - (a.jaccard - a.chance));
  const number = x => (x / 1000).toFixed(2);
  return [h("h3", {}, "How alike the methods choose"),
    h("p", {class: "soft"}, `Jaccard index of what ${chosen.method} and each other method train on in the same epoch and seed: 1 is the same samples. By chance: what independent draws of as many samples would have. Those furthest above chance come first.`),
    h("div", {class: "scroll", tabindex: 0, role: "region", "aria-label": "How alike the methods choose"}, h("table", {},
      h("thead", {}, h("tr", {}, [["Method", "left"], ["Jaccard"], ["by chance"]].map(([text, kind]) => h("th", {scope: "col", class: kind}, text)))),
      h("tbody", {}, lines.map(({method, jaccard, chance}) => h("tr", {}, h("td", {class: "left"}, method === chosen.other ? h("b", {}, method) : method), h("td", {}, number(jaccard)), h("td", {}, number(chance)))))))];
}
function suspects(chosen) {
  const found = gallery.suspected.find(part => part.dataset === chosen.dataset && part.model === chosen.model);
  if (!found) return [];
  const check = found.injected ? ` Of ${found.injected} labels that were made wrong, ${found.found} are among the first ${found.injected} suspects (${share(found.found / found.injected)}).` : "";
  const sheet = gallery.sheets[found.dataset];
  return [h("h3", {}, "Suspected label errors"),
    h("p", {class: "soft"}, `Methods that go by how badly the model fits the label put wrong labels first. Listed are the samples that ${found.methods.join(", ")} put first together: ` +
      `the number is the mean share of the samples that they rank behind it, by score or else by how often they use it, at all keeps. Hard samples with a right label are among them: look before you drop one.${check}`),
    h("div", {class: "strip suspects"}, found.samples.map(([tile, standing]) => tileOf(found.dataset, tile, [className(sheet, sheet.label[tile]), `#${sheet.sample[tile]}`, standing.toFixed(3)])))];
}
PARTS.samples = drawSamples;
