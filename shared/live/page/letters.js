// Dead letters: how many of which reason, the latest ones, and their replay.

import { Problem, post } from "./connection.js";
import { byId, el, keyed, setAttribute, setText, show } from "./dom.js";
import { clock, clockSeconds, count, moment, pretty } from "./format.js";

/** What the user has done with a letter, by its id: `asking`, `sending`, `done` or `failed`. */
const replays = new Map();

/** The latest letter of each message. Only that one can wait for its replay. */
let lastOf = new Map();

/** Letters that are shown before the user asks for all of them. */
const FEW = 5;

let latest = null;
let areAllShown = false;

/** Connects the button. */
export function startLetters() {
  byId("letters-more").addEventListener("click", () => {
    areAllShown = !areAllShown;
    if (latest) renderLetters(latest);
  });
}

/** Shows a state. */
export function renderLetters(state) {
  latest = state;
  const letters = state.dead_letters;
  const isEmpty = letters.total === 0 && letters.recent.length === 0 && !letters.unavailable;
  show(byId("letters-empty"), isEmpty);
  show(byId("letters-badge"), letters.total > 0);
  setText(byId("letters-badge"), count(letters.total));
  renderReasons(letters);
  lastOf = new Map([...letters.recent].reverse().map((letter) => [messageOf(letter), letter]));
  const shown = areAllShown ? letters.recent : letters.recent.slice(0, FEW);
  keyed(byId("letter-list"), shown, { key: (letter) => letter.id, create, update });
  const rest = letters.total - letters.recent.length;
  setText(byId("letters-note"), rest > 0
    ? `${count(letters.total)} since the services started. Here are the latest; the command dead-letters lists all.` : "");
  setText(byId("letters-unavailable"), letters.unavailable ? `This list is not complete: ${letters.unavailable}` : "");
  show(byId("letters-foot"), rest > 0 || letters.recent.length > FEW);
  show(byId("letters-more"), letters.recent.length > FEW);
  setText(byId("letters-more"), areAllShown ? "Show fewer" : `Show all ${count(letters.recent.length)}`);
  setAttribute(byId("letters-more"), "aria-expanded", String(areAllShown));
  const known = new Set(letters.recent.map((letter) => letter.id));
  for (const id of replays.keys()) if (!known.has(id)) replays.delete(id);
}

function renderReasons(letters) {
  const most = Math.max(1, ...letters.by_reason.map((reason) => reason.count));
  const sorted = [...letters.by_reason].sort((a, b) => b.count - a.count);
  keyed(byId("reasons"), sorted, {
    key: (reason) => `${reason.stage}\n${reason.reason}`,
    create: (reason) => el("li", {},
      el("span", { class: "bar", "aria-hidden": "true" }),
      el("span", { class: "number" }),
      el("code", {}, reason.reason), el("span", { class: "quiet" }, reason.stage)),
    update: (node, reason) => {
      setText(node.querySelector(".number"), count(reason.count));
      node.querySelector(".bar").style.inlineSize = `${(100 * reason.count) / most}%`;
    },
  });
}

function create(letter) {
  return el("li", { class: "letter", "data-letter": letter.id },
    el("time", { datetime: letter.at, title: moment(letter.at) }, clockSeconds(letter.at)),
    el("div", {}, el("code", { class: "reason" }, letter.reason), el("p", { class: "quiet" }, `in ${letter.stage}`)),
    el("div", { class: "about" },
      el("p", { class: "detail" }, letter.detail ?? ""),
      el("p", { class: "why quiet" }, letter.why ?? ""),
      moreOf(letter)),
    el("div", { class: "device" }, letter.device_id || el("span", { class: "quiet" }, "no device")),
    el("div", { class: "actions" }));
}

function moreOf(letter) {
  const facts = [["time", moment(letter.at)], ["ingest id", letter.ingest_id || "none"]];
  const list = el("dl", { class: "pairs" }, ...facts.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))));
  const isShown = letter.payload !== null && letter.payload !== undefined;
  const text = typeof letter.payload === "string" ? letter.payload : JSON.stringify(letter.payload);
  return el("details", {}, el("summary", {}, isShown ? "Payload and id" : "Id"), list,
    isShown ? el("pre", { tabindex: "0", role: "group", "aria-label": "payload" }, pretty(text)) : null);
}

/** Puts the right buttons beside a letter. It touches nothing while they are right. */
function update(node, letter) {
  const mayReplay = latest.rights?.replay === true && letter.replayable;
  const last = lastOf.get(messageOf(letter)) ?? letter;
  const again = last.id === letter.id ? undefined : { step: "again", text: `Refused again at ${clockSeconds(last.at)}` };
  const replay = replays.get(letter.id) ?? again ?? { step: mayReplay ? "idle" : "never" };
  const actions = node.querySelector(".actions");
  const signature = `${replay.step} ${replay.text ?? ""}`;
  if (actions.dataset.shown === signature) return;
  const hadFocus = actions.contains(document.activeElement);
  setAttribute(actions, "data-shown", signature);
  actions.replaceChildren(...BUTTONS[replay.step](letter, replay));
  if (hadFocus) actions.querySelector("[data-focus], button")?.focus();
}

const BUTTONS = {
  never: (letter) => [el("span", { class: "quiet" }, letter.replayable ? "" : "no replay from here")],
  again: (letter, { text }) => [el("span", { class: "quiet" }, text)],
  idle: (letter) => [button(letter, "Replay", `Replay the letter of ${nameOf(letter)}`, () => go(letter, "asking"))],
  asking: (letter) => [
    el("span", {}, "Publish it again?"),
    button(letter, "Replay now", `Replay now the letter of ${nameOf(letter)}`, () => replay(letter), "primary"),
    button(letter, "Cancel", `Cancel the replay of the letter of ${nameOf(letter)}`, () => go(letter, undefined)),
  ],
  sending: () => [result("Replaying", "quiet")],
  done: (letter, { text }) => [result(text, "good")],
  failed: (letter, { text }) => [
    result(text, "error"),
    button(letter, "Replay", `Replay the letter of ${nameOf(letter)} again`, () => go(letter, "asking")),
  ],
};

/** Tells messages apart. A letter without an id is one of its own. */
function messageOf(letter) {
  return letter.ingest_id ? `${letter.stage}\n${letter.ingest_id}` : letter.id;
}

function nameOf(letter) {
  return `${letter.device_id || "no device"} at ${clock(letter.at)}`;
}

function button(letter, text, label, act, kind = "") {
  const node = el("button", { type: "button", class: kind, "aria-label": label }, text);
  node.addEventListener("click", act);
  return node;
}

function result(text, kind) {
  return el("span", { class: kind, tabindex: "-1", "data-focus": true }, text);
}

function go(letter, step, text) {
  if (step) replays.set(letter.id, { step, text });
  else replays.delete(letter.id);
  const node = [...byId("letter-list").children].find((item) => item.dataset.letter === letter.id);
  if (node) update(node, letter);
}

async function replay(letter) {
  go(letter, "sending");
  try {
    await post(`/live/dead-letters/${encodeURIComponent(letter.id)}/replay`);
    go(letter, "done", `Replayed at ${clockSeconds(Date.now())}`);
    say(`The letter of ${nameOf(letter)} was replayed.`);
  } catch (error) {
    const why = error instanceof Problem ? error.message : "the server does not answer";
    go(letter, "failed", `Not replayed: ${why}`);
    say(`The letter of ${nameOf(letter)} was not replayed: ${why}`);
  }
}

function say(text) {
  setText(byId("announce"), text);
}
