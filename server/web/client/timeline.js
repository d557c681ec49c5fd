// Every picture of the job in small, with its verdict: a way to each, and to comparing any two.

import { html, Icon, useEffect, useRef } from "./dom.js";
import { hasEnded, lower, nameOf, phaseOf, pictureName } from "./job.js";
import { scorersOf, scoreWords, SCORERS, valueOf } from "./judge.js";
import { verdictOf } from "./words.js";

/** The strips, one for each trajectory. */
export function Timeline({ job }) {
  const nav = useRef(null);
  const newest = job.trajectories.length === 1 ? job.trajectories[0].rounds.length : 0;
  useEffect(() => {
    if (nav.current && newest && !hasEnded(job)) nav.current.scrollLeft = nav.current.scrollWidth;
  }, [newest]);
  if (hasEnded(job) && !job.trajectories.some((t) => t.rounds.length)) return null;
  return html`
    <nav class="timeline" ref=${nav} aria-label="Rounds so far">
      ${job.trajectories.map((t) => html`<${Strip} key=${t.index} job=${job} trajectory=${t} />`)}
    </nav>`;
}

function Strip({ job, trajectory }) {
  const several = job.trajectories.length > 1;
  const phase = phaseOf(job, trajectory);
  return html`
    <ol class="strip">
      ${several && html`<li class="strip-name" aria-hidden="true">${nameOf(trajectory)}</li>`}
      ${trajectory.rounds.map((round, i) => {
        const isAsked = phase === "looking" && i === trajectory.rounds.length - 1;
        const { label, kind, icon } = verdictOf(round.said, isAsked);
        const picture = pictureName(job, round.index);
        const name = `${several ? `Trajectory ${nameOf(trajectory)}, ${lower(picture)}` : picture}: ${label}${scored(job, round)}`;
        return html`<li key=${round.index}>
          <button type="button" class="thumb" aria-label=${name} title=${name} onClick=${() => show(trajectory, round)}>
            ${round.image && html`<img src=${round.image.url} alt="" width="56" height="56" />`}
            <span class="mark is-${kind}">${icon ? html`<${Icon} name=${icon} />` : html`<span class="mark-dot"></span>`}</span>
          </button>
        </li>`;
      })}
      ${(phase === "drawing" || (phase !== "done" && !trajectory.rounds.length)) && html`<li><span class="thumb is-coming"><span class="dot ${phase === "waiting" ? "" : "is-busy"}"></span></span></li>`}
    </ol>`;
}

/** The score that decides, where there is one. */
function scored(job, round) {
  const [scorer] = scorersOf(job);
  const value = scorer ? valueOf(round, scorer) : null;
  return value === null ? "" : `, ${SCORERS[scorer].name} ${scoreWords(scorer, value)}`;
}

function show(trajectory, round) {
  const element = document.querySelector(`#round-${trajectory.index}-${round.index}`);
  const behavior = matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth";
  element.scrollIntoView({ block: "start", inline: "nearest", behavior });
  element.focus({ preventScroll: true });
}
