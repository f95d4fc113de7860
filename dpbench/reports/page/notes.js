// What is said once: the head, what to know before trusting a rank, and what the numbers mean; then the page begins.
const LONG = 40;
function simpleTable(target, title, note, header, lines) {
  get(target).append(h("h2", {}, title), note ? h("p", {class: "soft"}, note) : "", lines.length ? h("div", {class: lines.length > LONG ? "scroll tall" : "scroll", tabindex: 0, role: "region", "aria-label": title}, h("table", {},
    h("thead", {}, h("tr", {}, header.map(([text, left]) => h("th", {scope: "col", class: left ? "left" : ""}, text)))),
    h("tbody", {}, lines.map(line => h("tr", {}, line.map((cell, i) => h("td", {class: header[i][1] ? "left" : ""}, cell))))))) : "");
}
const marked = text => text.split("`").map((part, i) => i % 2 ? h("b", {}, part) : part);  // names stand in backticks
const done = rows.reduce((total, row) => total + row.seeds, 0), all = rows.reduce((total, row) => total + row.runs.length, 0);
document.title = `${data.name}: dpbench leaderboard`;
get("title").textContent = data.name;
get("about").textContent = data.description;
get("facts").textContent = `Track: ${data.track}. ${done} of ${all} runs, ${data.seeds} paired seed${data.seeds === 1 ? "" : "s"}; accuracy is after the last epoch, mean ± 95 % interval.`;
const FEW = 4;
const headline = line => {
  const row = rows.find(row => row.method === line.text.split("`")[1] && WHERE.slice(0, 3).every(key => row[key] === line[key]));
  const go = (text, act) => h("button", {type: "button", class: "link", onclick: act}, text);
  return h("li", {}, marked(line.text), " ", h("span", {class: "links"}, go(`rows at ${line.keep}`, () => { change({dataset: line.dataset, model: line.model, keep: String(line.keep)}); get("status").scrollIntoView(); }),
    row && hasPictures(row) ? go("samples it drops", () => showSamples(row)) : ""));
};
get("headlines").append(...data.headlines.slice(0, FEW).map(headline),
  data.headlines.length > FEW ? h("li", {}, h("details", {}, h("summary", {}, `${data.headlines.length - FEW} more`), h("ul", {}, data.headlines.slice(FEW).map(headline)))) : "");
get("legend").append(...[[WORDS.better, "better", "than the control that heads the column"], [WORDS.worse, "worse", "than it"], [WORDS.not, "", "from it: the interval holds 0"],
  ["= equivalent", "better", `to full training within ${data.delta} points, shown by an equivalence test; differences are paired, and their 95 % intervals hold all at once`]].map(([text, kind, meaning]) => h("span", {}, badge(text, kind), " ", meaning)));
if (data.findings.length) {
  const joined = new Map();
  for (const f of data.findings) {
    const key = f.badge + "\n" + f.text, where = f.row == null ? [] : [label(rows[f.row])];
    joined.set(key, {...f, where: [...new Set([...(joined.get(key)?.where || []), ...where])]});
  }
  get("findings").append(...[...joined.values()].map(f => h("li", {}, badge(f.badge, ""), f.where.length ? h("b", {}, f.where.slice(0, 8).join(", ") + (f.where.length > 8 ? ` and ${f.where.length - 8} more` : "") + ". ") : "", f.text)));
} else get("findings").append(h("li", {}, "Nothing departs from the protocol: equal seeds, no missing or failed run, equal schedules, no selection on test data."));
if (data.claims.lines.length) get("claims").append(h("h2", {}, "Claims"), h("p", {class: "soft"}, data.claims.note + "."), h("ul", {}, data.claims.lines.map(([verdict, text, ...shown]) =>
  h("li", {}, badge(verdict, verdict.startsWith("held") ? "better" : verdict.startsWith("refuted") ? "worse" : ""), " ", text + ": ", h("span", {class: "soft"}, shown.filter(x => x !== "-").join(", "))))));
