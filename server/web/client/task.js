// A job that is not the whole loop: pictures that are scored, a review, a description, or a picture's way through words
// and back.

import { html, useWidth } from "./dom.js";
import { hasEnded, partsOf } from "./job.js";
import { picturesIn, scorersOf } from "./judge.js";
import { taskPhase } from "./kinds.js";
import { Frame } from "./picture.js";
import { Scores } from "./scores.js";
import { verdictOf } from "./words.js";

const WIDE = 620;

/** It, whatever its kind. `tools` as in trajectory.js. */
export function Task({ job, size, tools }) {
  const [ref, width] = useWidth(Math.min(innerWidth - 32, 800));
  const [task] = job.trajectories;
  const place = { job, task, size, tools, width, phase: taskPhase(job) };
  const View = { roundtrip: RoundTrip, score: Scored, reflect: Reviewed, describe: Described }[job.kind];
  return html`<section class="task ${width >= WIDE ? "is-wide" : ""}" ref=${ref} aria-label=${NAMES[job.kind]}><${View} ...${place} /></section>`;
}

const NAMES = { roundtrip: "The round trip", score: "The pictures", reflect: "The review", describe: "The description" };

function RoundTrip({ job, task, size, tools, width, phase }) {
  const [source, made] = task.rounds;
  const available = width >= WIDE ? (width - 32) / 3 : width;
  return html`
    <ol class="trip">
      <li><h2>The picture</h2>
        <${Frame} size=${size} available=${available} image=${source?.image} drawing=${source ? null : task.drawing}
          isWaiting=${phase !== "drawing"} alt=${job.prompt || "The picture"} />
        ${source && tools?.({ trajectory: task, round: source })}</li>
      <li><h2>What the model sees</h2><${Description} task=${task} isWriting=${phase === "looking"} /></li>
      <li><h2>From the words alone</h2>
        <${Frame} size=${size} available=${available} image=${made?.image} preview=${made?.preview} drawing=${source ? task.drawing : null}
          isWaiting=${phase !== "drawing" || !source} alt=${`Drawn from the description: ${task.description}`} />
        ${made && tools?.({ trajectory: task, round: made })}</li>
    </ol>
    ${task.similarities && html`<${Similarities} of=${task.similarities} />`}`;
}

function Description({ task, isWriting }) {
  return html`<p class="thought described ${isWriting ? "is-writing" : ""}">${task.description}</p>`;
}

// By its name in the answer; any other is a model of the operator's.
const MEASURES = {
  self: ["Own features", "cosine of what the model's own eye makes of either picture"],
  latent: ["Latents", "cosine of the two pictures' latents"],
  psnr: ["PSNR", "in dB, pixel against pixel"],
};

function Similarities({ of }) {
  const names = Object.keys(of).sort((a, b) => (a in MEASURES) - (b in MEASURES));
  const others = names.filter((name) => !(name in MEASURES));
  return html`
    <section class="similarities">
      <h2>How alike they are</h2>
      <dl class="scores">
        ${names.map((name) => html`<div key=${name} title=${MEASURES[name]?.[1] ?? "cosine of that model's features"}>
          <dt>${MEASURES[name]?.[0] ?? name}</dt><dd>${of[name].toFixed(name === "psnr" ? 1 : 3).replace("-", "−")}${name === "psnr" ? " dB" : ""}</dd></div>`)}
      </dl>
      <p class="hint">Own features, latents and PSNR are proxies: they come from this model and from pixels, and cannot be compared
        with published tables.${others.length > 0 && ` For ${others.join(", ")}: the cosine of that model's features.`}</p>
    </section>`;
}

function Scored({ job, task, size, tools, width }) {
  const [round] = task.rounds;
  const pictures = round ? picturesIn(round) : [];
  const available = width >= WIDE ? (width - 24) / 2 : width;
  return html`
    <ol class="scored">
      ${pictures.map((picture, i) => html`<li key=${i}>
        <h2>${pictures.length > 1 ? `Picture ${i + 1}` : "The picture"}</h2>
        <${Frame} size=${picture.image ?? size} available=${Math.min(available, 384)} image=${picture.image} alt=${`Picture ${i + 1}`} />
        ${scorersOf(job).length > 0 && html`<${Scores} job=${job} trajectory=${{ rounds: [] }} round=${{ index: 0, ...picture }} />`}
        ${picture.said && html`<${Review} said=${picture.said} />`}
        ${tools?.({ trajectory: task, round: { ...round, ...picture } })}
      </li>`)}
    </ol>`;
}

function Reviewed(place) {
  return html`<${Beside} ...${place}>${place.task.rounds[0]?.said
    ? html`<${Review} said=${place.task.rounds[0].said} />`
    : html`<p class="thought ${hasEnded(place.job) ? "" : "is-writing"}"></p>`}<//>`;
}

function Review({ said }) {
  const { thought, instruction } = partsOf(said);
  const isWriting = said.verdict === null;
  const { label, kind } = verdictOf(said, isWriting);
  return html`<span class="chip is-${kind}">${label}</span><p class="thought ${isWriting ? "is-writing" : ""}">${thought}</p>
    ${instruction && html`<p class="instruction">${instruction}</p>`}`;
}

function Described(place) {
  return html`<${Beside} ...${place}><${Description} task=${place.task} isWriting=${place.phase === "looking"} /><//>`;
}

/** One picture, and beside it a text. */
function Beside({ job, task, size, tools, width, children }) {
  const [round] = task.rounds;
  return html`
    <div class="round-card">
      <${Frame} size=${size} available=${width >= WIDE ? width * 0.5 : width} image=${round?.image} isWaiting=${true} alt=${job.prompt || "The picture"} />
      <div class="round-text">${children}${round && hasEnded(job) && tools?.({ trajectory: task, round })}</div>
    </div>`;
}
