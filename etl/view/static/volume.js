// One volume in three planes: pictures come from the server, positions are the volume's own indices (k, j, i).
"use strict";

const node = document.getElementById("content").dataset.node;
const look = document.getElementById("look");
const link = new URLSearchParams({ node });
const list = new URLSearchParams(location.search);
list.delete("node");
let about = null;
let index = [0, 0, 0];
const panes = [];

function pictureAddress(axis, at) {
  const overlay = look.overlay.value;
  return `picture?${link}&axis=${axis}&index=${at}&window=${encodeURIComponent(look.window.value)}` +
    (overlay ? `&overlay=${encodeURIComponent(overlay)}` : "");
}

function makePane(plane) {
  const part = document.getElementById("plane").content.cloneNode(true);
  const figure = part.querySelector("figure");
  const box = part.querySelector(".picture");
  const image = part.querySelector("img");
  const slider = part.querySelector("input");
  const last = about.shape[plane.axis] - 1;
  [image.width, image.height] = plane.size_px;
  // Letters would cover a stack of few slices.
  box.classList.toggle("thin", plane.size_px[1] < plane.size_px[0] / 4);
  ["left", "right", "top", "bottom"].forEach((edge, n) => {
    part.querySelector(`.letter.${edge}`).textContent = plane.letters[n];
  });
  slider.max = last;
  slider.setAttribute("aria-label", `${plane.name} slice`);
  box.setAttribute("aria-valuemax", last);
  box.setAttribute("aria-label", `${plane.name} picture, slice`);
  const pane = { plane, figure, box, image, slider, caption: part.querySelector("figcaption"), isLoading: false, shown: "" };
  slider.addEventListener("input", () => move(plane.axis, Number(slider.value)));
  box.addEventListener("wheel", (event) => {
    event.preventDefault();
    move(plane.axis, index[plane.axis] + (event.deltaY > 0 ? -1 : 1));
  }, { passive: false });
  box.addEventListener("keydown", (event) => {
    const step = { ArrowUp: 1, ArrowRight: 1, ArrowDown: -1, ArrowLeft: -1, PageUp: 10, PageDown: -10 }[event.key];
    if (!step) return;
    event.preventDefault();
    move(plane.axis, index[plane.axis] + step * (event.shiftKey ? 10 : 1));
  });
  box.addEventListener("pointermove", (event) => point(pane, event));
  box.addEventListener("click", (event) => {
    const at = indexAt(pane, event);
    if (at) { index = at; showAll(); }
  });
  image.addEventListener("load", () => { pane.isLoading = false; load(pane); });
  image.addEventListener("error", () => {
    pane.isLoading = false;
    say("A slice cannot be read: part of the volume is missing or damaged.", true);
  });
  document.getElementById("planes").append(part);
  return pane;
}

// Only the newest slice that was asked for is loaded next: a wheel turns faster than pictures come.
function load(pane) {
  const address = pictureAddress(pane.plane.axis, index[pane.plane.axis]);
  if (pane.isLoading || pane.shown === address) return;
  pane.isLoading = true;
  pane.shown = address;
  pane.image.src = address;
}

function otherAxes(axis) {
  return [0, 1, 2].filter((one) => one !== axis);
}

function place(plane, at) {
  // Where a voxel lies in the picture, as shares: the inverse of plane.to_index.
  const [[a, b, c], [d, e, f]] = plane.to_index;
  const [rowAxis, columnAxis] = otherAxes(plane.axis);
  const column = at[columnAxis] + 0.5 - c;
  const row = at[rowAxis] + 0.5 - f;
  const determinant = a * e - b * d;
  return [(e * column - b * row) / determinant / plane.size_px[0], (a * row - d * column) / determinant / plane.size_px[1]];
}

function indexAt(pane, event) {
  const area = pane.image.getBoundingClientRect();
  const x = (event.clientX - area.left) / area.width * pane.plane.size_px[0];
  const y = (event.clientY - area.top) / area.height * pane.plane.size_px[1];
  const [column, row] = pane.plane.to_index.map(([a, b, c]) => Math.floor(a * x + b * y + c));
  const [rowAxis, columnAxis] = otherAxes(pane.plane.axis);
  const at = [...index];
  at[rowAxis] = row;
  at[columnAxis] = column;
  return at.every((value, axis) => value >= 0 && value < about.shape[axis]) ? at : null;
}

let pointed = 0;
let waiting = null;

function point(pane, event) {
  const at = indexAt(pane, event);
  const target = document.getElementById("pointer");
  if (!at) { target.textContent = "outside the grid"; return; }
  const number = ++pointed;
  clearTimeout(waiting);
  waiting = setTimeout(async () => {
    const [k, j, i] = at;
    const found = await tried(() => ask(`api/hu?${link}&k=${k}&j=${j}&i=${i}`));
    if (!found || number !== pointed) return;
    const [x, y, z] = found.position_lps_mm;
    target.textContent = `${found.hu} HU${found.clipped ? " (clipped)" : ""} at voxel (${k}, ${j}, ${i}); ` +
      `L ${x}, P ${y}, S ${z} mm; ${found.validity}`;
  }, 30);
}

function move(axis, to) {
  index[axis] = Math.max(0, Math.min(about.shape[axis] - 1, to));
  showAll();
}

