// The list of volumes: the server searches, filters, sorts and cuts pages; this shows them.
"use strict";

const COUNT = 50;
const form = document.getElementById("query");
const list = document.getElementById("rows");
let first = 0;
let selected = 0;
let rows = [];
let asked = 0;

function query() {
  const values = new URLSearchParams();
  for (const [name, value] of new FormData(form)) {
    if (value !== "" && name !== "descending" && name !== "sort") values.append(name, value);
  }
  const sort = (form.descending.checked ? "-" : "") + form.sort.value;
  if (sort !== "patient") values.set("sort", sort);
  return values;
}

async function show(keepSelection = false) {
  const number = ++asked;
  const values = query();
  const found = await tried(() => ask(`api/volumes?${values}&first=${first}&count=${COUNT}`));
  // An answer that a later question has overtaken.
  if (!found || number !== asked) return;
  if (first && first >= found.found) {
    first = 0;
    show();
    return;
  }
  rows = found.rows;
  const address = new URLSearchParams(values);
  if (first) address.set("first", first);
  history.replaceState(null, "", `?${address}`);
  sessionStorage.setItem("list", `${address}`);
  showChoices(found.choices, values);
  showProgress(found.progress);
  document.getElementById("found").textContent =
    found.found === found.total ? `${found.total} volumes` : `${found.found} of ${found.total} volumes`;
  list.replaceChildren(...rows.map((row) => lineOf(row, values)));
  const pages = Math.max(1, Math.ceil(found.found / COUNT));
  document.getElementById("page").textContent = `page ${first / COUNT + 1} of ${pages}`;
  document.getElementById("previous").disabled = first === 0;
  document.getElementById("next").disabled = first + COUNT >= found.found;
  selected = keepSelection ? Math.min(selected, rows.length - 1) : 0;
}

function lineOf(row, values) {
  const line = document.getElementById("row").content.cloneNode(true);
  const link = line.querySelector("a");
  const more = `${values}`;
  link.href = `volume?${row.link}${more ? `&${more}` : ""}`;
  const picture = line.querySelector("img");
  picture.src = `thumbnail?${row.link}`;
  picture.addEventListener("error", () => picture.classList.add("broken"));
  const fill = (name, text) => { line.querySelector(`.${name}`).textContent = text; };
  fill("patient", row.patient_id);
  fill("series", row.series_key);
  line.querySelector(".default").hidden = !row.is_default;
  fill("size", row.problem || `${times(row.shape)} voxels of ${times(row.spacing_mm)} mm; ${row.slices} slices` +
    (row.thickness_mm ? ` of ${row.thickness_mm} mm` : ""));
  fill("device", [row.kernel, row.manufacturer, row.model].filter(Boolean).join(", "));
  const codes = line.querySelector(".codes");
  for (const warning of row.warnings) codes.append(badge(warning.code, "warning", warning.words));
  for (const label of row.labels) codes.append(badge(label, "label", "label"));
  const verdict = line.querySelector(".verdict");
  verdict.textContent = words(row.verdict);
  verdict.dataset.verdict = row.verdict || "";
  if (row.note) verdict.title = row.note;
  return line;
}

function badge(text, kind, title) {
  const found = document.createElement("span");
  found.className = `badge ${kind}`;
  found.textContent = text;
  found.title = title;
  return found;
}

function showChoices(choices, values) {
  let active = 0;
  for (const [name, counted] of Object.entries(choices)) {
    const select = form.elements[name];
    if (!select) continue;
    const wanted = values.get(name) || "";
    const options = counted.map(([value, count]) => new Option(`${value} (${count})`, value));
    select.replaceChildren(new Option("any", ""), ...options);
    if (wanted && !counted.some(([value]) => value === wanted)) select.append(new Option(`${wanted} (0)`, wanted));
    select.value = wanted;
    active += wanted ? 1 : 0;
  }
  for (const input of form.querySelectorAll("input[type=number]")) active += input.value ? 1 : 0;
  document.getElementById("active").textContent = active ? `: ${active}` : "";
}

function select(index) {
  if (!rows.length) return;
  selected = Math.max(0, Math.min(rows.length - 1, index));
  list.querySelectorAll("a.row")[selected].focus();
}

