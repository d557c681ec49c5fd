// The page: which job the address names, the form beside it, and how the server stands.

import { Actions } from "./actions.js";
import { asProblem, call, linkToken } from "./api.js";
import { Composer } from "./composer.js";
import { html, Icon, render, useCallback, useEffect, useErrorBoundary, useOnline, useReducer, useState } from "./dom.js";
import { History } from "./history.js";
import { Notice, ProblemNote } from "./notes.js";
import { Run } from "./run.js";
import { SignIn, signOut } from "./session.js";
import { BLANK, formOf } from "./settings.js";
import { JobTools } from "./tools.js";
import { Welcome } from "./welcome.js";

const ASK_AGAIN_MS = 5000;
const AWAY = new Set([0, 502, 504]); // no answer, or a proxy's that there is none

/** What the address names as a job, whether there is one or not. */
const jobInAddress = () => /^\/j\/([^/]+)\/?$/.exec(location.pathname)?.[1] ?? null;

function useAddress() {
  const [id, setId] = useState(jobInAddress);
  useEffect(() => {
    const look = () => setId(jobInAddress());
    addEventListener("popstate", look);
    return () => removeEventListener("popstate", look);
  }, []);
  const go = useCallback((to) => {
    const path = to ? `/j/${to}` : "/";
    if (path !== location.pathname) history.pushState(null, "", path);
    setId(to);
    scrollTo(0, 0);
  }, []);
  return [id, go];
}