simpleTable("across", "Over datasets", data.across_reason, [["Method", 1], ["Model", 1], ["Keep"], ["Mean rank"], ["IQM %"], ["Beats random"]],
  data.across.map(a => [a.method, a.model, String(a.keep), `${fixed(a.rank, 2)} (${fixed(a.rank_low, 2)} to ${fixed(a.rank_high, 2)})`, `${fixed(a.iqm, 2)} (${fixed(a.iqm_low, 2)} to ${fixed(a.iqm_high, 2)})`, fixed(a.beats_random, 2)]));
simpleTable("published", "Published figures", data.published.length
  ? `Beside the measured ones, never part of a rank. Reproduced: the published value lies within the measured 95 % interval widened by ${data.delta} points, whose half width is at most ${data.delta}, and what was really pruned is within 0.02 of the published ratio. Best epochs are compared with best epochs.`
  : "None are known for these datasets and models.", [["Method", 1], ["Data", 1], ["Pruned"], ["Published %"], ["Measured %"], ["Compared", 1], ["Paper", 1], ["Table", 1], ["Source", 1], ["Status", 1]],
  data.published.map(p => [p.method, `${p.dataset}, ${p.model}`, p.prune_ratio, p.published + plusMinus(p.std), known(p.measured) ? fixed(p.measured, 2) + plusMinus(p.measured_ci95) : "–",
    badge(p.compared, p.compared.startsWith("reproduced") ? "better" : p.compared.startsWith("differs") ? "worse" : ""), p.paper, p.table, p.source, p.status].map(x => x ?? "")));
get("meanings").append(...[
  ["Rank", "by mean accuracy within dataset, model and keep; below it the 95 % interval of its true rank, from paired tests against each other method. Rows with seeds that diverged or failed come last. Other weights rank by a weighted sum of measures scaled to each group."],
  ["Keep", "the share of the samples that is asked for in an epoch; what a method really prunes and costs is counted."],
  ["Accuracy", "mean ± 95 % interval over seeds after the last epoch; the bars share the picture's axis, which leaves out what lies far below the others."],
  ["To full, to random", "mean paired difference in accuracy points to full training and to random per epoch, ± an interval; with 95 % confidence all intervals of this board hold at once, and the verdicts are read from them: the same runs have wider intervals, and so fewer verdicts, on a board of more rows. No verdict below 3 seeds, nor by the seeds that are left where some diverged or failed."],
  ["At its cost", "random per epoch at the same keep costs as much; where the realised cost, without proxy, is not the keep, the difference is to random per epoch at the keep that does."],
  ["Front", "the rows that no other row beats: none is more accurate at no more cost. It is of all keeps, whatever is filtered."],
  ...Object.values(data.measures).filter(({column}) => column).map(({label, help}) => [label, help + "."]),
].flatMap(([term, meaning]) => [h("dt", {}, term), h("dd", {}, meaning)]));

const theme = get("theme"), dark = () => document.documentElement.dataset.theme ? document.documentElement.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
const named = () => { theme.textContent = dark() ? "Light" : "Dark"; };
theme.addEventListener("click", () => { document.documentElement.dataset.theme = dark() ? "light" : "dark"; named(); });
named();
// A menu closes by a click elsewhere, and by Escape.
const closeMenus = but => { for (const menu of document.querySelectorAll(".menu[open]")) if (!menu.contains(but)) menu.open = false; };
addEventListener("click", event => closeMenus(event.target));
addEventListener("keydown", event => { if (event.key === "Escape") closeMenus(null); });
function begin() {
  const linked = readAddress();
  render();
  if (linked) linked.line?.scrollIntoView();
}
addEventListener("hashchange", begin);
let drawnAt = innerWidth;
addEventListener("resize", () => { if (innerWidth !== drawnAt) { drawnAt = innerWidth; render(); } });
begin();
