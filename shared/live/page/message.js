// One message: send it, or wait for it, and show each step that the services tell of it.

import { Problem, post, stream } from "./connection.js";
import { byId, el, keyed, setAttribute, setText, show, svg } from "./dom.js";
import { clock, duration, plural, pretty } from "./format.js";

/** Most steps that are kept of one message. */
const MAX_STEPS = 200;
/** Longest wait for the services to turn on their reports, in milliseconds. */
const READY_MILLISECONDS = 10000;

const FINAL = ["durable", "dead_lettered", "skipped", "dropped"];
const STEPS = {
  received: "received", transformed: "transformed", durable: "durable", dead_lettered: "dead letter",
  skipped: "skipped", dropped: "dropped", nacked: "handed back",
};

let trace = null;
let stages = [];
let rights = {};

/** Takes what the trace and the forms need of a state. */
export function renderMessage(state) {
  stages = state.stages;
  rights = state.rights ?? {};
  const why = rights.send === false
    ? "Sending is off: the server has no address for test messages, or your key may not send." : "";
  setText(byId("send-note"), why);
  show(byId("send-note"), why !== "");
  for (const field of byId("send").querySelectorAll("input, textarea, button")) field.disabled = why !== "";
  if (trace && !trace.isOver) describe();
}

/** Connects the forms. */
export function startMessage() {
  byId("send").addEventListener("submit", (event) => {
    event.preventDefault();
    sendAndFollow();
  });
  byId("follow").addEventListener("submit", (event) => {
    event.preventDefault();
    const by = byId("follow-by").value;
    const value = byId("follow-value").value;
    follow({ by, value, ingestId: by === "ingest_id" ? value : null });
  });
  byId("trace-stop").addEventListener("click", () => end("Stopped."));
  byId("letters-example").addEventListener("click", () => {
    byId("send-payload").value = '{"temperature": "warm"}';
    byId("send-payload").focus();
  });
}

async function sendAndFollow() {
  const device = byId("send-device").value;
  const payload = readPayload();
  if (payload === undefined) return;
  const current = follow({ by: "device", value: device, ingestId: null, isSending: true });
  try {
    await current.ready;
    const answer = await post("/live/messages", { device, payload });
    current.ingestId = answer.ingest_id;
    const own = current.hops.filter((hop) => hop.ingest_id === answer.ingest_id);
    current.others += current.hops.length - own.length;
    current.hops = own;
    if (trace === current) describe();
  } catch (error) {
    if (trace !== current || current.isOver) return;
    fail(error instanceof Problem ? error.message : "The server does not answer.");
    end("The message was not sent.");
  }
}

function readPayload() {
  fail("");
  try {
    return JSON.parse(byId("send-payload").value);
  } catch (error) {
    fail(`This is no JSON: ${error.message}`);
    byId("send-payload").focus();
    return undefined;
  }
}

function fail(text) {
  setText(byId("send-error"), text);
  setAttribute(byId("send-payload"), "aria-invalid", text.startsWith("This is no JSON") ? "true" : null);
}

/** Opens a stream of steps, and shows them from now on. */
function follow({ by, value, ingestId, isSending = false }) {
  trace?.abort.abort();
  const current = { by, value, ingestId, isSending, hops: [], others: 0, lost: 0, missing: [], abort: new AbortController(), isReady: false };
  current.ready = new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new Problem(0, "The services did not begin to report.")), READY_MILLISECONDS);
    current.resolve = () => (clearTimeout(timer), resolve());
    current.reject = (error) => (clearTimeout(timer), reject(error));
  });
  current.ready.catch((error) => {
    if (trace === current && !current.isOver && !isSending) end(error.message);
  });
  trace = current;
  if (matchMedia("(max-width: 62rem)").matches) byId("trace").scrollIntoView({ block: "start" });
  byId("steps").replaceChildren();
  keyed(byId("steps"), [], { key: String });
  describe();
  read(current);
  return current;
}

async function read(current) {
  const path = `/live/follow?${new URLSearchParams({ [current.by]: current.value })}`;
  let why = "The server closed the stream. Later steps are missing.";
  try {
    await stream(path, { signal: current.abort.signal, onEvent: (name, data) => receive(current, name, data) });
  } catch (error) {
    why = error instanceof Problem ? error.message : "The connection broke. Later steps are missing.";
  }
  current.reject(new Problem(0, why));
  if (trace === current && !current.isOver) end(why);
}

