// What can be done with a whole job: compare, take it away, ask for it again, share it.

import { asProblem, call, linkToken, problemOf, unreachable } from "./api.js";
import { Compare } from "./compare.js";
import { CopyButton, Dialog, html, Icon, useState } from "./dom.js";
import { picturesOf } from "./job.js";
import { ProblemNote } from "./notes.js";
import { sizeOfJob } from "./picture.js";
import { Share } from "./share.js";
import { repeatOf } from "./settings.js";
import { asCurl, asOpenAI, asPython, asTaskPython } from "./snippets.js";
import { zip } from "./zip.js";

/** The buttons, and the dialog that one of them has opened. */
export function JobTools({ job, model, isKeyed, onReuse }) {
  const [open, setOpen] = useState(null);
  const [problem, setProblem] = useState(null);
  const pictures = picturesOf(job);
  const close = () => setOpen(null);
  const isReader = linkToken() !== null;
  const isWhole = job.kind === "generate";
  const hasSeveral = !["describe", "reflect"].includes(job.kind);
  const takeAll = async () => {
    setProblem(null);
    try {
      save(await archiveOf(job), `${job.id}.zip`);
    } catch (error) {
      setProblem(asProblem(error));
    }
  };
  return html`
    <div class="buttons tools">
      ${hasSeveral && html`<button type="button" disabled=${pictures.length < 2} onClick=${() => setOpen("compare")}><${Icon} name="compare" /> Compare</button>`}
      <button type="button" disabled=${!pictures.length} onClick=${takeAll}><${Icon} name="download" /> <span><span class="short">Download</span><span class="long"> all</span></span></button>
      ${model && !isReader && isWhole && html`<button type="button" onClick=${() => onReuse(job)}><${Icon} name="settings" /> <span><span class="short">Reuse</span><span class="long"> settings</span></span></button>`}
      ${model && html`<button type="button" onClick=${() => setOpen("copy")}><${Icon} name="code" /> <span><span class="long">Copy as </span><span class="short">code</span></span></button>`}
      ${!isReader && html`<button type="button" onClick=${() => setOpen("share")}><${Icon} name="share" /> Share</button>`}
    </div>
    ${problem && html`<${ProblemNote} problem=${problem} onClose=${() => setProblem(null)} />`}
    ${open === "compare" && html`<${Compare} job=${job} size=${sizeOfJob(job, model)} onClose=${close} />`}
    ${open === "copy" && html`<${CopyAs} job=${job} model=${model} isKeyed=${isKeyed} onClose=${close} />`}
    ${open === "share" && html`<${Share} job=${job} onClose=${close} />`}`;
}

function CopyAs({ job, model, isKeyed, onClose }) {
  const body = repeatOf(job, model);
  const whole = [["Python", asPython], ["openai", asOpenAI]];
  const ways = [["curl", asCurl], ...(job.kind === "generate" ? whole : [["Python", asTaskPython]])];
  const texts = ways.map(([n, write]) => [n, write(body, location.origin, isKeyed, job.kind)]);
  const [name, setName] = useState("curl");
  const [, text] = texts.find(([n]) => n === name);
  return html`
    <${Dialog} title="The same request as code" onClose=${onClose}>
      <fieldset class="field"><legend class="unseen">Language</legend><div class="segments">
        ${texts.map(([n]) => html`<label key=${n}><input type="radio" name="language" checked=${n === name} onChange=${() => setName(n)} /><span>${n}</span></label>`)}
      </div></fieldset>
      <pre class="code" tabindex="0" aria-label=${`The request as ${name}`}>${text}</pre>
      <div class="buttons"><${CopyButton} text=${text} /></div>
    <//>`;
}

/** Every picture, and what is known of them, in one file. Throws Problem. */
async function archiveOf(job) {
  const json = await call(`/jobs/${job.id}`);
  const files = picturesOf(job).map(async ({ key, round }) => {
    const answer = await fetch(round.image.url).catch(() => {
      throw unreachable();
    });
    if (!answer.ok) throw await problemOf(answer);
    const [trajectory, index, candidate] = key.split("-");
    const which = candidate === undefined ? "" : `-candidate-${candidate}`;
    const name = `trajectory-${trajectory}-round-${index}${which}.${round.image.format}`;
    return { name, bytes: new Uint8Array(await answer.arrayBuffer()) };
  });
  const bare = JSON.stringify(json, (key, value) => (key === "links" ? undefined : key === "url" ? value.split("?")[0] : value), 2);
  return zip([...(await Promise.all(files)), { name: "job.json", bytes: new TextEncoder().encode(bare) }]);
}

function save(blob, name) {
  const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
