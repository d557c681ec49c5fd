// One's own jobs, newest first, with a search through their prompts.

import { asProblem, call } from "./api.js";
import { Dialog, html, Icon, useEffect, useState } from "./dom.js";
import { hasEnded } from "./job.js";
import { kindName, titleOf } from "./kinds.js";
import { ProblemNote } from "./notes.js";
import { newest } from "./welcome.js";

const PAGE = 50;
const SEARCHED_PAGES = 20;

/** The dialog. */
export function History({ onClose, onDeleted }) {
  const [{ jobs, cursor, isLoading }, setList] = useState({ jobs: [], cursor: "", isLoading: false });
  const [words, setWords] = useState("");
  const [problem, setProblem] = useState(null);
  const more = async () => {
    setList((list) => ({ ...list, isLoading: true }));
    try {
      const query = `limit=${PAGE}${cursor ? `&cursor=${encodeURIComponent(cursor)}` : ""}`;
      const page = await call(`/jobs?${query}`);
      setList((list) => ({ jobs: [...list.jobs, ...page.jobs], cursor: page.next_cursor, isLoading: false }));
    } catch (error) {
      setProblem(asProblem(error));
      setList((list) => ({ ...list, isLoading: false, cursor: null }));
    }
  };
  const mustSearchOn = words.trim() !== "" && jobs.length < PAGE * SEARCHED_PAGES;
  useEffect(() => {
    if (!isLoading && (cursor === "" || (cursor !== null && mustSearchOn))) more();
  }, [cursor, isLoading, mustSearchOn]);
  const found = jobs.filter((job) => matches(job, words));
  const erase = async (job) => {
    setProblem(null);
    try {
      await call(`/jobs/${job.id}`, { method: "DELETE" });
      setList((list) => ({ ...list, jobs: list.jobs.filter((j) => j.id !== job.id) }));
      onDeleted(job.id);
    } catch (error) {
      setProblem(asProblem(error));
    }
  };
  return html`
    <${Dialog} title="History" name="is-drawer" onClose=${onClose}>
      <div class="field"><label for="history-search">Search the prompts</label>
        <input id="history-search" type="search" value=${words} onInput=${(e) => setWords(e.target.value)} autocomplete="off" /></div>
      ${problem && html`<${ProblemNote} problem=${problem} onClose=${() => setProblem(null)} />`}
      <p class="hint" role="status">${isLoading ? "Looking …" : problem && !found.length ? "" : count(found.length, words, cursor && jobs.length)}</p>
      <ul class="history">
        ${found.map((job) => html`<${Entry} key=${job.id} job=${job} onErase=${erase} />`)}
      </ul>
      ${cursor && !mustSearchOn && html`<button type="button" class="wide" disabled=${isLoading} onClick=${more}>Older jobs</button>`}
    <//>`;
}

function Entry({ job, onErase }) {
  const [isSure, setSure] = useState(false);
  const image = newest(job);
  return html`
    <li>
      <a href=${`/j/${job.id}`}>
        ${image ? html`<img src=${image.url} alt="" width="56" height="56" loading="lazy" />` : html`<span class="no-image"></span>`}
        <span><b>${titleOf(job)}</b><span class="hint">${kindName(job) && `${kindName(job)} · `}${STATES[job.status]} · ${ago(job.created_at)}</span></span>
      </a>
      ${hasEnded(job) && html`<button type="button" class=${isSure ? "danger" : "quiet square"}
        aria-label=${isSure ? `Really delete: ${titleOf(job)}` : `Delete: ${titleOf(job)}`} onBlur=${() => setSure(false)}
        onClick=${() => (isSure ? onErase(job) : setSure(true))}>${isSure ? "Delete?" : html`<${Icon} name="trash" />`}</button>`}
    </li>`;
}

const STATES = { queued: "Waiting", running: "Running", succeeded: "Finished", failed: "Failed", cancelled: "Cancelled" };

/** Whether every word stands somewhere in the prompt, in the job's id, or in what kind of job it is. */
function matches(job, words) {
  const text = `${titleOf(job)} ${kindName(job)} ${job.id}`.toLowerCase();
  return words.toLowerCase().split(/\s+/).every((word) => text.includes(word));
}

/** `searched`: how many there are so far, where there are more. */
function count(number, words, searched) {
  const isSearch = words.trim() !== "";
  const among = isSearch && searched ? ` among the newest ${searched.toLocaleString()}` : "";
  if (number === 0) return isSearch ? `No job${among} has these words in its prompt.` : "There are no jobs yet.";
  return `${number} ${number === 1 ? "job" : "jobs"}${among}`;
}

function ago(at) {
  const seconds = (new Date(at) - Date.now()) / 1000;
  const words = new Intl.RelativeTimeFormat("en", { numeric: "auto" });
  for (const [unit, size] of [["day", 86_400], ["hour", 3600], ["minute", 60]]) {
    if (-seconds >= size) return words.format(Math.round(seconds / size), unit);
  }
  return "just now";
}