function receive(current, name, data) {
  if (current !== trace || current.isOver) return;
  if (name === "ready") {
    current.isReady = true;
    current.missing = data.missing ?? [];
    current.resolve();
  }
  if (name === "hop") take(current, data);
  if (name === "lost") current.lost += data.dropped;
  describe();
}

/** Keeps the steps of one message: that of the id, else the first one that arrives. */
function take(current, hop) {
  if (current.ingestId === null && !current.isSending && hop.ingest_id) current.ingestId = hop.ingest_id;
  if (current.ingestId !== null && hop.ingest_id !== current.ingestId) {
    current.others += 1;
    return;
  }
  if (current.hops.length >= MAX_STEPS) return;
  current.hops.push({ ...hop, number: current.hops.length });
}

function end(text) {
  trace.isOver = true;
  trace.text = text;
  trace.abort.abort();
  describe();
}

function describe() {
  const { hops } = trace;
  const outcome = trace.isOver ? null : finished();
  if (outcome) {
    end(outcome);
    return;
  }
  show(byId("trace-empty"), hops.length === 0 && trace.isOver === true);
  show(byId("trace-stop"), !trace.isOver);
  setText(byId("trace-status"), trace.isOver ? trace.text : progress());
  renderFacts();
  renderSteps();
}

/** Says how the message ended, or null while a sink has not told. */
function finished() {
  const refused = trace.hops.find((hop) => hop.step === "dead_lettered" || hop.step === "dropped");
  const sinks = stages.filter((stage) => !stages.some((next) => next.from === stage.name)).map((stage) => stage.name);
  const ended = (name) => trace.hops.find((hop) => hop.stage === name && FINAL.includes(hop.step));
  const before = trace.hops.find((hop) => !sinks.includes(hop.stage) && FINAL.includes(hop.step) && hop.step !== "durable");
  if (before) return outcomeOf(before);
  if (sinks.length === 0 || !sinks.every(ended)) return null;
  if (refused) return outcomeOf(refused);
  const steps = [...new Set(sinks.map((name) => ended(name).step))];
  const parts = steps.map((step) => `${STEPS[step]} in ${list(sinks.filter((name) => ended(name).step === step))}`);
  return capital(`${parts.join(", ")} after ${duration(offset(last()))}.`);
}

function capital(text) {
  return text.charAt(0).toUpperCase() + text.slice(1);
}

/** Names as in a sentence, such as `a, b and c`. */
function list(names) {
  return names.length < 2 ? names.join() : `${names.slice(0, -1).join(", ")} and ${names.at(-1)}`;
}

function outcomeOf(hop) {
  return capital(`${STEPS[hop.step]} in ${hop.stage}${hop.reason ? `: ${hop.reason}` : ""}.`);
}

function progress() {
  if (!trace.isReady) return "Asking the services to report.";
  if (trace.hops.length === 0) {
    return trace.isSending ? "Sent. Waiting for the first step." : `Waiting for a message with ${trace.by.replace("_", " ")} ${trace.value}.`;
  }
  const waiting = stages.filter((stage) => !trace.hops.some((hop) => hop.stage === stage.name && FINAL.includes(hop.step)));
  return `Waiting for ${list(waiting.map((stage) => stage.name))}.`;
}

function last() {
  return trace.hops.reduce((a, b) => (Date.parse(b.at) > Date.parse(a.at) ? b : a));
}

function start() {
  return Math.min(...trace.hops.map((hop) => Date.parse(hop.at)));
}

function offset(hop) {
  return (Date.parse(hop.at) - start()) / 1000;
}

function renderFacts() {
  const first = trace.hops[0];
  const facts = first ? [
    ["device", first.device_id || "unknown"], ["ingest id", first.ingest_id || "none yet"],
    ["first step", `${clock(start())} UTC`], ["first to last step", duration(offset(last()))],
  ] : [];
  const confirmed = trace.hops.find((hop) => hop.step === "durable" && isSource(hop.stage));
  const end = trace.hops.filter((hop) => hop.step === "durable").at(-1);
  if (confirmed && end !== confirmed) facts.push(["confirmed to durable", duration(offset(end) - offset(confirmed))]);
  if (trace.others > 0) facts.push(["other messages", `${plural(trace.others, "step")} not shown`]);
  if (trace.lost > 0) facts.push(["lost steps", String(trace.lost)]);
  if (trace.missing.length > 0) facts.push(["no report of", trace.missing.map(({ replica, why }) => `${replica} (${why})`).join(", ")]);
  if (first && rights.payload === false) facts.push(["content", "not shown: your key lacks the scope payload"]);
  keyed(byId("trace-facts"), facts, {
    key: ([name]) => name,
    create: ([name]) => el("div", {}, el("dt", {}, name), el("dd")),
    update: (node, [, value]) => setText(node.querySelector("dd"), value),
  });
}

