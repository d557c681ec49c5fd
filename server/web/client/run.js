// One job, running or finished: how it stands, what can be done about it, and its trajectories.

import { asProblem, call, linkToken, Problem } from "./api.js";
import { html, Icon, useEffect, useRef, useState } from "./dom.js";
import { follow, rest } from "./events.js";
import { after, hasEnded, phaseOf } from "./job.js";
import { fromJson } from "./json.js";
import { scorersOf } from "./judge.js";
import { kindName, titleOf } from "./kinds.js";
import { Notice, ProblemNote } from "./notes.js";
import { sizeOfJob } from "./picture.js";
import { Task } from "./task.js";
import { Timeline } from "./timeline.js";
import { Trajectory } from "./trajectory.js";
import { newsOf, spentOf, statusOf } from "./words.js";

/** The job of an id, kept as it is at the server: { job, connection, problem, act }. */
export function useJob(id) {
  const [job, setJob] = useState(null);
  const [connection, setConnection] = useState("live");
  const [problem, setProblem] = useState(null);
  useEffect(() => {
    const stop = new AbortController();
    setJob(null);
    setProblem(null);
    setConnection("live");
    load(id, { setJob, setConnection, signal: stop.signal }).catch((error) => {
      if (!stop.signal.aborted) setProblem(asProblem(error));
    });
    return () => stop.abort();
  }, [id]);
  const act = async (what) => {
    setProblem(null);
    try {
      await call(`/jobs/${id}/${what}`, { method: "POST" });
      return true;
    } catch (error) {
      if (error.code !== "already_finished") setProblem(asProblem(error));
      return false;
    }
  };
  return { job, connection, problem, act, forget: () => setProblem(null) };
}

async function load(id, { setJob, setConnection, signal }) {
  const json = await patiently(() => call(`/jobs/${id}`, { signal }), setConnection, signal);
  const isFollowed = !hasEnded(json);
  setJob(fromJson(json, isFollowed));
  if (!isFollowed) return;
  const isOver = await follow(id, {
    signal,
    onConnection: setConnection,
    onEvent: (event) => setJob((job) => after(job, event)),
  });
  if (isOver) setJob(fromJson(await patiently(() => call(`/jobs/${id}`, { signal }), setConnection, signal), false));
}

/** Ask again and again while no answer comes, or the server says that it cannot for now. */
async function patiently(ask, setConnection, signal) {
  for (let failures = 0; ; failures += 1) {
    try {
      const answer = await ask();
      setConnection("live");
      return answer;
    } catch (error) {
      if (signal.aborted || ![0, 502, 503, 504].includes(error.status)) throw error;
      const retryMs = Math.min(10_000, 500 * 2 ** failures);
      setConnection({ retryMs });
      await rest(retryMs, signal);
    }
  }
}

/** What is shown of it. */
export function Run({ id, models, server, isOnline, header, tools }) {
  const { job, connection, problem, act, forget } = useJob(id);
  const news = useNews(job);
  useFollowedScroll(job);
  const title = job && `${titleOf(job).slice(0, 60)} · R3`;
  useEffect(() => {
    if (title) document.title = title;
  }, [title]);
  if (!job) {
    return html`<section class="run" aria-label="Job">
      ${problem ? html`<${ProblemNote} problem=${problem} />` : html`<p class="hint" role="status">Looking for the job …</p>`}
      <${Connection} connection=${connection} isOnline=${isOnline} />
    </section>`;
  }
  const model = models.find((m) => m.name === job.model);
  const isWhole = job.kind === "generate";
  const endings = !linkToken() && html`<${Endings} job=${job} act=${act} />`;
  const place = { size: sizeOfJob(job, model), tools: tools && ((place) => tools({ ...place, job, model })) };
  return html`
    <section class="run" aria-label="Job">
      <div class="unseen" role="status" aria-live="polite">${news}</div>
      <header class="run-head">
        ${kindName(job) && kindName(job) !== titleOf(job) && html`<p class="hint">${kindName(job)}</p>`}
        <${Prompt} text=${titleOf(job)} />
        <div class="run-state ${isWhole ? "" : "is-task"}"><${Status} job=${job} />
          ${!isWhole && endings}
          ${linkToken() && html`<p class="hint">Shared with you, to look at</p>`}</div>
        ${isWhole && scorersOf(job).length > 0 && html`<p class="hint spent">${spentOf(job)}</p>`}
        ${job.parent?.round !== undefined && html`<${Parent} parent=${job.parent} isWhole=${isWhole} />`}
        ${header?.(job, model)}
      </header>
      ${isWhole && html`<div class="bar"><${Timeline} job=${job} />${endings}</div>`}
      <${Connection} connection=${connection} isOnline=${isOnline} isOver=${hasEnded(job)} />
      ${job.status === "queued" && server.workers === 0 && html`<${NoWorker} />`}
      ${problem && html`<${ProblemNote} problem=${problem} onClose=${forget} />`}
      ${job.error && html`<${ProblemNote} problem=${failureOf(job.error)} />`}
      ${isWhole
        ? html`<div class="trajectories count-${job.trajectories.length}" ...${several(job)}>
            ${job.trajectories.map((t) => html`<${Trajectory} key=${t.index} ...${place} job=${job} trajectory=${t} />`)}</div>`
        : html`<${Task} ...${place} job=${job} />`}
    </section>`;
}

