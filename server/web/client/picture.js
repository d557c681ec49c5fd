// A picture in a frame of the size that it will have, so that nothing moves when it comes.
//
// A small picture is shown up to four times as large; a large one is never shown larger than it is.

import { html, useEffect, useRef, useState } from "./dom.js";

const WIDEST = 512;
const LARGEST_FACTOR = 4;
const MOST_TRIES = 20;
const REST_MS = 1000;

/** { width, height } in CSS pixels of a picture in a place that is so wide. */
export function shownSize({ width, height }, available) {
  const room = Math.max(48, Math.floor(Math.min(available, WIDEST)));
  const shown = Math.min(room, width * LARGEST_FACTOR);
  return { width: shown, height: Math.round((shown * height) / width) };
}

/** The width and height that a job's pictures have. */
export function sizeOfJob(job, model) {
  const made = job.trajectories.flatMap((t) => t.rounds).find((r) => r.image)?.image;
  const [width, height] = (job.params.size ?? model?.sizes.default ?? "512x512").split("x").map(Number);
  return made ? { width: made.width, height: made.height } : { width, height };
}

/** The frame, and in it the picture, or what there is of it so far; `isWaiting`: nobody draws it yet. */
export function Frame({ size, available, image, preview, drawing, isWaiting, alt, children }) {
  const shown = shownSize(size, available);
  const style = { width: `${shown.width}px`, height: `${shown.height}px` };
  const classes = `frame ${image ? "" : "is-open"}`;
  return html`
    <figure class=${classes} style=${style}>
      ${image && preview && html`<img class="under" src=${preview.url} alt="" />`}
      ${image && html`<${Finished} key=${image.url} url=${image.url} ...${shown} alt=${alt} />`}
      ${!image && drawing?.preview &&
      html`<img class="preview" src=${drawing.preview.url} width=${shown.width} height=${shown.height} alt="" />`}
      ${!image && !isWaiting && html`<${Steps} drawing=${drawing} />`}
      ${children}
    </figure>`;
}

/** A finished picture, asked for again where it did not come: the connection may have been lost just then. */
function Finished({ url, width, height, alt }) {
  const [tries, setTries] = useState(1);
  const timer = useRef(null);
  useEffect(() => () => clearTimeout(timer.current), []);
  const again = () => {
    if (tries < MOST_TRIES) timer.current = setTimeout(() => setTries(tries + 1), REST_MS * tries);
  };
  return html`<img key=${tries} src=${url} width=${width} height=${height} alt=${alt} decoding="async" onError=${again} />`;
}

function Steps({ drawing }) {
  const words = drawing ? `Step ${drawing.step} of ${drawing.steps}` : "Starting to draw";
  return html`
    <div class="steps">
      <progress max=${drawing?.steps ?? 1} value=${drawing?.step ?? 0} aria-label="Steps of this picture"></progress>
      <span>${words}</span>
    </div>`;
}
