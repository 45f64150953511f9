// The page: reads the state once a second, and gives it to each part.

import { renderChain, troubles, waitsForBroker, watchSize } from "./chain.js";
import { Problem, key, stream } from "./connection.js";
import { byId, el, keyed, setAttribute, setText, show } from "./dom.js";
import { clockSeconds, plural, rate } from "./format.js";
import { renderLatency } from "./latency.js";
import { renderLetters, startLetters } from "./letters.js";
import { renderMessage, startMessage } from "./message.js";
import { renderTap, startTap } from "./tap.js";

/** Silence after which the connection counts as broken. A state comes every second. */
const SILENCE_MILLISECONDS = 5000;
/** Waits before the next attempts to connect. The last one is repeated. */
const WAITS_MILLISECONDS = [200, 1000, 2000, 3000, 5000];

let link = { abort: new AbortController(), wake: () => {}, attempt: 0, lastAt: null, isLost: false };

function render(state) {
  link.attempt = 0;
  link.lastAt = state.at;
  found();
  renderHeadline(state);
  renderChain(state);
  renderLatency(state);
  renderLetters(state);
  renderMessage(state);
  renderTap(state);
  renderPromises(state);
  setText(byId("beat-text"), clockSeconds(state.at));
}

// ---- Headline ----

function renderHeadline(state) {
  const found = troubles(state);
  const { text, level } = headline(state, found);
  setText(byId("headline"), text);
  setAttribute(byId("headline"), "data-state", level);
  setText(byId("announce-state"), text);
  document.title = level === "good" ? "dataflow live" : `${text} \u2013 dataflow live`;
  keyed(byId("troubles"), found, {
    key: (trouble) => `${trouble.stage}\n${trouble.text}`,
    create: (trouble) => el("li", {}, trouble.text),
    update: () => {},
  });
  setText(byId("facts"), facts(state));
}

function headline(state, found) {
  if (state.stages.length === 0) return { text: "No services are configured", level: "bad" };
  const silent = state.stages.filter((stage) => stage.replicas.every((replica) => !replica.reachable));
  if (state.stages.some(waitsForBroker)) return { text: "The MQTT broker is gone", level: "bad" };
  if (silent.length > 0) {
    const names = silent.map((stage) => stage.name).join(", ");
    return { text: `${names} ${silent.length === 1 ? "does" : "do"} not answer`, level: "bad" };
  }
  if (found.length > 0) {
    const names = [...new Set(found.map((trouble) => trouble.stage))].join(", ");
    return { text: `Not everything is ready: ${names}`, level: "warn" };
  }
  const unready = state.stages.filter((stage) => stage.replicas.some((replica) => !replica.ready));
  if (unready.length > 0) return { text: `Not ready: ${unready.map((stage) => stage.name).join(", ")}`, level: "warn" };
  return { text: state.stages.length === 1 ? "The service is ready" : `All ${state.stages.length} services are ready`, level: "good" };
}

function facts(state) {
  const first = state.stages.filter((stage) => stage.kind === "source");
  const sinks = state.stages.filter((stage) => stage.kind === "sink");
  const slowest = state.stages.find((stage) => stage.slowest);
  const replicas = state.stages.reduce((sum, stage) => sum + stage.replicas.length, 0);
  return [
    first.length > 0 ? `${rate(sum(first, "received_per_second"))} in` : null,
    ...sinks.map((stage) => `${rate(stage.sent_per_second)} durable in ${stage.name}`),
    slowest ? `slowest: ${slowest.name}` : null,
    plural(replicas, "replica"),
    plural(state.viewers, "viewer"),
  ].filter((text) => text !== null).join(" \u00b7 ");
}

function sum(stages, field) {
  return stages.reduce((total, stage) => total + (stage[field] ?? 0), 0);
}