function turn(pages) {
  const target = document.getElementById(pages > 0 ? "next" : "previous");
  if (target.disabled) return;
  first = Math.max(0, first + pages * COUNT);
  show().then(() => { list.scrollIntoView(); select(0); });
}

async function judge(verdict) {
  const row = rows[selected];
  if (!canJudge || !row) return;
  const done = await send("api/verdict", { node: row.node, verdict, note: row.note });
  if (!done) return;
  say(`${row.patient_id}: ${words(verdict) || "no verdict"}`);
  row.verdict = verdict;
  const mark = list.children[selected].querySelector(".verdict");
  mark.textContent = words(verdict);
  mark.dataset.verdict = verdict || "";
  showProgress(done.progress);
  select(selected + 1);
}

async function undo() {
  if (!canJudge) return;
  const done = await send("api/undo", {});
  if (!done) return;
  say(done.node ? `Taken back: ${done.node}` : "There is nothing to take back.");
  await show(true);
  select(Math.max(0, rows.findIndex((row) => row.node === done.node)));
}

async function showLeftOut() {
  const place = document.getElementById("left-out");
  if (!place) return;
  const found = await tried(() => ask("api/left-out"));
  for (const reason of found ? found.reasons : []) place.append(reasonOf(reason));
}

function reasonOf(reason) {
  const part = document.createElement("details");
  const head = document.createElement("summary");
  head.append(badge(reason.outcome, reason.outcome, ""), ` ${reason.words} `, badge(`${reason.reason}: ${reason.count}`, "", ""));
  const lines = document.createElement("ul");
  const more = document.createElement("button");
  more.type = "button";
  more.textContent = "More";
  const load = async () => {
    const at = new URLSearchParams({ outcome: reason.outcome, reason: reason.reason, first: lines.children.length });
    const found = await tried(() => ask(`api/left-out?${at}`));
    for (const line of found ? found.lines : []) {
      const entry = document.createElement("li");
      const strong = document.createElement("strong");
      strong.textContent = line.patient_id;
      entry.append(strong, ` series ${line.series_number}, ${line.slices} slices${line.detail ? `: ${line.detail}` : ""}`);
      lines.append(entry);
    }
    more.hidden = lines.children.length >= reason.count;
  };
  more.addEventListener("click", load);
  part.addEventListener("toggle", () => { if (part.open && !lines.children.length) load(); });
  part.append(head, lines, more);
  return part;
}

function restore() {
  const values = new URLSearchParams(location.search);
  first = Math.max(0, Math.floor((Number(values.get("first")) || 0) / COUNT) * COUNT);
  const sort = values.get("sort") || "patient";
  form.descending.checked = sort.startsWith("-");
  form.sort.value = sort.replace(/^-/, "");
  for (const [name, value] of values) {
    const field = form.elements[name];
    if (!field || name === "sort" || name === "first") continue;
    if (field.tagName === "SELECT" && ![...field.options].some((one) => one.value === value)) field.append(new Option(value, value));
    field.value = value;
  }
  const isFiltered = [...form.querySelectorAll(".filters select, .filters input")].some((field) => field.value);
  document.getElementById("filters").open = isFiltered;
}

form.addEventListener("submit", (event) => { event.preventDefault(); select(0); });
form.addEventListener("input", () => {
  first = 0;
  clearTimeout(show.later);
  show.later = setTimeout(show, 120);
});
form.addEventListener("reset", () => { first = 0; setTimeout(show); });
list.addEventListener("focusin", (event) => { selected = [...list.children].indexOf(event.target.closest("li")); });
document.getElementById("previous").addEventListener("click", () => turn(-1));
document.getElementById("next").addEventListener("click", () => turn(1));

const keys = {
  "/": () => form.q.focus(),
  j: () => select(list.contains(document.activeElement) ? selected + 1 : selected),
  k: () => select(selected - 1),
  ArrowDown: () => select(list.contains(document.activeElement) ? selected + 1 : selected),
  ArrowUp: () => select(selected - 1),
  "]": () => turn(1),
  "[": () => turn(-1),
  f: () => { const part = document.getElementById("filters"); part.open = !part.open; part.querySelector("summary").focus(); },
  u: undo,
  "?": showHelp,
};
for (const [key, verdict] of Object.entries(VERDICT_KEYS)) keys[key] = () => judge(verdict);
onKeys(keys);
restore();
show();
showLeftOut();
