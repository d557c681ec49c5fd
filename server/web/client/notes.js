// What the page tells a person beside the pictures: errors with what to do, and how the server stands.

import { html, Icon } from "./dom.js";

// By the pointer of a fault, what the form calls that field.
const FIELDS = {
  "/prompt": "Prompt",
  "/image": "Picture to start from",
  "/instruction": "What to change",
  "/max_rounds": "Rounds",
  "/min_rounds": "Edits at least",
  "/early_stop/confirmations": "Ask until satisfied, times",
  "/size": "Size",
  "/seed": "Seed",
  "/n": "Trajectories",
  "/previews": "Previews per picture",
  "/deadline_s": "Give up after",
  "/generate/num_timesteps": "Timesteps, first picture",
  "/generate/cfg_text_scale": "Text guidance, first picture",
  "/refine/num_timesteps": "Timesteps, edits",
  "/refine/cfg_text_scale": "Text guidance, edits",
  "/refine/cfg_img_scale": "Image guidance, edits",
  "/generate/step_cache": "Step cache, first picture",
  "/refine/step_cache": "Step cache, edits",
  "/reason/temperature": "Temperature, reasoning",
  "/reflect/temperature": "Temperature, reflection",
  "/judge/scorers": "Let the model judge its pictures",
  "/candidates/first": "Candidates, first",
  "/candidates/refine": "Candidates, edits",
  "/choose": "The result is",
  "/on_regression": "Where the score falls",
  "/early_stop/score/scorer": "By which score",
  "/early_stop/score/at_least": "Enough from",
  "/early_stop/score/min_gain": "A rise is at least",
  "/early_stop/score/patience": "Patience, rounds",
  "/max_images": "Pictures at most",
};

/** An error in words, with the remedy. */
export function ProblemNote({ problem, onClose, action }) {
  const faults = problem.errors ?? [];
  return html`
    <div class="note is-bad" role="alert">
      <div>
        <strong>${problem.title}</strong>
        ${faults.length
          ? html`<ul>${faults.map((f) => html`<li><b>${FIELDS[f.pointer] ?? (f.pointer || "The request")}</b> ${f.detail}</li>`)}</ul>`
          : problem.detail && html`<p>${sentence(problem.detail)}</p>`}
        ${problem.remedy && html`<p>${problem.remedy}</p>`}
        ${problem.retryAfterS && html`<p>Try again in ${problem.retryAfterS} s.</p>`}
        ${action}
      </div>
      ${onClose &&
      html`<button type="button" class="quiet square" aria-label="Dismiss" onClick=${onClose}><${Icon} name="close" /></button>`}
    </div>`;
}

/** A sentence with its capital and its stop. */
export function sentence(text) {
  const stopped = /[.!?…]$/.test(text) ? text : `${text}.`;
  return stopped[0].toUpperCase() + stopped.slice(1);
}

/** A line that says how things stand, which is no error. */
export function Notice({ children }) {
  return html`<div class="note" role="status"><div>${children}</div></div>`;
}
