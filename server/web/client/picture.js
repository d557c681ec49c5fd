// A picture in a frame of the size that it will have, so that nothing moves when it comes.
//
// A small picture is shown larger by a whole factor, its pixels crisp; a large one is never shown larger than it is.

import { html } from "./dom.js";

const WIDEST = 512;
const LARGEST_FACTOR = 4;

/** { width, height, isCrisp } in CSS pixels of a picture in a place that is so wide. */
export function shownSize({ width, height }, available) {
  const room = Math.max(48, Math.min(available, WIDEST));
  const factor = Math.min(LARGEST_FACTOR, Math.floor(room / width));
  const shown = factor >= 1 ? width * factor : room;
  return { width: shown, height: Math.round((shown * height) / width), isCrisp: factor > 1 };
}

/** The width and height that a job's pictures have. */
export function sizeOfJob(job, model) {
  const made = job.trajectories.flatMap((t) => t.rounds).find((r) => r.image)?.image;
  const [width, height] = (job.params.size ?? model?.sizes.default ?? "512x512").split("x").map(Number);
  return made ? { width: made.width, height: made.height } : { width, height };
}

/** The frame, and in it the picture, or what there is of it so far. */
export function Frame({ size, available, image, drawing, isWaiting, alt, children }) {
  const shown = shownSize(size, available);
  const style = { width: `${shown.width}px`, height: `${shown.height}px` };
  const classes = `frame ${shown.isCrisp ? "is-crisp" : ""} ${image ? "" : "is-open"}`;
  return html`
    <figure class=${classes} style=${style}>
      ${image && html`<img src=${image.url} width=${shown.width} height=${shown.height} alt=${alt} decoding="async" />`}
      ${!image && drawing?.preview &&
      html`<img class="preview" src=${drawing.preview.url} width=${shown.width} height=${shown.height} alt="" />`}
      ${!image && !isWaiting && html`<${Steps} drawing=${drawing} />`}
      ${children}
    </figure>`;
}

function Steps({ drawing }) {
  const words = drawing ? `Step ${drawing.step} of ${drawing.steps}` : "Starting to draw";
  return html`
    <div class="steps">
      <progress max=${drawing?.steps ?? 1} value=${drawing?.step ?? 0} aria-label="Steps of this picture"></progress>
      <span>${words}</span>
    </div>`;
}
