// The chain as a picture: a card for each stage, and rails between them.

import { byId, el, keyed, setAttribute, setText, show, sparkline, svg } from "./dom.js";
import { count, duration, plural, rate } from "./format.js";

/** Seconds that the small charts show. */
const SECONDS = 120;
const CHART = { length: SECONDS, width: 240, height: 34 };

const history = new Map();
let drawn = [];

/** Shows a state. */
export function renderChain(state) {
  const stages = inOrder(state.stages);
  for (const stage of stages) remember(stage);
  keyed(byId("stages"), [{ name: "", isOrigin: true, stages }, ...stages], {
    key: (stage) => stage.name,
    create: (stage) => (stage.isOrigin ? createOrigin() : createStage(stage)),
    update: (node, stage) => (stage.isOrigin ? updateOrigin(node, stage) : updateStage(node, stage)),
  });
  drawn = stages;
  arrange(stages);
  drawRails();
}

/** Draws the rails again whenever the cards move. */
export function watchSize() {
  new ResizeObserver(drawRails).observe(byId("map"));
}

/** Sentences about what is waited for, and about who does not answer. */
export function troubles(state) {
  return state.stages.flatMap((stage) => [...unreachable(stage), ...waiting(stage)]);
}

/** True if a stage waits for the MQTT broker. */
export function waitsForBroker(stage) {
  return stage.replicas.some((replica) => replica.reachable && (replica.waiting_for ?? []).some(isBroker));
}

function isBroker({ dependency }) {
  return /mqtt|broker/i.test(dependency);
}

function unreachable(stage) {
  const silent = stage.replicas.filter((replica) => !replica.reachable);
  if (stage.replicas.length === 0) return [{ stage: stage.name, text: `${stage.name} has no address.` }];
  if (silent.length === 0) return [];
  const where = silent.map((replica) => replica.address).join(", ");
  const why = silent[0].waiting_for?.[0]?.detail;
  const text = silent.length === stage.replicas.length
    ? `${stage.name} does not answer (${where})${why ? `: ${why}` : ""}.`
    : `${silent.length} of ${stage.replicas.length} replicas of ${stage.name} do not answer (${where}).`;
  return [{ stage: stage.name, text }];
}

function waiting(stage) {
  const seen = new Map();
  for (const replica of stage.replicas.filter((one) => one.reachable)) {
    for (const wait of replica.waiting_for ?? []) seen.set(`${wait.dependency}\n${wait.detail}`, wait);
  }
  return [...seen.values()].map((wait) => ({ stage: stage.name, text: waitText(stage, wait) }));
}

function waitText(stage, wait) {
  const detail = wait.detail ? `: ${wait.detail}` : "";
  if (isBroker(wait)) return `The MQTT broker is gone for ${stage.name}${detail}. No message comes in from it.`;
  return `${stage.name} waits for ${wait.dependency}${detail}.`;
}

/** Stages so that each comes after the one that feeds it, and branches stay together. */
function inOrder(stages) {
  const names = new Set(stages.map((stage) => stage.name));
  const result = [];
  const visit = (stage) => {
    if (result.includes(stage)) return;
    result.push(stage);
    stages.filter((next) => next.from === stage.name).forEach(visit);
  };
  stages.filter((stage) => !names.has(stage.from)).forEach(visit);
  return result;
}

function remember(stage) {
  const values = history.get(stage.name) ?? { received: [], sent: [], backlog: [] };
  push(values.received, stage.received_per_second);
  push(values.sent, stage.sent_per_second);
  push(values.backlog, stage.backlog);
  history.set(stage.name, values);
}

function push(list, value) {
  list.push(value ?? NaN);
  if (list.length > SECONDS) list.shift();
}

function createOrigin() {
  const text = el("span", { class: "origin-text" });
  return el("li", { class: "origin" }, el("div", { class: "origin-box" }, el("strong", {}, "devices"), text));
}

function updateOrigin(node, { stages }) {
  const isGone = stages.some(waitsForBroker);
  setText(node.querySelector(".origin-text"), isGone ? "broker gone" : "MQTT, HTTP");
  setAttribute(node, "data-state", isGone ? "bad" : "good");
}

