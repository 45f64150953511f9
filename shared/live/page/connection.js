// Requests to the server of the page, with the key of the user. EventSource cannot send headers, so
// streams are read with fetch.

const KEY = "dataflow.key";

/** An answer of the server that is no success. */
export class Problem extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

/** Key that every request sends. It lives as long as the tab. */
export const key = {
  get() {
    return sessionStorage.getItem(KEY);
  },
  set(value) {
    sessionStorage.setItem(KEY, value);
  },
  forget() {
    sessionStorage.removeItem(KEY);
  },
};

async function request(path, options = {}) {
  const headers = { ...options.headers };
  const value = key.get();
  if (value) headers.Authorization = `Bearer ${value}`;
  const response = await fetch(path, { ...options, headers, cache: "no-store", credentials: "omit" });
  if (!response.ok) throw await problem(response);
  return response;
}

async function problem(response) {
  const body = await response.json().catch(() => ({}));
  const detail = body.detail ?? body.title ?? body.error ?? `the server answered ${response.status}`;
  return new Problem(response.status, String(detail));
}

/** Sends JSON, and returns the JSON of the answer. */
export async function post(path, body) {
  const options = { method: "POST" };
  if (body !== undefined) {
    options.body = JSON.stringify(body);
    options.headers = { "Content-Type": "application/json" };
  }
  const response = await request(path, options);
  return response.json();
}

/**
 * Reads a stream of server-sent events until it ends. `onEvent` gets the name and the data of each.
 * Rejects if the stream breaks, or if nothing arrives for `silence` milliseconds.
 */
export async function stream(path, { signal, silence, onOpen, onEvent }) {
  const abort = new AbortController();
  const stop = () => abort.abort(signal.reason);
  signal.addEventListener("abort", stop, { once: true });
  if (signal.aborted) stop();
  const watchdog = new Watchdog(silence, () => abort.abort(new Error("the server is silent")));
  try {
    const headers = { Accept: "text/event-stream" };
    const response = await request(path, { headers, signal: abort.signal });
    onOpen?.();
    await readEvents(response.body.getReader(), watchdog, onEvent);
  } finally {
    watchdog.stop();
    signal.removeEventListener("abort", stop);
  }
}

async function readEvents(reader, watchdog, onEvent) {
  const decoder = new TextDecoder();
  const parser = new Parser(onEvent);
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    watchdog.reset();
    parser.push(decoder.decode(value, { stream: true }));
  }
}

/** Calls back if it is not reset in time. Without a time it never does. */
class Watchdog {
  constructor(milliseconds, bark) {
    this.milliseconds = milliseconds;
    this.bark = bark;
    this.reset();
  }

  reset() {
    clearTimeout(this.timer);
    if (this.milliseconds) this.timer = setTimeout(this.bark, this.milliseconds);
  }

  stop() {
    clearTimeout(this.timer);
  }
}

/** Parser of `text/event-stream`. */
export class Parser {
  constructor(onEvent) {
    this.onEvent = onEvent;
    this.rest = "";
    this.name = "message";
    this.data = [];
  }

  push(text) {
    this.rest += text;
    const lines = this.rest.split(/\r\n|\n|\r(?!$)/);
    this.rest = lines.pop();
    for (const line of lines) this.line(line);
  }

  line(line) {
    if (line === "") return this.dispatch();
    const colon = line.indexOf(":");
    const field = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (field === "event") this.name = value;
    if (field === "data") this.data.push(value);
  }

  dispatch() {
    const { name, data } = this;
    this.name = "message";
    this.data = [];
    if (data.length > 0) this.onEvent(name, JSON.parse(data.join("\n")));
  }
}