/** Several stand beside each other, and can be scrolled by the keyboard too. */
const several = (job) => (job.trajectories.length > 1 ? { tabindex: 0, role: "group", "aria-label": "Trajectories" } : {});

const failureOf = ({ code, message }) => new Problem({ code, title: "The job failed", detail: message });

/** A long prompt is set smaller, and scrolls: by the keyboard too. */
function Prompt({ text }) {
  const isLong = text.length > 120 || text.split("\n").length > 4;
  return html`<h1 class=${isLong ? "is-long" : ""} tabindex=${isLong ? 0 : undefined}>${text}</h1>`;
}

function Status({ job }) {
  const isBusy = !hasEnded(job);
  return html`<p class="status is-${job.status}">
    <span class="dot ${isBusy ? "is-busy" : ""}" aria-hidden="true"></span>
    <span>${statusOf(job)}${job.attempt > 1 && html` <span class="hint">(attempt ${job.attempt})</span>`}</span>
  </p>`;
}

function Parent({ parent, isWhole }) {
  const picture = parent.round === 0 ? "the first picture" : `edit ${parent.round}`;
  const from = parent.round === null ? "Another try of" : `${isWhole ? "Goes on from" : "Looks at"} ${picture} of`;
  return linkToken() ? null : html`<p class="parent hint">${from} <a href=${`/j/${parent.job}`}>an earlier job</a></p>`;
}

function Endings({ job, act }) {
  const [asked, setAsked] = useState(null);
  if (hasEnded(job)) return null;
  const hasPicture = job.trajectories.some((t) => t.rounds.length > 0);
  const ask = async (what) => {
    setAsked(what);
    if (!(await act(what))) setAsked(null);
  };
  return html`
    <div class="endings">
      ${job.kind === "generate" && html`<button type="button" disabled=${!hasPicture || asked !== null} onClick=${() => ask("stop")}
        title="End after the step in hand, with the newest picture">
        <${Icon} name="check" /> <span>${asked === "stop" ? "Stopping" : "Stop here"}</span></button>`}
      <button type="button" class="danger" disabled=${asked === "cancel"} onClick=${() => ask("cancel")}>
        <${Icon} name="close" /> <span>${asked === "cancel" ? "Cancelling" : "Cancel"}</span></button>
    </div>`;
}

/** Said over the page, wherever it is scrolled to; nothing moves for it. */
function Connection({ connection, isOnline, isOver }) {
  if (connection === "live" && isOnline) return null;
  if (!isOnline) {
    return html`<div class="toast"><${Notice}><strong>You are offline.</strong> ${isOver
      ? "What is here stays; to go on from it, connect to the network."
      : "The job goes on without this page, which catches up once you are back."}<//></div>`;
  }
  return html`<div class="toast"><${Notice}><strong>The connection is lost.</strong> Reconnecting; nothing is lost meanwhile.
    <button type="button" onClick=${() => dispatchEvent(new Event("r3:retry"))}>Reconnect now</button><//></div>`;
}

function NoWorker() {
  return html`<${Notice}><strong>No worker is running.</strong> The job waits and starts as soon as there is one:
    <code>r3 worker</code>, or <code>r3 serve</code>, which has one.<//>`;
}

/** What a screen reader is told. */
function useNews(job) {
  const before = useRef(null);
  const [news, setNews] = useState("");
  useEffect(() => {
    if (!job) return;
    const told = newsOf(before.current, job);
    before.current = job;
    if (told) setNews(told);
  }, [job]);
  return news;
}

/** Keep the newest picture in sight while it is made, unless the person has scrolled elsewhere. */
function useFollowedScroll(job) {
  const key = job && !hasEnded(job) && job.trajectories.length === 1 && keyOfWork(job);
  useEffect(() => {
    if (!key || !document.querySelector(`#${key}`)) return;
    const isNearEnd = innerHeight + scrollY > document.documentElement.scrollHeight - innerHeight;
    const behavior = matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth";
    if (isNearEnd) document.querySelector(`#${key}`).scrollIntoView({ block: "nearest", behavior });
  }, [key]);
}

function keyOfWork(job) {
  const [t] = job.trajectories;
  const last = t.rounds.at(-1);
  if (!last) return false;
  return phaseOf(job, t) === "drawing" ? `round-${t.index}-${last.index + 1}` : `round-${t.index}-${last.index}`;
}