function createStage(stage) {
  return el("li", { class: "stage", "data-stage": stage.name },
    el("div", { class: "into" }, el("span", { class: "sr" }, "backlog "), el("span", { class: "backlog" })),
    el("article", { class: "card", "aria-label": stage.name },
      el("header", {},
        el("h3", {}, stage.name),
        el("span", { class: "mark slowest", hidden: true }, "slowest"),
        el("span", { class: "kind" }, stage.kind)),
      el("div", { class: "flow" }, figure("in", "received"), figure("out", "sent")),
      svg("svg", { class: "chart", viewBox: `0 0 ${CHART.width} ${CHART.height}`, "aria-hidden": "true",
        preserveAspectRatio: "none" },
      svg("path", { class: "line-in" }), svg("path", { class: "line-out" })),
      el("dl", { class: "minor" }, ...pair("in flight", "flight"), ...pair("oldest", "oldest")),
      el("details", { class: "replicas" },
        el("summary", {}, el("span", { class: "dots", "aria-hidden": "true" }), el("span", { class: "ready" })),
        el("ul", { class: "addresses" }),
        el("dl", { class: "totals" },
          ...["received", "sent", "skipped", "dead_lettered", "dropped", "nacked"].flatMap((name) => pair(LABELS[name], `total-${name}`)))),
      el("p", { class: "wait", hidden: true })));
}

const LABELS = {
  received: "received", sent: "sent", skipped: "skipped", dead_lettered: "dead letters", dropped: "dropped",
  nacked: "handed back",
};

function figure(label, name) {
  return el("div", {}, el("span", { class: "label" }, label), el("span", { class: `value ${name}` }));
}

function pair(label, name) {
  return [el("dt", {}, label), el("dd", { class: name })];
}

function updateStage(node, stage) {
  const part = (selector) => node.querySelector(selector);
  const silent = stage.replicas.filter((replica) => !replica.reachable).length;
  const ready = stage.replicas.filter((replica) => replica.reachable && replica.ready).length;
  const isSilent = silent === stage.replicas.length;
  setAttribute(node, "data-state", isSilent ? "silent" : ready < stage.replicas.length ? "waiting" : "good");
  setText(part(".received"), rate(stage.received_per_second));
  setText(part(".sent"), rate(stage.sent_per_second));
  setText(part(".flight"), count(stage.in_flight));
  setText(part(".oldest"), duration(stage.oldest_seconds));
  show(part(".slowest"), stage.slowest === true);
  setAttribute(node, "data-slowest", stage.slowest === true);
  updateBacklog(part(".into"), stage);
  updateCharts(node, stage);
  updateReplicas(node, stage, ready);
  for (const name of Object.keys(LABELS)) setText(part(`.total-${name}`), count(stage[name]));
  const wait = troubles({ stages: [stage] });
  show(part(".wait"), wait.length > 0);
  setText(part(".wait"), wait.map((trouble) => trouble.text).join(" "));
}

function updateBacklog(into, stage) {
  show(into, stage.backlog !== null && stage.backlog !== undefined);
  setText(into.querySelector(".backlog"), count(stage.backlog));
  setAttribute(into, "data-level", stage.backlog > 0 ? (stage.slowest ? "high" : "some") : "none");
}

function updateCharts(node, stage) {
  const { received, sent } = history.get(stage.name);
  const top = Math.max(1, ...[...received, ...sent].filter(Number.isFinite));
  setAttribute(node.querySelector(".line-in"), "d", sparkline(received, { ...CHART, top }));
  setAttribute(node.querySelector(".line-out"), "d", sparkline(sent, { ...CHART, top }));
}

function updateReplicas(node, stage, ready) {
  const total = stage.replicas.length;
  setText(node.querySelector(".ready"), total === 1
    ? ready === 1 ? "1 replica, ready" : "1 replica, not ready"
    : `${ready} of ${plural(total, "replica")} ready`);
  keyed(node.querySelector(".dots"), stage.replicas, {
    key: (replica) => replica.address,
    create: () => el("i"),
    update: (dot, replica) => setAttribute(dot, "data-state", replicaState(replica)),
  });
  keyed(node.querySelector(".addresses"), stage.replicas, {
    key: (replica) => replica.address,
    create: () => el("li"),
    update: (item, replica) => setText(item, `${replica.address} ${STATES[replicaState(replica)]}`
      + (replica.version ? `, version ${replica.version}` : "")),
  });
}