function isSource(name) {
  return stages.some((stage) => stage.name === name && stage.kind === "source");
}

function renderSteps() {
  const order = stages.map((stage) => stage.name);
  const names = [...new Set(trace.hops.map((hop) => hop.stage))].sort((a, b) => order.indexOf(a) - order.indexOf(b));
  const groups = names.map((name) => ({ name, hops: byTime(trace.hops.filter((hop) => hop.stage === name)) }));
  const total = Math.max(0.001, ...trace.hops.map(offset));
  keyed(byId("steps"), groups, {
    key: (group) => group.name,
    create: createGroup,
    update: (node, group) => updateGroup(node, group, total),
  });
}

function byTime(hops) {
  return hops.sort((a, b) => Date.parse(a.at) - Date.parse(b.at) || a.number - b.number);
}

function createGroup(group) {
  return el("li", { class: "step", "data-step-stage": group.name },
    el("div", { class: "step-head" }, el("h3", {}, group.name), el("span", { class: "took number" }),
      svg("svg", { class: "waterfall", viewBox: "0 0 1000 12", preserveAspectRatio: "none", "aria-hidden": "true" },
        svg("path", { class: "track", d: "M0 6H1000" }), svg("path", { class: "range" }))),
    el("ol", { class: "hops" }));
}

function updateGroup(node, group, total) {
  const [from, to] = [offset(group.hops[0]), offset(group.hops.at(-1))];
  const final = group.hops.find((hop) => FINAL.includes(hop.step));
  setAttribute(node, "data-outcome", final?.step ?? "open");
  setText(node.querySelector(".took"), `${duration(to - from)}`);
  const left = Math.round((from / total) * 1000);
  setAttribute(node.querySelector(".range"), "d", `M${Math.min(left, 994)} 6H${Math.max(left + 6, Math.round((to / total) * 1000))}`);
  keyed(node.querySelector(".hops"), group.hops, { key: (hop) => hop.number, create: createHop, update: updateHop });
}

function createHop(hop) {
  const place = hop.step === "received" ? hop.source && `from ${hop.source}` : hop.destination && `to ${hop.destination}`;
  const node = el("li", { "data-step": hop.step },
    el("span", { class: "offset number" }),
    el("span", { class: "hop-name" }, STEPS[hop.step] ?? hop.step),
    el("span", { class: "hop-place" }, place ?? ""),
    el("time", { class: "quiet", datetime: hop.at }, clock(hop.at)),
    el("span", { class: "quiet replica" }, hop.replica ?? ""));
  if (hop.reason || hop.detail) {
    node.append(el("p", { class: "hop-why" }, hop.reason ? el("code", {}, hop.reason) : null, ` ${hop.detail ?? ""}`));
  }
  if (hop.record) node.append(recordOf(hop.record));
  return node;
}

function updateHop(node, hop) {
  setText(node.querySelector(".offset"), `+${duration(offset(hop))}`);
}

function recordOf(record) {
  const node = el("details", { class: "record" },
    el("summary", {}, record.kind, record.truncated ? ", cut to 16 KiB" : ""),
    block(record.kind, record.text));
  const decoded = record.kind === "envelope" ? payloadOf(record.text) : null;
  if (decoded !== null) node.append(el("p", { class: "quiet" }, "its payload, decoded"), block("payload", decoded));
  return node;
}

function block(label, text) {
  return el("pre", { tabindex: "0", role: "group", "aria-label": label }, pretty(text));
}

/** Payload of an envelope as text, or null if it is no text. */
function payloadOf(envelope) {
  try {
    const bytes = Uint8Array.from(atob(JSON.parse(envelope).payload), (letter) => letter.charCodeAt(0));
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    return null;
  }
}
