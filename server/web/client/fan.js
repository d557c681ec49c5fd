// The candidates of a round beside each other: the one that went on is marked, and any can be looked at and gone on from.

import { html, Icon } from "./dom.js";
import { inWords, pictureName } from "./job.js";
import { scorersOf, scoreWords, valueOf } from "./judge.js";

/** The row. `shown` is the candidate in the frame above, `onShow` is given another; `wanted` places are kept. */
export function Fan({ job, index, round, wanted, shown, onShow }) {
  const there = round?.candidates ?? [];
  const coming = Math.max(0, wanted - there.length);
  if (there.length + coming < 2) return null;
  return html`
    <ol class="fan" aria-label=${`Candidates of ${inWords(pictureName(job, index))}`}>
      ${there.map((picture, i) => html`<li key=${i}><${Candidate} job=${job} picture=${picture} number=${i + 1}
        isChosen=${i === round.chosen} isShown=${i === shown} onShow=${() => onShow(i)} /></li>`)}
      ${Array.from({ length: coming }, (_, i) => html`<li key=${there.length + i}>
        <span class="candidate is-coming"><span class="thumb is-coming"><span class="dot is-busy"></span></span><span class="hint">${there.length + i + 1}</span></span></li>`)}
    </ol>`;
}

function Candidate({ job, picture, number, isChosen, isShown, onShow }) {
  const [scorer] = scorersOf(job);
  const value = valueOf(picture, scorer);
  return html`
    <button type="button" class="candidate" aria-pressed=${isShown} onClick=${onShow}
      aria-label=${`Candidate ${number}${value === null ? "" : `, ${scoreWords(scorer, value)}`}${isChosen ? ", went on" : ""}`}>
      <span class="thumb"><img src=${picture.image.url} alt="" width="56" height="56" />
        ${isChosen && html`<span class="mark is-good"><${Icon} name="check" /></span>`}</span>
      <span>${value === null ? number : scoreWords(scorer, value)}</span>
    </button>`;
}
