// What both pages share: JSON, verdicts, messages, keys. No library, no build step.
"use strict";

const canJudge = document.body.dataset.canJudge === "yes";
const VERDICT_KEYS = { 1: "keep", 2: "reject", 3: "look-again", 0: null };
const TIMES = "\u00d7";

async function ask(path, options) {
  const answer = await fetch(path, options);
  const found = await answer.json();
  if (!answer.ok) throw new Error(found.error);
  return found;
}

function say(text, isBad = false) {
  const place = document.getElementById("message");
  place.textContent = text;
  place.className = isBad ? "bad" : "";
  clearTimeout(say.later);
  say.later = setTimeout(() => { place.textContent = ""; }, 6000);
}

async function tried(work) {
  try {
    return await work();
  } catch (error) {
    say(error instanceof TypeError ? "The viewer does not answer; is ct-etl view still running?" : error.message, true);
    return null;
  }
}

function send(path, value) {
  return tried(() => ask(path, {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(value),
  }));
}

function showProgress(progress) {
  const place = document.getElementById("progress");
  if (!place) return;
  place.textContent = `${progress.seen} of ${progress.total} seen`;
  place.style.setProperty("--share", progress.total ? progress.seen / progress.total : 0);
}

function times(values) {
  return values.map((value) => +Number(value).toPrecision(4)).join(` ${TIMES} `);
}

function words(verdict) {
  return verdict ? verdict.replace("-", " ") : "";
}

function isTyping(event) {
  return event.target.matches("input:not([type=checkbox]):not([type=range]), select, textarea");
}

// Keys are names of KeyboardEvent.key; a handler gets the event. Nothing happens while somebody types.
function onKeys(handlers) {
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && isTyping(event)) event.target.blur();
    if (event.ctrlKey || event.metaKey || event.altKey || isTyping(event)) return;
    if (document.getElementById("help").open) return;
    const handler = handlers[event.key];
    if (handler) {
      event.preventDefault();
      handler(event);
    }
  });
}

function showHelp() {
  document.getElementById("help").showModal();
}

document.getElementById("show-help").addEventListener("click", showHelp);
