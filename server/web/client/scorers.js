// The settings of the form that say how pictures are judged, and what is made of the scores.

import { html } from "./dom.js";
import { SCORERS } from "./judge.js";
import { decidedBy, leastImages, mayHaveThreshold, stopScorerOf, withScorer } from "./judging.js";
import { Whole } from "./whole.js";

/** All of them: those that need a score are there once there is a scorer. */
export function JudgeFields({ form, set, ranges }) {
  return html`
    <fieldset class="judge">
      <legend>Let the model judge its pictures</legend>
      ${Object.entries(SCORERS).map(([name, { name: called, says }]) => html`
        <label class="switch" key=${name}>
          <input type="checkbox" checked=${form.scorers.includes(name)}
            onChange=${(e) => set({ scorers: withScorer(form.scorers, name, e.target.checked) })} />
          <span>${called} <span class="hint">${says}</span></span>
        </label>`)}
      ${form.scorers.length > 0 && html`<${Scored} form=${form} set=${set} ranges=${ranges} />`}
      <div class="grid">
        <${Whole} id="maxImages" label="Pictures at most" form=${form} set=${set} empty="no limit"
          range=${{ ...ranges.max_images, minimum: leastImages(form) }} />
      </div>
    </fieldset>`;
}

function Scored({ form, set, ranges }) {
  return html`
    ${form.scorers.length > 1 && html`<${Choice} id="decides" label="Which score decides" value=${form.scorers[0]}
      options=${form.scorers.map((name) => [name, SCORERS[name].name])} onChoose=${(name) => set({ scorers: decidedBy(form.scorers, name) })} />`}
    <div class="grid">
      <${Whole} id="firstCandidates" label="Candidates, first" form=${form} set=${set}
        range=${ranges["candidates.first"]} isOff=${form.image !== null} />
      <${Whole} id="editCandidates" label="Candidates, edits" form=${form} set=${set} range=${ranges["candidates.refine"]} />
    </div>
    <${Choice} id="choose" label="The result is" value=${form.choose} onChoose=${(choose) => set({ choose })}
      options=${[["last", "the last picture"], ["best", "the best picture"]]} />
    <${Choice} id="onRegression" label="Where the score falls" value=${form.onRegression} onChoose=${(onRegression) => set({ onRegression })}
      options=${[["keep", "go on from it"], ["backtrack", "go back to the best picture so far"]]} />
    <label class="switch">
      <input type="checkbox" checked=${form.stopsByScore} onChange=${(e) => set({ stopsByScore: e.target.checked })} />
      <span>Stop by the score</span>
    </label>
    ${form.stopsByScore && html`<${ScoreStop} form=${form} set=${set} ranges=${ranges} />`}`;
}

function ScoreStop({ form, set, ranges }) {
  const scorer = stopScorerOf(form);
  const isAbsolute = mayHaveThreshold(scorer);
  return html`
    <div class="grid">
      ${form.scorers.length > 1 && html`<${Choice} id="stopScorer" label="By which score" value=${scorer}
        options=${form.scorers.map((name) => [name, SCORERS[name].name])} onChoose=${(stopScorer) => set({ stopScorer })} />`}
      <div class="field">
        <label for="atLeast">Enough from</label>
        <input id="atLeast" type="number" step="any" value=${isAbsolute ? form.atLeast : ""} disabled=${!isAbsolute}
          placeholder=${isAbsolute ? "no such rule" : "not for GvU"} onInput=${(e) => set({ atLeast: e.target.value })} />
      </div>
      <div class="field">
        <label for="minGain">A rise is at least</label>
        <input id="minGain" type="number" min="0" step="any" placeholder="0" value=${form.minGain}
          onInput=${(e) => set({ minGain: e.target.value })} />
      </div>
      <${Whole} id="patience" label="Patience, rounds" form=${form} set=${set} range=${ranges["early_stop.score.patience"]} />
    </div>
    ${form.earlyStop && html`<label class="switch">
      <input type="checkbox" checked=${form.stopsOnAll} onChange=${(e) => set({ stopsOnAll: e.target.checked })} />
      <span>Only when the model is satisfied too</span>
    </label>`}`;
}

function Choice({ id, label, value, options, onChoose }) {
  return html`<div class="field">
    <label for=${id}>${label}</label>
    <select id=${id} onChange=${(e) => onChoose(e.target.value)}>
      ${options.map(([name, words]) => html`<option key=${name} value=${name} selected=${name === value}>${words}</option>`)}
    </select>
  </div>`;
}