/** Links to jobs lead there without loading the page anew, which would empty the form. */
function useLinks(open) {
  useEffect(() => {
    const follow = (event) => {
      const to = event.target.closest?.("a[href^='/j/']")?.pathname.split("/")[2];
      if (!to || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
      event.preventDefault();
      open(to);
    };
    document.addEventListener("click", follow);
    return () => document.removeEventListener("click", follow);
  }, [open]);
}

/** What /info says, asked for again while no model is known: { info, problem }. */
function useInfo(isReader) {
  const [state, setState] = useState({ info: null, problem: null });
  useEffect(() => {
    if (isReader) return undefined; // who came by a link may read its job, and nothing else
    let timer;
    const ask = async () => {
      try {
        const info = await call("/info");
        setState({ info, problem: null });
        if (!info.models.length) timer = setTimeout(ask, ASK_AGAIN_MS);
      } catch (error) {
        if (error.status === 401) return;
        setState((state) => ({ ...state, problem: asProblem(error) }));
        timer = setTimeout(ask, ASK_AGAIN_MS);
      }
    };
    ask();
    return () => clearTimeout(timer);
  }, []);
  return state;
}

/** Whether the server answers, and workers are heard from: { isAway, workers }, null where that is not known. */
function useServer() {
  const [server, setServer] = useState({ isAway: false, workers: null });
  useEffect(() => {
    let timer;
    let asked = 0;
    // The same object while nothing has changed, or the form would be drawn anew under who writes in it.
    const keep = (next) => setServer((last) => (JSON.stringify(last) === JSON.stringify(next) ? last : next));
    const ask = async () => {
      const own = (asked += 1);
      let next;
      try {
        next = { isAway: false, ...(await call("/readyz")) };
      } catch (error) {
        next = { isAway: AWAY.has(error.status), workers: null };
      }
      if (own !== asked) return; // asked again meanwhile
      keep(next);
      timer = setTimeout(ask, ASK_AGAIN_MS);
    };
    const askNow = () => {
      clearTimeout(timer);
      ask();
    };
    ask();
    addEventListener("online", askNow);
    addEventListener("offline", askNow);
    return () => {
      clearTimeout(timer);
      removeEventListener("online", askNow);
      removeEventListener("offline", askNow);
    };
  }, []);
  return server;
}

/** Who is signed in: { session }, null while that is not known, `isOut` where a key is needed first. */
function useSession() {
  const [state, setState] = useState({ session: null, isOut: false });
  useEffect(() => {
    const out = () => setState({ session: null, isOut: true });
    addEventListener("r3:signed-out", out);
    let timer;
    const ask = () =>
      call("/session")
        .then((session) => setState({ session, isOut: false }))
        .catch((error) => (error.status === 401 ? out() : (timer = setTimeout(ask, ASK_AGAIN_MS))));
    if (!linkToken()) ask();
    return () => {
      clearTimeout(timer);
      removeEventListener("r3:signed-out", out);
    };
  }, []);
  return [state, (session) => setState({ session, isOut: session === null })];
}

function App() {
  const [broken] = useErrorBoundary((error) => console.error(error));
  const [{ session, isOut }, setSession] = useSession();
  // Kept here, so that a session that ends takes nothing with it that was being written.
  const [form, set] = useReducer((form, change) => ({ ...form, ...change }), BLANK);
  const [stays, setStays] = useState(null); // why one is still signed in
  const leave = async () => {
    setStays(null);
    try {
      await signOut();
    } catch (error) {
      if (error.status !== 401) return setStays(asProblem(error));
    }
    document.title = "R3";
    set(BLANK);
    return setSession(null);
  };
  if (broken) return html`<main class="plain"><${ProblemNote} problem=${asProblem(broken)} /></main>`;
  if (isOut && !linkToken()) {
    return html`<${Head} /><main id="main"><${SignIn} onSession=${setSession} /></main>`;
  }
  return html`
    ${stays && html`<div class="toast"><${ProblemNote} problem=${stays} onClose=${() => setStays(null)}
      action=${html`<p>You are still signed in.</p>`} /></div>`}
    <${Studio} session=${session} form=${form} set=${set} onLeave=${leave} />`;
}

function Studio({ session, form, set, onLeave }) {
  const [id, go] = useAddress();
  const isReader = linkToken() !== null;
  const { info, problem } = useInfo(isReader);
  const server = useServer();
  const isOnline = useOnline() || !server.isAway; // a server on this machine needs no network
  const [isUnfolded, setUnfolded] = useState(false);
  const [isHistoryOpen, setHistoryOpen] = useState(false);
  const open = useCallback((to) => {
    setHistoryOpen(false);
    go(to);
  }, []);
  useLinks(open);
  useEffect(() => setUnfolded(false), [id]);
  useEffect(() => {
    if (!id) document.title = "R3";
  }, [id]);
  const model = info && chosen(info, form.model);
  const show = (change, field = "#prompt") => {
    set(change);
    setUnfolded(true);
    requestAnimationFrame(() => document.querySelector(field)?.focus()); // once it is unfolded
  };
  const start = ({ id: image, url }, job) => {
    const prompt = form.prompt.trim() ? form.prompt : job.prompt;
    show({ prompt, image: { id: image, url, name: "a picture of yours" }, instruction: "" }, "#instruction");
  };
  const reuse = (job) => show(formOf(job, chosen(info, job.model)));
  const openJob = (job) => go(job.id);
  return html`
    <a class="skip" href="#main">Skip to the pictures</a>
    <${Head} model=${model} go=${go} onHistory=${!isReader && (() => setHistoryOpen(true))}
      onLeave=${session?.key ? onLeave : null} />
    <div class="columns ${isReader ? "is-reading" : ""} ${id ? "" : "is-welcome"}">
      ${!isReader &&
      html`<aside class="side" aria-label="New picture">
        ${model
          ? html`<${Composer} form=${form} set=${set} model=${model} info=${info} onJob=${openJob}
              isFolded=${id !== null && !isUnfolded} onFold=${(isFolded) => setUnfolded(!isFolded)} />`
          : html`<${NoModel} info=${info} problem=${problem} />`}
      </aside>`}
      <main id="main" tabindex="-1">
        ${id
          ? html`<${Run} key=${id} id=${id} models=${info?.models ?? []} server=${server} isOnline=${isOnline}
              header=${(job, model) => html`<${JobTools} job=${job} model=${model} isKeyed=${Boolean(session?.key)} onReuse=${reuse} />`}
              tools=${isReader ? null : (place) => html`<${Actions} ...${place} onJob=${openJob} onStart=${start} />`} />`
          : html`<${Welcome} server=${server} isOnline=${isOnline} model=${model} onTry=${(prompt) => show({ prompt })} />`}
      </main>
    </div>
    ${isHistoryOpen && html`<${History} onClose=${() => setHistoryOpen(false)} onDeleted=${(gone) => gone === id && go(null)} />`}`;
}

/** The model of that name, else the one that is used where none is named, else the first. */
const chosen = (info, name) =>
  info.models.find((m) => m.name === name) ?? info.models.find((m) => m.name === info.default_model) ?? info.models[0];

function Head({ model, go, onHistory, onLeave }) {
  const home = (event) => {
    if (!go || linkToken() || event.ctrlKey || event.metaKey || event.shiftKey) return; // by a link one knows too little
    event.preventDefault();
    go(null);
  };
  return html`
    <header class="head">
      <a class="brand" href="/" onClick=${home}><img src="/assets/icon.svg" alt="" width="28" height="28" /> R3</a>
      ${model && html`<span class="model hint" title=${model.description}>${model.name}</span>`}
      <nav aria-label="Page">
        ${onHistory && html`<button type="button" class="quiet" onClick=${onHistory} aria-label="History"><${Icon} name="history" /> <span>History</span></button>`}
        <a class="button quiet" href="/docs" aria-label="API"><${Icon} name="code" /> <span>API</span></a>
        ${onLeave && html`<button type="button" class="quiet" onClick=${onLeave} aria-label="Sign out"><${Icon} name="out" /> <span>Sign out</span></button>`}
      </nav>
    </header>`;
}

function NoModel({ info, problem }) {
  if (problem) return html`<${ProblemNote} problem=${problem} action=${html`<p>This page asks again by itself.</p>`} />`;
  if (!info) return html`<p class="hint" role="status">Asking the server what it can do …</p>`;
  return html`<${Notice}><strong>No model is known yet.</strong> Its worker is still loading, or none was ever started:
    <code>r3 worker</code>, or <code>r3 serve</code>, which has one. This page looks again by itself.<//>`;
}

render(html`<${App} />`, document.querySelector("#app"));