function renderPromises(state) {
  const stages = state.stages.filter((stage) => (stage.guarantees ?? []).length > 0);
  keyed(byId("promises"), stages.length > 0 ? stages : [{ name: "" }], {
    key: (stage) => stage.name,
    create: (stage) => (stage.name === ""
      ? el("p", { class: "empty" }, "No service has answered yet.")
      : el("article", { "aria-label": `Guarantees of ${stage.name}` }, el("h3", {}, stage.name), el("ul"))),
    update: (node, stage) => {
      if (stage.name === "") return;
      keyed(node.querySelector("ul"), stage.guarantees, {
        key: String, create: (text) => el("li", {}, text), update: () => {},
      });
    },
  });
}

// ---- Connection ----

async function run() {
  for (;;) {
    link.abort = new AbortController();
    const error = await read();
    if (error instanceof Problem && (error.status === 401 || error.status === 403)) {
      await askForKey(error);
      continue;
    }
    const wait = WAITS_MILLISECONDS[Math.min(link.attempt, WAITS_MILLISECONDS.length - 1)];
    if (link.attempt > 0) lost(error);
    link.attempt += 1;
    await pause(wait);
  }
}

/** A defect of the page must not look like a lost connection. */
function tryRender(state) {
  try {
    render(state);
  } catch (error) {
    reportError(error);
  }
}

async function read() {
  try {
    const onEvent = (name, data) => name === "state" && tryRender(data);
    await stream("/live/state", { signal: link.abort.signal, silence: SILENCE_MILLISECONDS, onEvent });
    return null;
  } catch (error) {
    return error;
  }
}

function pause(milliseconds) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, milliseconds);
    link.wake = () => {
      clearTimeout(timer);
      resolve();
    };
  });
}

function lost(error) {
  if (link.isLost) return;
  link.isLost = true;
  setAttribute(document.body, "data-link", "lost");
  const isRefused = error instanceof Problem;
  setText(byId("lost-title"), isRefused ? "The server of this page refused it." : "This page has lost its server.");
  const shown = link.lastAt ? `What you see is of ${clockSeconds(link.lastAt)} UTC.` : "Nothing was received yet.";
  setText(byId("lost-text"), `${isRefused ? `${error.message}. ` : ""}${shown} It tries again every few seconds.`);
  show(byId("lost"), true);
  setText(byId("beat-text"), "lost");
  if (link.lastAt === null) setText(byId("headline"), isRefused ? "Refused" : "The server of this page does not answer");
}

function found() {
  link.isLost = false;
  show(byId("lost"), false);
  show(byId("gate"), false);
  show(byId("forget"), key.get() !== null);
  setAttribute(document.body, "data-link", "up");
  setAttribute(document.body, "data-seen", true);
}

async function askForKey(problem) {
  const had = key.get() !== null;
  setAttribute(document.body, "data-link", "gate");
  show(byId("lost"), false);
  show(byId("gate"), true);
  setText(byId("gate-error"), had ? `This key is not enough: ${problem.message}.` : "");
  setText(byId("beat-text"), "no key");
  byId("gate-key").focus();
  await new Promise((resolve) => byId("gate").addEventListener("submit", (event) => {
    event.preventDefault();
    key.set(byId("gate-key").value.trim());
    byId("gate-key").value = "";
    resolve();
  }, { once: true }));
}

// ---- Start ----

function startTheme() {
  const name = "dataflow.theme";
  const apply = (theme) => setAttribute(document.documentElement, "data-theme", theme || null);
  byId("theme").value = localStorage.getItem(name) ?? "";
  apply(byId("theme").value);
  byId("theme").addEventListener("change", () => {
    localStorage.setItem(name, byId("theme").value);
    apply(byId("theme").value);
  });
}

startTheme();
byId("lost-retry").addEventListener("click", () => link.wake());
byId("forget").addEventListener("click", () => {
  key.forget();
  link.attempt = 0;
  link.abort.abort();
});
startLetters();
startMessage();
startTap();
watchSize();
run();