const STATES = { good: "is ready", waiting: "is not ready", silent: "does not answer" };

function replicaState(replica) {
  if (!replica.reachable) return "silent";
  return replica.ready ? "good" : "waiting";
}

/** Puts each card in the column of its distance from the devices, and in the rows of its branches. */
function arrange(stages) {
  const place = new Map([["", { column: 1, row: 1, rows: 0 }]]);
  let row = 1;
  const visit = (stage, column) => {
    const next = stages.filter((other) => other.from === stage.name);
    const first = row;
    next.forEach((other) => visit(other, column + 1));
    if (next.length === 0) row += 1;
    place.set(stage.name, { column, row: first, rows: row - first });
  };
  const names = new Set(stages.map((stage) => stage.name));
  stages.filter((stage) => !names.has(stage.from)).forEach((stage) => visit(stage, 2));
  place.get("").rows = Math.max(1, row - 1);
  const columns = Math.max(...[...place.values()].map(({ column }) => column));
  byId("stages").style.setProperty("--columns", columns - 1);
  [...byId("stages").children].forEach((node) => {
    const { column, row: first, rows } = place.get(node.dataset.stage ?? "");
    node.style.gridColumn = String(column);
    node.style.gridRow = `${first} / span ${rows}`;
    const siblings = stages.filter((other) => other.from === stageNamed(stages, node)?.from);
    setAttribute(node, "data-branch", siblings.length > 1);
  });
}

function stageNamed(stages, node) {
  return stages.find((stage) => stage.name === node.dataset.stage);
}

/** Draws a rail to each stage. */
function drawRails() {
  const nodes = new Map([...byId("stages").children].map((node) => [node.dataset.stage ?? "", node]));
  const map = byId("map").getBoundingClientRect();
  setAttribute(byId("rails"), "viewBox", `0 0 ${Math.round(map.width)} ${Math.round(map.height)}`);
  keyed(byId("rails"), drawn, {
    key: (stage) => stage.name,
    create: () => svg("g", {}, svg("path", { class: "rail" }), svg("path", { class: "train" })),
    update: (group, stage) => {
      const from = nodes.get(nodes.has(stage.from ?? "") ? stage.from ?? "" : "");
      const path = railPath(boxOf(from, map), boxOf(nodes.get(stage.name), map));
      for (const part of group.children) setAttribute(part, "d", path);
      setAttribute(group, "data-state", railState(stage));
      setAttribute(group, "data-speed", speed(stage.received_per_second));
    },
  });
}

function boxOf(node, map) {
  const box = (node.querySelector(".card, .origin-box")).getBoundingClientRect();
  return { left: box.left - map.left, right: box.right - map.left, top: box.top - map.top,
    bottom: box.bottom - map.top, middle: (box.top + box.bottom) / 2 - map.top };
}

/** From the right edge to the left edge where cards are side by side, else from bottom to top. */
function railPath(from, to) {
  if (to.left >= from.right) {
    if (Math.abs(from.middle - to.middle) < 2) return `M${from.right} ${from.middle}H${to.left}`;
    const x = from.right + 26;
    const turn = to.middle > from.middle ? 10 : -10;
    return `M${from.right} ${from.middle}H${x - 10}Q${x} ${from.middle} ${x} ${from.middle + turn}`
      + `V${to.middle - turn}Q${x} ${to.middle} ${x + 10} ${to.middle}H${to.left}`;
  }
  const x = from.left + 14;
  if (to.left <= x) return `M${x} ${from.bottom}V${to.top}`;
  const y = to.top + 26;
  return `M${x} ${from.bottom}V${y - 10}Q${x} ${y} ${x + 10} ${y}H${to.left}`;
}

function railState(stage) {
  if (waitsForBroker(stage) || stage.replicas.every((replica) => !replica.reachable)) return "broken";
  return stage.slowest ? "slow" : "good";
}

function speed(perSecond) {
  if (!(perSecond > 0)) return 0;
  return Math.min(4, 1 + Math.floor(Math.log10(Math.max(1, perSecond))));
}
