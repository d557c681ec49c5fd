// What was scored of a picture: the values, and the prompt's words, shaded by how much likelier the picture makes them.

import { html, Icon, useState } from "./dom.js";
import { gainOf, scoreOf, SCORERS, scorersOf, scoreWords, valueOf, wordsOf } from "./judge.js";

const LEAST_TOLD = 3;
const HALF = 1.5; // a lift of so much is shaded half as strongly as can be,
const STRONGEST = 42; // which is so many per cent of the colour: the words stay readable on it
const NOTHING = 0.05;

/** All of it, with its room kept until it is there. */
export function Scores({ job, trajectory, round }) {
  const scorers = scorersOf(job);
  const tellsWords = scorers.includes("lift") || scorers.includes("gvu");
  return html`
    <dl class="scores">
      ${scorers.map((scorer) => html`<${Value} key=${scorer} scorer=${scorer} picture=${round}
        gain=${scorer === scorers[0] ? gainOf(trajectory, round, scorer) : null} />`)}
    </dl>
    ${tellsWords && html`<${Words} prompt=${job.prompt} words=${wordsOf(round)} />`}`;
}

function Value({ scorer, picture, gain }) {
  const isThere = scoreOf(picture, scorer) !== undefined;
  const value = valueOf(picture, scorer);
  return html`<div title=${`${SCORERS[scorer].name}: ${SCORERS[scorer].says}`}>
    <dt>${SCORERS[scorer].name}</dt>
    <dd>${isThere ? scoreWords(scorer, value) : "…"}${gain !== null && html`<${Gain} gain=${gain} words=${scoreWords(scorer, Math.abs(gain))} />`}</dd>
  </div>`;
}

/** How it stands to the best round before. */
function Gain({ gain, words }) {
  if (Number(words) === 0) return html`<span class="gain">as the best before</span>`;
  const hasFallen = gain < 0;
  return html`<span class="gain ${hasFallen ? "is-down" : "is-up"}"><${Icon} name=${hasFallen ? "down" : "up"} />${words}
    <span class="unseen"> ${hasFallen ? "lower" : "higher"} than the best before</span></span>`;
}

/** The prompt's words. Arrow keys go from one to the next; the number of the one that is looked at stands below. */
export function Words({ prompt, words }) {
  const [at, setAt] = useState(0);
  const [looked, setLooked] = useState(null);
  const shown = words ?? prompt.split(/\s+/).filter(Boolean).map((text) => ({ text, lift: null }));
  const move = (event) => {
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: shown.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    event.currentTarget.querySelectorAll(".word")[Math.min(shown.length - 1, Math.max(0, to))].focus();
  };
  const look = (index) => {
    setLooked(index);
    if (index !== null) setAt(index);
  };
  return html`
    <div class="words" role="group" aria-label="The prompt's words, and how much likelier the picture makes each"
      onKeyDown=${move} onMouseLeave=${() => setLooked(null)} onfocusout=${() => setLooked(null)}>
      ${shown.map((word, i) => html`<${Word} key=${i} ...${word} isAt=${i === Math.min(at, shown.length - 1)}
        onLook=${() => look(i)} onHover=${() => setLooked(i)} /> `)}
    </div>
    <p class="words-told hint">${told(words, looked)}</p>`;
}

function Word({ text, lift, isAt, onLook, onHover }) {
  if (lift === null) return html`<span class="word">${text}</span>`;
  const kind = lift < -NOTHING ? "is-less" : lift > NOTHING ? "is-more" : "";
  const share = `${Math.round((STRONGEST * Math.abs(lift)) / (Math.abs(lift) + HALF))}%`;
  return html`<span class="word ${kind}" style=${{ "--share": share }} tabindex=${isAt ? 0 : -1}
    onFocus=${onLook} onMouseEnter=${onHover}>${text}<span class="unseen">, lift ${scoreWords("lift", lift)}; </span></span>`;
}

/** The number of the word that is looked at, else which words the picture shows least. */
function told(words, looked) {
  if (!words) return "The words are shaded once the picture is scored.";
  const word = words[looked];
  if (word) return html`<b>${word.text}</b> ${scoreWords("lift", word.lift)}: ${meaning(word.lift)}`;
  const least = words.filter(({ lift }) => lift < -NOTHING).sort((a, b) => a.lift - b.lift).slice(0, LEAST_TOLD);
  if (!least.length) return "The picture makes no word less likely.";
  return html`Least shown: ${least.map(({ text, lift }, i) => html`${i > 0 && ", "}<b>${text}</b> ${scoreWords("lift", lift)}`)}`;
}

function meaning(lift) {
  if (Math.abs(lift) <= NOTHING) return "the picture changes nothing";
  return lift < 0 ? "less likely with the picture than without" : "likelier with the picture than without";
}