function showAll() {
  for (const pane of panes) {
    const { axis, name } = pane.plane;
    pane.slider.value = index[axis];
    pane.box.setAttribute("aria-valuenow", index[axis]);
    pane.caption.textContent = `${name} ${index[axis] + 1} / ${about.shape[axis]}`;
    pane.image.alt = `${name} slice ${index[axis] + 1}, ${look.window.value} window`;
    const [x, y] = place(pane.plane, index);
    pane.box.style.setProperty("--x", x);
    pane.box.style.setProperty("--y", y);
    load(pane);
  }
  document.getElementById("legend").hidden = look.overlay.value !== "validity";
}

function cycle(select) {
  select.selectedIndex = (select.selectedIndex + 1) % select.options.length;
  select.dispatchEvent(new Event("change", { bubbles: true }));
}

function showAbout() {
  const warnings = about.warnings.map((warning) => {
    const line = document.createElement("li");
    line.textContent = warning.words;
    line.title = warning.code;
    return line;
  });
  document.getElementById("warnings").replaceChildren(...warnings);
  document.getElementById("facts").replaceChildren(...about.facts.flatMap(([name, value]) => {
    const term = document.createElement("dt");
    const text = document.createElement("dd");
    term.textContent = name;
    text.textContent = value;
    return [term, text];
  }));
  for (const [name, target] of [["previous", about.previous], ["next", about.next]]) {
    const anchor = document.getElementById(name);
    if (target) anchor.href = `volume?${addressOf(target)}`;
    else anchor.removeAttribute("href");
  }
}

function addressOf(target) {
  const values = new URLSearchParams({ node: target });
  for (const [name, value] of list) values.append(name, value);
  return values;
}

function showVerdict() {
  if (!canJudge) return;
  for (const button of document.querySelectorAll("[data-verdict]")) {
    button.setAttribute("aria-pressed", button.dataset.verdict === about.verdict);
  }
  document.getElementById("note").value = about.note;
}

async function judge(verdict) {
  if (!canJudge || !about) return;
  const note = document.getElementById("note").value;
  const done = await send("api/verdict", { node, verdict, note });
  if (!done) return;
  about.verdict = verdict;
  about.note = verdict ? note : "";
  showVerdict();
  showProgress(done.progress);
  say(verdict ? `Saved: ${words(verdict)}` : "The verdict is taken away.");
}

async function undo() {
  if (!canJudge) return;
  const done = await send("api/undo", {});
  if (!done) return;
  if (done.node && done.node !== node) { location.href = `volume?${addressOf(done.node)}`; return; }
  say(done.node ? "Taken back." : "There is nothing to take back.");
  const found = await tried(() => ask(`api/volume?${link}&${list}`));
  if (found) { about.verdict = found.verdict; about.note = found.note; showVerdict(); showProgress(found.progress); }
}

function hasWebGl() {
  try {
    return Boolean(document.createElement("canvas").getContext("webgl2"));
  } catch {
    return false;
  }
}

function offerNeuroglancer() {
  const anchor = document.getElementById("neuroglancer");
  const lack = document.getElementById("no-neuroglancer");
  if (!lack.hidden) return;
  if (!hasWebGl()) { lack.hidden = false; return; }
  anchor.hidden = false;
  anchor.href = "#";
  anchor.addEventListener("click", async (event) => {
    event.preventDefault();
    const scene = await tried(() => ask(`api/scene?${link}&window=${encodeURIComponent(look.window.value)}`));
    if (scene) location.href = `v/neuroglancer/#!${encodeURIComponent(JSON.stringify(scene))}`;
  });
}

async function start() {
  document.getElementById("back").href = `./?${sessionStorage.getItem("list") || ""}`;
  about = await tried(() => ask(`api/volume?${link}&${list}`));
  if (!about) return;
  for (const name of Object.keys(about.windows)) {
    const [low, high] = about.windows[name];
    look.window.append(new Option(`${name} (${low} to ${high} HU)`, name));
  }
  const remembered = sessionStorage.getItem("window");
  look.window.value = remembered in about.windows ? remembered : about.usual_window;
  for (const overlay of about.overlays) look.overlay.append(new Option(overlay.replace(/^label:/, "label "), overlay));
  index = about.shape.map((n) => Math.floor(n / 2));
  panes.push(...about.planes.map(makePane));
  // All pictures in one scale: a millimeter is as long in each.
  const widest = Math.max(...about.planes.map((plane) => plane.size_px[0] * plane.pixel_mm));
  for (const pane of panes) pane.box.style.setProperty("--share", pane.plane.size_px[0] * pane.plane.pixel_mm / widest);
  showAbout();
  showVerdict();
  showProgress(about.progress);
  showAll();
  offerNeuroglancer();
}

look.addEventListener("change", () => {
  sessionStorage.setItem("window", look.window.value);
  showAll();
});
look.addEventListener("submit", (event) => event.preventDefault());
for (const button of document.querySelectorAll("[data-verdict]")) {
  button.addEventListener("click", () => judge(button.dataset.verdict));
}
const note = document.getElementById("note");
if (note) note.addEventListener("change", () => { if (about && about.verdict) judge(about.verdict); });
if (note) note.addEventListener("keydown", (event) => { if (event.key === "Enter") note.blur(); });
const undoButton = document.getElementById("undo");
if (undoButton) undoButton.addEventListener("click", undo);

const keys = {
  w: () => cycle(look.window),
  o: () => cycle(look.overlay),
  ".": () => document.getElementById("next").click(),
  ",": () => document.getElementById("previous").click(),
  n: () => note && note.focus(),
  c: () => document.getElementById("back").click(),
  u: undo,
  "?": showHelp,
};
for (const [key, verdict] of Object.entries(VERDICT_KEYS)) keys[key] = () => judge(verdict);
onKeys(keys);
start();
