// The scores of a trajectory by round: a point for each picture, a line from each picture to those made of it.

import { html, useState, useWidth } from "./dom.js";
import { inWords, pictureName } from "./job.js";
import { pathOf, picturesIn, SCORERS, scorersOf, scoreWords, valueOf } from "./judge.js";

const HEIGHT = 132;
const EDGE = { left: 48, right: 20, top: 8, bottom: 24 };
const EQUAL = 1e-9;

/** The plot, with a choice of the scorer where there are several. */
export function Plot({ job, trajectory }) {
  const scorers = scorersOf(job);
  const [scorer, setScorer] = useState(scorers[0]);
  const [ref, width] = useWidth(320);
  return html`
    <figure class="plot">
      <figcaption>
        <span>${SCORERS[scorer].name} by round <span class="hint">${SCORERS[scorer].says}</span></span>
        ${scorers.length > 1 && html`<fieldset><legend class="unseen">Score</legend><div class="segments">
          ${scorers.map((name) => html`<label key=${name}><input type="radio" name=${`plot-${trajectory.index}`}
            checked=${name === scorer} onChange=${() => setScorer(name)} /><span>${SCORERS[name].name}</span></label>`)}
        </div></fieldset>`}
      </figcaption>
      <div ref=${ref}><${Drawn} job=${job} trajectory=${trajectory} scorer=${scorer} width=${width} /></div>
      <${Legend} job=${job} scorer=${scorer} />
    </figure>`;
}

function Legend({ job, scorer }) {
  const enough = enoughOf(job, scorer);
  const { first = 1, refine = 1 } = job.params.candidates ?? {};
  const goesBack = job.params.on_regression === "backtrack";
  const hasOthers = first > 1 || refine > 1;
  return html`<p class="hint plot-legend">
    ${(hasOthers || goesBack) && html`<span><${Dot} kind="is-way" />leads to the result</span>`}
    ${goesBack && html`<span><${Dot} kind="is-chosen" />left again</span>`}
    ${hasOthers && html`<span><${Dot} />not chosen</span>`}
    ${enough !== null && html`<span><svg width="26" height="12" aria-hidden="true"><line class="plot-enough" x1="0" x2="22" y1="6" y2="6" /></svg>enough from ${scoreWords(scorer, enough)}</span>`}
  </p>`;
}

function Dot({ kind = "" }) {
  return html`<svg width="14" height="12" aria-hidden="true"><circle class=${kind} cx="6" cy="6" r=${kind ? 5 : 3.5} /></svg>`;
}

function Drawn({ job, trajectory, scorer, width }) {
  const rounds = Math.max(1, job.params.max_rounds);
  const points = pointsOf(trajectory, scorer);
  const enough = enoughOf(job, scorer);
  const [low, high] = endsOf(scorer, points, enough);
  const marked = scorer === "vqa" ? [0, 1] : [...new Set(endsIn(points))];
  const x = (round) => EDGE.left + (round / rounds) * (width - EDGE.left - EDGE.right);
  const y = (value) => HEIGHT - EDGE.bottom - ((value - low) / (high - low)) * (HEIGHT - EDGE.top - EDGE.bottom);
  const path = new Set(pathOf(trajectory));
  const starts = new Map(points.filter((p) => p.isChosen).map((p) => [p.round, p]));
  const onPath = (p) => p.isChosen && path.has(p.round);
  const isWay = (start, p) => onPath(start) && onPath(p);
  const made = points.filter((p) => starts.has(p.from)).map((p) => [starts.get(p.from), p]);
  const lines = made.sort((a, b) => isWay(...a) - isWay(...b)); // what is drawn later lies above
  return html`
    <svg viewBox=${`0 0 ${width} ${HEIGHT}`} width=${width} height=${HEIGHT} role="img"
      aria-label=${plotWords(job, trajectory, scorer, points)}>
      <line class="plot-foot" x1=${EDGE.left - 6} x2=${width - EDGE.right + 6} y1=${HEIGHT - EDGE.bottom} y2=${HEIGHT - EDGE.bottom} />
      ${marked.map((value) => html`<g key=${value}><line x1=${EDGE.left} x2=${width - EDGE.right} y1=${y(value)} y2=${y(value)} />
        <text x=${EDGE.left - 10} y=${y(value) + 4} text-anchor="end">${scoreWords(scorer, value)}</text></g>`)}
      ${Array.from({ length: job.params.max_rounds + 1 }, (_, round) => html`<text key=${round} x=${x(round)} y=${HEIGHT - 6} text-anchor="middle">${round || "first"}</text>`)}
      ${enough !== null && html`<line class="plot-enough" x1=${EDGE.left} x2=${width - EDGE.right} y1=${y(enough)} y2=${y(enough)} />`}
      ${lines.map(([start, p]) => html`<line key=${p.key} class=${isWay(start, p) ? "plot-way" : "plot-other"}
        x1=${x(start.round)} y1=${y(start.value)} x2=${x(p.round)} y2=${y(p.value)} />`)}
      ${points.toSorted((a, b) => a.isChosen - b.isChosen).map((p) => html`<circle key=${p.key} class=${onPath(p) ? "is-way" : p.isChosen ? "is-chosen" : ""}
        cx=${x(p.round)} cy=${y(p.value)} r=${p.isChosen ? 5 : 3.5} />`)}
    </svg>`;
}

/** { key, round, value, from, isChosen } of every picture that has that score. */
function pointsOf(trajectory, scorer) {
  return trajectory.rounds.flatMap((round) =>
    picturesIn(round).map((picture, i) => ({
      key: `${round.index}-${i}`,
      round: round.index,
      value: valueOf(picture, scorer),
      from: round.from,
      isChosen: !round.candidates.length || i === round.chosen,
    })),
  ).filter(({ value }) => value !== null);
}

/** From which score on the loop is to stop, where there is such a rule. */
function enoughOf({ params }, scorer) {
  const rule = params.early_stop.score;
  return rule?.scorer === scorer ? (rule.at_least ?? null) : null;
}

const endsIn = (points) => (points.length ? [Math.min(...points.map((p) => p.value)), Math.max(...points.map((p) => p.value))] : []);

function endsOf(scorer, points, enough) {
  const values = [...points.map((p) => p.value), ...(enough === null ? [] : [enough])];
  if (scorer === "vqa") return [Math.min(0, ...values), Math.max(1, ...values)];
  if (!values.length) return [0, 1];
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const air = high - low < EQUAL ? Math.max(Math.abs(high), 1) / 2 : (high - low) / 10;
  return [low - air, high + air];
}

/** What the plot shows, in words. */
export function plotWords(job, trajectory, scorer, points = pointsOf(trajectory, scorer)) {
  const told = trajectory.rounds.flatMap((round) => {
    const own = points.filter((p) => p.round === round.index);
    const it = own.find((p) => p.isChosen);
    if (!own.length) return [];
    const name = pictureName(job, round.index);
    const values = own.map((p) => scoreWords(scorer, p.value)).join(", ");
    const back = round.index > 0 && round.from !== round.index - 1 ? `, made of ${inWords(pictureName(job, round.from))}` : "";
    if (own.length === 1) return [`${name}${back}: ${values}`];
    return [`${name}${back}: candidates ${values}${it ? `, of which ${scoreWords(scorer, it.value)} went on` : ""}`];
  });
  return `${SCORERS[scorer].name} by round. ${told.length ? `${told.join("; ")}.` : "Nothing is scored yet."}`;
}
