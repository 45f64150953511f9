// Samples of the messages that pass.

import { Problem, stream } from "./connection.js";
import { byId, el, keyed, setAttribute, setText, show } from "./dom.js";
import { clock, count, plural } from "./format.js";

/** Most samples that are shown. */
const MAX_ROWS = 100;
/** Shortest time of a stream that is opened again when the server ends it. */
const RENEWED_MILLISECONDS = 60_000;

let tap = null;
let isDrawing = false;

/** Connects the form. */
export function startTap() {
  byId("tap-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const device = byId("tap-device").value;
    if (tap && tap.device === device) stop("Off.");
    else open(device);
  });
  byId("tap-device").addEventListener("input", nameButton);
  byId("tap-pause").addEventListener("click", () => {
    tap.isPaused = !tap.isPaused;
    if (!tap.isPaused) tap.passed = 0;
    describe();
  });
}

/** Shows what the server dropped for all viewers. */
export function renderTap(state) {
  if (tap) return;
  const viewers = state.tap?.viewers ?? 0;
  setText(byId("tap-lost"), viewers > 0 ? `${plural(viewers, "other viewer")} of samples.` : "");
}

async function open(device) {
  tap?.abort.abort();
  const current = { device, rows: [], number: 0, lost: 0, passed: 0, isPaused: false, abort: new AbortController() };
  tap = current;
  const path = device === "" ? "/live/tap" : `/live/tap?${new URLSearchParams({ device })}`;
  describe();
  let why = "The server closed the stream.";
  try {
    let begun;
    // The server ends each stream after ten minutes, to check the key again.
    do {
      begun = Date.now();
      await stream(path, { signal: current.abort.signal, onOpen: () => opened(current), onEvent: (name, data) => receive(current, name, data) });
    } while (tap === current && Date.now() - begun > RENEWED_MILLISECONDS);
  } catch (error) {
    why = error instanceof Problem ? `Refused: ${error.message}` : "The connection broke.";
  }
  if (tap === current) stop(why);
}

function opened(current) {
  current.isOpen = true;
  if (tap === current) describe();
}

function receive(current, name, data) {
  if (tap !== current) return;
  if (name === "lost") current.lost += data.dropped;
  if (name === "sample" && current.isPaused) current.passed += 1;
  if (name === "sample" && !current.isPaused) {
    current.rows.unshift({ ...data, number: current.number });
    current.number += 1;
    current.rows.length = Math.min(current.rows.length, MAX_ROWS);
  }
  if (isDrawing) return;
  isDrawing = true;
  requestAnimationFrame(() => {
    isDrawing = false;
    if (tap === current) describe();
  });
}

function stop(text) {
  tap.abort.abort();
  tap = null;
  setText(byId("tap-status"), text);
  byId("tap-pause").disabled = true;
  setAttribute(byId("tap-pause"), "aria-pressed", "false");
  setText(byId("tap-pause"), "Pause");
  nameButton();
}

function nameButton() {
  const isSame = tap !== null && tap.device === byId("tap-device").value;
  setText(byId("tap-start"), tap === null ? "Start" : isSame ? "Stop" : "Apply");
}

function describe() {
  nameButton();
  byId("tap-pause").disabled = false;
  setAttribute(byId("tap-pause"), "aria-pressed", String(tap.isPaused));
  setText(byId("tap-pause"), tap.isPaused ? "Go on" : "Pause");
  const of = tap.device === "" ? "all devices" : tap.device;
  setText(byId("tap-status"), tap.isPaused ? "Paused." : tap.isOpen ? `Samples of ${of}.` : "Connecting.");
  const passed = tap.isPaused ? `${count(tap.passed)} passed while paused. ` : "";
  setText(byId("tap-lost"), `${passed}${tap.lost > 0 ? `${count(tap.lost)} lost.` : "None lost."}`);
  show(byId("tap-scroll"), true);
  const rows = tap.rows.length > 0 ? tap.rows : [{ number: "empty" }];
  keyed(byId("samples"), rows, { key: (row) => `${tap.device}\n${row.number}`, create, update: () => {} });
}

function create(row) {
  if (row.number === "empty") {
    return el("tr", {}, el("td", { colspan: "5", class: "quiet" }, "Nothing has passed since the start."));
  }
  return el("tr", { "data-step": row.step },
    el("td", { class: "number" }, clock(row.at)), el("td", {}, row.stage), el("td", {}, row.step.replace("_", " ")),
    el("td", { class: "device" }, row.device_id || "\u2013"), el("td", { class: "content" }, content(row)));
}

function content(row) {
  if (row.reason) return `${row.reason} ${row.detail ?? ""}`;
  return row.record?.text ?? row.destination ?? row.source ?? "";
}
