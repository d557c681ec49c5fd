// One trajectory from its reasoning to its last picture: each picture, beside it what the model says of it, and on the
// arrow to the next one the edit that was asked for.

import { html, Icon, useState, useWidth } from "./dom.js";
import { Fan } from "./fan.js";
import { hasEnded, inWords, nameOf, partsOf, phaseOf, pictureName, plain } from "./job.js";
import { baseOf, isResult, scorersOf, wantedOf } from "./judge.js";
import { Frame } from "./picture.js";
import { Plot } from "./plot.js";
import { Scores } from "./scores.js";
import { endOf, verdictOf } from "./words.js";

const WIDE = 620;

/** The whole of it. `tools({ trajectory, round, isOpen })` gives what can be done with a finished picture. */
export function Trajectory({ job, trajectory, size, tools }) {
  const several = job.trajectories.length > 1;
  const [ref, width] = useWidth(Math.min(innerWidth - 32, 800));
  const phase = phaseOf(job, trajectory);
  const next = nextOf(job, trajectory, phase);
  const available = width >= WIDE ? width * 0.6 : width;
  const place = { job, trajectory, size, available, tools };
  return html`
    <section class="trajectory ${width >= WIDE ? "is-wide" : ""}" ref=${ref}
      aria-label=${several ? `Trajectory ${nameOf(trajectory)}` : "Rounds"}>
      ${several
        ? html`<h2 class="trajectory-name">${nameOf(trajectory)} <span class="hint">seed ${trajectory.seed}</span></h2>`
        : html`<h2 class="unseen">Rounds</h2>`}
      <${Reasoning} job=${job} trajectory=${trajectory} phase=${phase} />
      ${scorersOf(job).length > 0 && html`<${Plot} job=${job} trajectory=${trajectory} />`}
      <ol class="rounds">
        ${trajectory.rounds.map((round, i) => html`<${Round} key=${round.index} ...${place} round=${round}
          isLast=${i === trajectory.rounds.length - 1} phase=${phase} />`)}
        ${next && html`<${Coming} key=${next.index} ...${place} next=${next} />`}
      </ol>
      ${phase === "done" && several && endOf(job, trajectory) && html`<p class="end hint">Done: ${endOf(job, trajectory)}.</p>`}
    </section>`;
}

/** The round that is being drawn: { index, instruction, from }; null where none is begun, as beside a text that grows. */
function nextOf(job, t, phase) {
  if (phase !== "drawing") return null;
  const last = t.rounds.at(-1);
  if (!last) return { index: 0, instruction: null, from: null };
  const index = t.drawing?.round ?? last.index + 1;
  if (index <= last.index) return null; // one more candidate of a round that is there
  const given = job.params.instruction && last.index === 0 && job.params.image;
  const base = baseOf(job, t);
  return { index, instruction: base.said?.instruction ?? (given ? job.params.instruction : null), from: base.index };
}

function Reasoning({ job, trajectory, phase }) {
  const text = plain(trajectory.reasoning);
  const isWriting = phase === "thinking";
  if (job.params.image || !job.params.think) return null;
  return html`
    <div class="reasoning">
      <h3>Reasoning</h3>
      <p class=${isWriting ? "is-writing" : ""}>${text || html`<span class="hint">${isWriting ? "" : EMPTY[phase] ?? "none"}</span>`}</p>
    </div>`;
}

const EMPTY = { waiting: "It begins when the job's turn has come.", done: "none was written" };

