// The request of a job as something to paste elsewhere. Pure.

const OF_OPENAI = ["model", "n", "size", "output_format", "output_compression"]; // all else is ours, and goes into r3

/** As a shell command. `origin` is where this page came from, `isKeyed` whether a key is asked for. */
export function asCurl(body, origin, isKeyed, kind = "generate") {
  const quoted = JSON.stringify(body, null, 2).replaceAll("'", "'\\''");
  const key = isKeyed ? ` \\\n  -H "Authorization: Bearer $R3_API_KEY"` : "";
  return `curl ${origin}/${kind} \\\n  -H 'Content-Type: application/json'${key} \\\n  -d '${quoted}'`;
}

/** As a Python program with r3client, which reads a key from R3_API_KEY. */
export function asPython({ prompt, ...settings }, origin) {
  return `from r3client import Client

with Client("${origin}") as client:
    job = client.generate(
        ${literal(prompt)},
${keywords(settings)}    )
    for trajectory in job.trajectories:
        trajectory.image.save(f"{trajectory.image.id}.{trajectory.image.format}")
        print(trajectory.stop_reason, trajectory.image.id)
`;
}

/** A request for one of the other kinds of job, as a Python program with r3client. */
export function asTaskPython({ image, ...settings }, origin, _isKeyed, kind) {
  const given = image === undefined ? {} : { [kind === "score" ? "images" : "image"]: image };
  return `from r3client import Client

with Client("${origin}") as client:
    print(
        client.${kind}(
${keywords({ ...given, ...settings }, "            ")}        )
    )
`;
}

/** As a Python program with the `openai` client. */
export function asOpenAI({ prompt, ...settings }, origin, isKeyed) {
  const plain = Object.fromEntries(Object.entries(settings).filter(([name]) => OF_OPENAI.includes(name)));
  const r3 = Object.fromEntries(Object.entries(settings).filter(([name]) => !OF_OPENAI.includes(name)));
  const extra = Object.keys(r3).length ? { extra_body: { r3 } } : {};
  const key = isKeyed ? `os.environ["R3_API_KEY"]` : `"none"`;
  return `import base64
${isKeyed ? "import os\n" : ""}
from openai import OpenAI

client = OpenAI(base_url="${origin}/v1", api_key=${key})
answer = client.images.generate(
    prompt=${literal(prompt)},
${keywords({ ...plain, ...extra }, "    ")})
for number, image in enumerate(answer.data):
    with open(f"picture-{number}.${plain.output_format ?? "png"}", "wb") as file:
        file.write(base64.b64decode(image.b64_json))
`;
}

/** Arguments by name, a line each. */
const keywords = (values, indent = "        ") =>
  Object.entries(values)
    .map(([name, value]) => `${indent}${name}=${literal(value, indent)},\n`)
    .join("");

/** A JSON value as Python writes it. */
function literal(value, indent = "") {
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (typeof value !== "object") return JSON.stringify(value);
  const deeper = `${indent}    `;
  if (Array.isArray(value)) return `[${value.map((v) => literal(v, deeper)).join(", ")}]`;
  const parts = Object.entries(value).map(([k, v]) => `${deeper}${JSON.stringify(k)}: ${literal(v, deeper)},`);
  return parts.length ? `{\n${parts.join("\n")}\n${indent}}` : "{}";
}
