// Numbers and times as text. They are the same in every locale: a point before decimals, a narrow
// space between thousands, and a unit.

const NARROW_SPACE = "\u202f";
const MISSING = "\u2013";

/** A whole number, such as `12 345`. */
export function count(value) {
  if (!Number.isFinite(value)) return MISSING;
  return String(Math.round(value)).replace(/\B(?=(\d{3})+$)/g, NARROW_SPACE);
}

/** Messages a second, with three digits at most for small rates. */
export function rate(value) {
  if (!Number.isFinite(value)) return MISSING;
  if (value !== 0 && Math.abs(value) < 9.95) return `${value.toFixed(1)}/s`;
  return `${count(value)}/s`;
}

/** A duration with the unit that reads best, such as `12 ms`, `0.80 s` or `3 min 20 s`. */
export function duration(seconds) {
  if (!Number.isFinite(seconds)) return MISSING;
  if (seconds < 0) return `\u2212${duration(-seconds)}`;
  if (seconds === 0) return unit("0", "s");
  if (seconds < 0.001) return unit("<1", "ms");
  if (seconds < 0.01) return unit((seconds * 1000).toFixed(1), "ms");
  if (seconds < 0.9995) return unit((seconds * 1000).toFixed(0), "ms");
  if (seconds < 9.995) return unit(seconds.toFixed(2), "s");
  if (seconds < 59.95) return unit(seconds.toFixed(1), "s");
  return long(Math.round(seconds));
}

/** The same for seconds that are whole, from one minute on. */
function long(seconds) {
  const parts = [
    [Math.floor(seconds / 86400), "d"],
    [Math.floor(seconds / 3600) % 24, "h"],
    [Math.floor(seconds / 60) % 60, "min"],
    [seconds % 60, "s"],
  ];
  const first = parts.findIndex(([value]) => value > 0);
  const shown = parts.slice(first, first + 2).filter(([value]) => value > 0);
  return shown.map(([value, name]) => unit(String(value), name)).join(" ");
}

function unit(text, name) {
  return `${text}${NARROW_SPACE}${name}`;
}

/** Time of day in UTC with milliseconds, such as `04:00:00.120`. */
export function clock(at) {
  const date = new Date(at);
  return Number.isNaN(date.getTime()) ? MISSING : date.toISOString().slice(11, 23);
}

/** Time of day in UTC without milliseconds. */
export function clockSeconds(at) {
  const text = clock(at);
  return text === MISSING ? text : text.slice(0, 8);
}

/** Date and time in UTC. */
export function moment(at) {
  const date = new Date(at);
  if (Number.isNaN(date.getTime())) return MISSING;
  return `${date.toISOString().slice(0, 19).replace("T", " ")} UTC`;
}

/** Count with a noun, such as `1 replica` or `2 replicas`. */
export function plural(value, noun) {
  return `${count(value)}${NARROW_SPACE}${noun}${value === 1 ? "" : "s"}`;
}

/** JSON on several lines, or the text itself if it is no JSON. */
export function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}
