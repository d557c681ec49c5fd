// One trajectory from its reasoning to its last picture: each picture, beside it what the model says of it, and on the
// arrow to the next one the edit that was asked for.

import { html, Icon, useWidth } from "./dom.js";
import { hasEnded, nameOf, partsOf, phaseOf, pictureName, plain } from "./job.js";
import { Frame } from "./picture.js";
import { endOf, verdictOf } from "./words.js";

const WIDE = 620;

/** The whole of it. `tools({ trajectory, round, isLast })` gives what can be done with a finished picture. */
export function Trajectory({ job, trajectory, size, tools }) {
  const several = job.trajectories.length > 1;
  const [ref, width] = useWidth(Math.min(innerWidth - 32, 800));
  const phase = phaseOf(job, trajectory);
  const next = nextOf(job, trajectory, phase);
  const available = width >= WIDE ? width * 0.6 : width;
  const place = { job, trajectory, size, available, tools };
  return html`
    <section class="trajectory ${width >= WIDE ? "is-wide" : ""}" ref=${ref}
      aria-label=${several ? `Candidate ${nameOf(trajectory)}` : "Rounds"}>
      ${several
        ? html`<h2 class="trajectory-name">${nameOf(trajectory)} <span class="hint">seed ${trajectory.seed}</span></h2>`
        : html`<h2 class="unseen">Rounds</h2>`}
      <${Reasoning} job=${job} trajectory=${trajectory} phase=${phase} />
      <ol class="rounds">
        ${trajectory.rounds.map((round, i) => html`<${Round} key=${round.index} ...${place} round=${round}
          isLast=${i === trajectory.rounds.length - 1} isLooking=${phase === "looking"} />`)}
        ${next && html`<${Coming} key=${next.index} ...${place} next=${next} />`}
      </ol>
      ${phase === "done" && several && endOf(trajectory) && html`<p class="end hint">Done: ${endOf(trajectory)}.</p>`}
    </section>`;
}

/** The picture that is being drawn: { index, instruction }; null where there is none, as beside a text that still grows. */
function nextOf(job, t, phase) {
  if (phase !== "drawing") return null;
  const last = t.rounds.at(-1);
  const given = job.params.instruction && last?.index === 0 && job.params.image;
  const instruction = last?.said?.instruction ?? (given ? job.params.instruction : null);
  return { index: last ? last.index + 1 : 0, instruction };
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

function Round({ job, trajectory, round, size, available, isLast, isLooking, tools }) {
  const isAsked = isLast && isLooking && !hasEnded(job);
  const name = pictureName(job, round.index);
  return html`
    <li class="round" id=${`round-${trajectory.index}-${round.index}`} tabindex="-1">
      ${round.index > 0 && html`<${Arrow} instruction=${round.instruction} />`}
      <div class="round-card">
        <${Frame} size=${size} available=${available} image=${round.image} preview=${round.preview} alt=${`${name}: ${job.prompt}`} />
        <div class="round-text">
          <header><h3>${name}</h3>${(round.said || isAsked || isLast) && html`<${Chip} said=${round.said} isAsked=${isAsked} />`}</header>
          <${Reflection} said=${round.said} isAsked=${isAsked} isLast=${isLast && hasEnded(job)} />
          ${!isAsked && tools?.({ trajectory, round, isLast: isLast && hasEnded(job) })}
        </div>
      </div>
    </li>`;
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

function Arrow({ instruction }) {
  return html`
    <div class="arrow">
      <svg viewBox="0 0 24 40" aria-hidden="true"><path d="M12 2v34M5 29l7 7 7-7" /></svg>
      <p><span class="unseen">Edit: </span>${instruction || html`<span class="hint">an edit without words</span>`}</p>
    </div>`;
}

function Coming({ job, trajectory, next, size, available }) {
  return html`
    <li class="round is-coming" id=${`round-${trajectory.index}-${next.index}`}>
      ${next.index > 0 && html`<${Arrow} instruction=${next.instruction} />`}
      <div class="round-card">
        <${Frame} size=${size} available=${available} drawing=${trajectory.drawing} />
        <div class="round-text"><header><h3>${pictureName(job, next.index)}</h3>
          <span class="chip is-none">being drawn</span></header></div>
      </div>
    </li>`;
}
