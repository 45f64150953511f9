// Percentiles on one logarithmic scale, a row for each stage and for each whole way.

import { byId, el, keyed, setAttribute, setText, sparkline, svg } from "./dom.js";
import { count, duration } from "./format.js";

const MIN = 0.001;
const MAX = 600;
const TICKS = [[0.001, "1\u202fms"], [0.01, "10\u202fms"], [0.1, "100\u202fms"], [1, "1\u202fs"], [10, "10\u202fs"],
  [60, "1\u202fmin"], [600, "10\u202fmin"]];
const SCALE = { width: 1000, height: 20 };
const CHART = { length: 120, width: 120, height: 20 };

const history = new Map();

/** Shows a state. */
export function renderLatency(state) {
  const rows = [{ key: "head", kind: "head" }];
  for (const stage of state.stages) {
    rows.push({ key: `stage ${stage.name}`, kind: "stage", name: stage.name, ...values(stage.latency) });
  }
  if (state.end_to_end.length > 0) rows.push({ key: "all", kind: "divider" });
  for (const way of state.end_to_end) {
    rows.push({ key: `way ${way.sink}`, kind: "way", name: `confirmed to ${way.sink}`, ...values(way) });
  }
  rows.forEach(remember);
  keyed(byId("scales"), rows, { key: (row) => row.key, create, update });
}

function values(latency) {
  if (!latency || !latency.count) return { p50: NaN, p99: NaN, count: 0 };
  return { p50: latency.p50_seconds ?? NaN, p99: latency.p99_seconds ?? NaN, count: latency.count };
}

function remember(row) {
  if (row.kind !== "stage" && row.kind !== "way") return;
  const list = history.get(row.key) ?? [];
  list.push(row.p99);
  if (list.length > CHART.length) list.shift();
  history.set(row.key, list);
}

function create(row) {
  if (row.kind === "head") return createHead();
  if (row.kind === "divider") return el("div", { class: "scale-divider" }, "In all");
  return el("div", { class: `scale ${row.kind}`, role: "group", "data-latency": row.name },
    el("span", { class: "scale-name" }, row.name),
    svg("svg", { class: "scale-bar", viewBox: `0 0 ${SCALE.width} ${SCALE.height}`, preserveAspectRatio: "none",
      "aria-hidden": "true" },
    ...TICKS.map(([at]) => svg("path", { class: "tick", d: `M${position(at)} 0V${SCALE.height}` })),
    svg("path", { class: "range" }), svg("path", { class: "p50" }), svg("path", { class: "p99" })),
    el("span", { class: "scale-value" }, el("span", { class: "unit" }, "p50 "), el("span", { class: "v50" })),
    el("span", { class: "scale-value" }, el("span", { class: "unit" }, "p99 "), el("span", { class: "v99" })),
    svg("svg", { class: "scale-chart", viewBox: `0 0 ${CHART.width} ${CHART.height}`, preserveAspectRatio: "none",
      "aria-hidden": "true" }, svg("path", { class: "line-out" })),
    el("span", { class: "scale-count" }));
}

function createHead() {
  const axis = el("span", { class: "axis" });
  for (const [at, name] of TICKS) {
    const label = el("span", {}, name);
    label.style.insetInlineStart = `${position(at) / 10}%`;
    axis.append(label);
  }
  return el("div", { class: "scale head", "aria-hidden": "true" }, el("span", { class: "scale-name" }), axis,
    el("span", { class: "scale-value" }, "p50"), el("span", { class: "scale-value" }, "p99"),
    el("span", { class: "scale-chart" }, "p99, 2 min"), el("span", { class: "scale-count" }, "messages"));
}

function position(seconds) {
  const clamped = Math.min(MAX, Math.max(MIN, seconds));
  return Math.round((Math.log(clamped / MIN) / Math.log(MAX / MIN)) * SCALE.width);
}

function update(node, row) {
  if (row.kind !== "stage" && row.kind !== "way") return;
  const part = (selector) => node.querySelector(selector);
  const [from, to] = [position(row.p50), position(row.p99)];
  const isKnown = row.count > 0;
  setAttribute(node, "data-empty", !isKnown);
  setAttribute(part(".range"), "d", isKnown ? `M${from} 10H${Math.max(to, from + 1)}` : null);
  setAttribute(part(".p50"), "d", isKnown ? `M${from} 3V17` : null);
  setAttribute(part(".p99"), "d", isKnown ? `M${to} 3V17` : null);
  setText(part(".v50"), duration(row.p50));
  setText(part(".v99"), duration(row.p99));
  const recent = history.get(row.key);
  const top = 1.2 * Math.max(MIN, ...recent.filter(Number.isFinite));
  setAttribute(part(".scale-chart path"), "d", sparkline(recent, { ...CHART, top }));
  setText(part(".scale-count"), isKnown ? count(row.count) : "no messages");
}
