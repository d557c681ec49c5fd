// Calls of the server, and its errors in words. A link's ?token= stands in for a key as far as it goes.

/** An error as the server tells it (RFC 9457), or ours where there is no answer. */
export class Problem extends Error {
  constructor({ status = 0, code = "", title, detail = "", errors = [], retryAfterS = null }) {
    super(title);
    Object.assign(this, { status, code, title, detail, errors, retryAfterS });
  }

  /** What can be done about it, where the server's own sentence does not say so. */
  get remedy() {
    if (this.code === "job_not_found" && linkToken()) return "The link may have expired, or been taken back. Ask for a new one.";
    return REMEDIES[this.code] ?? "";
  }
}

const REMEDIES = {
  unreachable: "Is the server running? Try again in a moment.",
  offline: "Connect to the network. A job that was started goes on without this page.",
  storage_unavailable: "Where pictures are kept does not answer. Nothing is lost; try again in a moment.",
  queue_full: "Others are ahead. Try again in a moment.",
  rate_limited: "Wait a little, then try again.",
  model_unknown: "Start a worker: r3 worker, or r3 serve, which has one.",
  out_of_memory: "Try fewer candidates, or a smaller size.",
  step_failed: "Try again. Pictures that were finished are kept.",
  poison_job: "Change the prompt or the settings. Pictures that were finished are kept.",
  storage_failed: "Tell the operator; the server's log says more.",
  internal_error: "Try again; if it stays, tell the operator.",
  job_not_found: "Look for it in the history, or make a new picture.",
  image_not_found: "Choose another picture to go on from.",
  deadline_exceeded: "Give it more time, or fewer rounds.",
  forbidden: "Sign in with another key.",
  queue_unavailable: "The server keeps trying to reach its queue. Nothing is lost.",
};

/** The token of the link by which this page was opened, if it was. */
export function linkToken() {
  return new URLSearchParams(location.search).get("token");
}

/** A path of the API, with the link's token where there is one, and the path can be read by one. */
export function address(path) {
  const token = linkToken();
  return token && path.startsWith("/jobs/job_") ? `${path}?token=${encodeURIComponent(token)}` : path;
}

const HERE = /^(localhost|127(\.\d+){3}|\[::1\])$/;
const READ_WITHIN_MS = 30_000; // who writes may have much to send

/** The answer whose head `ask(signal)` gives: what never comes is not waited for, nor after `signal` has aborted. */
export async function answered(ask, withinMs, signal) {
  const late = new AbortController();
  const timer = setTimeout(() => late.abort(), withinMs);
  try {
    return await ask(AbortSignal.any([late.signal, ...(signal ? [signal] : [])]));
  } finally {
    clearTimeout(timer);
  }
}

/** The answer's JSON, null where it has none. Throws Problem. */
export async function call(path, { method = "GET", body, headers = {}, signal } = {}) {
  const sent = body === undefined ? {} : { "Content-Type": "application/json" };
  const options = { method, headers: { Accept: "application/json", ...sent, ...headers }, cache: "no-store" };
  let answer;
  try {
    const url = method === "GET" ? address(path) : path;
    const ask = (signal) => fetch(url, { ...options, body: body && JSON.stringify(body), signal });
    answer = await (method === "GET" ? answered(ask, READ_WITHIN_MS, signal) : ask(signal));
  } catch (error) {
    if (signal?.aborted) throw error;
    throw unreachable();
  }
  if (!answer.ok) throw await problemOf(answer);
  return answer.status === 204 ? null : answer.json();
}

/** What went wrong, from an answer. The page hears of one that says that a key is needed (app.js). */
export async function problemOf(answer) {
  if (answer.status === 401) dispatchEvent(new Event("r3:signed-out"));
  const told = await answer.json().catch(() => ({}));
  const retryAfterS = Number(answer.headers.get("Retry-After")) || null;
  const title = told.title ?? `The server answered ${answer.status}`;
  return new Problem({ ...told, status: answer.status, title, retryAfterS });
}

/** What went wrong where no answer came. A server on this machine needs no network. */
export function unreachable() {
  return navigator.onLine || HERE.test(location.hostname)
    ? new Problem({ code: "unreachable", title: "The server cannot be reached" })
    : new Problem({ code: "offline", title: "You are offline" });
}

/** Any error as a Problem: one of ours is told as what it is. */
export function asProblem(error) {
  if (error instanceof Problem) return error;
  return new Problem({ code: "page", title: "The page stumbled", detail: `${error}. Reload it; jobs go on meanwhile.` });
}
