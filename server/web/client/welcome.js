// What the page shows before there is a job: what the loop does, something to try, and one's newest pictures.

import { call } from "./api.js";
import { html, useEffect, useState } from "./dom.js";
import { titleOf } from "./kinds.js";
import { Notice } from "./notes.js";

const RECENT = 5;
const LOOKED_THROUGH = 20; // the newest jobs, of which some may have no picture

/** The welcome. `onTry` is given an example prompt. */
export function Welcome({ server, isOnline, model, onTry }) {
  return html`
    <section class="welcome">
      <h1>Draw, look, refine</h1>
      <p>The model reasons about your prompt, draws a picture, looks at it, says what is wrong, and edits it, until it is
        satisfied. You watch every step.</p>
      <ol class="loop" aria-label="The loop">
        <li><b>Reason</b> what the picture should hold</li>
        <li><b>Draw</b> the first picture</li>
        <li><b>Reflect</b> on what is there</li>
        <li><b>Refine</b> what is not right</li>
      </ol>
      ${!isOnline && html`<${Notice}><strong>You are offline.</strong> Connect to the network to make a picture.<//>`}
      ${isOnline && server.isAway && model &&
      html`<${Notice}><strong>The server cannot be reached.</strong> This page asks again by itself; what you have written stays.<//>`}
      ${isOnline && server.workers === 0 &&
      html`<${Notice}><strong>No worker is running.</strong> Jobs are taken and wait for one: <code>r3 worker</code>, or
        <code>r3 serve</code>, which has one.<//>`}
      ${model?.description && html`<p class="hint"><b>${model.name}.</b> ${model.description}</p>`}
      ${model?.example_prompts.length > 0 && html`<${Tries} prompts=${model.example_prompts} onTry=${onTry} />`}
      <${Recent} />
    </section>`;
}

function Tries({ prompts, onTry }) {
  return html`
    <div class="tries" role="group" aria-labelledby="tries-title">
      <h2 id="tries-title">Try one</h2>
      <div class="buttons">
        ${prompts.slice(0, 5).map(
          (text) => html`<button type="button" class="example" key=${text} onClick=${() => onTry(text)}>${text}</button>`,
        )}
      </div>
    </div>`;
}

/** One's own newest jobs that have a picture. Where they cannot be had there is nothing: the history says why. */
function Recent() {
  const [jobs, setJobs] = useState([]);
  useEffect(() => {
    const stop = new AbortController();
    call(`/jobs?limit=${LOOKED_THROUGH}`, { signal: stop.signal })
      .then((page) => setJobs(page.jobs))
      .catch(() => {});
    return () => stop.abort();
  }, []);
  const shown = jobs.map((job) => ({ job, image: newest(job) })).filter(({ image }) => image).slice(0, RECENT);
  if (!shown.length) return null;
  return html`
    <section aria-labelledby="recent-title">
      <h2 id="recent-title">Your newest pictures</h2>
      <ul class="recent">
        ${shown.map(({ job, image }) => html`<li key=${job.id}>
          <a href=${`/j/${job.id}`}>
            <img src=${image.url} alt="" width="160" height="160" loading="lazy" /><span>${titleOf(job)}</span></a></li>`)}
      </ul>
    </section>`;
}

/** The picture that stands for a job: what it came to, else the newest there is. */
export const newest = (job) => job.trajectories.flatMap((t) => [...t.rounds.map((r) => r.image), t.image]).filter(Boolean).at(-1);
