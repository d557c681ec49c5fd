// A job's events: read from the stream as they come, and, when the connection breaks, again from the next one on.
//
// Numbered events carry an id, which a new request sends back as Last-Event-ID; so none is lost and none comes twice.
// A heartbeat comes every 10 s: silence for longer means that the connection is dead, whatever the browser thinks.

import { address, answered, problemOf } from "./api.js";

const SILENCE_MS = 35_000;
const ANSWERED_MS = 20_000;
const NOW = "now"; // why an attempt ends, where another is to begin at once
const REST_MS = [500, 10_000];
const TERMINAL = new Set(["job.succeeded", "job.failed", "job.cancelled"]);
const FINAL_STATUSES = new Set([400, 401, 403, 404, 422]);

/** A function that is fed pieces of an event stream and calls `onEvent({ name, id, data })` for each whole event. */
export function parser(onEvent) {
  let rest = "";
  let event = { name: "message", id: null, data: [] };
  const line = (text) => {
    if (text === "") {
      if (event.data.length) onEvent({ ...event, data: JSON.parse(event.data.join("\n")) });
      event = { name: "message", id: null, data: [] };
      return;
    }
    const [, field, value] = /^([^:]*):? ?(.*)$/s.exec(text);
    if (field === "event") event.name = value;
    else if (field === "id") event.id = Number(value);
    else if (field === "data") event.data.push(value);
  };
  return (piece) => {
    const lines = (rest + piece).split(/\r\n|\n|\r(?!$)/);
    rest = lines.pop();
    lines.forEach(line);
  };
}

/** Follow a job until its terminal event, the page leaves (`signal`), or the server says that there is no such job.
 *
 * `onEvent` is given each event; `onConnection` "live", or { retryMs } while it waits to connect again. True where the
 * server has no more to tell than the job itself.
 */
export async function follow(jobId, { onEvent, onConnection, signal }) {
  let last = 0;
  let failures = 0;
  while (!signal.aborted) {
    let closing = null;
    let isOver = false;
    const heard = (event) => {
      if (event.id !== null) last = event.id;
      if (event.name === "stream.closing") closing = event.data;
      else onEvent(event);
      isOver ||= TERMINAL.has(event.name);
    };
    try {
      const answer = await connect(jobId, last, signal);
      if (answer.status === 204) {
        onConnection("live");
        return true;
      }
      if (!answer.ok) throw await problemOf(answer.clone());
      failures = 0;
      onConnection("live");
      await readAll(answer, parser(heard), signal);
    } catch (error) {
      if (signal.aborted) return false;
      if (FINAL_STATUSES.has(error.status)) throw error;
      if (error === NOW) continue;
    }
    if (isOver || signal.aborted) return false;
    const [least, most] = REST_MS;
    const retryMs = closing?.retry_ms ?? Math.min(most, least * 2 ** failures);
    failures += 1;
    onConnection({ retryMs });
    await rest(retryMs, signal);
  }
  return false;
}

/** The answer's head, not waited for after somebody asked to connect now. */
async function connect(jobId, last, signal) {
  const headers = { Accept: "text/event-stream", ...(last ? { "Last-Event-ID": String(last) } : {}) };
  const attempt = new AbortController();
  const again = () => attempt.abort(NOW);
  const ask = (signal) => fetch(address(`/jobs/${jobId}/events`), { headers, signal, cache: "no-store" });
  addEventListener("r3:retry", again);
  addEventListener("online", again);
  try {
    return await answered(ask, ANSWERED_MS, AbortSignal.any([signal, attempt.signal]));
  } finally {
    removeEventListener("r3:retry", again);
    removeEventListener("online", again);
  }
}

async function readAll(answer, feed, signal) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  for (;;) {
    let timer;
    const silence = new Promise((_, reject) => {
      timer = setTimeout(() => reject(new Error("silence")), SILENCE_MS);
    });
    try {
      const { value, done } = await Promise.race([reader.read(), silence]);
      if (done || signal.aborted) return;
      feed(value);
    } catch (error) {
      reader.cancel().catch(() => {});
      throw error;
    } finally {
      clearTimeout(timer);
    }
  }
}

/** Wait, but no longer than until the network is back or somebody asks to connect now. */
export function rest(ms, signal) {
  return new Promise((resolve) => {
    const done = () => {
      clearTimeout(timer);
      removeEventListener("online", done);
      removeEventListener("r3:retry", done);
      resolve();
    };
    const timer = setTimeout(done, ms);
    addEventListener("online", done);
    addEventListener("r3:retry", done);
    signal.addEventListener("abort", done, { once: true });
  });
}