function Round({ job, trajectory, round, size, available, isLast, phase, tools }) {
  const [picked, setPicked] = useState(null);
  const isOver = round.chosen !== null || hasEnded(job) || !isLast;
  const shown = picked ?? round.chosen ?? 0;
  const isAside = round.candidates.length > 0 && round.chosen !== null && shown !== round.chosen;
  const picture = { ...round, ...round.candidates[shown] };
  const isAsked = isLast && phase === "looking" && !isAside;
  const name = pictureName(job, round.index);
  const isEnd = isLast && hasEnded(job);
  return html`
    <li class="round" id=${`round-${trajectory.index}-${round.index}`} tabindex="-1">
      ${round.index > 0 && html`<${Arrow} job=${job} round=${round} />`}
      <div class="round-card">
        <div class="round-picture">
          <${Frame} size=${size} available=${available} image=${picture.image} preview=${picture.preview} alt=${`${name}: ${job.prompt}`} />
          <${Fan} job=${job} index=${round.index} round=${round} shown=${shown} onShow=${setPicked}
            wanted=${isOver ? 0 : wantedOf(job, trajectory, round.index)} />
        </div>
        <div class="round-text">
          <header><h3>${name}</h3>
            ${isAside
              ? html`<span class="chip is-none">candidate ${shown + 1}, not chosen</span>`
              : html`<${Chips} job=${job} trajectory=${trajectory} round=${picture} isAsked=${isAsked} isLast=${isLast} phase=${phase} />`}</header>
          ${scorersOf(job).length > 0 && html`<${Scores} job=${job} trajectory=${trajectory} round=${picture} />`}
          <${Reflection} said=${picture.said} isAsked=${isAsked} isLast=${isEnd || isAside} />
          ${!isAsked && tools?.({ trajectory, round: picture, isOpen: isEnd || isAside })}
        </div>
      </div>
    </li>`;
}

function Chips({ job, trajectory, round, isLast, isAsked, phase }) {
  if (isLast && phase === "scoring") return html`<span class="chip is-busy">being scored</span>`;
  return html`
    ${(round.said || isAsked || isLast) && html`<${Chip} said=${round.said} isAsked=${isAsked} />`}
    ${isResult(job, trajectory, round) && html`<span class="chip is-good"><${Icon} name="star" />the result</span>`}`;
}

/** What is said of a picture. The edit it asks for stands on the arrow to the next one, where there is one. */
function Reflection({ said, isAsked, isLast }) {
  if (!said) return isAsked ? html`<p class="thought is-writing"></p>` : null;
  const { thought, instruction } = partsOf(said);
  const isWriting = said.verdict === null;
  return html`
    <p class="thought ${isWriting ? "is-writing" : ""}">${thought}</p>
    ${instruction && (said.verdict !== "edit" || isLast) && html`<p class="instruction">${instruction}</p>`}`;
}

function Chip({ said, isAsked }) {
  const { label, kind, icon } = verdictOf(said, isAsked);
  return html`<span class="chip is-${kind}">${icon && html`<${Icon} name=${icon} />`}${label}</span>`;
}

/** The way from one picture to the next: not the one above where the loop went back to an earlier one. */
function Arrow({ job, round }) {
  const isBack = round.from !== null && round.from !== round.index - 1;
  return html`
    <div class="arrow ${isBack ? "is-back" : ""}">
      <svg viewBox="0 0 24 40" aria-hidden="true"><path d=${isBack ? "M20 4h-8v32M5 29l7 7 7-7" : "M12 2v34M5 29l7 7 7-7"} /></svg>
      <div>
        ${isBack && html`<p class="back"><${Icon} name="back" /> Back to ${inWords(pictureName(job, round.from))}, which scored higher</p>`}
        <p><span class="unseen">Edit: </span>${round.instruction || html`<span class="hint">an edit without words</span>`}</p>
      </div>
    </div>`;
}

function Coming({ job, trajectory, next, size, available }) {
  return html`
    <li class="round is-coming" id=${`round-${trajectory.index}-${next.index}`}>
      ${next.index > 0 && html`<${Arrow} job=${job} round=${next} />`}
      <div class="round-card">
        <div class="round-picture">
          <${Frame} size=${size} available=${available} drawing=${trajectory.drawing} />
          <${Fan} job=${job} index=${next.index} wanted=${wantedOf(job, trajectory, next.index)} />
        </div>
        <div class="round-text"><header><h3>${pictureName(job, next.index)}</h3>
          <span class="chip is-none">being drawn</span></header></div>
      </div>
    </li>`;
}
